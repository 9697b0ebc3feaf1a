//! The system calls that rustix does not cover, each behind a safe function.
//!
//! Owns all `unsafe` of the shim. Must not decide anything: every function is one
//! call and its error. Everything here relies on one fact that both `main`s uphold (the
//! shim's and the OCI runtime's): the program is single-threaded from birth to death, and
//! so is each child it clones.

use std::ffi::{CStr, CString};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use rustix::io::{Errno, Result};
use rustix::thread::UnshareFlags;

/// libc's constant of this name is an `int`, which it does not fit.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `MOUNT_ATTR__ATIME`.
const ACCESS_TIMES: u64 = 0x70;

/// Attributes to set on a mount that this process created.
#[derive(Clone, Copy, Debug, Default)]
pub struct MountChange<'fd> {
    /// `MOUNT_ATTR_*` bits.
    pub set: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, or 0 for no change.
    pub propagation: u64,
    pub recursive: bool,
    /// Show files as this user namespace maps them.
    pub id_map: Option<BorrowedFd<'fd>>,
}

#[derive(Debug)]
pub enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

fn check(returned: libc::c_long) -> Result<libc::c_long> {
    if returned < 0 {
        Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
    } else {
        Ok(returned)
    }
}

/// Like `fork`, with namespaces and a cgroup: the child has its own copy of
/// the memory and returns here as well. SIGCHLD is the exit signal.
pub fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let mut pidfd: libc::c_int = -1;
    // SAFETY: clone_args is a plain struct of integers for which zero is valid.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = namespaces | libc::CLONE_PIDFD as u64;
    arguments.pidfd = &raw mut pidfd as u64;
    arguments.exit_signal = libc::SIGCHLD as u64;
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and CLONE_THREAD the child works on a copy of this
    // memory, and a single-threaded process leaves no lock held in that copy.
    // `arguments` and `pidfd` outlive the call.
    let returned = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    match check(returned)? {
        0 => Ok(Cloned::Child),
        pid => {
            // SAFETY: CLONE_PIDFD stored a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Cloned::Parent { pid: pid as i32, pidfd })
        }
    }
}

/// Only for namespace flags: nothing of Rust's view of memory or files changes.
pub fn unshare(namespaces: UnshareFlags) -> Result<()> {
    debug_assert!(!namespaces.contains(UnshareFlags::FILES));
    // SAFETY: the descriptor table is not unshared, and there is no other thread.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// `mount_setattr` on the mount that `mount` refers to.
pub fn change_mount(mount: BorrowedFd<'_>, change: MountChange<'_>) -> Result<()> {
    // How access times are kept is one field of several bits: cleared before it is set.
    let times = if change.set & ACCESS_TIMES != 0 { ACCESS_TIMES } else { 0 };
    let mut attributes = libc::mount_attr {
        attr_set: change.set,
        attr_clr: times,
        propagation: change.propagation,
        userns_fd: 0,
    };
    if let Some(namespace) = change.id_map {
        attributes.attr_set |= libc::MOUNT_ATTR_IDMAP;
        attributes.userns_fd = namespace.as_raw_fd() as u64;
    }
    let mut flags = libc::AT_EMPTY_PATH;
    if change.recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is an empty C string and `attributes` outlives the call,
    // which is told its true size.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    check(returned).map(drop)
}

/// A descriptor that this process was born with. `None` if it is not open.
/// Each number may be taken once only.
pub fn take_descriptor(number: i32) -> Option<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer and changes nothing.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    if flags < 0 {
        return None;
    }
    // SAFETY: it is open, and `main` takes each of the contract's numbers once,
    // before it opens anything else.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` to `last`. The caller must not use or
/// drop an owner of any of them afterwards: it is about to exec or exit.
pub fn close_range(first: u32, last: u32) -> Result<()> {
    if first > last {
        return Ok(());
    }
    // SAFETY: no pointers. Owners of these descriptors are never used again, as
    // the function's contract says.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
}

/// Marks every descriptor from `first` on close-on-exec.
pub fn close_on_exec_from(first: u32) -> Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no pointers; only a flag of each descriptor changes.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) }).map(drop)
}

/// Every disposition back to default: `exec` would pass on the ignored ones.
pub fn reset_signal_dispositions() {
    // The kernel's `struct sigaction`: handler (SIG_DFL is 0), flags, restorer, mask.
    // libc's own function refuses the two signals that it reserves.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        // SAFETY: the kernel reads `default`, which has its struct's size. It fails
        // for SIGKILL and SIGSTOP only, which cannot be ignored anyway.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
}

/// Blocks all signals, or none. Those that the kernel forces (SIGKILL, a fault of
/// our own) come through regardless.
pub fn block_signals(block: bool) {
    let set: u64 = if block { u64::MAX } else { 0 };
    // SAFETY: the kernel reads eight bytes of `set`; the old mask is not asked for.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const set,
            ptr::null_mut::<u64>(),
            size_of::<u64>(),
        )
    };
}

/// Waits for the next signal of any kind. All must be blocked.
pub fn wait_for_signal() -> Result<i32> {
    let set = u64::MAX;
    // SAFETY: the kernel reads eight bytes of `set`; a null siginfo is not written, a null
    // timeout is none.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_rt_sigtimedwait,
            &raw const set,
            ptr::null_mut::<libc::siginfo_t>(),
            ptr::null::<libc::timespec>(),
            size_of::<u64>(),
        )
    };
    check(returned).map(|signal| signal as i32)
}

/// Any signal number, realtime ones included.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<()> {
    // SAFETY: the siginfo pointer is null, which the call allows.
    let returned = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    check(returned).map(drop)
}

/// Installs a `struct sock_filter[]` on this thread.
pub fn install_seccomp(program: &[u8]) -> Result<()> {
    let filter_bytes = size_of::<libc::sock_filter>();
    if program.is_empty() || !program.len().is_multiple_of(filter_bytes) {
        return Err(Errno::INVAL);
    }
    let length = u16::try_from(program.len() / filter_bytes).map_err(|_| Errno::INVAL)?;
    let program = libc::sock_fprog {
        len: length,
        filter: program.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the kernel copies `len` filters from `filter`, byte by byte, so
    // alignment does not matter, and never writes them.
    let returned = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program)
    };
    check(returned).map(drop)
}

/// An empty session keyring: keys of whoever started the agent stay out of reach.
pub fn new_session_keyring() -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: a null name asks for an anonymous keyring.
    let returned = unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, ptr::null::<libc::c_char>())
    };
    check(returned).map(drop)
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

/// Arguments of several `execve` attempts, laid out once.
#[derive(Debug)]
pub struct ExecVectors<'strings> {
    arguments: Vec<*const libc::c_char>,
    environment: Vec<*const libc::c_char>,
    strings: std::marker::PhantomData<&'strings [CString]>,
}

impl<'strings> ExecVectors<'strings> {
    pub fn new(arguments: &'strings [CString], environment: &'strings [CString]) -> Self {
        Self {
            arguments: pointers(arguments),
            environment: pointers(environment),
            strings: std::marker::PhantomData,
        }
    }

    /// Returns only if it failed.
    pub fn execve(&self, path: &CStr) -> Errno {
        // SAFETY: both arrays end in null and their strings live as long as `self`.
        unsafe { libc::execve(path.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
        last_error()
    }

    /// Executes the file behind `program`, an `O_PATH` descriptor.
    pub fn execute_descriptor(&self, program: BorrowedFd<'_>) -> Errno {
        // SAFETY: as above; the path is empty and AT_EMPTY_PATH says so.
        unsafe {
            libc::syscall(
                libc::SYS_execveat,
                program.as_raw_fd(),
                c"".as_ptr(),
                self.arguments.as_ptr(),
                self.environment.as_ptr(),
                libc::AT_EMPTY_PATH,
            )
        };
        last_error()
    }
}

fn last_error() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Leaves a child without running destructors or flushing what it inherited.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Gives free heap pages back to the kernel.
pub fn trim_heap() {
    // SAFETY: no other thread uses the allocator.
    unsafe { libc::malloc_trim(0) };
}
