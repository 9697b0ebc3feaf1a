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

/// By number, as `linux/capability.h` has them, without their `CAP_`.
const CAPABILITIES: &str = "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID \
    SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER \
    SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE \
    SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN \
    SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE";

const OPEN_FLAGS: &[(i32, &str)] = names! {
    O_CREAT O_EXCL O_NOCTTY O_TRUNC O_APPEND O_NONBLOCK O_DIRECT O_DIRECTORY O_NOFOLLOW O_NOATIME
    O_CLOEXEC O_PATH
};

/// Of an error's number, as `errno` has it.
pub fn error_name(number: i32) -> Option<&'static str> {
    let all = ERRORS.iter().chain(&RESTARTS);
    all.into_iter().find(|(known, _)| *known == number).map(|(_, name)| *name)
}

/// Of a capability's number: `CAP_SYS_ADMIN`. A number that is newer than this program has none.
pub fn capability_name(number: u32) -> String {
    match CAPABILITIES.split_ascii_whitespace().nth(number as usize) {
        Some(name) => format!("CAP_{name}"),
        None => number.to_string(),
    }
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
    fn errors_capabilities_and_flags_have_the_names_of_their_manual_pages() {
        assert_eq!(error_name(2), Some("ENOENT"));
        assert_eq!(error_name(111), Some("ECONNREFUSED"));
        assert_eq!(error_name(512), Some("ERESTARTSYS"));
        assert_eq!(error_name(0), None);
        assert_eq!(capability_name(0), "CAP_CHOWN");
        assert_eq!(capability_name(21), "CAP_SYS_ADMIN");
        assert_eq!(capability_name(40), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(capability_name(41), "41");
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
