//! Which namespaces a container is born in, and which of others it enters.
//!
//! Owns the opening of others' namespaces, by a process in them and an inode that proves it is
//! still that process. `launch` enters what is opened here; `mounts` asks for shared memory.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::{LaunchSpec, Member, Namespace, NetworkNamespace};

use crate::failure::{at, failure};

const SHARED_MEMORY: &str = "/dev/shm";
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// Those that `clone3` makes.
pub fn new_ones(spec: &LaunchSpec) -> UnshareFlags {
    // Not the cgroup namespace: its root is where a process is when it unshares
    // it, and v1 hierarchies are joined after birth.
    let mut flags = UnshareFlags::NEWNS;
    flags.set(UnshareFlags::NEWPID, spec.namespaces.pid == Namespace::New);
    flags.set(UnshareFlags::NEWIPC, spec.namespaces.ipc == Namespace::New);
    flags.set(UnshareFlags::NEWUTS, spec.namespaces.uts == Namespace::New);
    flags.set(UnshareFlags::NEWNET, spec.network == NetworkNamespace::New);
    flags.set(UnshareFlags::NEWUSER, spec.user_namespace.is_some());
    flags
}

/// Open namespaces of others.
#[derive(Debug)]
pub struct Shared {
    pid: Option<OwnedFd>,
    inner: Vec<(OwnedFd, LinkNameSpaceType)>,
}

impl Shared {
    pub fn open(spec: &LaunchSpec) -> Result<Self, Failure> {
        let open = |namespace: Namespace, name| match namespace {
            Namespace::Of(member) => open(member, name).map(Some),
            Namespace::New | Namespace::Host => Ok(None),
        };
        let wanted = &spec.namespaces;
        let ipc = open(wanted.ipc, "ipc")?;
        let uts = open(wanted.uts, "uts")?;
        let ipc = ipc.map(|file| (file, LinkNameSpaceType::InterProcessCommunication));
        let uts = uts.map(|file| (file, LinkNameSpaceType::HostNameAndNISDomainName));
        let inner = ipc.into_iter().chain(uts).collect();
        Ok(Self { pid: open(wanted.pid, "pid")?, inner })
    }

    /// In the shim: its children are born there from now on, those of `exec` as well.
    pub fn enter_pid(&self) -> Result<(), Failure> {
        let Some(namespace) = &self.pid else { return Ok(()) };
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID))
            .map_err(at("setns", "pid namespace"))
    }

    /// In the child.
    pub fn enter(&self) -> Result<(), Failure> {
        for (namespace, kind) in &self.inner {
            move_into_link_name_space(namespace.as_fd(), Some(*kind))
                .map_err(at("setns", format_args!("{kind:?}")))?;
        }
        Ok(())
    }
}

/// The shared memory of a member of an IPC namespace, as a mount of its own. In the shim, whose
/// mount namespace is the host's before and after.
pub fn take_shared_memory(member: Member) -> Result<OwnedFd, Failure> {
    let own = open_file("/proc/self/ns/mnt")?;
    let theirs = open_file(&format!("/proc/{}/ns/mnt", member.pid))?;
    // Checked last: whoever has this namespace now had the other one a moment ago.
    drop(open(member, "ipc")?);
    let mount = Some(LinkNameSpaceType::Mount);
    move_into_link_name_space(theirs.as_fd(), mount).map_err(at("setns", "mount namespace"))?;
    let taken = copy_shared_memory();
    // A shim that stayed there could not go on: this failure is the worse one.
    move_into_link_name_space(own.as_fd(), mount).map_err(at("setns", "own mount namespace"))?;
    rustix::process::chdir("/").map_err(at("chdir", "/"))?;
    taken
}

/// The path is the other container's: what is there is not trusted to be a mount of its own.
fn copy_shared_memory() -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let place =
        rustix::fs::open(SHARED_MEMORY, flags, Mode::empty()).map_err(at("open", SHARED_MEMORY))?;
    let system = rustix::fs::fstatfs(&place).map_err(at("fstatfs", SHARED_MEMORY))?;
    if system.f_type != TMPFS_MAGIC {
        return Err(failure("open", SHARED_MEMORY, Errno::NODEV));
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(place.as_fd(), "", flags).map_err(at("open_tree", SHARED_MEMORY))
}

fn open(member: Member, name: &str) -> Result<OwnedFd, Failure> {
    let path = format!("/proc/{}/ns/{name}", member.pid);
    let file = open_file(&path)?;
    let stat = rustix::fs::fstat(&file).map_err(at("stat", &path))?;
    if stat.st_ino != member.inode {
        return Err(failure("open", &path, Errno::SRCH));
    }
    Ok(file)
}

fn open_file(path: &str) -> Result<OwnedFd, Failure> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", path))
}
