//! Profiles: from what a container was seen to ask the kernel for to what it may.
//!
//! Pure: a recording, or the counters where there is none, to names and warnings. The kernel's
//! part is `tenantry_ebpf`'s, the format `tenantry_container::seccomp`'s.

use std::collections::{BTreeMap, BTreeSet};

use tenantry_container::seccomp::observed::{Observed, name_of_32_bit};
use tenantry_container::{Record, SeccompChoice, State};
use tenantry_ebpf::{
    ErrorClass, Recording, RefusedCall, Subjects, SyscallCount, SyscallErrors, syscall_name,
};

/// A container that has it is recorded from its first start on.
pub const LABEL: &str = "tenantry.profile";
/// The label's only value.
pub const RECORD: &str = "record";

/// Calls beyond the table of names.
const OTHER: u32 = 511;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;

/// What is known of a container's calls, and what of it is not certain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub observed: Observed,
    /// How often each refused call was refused, and its error number.
    pub refusals: BTreeMap<String, (u64, Option<u32>)>,
    /// Nothing is missing.
    pub complete: bool,
    pub warnings: Vec<String>,
}

/// Whose calls are the container's own.
pub fn subjects(record: &Record) -> Subjects {
    match record.config.seccomp {
        SeccompChoice::Unconfined => Subjects::Armed,
        SeccompChoice::Default | SeccompChoice::Profile(_) => Subjects::Filtered,
    }
}

/// Whether it has no process that could have called something before.
pub fn is_idle(record: &Record) -> bool {
    matches!(record.state, State::Created | State::Exited | State::Dead)
}

/// What a recording saw; where it did not begin with the container, the calls that were
/// counted since its first exec as well.
pub fn seen(
    recording: Option<&Recording>,
    counted: &[SyscallCount],
    errors: &[SyscallErrors],
) -> Seen {
    let mut seen = Seen::default();
    match recording {
        Some(recording) => {
            seen.add(recording);
            seen.complete = recording.from_start && seen.warnings.is_empty();
            if recording.from_start {
                return seen;
            }
            seen.warn(
                "recorded since after its start only: what it did before is known from \
                       counts, where calls that never returned are missing",
            );
        }
        None => seen.warn(
            "never recorded: made of counts alone, where calls that have not \
                           returned are missing, and those of `exec` before its program",
        ),
    }
    for call in counted {
        seen.count(call, errors);
    }
    seen
}

impl Seen {
    fn add(&mut self, recording: &Recording) {
        for nr in &recording.called {
            self.call(*nr, syscall_name(*nr).map(str::to_owned));
        }
        for nr in &recording.called_compat {
            self.observed.compat = true;
            self.call(*nr, name_of_32_bit(*nr));
        }
        recording.refused.iter().for_each(|call| self.refuse(call));
        if recording.missed > 0 {
            self.warn(&format!(
                "the kernel left {} runs of the recorders out: a call may be missing, or stand \
                 among the refused ones",
                recording.missed
            ));
        }
        if recording.unnoted > 0 {
            self.warn(&format!("{} calls may be among the refused ones", recording.unnoted));
        }
        if recording.refusals_lost > 0 {
            self.warn(&format!("{} refused calls are missing", recording.refusals_lost));
        }
    }

    fn call(&mut self, nr: u32, name: Option<String>) {
        match name.filter(|_| nr != OTHER) {
            Some(name) => {
                self.observed.called.insert(name);
            }
            None => self.warn(&format!(
                "it called number {nr}{}, which has no name here: no profile can allow it",
                if nr == OTHER { " or higher" } else { "" }
            )),
        }
    }

    /// A count does not tell refusals from the kernel's own errors. What always failed as a
    /// filter makes it fail is taken for refused, so that no profile allows more than its
    /// container could do.
    fn count(&mut self, call: &SyscallCount, errors: &[SyscallErrors]) {
        let always = |class| {
            let of_class = |errors: &&SyscallErrors| (errors.nr, errors.class) == (call.nr, class);
            errors.iter().find(of_class).is_some_and(|errors| errors.count >= call.count)
        };
        let name = syscall_name(call.nr).map(str::to_owned);
        if always(ErrorClass::Permission) {
            return;
        }
        match name {
            Some(name) if always(ErrorClass::Unsupported) => {
                self.observed.refused.entry(name).or_insert(ENOSYS);
            }
            // Numbers without a name are 32-bit calls', mostly: a recording would know.
            name => self.call(call.nr, name),
        }
    }

    fn refuse(&mut self, call: &RefusedCall) {
        let name = match call.is_compat {
            true => name_of_32_bit(call.nr),
            false => syscall_name(call.nr).filter(|_| call.nr != OTHER).map(str::to_owned),
        };
        let Some(name) = name else {
            // A kernel without that call says the same, and so does every profile.
            if call.error != Some(ENOSYS) {
                self.warn(&format!("number {} was refused, which has no name here", call.nr));
            }
            return;
        };
        self.observed.compat |= call.is_compat;
        self.observed.refused.insert(name.clone(), call.error.unwrap_or(EPERM));
        let refusal = self.refusals.entry(name).or_insert((0, call.error));
        refusal.0 += call.count;
    }

    fn warn(&mut self, text: &str) {
        self.warnings.push(text.into());
    }

    /// Names that a profile allows, in order.
    pub fn names(&self, no_new_privileges: bool) -> BTreeSet<&str> {
        self.observed.allowed(no_new_privileges)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recording(from_start: bool, called: &[u32]) -> Recording {
        Recording {
            running: true,
            subjects: Subjects::Filtered,
            from_start,
            called: called.to_vec(),
            called_compat: Vec::new(),
            refused: Vec::new(),
            unnoted: 0,
            refusals_lost: 0,
            missed: 0,
        }
    }

    fn called(seen: &Seen) -> Vec<&str> {
        seen.observed.called.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_recording_from_the_start_is_all_there_is_to_know() {
        let counted = [SyscallCount { nr: 308, count: 1, errors: 0 }];
        let seen = seen(Some(&recording(true, &[0, 59])), &counted, &[]);
        assert_eq!(called(&seen), ["execve", "read"]);
        assert!(seen.complete && seen.warnings.is_empty(), "{seen:?}");
    }

    #[test]
    fn a_later_recording_is_joined_by_counts_and_says_so() {
        let counted = [SyscallCount { nr: 1, count: 1, errors: 0 }];
        let late = seen(Some(&recording(false, &[0])), &counted, &[]);
        assert_eq!(called(&late), ["read", "write"]);
        assert!(!late.complete && late.warnings[0].contains("after its start"), "{late:?}");
        let none = seen(None, &counted, &[]);
        assert_eq!(called(&none), ["write"]);
        assert!(!none.complete && none.warnings[0].contains("never recorded"), "{none:?}");
    }

    #[test]
    fn a_counted_call_that_only_failed_as_filters_fail_it_is_not_allowed() {
        let counted = |nr| SyscallCount { nr, count: 3, errors: 3 };
        let failed = |nr, class| SyscallErrors { nr, class, count: 3 };
        let counted = [counted(165), counted(257), counted(435)];
        let errors = [
            failed(165, ErrorClass::Permission),
            failed(257, ErrorClass::NotFound),
            failed(435, ErrorClass::Unsupported),
        ];
        let seen = seen(None, &counted, &errors);
        assert_eq!(called(&seen), ["openat"]);
        assert_eq!(seen.observed.refused, BTreeMap::from([("clone3".into(), 38)]));
    }

    #[test]
    fn calls_without_a_name_are_told_and_32_bit_ones_have_their_own() {
        let mut recording = recording(true, &[511]);
        recording.called_compat = vec![4];
        let seen = seen(Some(&recording), &[], &[]);
        assert_eq!(called(&seen), ["write"]);
        assert!(seen.observed.compat && !seen.complete);
        assert!(seen.warnings[0].contains("511 or higher"), "{seen:?}");
    }

    #[test]
    fn refusals_keep_their_error_and_unheard_of_calls_are_none() {
        let call = |nr, error| RefusedCall { nr, is_compat: false, count: 2, error };
        let mut recording = recording(true, &[]);
        recording.refused = vec![call(435, Some(38)), call(165, Some(1)), call(511, Some(38))];
        let seen = seen(Some(&recording), &[], &[]);
        let expected = [("clone3".into(), (2, Some(38))), ("mount".into(), (2, Some(1)))];
        assert_eq!(seen.refusals, BTreeMap::from(expected));
        assert!(seen.warnings.is_empty(), "{seen:?}");
    }
}
