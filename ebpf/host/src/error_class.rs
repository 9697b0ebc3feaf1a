//! Error numbers by what an operator does about them. Pure.
//!
//! The programs get the table when they are loaded, so that both sides agree.

use tenantry_abi::{ERRNOS, ERROR_CLASSES};

/// Why a syscall failed, as coarse as a person looks at it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum ErrorClass {
    /// None of the following, and numbers that this build does not know.
    Other = 0,
    /// The caller may not: credentials, capabilities, a policy, a read-only file system.
    /// Look at the image's user, capabilities, seccomp profile and mounts.
    Permission = 1,
    /// What was named is not there, or is there already: paths, processes, attributes.
    /// Mostly programs that look around; a rise after a deployment is a missing file.
    NotFound = 2,
    /// Not now, ask again: non-blocking calls without data, locks, interruptions, time-outs.
    /// Normal for servers that poll.
    Busy = 3,
    /// Some supply ran out: memory, disk space, quota, descriptors, links, sizes. Raise a limit
    /// or find the leak.
    Exhausted = 4,
    /// The other end or the way to it: refused, reset, unreachable, addresses in use.
    Network = 5,
    /// The call made no sense with these arguments: the program's fault.
    Invalid = 6,
    /// This kernel, file system or protocol does not have it; programs fall back.
    Unsupported = 7,
    /// The device or its medium failed, or the file system found itself damaged.
    Io = 8,
}

impl ErrorClass {
    pub const ALL: [ErrorClass; ERROR_CLASSES] = [
        ErrorClass::Other,
        ErrorClass::Permission,
        ErrorClass::NotFound,
        ErrorClass::Busy,
        ErrorClass::Exhausted,
        ErrorClass::Network,
        ErrorClass::Invalid,
        ErrorClass::Unsupported,
        ErrorClass::Io,
    ];

    /// Lower case, as metric labels have it.
    pub fn name(self) -> &'static str {
        match self {
            ErrorClass::Other => "other",
            ErrorClass::Permission => "permission",
            ErrorClass::NotFound => "not_found",
            ErrorClass::Busy => "busy",
            ErrorClass::Exhausted => "exhausted",
            ErrorClass::Network => "network",
            ErrorClass::Invalid => "invalid",
            ErrorClass::Unsupported => "unsupported",
            ErrorClass::Io => "io",
        }
    }
}

/// Class of a positive error number, as `errno` has it.
pub fn error_class(errno: i32) -> ErrorClass {
    match errno {
        libc::EPERM | libc::EACCES | libc::EROFS | libc::EKEYREJECTED => ErrorClass::Permission,
        libc::ENOENT
        | libc::ESRCH
        | libc::ECHILD
        | libc::EEXIST
        | libc::ENODEV
        | libc::ENXIO
        | libc::ENOTDIR
        | libc::EISDIR
        | libc::ENOTEMPTY
        | libc::ENODATA
        | libc::ENOMSG
        | libc::EIDRM
        | libc::ESTALE
        | libc::ENOKEY
        | libc::EKEYEXPIRED
        | libc::EKEYREVOKED => ErrorClass::NotFound,
        libc::EAGAIN
        | libc::EINTR
        | libc::EBUSY
        | libc::ETXTBSY
        | libc::EDEADLK
        | libc::EINPROGRESS
        | libc::EALREADY
        | libc::ETIME
        | libc::ECANCELED
        | libc::ERESTART
        | libc::EOWNERDEAD => ErrorClass::Busy,
        libc::ENOMEM
        | libc::ENOSPC
        | libc::EDQUOT
        | libc::EMFILE
        | libc::ENFILE
        | libc::ENOBUFS
        | libc::ENOLCK
        | libc::EFBIG
        | libc::E2BIG
        | libc::EMLINK
        | libc::EUSERS
        | libc::EOVERFLOW
        | libc::ENOSR => ErrorClass::Exhausted,
        libc::ECONNREFUSED
        | libc::ECONNRESET
        | libc::ECONNABORTED
        | libc::ETIMEDOUT
        | libc::EHOSTUNREACH
        | libc::EHOSTDOWN
        | libc::ENETUNREACH
        | libc::ENETDOWN
        | libc::ENETRESET
        | libc::EADDRINUSE
        | libc::EADDRNOTAVAIL
        | libc::ENOTCONN
        | libc::EISCONN
        | libc::ESHUTDOWN
        | libc::EPIPE
        | libc::ENONET
        | libc::ECOMM
        | libc::EPROTO => ErrorClass::Network,
        libc::EINVAL
        | libc::EFAULT
        | libc::EBADF
        | libc::EBADFD
        | libc::ESPIPE
        | libc::ERANGE
        | libc::EDOM
        | libc::ENAMETOOLONG
        | libc::ELOOP
        | libc::EXDEV
        | libc::EILSEQ
        | libc::ENOTSOCK
        | libc::EDESTADDRREQ
        | libc::EMSGSIZE
        | libc::EPROTOTYPE
        | libc::ENOEXEC
        | libc::ENOTBLK
        | libc::ENOTUNIQ => ErrorClass::Invalid,
        libc::ENOSYS
        | libc::EOPNOTSUPP
        | libc::ENOTTY
        | libc::ENOPROTOOPT
        | libc::EPROTONOSUPPORT
        | libc::ESOCKTNOSUPPORT
        | libc::EPFNOSUPPORT
        | libc::EAFNOSUPPORT
        | libc::ENOPKG => ErrorClass::Unsupported,
        libc::EIO
        | libc::EREMOTEIO
        | libc::EUCLEAN
        | libc::EBADMSG
        | libc::ENOLINK
        | libc::ENOMEDIUM
        | libc::EMEDIUMTYPE
        | libc::ENOTRECOVERABLE
        | libc::EHWPOISON => ErrorClass::Io,
        _ => ErrorClass::Other,
    }
}

/// The table as the programs want it: class by number.
pub(crate) fn error_class_table() -> [u8; ERRNOS] {
    std::array::from_fn(|errno| error_class(errno as i32) as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_by_what_one_does_about_them() {
        let check = |errno, class| assert_eq!(error_class(errno), class, "{errno}");
        check(libc::EPERM, ErrorClass::Permission);
        check(libc::EACCES, ErrorClass::Permission);
        check(libc::EROFS, ErrorClass::Permission);
        check(libc::ENOENT, ErrorClass::NotFound);
        check(libc::ECHILD, ErrorClass::NotFound);
        check(libc::EAGAIN, ErrorClass::Busy);
        check(libc::EWOULDBLOCK, ErrorClass::Busy);
        check(libc::EINTR, ErrorClass::Busy);
        check(libc::ENOMEM, ErrorClass::Exhausted);
        check(libc::ENOSPC, ErrorClass::Exhausted);
        check(libc::EMFILE, ErrorClass::Exhausted);
        check(libc::ECONNREFUSED, ErrorClass::Network);
        check(libc::ETIMEDOUT, ErrorClass::Network);
        check(libc::EPIPE, ErrorClass::Network);
        check(libc::EINVAL, ErrorClass::Invalid);
        check(libc::EBADF, ErrorClass::Invalid);
        check(libc::ENOSYS, ErrorClass::Unsupported);
        check(libc::ENOTSUP, ErrorClass::Unsupported);
        check(libc::EIO, ErrorClass::Io);
        check(libc::EUCLEAN, ErrorClass::Io);
        check(0, ErrorClass::Other);
        check(-1, ErrorClass::Other);
        check(4095, ErrorClass::Other);
    }

    #[test]
    fn few_of_the_kernels_numbers_are_left_in_other() {
        // Holes, and what no call gives: channels, streams, a.out libraries, XENIX.
        let others: Vec<i32> =
            (1..=133).filter(|errno| error_class(*errno) == ErrorClass::Other).collect();
        assert!(others.len() < 40, "{others:?}");
    }

    #[test]
    fn classes_are_numbered_as_the_programs_count_them() {
        for (index, class) in ErrorClass::ALL.iter().enumerate() {
            assert_eq!(*class as usize, index);
        }
        assert_eq!(error_class_table()[libc::ENOENT as usize], ErrorClass::NotFound as u8);
    }
}
