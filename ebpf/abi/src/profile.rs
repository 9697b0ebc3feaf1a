//! What slots ask for, recorded for a seccomp profile.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::SYSCALLS;

/// Words of a bitmap over all numbers.
pub const PROFILE_WORDS: usize = SYSCALLS / 64;
/// Beside a number: it is one of the 32-bit system calls'.
pub const PROFILE_COMPAT: u32 = 0x10000;

/// Whether a slot's calls are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ProfileControl {
    /// CLOCK_MONOTONIC when it began; 0 = never.
    pub since_ns: u64,
    pub recording: u32,
    /// Its programs have a seccomp filter: who has none is its runtime, and is left out.
    pub filtered: u32,
    /// No process was in its cgroup when it began.
    pub from_start: u32,
    /// Runs of the programs that the kernel had left out by then.
    pub missed_before: u32,
}

/// What a slot asked for since its recording began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Profile {
    /// One bit for each number; `SYSCALL_OTHER` for those beyond the table.
    pub called: [u64; PROFILE_WORDS],
    /// The same for 32-bit calls, which have numbers of their own.
    pub compat: [u64; PROFILE_WORDS],
    /// Calls whose passing could not be noted: they may stand among the refused ones.
    pub unnoted: u64,
    pub refusals_lost: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RefusedKey {
    pub slot: u32,
    /// Perhaps with [`PROFILE_COMPAT`].
    pub nr: u32,
}

/// Calls that a seccomp filter refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Refused {
    pub count: u64,
    /// The first one's error number; 0 if it was given another answer.
    pub error: u32,
    pub reserved: u32,
}

const _: () = {
    assert!(SYSCALLS.is_multiple_of(64));
    assert!(size_of::<ProfileControl>() == 24 && offset_of!(ProfileControl, filtered) == 12);
    assert!(size_of::<Profile>() == 144 && offset_of!(Profile, unnoted) == 128);
    assert!(size_of::<RefusedKey>() == 8 && size_of::<Refused>() == 16);
};
