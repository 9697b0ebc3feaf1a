//! When a tree is walked again: a pure decision.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use tenantry_ebpf::{DiskOp, SlotCounters};

use crate::report::DiskReport;

/// A walk takes at most one fiftieth of the time, however long it lasts.
const REST: u32 = 50;
/// A mapped file can be written to without a system call: on v1 nothing tells of it.
const CERTAIN: Duration = Duration::from_secs(3600);

/// What a container does to its tree leaves a trace in one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sign {
    /// A new run begins with new counters.
    pub started_unix_ns: Option<u64>,
    /// System calls that can change a tree.
    pub calls: u64,
    /// Bytes that disks wrote for it.
    pub written: u64,
}

/// What is known about the last walk of one tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    pub ended: Instant,
    pub took: Duration,
    /// As it was when the walk began. `None`: nothing was counted for the container.
    pub sign: Option<Sign>,
}

/// Whether to walk now. Only if the container did something since, or may have.
pub fn is_due(last: Option<&Last>, sign: Option<Sign>, now: Instant, interval: Duration) -> bool {
    let Some(last) = last else { return true };
    let age = now.saturating_duration_since(last.ended);
    let rested = age >= interval.max(last.took.saturating_mul(REST));
    let unchanged = sign.is_some() && sign == last.sign;
    rested && (!unchanged || age >= CERTAIN.max(interval))
}

/// Of a container's counters; `None` if nothing counts for it.
pub fn sign(
    started_unix_ns: Option<u64>,
    counters: Option<&SlotCounters>,
    disks: &[DiskReport],
) -> Option<Sign> {
    let calls = counters?.syscalls.iter().filter(|call| is_changing(call.nr));
    let calls = calls.map(|call| call.count);
    let writes = disks.iter().filter(|disk| disk.op == DiskOp::Write);
    Some(Sign {
        started_unix_ns,
        calls: calls.sum(),
        written: writes.map(|disk| disk.counters.bytes).sum(),
    })
}

/// Numbers that a counter can have.
const SYSCALLS: usize = 512;

/// A call that this build knows no name of may do anything. Names are compared once: a scrape
/// asks for each call of each container.
fn is_changing(nr: u32) -> bool {
    static CHANGING: LazyLock<[bool; SYSCALLS]> = LazyLock::new(|| {
        std::array::from_fn(|nr| {
            tenantry_ebpf::syscall_name(nr as u32).is_none_or(can_change_a_tree)
        })
    });
    CHANGING.get(nr as usize).is_none_or(|changing| *changing)
}

/// By what its name begins with: calls come in families (`rename`, `renameat`, `renameat2`).
/// Rather one too many, as an `openat` that only reads.
fn can_change_a_tree(name: &str) -> bool {
    const FAMILIES: [&str; 32] = [
        "write",
        "pwrite",
        "sendfile",
        "splice",
        "copy_file",
        "truncate",
        "ftruncate",
        "fallocate",
        "open",
        "creat",
        "rename",
        "mkdir",
        "rmdir",
        "unlink",
        "link",
        "symlink",
        "mknod",
        "chmod",
        "fchmod",
        "chown",
        "fchown",
        "lchown",
        "setxattr",
        "fsetxattr",
        "lsetxattr",
        "removexattr",
        "utime",
        "futimesat",
        "mmap",
        "msync",
        "io_",
        "ioctl",
    ];
    FAMILIES.iter().any(|family| name.starts_with(family))
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::SyscallCount;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn signed(calls: u64) -> Option<Sign> {
        Some(Sign { started_unix_ns: Some(1), calls, written: 0 })
    }

    #[test]
    fn a_walk_is_due_when_something_happened_and_the_last_one_is_long_enough_ago() {
        let start = Instant::now();
        let last = |took| Last { ended: start, took, sign: signed(5) };
        let check = |last: Option<Last>, sign, after_s, expected| {
            let now = start + Duration::from_secs(after_s);
            let due = is_due(last.as_ref(), sign, now, MINUTE);
            assert_eq!(due, expected, "{last:?} {sign:?} {after_s}");
        };
        let quick = Some(last(Duration::from_millis(10)));
        check(None, None, 0, true);
        check(quick, signed(6), 59, false);
        check(quick, signed(6), 60, true);
        check(quick, signed(5), 60, false);
        // Nobody counts for it: it may have changed.
        check(quick, None, 60, true);
        // A new run.
        check(quick, Some(Sign { started_unix_ns: Some(2), calls: 5, written: 0 }), 60, true);
        // Written through a mapping.
        check(quick, Some(Sign { started_unix_ns: Some(1), calls: 5, written: 9 }), 60, true);
        check(quick, signed(5), 3600, true);
        // A walk of ten seconds rests for 500.
        let slow = Some(last(Duration::from_secs(10)));
        check(slow, signed(6), 499, false);
        check(slow, signed(6), 500, true);
    }

    #[test]
    fn waiting_and_reading_are_no_signs() {
        let counters = |calls: &[(&str, u64)]| {
            let nr = |name: &str| {
                (0..511).find(|nr| tenantry_ebpf::syscall_name(*nr) == Some(name)).unwrap()
            };
            let syscalls = calls.iter().map(|(name, count)| SyscallCount {
                nr: nr(name),
                count: *count,
                errors: 0,
            });
            SlotCounters { syscalls: syscalls.collect(), ..SlotCounters::default() }
        };
        let calls = |calls: &[(&str, u64)]| sign(None, Some(&counters(calls)), &[]).unwrap().calls;
        assert_eq!(calls(&[("read", 5), ("epoll_wait", 7), ("clock_nanosleep", 1)]), 0);
        assert_eq!(calls(&[("openat", 1), ("renameat2", 20), ("pwritev2", 300), ("read", 9)]), 321);
        assert_eq!(sign(None, None, &[]), None);
    }
}
