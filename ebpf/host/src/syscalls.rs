//! Names and classes of syscalls. Pure.

use tenantry_abi::{SYSCALL_CLASSES, SYSCALL_OTHER, SYSCALLS};

use crate::syscall_table::TABLE;

/// What a syscall is about; latency is kept by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum SyscallClass {
    Other = 0,
    /// Names, metadata, descriptors.
    File = 1,
    /// Data through descriptors, `ioctl`, `io_uring`.
    Io = 2,
    Network = 3,
    Memory = 4,
    /// Births, deaths, waits, identity, scheduling.
    Process = 5,
    Signal = 6,
    /// Waiting for other threads or for the disk: futex, fsync.
    Sync = 7,
    /// Waiting for descriptors.
    Poll = 8,
    Time = 9,
    /// Pipes, event descriptors, System V and POSIX queues.
    Ipc = 10,
    /// Mounts, modules, keys, bpf: what an administrator does.
    System = 11,
}

impl SyscallClass {
    pub const ALL: [SyscallClass; SYSCALL_CLASSES] = [
        SyscallClass::Other,
        SyscallClass::File,
        SyscallClass::Io,
        SyscallClass::Network,
        SyscallClass::Memory,
        SyscallClass::Process,
        SyscallClass::Signal,
        SyscallClass::Sync,
        SyscallClass::Poll,
        SyscallClass::Time,
        SyscallClass::Ipc,
        SyscallClass::System,
    ];

    /// Lower case, as metric labels have it.
    pub fn name(self) -> &'static str {
        match self {
            SyscallClass::Other => "other",
            SyscallClass::File => "file",
            SyscallClass::Io => "io",
            SyscallClass::Network => "network",
            SyscallClass::Memory => "memory",
            SyscallClass::Process => "process",
            SyscallClass::Signal => "signal",
            SyscallClass::Sync => "sync",
            SyscallClass::Poll => "poll",
            SyscallClass::Time => "time",
            SyscallClass::Ipc => "ipc",
            SyscallClass::System => "system",
        }
    }
}

/// `None` if this build knows no call of that number. 511 is "other": 32-bit calls and
/// numbers beyond the table.
pub fn syscall_name(nr: u32) -> Option<&'static str> {
    if nr == SYSCALL_OTHER {
        return Some("other");
    }
    entry(nr).map(|(_, name, _)| *name)
}

/// `None` for a name that no call has here.
pub fn syscall_number(name: &str) -> Option<u32> {
    TABLE.iter().find(|(_, known, _)| *known == name).map(|(nr, _, _)| *nr)
}

pub fn syscall_class(nr: u32) -> SyscallClass {
    entry(nr).map_or(SyscallClass::Other, |(_, _, class)| *class)
}

type Entry = (u32, &'static str, SyscallClass);

/// A scrape asks for the name of each call of each container.
fn entry(nr: u32) -> Option<&'static Entry> {
    static BY_NUMBER: [Option<&Entry>; SYSCALLS] = {
        let mut by_number = [None; SYSCALLS];
        let mut index = 0;
        while index < TABLE.len() {
            by_number[TABLE[index].0 as usize] = Some(&TABLE[index]);
            index += 1;
        }
        by_number
    };
    BY_NUMBER.get(nr as usize).copied().flatten()
}

/// The table as the programs want it: class by number.
pub(crate) fn class_table() -> [u8; SYSCALLS] {
    let mut classes = [SyscallClass::Other as u8; SYSCALLS];
    for (nr, _, class) in TABLE {
        classes[*nr as usize] = *class as u8;
    }
    classes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_without_doubles_and_fits_the_maps() {
        assert!(TABLE.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(TABLE.iter().all(|(nr, _, _)| *nr < SYSCALL_OTHER));
    }

    #[test]
    fn numbers_have_the_names_that_libc_gives_them() {
        let check = |nr: libc::c_long, name| assert_eq!(syscall_name(nr as u32), Some(name));
        check(libc::SYS_read, "read");
        check(libc::SYS_getpid, "getpid");
        check(libc::SYS_openat, "openat");
        check(libc::SYS_clone3, "clone3");
        check(libc::SYS_futex_waitv, "futex_waitv");
        check(libc::SYS_mseal, "mseal");
        assert_eq!(syscall_name(511), Some("other"));
        assert_eq!(syscall_name(400), None);
        assert_eq!(syscall_name(u32::MAX), None);
    }

    #[test]
    fn classes_are_numbered_as_the_programs_index_them() {
        for (index, class) in SyscallClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
        assert_eq!(class_table()[libc::SYS_epoll_wait as usize], SyscallClass::Poll as u8);
        assert_eq!(syscall_class(libc::SYS_futex as u32), SyscallClass::Sync);
        assert_eq!(syscall_class(9999), SyscallClass::Other);
    }
}
