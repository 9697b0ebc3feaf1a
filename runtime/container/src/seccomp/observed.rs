//! A profile made of what a container was seen to do.
//!
//! Pure: names in, a profile in Docker's format out, and the other way round whether a
//! profile foresaw a refusal. It knows what a start needs of the shim's own steps, which the
//! filter judges as well; who did the observing is the agent's matter.

use std::collections::{BTreeMap, BTreeSet};

use libseccomp::{ScmpArch, ScmpSyscall};
use serde_json::{Value, json};

use super::profile::{Action, Profile};

/// What every program may come to: its end, and what the kernel makes it call after a signal.
/// Whether it does so is chance, not the program's choice.
const ALWAYS: [&str; 4] = ["exit", "exit_group", "restart_syscall", "rt_sigreturn"];

/// What the shim does between installing the filter and the program's first instruction. The
/// filter must be installed while the process still has capabilities, so that giving them up
/// comes after it.
const START: [&str; 7] =
    ["capget", "capset", "execve", "prctl", "setgroups", "setresgid", "setresuid"];

/// The same where `no_new_privs` lets the filter come last.
const START_NO_NEW_PRIVILEGES: [&str; 1] = ["execve"];

/// What a container asked for, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub called: BTreeSet<String>,
    /// What the filters that it ran under answered, with which error number.
    pub refused: BTreeMap<String, u32>,
    /// Whether it made 32-bit calls.
    pub compat: bool,
}

/// What a start needs of the filter, beside what the program does.
pub fn start_calls(no_new_privileges: bool) -> &'static [&'static str] {
    match no_new_privileges {
        true => &START_NO_NEW_PRIVILEGES,
        false => &START,
    }
}

impl Observed {
    /// What a profile of it allows.
    pub fn allowed(&self, no_new_privileges: bool) -> BTreeSet<&str> {
        let called = self.called.iter().map(String::as_str);
        called.chain(ALWAYS).chain(start_calls(no_new_privileges).iter().copied()).collect()
    }

    /// The profile: no call but those above, and the same answers as before for those that
    /// were refused. Which answer it is matters: a C library that is told that `clone3` does
    /// not exist (ENOSYS) uses `clone`, and gives up if it is merely not permitted.
    pub fn profile(&self, no_new_privileges: bool) -> Value {
        let allowed = self.allowed(no_new_privileges);
        let mut refused: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        for (name, error) in &self.refused {
            if !allowed.contains(name.as_str()) {
                refused.entry(*error).or_default().push(name);
            }
        }
        let allow = json!({ "names": allowed, "action": "SCMP_ACT_ALLOW" });
        let refuse = refused.into_iter().map(|(error, names)| {
            json!({ "names": names, "action": "SCMP_ACT_ERRNO", "errnoRet": error })
        });
        let mut architectures = vec!["SCMP_ARCH_X86_64"];
        if self.compat {
            architectures.push("SCMP_ARCH_X86");
        }
        json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": architectures,
            "syscalls": std::iter::once(allow).chain(refuse).collect::<Vec<_>>(),
        })
    }
}

/// Whether a profile decides on a call by its name alone, whatever it decides: then a refusal
/// is what its author wanted, or another filter's.
pub fn names_it(profile: &Profile, name: &str) -> bool {
    let decides = |action| matches!(action, Action::Allow | Action::Errno);
    profile.syscalls.iter().any(|rule| {
        rule.args.is_empty() && decides(rule.action) && rule.all_names().any(|n| n == name)
    })
}

/// A profile whose refusals can be counted: a call that kills its caller ends the observation
/// with it, so that it fails with EPERM instead.
pub fn without_kills(mut profile: Value) -> Value {
    let soften = |action: &mut Value| {
        if action.as_str().is_some_and(|name| name.starts_with("SCMP_ACT_KILL")) {
            *action = "SCMP_ACT_ERRNO".into();
        }
    };
    profile.get_mut("defaultAction").into_iter().for_each(soften);
    let rules = profile.get_mut("syscalls").and_then(Value::as_array_mut);
    rules.into_iter().flatten().filter_map(|rule| rule.get_mut("action")).for_each(soften);
    profile
}

/// Of a 32-bit call, which has a number of its own. `None` if libseccomp knows none.
pub fn name_of_32_bit(nr: u32) -> Option<String> {
    let syscall = ScmpSyscall::from(i32::try_from(nr).ok()?);
    syscall.get_name_by_arch(ScmpArch::X86).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observed(called: &[&str], refused: &[(&str, u32)]) -> Observed {
        Observed {
            called: called.iter().map(|name| (*name).into()).collect(),
            refused: refused.iter().map(|(name, error)| ((*name).into(), *error)).collect(),
            compat: false,
        }
    }

    #[test]
    fn a_profile_is_one_sorted_rule_and_nothing_else() {
        let profile = observed(&["write", "brk", "execve"], &[]).profile(true);
        let expected = json!({
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{
                "names": ["brk", "execve", "exit", "exit_group", "restart_syscall",
                          "rt_sigreturn", "write"],
                "action": "SCMP_ACT_ALLOW",
            }],
        });
        assert_eq!(profile, expected);
        let text = profile.to_string();
        assert!(Profile::parse(&text).is_ok(), "{text}");
    }

    #[test]
    fn what_was_refused_is_refused_in_the_same_way_unless_it_was_allowed_as_well() {
        let seen = observed(&["clone"], &[("clone3", 38), ("mount", 1), ("clone", 1)]);
        let profile = seen.profile(true);
        let refusals = profile["syscalls"].as_array().unwrap()[1..].to_vec();
        let errno = "SCMP_ACT_ERRNO";
        let expected = [
            json!({ "names": ["mount"], "action": errno, "errnoRet": 1 }),
            json!({ "names": ["clone3"], "action": errno, "errnoRet": 38 }),
        ];
        assert_eq!(refusals, expected);
        let profile = Profile::parse(&profile.to_string()).unwrap();
        let check = |name, expected| assert_eq!(names_it(&profile, name), expected, "{name}");
        check("mount", true);
        check("clone", true);
        check("ptrace", false);
    }

    #[test]
    fn a_start_without_no_new_privs_needs_what_gives_privileges_up() {
        let with = observed(&[], &[]).profile(false);
        let names = with["syscalls"][0]["names"].as_array().unwrap();
        assert!(names.iter().any(|name| name == "setresuid"), "{names:?}");
        assert_eq!(names.len(), START.len() + ALWAYS.len());
    }

    #[test]
    fn a_profile_that_kills_is_counted_as_one_that_refuses() {
        let rule = |action| json!({ "names": ["x"], "action": action });
        let of = |default, action| json!({ "defaultAction": default, "syscalls": [rule(action)] });
        let check = |from: Value, to: Value| assert_eq!(without_kills(from), to);
        check(of("SCMP_ACT_KILL", "SCMP_ACT_ALLOW"), of("SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"));
        check(
            of("SCMP_ACT_ALLOW", "SCMP_ACT_KILL_PROCESS"),
            of("SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"),
        );
        check(json!({}), json!({}));
    }

    #[test]
    fn numbers_of_32_bit_calls_have_names_of_their_own() {
        assert_eq!(name_of_32_bit(4).as_deref(), Some("write"));
        assert_eq!(name_of_32_bit(20).as_deref(), Some("getpid"));
        assert_eq!(name_of_32_bit(9999), None);
    }
}
