//! The decision log: what was seen and decided, so that it can be replayed. JSON lines, as
//! `tenantry-control` words them; when the file is full it becomes `decisions.jsonl.1`.
//!
//! A disk that refuses is counted, and the controller goes on: safety does not hang on a log.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use tenantry_control::{Actuator, Decision, Policy, Rates, Recorder, State};

/// Some minutes of a host with hundreds of containers that are all bad, days of a common one.
const MAX_BYTES: u64 = 32 << 20;

#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    recorder: Recorder,
    /// Opened at the first line: a quiet host has none.
    file: Option<(File, u64)>,
    /// Lines that could not be written.
    pub lost: u64,
}

impl Journal {
    pub fn new(path: PathBuf) -> Self {
        Self { path, recorder: Recorder::new(), file: None, lost: 0 }
    }

    /// One look, with the state before it and what came of it.
    pub fn look(
        &mut self,
        policy: &Policy,
        before: &State,
        rates: &Rates,
        after: (&State, &[Decision]),
    ) {
        if self.file.as_ref().is_some_and(|(_, bytes)| *bytes >= MAX_BYTES) {
            self.rotate();
        }
        if let Some(lines) = self.recorder.look(policy, before, rates, rates.at_ms, after) {
            self.append(&lines);
        }
    }

    /// A limit that could not be set.
    pub fn refused(&mut self, container: &str, actuator: &Actuator, until_ms: u64) {
        if let Some(line) = self.recorder.refused(container, actuator, until_ms) {
            self.append(&line);
        }
    }

    fn append(&mut self, lines: &str) {
        if let Err(error) = self.try_append(lines) {
            if self.lost == 0 {
                tracing::error!(path = %self.path.display(), %error, "decision not logged");
            }
            self.lost += 1;
            // What comes next must not seem to follow from what is missing.
            self.file = None;
            self.recorder.restart();
        }
    }

    fn try_append(&mut self, lines: &str) -> std::io::Result<()> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            let bytes = file.metadata()?.len();
            self.file = Some((file, bytes));
        }
        if let Some((file, bytes)) = &mut self.file {
            file.write_all(lines.as_bytes())?;
            *bytes += lines.len() as u64;
        }
        Ok(())
    }

    fn rotate(&mut self) {
        self.file = None;
        self.recorder.restart();
        let mut old = self.path.clone().into_os_string();
        old.push(".1");
        if let Err(error) = std::fs::rename(&self.path, old) {
            tracing::error!(path = %self.path.display(), %error, "decision log not rotated");
        }
    }
}

#[cfg(test)]
mod tests {
    use tenantry_control::{Blame, Class, ContainerRates, Culprit, Resource, decide, replay};

    use super::*;

    /// A protected container that waits half of the time for a best-effort one.
    fn bad(at_ms: u64) -> Rates {
        let container = |id: &str, class: Class| {
            let mut rates = ContainerRates {
                id: id.into(),
                name: id.into(),
                running: true,
                ..ContainerRates::default()
            };
            rates.labels.insert("tenantry.class".into(), class.as_str().into());
            rates.cpu.used_cores = 1.0;
            rates.cpu.wait = 0.5;
            rates.cpu.wait_p99_us = Some(50_000.0);
            rates.pressure.cpu = 0.5;
            rates
        };
        Rates {
            at_ms,
            interval_ms: 1000,
            cpus: 2,
            containers: vec![
                container("web", Class::Protected),
                container("batch", Class::BestEffort),
            ],
            blame: vec![Blame {
                victim: "web".into(),
                culprit: Culprit::Container("batch".into()),
                resource: Resource::Cpu,
                seconds_per_second: 0.5,
            }],
            ..Rates::default()
        }
    }

    #[test]
    fn what_was_written_replays_to_the_same_decisions() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("decisions.jsonl");
        let policy = Policy::parse("mode = \"dry-run\"").unwrap();
        let mut journal = Journal::new(path.clone());
        let mut state = State::default();
        journal.look(&policy, &state, &Rates::default(), (&state, &[]));
        assert!(!path.exists(), "a quiet host has no log");
        let mut decided = 0;
        for look in 1..20 {
            let rates = bad(look * 1000);
            let (next, decisions) = decide(&policy, &state, &rates, rates.at_ms);
            journal.look(&policy, &state, &rates, (&next, &decisions));
            decided += decisions.len();
            state = next;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let report = replay(text.lines()).unwrap();
        assert_eq!((report.looks, report.decisions, report.difference), (19, decided, None));
        assert!(decided > 0);
        journal.rotate();
        let rates = bad(21_000);
        journal.look(&policy, &state, &rates, (&state, &[]));
        assert_eq!(
            std::fs::read_to_string(directory.path().join("decisions.jsonl.1")).unwrap(),
            text
        );
        assert!(replay(std::fs::read_to_string(&path).unwrap().lines()).is_ok());
    }

    #[test]
    fn a_disk_that_refuses_is_counted() {
        let directory = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(directory.path().join("none/decisions.jsonl"));
        let policy = Policy::default();
        let rates = bad(1000);
        let (state, decisions) = decide(&policy, &State::default(), &rates, 1000);
        let mut worse = state.clone();
        for look in 2..9 {
            (worse, _) = decide(&policy, &worse, &bad(look * 1000), look * 1000);
        }
        journal.look(&policy, &worse, &rates, (&state, &decisions));
        assert_eq!(journal.lost, 1);
    }
}
