//! What a condition may ask: the events' fields by their paths in the audit line, with the
//! type of each and the kinds of events that have it.

use crate::kind::Kind::{
    Accept, Bind, Capability, Connect, Dns, Exec, Exit, File, Kernel, Listen, Mount, Oom, Open,
    Ptrace, Signal,
};
use crate::kind::Kinds;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    /// A list of texts: a test holds if it holds for one of them.
    Texts,
    Number,
    Truth,
    Address,
}

impl Type {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "a text",
            Self::Texts => "a list of texts",
            Self::Number => "a number",
            Self::Truth => "true or false",
            Self::Address => "an IP address",
        }
    }
}

const ALL: Kinds = Kinds::ALL;
const EXEC: Kinds = Kinds::of(&[Exec]);
const EXIT: Kinds = Kinds::of(&[Exit]);
/// Made from a system call's result.
const CALLS: Kinds = ALL.without(Kinds::of(&[Exec, Exit, Oom, Dns, Signal, Capability]));
const PATHS: Kinds = Kinds::of(&[Exec, Open, File, Mount, Kernel]);
const TWO_PATHS: Kinds = Kinds::of(&[File, Mount]);
const OPENED: Kinds = Kinds::of(&[Open, File]);
const INODES: Kinds = Kinds::of(&[Exec, Open, File]);
const NETWORK: Kinds = Kinds::of(&[Connect, Accept, Bind, Listen, Dns]);
const DNS: Kinds = Kinds::of(&[Dns]);
const TARGET: Kinds = Kinds::of(&[Signal, Ptrace]);

macro_rules! fields {
    ($($name:ident $path:literal $of:ident $kinds:expr;)*) => {
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Field { $($name),* }

        impl Field {
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// As the audit line has it.
            pub fn path(self) -> &'static str {
                match self { $(Self::$name => $path),* }
            }

            pub fn of_type(self) -> Type {
                match self { $(Self::$name => Type::$of),* }
            }

            /// The kinds of events that can have it.
            pub fn kinds(self) -> Kinds {
                match self { $(Self::$name => $kinds),* }
            }
        }
    };
}

fields! {
    EventOutcome "event.outcome" Text ALL;
    ContainerId "container.id" Text ALL;
    ContainerName "container.name" Text ALL;
    ImageName "container.image.name" Text ALL;
    Pid "process.pid" Number ALL;
    ContainerPid "process.container_pid" Number ALL;
    ThreadId "process.thread.id" Number ALL;
    ProcessName "process.name" Text ALL;
    UserId "process.user.id" Number ALL;
    ParentPid "process.parent.pid" Number ALL;
    ParentName "process.parent.name" Text ALL;
    AncestorNames "process.ancestors.name" Texts ALL;
    Executable "process.executable" Text EXEC;
    Args "process.args" Texts EXEC;
    ArgsTruncated "process.args_truncated" Truth EXEC;
    WorkingDirectory "process.working_directory" Text EXEC;
    ExitCode "process.exit_code" Number EXIT;
    ExitSignal "process.signal" Number EXIT.and(Kinds::of(&[Signal]));
    FilePath "file.path" Text PATHS;
    FileTargetPath "file.target_path" Text TWO_PATHS;
    FileInode "file.inode" Number INODES;
    FileHash "file.hash.sha256" Text EXEC;
    FileMode "file.mode" Text OPENED;
    FileFlags "file.flags" Texts OPENED;
    SourceIp "source.ip" Address NETWORK;
    SourcePort "source.port" Number NETWORK;
    SourcePath "source.path" Text NETWORK;
    DestinationIp "destination.ip" Address NETWORK;
    DestinationPort "destination.port" Number NETWORK;
    DestinationPath "destination.path" Text NETWORK;
    NetworkTransport "network.transport" Text NETWORK;
    DnsName "dns.question.name" Text DNS;
    DnsType "dns.question.type" Text DNS;
    SyscallName "syscall.name" Text CALLS;
    SyscallResult "syscall.result" Number CALLS;
    SyscallError "syscall.error" Text CALLS;
    TargetPid "target.pid" Number TARGET;
    TargetContainerId "target.container.id" Text TARGET;
    TargetContainerName "target.container.name" Text TARGET;
}

impl Field {
    pub fn parse(path: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|field| field.path() == path)
    }

    /// All the values there are, where they are few: another one is a mistake.
    pub fn words(self) -> Option<&'static [&'static str]> {
        match self {
            Self::EventOutcome => Some(&["success", "failure"]),
            _ => None,
        }
    }

    /// The field that was probably meant: the one with the fewest letters to change.
    pub(crate) fn nearest(path: &str) -> Option<Self> {
        let near = |field: &Self| distance(path, field.path());
        let best = Self::ALL.iter().copied().min_by_key(near)?;
        (near(&best) <= 3 + path.len() / 4).then_some(best)
    }
}

/// Letters to insert, delete or change (Levenshtein). Paths are short, and errors rare.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}
