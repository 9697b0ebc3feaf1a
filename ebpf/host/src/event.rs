//! Records of the ring, decoded. Pure.

use tenantry_abi as abi;
use zerocopy::FromBytes;

use crate::call::{CallEvent, decode_call};
use crate::{EventKind, Slot};

/// Inode numbers, as `/proc/PID/ns` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Namespaces {
    pub mnt: u32,
    /// The process's own, not that of its future children.
    pub pid: u32,
    pub net: u32,
    pub user: u32,
    pub uts: u32,
    pub ipc: u32,
    pub cgroup: u32,
}

/// What each event says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventHeader {
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub time_ns: u64,
    pub slot: Slot,
    /// Kernfs id of the task's v2 cgroup: tells a slot's holders apart.
    pub cgroup_id: u64,
    /// Of the process, as the host numbers it.
    pub pid: u32,
    /// Of the thread that did it, as the host numbers it.
    pub tid: u32,
    /// Of the process, as its own pid namespace numbers it.
    pub container_pid: u32,
    /// Of the parent process, as the host numbers it.
    pub ppid: u32,
    /// As the host numbers it.
    pub uid: u32,
    pub comm: String,
    pub namespaces: Namespaces,
    /// The parent first, eight at most: those in the container, and the one outside above them.
    pub ancestors: Vec<Ancestor>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecEvent {
    pub header: EventHeader,
    /// As it was given to execve: a script's own path, not its interpreter's.
    pub path: String,
    /// The path is 255 bytes or longer.
    pub path_truncated: bool,
    /// After the kernel's changes: a script's begins with its interpreter.
    pub argv: Vec<String>,
    /// The arguments are longer than 1024 bytes, or could not be read.
    pub argv_truncated: bool,
    /// Its working directory, as its own root sees it.
    pub cwd: String,
    /// The directory's beginning is missing: it is longer than 256 bytes.
    pub cwd_truncated: bool,
    /// Of what runs: a script's interpreter.
    pub inode: u64,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// What runs lies in memory alone (`memfd_create`) and never had a name.
    pub memfd: bool,
}

/// A process above another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ancestor {
    /// As the host numbers it.
    pub pid: u32,
    pub comm: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExitEvent {
    pub header: EventHeader,
    /// As a shell has it: 128 + signal if a signal ended the process.
    pub exit_code: i32,
    pub signal: Option<i32>,
    pub core_dumped: bool,
}

/// A process that the kernel killed for want of memory, and what it held when it was chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OomEvent {
    /// Of the victim.
    pub header: EventHeader,
    /// Since 6.2 the kernel's own sums lack up to 32 pages for each CPU (twice as many as there
    /// are CPUs, where that is more).
    pub anon_bytes: u64,
    pub file_bytes: u64,
    pub shmem_bytes: u64,
    pub swap_bytes: u64,
    /// The tightest limit of the victim's memory cgroup and those above; `None` where there is
    /// none: then the host itself was short.
    pub limit_bytes: Option<u64>,
    /// Of the cgroup with that limit.
    pub usage_bytes: u64,
    /// Kills that the victim's memory cgroup had counted by then, this one included.
    pub cgroup_kills: u64,
    /// The process that wanted memory when there was none; the victim itself, often.
    pub trigger_pid: u32,
    pub trigger_comm: String,
    /// -1000 to 1000, as in `/proc/PID/oom_score_adj`.
    pub score_adjustment: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Exec(ExecEvent),
    Exit(ExitEvent),
    Oom(OomEvent),
    /// All other kinds.
    Call(Box<CallEvent>),
}

impl Event {
    pub fn kind(&self) -> EventKind {
        match self {
            Event::Exec(_) => EventKind::Exec,
            Event::Exit(_) => EventKind::Exit,
            Event::Oom(_) => EventKind::Oom,
            Event::Call(event) => event.kind,
        }
    }

    pub fn header(&self) -> &EventHeader {
        match self {
            Event::Exec(event) => &event.header,
            Event::Exit(event) => &event.header,
            Event::Oom(event) => &event.header,
            Event::Call(event) => &event.header,
        }
    }
}

/// `None` for a record that no program of this build writes.
pub(crate) fn decode(record: &[u8]) -> Option<Event> {
    let (event, _) = abi::Event::read_from_prefix(record).ok()?;
    match event.kind {
        abi::EVENT_EXEC => decode_exec(record),
        abi::EVENT_EXIT => decode_exit(record),
        abi::EVENT_OOM => decode_oom(record),
        _ => decode_call(record),
    }
}

fn decode_exec(record: &[u8]) -> Option<Event> {
    let (exec, rest) = abi::Exec::read_from_prefix(record).ok()?;
    let (path, rest) = rest.split_at_checked(usize::from(exec.path_bytes))?;
    let (argv, rest) = rest.split_at_checked(usize::from(exec.argv_bytes))?;
    let (cwd, _) = rest.split_at_checked(usize::from(exec.cwd_bytes))?;
    Some(Event::Exec(ExecEvent {
        header: header(&exec.event),
        path: text(path),
        path_truncated: exec.flags & abi::EXEC_PATH_TRUNCATED != 0,
        argv: arguments(argv),
        argv_truncated: exec.flags & abi::EXEC_ARGV_TRUNCATED != 0,
        cwd: text(cwd),
        cwd_truncated: exec.flags & abi::EXEC_CWD_TRUNCATED != 0,
        inode: exec.inode,
        device: (exec.device >> 20, exec.device & 0xf_ffff),
        memfd: exec.flags & abi::EXEC_MEMFD != 0,
    }))
}

/// Each argument ends with a NUL, but for one that was cut.
fn arguments(bytes: &[u8]) -> Vec<String> {
    let whole = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    whole.split(|byte| *byte == 0).map(text).collect()
}

fn decode_exit(record: &[u8]) -> Option<Event> {
    let (exit, _) = abi::Exit::read_from_prefix(record).ok()?;
    let signal = (exit.wait_status & 0x7f) as i32;
    let code = (exit.wait_status >> 8 & 0xff) as i32;
    Some(Event::Exit(ExitEvent {
        header: header(&exit.event),
        exit_code: if signal == 0 { code } else { 128 + signal },
        signal: (signal != 0).then_some(signal),
        core_dumped: exit.wait_status & 0x80 != 0,
    }))
}

fn decode_oom(record: &[u8]) -> Option<Event> {
    const PAGE: u64 = 4096;
    let (oom, _) = abi::Oom::read_from_prefix(record).ok()?;
    // No limit is the most pages that fit a signed number of bytes.
    let limited = oom.limit_pages < i64::MAX as u64 / PAGE;
    Some(Event::Oom(OomEvent {
        header: header(&oom.event),
        anon_bytes: oom.anon_pages.saturating_mul(PAGE),
        file_bytes: oom.file_pages.saturating_mul(PAGE),
        shmem_bytes: oom.shmem_pages.saturating_mul(PAGE),
        swap_bytes: oom.swap_pages.saturating_mul(PAGE),
        limit_bytes: limited.then(|| oom.limit_pages * PAGE),
        usage_bytes: oom.usage_pages.saturating_mul(PAGE),
        cgroup_kills: oom.cgroup_kills,
        trigger_pid: oom.trigger_pid,
        trigger_comm: text(until_nul(&oom.trigger_comm)),
        score_adjustment: oom.score_adjustment,
    }))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
}

pub(crate) fn header(event: &abi::Event) -> EventHeader {
    let namespaces = &event.namespaces;
    let ancestors = event.ancestor.iter().take(event.ancestors as usize);
    EventHeader {
        time_ns: event.time_ns,
        slot: event.slot,
        cgroup_id: event.cgroup_id,
        pid: event.pid,
        tid: event.tid,
        container_pid: event.container_pid,
        ppid: event.parent_pid,
        uid: event.uid,
        comm: text(until_nul(&event.comm)),
        namespaces: (*namespaces).into(),
        ancestors: ancestors
            .map(|ancestor| Ancestor { pid: ancestor.pid, comm: text(until_nul(&ancestor.comm)) })
            .collect(),
    }
}

/// Paths and arguments are bytes; what is no UTF-8 becomes U+FFFD.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn exec_record(path: &[u8], argv: &[u8], flags: u32) -> Vec<u8> {
        let mut record = abi::Exec::new_zeroed();
        record.event.slot = 7;
        record.event.comm[..4].copy_from_slice(b"true");
        record.path_bytes = path.len() as u16;
        record.argv_bytes = argv.len() as u16;
        record.cwd_bytes = 4;
        record.flags = flags;
        record.event.ancestors = 1;
        record.event.ancestor[0].pid = 9;
        record.event.ancestor[0].comm[..2].copy_from_slice(b"sh");
        [record.as_bytes(), path, argv, b"/tmp"].concat()
    }

    fn exec_of(record: &[u8]) -> ExecEvent {
        match decode(record) {
            Some(Event::Exec(event)) => event,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_exec_has_its_path_and_arguments() {
        let event = exec_of(&exec_record(b"/bin/true", b"true\0\0-x\0", 0));
        assert_eq!((event.header.slot, event.header.comm.as_str()), (7, "true"));
        assert_eq!((event.path.as_str(), event.path_truncated), ("/bin/true", false));
        assert_eq!(event.argv, ["true", "", "-x"]);
        assert!(!event.argv_truncated);
        assert_eq!((event.cwd.as_str(), event.cwd_truncated), ("/tmp", false));
        assert_eq!(event.header.ancestors, [Ancestor { pid: 9, comm: "sh".into() }]);
    }

    #[test]
    fn arguments_of_all_shapes() {
        let check = |argv: &[u8], expected: &[&str]| {
            assert_eq!(exec_of(&exec_record(b"/x", argv, 0)).argv, expected);
        };
        check(b"", &[]);
        check(b"\0", &[""]);
        check(b"a\0", &["a"]);
        check(b"a\0cut", &["a", "cut"]);
        check(b"\xff\0", &["\u{fffd}"]);
    }

    #[test]
    fn an_exec_that_was_cut_says_so() {
        let flags = abi::EXEC_ARGV_TRUNCATED | abi::EXEC_MEMFD;
        let event = exec_of(&exec_record(b"/x", &[b'y'; 1024], flags));
        assert_eq!((event.argv.len(), event.argv[0].len(), event.argv_truncated), (1, 1024, true));
        assert!(event.memfd && !event.path_truncated && !event.cwd_truncated);
    }

    #[test]
    fn wait_status_becomes_code_and_signal() {
        let check = |wait_status, exit_code, signal, core_dumped| {
            let mut record = abi::Exit::new_zeroed();
            record.event.kind = abi::EVENT_EXIT;
            record.wait_status = wait_status;
            match decode(record.as_bytes()) {
                Some(Event::Exit(event)) => assert_eq!(
                    (event.exit_code, event.signal, event.core_dumped),
                    (exit_code, signal, core_dumped)
                ),
                other => panic!("{other:?}"),
            }
        };
        check(0, 0, None, false);
        check(3 << 8, 3, None, false);
        check(255 << 8, 255, None, false);
        check(9, 137, Some(9), false);
        check(11 | 0x80, 139, Some(11), true);
    }

    #[test]
    fn an_oom_kill_has_its_evidence_in_bytes() {
        let mut record = abi::Oom::new_zeroed();
        record.event.kind = abi::EVENT_OOM;
        (record.anon_pages, record.file_pages) = (16_000, 2);
        (record.limit_pages, record.usage_pages) = (16_384, 16_384);
        record.trigger_comm[..3].copy_from_slice(b"hog");
        let oom = |record: &abi::Oom| match decode(record.as_bytes()) {
            Some(Event::Oom(oom)) => oom,
            other => panic!("{other:?}"),
        };
        let event = oom(&record);
        assert_eq!((event.anon_bytes, event.file_bytes), (65_536_000, 8192));
        assert_eq!((event.limit_bytes, event.usage_bytes), (Some(64 << 20), 64 << 20));
        assert_eq!(event.trigger_comm, "hog");
        // v2's and v1's way to say that there is no limit.
        for unlimited in [i64::MAX as u64, i64::MAX as u64 / 4096, u64::MAX] {
            record.limit_pages = unlimited;
            assert_eq!(oom(&record).limit_bytes, None);
        }
    }

    #[test]
    fn records_of_another_kind_or_too_short_are_nothing() {
        let mut record = exec_record(b"/x", b"x\0", 0);
        record[0] = 99;
        assert_eq!(decode(&record), None);
        assert_eq!(decode(&exec_record(b"/x", b"", 0)[..100]), None);
        assert_eq!(decode(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..1500)) {
            decode(&bytes);
        }
    }
}
