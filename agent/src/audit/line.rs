//! What the audit says of an event or of a limit's change: one JSON object on one line.

use tenantry_container::LimitChange;
use tenantry_ebpf::{Event, EventHeader, ExecEvent};

use super::call::{action, describe_call};
use super::event::{
    Ancestor, AuditEvent, AuditKind, Container, File, Id, Namespace, Nature, Parent, Process,
};
use crate::limit_line::LimitLine;
use crate::oom::{Evidence, Neighbour};
use crate::registry::Holder;

/// With a newline behind it.
pub(super) fn write(line: &AuditEvent, lines: &mut Vec<u8>) {
    // Plain data without maps of foreign keys always serializes.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

impl From<&LimitChange> for AuditEvent {
    fn from(change: &LimitChange) -> Self {
        let of = change.container.clone();
        let line = LimitLine::from(change);
        Self {
            event: Nature { action: AuditKind::Limit, outcome: None },
            timestamp: line.time.clone(),
            container: Container::new(of.id, of.name, of.image),
            limit: Some(Box::new(line)),
            ..Self::default()
        }
    }
}

/// `neighbours`: of an OOM kill's victim.
pub(super) fn describe(
    event: &Event,
    holder: Holder,
    neighbours: Vec<Neighbour>,
    boot_unix_ns: i128,
) -> AuditEvent {
    let header = event.header();
    let time = jiff::Timestamp::from_nanosecond(boot_unix_ns + i128::from(header.time_ns));
    let mut process = process(header);
    let (mut oom, mut file) = (None, None);
    let action = match event {
        Event::Exec(exec) => {
            process.executable = Some(executable(exec));
            process.working_directory = Some(exec.cwd.clone()).filter(|cwd| !cwd.is_empty());
            file = Some(File {
                path: executable(exec),
                path_truncated: exec.path_truncated.then_some(true),
                inode: Some(exec.inode),
                ..File::default()
            });
            process.args = Some(exec.argv.clone());
            process.args_truncated = Some(exec.argv_truncated);
            AuditKind::Exec
        }
        Event::Exit(exit) => {
            process.exit_code = Some(exit.exit_code);
            process.signal = exit.signal;
            AuditKind::Exit
        }
        Event::Oom(event) => {
            oom = Some(Evidence::of(event, neighbours));
            AuditKind::Oom
        }
        Event::Call(call) => action(call.kind),
    };
    let mut line = AuditEvent {
        event: Nature { action, outcome: None },
        timestamp: format!("{:.9}", time.unwrap_or_default()),
        monotonic_ns: Some(header.time_ns),
        container: Container::new(holder.id, holder.name, holder.image),
        process: Some(process),
        file,
        oom,
        namespaces: namespaces(&header.namespaces),
        ..AuditEvent::default()
    };
    if let Event::Call(call) = event {
        describe_call(call, &mut line);
    }
    line
}

/// As it was given, from its working directory on if it is relative. What lies in memory alone
/// says so: how it was named tells a descriptor's number at most.
pub(super) fn executable(exec: &ExecEvent) -> String {
    match exec.path.as_bytes() {
        _ if exec.memfd => format!("memfd:{}", exec.path),
        [b'/', ..] | [] => exec.path.clone(),
        _ => format!("{}/{}", exec.cwd.trim_end_matches('/'), exec.path),
    }
}

fn ancestors(header: &EventHeader) -> Vec<Ancestor> {
    let named = |ancestor: &tenantry_ebpf::Ancestor| Ancestor {
        pid: ancestor.pid,
        name: ancestor.comm.clone(),
    };
    header.ancestors.iter().map(named).collect()
}

fn process(header: &EventHeader) -> Process {
    Process {
        pid: header.pid,
        container_pid: header.container_pid,
        thread: Id { id: header.tid },
        name: header.comm.clone(),
        user: Id { id: header.uid },
        parent: Parent { pid: header.ppid },
        ancestors: ancestors(header),
        ..Process::default()
    }
}

fn namespaces(inodes: &tenantry_ebpf::Namespaces) -> Vec<Namespace> {
    let all = [
        ("mnt", inodes.mnt),
        ("pid", inodes.pid),
        ("net", inodes.net),
        ("user", inodes.user),
        ("uts", inodes.uts),
        ("ipc", inodes.ipc),
        ("cgroup", inodes.cgroup),
    ];
    all.map(|(kind, inode)| Namespace { kind, inode: u64::from(inode) }).into()
}

#[cfg(test)]
mod tests {
    use tenantry_container::limit_changes::{Difference, Subject};
    use tenantry_container::{Cause, ChangeKind, Party};

    use super::*;

    fn header() -> tenantry_ebpf::EventHeader {
        tenantry_ebpf::EventHeader {
            time_ns: 1_500_000_000,
            slot: 1,
            pid: 4242,
            tid: 4243,
            container_pid: 7,
            ppid: 4200,
            uid: 1000,
            comm: "sh".into(),
            namespaces: tenantry_ebpf::Namespaces {
                mnt: 11,
                pid: 12,
                net: 13,
                user: 14,
                uts: 15,
                ipc: 16,
                cgroup: 17,
            },
            ancestors: vec![tenantry_ebpf::Ancestor { pid: 4200, comm: "init".into() }],
            ..Default::default()
        }
    }

    #[track_caller]
    fn check_line(event: Event, expected: &str) {
        let holder =
            Holder { id: "c0ffee".into(), name: "web".into(), image: "demo:latest".into() };
        let line =
            serde_json::to_string(&describe(&event, holder, Vec::new(), 1_000_000_000)).unwrap();
        let namespaces = r#""namespaces":[{"type":"mnt","inode":11},{"type":"pid","inode":12},{"type":"net","inode":13},{"type":"user","inode":14},{"type":"uts","inode":15},{"type":"ipc","inode":16},{"type":"cgroup","inode":17}]}"#;
        assert_eq!(line, format!("{expected}{namespaces}"));
    }

    #[test]
    fn a_kind_is_called_the_same_everywhere() {
        for kind in AuditKind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }

    #[test]
    fn an_exec_is_this_line() {
        let event = tenantry_ebpf::ExecEvent {
            header: header(),
            path: "/bin/sh".into(),
            argv: vec!["sh".into(), "-c".into(), "echo \"hi\"".into()],
            cwd: "/root".into(),
            inode: 99,
            ..Default::default()
        };
        check_line(
            Event::Exec(event),
            r#"{"event":{"action":"exec"},"@timestamp":"1970-01-01T00:00:02.500000000Z","monotonic_ns":1500000000,"container":{"id":"c0ffee","name":"web","image":{"name":"demo:latest"}},"process":{"pid":4242,"container_pid":7,"thread":{"id":4243},"name":"sh","user":{"id":1000},"parent":{"pid":4200},"ancestors":[{"pid":4200,"name":"init"}],"executable":"/bin/sh","args":["sh","-c","echo \"hi\""],"args_truncated":false,"working_directory":"/root"},"file":{"path":"/bin/sh","inode":99},"#,
        );
    }

    #[test]
    fn what_runs_is_told_from_the_root_on_and_what_lies_in_memory_says_so() {
        let check = |path: &str, memfd, expected| {
            let (path, cwd) = (path.into(), "/srv".into());
            assert_eq!(executable(&ExecEvent { path, cwd, memfd, ..Default::default() }), expected);
        };
        check("/bin/sh", false, "/bin/sh");
        check("./run", false, "/srv/./run");
        check("/dev/fd/3", true, "memfd:/dev/fd/3");
    }

    #[test]
    fn an_exit_by_a_signal_is_this_line() {
        let event = tenantry_ebpf::ExitEvent {
            header: header(),
            exit_code: 137,
            signal: Some(9),
            ..Default::default()
        };
        check_line(
            Event::Exit(event),
            r#"{"event":{"action":"exit"},"@timestamp":"1970-01-01T00:00:02.500000000Z","monotonic_ns":1500000000,"container":{"id":"c0ffee","name":"web","image":{"name":"demo:latest"}},"process":{"pid":4242,"container_pid":7,"thread":{"id":4243},"name":"sh","user":{"id":1000},"parent":{"pid":4200},"ancestors":[{"pid":4200,"name":"init"}],"exit_code":137,"signal":9},"#,
        );
    }

    #[test]
    fn an_oom_kill_is_this_line() {
        let event = tenantry_ebpf::OomEvent {
            header: header(),
            anon_bytes: 66_000_000,
            limit_bytes: Some(67_108_864),
            usage_bytes: 67_108_864,
            cgroup_kills: 1,
            trigger_pid: 4242,
            trigger_comm: "sh".into(),
            ..Default::default()
        };
        check_line(
            Event::Oom(event),
            r#"{"event":{"action":"oom"},"@timestamp":"1970-01-01T00:00:02.500000000Z","monotonic_ns":1500000000,"container":{"id":"c0ffee","name":"web","image":{"name":"demo:latest"}},"process":{"pid":4242,"container_pid":7,"thread":{"id":4243},"name":"sh","user":{"id":1000},"parent":{"pid":4200},"ancestors":[{"pid":4200,"name":"init"}]},"oom":{"anon_bytes":66000000,"file_bytes":0,"shmem_bytes":0,"swap_bytes":0,"limit_bytes":67108864,"usage_bytes":67108864,"cgroup_kills":1,"trigger_pid":4242,"trigger_comm":"sh","oom_score_adj":0,"neighbours":[]},"#,
        );
    }

    #[test]
    fn a_limit_s_change_is_this_line() {
        let change = LimitChange {
            unix_ns: 2_500_000_000,
            container: Subject {
                id: "c0ffee".into(),
                name: "web".into(),
                image: "demo:latest".into(),
            },
            party: Party::Controller,
            kind: ChangeKind::Throttle,
            difference: Difference {
                limit: "cpu.max".into(),
                before: "0.8".into(),
                after: "0.2".into(),
            },
            reason: "web waits".into(),
            lease: Some(std::time::Duration::from_secs(5)),
            cause: Some(Cause {
                victim_id: "0a1f".into(),
                victim_name: "db".into(),
                message: "web waits".into(),
                evidence: serde_json::json!({ "wait": 0.5 }),
            }),
        };
        let line = AuditEvent::from(&change);
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"event":{"action":"limit"},"@timestamp":"1970-01-01T00:00:02.500000000Z","container":{"id":"c0ffee","name":"web","image":{"name":"demo:latest"}},"limit":{"time":"1970-01-01T00:00:02.500000000Z","party":"controller","change":"throttle","limit":"cpu.max","before":"0.8","after":"0.2","reason":"web waits","lease_seconds":5.0,"victim_id":"0a1f","victim_name":"db","evidence":{"wait":0.5}}}"#
        );
    }
}
