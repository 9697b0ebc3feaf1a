//! What the audit says of an event or of a limit's change: one JSON object on one line.

use serde::Serialize;
use tenantry_container::LimitChange;
use tenantry_ebpf::Event;

use crate::limit_line::LimitLine;
use crate::oom::{Evidence, Neighbour};
use crate::registry::Holder;

/// One line of the audit file, but for its place in the chain.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum AuditLine {
    Kernel(AuditEvent),
    Limit(LimitEvent),
}

/// Somebody changed a container's limit.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct LimitEvent {
    #[serde(flatten)]
    pub line: LimitLine,
    pub kind: AuditKind,
    pub container_id: String,
    pub container_name: String,
    pub image: String,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub struct AuditEvent {
    /// RFC 3339, from the kernel's own clock at the moment of the event.
    pub time: String,
    /// Nanoseconds since boot, which no clock adjustment moves.
    pub monotonic_ns: u64,
    pub kind: AuditKind,
    pub container_id: String,
    pub container_name: String,
    pub image: String,
    /// As the host numbers it.
    pub pid: u32,
    /// As the container numbers it.
    pub container_pid: u32,
    pub parent_pid: u32,
    pub uid: u32,
    pub comm: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv: Option<Vec<String>>,
    /// Whether `argv` was longer than the kernel side keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub argv_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom: Option<Evidence>,
    /// Inode by type, as `/proc/PID/ns` shows them.
    pub namespaces: Vec<Namespace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    Exec,
    Exit,
    /// The kernel killed a process for want of memory.
    Oom,
    Limit,
}

#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub inode: u64,
}

/// With a newline behind it.
pub(super) fn write(line: &AuditLine, lines: &mut Vec<u8>) {
    // Plain data without maps of foreign keys always serializes.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

impl From<&LimitChange> for LimitEvent {
    fn from(change: &LimitChange) -> Self {
        let of = change.container.clone();
        Self {
            line: LimitLine::from(change),
            kind: AuditKind::Limit,
            container_id: of.id,
            container_name: of.name,
            image: of.image,
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
    let (header, kind) = match event {
        Event::Exec(exec) => (&exec.header, AuditKind::Exec),
        Event::Exit(exit) => (&exit.header, AuditKind::Exit),
        Event::Oom(oom) => (&oom.header, AuditKind::Oom),
    };
    let time = jiff::Timestamp::from_nanosecond(boot_unix_ns + i128::from(header.time_ns));
    let mut line = AuditEvent {
        time: time.unwrap_or_default().to_string(),
        monotonic_ns: header.time_ns,
        kind,
        container_id: holder.id,
        container_name: holder.name,
        image: holder.image,
        pid: header.pid,
        container_pid: header.container_pid,
        parent_pid: header.ppid,
        uid: header.uid,
        comm: header.comm.clone(),
        path: None,
        argv: None,
        argv_truncated: None,
        exit_code: None,
        signal: None,
        oom: None,
        namespaces: namespaces(&header.namespaces),
    };
    match event {
        Event::Exec(exec) => {
            line.path = Some(exec.path.clone());
            line.argv = Some(exec.argv.clone());
            line.argv_truncated = Some(exec.argv_truncated);
        }
        Event::Exit(exit) => {
            line.exit_code = Some(exit.exit_code);
            line.signal = exit.signal;
        }
        Event::Oom(oom) => line.oom = Some(Evidence::of(oom, neighbours)),
    }
    line
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
    fn an_exec_is_this_line() {
        let event = tenantry_ebpf::ExecEvent {
            header: header(),
            path: "/bin/sh".into(),
            argv: vec!["sh".into(), "-c".into(), "echo \"hi\"".into()],
            ..Default::default()
        };
        check_line(
            Event::Exec(event),
            r#"{"time":"1970-01-01T00:00:02.5Z","monotonic_ns":1500000000,"kind":"exec","container_id":"c0ffee","container_name":"web","image":"demo:latest","pid":4242,"container_pid":7,"parent_pid":4200,"uid":1000,"comm":"sh","path":"/bin/sh","argv":["sh","-c","echo \"hi\""],"argv_truncated":false,"#,
        );
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
            r#"{"time":"1970-01-01T00:00:02.5Z","monotonic_ns":1500000000,"kind":"exit","container_id":"c0ffee","container_name":"web","image":"demo:latest","pid":4242,"container_pid":7,"parent_pid":4200,"uid":1000,"comm":"sh","exit_code":137,"signal":9,"#,
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
            r#"{"time":"1970-01-01T00:00:02.5Z","monotonic_ns":1500000000,"kind":"oom","container_id":"c0ffee","container_name":"web","image":"demo:latest","pid":4242,"container_pid":7,"parent_pid":4200,"uid":1000,"comm":"sh","oom":{"anon_bytes":66000000,"file_bytes":0,"shmem_bytes":0,"swap_bytes":0,"limit_bytes":67108864,"usage_bytes":67108864,"cgroup_kills":1,"trigger_pid":4242,"trigger_comm":"sh","oom_score_adj":0,"neighbours":[]},"#,
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
        let line = AuditLine::Limit(LimitEvent::from(&change));
        assert_eq!(
            serde_json::to_string(&line).unwrap(),
            r#"{"time":"1970-01-01T00:00:02.5Z","party":"controller","change":"throttle","limit":"cpu.max","before":"0.8","after":"0.2","reason":"web waits","lease_seconds":5.0,"victim_id":"0a1f","victim_name":"db","evidence":{"wait":0.5},"kind":"limit","container_id":"c0ffee","container_name":"web","image":"demo:latest"}"#
        );
    }
}
