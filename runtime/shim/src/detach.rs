//! How a freshly spawned shim leaves its parent's world.
//!
//! Called once, first, by `main`.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, StatVfsMountFlags};
use rustix::io::Result;
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::process::DumpableBehavior;
use tenantry_shim::spec::fd;

use crate::sys::{self, ExecVectors, MountChange};

/// Its own session, no working directory, no terminal, no inherited signal
/// handling, and unreadable to a container that its children will enter.
pub fn detach() -> Result<()> {
    // A container's root may not trace a child that has entered its namespaces
    // and still holds the host's descriptors. `execve` undoes this.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // Fails for the leader of a process group, which then already is on its own.
    let _ = rustix::process::setsid();
    rustix::process::chdir("/")?;
    // What was executed through a descriptor is named after its number.
    rustix::thread::set_name(c"tenantry-shim")?;
    rustix::process::umask(Mode::empty());
    // A shim that dies takes the container's output along. Only SIGKILL may.
    sys::block_signals(true);
    sys::reset_signal_dispositions();
    sys::close_range(fd::NETWORK.unsigned_abs() + 1, u32::MAX)?;
    sys::close_on_exec_from(fd::SPEC.unsigned_abs())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    rustix::stdio::dup2_stdin(&null)?;
    rustix::stdio::dup2_stdout(&null)?;
    rustix::stdio::dup2_stderr(&null)
}

/// Executes this program again through a read-only mount of its own file, unless
/// it was spawned that way.
///
/// A script in the container whose interpreter is `/proc/self/exe` makes `exec`
/// run the shim's file inside; through `/proc/PID/exe` root could then write to
/// it (CVE-2019-5736). A file on a read-only mount cannot be opened for writing.
/// An agent that spawns the shim from such a mount saves one `execve`. `environment` is what
/// the program executed again has of its own.
pub fn execute_from_read_only_mount(environment: &[CString]) -> Result<()> {
    const OWN: &str = "/proc/self/exe";
    if rustix::fs::statvfs(OWN)?.f_flag.contains(StatVfsMountFlags::RDONLY) {
        return Ok(());
    }
    let own = read_only_copy(OWN)?;
    let arguments: Vec<CString> = std::env::args_os()
        .map(|argument| CString::new(std::os::unix::ffi::OsStringExt::into_vec(argument)))
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| rustix::io::Errno::INVAL)?;
    Err(ExecVectors::new(&arguments, environment).execute_descriptor(own.as_fd()))
}

fn read_only_copy(path: &str) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, path, flags)?;
    let set = u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits());
    sys::change_mount(
        copy.as_fd(),
        MountChange { set, propagation: libc::MS_PRIVATE, ..MountChange::default() },
    )?;
    Ok(copy)
}
