//! Files of variables: `.env`, and a service's `env_file`.
//!
//! Owns their format: `NAME=value` lines, `export` before them, `#` comments, single quotes
//! (as it stands, over several lines too), double quotes (with `\n` and variables) and bare
//! values (with variables, up to a ` #`).

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{Invalid, Place, Result};
use crate::variables::Variables;

const MAX_BYTES: usize = 1 << 20;

/// The names in their order, each with its value; `None` for a name that stands alone, which
/// is the environment's own. What `outer` has comes before what the file said before.
pub fn parse(
    file: &str,
    text: &str,
    outer: &BTreeMap<String, String>,
) -> Result<Vec<(String, Option<String>)>> {
    if text.len() > MAX_BYTES {
        let reason = format!("it is {} bytes long, allowed are {MAX_BYTES}", text.len());
        return Err(Invalid::file(file, reason));
    }
    let file: Arc<str> = file.into();
    let mut known: Vec<(String, Option<String>)> = Vec::new();
    let mut rest = text;
    let mut line = 0;
    while !rest.is_empty() {
        let (first, after) = rest.split_once('\n').unwrap_or((rest, ""));
        line += 1;
        let place = Place { file: Arc::clone(&file), line };
        rest = after;
        let first = first.trim_start_matches('\u{feff}').trim();
        let first = first.strip_prefix("export ").map_or(first, str::trim_start);
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (name, value) = match first.split_once('=') {
            Some((name, value)) => (name.trim_end(), Some(value.trim_start())),
            None => (first, None),
        };
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '"' || c == '\'') {
            let reason = format!("{name:?} is no variable's name: NAME=value is expected");
            return Err(Invalid::new(&place, "", reason));
        }
        let wrong = |reason: String| Invalid::new(&place, name, reason);
        let value = match value {
            None => None,
            Some(value) => {
                let (kind, raw, lines) = taken(value, rest).map_err(&wrong)?;
                for _ in 0..lines {
                    rest = rest.split_once('\n').map_or("", |(_, after)| after);
                }
                line += lines;
                Some(meaning(kind, &raw, &known, outer).map_err(&wrong)?)
            }
        };
        known.push((name.to_owned(), value));
    }
    Ok(known)
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Bare,
    Single,
    Double,
}

/// A value's text without its quotes, and how many further lines it took.
fn taken(value: &str, rest: &str) -> Result<(Kind, String, usize), String> {
    let (quote, kind) = match value.chars().next() {
        Some('\'') => ('\'', Kind::Single),
        Some('"') => ('"', Kind::Double),
        _ => {
            let bare = if value.starts_with('#') { "" } else { value };
            let end = bare.find(" #").unwrap_or(bare.len());
            return Ok((Kind::Bare, bare[..end].trim_end().to_owned(), 0));
        }
    };
    let whole = if rest.is_empty() { value.to_owned() } else { format!("{value}\n{rest}") };
    let mut escaped = false;
    for (at, c) in whole.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' && kind == Kind::Double {
            escaped = true;
        } else if c == quote {
            let behind = whole[at + 1..].lines().next().unwrap_or_default().trim();
            if !behind.is_empty() && !behind.starts_with('#') {
                return Err(format!("{behind:?} stands behind the closing quote"));
            }
            let text = &whole[1..at];
            return Ok((kind, text.to_owned(), text.matches('\n').count()));
        }
    }
    Err(format!("the closing {quote} is missing"))
}

fn meaning(
    kind: Kind,
    raw: &str,
    known: &[(String, Option<String>)],
    outer: &BTreeMap<String, String>,
) -> Result<String, String> {
    if kind == Kind::Single {
        return Ok(raw.to_owned());
    }
    let before = known.iter().filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
    let mut values: BTreeMap<&str, &str> = before.collect();
    values.extend(outer.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let raw = if kind == Kind::Double { unescaped(raw) } else { raw.to_owned() };
    Variables { values, ..Variables::default() }.replace(&raw)
}

fn unescaped(raw: &str) -> String {
    let mut out = String::new();
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match (c, if c == '\\' { chars.next() } else { None }) {
            ('\\', Some('n')) => out.push('\n'),
            ('\\', Some('r')) => out.push('\r'),
            ('\\', Some('t')) => out.push('\t'),
            ('\\', Some('$')) => out.push_str("$$"),
            ('\\', Some(other @ ('"' | '\\'))) => out.push(other),
            ('\\', Some(other)) => out.extend(['\\', other]),
            (c, _) => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, Option<String>)>> {
        parse(".env", text, &BTreeMap::from([("OUTER".to_owned(), "o".to_owned())]))
    }

    fn value(text: &str) -> String {
        read(text).unwrap().pop().unwrap().1.unwrap()
    }

    #[test]
    fn every_way_to_write_a_value_is_read() {
        assert_eq!(value("A=b"), "b");
        assert_eq!(value("export A = b # why"), "b");
        assert_eq!(value("A=b#c"), "b#c");
        assert_eq!(value("A=# nothing"), "");
        assert_eq!(value("A='$OUTER # \\n'"), "$OUTER # \\n");
        assert_eq!(value(r#"A="x\n\"y\" \$OUTER ${OUTER}" # why"#), "x\n\"y\" $OUTER o");
        assert_eq!(value("A=1\nB=${A}2$OUTER"), "12o");
        assert_eq!(value("A='one\ntwo'"), "one\ntwo");
        assert_eq!(read("A='1\n2'\n# x\nB=3\n").unwrap()[1], ("B".into(), Some("3".into())));
        assert_eq!(read("ALONE\n\n").unwrap(), [("ALONE".into(), None)]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let check = |text, expected: &str| {
            assert_eq!(read(text).unwrap_err().to_string(), expected);
        };
        check("A=1\nB C=2", ".env:2: \"B C\" is no variable's name: NAME=value is expected");
        check("A=1\n\nB=\"x", ".env:3: B: the closing \" is missing");
        check("A='x' y", ".env:1: A: \"y\" stands behind the closing quote");
        check("A=${B:?no}", ".env:1: A: the variable B is not set: no");
    }
}
