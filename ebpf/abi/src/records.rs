//! Records of the ring buffer.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const EXEC_PATH_TRUNCATED: u32 = 1;
pub const EXEC_ARGV_TRUNCATED: u32 = 2;
pub const EXEC_SHORT_PATH: usize = 64;
pub const EXEC_SHORT_ARGV: usize = 128;
pub const EXEC_LONG_PATH: usize = 256;
pub const EXEC_LONG_ARGV: usize = 1024;

/// Inode numbers, as `/proc/PID/ns` shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Namespaces {
    pub mnt: u32,
    pub pid: u32,
    pub net: u32,
    pub user: u32,
    pub uts: u32,
    pub ipc: u32,
    pub cgroup: u32,
}

/// How each record begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Event {
    pub kind: u32,
    pub slot: u32,
    /// CLOCK_MONOTONIC.
    pub time_ns: u64,
    pub cgroup_id: u64,
    /// Of the process, as the host sees it.
    pub pid: u32,
    pub tid: u32,
    pub parent_pid: u32,
    pub uid: u32,
    /// Of the process, in its own pid namespace.
    pub container_pid: u32,
    pub namespaces: Namespaces,
    pub comm: [u8; 16],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exec {
    pub event: Event,
    /// Without the NUL.
    pub path_bytes: u16,
    /// A NUL after each argument.
    pub argv_bytes: u16,
    pub flags: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecShort {
    pub exec: Exec,
    pub path: [u8; EXEC_SHORT_PATH],
    pub argv: [u8; EXEC_SHORT_ARGV],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecLong {
    pub exec: Exec,
    pub path: [u8; EXEC_LONG_PATH],
    pub argv: [u8; EXEC_LONG_ARGV],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exit {
    pub event: Event,
    /// As `wait(2)` gives it.
    pub wait_status: u32,
    pub reserved: u32,
}

/// Pages are 4 KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Oom {
    /// Of the victim.
    pub event: Event,
    pub anon_pages: u64,
    pub file_pages: u64,
    pub shmem_pages: u64,
    pub swap_pages: u64,
    /// The tightest limit of the victim's memory cgroup and those above.
    pub limit_pages: u64,
    pub usage_pages: u64,
    pub cgroup_kills: u64,
    pub trigger_pid: u32,
    pub score_adjustment: i32,
    pub trigger_comm: [u8; 16],
}

const _: () = {
    assert!(size_of::<Namespaces>() == 28);
    assert!(size_of::<Event>() == 88);
    assert!(offset_of!(Event, container_pid) == 40 && offset_of!(Event, namespaces) == 44);
    assert!(offset_of!(Event, comm) == 72);
    assert!(size_of::<Exec>() == 96 && offset_of!(Exec, path_bytes) == 88);
    assert!(size_of::<ExecShort>() == 288 && offset_of!(ExecShort, argv) == 160);
    assert!(size_of::<ExecLong>() == 1376 && offset_of!(ExecLong, argv) == 352);
    assert!(size_of::<Oom>() == 168 && offset_of!(Oom, trigger_comm) == 152);
    assert!(size_of::<Exit>() == 96 && offset_of!(Exit, wait_status) == 88);
};
