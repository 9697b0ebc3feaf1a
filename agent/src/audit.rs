//! Execs, exits and OOM kills of every container: from the kernel's ring buffer to the
//! audit file and to whoever listens, with an exact count of what was lost. Changes of limits
//! beside them, as they are made.
//!
//! The kernel counts what it produced and what found no room in the ring, per
//! container and kind. This module counts what it delivered; a listener that is
//! too slow is told how many it missed. It decides nothing.

use std::io::Write;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tenantry_container::LimitChange;
use tenantry_ebpf::{Event, EventReader, Slot};
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

use crate::delivered::Delivered;
use crate::limit_line::LimitLine;
use crate::oom::{Evidence, Groups, Neighbour};
use crate::readable;
use crate::registry::{Holder, Registry};

/// Events that are described and written at once: about half a megabyte of lines. While
/// there are more, others have their turn in between.
const BATCH: usize = 1024;
/// Events that one slow listener may fall behind before it loses some.
const LISTENER_BACKLOG: usize = 8192;

/// One line of the audit file.
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

#[derive(Clone, Debug)]
pub struct FileLimits {
    pub path: PathBuf,
    pub max_bytes: u64,
    pub keep_files: u32,
}

#[derive(Debug)]
pub struct Audit {
    sender: broadcast::Sender<Arc<AuditLine>>,
    file: Mutex<AuditFile>,
    written: AtomicU64,
    /// Read from the ring, but the disk refused them.
    file_lost: AtomicU64,
    /// Missed by listeners that were too slow, all listeners together.
    stream_lost: AtomicU64,
    /// Batches that left something in the ring for the next one.
    full_batches: AtomicU64,
}

impl Audit {
    /// Starts the task that reads `reader` until the agent ends.
    pub fn start(
        reader: EventReader,
        registry: Arc<Registry>,
        limits: FileLimits,
        groups: Groups,
    ) -> std::io::Result<Arc<Self>> {
        let audit = Arc::new(Self {
            sender: broadcast::channel(LISTENER_BACKLOG).0,
            file: Mutex::new(AuditFile::open(limits)?),
            written: AtomicU64::new(0),
            file_lost: AtomicU64::new(0),
            stream_lost: AtomicU64::new(0),
            full_batches: AtomicU64::new(0),
        });
        let ready = readable::register(reader.as_fd().try_clone_to_owned()?)?;
        tokio::spawn(Arc::clone(&audit).run(ready, reader, registry, groups));
        Ok(audit)
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<AuditLine>> {
        self.sender.subscribe()
    }

    /// To the file and to the listeners, before it returns.
    pub fn record_limit(&self, change: &LimitChange) {
        let line = Arc::new(AuditLine::Limit(LimitEvent::from(change)));
        let mut text = Vec::new();
        write(&line, &mut text);
        self.append(&text, 1);
        let _ = self.sender.send(line);
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn stream_lost(&self) -> u64 {
        self.stream_lost.load(Ordering::Relaxed)
    }

    /// A listener missed `events`.
    pub fn count_stream_lost(&self, events: u64) {
        self.stream_lost.fetch_add(events, Ordering::Relaxed);
    }

    /// How often a batch was full: the agent was behind by more than that.
    pub fn full_batches(&self) -> u64 {
        self.full_batches.load(Ordering::Relaxed)
    }

    pub fn file_lost(&self) -> u64 {
        self.file_lost.load(Ordering::Relaxed)
    }

    async fn run(
        self: Arc<Self>,
        ready: AsyncFd<OwnedFd>,
        mut reader: EventReader,
        registry: Arc<Registry>,
        groups: Groups,
    ) {
        let boot_ns = boot_unix_ns();
        while let Ok(mut ready) = ready.readable().await {
            ready.clear_ready();
            loop {
                let mut batch = Vec::new();
                let is_full = reader.read(BATCH, |event| batch.push(event));
                self.handle(&batch, &registry, &groups, boot_ns);
                if !is_full {
                    break;
                }
                self.full_batches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    }

    /// To the listeners, to the file, and then into the account.
    fn handle(&self, batch: &[Event], registry: &Registry, groups: &Groups, boot_ns: i128) {
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for event in batch {
            let holder = registry.holder(event.header().slot).unwrap_or_default();
            let neighbours = match event {
                Event::Oom(oom) => groups.neighbours(&holder.id, oom.header.pid),
                _ => Vec::new(),
            };
            let event = describe(event, holder, neighbours, boot_ns);
            let line = Arc::new(AuditLine::Kernel(event));
            write(&line, &mut lines);
            let _ = self.sender.send(line);
        }
        self.append(&lines, batch.len() as u64);
        registry.deliver(batch.iter().map(delivery));
    }

    fn append(&self, lines: &[u8], events: u64) {
        // A panic between two writes loses a line, and the file takes the next one.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        match file.append(lines) {
            Ok(()) => self.written.fetch_add(events, Ordering::Relaxed),
            Err(error) => {
                tracing::error!(path = %file.limits.path.display(), %error, events, "audit lost");
                self.file_lost.fetch_add(events, Ordering::Relaxed)
            }
        };
    }
}

fn write(line: &AuditLine, lines: &mut Vec<u8>) {
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

fn delivery(event: &Event) -> (Slot, Delivered) {
    match event {
        Event::Exec(exec) => (exec.header.slot, Delivered { exec: 1, ..Delivered::default() }),
        Event::Exit(exit) => (exit.header.slot, Delivered { exit: 1, ..Delivered::default() }),
        Event::Oom(oom) => (oom.header.slot, Delivered { oom: 1, ..Delivered::default() }),
    }
}

/// `neighbours`: of an OOM kill's victim.
fn describe(
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

/// What the wall clock said when the monotonic clock was zero.
fn boot_unix_ns() -> i128 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let monotonic_ns = i128::from(monotonic.tv_sec) * 1_000_000_000 + i128::from(monotonic.tv_nsec);
    jiff::Timestamp::now().as_nanosecond() - monotonic_ns
}

/// JSON lines, rotated by size: `audit.jsonl`, `audit.jsonl.1`, … the oldest is removed.
#[derive(Debug)]
struct AuditFile {
    file: std::fs::File,
    bytes: u64,
    limits: FileLimits,
}

impl AuditFile {
    fn open(limits: FileLimits) -> std::io::Result<Self> {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(&limits.path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { file, bytes, limits })
    }

    fn append(&mut self, lines: &[u8]) -> std::io::Result<()> {
        if self.bytes > 0 && self.bytes + lines.len() as u64 > self.limits.max_bytes {
            self.rotate()?;
        }
        self.file.write_all(lines)?;
        self.bytes += lines.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> std::io::Result<()> {
        let numbered = |n: u32| PathBuf::from(format!("{}.{n}", self.limits.path.display()));
        for n in (1..self.limits.keep_files).rev() {
            if numbered(n).exists() {
                std::fs::rename(numbered(n), numbered(n + 1))?;
            }
        }
        if self.limits.keep_files == 0 {
            std::fs::remove_file(&self.limits.path)?;
        } else {
            std::fs::rename(&self.limits.path, numbered(1))?;
        }
        *self = Self::open(self.limits.clone())?;
        Ok(())
    }
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

    #[test]
    fn a_full_file_is_rotated_and_the_oldest_goes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        let limits = FileLimits { path: path.clone(), max_bytes: 8, keep_files: 2 };
        let mut file = AuditFile::open(limits).unwrap();
        for line in ["first\n", "second\n", "third\n", "fourth\n"] {
            file.append(line.as_bytes()).unwrap();
        }
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert_eq!(read("audit.jsonl"), "fourth\n");
        assert_eq!(read("audit.jsonl.1"), "third\n");
        assert_eq!(read("audit.jsonl.2"), "second\n");
        assert!(!directory.path().join("audit.jsonl.3").exists());
    }
}
