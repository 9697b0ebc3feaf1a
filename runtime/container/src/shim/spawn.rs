//! The birth and the end of a shim process.
//!
//! Owns the descriptors' way to their fixed numbers and the reaping. `posix_spawn`
//! (clone with `CLONE_VM | CLONE_VFORK`) costs the same however large the agent
//! is; a `pre_exec` closure would make the standard library fork instead. The
//! shim stays in the agent's cgroup: only what it starts belongs to the container.

use std::{
    ffi::{CStr, CString},
    fs::File,
    io::{self, Seek, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    time::Duration,
};

use nix::{
    spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn},
    sys::signal::SigSet,
};
use rustix::{
    fs::{MemfdFlags, SealFlags},
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tenantry_shim::spec::{LaunchSpec, fd};
use tokio::io::{Interest, unix::AsyncFd};

use super::program::ShimProgram;

/// No descriptor of [`fd`] has this number or a higher one.
pub const FIRST_FREE: i32 = 16;

/// What a shim is born with, see [`fd`].
#[derive(Debug)]
pub struct Birth {
    pub spec: OwnedFd,
    pub listener: UnixListener,
    pub seccomp: Option<OwnedFd>,
    pub stdin: Option<OwnedFd>,
    pub network: Option<OwnedFd>,
}

/// A shim that lives, or whose end has not been seen yet.
#[derive(Debug)]
pub struct Shim {
    pub pid: i32,
    pidfd: AsyncFd<OwnedFd>,
}

/// The spec in a sealed memfd, at offset 0.
pub fn seal_spec(spec: &LaunchSpec) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create("tenantry-spec", flags)?);
    file.write_all(&serde_json::to_vec(spec)?)?;
    file.rewind()?;
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

/// Starts the shim; returns once it has executed. `name` is what `ps` shows.
/// Blocks for about as long as the kernel needs to load a static program.
pub fn spawn(program: &ShimProgram, name: &str, birth: Birth) -> io::Result<i32> {
    // Copies above the fixed numbers, so that no dup2 overwrites a later source.
    let raise = |fd: &dyn AsFd| rustix::io::fcntl_dupfd_cloexec(fd.as_fd(), FIRST_FREE);
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let mut placed = vec![
        (raise(&null)?, 0),
        (raise(&null)?, 1),
        (raise(&null)?, 2),
        (raise(&birth.spec)?, fd::SPEC),
        (raise(&birth.listener)?, fd::LISTENER),
    ];
    if let Some(seccomp) = &birth.seccomp {
        placed.push((raise(seccomp)?, fd::SECCOMP));
    }
    if let Some(stdin) = &birth.stdin {
        placed.push((raise(stdin)?, fd::STDIN));
    }
    if let Some(network) = &birth.network {
        placed.push((raise(network)?, fd::NETWORK));
    }
    let mut actions = PosixSpawnFileActions::init()?;
    for (source, target) in &placed {
        actions.add_dup2(source.as_raw_fd(), *target)?;
    }
    let mut attributes = PosixSpawnAttr::init()?;
    attributes.set_flags(
        PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF,
    )?;
    attributes.set_sigmask(&SigSet::empty())?;
    attributes.set_sigdefault(&SigSet::all())?;
    // A group of its own: Ctrl-C at the agent's terminal is not for containers.
    let name = CString::new(name)?;
    let arguments: [&CStr; 2] = [c"tenantry-shim", &name];
    let environment: [&CStr; 0] = [];
    let pid = posix_spawn(program.path(), &actions, &attributes, &arguments, &environment)?;
    Ok(pid.as_raw())
}

impl Shim {
    /// Of a child, or of a process that is known to live right now (its socket
    /// answered), so that the number cannot be another's.
    pub fn watch(pid: i32) -> io::Result<Self> {
        let number = Pid::from_raw(pid).ok_or_else(|| io::Error::other("pid 0"))?;
        let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
        // SAFETY: an OwnedFd names the same open descriptor for as long as it lives,
        // and the AsyncFd owns it: nothing closes it while it is registered.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }?;
        Ok(Self { pid, pidfd })
    }

    /// Waits until the process has ended, and reaps it if it is ours to reap.
    pub async fn ended(&self) {
        // Readable means ended; a pidfd never becomes unreadable again.
        let _ = self.pidfd.readable().await;
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        // ECHILD: an earlier agent's child, which init reaps.
        let _ = rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// Waits for its own end, for as long as `patience`; then SIGKILL.
    pub async fn end(&self, patience: Duration) {
        if tokio::time::timeout(patience, self.ended()).await.is_ok() {
            return;
        }
        tracing::warn!(shim_pid = self.pid, "shim did not end by itself; killed");
        let _ = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL);
        self.ended().await;
    }
}
