//! `--name=value` between an instruction's name and its arguments.
//!
//! Owns their form; which there are, the instruction says by asking for them.

use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct Flags {
    instruction: String,
    values: BTreeMap<String, Option<String>>,
}

/// What only BuildKit has. It is refused by Docker's own sentence, never passed over.
const BUILDKIT: [&str; 7] =
    ["mount", "network", "security", "link", "parents", "exclude", "keep-git-dir"];

impl Flags {
    /// The flags, and what follows them.
    pub fn take<'t>(instruction: &str, mut rest: &'t str) -> Result<(Flags, &'t str), String> {
        let mut values = BTreeMap::new();
        while let Some(after) = rest.strip_prefix("--") {
            let end = after.find(char::is_whitespace).unwrap_or(after.len());
            let flag = &after[..end];
            rest = after[end..].trim_start();
            if flag.is_empty() {
                break;
            }
            let (name, value) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            if BUILDKIT.contains(&name) {
                return Err(format!(
                    "the --{name} option requires BuildKit, which tenantry does not have"
                ));
            }
            if values.insert(name.to_owned(), value).is_some() {
                return Err(format!("duplicate flag specified: {name}"));
            }
        }
        Ok((Flags { instruction: instruction.to_owned(), values }, rest))
    }

    pub fn value(&mut self, name: &str) -> Result<Option<String>, String> {
        match self.values.remove(name) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
            Some(None) => Err(format!("missing a value on flag: {name}")),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whatever nobody asked for is unknown.
    pub fn finish(self) -> Result<(), String> {
        match self.values.keys().next() {
            None => Ok(()),
            Some(name) => Err(format!("unknown flag: --{name} ({})", self.instruction)),
        }
    }
}
