//! Names of numbers that system calls take and return. Pure.

macro_rules! names {
    ($($name:ident)+) => { &[$((libc::$name, stringify!($name))),+] };
}

/// What the kernel alone knows: the call was interrupted, and begins anew or fails with EINTR.
const RESTARTS: [(i32, &str); 5] = [
    (512, "ERESTARTSYS"),
    (513, "ERESTARTNOINTR"),
    (514, "ERESTARTNOHAND"),
    (516, "ERESTART_RESTARTBLOCK"),
    (524, "ENOTSUPP"),
];

const ERRORS: &[(i32, &str)] = names! {
    EPERM ENOENT ESRCH EINTR EIO ENXIO E2BIG ENOEXEC EBADF ECHILD EAGAIN ENOMEM EACCES EFAULT
    ENOTBLK EBUSY EEXIST EXDEV ENODEV ENOTDIR EISDIR EINVAL ENFILE EMFILE ENOTTY ETXTBSY EFBIG
    ENOSPC ESPIPE EROFS EMLINK EPIPE EDOM ERANGE EDEADLK ENAMETOOLONG ENOLCK ENOSYS ENOTEMPTY
    ELOOP ENODATA ETIME EPROTO EOVERFLOW EBADMSG ENOTSOCK EDESTADDRREQ EMSGSIZE EPROTOTYPE
    ENOPROTOOPT EPROTONOSUPPORT ESOCKTNOSUPPORT EOPNOTSUPP EPFNOSUPPORT EAFNOSUPPORT EADDRINUSE
    EADDRNOTAVAIL ENETDOWN ENETUNREACH ENETRESET ECONNABORTED ECONNRESET ENOBUFS EISCONN ENOTCONN
    ESHUTDOWN ETIMEDOUT ECONNREFUSED EHOSTDOWN EHOSTUNREACH EALREADY EINPROGRESS ESTALE EDQUOT
    ECANCELED ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED EUCLEAN
};

const OPEN_FLAGS: &[(i32, &str)] = names! {
    O_CREAT O_EXCL O_NOCTTY O_TRUNC O_APPEND O_NONBLOCK O_DIRECT O_DIRECTORY O_NOFOLLOW O_NOATIME
    O_CLOEXEC O_PATH
};

/// Of an error's number, as `errno` has it.
pub fn error_name(number: i32) -> Option<&'static str> {
    let all = ERRORS.iter().chain(&RESTARTS);
    all.into_iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// Of `open`'s flags, the way of access first.
pub fn open_flag_names(flags: u32) -> Vec<&'static str> {
    let flags = flags as i32;
    let access = match flags & libc::O_ACCMODE {
        libc::O_WRONLY => "O_WRONLY",
        libc::O_RDWR => "O_RDWR",
        _ => "O_RDONLY",
    };
    let mut names = vec![access];
    names.extend(OPEN_FLAGS.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name));
    // Each has the bit of another one within it.
    if flags & libc::O_TMPFILE == libc::O_TMPFILE {
        names.retain(|name| *name != "O_DIRECTORY");
        names.push("O_TMPFILE");
    }
    match flags & libc::O_SYNC {
        0 => {}
        libc::O_SYNC => names.push("O_SYNC"),
        _ => names.push("O_DSYNC"),
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_and_flags_have_the_names_of_their_manual_pages() {
        assert_eq!(error_name(2), Some("ENOENT"));
        assert_eq!(error_name(111), Some("ECONNREFUSED"));
        assert_eq!(error_name(512), Some("ERESTARTSYS"));
        assert_eq!(error_name(0), None);
        let check = |flags: i32, expected: &[&str]| {
            assert_eq!(open_flag_names(flags as u32), expected, "{flags:o}");
        };
        check(0, &["O_RDONLY"]);
        check(0o1101, &["O_WRONLY", "O_CREAT", "O_TRUNC"]);
        check(libc::O_RDWR | libc::O_SYNC, &["O_RDWR", "O_SYNC"]);
        check(libc::O_RDWR | libc::O_DSYNC, &["O_RDWR", "O_DSYNC"]);
        check(libc::O_WRONLY | libc::O_TMPFILE, &["O_WRONLY", "O_TMPFILE"]);
    }
}
