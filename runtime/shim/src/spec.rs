//! What a shim is told at birth, as JSON in a sealed memfd.
//!
//! The spec is complete and literal: user names are already numbers, limits are
//! already written, paths are absolute on the host. The shim chooses nothing.
//!
//! A shim executes itself once more through a read-only mount of its own file
//! unless it was executed through one (an `open_tree` clone with
//! `MOUNT_ATTR_RDONLY`, as `/proc/self/fd/N`), which saves the time of an `execve`.
//! It makes its own session: it must not be born the leader of a process group.

use std::path::PathBuf;

use rustix::process::Resource;
use serde::{Deserialize, Serialize};

/// File descriptors that a shim is born with.
pub mod fd {
    /// The [`super::LaunchSpec`], readable from offset 0 to its end.
    pub const SPEC: i32 = 3;
    /// A listening unix stream socket that speaks [`crate::protocol`].
    pub const LISTENER: i32 = 4;
    /// A seccomp program (`struct sock_filter[]`), if the spec says so.
    pub const SECCOMP: i32 = 5;
    /// The container's standard input, if the spec says so; else `/dev/null`.
    pub const STDIN: i32 = 6;
    /// A network namespace, if the spec says so.
    pub const NETWORK: i32 = 7;
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LaunchSpec {
    pub id: String,
    pub hostname: String,
    pub rootfs: Rootfs,
    /// Host files and directories that appear in the container, in this order.
    pub binds: Vec<Bind>,
    /// New file systems in memory, in this order, each before the binds that lie in it.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    pub cgroup: CgroupPlacement,
    pub network: NetworkNamespace,
    /// The host's, or another's, ones only without a user namespace, which would not own them.
    #[serde(default)]
    pub namespaces: Namespaces,
    /// `Some`: a user namespace of its own with this mapping.
    pub user_namespace: Option<IdMapping>,
    pub process: Process,
    /// The container's first process is the shim's own: it passes signals on to the program and
    /// reaps whoever is left without a parent. It ends with the program, as the program ended.
    #[serde(default)]
    pub init: bool,
    /// Device nodes besides those that every container has.
    #[serde(default)]
    pub devices: Vec<DeviceNode>,
    /// Of `/dev/shm`, unless it is shared.
    pub shm_size_bytes: u64,
    /// Written once the container has its namespaces, and before anything is read-only.
    #[serde(default)]
    pub sysctls: Vec<Sysctl>,
    /// `/sys` and its cgroups may be written to, and `/dev` honours device nodes.
    #[serde(default)]
    pub privileged: bool,
    /// Files are covered by `/dev/null`, directories by an empty read-only tmpfs.
    pub masked_paths: Vec<String>,
    pub read_only_paths: Vec<String>,
    /// Whether [`fd::SECCOMP`] holds a program.
    pub seccomp: bool,
    /// Whether [`fd::STDIN`] is open.
    pub stdin: bool,
    /// Frames of [`crate::log`] are appended here.
    pub log_path: PathBuf,
    /// `None`: one piece, which grows as long as there is room.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bound: Option<LogBound>,
    /// A [`crate::protocol::ExitStatus`] appears here, complete or not at all.
    pub exit_path: PathBuf,
}

/// How much of a log is kept: see [`crate::log_pieces`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogBound {
    pub piece_bytes: u64,
    /// 1 or more.
    pub pieces: u32,
}

/// An overlay, mounted in the container's own mount namespace only: the host
/// never sees it, so that nothing is left to unmount when anything dies.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rootfs {
    /// Unpacked layers, the topmost first.
    pub lower: Vec<PathBuf>,
    /// With a user namespace the shim gives both to its root.
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory to mount on before `pivot_root`.
    pub mountpoint: PathBuf,
    pub read_only: bool,
}

/// Device nodes in it cannot be opened unless it is below the host's `/dev`. With a
/// user namespace its files keep the host's owners.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bind {
    pub source: PathBuf,
    /// Absolute inside the container; created in the rootfs where it is missing,
    /// resolved so that no symlink of the image leads outside.
    pub target: PathBuf,
    pub read_only: bool,
    #[serde(default)]
    pub propagation: Propagation,
}

/// What of later mounts is seen on the other side: `mount_namespaces(7)`. Of the whole tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// Nothing.
    #[default]
    Private,
    /// The host's in the container.
    Slave,
    /// As the host's mount has it: if that is shared, both ways.
    Shared,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tmpfs {
    /// As a [`Bind`]'s.
    pub target: PathBuf,
    /// `tmpfs(5)`'s.
    pub options: Vec<(String, String)>,
    pub read_only: bool,
    /// Programs in it may be executed.
    pub exec: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupPlacement {
    /// The cgroup v2 directory, joined at birth by `CLONE_INTO_CGROUP`.
    pub unified: PathBuf,
    /// Under v1-hybrid also one directory per controller, joined through `tasks`
    /// before the start gate opens. Empty on pure v2.
    pub v1: Vec<V1Directory>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct V1Directory {
    pub controller: String,
    pub path: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetworkNamespace {
    /// A new one, empty but for `lo`; the agent fills it before the gate opens.
    New,
    /// The agent's own.
    Host,
    /// That of [`fd::NETWORK`]: another container's. Not together with a user namespace.
    Given,
}

/// Those that a container may share with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Namespaces {
    pub pid: Namespace,
    /// With its message queues and `/dev/shm`.
    pub ipc: Namespace,
    /// A name is set in a new one alone.
    pub uts: Namespace,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    #[default]
    New,
    /// The agent's own.
    Host,
    Of(Member),
}

/// A process in a namespace. If that process has ended and its number is somebody else's, the
/// inode is another one, and the start fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// As the shim sees it.
    pub pid: i32,
    /// The namespace's.
    pub inode: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceNode {
    /// Below `/dev`.
    pub path: String,
    /// Where the host has it: what a container with a user namespace sees.
    pub source: PathBuf,
    /// Else a character device.
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    /// Permissions alone.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// Below `/proc/sys`.
    pub path: String,
    pub value: String,
}

/// Ids 0..size inside are `host_base..host_base+size` outside, users and groups alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdMapping {
    pub host_base: u32,
    pub size: u32,
}

/// One program to run, for the container's first process and for `exec` alike.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Process {
    /// `args[0]` is looked up in the container's `PATH` if it holds no slash.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute; created if it is missing, as Docker does.
    pub cwd: String,
    pub uid: u32,
    pub gid: u32,
    pub additional_gids: Vec<u32>,
    /// Bounding, permitted and effective set, one bit per capability number; a
    /// capability that the shim itself lacks is left out.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    /// Those that are not named stay the agent's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rlimits: Vec<Rlimit>,
    /// `Some`: a terminal of the container's own is standard input, output and error, and the
    /// process' controlling terminal. The first process has it as `/dev/console`, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<WindowSize>,
}

/// `setrlimit(2)`; `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rlimit {
    pub resource: LimitedResource,
    pub soft: Option<u64>,
    pub hard: Option<u64>,
}

/// `RLIMIT_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedResource {
    Core,
    Cpu,
    Data,
    Fsize,
    Locks,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rss,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}

impl From<LimitedResource> for Resource {
    fn from(limited: LimitedResource) -> Resource {
        match limited {
            LimitedResource::Core => Resource::Core,
            LimitedResource::Cpu => Resource::Cpu,
            LimitedResource::Data => Resource::Data,
            LimitedResource::Fsize => Resource::Fsize,
            LimitedResource::Locks => Resource::Locks,
            LimitedResource::Memlock => Resource::Memlock,
            LimitedResource::Msgqueue => Resource::Msgqueue,
            LimitedResource::Nice => Resource::Nice,
            LimitedResource::Nofile => Resource::Nofile,
            LimitedResource::Nproc => Resource::Nproc,
            LimitedResource::Rss => Resource::Rss,
            LimitedResource::Rtprio => Resource::Rtprio,
            LimitedResource::Rttime => Resource::Rttime,
            LimitedResource::Sigpending => Resource::Sigpending,
            LimitedResource::Stack => Resource::Stack,
        }
    }
}

/// Of a terminal, in characters. Zeros: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}
