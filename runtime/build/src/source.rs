//! A Dockerfile's text as logical lines: directives, comments, continuations, heredocs.
//!
//! Owns what a line is, as BuildKit's parser has it, and no instruction's meaning. Pure.
//! Called by [`crate::Dockerfile::parse`].

use crate::error::{Error, Result};
use crate::instruction::Heredoc;

/// One instruction's text: continuations joined, comments inside left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Line {
    /// The first line of the file that it stands on, from 1.
    pub number: usize,
    pub text: String,
    /// What follows it for each `<<WORD` in it, in their order.
    pub heredocs: Vec<Heredoc>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub escape: char,
    pub lines: Vec<Line>,
}

/// Only these take heredocs; `<<` in another instruction is text.
const TAKE_HEREDOCS: [&str; 3] = ["RUN", "COPY", "ADD"];

pub(crate) fn split(text: &str) -> Result<Source> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let raw: Vec<&str> =
        text.split('\n').map(|line| line.strip_suffix('\r').unwrap_or(line)).collect();
    let escape = directives(&raw)?;
    let mut lines = Vec::new();
    let mut next = 0;
    while next < raw.len() {
        let number = next + 1;
        let first = raw[next];
        next += 1;
        if is_comment(first) || first.trim().is_empty() {
            continue;
        }
        let (mut text, mut more) = continued(first.trim_start(), escape);
        while more && next < raw.len() {
            let line = raw[next];
            next += 1;
            // Comments and empty lines inside an instruction do not end it.
            if is_comment(line) || line.trim().is_empty() {
                continue;
            }
            let (part, goes_on) = continued(line, escape);
            text.push_str(&part);
            more = goes_on;
        }
        let text = text.trim_end().to_owned();
        let mut heredocs = Vec::new();
        for (name, quoted, chomp) in openings(&text) {
            let mut content = String::new();
            loop {
                let Some(line) = raw.get(next) else {
                    return Err(Error::at(number, "unterminated heredoc"));
                };
                next += 1;
                let line = if chomp { line.trim_start_matches('\t') } else { line };
                if line == name {
                    break;
                }
                content.push_str(line);
                content.push('\n');
            }
            heredocs.push(Heredoc { name, content, expand: !quoted });
        }
        lines.push(Line { number, text, heredocs });
    }
    Ok(Source { escape, lines })
}

/// `# escape=` at the top; directives end at the first line that is none.
fn directives(raw: &[&str]) -> Result<char> {
    let mut escape = None;
    let mut seen: Vec<String> = Vec::new();
    for (index, line) in raw.iter().enumerate() {
        let Some((key, value)) =
            line.trim_start().strip_prefix('#').and_then(|rest| rest.split_once('='))
        else {
            break;
        };
        let (key, value) = (key.trim().to_ascii_lowercase(), value.trim());
        if !matches!(key.as_str(), "escape" | "syntax" | "check") {
            break;
        }
        if seen.contains(&key) {
            let reason = format!("only one {key} parser directive can be used");
            return Err(Error::at(index + 1, reason));
        }
        if key == "escape" {
            escape = match value {
                "\\" => Some('\\'),
                "`" => Some('`'),
                other => {
                    let reason = format!("invalid escape token '{other}' does not match ` or \\");
                    return Err(Error::at(index + 1, reason));
                }
            };
        }
        seen.push(key);
    }
    Ok(escape.unwrap_or('\\'))
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The line without its continuation mark, and whether it had one.
fn continued(line: &str, escape: char) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        // An escaped escape is no mark.
        Some(before) if !before.ends_with(escape) => (before.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

/// Heredocs that a line opens: name, whether quoted, whether tabs are taken off.
fn openings(text: &str) -> Vec<(String, bool, bool)> {
    let mut word = text.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let mut rest = text;
    if word == "ONBUILD" {
        rest = text[word.len()..].trim_start();
        word = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    }
    if !TAKE_HEREDOCS.contains(&word.as_str()) {
        return Vec::new();
    }
    rest[word.len()..].split_whitespace().filter_map(opening).collect()
}

/// `<<EOF`, `<<-EOF`, `<<"EOF"`, `3<<EOF`.
pub(crate) fn opening(word: &str) -> Option<(String, bool, bool)> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (rest, chomp) = match rest.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (rest, false),
    };
    let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''));
    let name = match quote {
        Some(quote) => rest[1..].strip_suffix(quote)?,
        None => rest,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    (!name.is_empty() && name.chars().all(is_name))
        .then(|| (name.to_owned(), quote.is_some(), chomp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(usize, &str)]) {
        let source = split(text).unwrap();
        let found: Vec<_> = source.lines.iter().map(|l| (l.number, l.text.as_str())).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn lines_are_joined_and_comments_inside_left_out() {
        check("FROM a\n\n# note\nRUN b", &[(1, "FROM a"), (4, "RUN b")]);
        check("RUN a \\\n  # why\n\n  && b\nCMD c\n", &[(1, "RUN a   && b"), (5, "CMD c")]);
        check("RUN a \\  \n b", &[(1, "RUN a  b")]);
        check("RUN echo \\\\\nCMD x", &[(1, "RUN echo \\\\"), (2, "CMD x")]);
        check("  RUN a # not a comment", &[(1, "RUN a # not a comment")]);
        check("RUN a \\", &[(1, "RUN a")]);
        check("\u{feff}FROM a\r\nRUN b\r\n", &[(1, "FROM a"), (2, "RUN b")]);
        check("", &[]);
    }

    #[test]
    fn the_escape_directive_counts_at_the_top_alone() {
        check("# escape=`\nRUN a `\n b \\\nCMD c", &[(2, "RUN a  b \\"), (4, "CMD c")]);
        check("# note\n# escape=`\nRUN a `\nCMD c", &[(3, "RUN a `"), (4, "CMD c")]);
        let wrong = split("# escape=x\nFROM a").unwrap_err();
        assert_eq!(wrong, Error::at(1, "invalid escape token 'x' does not match ` or \\"));
        let twice = split("# escape=`\n# escape=`\nFROM a").unwrap_err();
        assert_eq!(twice, Error::at(2, "only one escape parser directive can be used"));
    }

    #[test]
    fn heredocs_belong_to_their_line() {
        let source = split("RUN <<A cat <<-'B'\none\nA\n\ttwo\n\tB\nCMD <<C\n").unwrap();
        let doc = |name: &str, content: &str, expand| Heredoc {
            name: name.into(),
            content: content.into(),
            expand,
        };
        assert_eq!(source.lines[0].heredocs, [doc("A", "one\n", true), doc("B", "two\n", false)]);
        assert_eq!(source.lines[1].text, "CMD <<C");
        assert_eq!(split("FROM a\nRUN <<A\nx\n"), Err(Error::at(2, "unterminated heredoc")));
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic_and_numbers_grow(text in "[A-Z \\\\`#\n<'a-]{0,200}") {
            if let Ok(source) = split(&text) {
                let grows = source.lines.windows(2).all(|two| two[0].number < two[1].number);
                proptest::prop_assert!(grows);
            }
        }
    }
}
