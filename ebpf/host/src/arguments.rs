//! How many arguments a system call takes. What stands in the other registers then is none of
//! the call's, and perhaps an address that is nobody's business. Pure.

use libc::c_long;
use tenantry_abi::SYSCALLS;

/// As many as there are registers for: of a call that nobody asked about.
const MOST: u8 = 6;

/// Those that are audit events, by their count from one to five.
const BY_COUNT: [&[c_long]; 5] = [
    &[
        libc::SYS_chroot,
        libc::SYS_iopl,
        libc::SYS_rmdir,
        libc::SYS_setfsgid,
        libc::SYS_setfsuid,
        libc::SYS_setgid,
        libc::SYS_setuid,
        libc::SYS_unlink,
        libc::SYS_unshare,
    ],
    &[
        libc::SYS_capset,
        libc::SYS_chmod,
        libc::SYS_clone3,
        libc::SYS_creat,
        libc::SYS_delete_module,
        libc::SYS_fchmod,
        libc::SYS_fsopen,
        libc::SYS_ftruncate,
        libc::SYS_io_uring_setup,
        libc::SYS_link,
        libc::SYS_listen,
        libc::SYS_mkdir,
        libc::SYS_pivot_root,
        libc::SYS_rename,
        libc::SYS_setgroups,
        libc::SYS_setns,
        libc::SYS_setregid,
        libc::SYS_setreuid,
        libc::SYS_symlink,
        libc::SYS_truncate,
        libc::SYS_umount2,
    ],
    &[
        libc::SYS_accept,
        libc::SYS_bind,
        libc::SYS_bpf,
        libc::SYS_chown,
        libc::SYS_connect,
        libc::SYS_fchmodat,
        libc::SYS_fchown,
        libc::SYS_finit_module,
        libc::SYS_fsmount,
        libc::SYS_fspick,
        libc::SYS_init_module,
        libc::SYS_ioperm,
        libc::SYS_lchown,
        libc::SYS_mkdirat,
        libc::SYS_mknod,
        libc::SYS_open,
        libc::SYS_open_by_handle_at,
        libc::SYS_open_tree,
        libc::SYS_pidfd_getfd,
        libc::SYS_setresgid,
        libc::SYS_setresuid,
        libc::SYS_symlinkat,
        libc::SYS_unlinkat,
    ],
    &[
        libc::SYS_accept4,
        libc::SYS_fchmodat2,
        libc::SYS_kexec_load,
        libc::SYS_mknodat,
        libc::SYS_openat,
        libc::SYS_openat2,
        libc::SYS_ptrace,
        libc::SYS_reboot,
        libc::SYS_renameat,
        libc::SYS_request_key,
    ],
    &[
        libc::SYS_add_key,
        libc::SYS_clone,
        libc::SYS_fchownat,
        libc::SYS_fsconfig,
        libc::SYS_kexec_file_load,
        libc::SYS_keyctl,
        libc::SYS_linkat,
        libc::SYS_mount,
        libc::SYS_mount_setattr,
        libc::SYS_move_mount,
        libc::SYS_perf_event_open,
        libc::SYS_renameat2,
    ],
];

static COUNTS: [u8; SYSCALLS] = counts();

const fn counts() -> [u8; SYSCALLS] {
    let mut counts = [MOST; SYSCALLS];
    let mut count = 0;
    while count < BY_COUNT.len() {
        let mut place = 0;
        while place < BY_COUNT[count].len() {
            counts[BY_COUNT[count][place] as usize] = count as u8 + 1;
            place += 1;
        }
        count += 1;
    }
    counts
}

/// Of one that is no audit event, six.
pub fn argument_count(nr: u32) -> usize {
    usize::from(COUNTS.get(nr as usize).copied().unwrap_or(MOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_stands_in_two_lists() {
        let all: Vec<c_long> = BY_COUNT.concat();
        let once: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(once.len(), all.len());
    }

    #[test]
    fn calls_with_few_arguments_and_unknown_ones() {
        let of = |nr: c_long| argument_count(nr as u32);
        assert_eq!(of(libc::SYS_unshare), 1);
        assert_eq!(of(libc::SYS_connect), 3);
        assert_eq!(of(libc::SYS_renameat2), 5);
        assert_eq!(of(libc::SYS_process_vm_readv), 6);
        assert_eq!((argument_count(511), argument_count(u32::MAX)), (6, 6));
    }
}
