//! Records of system calls and of what is told in the same form, decoded. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tenantry_abi as abi;
use zerocopy::FromBytes;

use crate::dns::written_out;
use crate::event::{Event, EventHeader, header, text};
use crate::{EventKind, Slot};

/// A system call that returned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallEvent {
    pub header: EventHeader,
    pub kind: EventKind,
    /// The 64-bit number, also of a call through the 32-bit door; [`NO_CALL`](crate::NO_CALL):
    /// what is told is no call, or one whose number is not known.
    pub nr: u32,
    /// Made through the door for 32-bit programs.
    pub compat: bool,
    /// As the kernel returned it: below zero an error's number.
    pub result: i64,
    /// As they were when the call returned. Of `clone3` the first, of `openat2` the third are
    /// the flags that they point at.
    pub args: [u64; 6],
    /// As it was given, behind the directory where it begins if it is relative; dots and
    /// symbolic links are as they were given.
    pub path: Option<String>,
    /// Its other name: where a rename leads, what a link leads to, what is mounted.
    pub target: Option<String>,
    /// A name that is no path: a file system's type, a key's description.
    pub extra: Option<String>,
    /// The file itself: of an open that succeeded, or of a descriptor that was given.
    pub file: Option<OpenFile>,
    /// Of an open: `O_…`.
    pub open_flags: Option<u32>,
    pub socket: Option<Socket>,
    pub signal: Option<SentSignal>,
    /// The number of the capability that was lacking.
    pub capability: Option<u32>,
    pub question: Option<Question>,
    /// Texts that are longer than the kernel side keeps.
    pub truncated: bool,
    /// Texts that could not be read: the pointer leads nowhere.
    pub unread: bool,
}

/// A signal to a process of another container, or of none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentSignal {
    pub number: u32,
    /// Of the process that it is for, as the host numbers it.
    pub pid: u32,
    /// Of that process; 0: it is in no container.
    pub slot: Slot,
}

/// What a name server was asked. The process is unknown (its numbers are 0) where the datagram
/// had to wait for a link's address and left in somebody else's time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Question {
    /// Without the root's dot; bytes that are no letters as zone files have them: `\032`.
    pub name: String,
    /// As RFC 1035 numbers it; 0: behind a name that could not be read.
    pub kind: u16,
}

/// A file behind a descriptor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenFile {
    /// As the process's root sees it, without symbolic links.
    pub path: String,
    pub inode: u64,
    /// Major and minor number of its file system's device.
    pub device: (u32, u32),
    /// Type and permissions, as `stat` has them.
    pub mode: u32,
}

/// The ends of a socket, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Socket {
    /// `AF_…`; 0: unknown.
    pub family: u16,
    /// `SOCK_…`; 0: unknown.
    pub kind: u16,
    /// `IPPROTO_…`.
    pub protocol: u16,
    pub local: Option<SocketAddr>,
    pub remote: Option<SocketAddr>,
    /// Of a unix socket: a path, or an abstract name behind an `@`.
    pub path: Option<String>,
}

impl Socket {
    /// As the Elastic Common Schema's `network.transport` has it.
    pub fn transport(&self) -> Option<&'static str> {
        match (i32::from(self.family), i32::from(self.protocol)) {
            (libc::AF_UNIX, _) => Some("unix"),
            (libc::AF_NETLINK, _) => Some("netlink"),
            (libc::AF_PACKET, _) => Some("packet"),
            (libc::AF_VSOCK, _) => Some("vsock"),
            (_, libc::IPPROTO_TCP) => Some("tcp"),
            (_, libc::IPPROTO_UDP) => Some("udp"),
            (_, libc::IPPROTO_ICMP) => Some("icmp"),
            (_, libc::IPPROTO_ICMPV6) => Some("ipv6-icmp"),
            (_, libc::IPPROTO_SCTP) => Some("sctp"),
            _ => None,
        }
    }
}

/// The texts of a record, each as long as it says.
struct Texts<'a> {
    rest: &'a [u8],
    lengths: [u16; abi::TEXTS],
    next: usize,
}

impl<'a> Texts<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.lengths.get(self.next)?);
        self.next += 1;
        let (text, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(text)
    }
}

/// `None` for a record that no program of this build writes.
pub(crate) fn decode_call(record: &[u8]) -> Option<Event> {
    let (call, rest) = abi::Call::read_from_prefix(record).ok()?;
    let kind = EventKind::from_number(call.event.kind)?;
    let mut texts = Texts { rest, lengths: call.text_bytes, next: 0 };
    let mut next = || texts.next();
    let (directory, path) = (next()?, next()?);
    let (target_directory, target) = (next()?, next()?);
    let (extra, resolved) = (next()?, next()?);
    let some = |bytes: &[u8]| (!bytes.is_empty()).then(|| text(bytes));
    let socket = socket(&call, path);
    let [first, second, third, ..] = call.args.map(|argument| argument as u32);
    // What stands in the place of arguments.
    let (mut signal, mut capability, mut question, mut args) = (None, None, None, [0; 6]);
    let mut name = some(extra);
    match kind {
        EventKind::Signal => {
            signal = Some(SentSignal { number: first, pid: second, slot: third });
        }
        EventKind::Capability => capability = Some(first),
        EventKind::Dns => {
            name = None;
            question = Some(Question { name: written_out(extra), kind: first as u16 });
        }
        _ => args = call.args,
    }
    Some(Event::Call(Box::new(CallEvent {
        header: header(&call.event),
        kind,
        nr: call.nr,
        compat: call.flags & abi::CALL_COMPAT != 0,
        result: call.result,
        args,
        path: some(&[directory, path].concat()).filter(|_| socket.is_none()),
        target: some(&[target_directory, target].concat()),
        extra: name,
        file: some(resolved).map(|path| OpenFile {
            path,
            inode: call.inode,
            device: (call.device >> 20, call.device & 0xf_ffff),
            mode: call.mode,
        }),
        open_flags: (kind == EventKind::Open).then_some(call.open_flags),
        socket,
        signal,
        capability,
        question,
        truncated: call.flags & (abi::CALL_TRUNCATED * 0x3f) != 0,
        unread: call.flags & (abi::CALL_UNREAD * 0x3f) != 0,
    })))
}

fn socket(call: &abi::Call, path: &[u8]) -> Option<Socket> {
    let family = match call.local.family {
        0 => call.remote.family,
        family => family,
    };
    if family == 0 {
        return None;
    }
    Some(Socket {
        family,
        kind: call.socket_type,
        protocol: call.protocol,
        local: address(&call.local),
        remote: address(&call.remote),
        path: (i32::from(family) == libc::AF_UNIX).then(|| unix_name(path)).flatten(),
    })
}

/// `None` for other families, and for an end that is nowhere yet.
fn address(end: &abi::Endpoint) -> Option<SocketAddr> {
    let ip: IpAddr = match i32::from(end.family) {
        libc::AF_INET => {
            let [a, b, c, d, ..] = end.address;
            Ipv4Addr::new(a, b, c, d).into()
        }
        libc::AF_INET6 => Ipv6Addr::from(end.address).into(),
        _ => return None,
    };
    let is_nowhere = end.port == 0 && ip.is_unspecified();
    (!is_nowhere).then_some(SocketAddr::new(ip, end.port))
}

/// A path ends at its NUL; an abstract name begins with one, which `/proc/net/unix` shows as `@`.
fn unix_name(bytes: &[u8]) -> Option<String> {
    match bytes.split_first() {
        None => None,
        Some((0, name)) => Some(format!("@{}", text(name).replace('\0', "@"))),
        Some(_) => Some(text(bytes.split(|byte| *byte == 0).next().unwrap_or_default())),
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::{FromZeros, IntoBytes};

    use super::*;

    fn record(change: impl FnOnce(&mut abi::Call), texts: [&[u8]; abi::TEXTS]) -> Vec<u8> {
        let mut call = abi::Call::new_zeroed();
        call.event.kind = abi::EVENT_OPEN;
        call.text_bytes = texts.map(|text| text.len() as u16);
        change(&mut call);
        [call.as_bytes(), &texts.concat()].concat()
    }

    fn decoded(record: &[u8]) -> CallEvent {
        match decode_call(record) {
            Some(Event::Call(call)) => *call,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_relative_open_has_its_directory_and_where_it_led() {
        let call = decoded(&record(
            |call| {
                (call.nr, call.result, call.open_flags) = (257, 3, 0o101);
                (call.inode, call.device, call.mode) = (12, 8 << 20 | 1, 0o100_644);
            },
            [b"/home/me/", b"../etc/x", b"", b"", b"", b"/etc/x"],
        ));
        assert_eq!(call.path.as_deref(), Some("/home/me/../etc/x"));
        let file = call.file.unwrap();
        assert_eq!((file.path.as_str(), file.inode, file.device), ("/etc/x", 12, (8, 1)));
        assert_eq!((call.open_flags, call.target, call.socket), (Some(0o101), None, None));
        assert!(!call.truncated && !call.unread && !call.compat);
    }

    #[test]
    fn a_rename_has_two_names_and_says_which_were_cut() {
        let call = decoded(&record(
            |call| {
                call.event.kind = abi::EVENT_FILE;
                call.flags = abi::CALL_TRUNCATED << abi::TEXT_TARGET | abi::CALL_COMPAT;
            },
            [b"", b"/a", b"/d/", b"b", b"", b""],
        ));
        assert_eq!((call.path.as_deref(), call.target.as_deref()), (Some("/a"), Some("/d/b")));
        assert!(call.truncated && !call.unread && call.compat);
        assert_eq!(call.open_flags, None);
    }

    #[test]
    fn a_socket_has_its_ends() {
        let call = decoded(&record(
            |call| {
                call.event.kind = abi::EVENT_CONNECT;
                call.protocol = libc::IPPROTO_TCP as u16;
                call.local = abi::Endpoint { family: 2, ..Default::default() };
                call.remote = abi::Endpoint { family: 2, port: 80, ..Default::default() };
                call.remote.address[..4].copy_from_slice(&[127, 0, 0, 1]);
            },
            [b""; 6],
        ));
        let socket = call.socket.unwrap();
        assert_eq!((socket.local, socket.transport()), (None, Some("tcp")));
        assert_eq!(socket.remote, Some("127.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn unix_sockets_have_paths_or_abstract_names() {
        let check = |bytes: &[u8], expected: Option<&str>| {
            let call = decoded(&record(
                |call| {
                    call.event.kind = abi::EVENT_BIND;
                    call.local.family = libc::AF_UNIX as u16;
                },
                [b"", bytes, b"", b"", b"", b""],
            ));
            assert_eq!((call.path, call.socket.unwrap().path.as_deref()), (None, expected));
        };
        check(b"", None);
        check(b"/run/x.sock\0", Some("/run/x.sock"));
        check(b"/run/x.sock\0rest", Some("/run/x.sock"));
        check(b"\0name", Some("@name"));
    }

    #[test]
    fn signals_capabilities_and_questions_stand_in_the_place_of_arguments() {
        let of = |kind, args| {
            let change = |call: &mut abi::Call| {
                (call.event.kind, call.args) = (kind, args);
            };
            decoded(&record(change, [b""; 6]))
        };
        let signal = of(abi::EVENT_SIGNAL, [15, 4242, 3, 0, 0, 0]);
        let expected = SentSignal { number: 15, pid: 4242, slot: 3 };
        assert_eq!((signal.signal, signal.capability), (Some(expected), None));
        let denied = of(abi::EVENT_CAPABILITY, [21, 0, 0, 0, 0, 0]);
        assert_eq!((denied.signal, denied.capability, denied.args), (None, Some(21), [0; 6]));
        let question = decoded(&record(
            |call| (call.event.kind, call.args[0]) = (abi::EVENT_DNS, 28),
            [b"", b"", b"", b"", b"\x01a\x02io", b""],
        ));
        let expected = Question { name: "a.io".into(), kind: 28 };
        assert_eq!((question.question, question.extra), (Some(expected), None));
        let call = of(abi::EVENT_PTRACE, [1, 2, 3, 4, 5, 6]);
        assert_eq!((call.signal, call.capability, call.args), (None, None, [1, 2, 3, 4, 5, 6]));
    }

    #[test]
    fn a_record_that_is_shorter_than_it_says_is_nothing() {
        let whole = record(|_| (), [b"/a/", b"b", b"", b"", b"", b""]);
        assert!(decode_call(&whole).is_some());
        assert_eq!(decode_call(&whole[..whole.len() - 1]), None);
    }
}
