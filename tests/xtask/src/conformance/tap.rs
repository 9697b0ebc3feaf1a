//! What the suite's files say, in the Test Anything Protocol. Pure.

use std::collections::BTreeMap;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        })
    }
}

/// By file and name.
#[derive(Debug, Default)]
pub struct Verdicts(BTreeMap<String, Outcome>);

impl Verdicts {
    /// A file that ended early has failed in all that it had announced and not told.
    pub fn add(&mut self, file: &str, text: &str) {
        let mut announced = 0;
        let mut told = 0;
        for line in text.lines() {
            if let Some(count) = line.strip_prefix("1..") {
                announced = count.trim().parse().unwrap_or(0);
            } else if let Some((name, outcome)) = parse(line) {
                told += 1;
                self.0.insert(format!("{file} {name}"), outcome);
            }
        }
        // One that cannot even say what it has.
        for missing in told..announced.max(usize::from(announced == 0)) {
            self.0.insert(format!("{file} (not told: {})", missing + 1), Outcome::Failed);
        }
    }

    /// Passed, failed, skipped.
    pub fn counts(&self) -> (usize, usize, usize) {
        let count = |wanted| self.0.values().filter(|outcome| **outcome == wanted).count();
        (count(Outcome::Passed), count(Outcome::Failed), count(Outcome::Skipped))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&String, &Outcome)> {
        self.0.iter()
    }

    pub fn get(&self, test: &str) -> Option<Outcome> {
        self.0.get(test).copied()
    }
}

/// `ok 3 - name`, `ok 3 - name #SKIP`, `not ok 3 - name`.
fn parse(line: &str) -> Option<(&str, Outcome)> {
    let (rest, outcome) = match line.strip_prefix("not ok ") {
        Some(rest) => (rest, Outcome::Failed),
        None => (line.strip_prefix("ok ")?, Outcome::Passed),
    };
    let (number, name) = rest.split_once(" - ")?;
    number.parse::<usize>().ok()?;
    Some(match name.split_once('#') {
        Some((name, _)) => (name.trim(), Outcome::Skipped),
        None => (name.trim(), outcome),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_test_and_its_outcome() {
        let check = |line: &str, expected| assert_eq!(parse(line), expected, "{line}");
        check("ok 1 - no-caps", Some(("no-caps", Outcome::Passed)));
        check("not ok 12 - unknown-caps", Some(("unknown-caps", Outcome::Failed)));
        check("ok 4 - sd-notify #SKIP", Some(("sd-notify", Outcome::Skipped)));
        check("{'prestart': [{'path': '/bin/sh'}]}", None);
        check("ok then - what", None);
        check("1..12", None);
    }

    #[test]
    fn a_file_that_ends_early_has_failed_in_the_rest() {
        let mut verdicts = Verdicts::default();
        verdicts.add("a", "1..3\nok 1 - x\nok 2 - y #SKIP\n");
        verdicts.add("b", "");
        assert_eq!(verdicts.counts(), (1, 2, 1));
        assert_eq!(verdicts.get("a x"), Some(Outcome::Passed));
        assert_eq!(verdicts.get("a (not told: 3)"), Some(Outcome::Failed));
    }
}
