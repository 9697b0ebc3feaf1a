//! Containers of other runtimes: their slots and the news of them.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The slot's part of a value of `cgroup_slots`.
pub const SLOT_MASK: u32 = 0xffff;
/// Beside the slot: this cgroup is a foreign container's own, not one nested in it.
pub const FOREIGN_TOP: u32 = 0x10000;
pub const POOL_SLOTS: usize = 32;
pub const CGROUP_PATH: usize = 512;
pub const CGROUP_NAME: usize = 256;
pub const CGROUP_TAIL: usize = 128;
pub const CGROUP_BORN: u32 = 0;
pub const CGROUP_GONE: u32 = 1;

/// A foreign container's own cgroup came or went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupEvent {
    pub change: u32,
    /// 0: born when the pool was empty.
    pub slot: u32,
    pub id: u64,
    pub hierarchy: u32,
    /// Without the NUL; 0 where it is gone.
    pub path_bytes: u32,
    pub path: [u8; CGROUP_PATH],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupTail {
    pub tail: [u8; CGROUP_TAIL],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CgroupScratch {
    pub event: CgroupEvent,
    pub name: [u8; CGROUP_NAME],
    pub tail: CgroupTail,
}

const _: () = {
    assert!(size_of::<CgroupEvent>() == 536 && offset_of!(CgroupEvent, id) == 8);
    assert!(offset_of!(CgroupEvent, path) == 24);
    assert!(size_of::<CgroupTail>() == 128);
    assert!(size_of::<CgroupScratch>() == 920 && offset_of!(CgroupScratch, name) == 536);
};
