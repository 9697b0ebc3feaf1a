//! The end of a test run: per suite what passed, failed and was skipped, with
//! reasons, and the line that a continuous integration looks for.

use std::process::ExitCode;
use std::time::Duration;

use crate::libtest::{Outcome, Tally};
use crate::repeat::Repeat;

/// One suite's result: a test program on the host or in a virtual machine, or a check.
#[derive(Debug, Clone)]
pub struct Suite {
    pub name: String,
    pub tally: Tally,
    pub time: Duration,
}

impl Suite {
    /// A suite that could not run at all: one skipped entry.
    pub fn skipped(name: &str, why: impl Into<String>) -> Suite {
        let skip = Outcome { test: name.to_owned(), why: why.into() };
        Suite {
            name: name.to_owned(),
            tally: Tally { skipped: vec![skip], ..Tally::default() },
            time: Duration::ZERO,
        }
    }

    /// A check that is one test by itself.
    pub fn check(name: &str, result: Result<(), String>, time: Duration) -> Suite {
        let tally = match result {
            Ok(()) => Tally { passed: 1, ..Tally::default() },
            Err(why) => {
                let fail = Outcome { test: name.to_owned(), why };
                Tally { failed: vec![fail], ..Tally::default() }
            }
        };
        Suite { name: name.to_owned(), tally, time }
    }

    /// This suite after a second run of what failed in it.
    pub fn repeated(self, repeat: &Repeat, second: Suite) -> Suite {
        let time = self.time + second.time;
        Suite { name: self.name, tally: repeat.merge(self.tally, second.tally), time }
    }

    /// One line for a log that is read while the run goes on.
    pub fn line(&self) -> String {
        let verdict = if !self.tally.failed.is_empty() {
            "FAILED"
        } else if !self.tally.unsteady.is_empty() {
            "unsteady"
        } else if self.tally.passed == 0 && !self.tally.skipped.is_empty() {
            "skipped"
        } else {
            "ok"
        };
        let Tally { passed, failed, skipped, .. } = &self.tally;
        format!(
            "{verdict:8} {}: {passed} passed, {} failed, {} skipped ({:.1} s)",
            self.name,
            failed.len(),
            skipped.len(),
            self.time.as_secs_f64()
        )
    }

    fn is_empty(&self) -> bool {
        let Tally { passed, failed, skipped, .. } = &self.tally;
        *passed == 0 && failed.is_empty() && skipped.is_empty()
    }
}

/// The whole report as text; its last line is `N passed, N failed, N skipped`.
pub fn render(suites: &[Suite]) -> String {
    let mut out = String::from("\n==== summary ====\n");
    let width = suites.iter().map(|suite| suite.name.len()).max().unwrap_or(0);
    out += &format!("{:width$}  passed  failed  skipped  seconds\n", "suite");
    for suite in suites.iter().filter(|suite| !suite.is_empty()) {
        let Tally { passed, failed, skipped, .. } = &suite.tally;
        out += &format!(
            "{:width$}  {passed:6}  {:6}  {:7}  {:7.1}\n",
            suite.name,
            failed.len(),
            skipped.len(),
            suite.time.as_secs_f64()
        );
    }
    type Entry = fn(&str, &Outcome) -> String;
    let mut list = |title: &str, pick: fn(&Tally) -> &[Outcome], entry: Entry| {
        let entries: Vec<String> = suites
            .iter()
            .flat_map(|suite| pick(&suite.tally).iter().map(|o| entry(&suite.name, o)))
            .collect();
        if !entries.is_empty() {
            out += &format!("\n{title}:\n{}", entries.concat());
        }
    };
    list("skipped", |tally| &tally.skipped, entry);
    list("UNSTEADY, passed when run once more", |tally| &tally.unsteady, entry);
    list("FAILED", |tally| &tally.failed, failure);
    let (passed, failed, skipped) = totals(suites);
    out += &format!("\n{passed} passed, {failed} failed, {skipped} skipped\n");
    out
}

fn entry(suite: &str, outcome: &Outcome) -> String {
    let Outcome { test, why } = outcome;
    if suite == test {
        format!("  {suite}: {why}\n")
    } else {
        format!("  {suite}: {test}: {why}\n")
    }
}

/// As libtest writes it, for programs that look for that; then where and why.
fn failure(suite: &str, outcome: &Outcome) -> String {
    format!("test {} ... FAILED\n{}", outcome.test, entry(suite, outcome))
}

fn totals(suites: &[Suite]) -> (usize, usize, usize) {
    suites.iter().map(|suite| &suite.tally).fold((0, 0, 0), |(p, f, s), tally| {
        (p + tally.passed, f + tally.failed.len(), s + tally.skipped.len())
    })
}

/// Prints the report; failure if anything failed.
pub fn conclude(suites: &[Suite]) -> ExitCode {
    print!("{}", render(suites));
    if totals(suites).1 == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_what_continuous_integration_looks_for() {
        let suites = [
            Suite::check("rustfmt", Ok(()), Duration::from_secs(1)),
            Suite::check("clippy", Err("exit status: 101".into()), Duration::from_secs(2)),
            Suite::skipped("vm 6.1", "no qemu"),
        ];
        let text = render(&suites);
        assert_eq!(text.lines().last(), Some("1 passed, 1 failed, 1 skipped"));
        assert!(text.contains("  vm 6.1: no qemu\n"), "{text}");
        assert!(text.contains("test clippy ... FAILED\n  clippy: exit status: 101\n"), "{text}");
    }
}
