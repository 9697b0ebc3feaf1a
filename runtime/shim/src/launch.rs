//! The birth of a container's first process, up to the start gate and `execve`.
//!
//! ```text
//! shim                                child (own namespaces)
//!   take_trees, clone3 ─────────────▶
//!   [uid_map, ID-mapped overlay ────▶]  file systems, pivot_root, mounts
//!   Created to the watchers             v1 cgroups, cgroup namespace, waits
//!   go ─────────────────────────────▶   cwd, privileges
//!                              ◀─ EOF   execve
//! ```
//!
//! Called once, by `main`. A failure leaves no child.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::{IdMapping, LaunchSpec, Namespace, Process};

use crate::cgroup::{Doors, Placement};
use crate::channel::{self, ChildEnd, ShimEnd};
use crate::failure::{at, failure};
use crate::mounts::Detached;
use crate::namespaces::{self, Shared};
use crate::plan::Step;
use crate::sys::{self, Cloned};
use crate::{init, mounts, overlay, plan, privileges, program, terminal};

/// A first process that waits at the gate, or is on its way there.
#[derive(Debug)]
pub struct Launched {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: ShimEnd,
    /// `None` if it has a terminal, which comes through the channel.
    pub outputs: Option<Outputs<OwnedFd>>,
}

/// Ends of the two pipes.
#[derive(Debug)]
pub struct Outputs<End> {
    pub stdout: End,
    pub stderr: End,
}

/// Descriptors of the contract that a child needs.
#[derive(Debug)]
pub struct Inherited {
    pub stdin: Option<OwnedFd>,
    pub seccomp: Option<OwnedFd>,
    /// The network namespace of another container. The shim keeps it no longer than the birth
    /// takes: that one may end before this one.
    pub network: Option<OwnedFd>,
}

struct ChildInput<'a> {
    spec: &'a LaunchSpec,
    steps: &'a [Step],
    trees: Detached,
    shared: Shared,
    inherited: &'a Inherited,
    outputs: Option<Outputs<OwnedFd>>,
    placement: &'a Placement,
    doors: Doors,
}

pub fn launch(
    spec: &LaunchSpec,
    placement: &Placement,
    inherited: &Inherited,
) -> Result<Launched, Failure> {
    let steps = plan::plan(spec);
    let shared = Shared::open(spec)?;
    let trees = mounts::take_trees(&steps)?;
    let doors = placement.open()?;
    let (outputs, child_outputs) = match spec.process.terminal {
        Some(_) => (None, None),
        None => output_pipes(spec).map(|(ours, its)| (Some(ours), Some(its)))?,
    };
    let (channel, child_end) = channel::pair().map_err(at("socketpair", "start"))?;
    shared.enter_pid()?;
    // The child is born with this working directory, but in its own copy of the
    // mounts: it need not walk there, which a mapped root may not be able to.
    rustix::process::chdir(&spec.rootfs.mountpoint)
        .map_err(at("chdir", spec.rootfs.mountpoint.display()))?;
    let new = u64::from(namespaces::new_ones(spec).bits());
    let (pid, pidfd) = match sys::clone3(new, Some(doors.unified.as_fd())) {
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Cloned::Child) => {
            drop(channel);
            let input = ChildInput {
                spec,
                steps: &steps,
                trees,
                shared,
                inherited,
                outputs: child_outputs,
                placement,
                doors,
            };
            let failure = match become_container(input, &child_end) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            child_end.fail(&failure);
            sys::exit_now(1)
        }
        Err(errno) => return Err(failure("clone3", "namespaces", errno)),
    };
    // From here on the child's ends are the child's alone: its death is seen.
    drop((child_end, child_outputs, trees, shared, doors));
    let launched = Launched { pid, pidfd, channel, outputs };
    match equip(&launched, spec) {
        Ok(()) => Ok(launched),
        Err(failure) => {
            kill_and_reap(launched.pidfd.as_fd());
            // What the child said first is why the shim failed.
            loop {
                match launched.channel.receive() {
                    Some(channel::FromChild::Terminal(_)) => {}
                    Some(channel::FromChild::Failed(first)) => return Err(first),
                    _ => return Err(failure),
                }
            }
        }
    }
}

/// SIGKILL and the end of the zombie. For a process that may not go on.
pub fn kill_and_reap(pidfd: BorrowedFd<'_>) {
    let _ = sys::send_signal(pidfd, libc::SIGKILL);
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED));
}

type Pipes = (Outputs<OwnedFd>, Outputs<OwnedFd>);

/// Our ends and the child's.
fn output_pipes(spec: &LaunchSpec) -> Result<Pipes, Failure> {
    let (stdout, child_stdout) = output_pipe(spec)?;
    let (stderr, child_stderr) = output_pipe(spec)?;
    Ok((Outputs { stdout, stderr }, Outputs { stdout: child_stdout, stderr: child_stderr }))
}

/// A pipe whose write end the container's user may open again as `/dev/stdout`.
fn output_pipe(spec: &LaunchSpec) -> Result<(OwnedFd, OwnedFd), Failure> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).map_err(at("pipe2", "output"))?;
    rustix::io::ioctl_fionbio(&read, true).map_err(at("ioctl", "output"))?;
    let base = spec.user_namespace.map_or(0, |mapping| mapping.host_base);
    let uid = Uid::from_raw(base.saturating_add(spec.process.uid));
    let gid = Gid::from_raw(base.saturating_add(spec.process.gid));
    rustix::fs::fchown(&write, Some(uid), Some(gid)).map_err(at("fchown", "output"))?;
    Ok((read, write))
}

/// The shim's part after the birth, while the child is already busy.
fn equip(launched: &Launched, spec: &LaunchSpec) -> Result<(), Failure> {
    rustix::process::chdir("/").map_err(at("chdir", "/"))?;
    let pid = launched.pid;
    if spec.user_namespace.is_some() {
        privileges::raise_limits(&spec.process, Pid::from_raw(pid))?;
    }
    if let Some(mapping) = spec.user_namespace {
        write_id_maps(pid, mapping)?;
        let path = format!("/proc/{pid}/ns/user");
        let namespace = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(at("open", &path))?;
        let rootfs = overlay::mount_id_mapped(&spec.rootfs, mapping, namespace.as_fd())?;
        launched.channel.send_rootfs(rootfs.as_fd()).map_err(at("sendmsg", "rootfs"))?;
    }
    if let Some(score) = spec.process.oom_score_adj {
        write_file(&format!("/proc/{pid}/oom_score_adj"), &score.to_string())?;
    }
    Ok(())
}

fn write_id_maps(pid: i32, mapping: IdMapping) -> Result<(), Failure> {
    let map = format!("0 {} {}", mapping.host_base, mapping.size);
    write_file(&format!("/proc/{pid}/uid_map"), &map)?;
    write_file(&format!("/proc/{pid}/gid_map"), &map)
}

pub fn write_file(path: &str, text: &str) -> Result<(), Failure> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", path))?;
    rustix::io::write(&file, text.as_bytes())
        .map(drop)
        .map_err(at("write", format_args!("{text} to {path}")))
}

/// The child. Everything up to the gate needs the host's descriptors; nothing
/// after it may have any.
fn become_container(
    input: ChildInput<'_>,
    channel: &ChildEnd,
) -> Result<std::convert::Infallible, Failure> {
    let spec = input.spec;
    let process = &spec.process;
    sys::block_signals(false);
    let _ = rustix::process::setsid();
    if let Some(network) = &input.inherited.network {
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))
            .map_err(at("setns", "network namespace"))?;
    }
    input.shared.enter()?;
    overlay::make_private()?;
    let rootfs = if spec.user_namespace.is_some() {
        let rootfs = channel.receive_rootfs().map_err(at("recvmsg", "rootfs"))?;
        privileges::become_mapped_root()?;
        rootfs
    } else {
        overlay::mount_plain(&spec.rootfs)?
    };
    let mut detached = input.trees;
    mounts::create_filesystems(input.steps, &mut detached)?;
    enter_root(rootfs)?;
    mounts::attach(input.steps, detached)?;
    if spec.namespaces.uts == Namespace::New {
        rustix::system::sethostname(spec.hostname.as_bytes())
            .map_err(at("sethostname", &spec.hostname))?;
    }
    take_first_stdio(process, input.inherited, input.outputs.as_ref(), channel)?;
    let program = program::prepare(process)?;
    let seccomp = read_seccomp(input.inherited.seccomp.as_ref())?;
    // Late, so that all this work was neither limited nor charged there.
    input.placement.join_v1(&input.doors)?;
    sys::unshare(UnshareFlags::NEWCGROUP).map_err(at("unshare", "cgroup namespace"))?;
    drop((input.outputs, input.doors));
    close_all_but(channel)?;
    channel.wait_for_go().map_err(at("read", "start gate"))?;
    if spec.init {
        return init::run(process, seccomp.as_deref(), &program, channel);
    }
    finish(process, seccomp.as_deref(), &program)
}

/// The terminal, or the pipes.
fn take_first_stdio(
    process: &Process,
    inherited: &Inherited,
    outputs: Option<&Outputs<OwnedFd>>,
    channel: &ChildEnd,
) -> Result<(), Failure> {
    if let Some(size) = process.terminal {
        let pty = terminal::take(process, size, channel)?;
        terminal::mount_console(&pty)?;
        return take_stdio(&pty.slave, &pty.slave, &pty.slave);
    }
    let stdin = match &inherited.stdin {
        Some(stdin) => stdin.try_clone().map_err(crate::failure::io_at("dup", "stdin"))?,
        // The container's own: the host's inode stays out of its reach.
        None => {
            crate::in_root::open("/dev/null", OFlags::RDONLY).map_err(at("open", "/dev/null"))?
        }
    };
    let missing = || failure("start", "the pipes of the output", Errno::BADF);
    let outputs = outputs.ok_or_else(missing)?;
    take_stdio(&stdin, &outputs.stdout, &outputs.stderr)
}

/// From prepared to executed, for `exec` as well. No descriptor but stdio and
/// the channel is open, so that no path can lead through one to the host.
pub fn finish(
    process: &Process,
    seccomp: Option<&[u8]>,
    program: &program::Program,
) -> Result<std::convert::Infallible, Failure> {
    enter_directory(&process.cwd)?;
    // Before the seccomp program, which need not allow more memory.
    let vectors = program.vectors();
    privileges::assume(process, seccomp)?;
    Err(program.execute(&vectors))
}

/// Makes `rootfs`, a detached mount, the root. The working directory is where it is to be
/// attached, in the caller's own mount namespace, in which nothing is shared.
pub fn enter_root(rootfs: OwnedFd) -> Result<(), Failure> {
    move_mount(rootfs.as_fd(), "", CWD, ".", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("move_mount", "rootfs"))?;
    rustix::process::fchdir(&rootfs).map_err(at("fchdir", "rootfs"))?;
    rustix::process::pivot_root(".", ".").map_err(at("pivot_root", "rootfs"))?;
    // The old root now lies on the new one, and is the top of what "." has.
    rustix::mount::unmount(".", UnmountFlags::DETACH).map_err(at("umount2", "old root"))?;
    rustix::process::chdir("/").map_err(at("chdir", "/"))
}

/// Creates the working directory where it is missing, as Docker and runc do.
pub fn enter_directory(path: &str) -> Result<(), Failure> {
    match rustix::process::chdir(path) {
        Err(Errno::NOENT) => {
            crate::in_root::create_directory(path).map_err(at("mkdir", path))?;
            rustix::process::chdir(path)
        }
        other => other,
    }
    .map_err(at("chdir", path))
}

pub fn read_seccomp(program: Option<&OwnedFd>) -> Result<Option<Vec<u8>>, Failure> {
    let Some(program) = program else { return Ok(None) };
    read_all(program.as_fd()).map(Some).map_err(at("read", "seccomp program"))
}

/// From offset 0, wherever the descriptor's own offset is.
pub fn read_all(file: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    let size = usize::try_from(rustix::fs::fstat(file)?.st_size).map_err(|_| Errno::INVAL)?;
    let mut bytes = vec![0; size];
    let mut filled = 0;
    while filled < size {
        match rustix::io::pread(file, &mut bytes[filled..], filled as u64)? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

pub fn take_stdio(stdin: &OwnedFd, stdout: &OwnedFd, stderr: &OwnedFd) -> Result<(), Failure> {
    rustix::stdio::dup2_stdin(stdin).map_err(at("dup2", "stdin"))?;
    rustix::stdio::dup2_stdout(stdout).map_err(at("dup2", "stdout"))?;
    rustix::stdio::dup2_stderr(stderr).map_err(at("dup2", "stderr"))
}

/// Owners of other descriptors live on in callers' frames, which never return.
pub fn close_all_but(channel: &ChildEnd) -> Result<(), Failure> {
    let kept = channel.as_fd().as_raw_fd().unsigned_abs();
    sys::close_range(3, kept - 1).map_err(at("close_range", kept))?;
    sys::close_range(kept + 1, u32::MAX).map_err(at("close_range", kept))
}
