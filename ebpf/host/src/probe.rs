//! The programs one by one: what each hooks and how it fares on this kernel.

use aya::programs::ProgramError;

/// State of one program.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Probe {
    pub name: String,
    /// What it is attached to, as libbpf writes it: `tp_btf/sys_exit`.
    pub hook: String,
    pub status: ProbeStatus,
    /// Runs since it was loaded, while `kernel.bpf_stats_enabled` was 1; `None` while it is 0.
    pub runs: Option<u64>,
    /// Time spent in these runs.
    pub run_ns: Option<u64>,
    /// Runs that the kernel left out, since the program was running on that CPU already:
    /// events that nobody counted, of containers and others. `None` while it is not active,
    /// and before 5.12.
    pub misses: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(tag = "state", content = "reason", rename_all = "snake_case")]
pub enum ProbeStatus {
    Active,
    /// It was switched off, or never on: [`Meters::switch`](crate::Meters::switch).
    Disabled,
    /// This kernel lacks the hook or forbids it; the text says why.
    Unsupported(String),
    /// It should work here and does not; the text says why.
    Failed(String),
}

/// How a program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hook {
    Tracepoint(&'static str),
    /// Whose arguments differ among kernels in more than their order, or may be null.
    RawTracepoint(&'static str),
    CgroupIngress,
    CgroupEgress,
    SocketOperations,
    SocketRelease,
    Lsm(&'static str),
    /// Of another program at this tracepoint, which goes on here: the map that it looks in.
    TailCall {
        tracepoint: &'static str,
        map: &'static str,
        index: u32,
    },
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    pub name: &'static str,
    pub hook: Hook,
    /// Without it no count of a container is right.
    pub essential: bool,
    /// Loaded and pinned always, attached only while somebody wants it: a tracepoint whose
    /// coming and going leaves no half-finished state behind.
    pub switchable: bool,
}

pub(crate) const fn tracepoint(name: &'static str, hook: &'static str) -> Program {
    Program { name, hook: Hook::Tracepoint(hook), essential: false, switchable: false }
}

const fn raw_tracepoint(name: &'static str, hook: &'static str) -> Program {
    Program { name, hook: Hook::RawTracepoint(hook), essential: false, switchable: false }
}

/// Of the first object, in the order of attachment: cgroups get their slots before
/// anything counts for them.
pub(crate) const METERS: &[Program] = &[
    tracepoint("cgroup_made", "cgroup_mkdir"),
    tracepoint("cgroup_removed", "cgroup_rmdir"),
    tracepoint("thread_new", "task_newtask"),
    tracepoint("thread_attach", "cgroup_attach_task"),
    Program {
        name: "audit_call",
        hook: Hook::TailCall { tracepoint: "sys_exit", map: "call_programs", index: 0 },
        essential: false,
        switchable: false,
    },
    Program {
        name: "audit_denied",
        hook: Hook::TailCall { tracepoint: "sys_exit", map: "call_programs", index: 1 },
        essential: false,
        switchable: false,
    },
    tracepoint("syscall_exit", "sys_exit"),
    Program { switchable: true, ..tracepoint(SYSCALL_ENTER, "sys_enter") },
    Program { switchable: true, ..tracepoint(RECORDERS[0], "sys_enter") },
    Program { switchable: true, ..tracepoint(RECORDERS[1], "sys_exit") },
    Program {
        name: "network_ingress",
        hook: Hook::CgroupIngress,
        essential: false,
        switchable: false,
    },
    Program {
        name: "network_egress",
        hook: Hook::CgroupEgress,
        essential: false,
        switchable: false,
    },
    Program {
        name: "dns_socket_closed",
        hook: Hook::SocketRelease,
        essential: false,
        switchable: false,
    },
    tracepoint(UDP_RECEIVE_FAILED, "udp_fail_queue_rcv_skb"),
    raw_tracepoint("queue_entered", "qdisc_enqueue"),
    raw_tracepoint("queue_left", "qdisc_dequeue"),
    Program { name: TCP_LIFE, hook: Hook::SocketOperations, essential: false, switchable: false },
    tracepoint("tcp_reset_sent", "tcp_send_reset"),
    tracepoint("tcp_reset_received", "tcp_receive_reset"),
    tracepoint("tcp_synack_resent", "tcp_retransmit_synack"),
    tracepoint("disk_issue", "block_rq_issue"),
    tracepoint("disk_complete", "block_rq_complete"),
    tracepoint("disk_requeue", "block_rq_requeue"),
    tracepoint("disk_back_merge", "block_bio_backmerge"),
    tracepoint("disk_front_merge", "block_bio_frontmerge"),
    tracepoint("disk_request_merge", "block_rq_merge"),
    tracepoint("scheduler_wakeup", "sched_wakeup"),
    tracepoint("scheduler_wakeup_new", "sched_wakeup_new"),
    tracepoint("scheduler_switch", "sched_switch"),
    tracepoint("scheduler_migrate", "sched_migrate_task"),
    raw_tracepoint("oom_victim", "mark_victim"),
    tracepoint("signal_sent", "signal_generate"),
    // Since 6.14.
    tracepoint("capability_checked", "cap_capable"),
    tracepoint("process_exit", "sched_process_exit"),
    // Last: it arms slots, and by then everything counts.
    Program {
        name: "process_exec",
        hook: Hook::Tracepoint("sched_process_exec"),
        essential: true,
        switchable: false,
    },
];

/// Attached only while calls are timed.
pub const SYSCALL_ENTER: &str = "syscall_enter";

/// Attached only while a slot is recorded for a profile, and then not to be shed: what they
/// miss would be missing in the profile.
pub(crate) const RECORDERS: [&str; 2] = ["profile_enter", "profile_exit"];

/// Without it nothing is known of datagrams that a socket had no room for.
pub(crate) const UDP_RECEIVE_FAILED: &str = "udp_receive_failed";

/// Without it nothing is known of TCP.
pub(crate) const TCP_LIFE: &str = "tcp_life";

/// Of the second object.
pub(crate) const TRAMPOLINES: &[Program] = &[Program {
    name: "exec_attempted",
    hook: Hook::Lsm("bprm_check_security"),
    essential: false,
    switchable: false,
}];

impl std::fmt::Display for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Hook::Tracepoint(name) | Hook::TailCall { tracepoint: name, .. } => {
                write!(f, "tp_btf/{name}")
            }
            Hook::RawTracepoint(name) => write!(f, "raw_tp/{name}"),
            Hook::CgroupIngress => f.write_str("cgroup_skb/ingress"),
            Hook::CgroupEgress => f.write_str("cgroup_skb/egress"),
            Hook::SocketRelease => f.write_str("cgroup/sock_release"),
            Hook::SocketOperations => f.write_str("sockops"),
            Hook::Lsm(name) => write!(f, "lsm/{name}"),
        }
    }
}

impl ProbeStatus {
    /// Sorts what loading or attaching said into "not on this kernel" and "broken".
    pub(crate) fn from_error(error: &ProgramError) -> Self {
        let reason = explain(error);
        match errno(error) {
            // 524 is the kernel's own ENOTSUPP, which libc does not know.
            Some(libc::EPERM | libc::EOPNOTSUPP | libc::ENOENT | libc::ESRCH | 524) => {
                ProbeStatus::Unsupported(reason)
            }
            // The hook is not in this kernel's BTF.
            None if matches!(error, ProgramError::Btf(_)) => ProbeStatus::Unsupported(reason),
            _ => ProbeStatus::Failed(reason),
        }
    }

    /// One line, kept beside the pins for the next agent.
    pub(crate) fn to_line(&self) -> String {
        match self {
            ProbeStatus::Active => "active".into(),
            ProbeStatus::Disabled => "disabled".into(),
            ProbeStatus::Unsupported(why) => format!("unsupported: {why}"),
            ProbeStatus::Failed(why) => format!("failed: {why}"),
        }
    }

    pub(crate) fn from_line(line: &str) -> Option<Self> {
        match line.split_once(": ") {
            Some(("unsupported", why)) => Some(ProbeStatus::Unsupported(why.into())),
            Some(("failed", why)) => Some(ProbeStatus::Failed(why.into())),
            None if line == "active" => Some(ProbeStatus::Active),
            None if line == "disabled" => Some(ProbeStatus::Disabled),
            _ => None,
        }
    }
}

fn errno(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::LoadError { io_error, .. } => io_error.raw_os_error(),
        ProgramError::SyscallError(call) => call.io_error.raw_os_error(),
        _ => None,
    }
}

/// The error without the verifier's whole log, of which the end says what matters.
fn explain(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return match error {
            ProgramError::SyscallError(call) => format!("{}: {}", call.call, call.io_error),
            other => other.to_string(),
        };
    };
    let log = verifier_log.to_string();
    let last = last_words(&log);
    match last {
        "" => format!("BPF_PROG_LOAD: {io_error}"),
        last => format!("BPF_PROG_LOAD: {io_error}: {last}"),
    }
}

/// The log's last line that is no statistic.
fn last_words(log: &str) -> &str {
    const STATISTICS: [&str; 3] = ["processed ", "stack depth ", "verification time "];
    let says_something = |line: &&str| {
        !line.is_empty() && !STATISTICS.iter().any(|statistic| line.starts_with(statistic))
    };
    log.lines().map(str::trim).rev().find(says_something).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_survive_being_written_and_read() {
        let statuses = [
            ProbeStatus::Active,
            ProbeStatus::Disabled,
            ProbeStatus::Unsupported("Operation not permitted: (os error 1)".into()),
            ProbeStatus::Failed("invalid argument".into()),
        ];
        for status in statuses {
            assert_eq!(ProbeStatus::from_line(&status.to_line()), Some(status));
        }
        assert_eq!(ProbeStatus::from_line("dancing: why"), None);
    }

    #[test]
    fn the_verifiers_last_words_are_no_statistics() {
        let log = "12: (85) call bpf_x#5\nR2 invalid mem access 'scalar'\n\
                   verification time 41 usec\nstack depth 120+0\nprocessed 13 insns\n\n";
        assert_eq!(last_words(log), "R2 invalid mem access 'scalar'");
        assert_eq!(last_words("stack depth 0"), "");
    }

    #[test]
    fn names_are_unique_and_fit_the_kernel() {
        let mut names: Vec<_> = METERS.iter().chain(TRAMPOLINES).map(|p| p.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
