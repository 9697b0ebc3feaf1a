//! Kinds of audit events. Pure.

use tenantry_abi as abi;

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum EventKind {
    Exec = abi::EVENT_EXEC as u8,
    Exit = abi::EVENT_EXIT as u8,
    /// The kernel killed a process for want of memory.
    Oom = abi::EVENT_OOM as u8,
    Open = abi::EVENT_OPEN as u8,
    /// A change of names, permissions or owners: unlink, rename, chmod and their like.
    File = abi::EVENT_FILE as u8,
    Connect = abi::EVENT_CONNECT as u8,
    Accept = abi::EVENT_ACCEPT as u8,
    Bind = abi::EVENT_BIND as u8,
    Listen = abi::EVENT_LISTEN as u8,
    Dns = abi::EVENT_DNS as u8,
    Mount = abi::EVENT_MOUNT as u8,
    Namespace = abi::EVENT_NAMESPACE as u8,
    /// One process looks into another.
    Ptrace = abi::EVENT_PTRACE as u8,
    /// What changes the kernel itself: bpf, modules, kexec.
    Kernel = abi::EVENT_KERNEL as u8,
    Credentials = abi::EVENT_CREDENTIALS as u8,
    Keyring = abi::EVENT_KEYRING as u8,
    /// Sent to a process of another container, or of none.
    Signal = abi::EVENT_SIGNAL as u8,
    /// A capability that was asked for and not there.
    Capability = abi::EVENT_CAPABILITY as u8,
}

impl EventKind {
    /// By number.
    pub const ALL: [EventKind; abi::EVENT_KINDS] = [
        EventKind::Exec,
        EventKind::Exit,
        EventKind::Oom,
        EventKind::Open,
        EventKind::File,
        EventKind::Connect,
        EventKind::Accept,
        EventKind::Bind,
        EventKind::Listen,
        EventKind::Dns,
        EventKind::Mount,
        EventKind::Namespace,
        EventKind::Ptrace,
        EventKind::Kernel,
        EventKind::Credentials,
        EventKind::Keyring,
        EventKind::Signal,
        EventKind::Capability,
    ];

    pub fn from_number(kind: u32) -> Option<Self> {
        Self::ALL.get(kind as usize).copied()
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Lower case, as metric labels and audit lines have it.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Exec => "exec",
            EventKind::Exit => "exit",
            EventKind::Oom => "oom",
            EventKind::Open => "open",
            EventKind::File => "file",
            EventKind::Connect => "connect",
            EventKind::Accept => "accept",
            EventKind::Bind => "bind",
            EventKind::Listen => "listen",
            EventKind::Dns => "dns",
            EventKind::Mount => "mount",
            EventKind::Namespace => "namespace",
            EventKind::Ptrace => "ptrace",
            EventKind::Kernel => "kernel",
            EventKind::Credentials => "credentials",
            EventKind::Keyring => "keyring",
            EventKind::Signal => "signal",
            EventKind::Capability => "capability",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_listed_by_their_numbers_and_known_by_their_names() {
        for (number, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            assert_eq!(EventKind::from_number(number as u32), Some(kind));
            assert_eq!(EventKind::from_name(kind.name()), Some(kind));
        }
        assert_eq!(EventKind::from_number(abi::EVENT_KINDS as u32), None);
        assert_eq!(EventKind::from_name("dance"), None);
    }
}
