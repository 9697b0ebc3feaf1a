//! Variables in values: `$NAME`, `${NAME}`, and what to take where one is not set.
//!
//! Owns the Compose specification's rules: `:-` and `-` give another value, `:?` and `?` a
//! mistake, `:+` and `+` a value where it is set; with the colon an empty one counts as not
//! set. `$$` is a dollar sign. What another value is may have variables of its own.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::node::{At, Node, Value};

/// Of variables in what other variables are replaced by.
const MAX_DEPTH: usize = 16;

#[derive(Debug, Default)]
pub struct Variables<'a> {
    pub values: BTreeMap<&'a str, &'a str>,
    /// Those that were asked for, are not set, and became nothing.
    pub missing: BTreeSet<String>,
}

impl Variables<'_> {
    /// Replaces the variables of all values below; keys stay.
    pub fn replace_all(&mut self, at: &At<'_>) -> Result<Node> {
        let value = match &at.node.value {
            Value::Null => Value::Null,
            Value::Scalar { text, .. } if !text.contains('$') => at.node.value.clone(),
            Value::Scalar { text, plain } => {
                let text = self.replace(text).map_err(|reason| at.invalid(reason))?;
                Value::Scalar { text, plain: *plain }
            }
            Value::List(_) => {
                let nodes = at.list()?;
                Value::List(nodes.iter().map(|at| self.replace_all(at)).collect::<Result<_>>()?)
            }
            Value::Map(_) => {
                let entry =
                    |(key, at): (&str, At<'_>)| Ok((key.to_owned(), self.replace_all(&at)?));
                Value::Map(at.entries()?.into_iter().map(entry).collect::<Result<_>>()?)
            }
        };
        Ok(Node { value, place: at.node.place.clone(), tag: at.node.tag })
    }

    pub fn replace(&mut self, text: &str) -> Result<String, String> {
        let mut rest = text;
        self.until(&mut rest, None, 0)
    }

    /// Up to `end`, which is taken; or to the end of all.
    fn until(
        &mut self,
        rest: &mut &str,
        end: Option<char>,
        depth: usize,
    ) -> Result<String, String> {
        if depth > MAX_DEPTH {
            return Err(format!("variables nested deeper than {MAX_DEPTH}"));
        }
        let mut out = String::new();
        while let Some(next) = rest.chars().next() {
            *rest = &rest[next.len_utf8()..];
            match next {
                '$' => self.dollar(rest, &mut out, depth)?,
                next if Some(next) == end => return Ok(out),
                next => out.push(next),
            }
        }
        match end {
            None => Ok(out),
            Some(end) => Err(format!("a variable without its {end:?}; $$ is a dollar sign")),
        }
    }

    fn dollar(&mut self, rest: &mut &str, out: &mut String, depth: usize) -> Result<(), String> {
        if let Some(after) = rest.strip_prefix('$') {
            *rest = after;
            out.push('$');
            return Ok(());
        }
        if let Some(after) = rest.strip_prefix('{') {
            *rest = after;
            let name = name(rest).ok_or_else(|| no_name(rest))?;
            out.push_str(&self.braced(name, rest, depth)?);
            return Ok(());
        }
        let name = name(rest).ok_or_else(|| no_name(rest))?;
        out.push_str(&self.plain(name));
        Ok(())
    }

    fn plain(&mut self, name: &str) -> String {
        match self.values.get(name) {
            Some(value) => (*value).to_owned(),
            None => {
                self.missing.insert(name.to_owned());
                String::new()
            }
        }
    }

    /// Behind `${NAME`.
    fn braced(&mut self, name: &str, rest: &mut &str, depth: usize) -> Result<String, String> {
        if let Some(after) = rest.strip_prefix('}') {
            *rest = after;
            return Ok(self.plain(name));
        }
        let (empty_counts, after) = match rest.strip_prefix(':') {
            Some(after) => (false, after),
            None => (true, *rest),
        };
        let how = after.chars().next().filter(|how| "-?+".contains(*how));
        let how = how.ok_or_else(|| {
            format!("${{{name}…: allowed behind a name are }}, :-, -, :?, ?, :+ and +")
        })?;
        *rest = &after[1..];
        let value = self.values.get(name).map(|value| (*value).to_owned());
        let value = value.filter(|value| empty_counts || !value.is_empty());
        // What is not used is read all the same, to find its end, and misses nothing.
        let missing = self.missing.clone();
        let other = self.until(rest, Some('}'), depth + 1)?;
        let is_used = value.is_some() == (how == '+');
        if !is_used {
            self.missing = missing;
        }
        match (how, value) {
            ('-', Some(value)) | ('?', Some(value)) => Ok(value),
            ('-', None) | ('+', Some(_)) => Ok(other),
            ('+', None) => Ok(String::new()),
            _ if other.is_empty() => Err(format!("the variable {name} is not set")),
            _ => Err(format!("the variable {name} is not set: {other}")),
        }
    }
}

/// A name at the start of what is left, which moves behind it.
fn name<'a>(rest: &mut &'a str) -> Option<&'a str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
    let (name, after) = rest.split_at(end);
    let starts_well = name.starts_with(|c: char| !c.is_ascii_digit());
    if !starts_well {
        return None;
    }
    *rest = after;
    Some(name)
}

fn no_name(rest: &str) -> String {
    let shown: String = rest.chars().take(16).collect();
    format!("no variable's name behind the dollar sign at {shown:?}; $$ is a dollar sign")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(text: &str) -> Result<String, String> {
        let values = BTreeMap::from([("A", "a"), ("EMPTY", ""), ("B", "b c")]);
        Variables { values, ..Variables::default() }.replace(text)
    }

    #[test]
    fn every_form_is_replaced_as_the_specification_says() {
        let check =
            |text, expected: &str| assert_eq!(replaced(text).as_deref(), Ok(expected), "{text}");
        check("x", "x");
        check("$A-${A}.${B}", "a-a.b c");
        check("$$A $$", "$A $");
        check("[${UNSET}]", "[]");
        check("${A:-other}${UNSET:-other}${EMPTY:-other}", "aotherother");
        check("${A-other}${UNSET-other}${EMPTY-other}", "aother");
        check("${A:+x}${UNSET:+x}${EMPTY:+x}", "x");
        check("${A+x}${UNSET+x}${EMPTY+x}", "xx");
        check("${UNSET:-${EMPTY:-in ${A}}}", "in a");
        check("${EMPTY?why}", "");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let check = |text, expected: &str| {
            let error = replaced(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("${UNSET:?give me one}", "UNSET is not set: give me one");
        check("${EMPTY:?}", "EMPTY is not set");
        check("$", "$$ is a dollar sign");
        check("${A", "allowed behind a name");
        check("${A:-x", "without its '}'");
        check("$1", "no variable's name");
        check("${A!x}", "allowed behind a name");
        check(&"${U:-".repeat(40), "nested deeper");
    }

    #[test]
    fn only_what_is_used_can_be_missing() {
        let mut variables =
            Variables { values: BTreeMap::from([("A", "a")]), ..Variables::default() };
        variables.replace("${A:-$UNUSED}").unwrap();
        assert!(variables.missing.is_empty());
        variables.replace("$A $USED").unwrap();
        assert_eq!(variables.missing, BTreeSet::from(["USED".to_owned()]));
    }

    proptest::proptest! {
        #[test]
        fn no_text_breaks_it(text in "[a${}:?+-]{0,40}") {
            let _ = replaced(&text);
        }
    }
}
