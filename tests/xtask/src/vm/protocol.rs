//! What the guest says over its port: the programs' output, with marker lines
//! between. Pure: lines in, suites out. The other side is `tests/e2e/vm/run-tests`.

use std::time::{Duration, Instant};

use crate::libtest::{Outcome, PROGRAM, Reader, Tally};
use crate::report::Suite;

/// One marker line: `@@tenantry begin ID`, `@@tenantry end ID STATUS`, `@@tenantry done`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marker {
    Begin { id: String },
    End { id: String, status: i32 },
    Done,
}

/// Reads a marker line, if it is one.
pub fn marker(line: &str) -> Option<Marker> {
    let mut words = line.strip_prefix("@@tenantry ")?.split(' ');
    let marker = match (words.next()?, words.next(), words.next()) {
        ("begin", Some(id), None) => Marker::Begin { id: id.to_owned() },
        ("end", Some(id), Some(status)) => {
            Marker::End { id: id.to_owned(), status: status.parse().ok()? }
        }
        ("done", None, None) => Marker::Done,
        _ => return None,
    };
    Some(marker)
}

/// A name that is safe as a file's name and as a word of a shell script.
pub fn id(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
}

/// What a line of the guest means for the log.
#[derive(Debug)]
pub enum Said<'a> {
    Show(String),
    Ended(&'a Suite),
    Nothing,
}

#[derive(Debug)]
struct Expected {
    id: String,
    name: String,
    suite: Option<Suite>,
}

/// Collects the results of the programs that a guest was told to run.
#[derive(Debug, Default)]
pub struct Results {
    expected: Vec<Expected>,
    /// Position in `expected`, its reader, and when it began.
    current: Option<(usize, Reader, Instant)>,
}

impl Results {
    /// Announces a program. Those that the guest never ends are failures.
    pub fn expect(&mut self, id: &str, name: &str) {
        self.expected.push(Expected { id: id.to_owned(), name: name.to_owned(), suite: None });
    }

    pub fn line(&mut self, line: &str) -> Said<'_> {
        match marker(line) {
            Some(Marker::Begin { id }) => {
                let Some(at) = self.expected.iter().position(|e| e.id == id) else {
                    return Said::Nothing;
                };
                self.current = Some((at, Reader::default(), Instant::now()));
                Said::Show(format!("---- {}", self.expected[at].name))
            }
            Some(Marker::End { id, status }) => match self.current.take() {
                Some((at, reader, start)) if self.expected[at].id == id => {
                    let why = describe(status);
                    let tally = reader.finish(why.as_deref());
                    let expected = &mut self.expected[at];
                    let name = expected.name.clone();
                    Said::Ended(expected.suite.insert(Suite { name, tally, time: start.elapsed() }))
                }
                _ => Said::Nothing,
            },
            Some(Marker::Done) => Said::Nothing,
            None => {
                let show = match &mut self.current {
                    Some((_, reader, _)) => reader.line(line),
                    None => !line.is_empty(),
                };
                if show { Said::Show(line.to_owned()) } else { Said::Nothing }
            }
        }
    }

    /// The suites in the order they were announced. `death` says why the guest ended
    /// before it was done.
    pub fn finish(mut self, death: Option<&str>) -> Vec<Suite> {
        let death = death.unwrap_or("the guest ended without running it");
        if let Some((at, reader, start)) = self.current.take() {
            let expected = &mut self.expected[at];
            let tally = reader.finish(Some(death));
            expected.suite =
                Some(Suite { name: expected.name.clone(), tally, time: start.elapsed() });
        }
        self.expected
            .into_iter()
            .map(|expected| {
                expected.suite.unwrap_or_else(|| {
                    let why = format!("not run: {death}");
                    let failed = vec![Outcome { test: PROGRAM.to_owned(), why }];
                    let tally = Tally { failed, ..Tally::default() };
                    Suite { name: expected.name, tally, time: Duration::ZERO }
                })
            })
            .collect()
    }
}

/// `None` if a shell's status means success.
fn describe(status: i32) -> Option<String> {
    match status {
        0 => None,
        // busybox's `timeout` sends SIGTERM, then SIGKILL.
        124 | 143 | 137 => {
            Some(format!("killed (status {status}), by the time limit if not by a test"))
        }
        129..=192 => Some(format!("signal {}", status - 128)),
        _ => Some(format!("exit status {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(results: &mut Results, text: &str) {
        for line in text.lines() {
            results.line(line);
        }
    }

    #[test]
    fn each_program_gets_its_own_result() {
        let mut results = Results::default();
        for id in ["a", "b", "c", "d"] {
            results.expect(id, &id.to_uppercase());
        }
        feed(
            &mut results,
            "@@tenantry begin a\nrunning 1 test\ntest x ... ok\ntest result: ok.\n@@tenantry end a 0\n\
             @@tenantry begin b\nrunning 1 test\ntest x ... FAILED\ntest result: FAILED.\n@@tenantry end b 101\n\
             @@tenantry begin c\nrunning 1 test\ntest x ... \n",
        );
        let suites = results.finish(Some("Kernel panic"));
        let failed: Vec<Vec<&str>> = suites
            .iter()
            .map(|s| s.tally.failed.iter().map(|f| f.why.as_str()).collect())
            .collect();
        assert_eq!(suites[0].tally.passed, 1);
        assert_eq!(
            failed,
            [vec![], vec!["failed"], vec!["Kernel panic"], vec!["not run: Kernel panic"]]
        );
    }

    #[test]
    fn only_whole_markers_are_markers() {
        assert_eq!(
            marker("@@tenantry end a_b 7"),
            Some(Marker::End { id: "a_b".into(), status: 7 })
        );
        assert_eq!(marker("@@tenantry done"), Some(Marker::Done));
        assert_eq!(marker("@@tenantry end a_b"), None);
        assert_eq!(marker("x @@tenantry done"), None);
        assert_eq!(id("tenantry-cgroupfs bin x/y"), "tenantry-cgroupfs_bin_x_y");
    }
}
