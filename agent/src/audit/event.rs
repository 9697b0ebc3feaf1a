//! What an event is outside: one JSON object, in the names of the Elastic Common Schema where it
//! has one. Types alone; `line` fills them in.

use serde::Serialize;

use crate::limit_line::LimitLine;
use crate::oom::Evidence;

/// One line of the audit file, but for its place in the chain; one event of a stream. What does
/// not apply to a kind of event is absent.
#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct AuditEvent {
    /// First, so that a reader of lines may pass over the others by their beginning.
    pub event: Nature,
    /// RFC 3339, from the kernel's own clock at the moment of the event.
    #[serde(rename = "@timestamp")]
    pub timestamp: String,
    /// Nanoseconds since boot, which no clock adjustment moves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monotonic_ns: Option<u64>,
    pub container: Container,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<Process>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<File>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns: Option<Dns>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub syscall: Option<Syscall>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Target>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom: Option<Evidence>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Box<LimitLine>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<MatchedRule>,
    /// Inode by type, as `/proc/PID/ns` shows them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub namespaces: Vec<Namespace>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Nature {
    pub action: AuditKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Success,
    Failure,
}

#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum AuditKind {
    #[default]
    Exec,
    Exit,
    /// The kernel killed a process for want of memory.
    Oom,
    /// Somebody changed a limit.
    Limit,
    Open,
    /// A name or its attributes were changed; `syscall.name` tells how.
    File,
    Connect,
    Accept,
    Bind,
    Listen,
    Dns,
    Mount,
    /// A process made namespaces or went into others.
    Namespace,
    /// A process looked into another one's memory, or held it.
    Ptrace,
    /// BPF, performance counters, modules, kexec.
    Kernel,
    /// User and group ids, and capabilities, that a process gave itself.
    Credentials,
    Keyring,
    /// To a process of another container, or of the host.
    Signal,
    /// A capability that a process lacked.
    Capability,
    /// A rule matched.
    Alert,
}

impl AuditKind {
    pub const ALL: [Self; 20] = [
        Self::Exec,
        Self::Exit,
        Self::Oom,
        Self::Limit,
        Self::Open,
        Self::File,
        Self::Connect,
        Self::Accept,
        Self::Bind,
        Self::Listen,
        Self::Dns,
        Self::Mount,
        Self::Namespace,
        Self::Ptrace,
        Self::Kernel,
        Self::Credentials,
        Self::Keyring,
        Self::Signal,
        Self::Capability,
        Self::Alert,
    ];

    /// As people write it, and as JSON has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Oom => "oom",
            Self::Limit => "limit",
            Self::Open => "open",
            Self::File => "file",
            Self::Connect => "connect",
            Self::Accept => "accept",
            Self::Bind => "bind",
            Self::Listen => "listen",
            Self::Dns => "dns",
            Self::Mount => "mount",
            Self::Namespace => "namespace",
            Self::Ptrace => "ptrace",
            Self::Kernel => "kernel",
            Self::Credentials => "credentials",
            Self::Keyring => "keyring",
            Self::Signal => "signal",
            Self::Capability => "capability",
            Self::Alert => "alert",
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Container {
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<Image>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Image {
    pub name: String,
}

impl Container {
    pub fn new(id: String, name: String, image: String) -> Self {
        Self { id, name, image: Some(Image { name: image }) }
    }
}

#[derive(Clone, Debug, Default, Serialize, utoipa::ToSchema)]
pub struct Process {
    /// As the host numbers it.
    pub pid: u32,
    /// As the container numbers it.
    pub container_pid: u32,
    pub thread: Id,
    /// What the kernel calls `comm`: 15 bytes at most.
    pub name: String,
    pub user: Id,
    pub parent: Parent,
    /// The nearest first; at most 8.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ancestors: Vec<Ancestor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub executable: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Whether `args` was longer than the kernel side keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub working_directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Id {
    /// As the host numbers it.
    pub id: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Parent {
    /// As the host numbers it.
    pub pid: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Ancestor {
    /// As the host numbers it.
    pub pid: u32,
    pub name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct File {
    /// Inside the container; as the call gave it where it could not be resolved.
    pub path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_truncated: Option<bool>,
    /// Where a name was moved to, what a link leads to, what was mounted at the path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inode: Option<u64>,
    /// Of what was executed, where `[audit] exec_hash` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<FileHash>,
    /// Octal, as `chmod` takes it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// As `open(2)` names them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub flags: Vec<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct FileHash {
    /// 64 lowercase hex digits.
    pub sha256: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Endpoint {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Of a Unix socket; an abstract one begins with `@`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Network {
    /// tcp, udp, unix, netlink or another protocol's name.
    pub transport: &'static str,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Dns {
    pub question: Question,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Question {
    /// Without the root's dot; bytes that are no letters as zone files have them: `\032`.
    pub name: String,
    /// A, AAAA and so on; TYPE65280 where it has no name. Absent: it could not be read.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Syscall {
    pub name: &'static str,
    /// What it returned.
    pub result: i64,
    /// The name of the error, `ENOENT`, if it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'static str>,
    /// As they were when it returned. Of `clone3` the first, of `openat2` the third are the
    /// flags that they point at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<u64>,
    /// A name among the arguments that is no path: a file system's type, a module, a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The capability that it lacked: `CAP_SYS_ADMIN`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<String>,
    /// Made through the door for 32-bit programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compat: Option<bool>,
    /// A path or a name led nowhere and could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unread: Option<bool>,
}

/// The process that something was done to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Target {
    /// As the host numbers it.
    pub pid: u32,
    /// Absent: it is in none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
    /// The number of the signal that was sent to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub signal: Option<u32>,
}

/// The rule that an alert is of; the event that it matched is the rest of the line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct MatchedRule {
    pub name: String,
    pub description: String,
    /// info, notice, warning or critical.
    pub severity: &'static str,
    /// The kind of the event that matched.
    pub action: AuditKind,
    /// Alerts about this container that the rule's rate held back since the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub inode: u64,
}
