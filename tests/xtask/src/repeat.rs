//! A second chance, and its price. A test that fails is run once more, alone; if it
//! passes then, it counts as passed and is listed as unsteady: a defect in the test or
//! in the product that shows now and then, to be found, but no reason to throw away
//! the run of everything else. Pure: tallies in, a tally out.

use crate::libtest::{Outcome, PROGRAM, Tally};

/// A program in which more tests fail at once is broken, not unsteady.
const MOST: usize = 4;

/// Tests of one program to run once more; no name means the whole program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    pub tests: Vec<String>,
}

impl Repeat {
    /// What a first run gives reason to repeat.
    pub fn of(tally: &Tally) -> Option<Repeat> {
        let names = || tally.failed.iter().map(|outcome| outcome.test.clone());
        match tally.failed.len() {
            0 => None,
            n if n > MOST => None,
            // It ended early, or never began: the tests behind the end were not run.
            _ if names().any(|name| name == PROGRAM) || !tally.complete => {
                Some(Repeat { tests: Vec::new() })
            }
            _ => Some(Repeat { tests: names().collect() }),
        }
    }

    /// Arguments for the test program, behind its usual ones.
    pub fn arguments(&self) -> Vec<&str> {
        let exact = (!self.tests.is_empty()).then_some("--exact");
        exact.into_iter().chain(self.tests.iter().map(String::as_str)).collect()
    }

    /// Both runs as one. A second run that did not come to its end, or left out a test that
    /// it was told to run, acquits nobody.
    pub fn merge(&self, first: Tally, second: Tally) -> Tally {
        let run = second.passed + second.failed.len() + second.skipped.len();
        if !second.complete || run < self.tests.len().max(1) {
            return first;
        }
        let fails_again = |outcome: &&Outcome| second.failed.iter().any(|f| f.test == outcome.test);
        let unsteady = first.failed.iter().filter(|o| !fails_again(o)).cloned().collect();
        let mut both = Tally { unsteady, ..second };
        if !self.tests.is_empty() {
            both.passed += first.passed;
            both.skipped.splice(0..0, first.skipped);
        }
        both
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcomes(tests: &[&str]) -> Vec<Outcome> {
        tests.iter().map(|t| Outcome { test: (*t).into(), why: "failed".into() }).collect()
    }

    fn tally(passed: usize, failed: &[&str], skipped: &[&str]) -> Tally {
        let (failed, skipped) = (outcomes(failed), outcomes(skipped));
        Tally { passed, failed, skipped, complete: true, ..Tally::default() }
    }

    #[test]
    fn what_failed_by_name_is_repeated_by_name() {
        assert_eq!(Repeat::of(&tally(9, &[], &["s"])), None);
        let repeat = Repeat::of(&tally(9, &["a", "b"], &[])).unwrap();
        assert_eq!(repeat.arguments(), ["--exact", "a", "b"]);
        assert_eq!(Repeat::of(&tally(9, &["a", "b", "c", "d", "e"], &[])), None);
    }

    #[test]
    fn a_program_that_ended_early_is_repeated_as_a_whole() {
        let whole = Repeat { tests: Vec::new() };
        assert!(whole.arguments().is_empty());
        assert_eq!(Repeat::of(&tally(3, &[PROGRAM], &[])), Some(whole.clone()));
        assert_eq!(Repeat::of(&Tally { complete: false, ..tally(3, &["a"], &[]) }), Some(whole));
    }

    #[test]
    fn a_test_that_passes_alone_is_unsteady_and_one_that_fails_again_failed() {
        let first = tally(9, &["a", "b"], &["s"]);
        let both = Repeat::of(&first).unwrap().merge(first, tally(1, &["b"], &[]));
        assert_eq!(
            (both.passed, both.failed, both.skipped),
            (10, outcomes(&["b"]), outcomes(&["s"]))
        );
        assert_eq!(both.unsteady, outcomes(&["a"]));
    }

    #[test]
    fn a_second_run_that_ran_nothing_or_died_acquits_nobody() {
        let first = tally(9, &["a", "b"], &[]);
        let repeat = Repeat::of(&first).unwrap();
        assert_eq!(repeat.merge(first.clone(), tally(1, &[], &[])), first);
        let dead = Tally { complete: false, ..tally(1, &[PROGRAM], &[]) };
        assert_eq!(repeat.merge(first.clone(), dead), first);
    }

    #[test]
    fn the_second_run_of_a_whole_program_stands_for_the_first() {
        let first = tally(3, &[PROGRAM], &["s"]);
        let both = Repeat::of(&first).unwrap().merge(first, tally(12, &[], &["s"]));
        assert_eq!((both.passed, both.skipped.len()), (12, 1));
        assert_eq!(both.unsteady, outcomes(&[PROGRAM]));
    }
}
