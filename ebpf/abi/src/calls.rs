//! System calls as audit events: what is wanted, and the records.

use core::mem::{offset_of, size_of};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Event, SYSCALLS};

/// In place of an argument's number: the call's result.
pub const ARGUMENT_RESULT: u8 = 7;
/// The descriptor is a socket's.
pub const SHAPE_SOCKET: u8 = 1;
/// The second and the third argument are a socket's address.
pub const SHAPE_ADDRESS: u8 = 2;
/// The target is text, no path from anywhere.
pub const SHAPE_LITERAL: u8 = 4;
/// For writing: O_WRONLY, O_RDWR, O_CREAT, O_TRUNC.
pub const OPEN_WRITE: u32 = 1;
/// Failed by EACCES or EPERM.
pub const OPEN_DENIED: u32 = 2;
pub const OPEN_FAILED: u32 = 4;
pub const OPEN_ALL: u32 = 8;
pub const PREFIX_WORDS: usize = 8;
pub const PREFIXES: usize = 8;
pub const PREFIX_OPEN: u32 = 1;
pub const PREFIX_FILE: u32 = 2;
/// Where a relative path begins, with a slash at its end.
pub const TEXT_DIRECTORY: usize = 0;
/// As it was given; a socket's path or abstract name.
pub const TEXT_PATH: usize = 1;
pub const TEXT_TARGET_DIRECTORY: usize = 2;
pub const TEXT_TARGET: usize = 3;
pub const TEXT_EXTRA: usize = 4;
/// Where the descriptor's file lies.
pub const TEXT_RESOLVED: usize = 5;
pub const TEXTS: usize = 6;
/// Bits of `Call::flags`, each shifted by the text's number.
pub const CALL_TRUNCATED: u32 = 0x1;
pub const CALL_UNREAD: u32 = 0x100;
/// Made by the door for 32-bit programs.
pub const CALL_COMPAT: u32 = 0x10000;
/// The number of an event that is no call's.
pub const NO_CALL: u32 = u32::MAX;
pub const TEXT_MAX: usize = 1024;
pub const TEXT_ROOM: usize = 4096;

/// What the arguments of a call mean, each by its number from 1 on; 0 is none.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct CallShape {
    /// The event's kind + 1; 0: calls of this number are no events.
    pub kind: u8,
    pub path: u8,
    /// Descriptor of the directory where the path begins; 0: the working directory.
    pub path_dir: u8,
    pub target: u8,
    pub target_dir: u8,
    /// A name that is no path.
    pub extra: u8,
    pub descriptor: u8,
    pub flags: u8,
}

/// Compared a word at a time: zero, with a mask of zero, from the prefix's end on.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Prefix {
    pub kinds: u32,
    pub bytes: u32,
    pub words: [u64; PREFIX_WORDS],
    pub masks: [u64; PREFIX_WORDS],
}

/// Which events of a slot are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct AuditFilter {
    /// Bit by kind.
    pub kinds: u32,
    pub opens: u32,
    /// Of these users, as the host numbers them.
    pub uid_first: u32,
    pub uid_last: u32,
    /// `PREFIX_…` of all prefixes.
    pub prefixed: u32,
    pub reserved: u32,
    /// Bit by number: no event of that call.
    pub syscalls_off: [u64; SYSCALLS / 64],
    pub prefix: [Prefix; PREFIXES],
}

/// An end of a connection.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct Endpoint {
    /// AF_…; 0: unknown.
    pub family: u16,
    pub port: u16,
    /// Network order; of IPv4 the first four bytes alone.
    pub address: [u8; 16],
}

/// Its texts follow, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Call {
    pub event: Event,
    pub result: i64,
    pub args: [u64; 6],
    /// Of the descriptor's file; 0: unknown.
    pub inode: u64,
    /// Its file system's, as the kernel has it: major << 20 | minor.
    pub device: u32,
    /// Its type and permissions.
    pub mode: u32,
    pub nr: u32,
    pub flags: u32,
    pub open_flags: u32,
    pub socket_type: u16,
    pub protocol: u16,
    pub local: Endpoint,
    pub remote: Endpoint,
    pub text_bytes: [u16; TEXTS],
    pub reserved: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CallScratch {
    pub call: Call,
    pub text: [u8; TEXT_ROOM + TEXT_MAX],
}

const _: () = {
    assert!(size_of::<CallShape>() == 8);
    assert!(size_of::<Prefix>() == 136);
    assert!(size_of::<AuditFilter>() == 88 + 8 * 136);
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Call>() == 400 && offset_of!(Call, text_bytes) == 384);
};
