//! Which system calls are audit events, and what their arguments mean. Pure.

use libc::c_long;
use tenantry_abi::{
    ARGUMENT_RESULT, CallShape, SHAPE_ADDRESS, SHAPE_LITERAL, SHAPE_SOCKET, SYSCALL_OTHER, SYSCALLS,
};

use crate::EventKind;

const NONE: CallShape = CallShape {
    kind: 0,
    path: 0,
    path_dir: 0,
    target: 0,
    target_dir: 0,
    extra: 0,
    descriptor: 0,
    flags: 0,
};

/// A path is this argument.
const fn path(argument: u8) -> CallShape {
    CallShape { path: argument, ..NONE }
}

/// A path is this argument, and begins at that descriptor.
const fn path_at(path_dir: u8, argument: u8) -> CallShape {
    CallShape { path: argument, path_dir, ..NONE }
}

const fn extra(argument: u8) -> CallShape {
    CallShape { extra: argument, ..NONE }
}

const fn descriptor(argument: u8) -> CallShape {
    CallShape { descriptor: argument, ..NONE }
}

const fn opened(shape: CallShape) -> CallShape {
    CallShape { descriptor: ARGUMENT_RESULT, ..shape }
}

const fn socket(argument: u8, flags: u8) -> CallShape {
    CallShape { descriptor: argument, flags: SHAPE_SOCKET | flags, ..NONE }
}

/// In libc since none of its versions that this build may meet.
const OPEN_TREE_ATTR: c_long = 467;

/// Arguments count from 1 on.
const SHAPES: &[(EventKind, c_long, CallShape)] = &[
    (EventKind::Open, libc::SYS_open, opened(path(1))),
    (EventKind::Open, libc::SYS_creat, opened(path(1))),
    (EventKind::Open, libc::SYS_openat, opened(path_at(1, 2))),
    (EventKind::Open, libc::SYS_openat2, opened(path_at(1, 2))),
    (EventKind::Open, libc::SYS_open_by_handle_at, opened(NONE)),
    (EventKind::File, libc::SYS_unlink, path(1)),
    (EventKind::File, libc::SYS_unlinkat, path_at(1, 2)),
    (EventKind::File, libc::SYS_rmdir, path(1)),
    (EventKind::File, libc::SYS_mkdir, path(1)),
    (EventKind::File, libc::SYS_mkdirat, path_at(1, 2)),
    (EventKind::File, libc::SYS_mknod, path(1)),
    (EventKind::File, libc::SYS_mknodat, path_at(1, 2)),
    (EventKind::File, libc::SYS_rename, CallShape { target: 2, ..path(1) }),
    (EventKind::File, libc::SYS_renameat, CallShape { target: 4, target_dir: 3, ..path_at(1, 2) }),
    (EventKind::File, libc::SYS_renameat2, CallShape { target: 4, target_dir: 3, ..path_at(1, 2) }),
    // The path is the new name, the target what it leads to.
    (EventKind::File, libc::SYS_link, CallShape { target: 1, ..path(2) }),
    (EventKind::File, libc::SYS_linkat, CallShape { target: 2, target_dir: 1, ..path_at(3, 4) }),
    (EventKind::File, libc::SYS_symlink, CallShape { target: 1, flags: SHAPE_LITERAL, ..path(2) }),
    (
        EventKind::File,
        libc::SYS_symlinkat,
        CallShape { target: 1, flags: SHAPE_LITERAL, ..path_at(2, 3) },
    ),
    (EventKind::File, libc::SYS_chmod, path(1)),
    (EventKind::File, libc::SYS_fchmod, descriptor(1)),
    (EventKind::File, libc::SYS_fchmodat, path_at(1, 2)),
    (EventKind::File, libc::SYS_fchmodat2, path_at(1, 2)),
    (EventKind::File, libc::SYS_chown, path(1)),
    (EventKind::File, libc::SYS_lchown, path(1)),
    (EventKind::File, libc::SYS_fchown, descriptor(1)),
    (EventKind::File, libc::SYS_fchownat, path_at(1, 2)),
    (EventKind::File, libc::SYS_truncate, path(1)),
    (EventKind::File, libc::SYS_ftruncate, descriptor(1)),
    (EventKind::Connect, libc::SYS_connect, socket(1, SHAPE_ADDRESS)),
    (EventKind::Accept, libc::SYS_accept, socket(ARGUMENT_RESULT, 0)),
    (EventKind::Accept, libc::SYS_accept4, socket(ARGUMENT_RESULT, 0)),
    (EventKind::Bind, libc::SYS_bind, socket(1, SHAPE_ADDRESS)),
    (EventKind::Listen, libc::SYS_listen, socket(1, 0)),
    // The path is where it is mounted, the target what is.
    (
        EventKind::Mount,
        libc::SYS_mount,
        CallShape { target: 1, flags: SHAPE_LITERAL, extra: 3, ..path(2) },
    ),
    (EventKind::Mount, libc::SYS_umount2, path(1)),
    (EventKind::Mount, libc::SYS_pivot_root, CallShape { target: 2, ..path(1) }),
    (EventKind::Mount, libc::SYS_chroot, path(1)),
    (EventKind::Mount, libc::SYS_open_tree, path_at(1, 2)),
    (EventKind::Mount, OPEN_TREE_ATTR, path_at(1, 2)),
    (
        EventKind::Mount,
        libc::SYS_move_mount,
        CallShape { target: 2, target_dir: 1, ..path_at(3, 4) },
    ),
    (EventKind::Mount, libc::SYS_fsopen, extra(1)),
    (EventKind::Mount, libc::SYS_fsconfig, extra(3)),
    (EventKind::Mount, libc::SYS_fsmount, NONE),
    (EventKind::Mount, libc::SYS_fspick, path_at(1, 2)),
    (EventKind::Mount, libc::SYS_mount_setattr, path_at(1, 2)),
    (EventKind::Namespace, libc::SYS_setns, NONE),
    (EventKind::Namespace, libc::SYS_unshare, NONE),
    (EventKind::Namespace, libc::SYS_clone, NONE),
    (EventKind::Namespace, libc::SYS_clone3, NONE),
    (EventKind::Ptrace, libc::SYS_ptrace, NONE),
    (EventKind::Ptrace, libc::SYS_process_vm_readv, NONE),
    (EventKind::Ptrace, libc::SYS_process_vm_writev, NONE),
    (EventKind::Ptrace, libc::SYS_pidfd_getfd, NONE),
    (EventKind::Kernel, libc::SYS_bpf, NONE),
    (EventKind::Kernel, libc::SYS_perf_event_open, NONE),
    (EventKind::Kernel, libc::SYS_init_module, NONE),
    (EventKind::Kernel, libc::SYS_finit_module, descriptor(1)),
    (EventKind::Kernel, libc::SYS_delete_module, extra(1)),
    (EventKind::Kernel, libc::SYS_kexec_load, NONE),
    (EventKind::Kernel, libc::SYS_kexec_file_load, descriptor(1)),
    (EventKind::Kernel, libc::SYS_reboot, NONE),
    (EventKind::Kernel, libc::SYS_iopl, NONE),
    (EventKind::Kernel, libc::SYS_ioperm, NONE),
    // What it does afterwards is no call: whoever may not be unseen should not have it.
    (EventKind::Kernel, libc::SYS_io_uring_setup, NONE),
    (EventKind::Credentials, libc::SYS_setuid, NONE),
    (EventKind::Credentials, libc::SYS_setgid, NONE),
    (EventKind::Credentials, libc::SYS_setreuid, NONE),
    (EventKind::Credentials, libc::SYS_setregid, NONE),
    (EventKind::Credentials, libc::SYS_setresuid, NONE),
    (EventKind::Credentials, libc::SYS_setresgid, NONE),
    (EventKind::Credentials, libc::SYS_setfsuid, NONE),
    (EventKind::Credentials, libc::SYS_setfsgid, NONE),
    (EventKind::Credentials, libc::SYS_setgroups, NONE),
    (EventKind::Credentials, libc::SYS_capset, NONE),
    (EventKind::Keyring, libc::SYS_add_key, extra(2)),
    (EventKind::Keyring, libc::SYS_request_key, extra(2)),
    (EventKind::Keyring, libc::SYS_keyctl, NONE),
];

/// Numbers of the 32-bit door (arch/x86/entry/syscalls/syscall_32.tbl) and those of the same
/// calls here. `socketcall` is the kernel program's own matter and leads anywhere.
const COMPAT: &[(u16, c_long)] = &[
    (5, libc::SYS_open),
    (8, libc::SYS_creat),
    (9, libc::SYS_link),
    (10, libc::SYS_unlink),
    (14, libc::SYS_mknod),
    (15, libc::SYS_chmod),
    (16, libc::SYS_lchown),
    (21, libc::SYS_mount),
    (22, libc::SYS_umount2),
    (23, libc::SYS_setuid),
    (26, libc::SYS_ptrace),
    (38, libc::SYS_rename),
    (39, libc::SYS_mkdir),
    (40, libc::SYS_rmdir),
    (46, libc::SYS_setgid),
    (52, libc::SYS_umount2),
    (61, libc::SYS_chroot),
    (70, libc::SYS_setreuid),
    (71, libc::SYS_setregid),
    (81, libc::SYS_setgroups),
    (83, libc::SYS_symlink),
    (88, libc::SYS_reboot),
    (92, libc::SYS_truncate),
    (93, libc::SYS_ftruncate),
    (94, libc::SYS_fchmod),
    (95, libc::SYS_fchown),
    (101, libc::SYS_ioperm),
    (110, libc::SYS_iopl),
    (120, libc::SYS_clone),
    (128, libc::SYS_init_module),
    (129, libc::SYS_delete_module),
    (138, libc::SYS_setfsuid),
    (139, libc::SYS_setfsgid),
    (164, libc::SYS_setresuid),
    (170, libc::SYS_setresgid),
    (182, libc::SYS_chown),
    (185, libc::SYS_capset),
    (193, libc::SYS_truncate),
    (194, libc::SYS_ftruncate),
    (198, libc::SYS_lchown),
    (203, libc::SYS_setreuid),
    (204, libc::SYS_setregid),
    (206, libc::SYS_setgroups),
    (207, libc::SYS_fchown),
    (208, libc::SYS_setresuid),
    (210, libc::SYS_setresgid),
    (212, libc::SYS_chown),
    (213, libc::SYS_setuid),
    (214, libc::SYS_setgid),
    (215, libc::SYS_setfsuid),
    (216, libc::SYS_setfsgid),
    (217, libc::SYS_pivot_root),
    (283, libc::SYS_kexec_load),
    (286, libc::SYS_add_key),
    (287, libc::SYS_request_key),
    (288, libc::SYS_keyctl),
    (295, libc::SYS_openat),
    (296, libc::SYS_mkdirat),
    (297, libc::SYS_mknodat),
    (298, libc::SYS_fchownat),
    (301, libc::SYS_unlinkat),
    (302, libc::SYS_renameat),
    (303, libc::SYS_linkat),
    (304, libc::SYS_symlinkat),
    (306, libc::SYS_fchmodat),
    (310, libc::SYS_unshare),
    (336, libc::SYS_perf_event_open),
    (342, libc::SYS_open_by_handle_at),
    (346, libc::SYS_setns),
    (347, libc::SYS_process_vm_readv),
    (348, libc::SYS_process_vm_writev),
    (350, libc::SYS_finit_module),
    (353, libc::SYS_renameat2),
    (357, libc::SYS_bpf),
    (361, libc::SYS_bind),
    (362, libc::SYS_connect),
    (363, libc::SYS_listen),
    (364, libc::SYS_accept4),
];

/// From here on both doors have the same numbers.
const FIRST_SHARED: usize = 424;

pub(crate) fn call_shapes() -> [CallShape; SYSCALLS] {
    let mut shapes = [NONE; SYSCALLS];
    for (kind, nr, shape) in SHAPES {
        shapes[*nr as usize] = CallShape { kind: *kind as u8 + 1, ..*shape };
    }
    // No kind: whoever comes by this number has another one, which tells.
    shapes[SYSCALL_OTHER as usize].kind = u8::MAX;
    shapes
}

pub(crate) fn compat_numbers() -> [u16; SYSCALLS] {
    let shapes = call_shapes();
    let mut numbers = [0; SYSCALLS];
    for (nr, number) in numbers.iter_mut().enumerate().take(SYSCALL_OTHER as usize) {
        if nr >= FIRST_SHARED && shapes[nr].kind != 0 {
            *number = nr as u16;
        }
    }
    for (compat, nr) in COMPAT {
        numbers[usize::from(*compat)] = *nr as u16;
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_call_has_one_shape_whose_arguments_exist() {
        let numbers: HashSet<_> = SHAPES.iter().map(|(_, nr, _)| *nr).collect();
        assert_eq!(numbers.len(), SHAPES.len());
        for (_, nr, shape) in SHAPES {
            assert!((0..i64::from(SYSCALL_OTHER)).contains(nr));
            let CallShape { path, path_dir, target, target_dir, extra, descriptor, .. } = *shape;
            assert!([path, path_dir, target, target_dir, extra].iter().all(|a| *a <= 6), "{nr}");
            assert!(descriptor <= ARGUMENT_RESULT);
        }
    }

    #[test]
    fn each_32_bit_number_leads_to_a_call_that_is_an_event() {
        let shapes = call_shapes();
        let numbers = compat_numbers();
        for (compat, nr) in COMPAT {
            assert_ne!(shapes[*nr as usize].kind, 0, "{compat}");
            assert_eq!(i64::from(numbers[usize::from(*compat)]), *nr, "{compat} comes twice");
        }
        assert_eq!(i64::from(numbers[437]), libc::SYS_openat2);
        assert_eq!(numbers[20], 0, "getpid");
    }
}
