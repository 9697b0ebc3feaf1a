//! Records of the ring buffer.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

pub const EXEC_PATH_TRUNCATED: u32 = 1;
pub const EXEC_ARGV_TRUNCATED: u32 = 2;
pub const EXEC_CWD_TRUNCATED: u32 = 4;
/// What runs lies in memory alone and never had a name.
pub const EXEC_MEMFD: u32 = 8;
pub const EXEC_PATH: usize = 256;
pub const EXEC_ARGV: usize = 1024;
pub const EXEC_CWD: usize = 256;
pub const ANCESTORS: usize = 8;

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
    pub ancestors: u32,
    /// The parent first; the last one may be the one outside that put the others into the slot.
    pub ancestor: [Ancestor; ANCESTORS],
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Ancestor {
    /// As the host sees it.
    pub pid: u32,
    pub comm: [u8; 16],
}

/// Path, arguments and directory follow, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Exec {
    pub event: Event,
    /// Of what runs: a script's interpreter.
    pub inode: u64,
    /// The file system's, as the kernel has it: major << 20 | minor.
    pub device: u32,
    pub flags: u32,
    /// Without the NUL.
    pub path_bytes: u16,
    /// A NUL after each argument.
    pub argv_bytes: u16,
    pub cwd_bytes: u16,
    pub reserved: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ExecScratch {
    pub exec: Exec,
    pub text: [u8; EXEC_PATH + EXEC_ARGV + EXEC_CWD],
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
    assert!(size_of::<Event>() == 256);
    assert!(offset_of!(Event, container_pid) == 40 && offset_of!(Event, namespaces) == 44);
    assert!(offset_of!(Event, comm) == 72 && offset_of!(Event, ancestor) == 92);
    assert!(size_of::<Exec>() == 280);
    assert!(size_of::<Oom>() == 336 && offset_of!(Oom, trigger_comm) == 320);
    assert!(size_of::<Exit>() == 264 && offset_of!(Exit, wait_status) == 256);
};
