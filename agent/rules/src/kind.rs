//! What kinds of events there are, as `event.action` names them.

use std::fmt;

/// One kind of audit event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Exec,
    Exit,
    Oom,
    Open,
    File,
    Connect,
    Accept,
    Bind,
    Listen,
    Dns,
    Mount,
    Namespace,
    Ptrace,
    Kernel,
    Credentials,
    Keyring,
    Signal,
    Capability,
}

impl Kind {
    pub const ALL: [Self; 18] = [
        Self::Exec,
        Self::Exit,
        Self::Oom,
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
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Exit => "exit",
            Self::Oom => "oom",
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
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kinds(u32);

impl Kinds {
    pub const ALL: Self = Self((1 << Kind::ALL.len()) - 1);

    pub const fn of(kinds: &[Kind]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < kinds.len() {
            bits |= 1 << kinds[at] as u32;
            at += 1;
        }
        Self(bits)
    }

    pub fn insert(&mut self, kind: Kind) {
        self.0 |= 1 << kind as u32;
    }

    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn contains(self, kind: Kind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    pub fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Kind> {
        Kind::ALL.into_iter().filter(move |kind| self.contains(*kind))
    }
}

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, kind) in self.iter().enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(f, "{comma}{}", kind.as_str())?;
        }
        Ok(())
    }
}
