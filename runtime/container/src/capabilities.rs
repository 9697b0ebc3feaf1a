//! Capabilities: Docker's default set, `--cap-add`, `--cap-drop`.
//!
//! Owns names, parsing and the arithmetic on sets. What the kernel allows at most
//! (this process's bounding set) is read once by the engine and intersected here.

use crate::error::Error;

/// One bit per capability number.
pub type Set = u64;

/// In the order of their numbers (`linux/capability.h`).
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// moby `oci/caps/defaults.go`.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

pub fn default_set() -> Set {
    DEFAULT.iter().filter_map(|name| number(name)).fold(0, |set, n| set | 1 << n)
}

pub fn all() -> Set {
    (1 << NAMES.len()) - 1
}

/// `CAP_CHOWN` of `chown`, `CHOWN` or `CAP_CHOWN`: its number.
fn number(name: &str) -> Option<usize> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == short)
}

/// Whether a set holds a capability, by its full name as seccomp profiles write it.
pub fn contains(set: Set, name: &str) -> bool {
    number(name).is_some_and(|n| set & (1 << n) != 0)
}

/// The names in a set, `CAP_` first.
pub fn names(set: Set) -> Vec<String> {
    let present = NAMES.iter().enumerate().filter(|(n, _)| set & (1 << n) != 0);
    present.map(|(_, name)| format!("CAP_{name}")).collect()
}

/// Docker's default set plus `add` minus `drop`, where each list may say `ALL`,
/// within `bounding`. As in Docker, what is added by name survives `drop: ALL`,
/// and what is dropped by name is gone after `add: ALL`.
///
/// # Errors
/// [`Error::Invalid`] for a name that no capability has, and for one added by
/// name that this host cannot give.
pub fn resolve(add: &[String], drop: &[String], bounding: Set) -> Result<Set, Error> {
    let (add_all, added) = parse_list("cap_add", add)?;
    let (drop_all, dropped) = parse_list("cap_drop", drop)?;
    if let Some(name) = names(added & !bounding).first() {
        let allowed = format!("what this host has: {}", names(bounding).join(", "));
        return Err(Error::invalid("cap_add", name, allowed));
    }
    let base = match (add_all, drop_all) {
        (true, false) => all() & !dropped,
        (false, false) => default_set() & !dropped,
        // Asking for both leaves what was asked for by name.
        (_, true) => 0,
    };
    Ok((base | added & !dropped) & bounding)
}

fn parse_list(field: &str, list: &[String]) -> Result<(bool, Set), Error> {
    let (mut every, mut set) = (false, 0);
    for name in list {
        if name.eq_ignore_ascii_case("all") {
            every = true;
            continue;
        }
        let number = number(name).ok_or_else(|| {
            Error::invalid(field, name, format!("ALL, {}", names(all()).join(", ")))
        })?;
        set |= 1 << number;
    }
    Ok((every, set))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(list: &[&str]) -> Set {
        list.iter().map(|name| 1 << number(name).expect(name)).fold(0, |a, b| a | b)
    }

    #[test]
    fn the_default_has_fourteen() {
        assert_eq!(default_set().count_ones(), 14);
        assert_eq!(default_set(), 0xa804_25fb, "as /proc/self/status says it under Docker");
    }

    #[test]
    fn lists_add_and_drop_as_dockers_do() {
        let check = |add: &[&str], drop: &[&str], expected: Set| {
            let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
            let resolved = resolve(&owned(add), &owned(drop), all()).unwrap();
            assert_eq!(names(resolved), names(expected), "add {add:?} drop {drop:?}");
        };
        check(&[], &[], default_set());
        check(&["NET_ADMIN"], &[], default_set() | set(&["NET_ADMIN"]));
        check(&[], &["cap_chown"], default_set() & !set(&["CHOWN"]));
        check(&[], &["ALL"], 0);
        check(&["net_raw"], &["ALL"], set(&["NET_RAW"]));
        check(&["ALL"], &[], all());
        check(&["ALL"], &["SYS_ADMIN"], all() & !set(&["SYS_ADMIN"]));
    }

    #[test]
    fn a_capability_beyond_the_host_is_left_out_or_refused_by_name() {
        let bounding = all() & !set(&["SYS_RESOURCE", "CHOWN"]);
        assert_eq!(resolve(&["ALL".into()], &[], bounding).unwrap(), bounding);
        assert_eq!(resolve(&[], &[], bounding).unwrap(), default_set() & bounding);
        let error = resolve(&["SYS_RESOURCE".into()], &[], bounding).unwrap_err().to_string();
        assert!(error.contains("cap_add") && error.contains("CAP_SYS_RESOURCE"), "{error}");
        let error = resolve(&[], &["FLY".into()], bounding).unwrap_err().to_string();
        assert!(error.contains("cap_drop") && error.contains("FLY"), "{error}");
    }
}
