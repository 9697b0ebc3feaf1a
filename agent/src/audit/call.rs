//! A system call as an audit event: which of its arguments stand under which name. Pure.

use std::net::SocketAddr;

use tenantry_ebpf::{
    CallEvent, EventKind, SentSignal, Socket, argument_count, capability_name, error_name,
    open_flag_names, syscall_name,
};

use super::event::{
    AuditEvent, AuditKind, Container, Dns, Endpoint, File, Network, Outcome, Question, Syscall,
    Target,
};
use crate::registry::Holder;

/// Type and permissions, of which `chmod` takes the lower twelve bits.
const PERMISSIONS: u32 = 0o7777;

/// Fills in what is the call's.
pub(super) fn describe_call(call: &CallEvent, event: &mut AuditEvent) {
    event.event.action = action(call.kind);
    event.event.outcome = Some(if call.result < 0 { Outcome::Failure } else { Outcome::Success });
    event.file = file(call);
    if let Some(socket) = &call.socket {
        (event.source, event.destination) = ends(call.kind, socket);
        event.network = socket.transport().map(|transport| Network { transport });
    }
    if let Some(question) = &call.question {
        let kind = (question.kind != 0).then(|| question_type(question.kind));
        event.dns = Some(Dns { question: Question { name: question.name.clone(), kind } });
        // Who asked is not known, and 0 is nobody's number.
        if call.header.pid == 0 {
            event.process = None;
            event.namespaces.clear();
        }
    }
    if matches!(call.kind, EventKind::Signal | EventKind::Dns) {
        return;
    }
    event.syscall = Some(Syscall {
        name: syscall_name(call.nr).unwrap_or("unknown"),
        result: call.result,
        error: i32::try_from(-call.result).ok().filter(|number| *number > 0).and_then(error_name),
        args: if call.capability.is_some() { Vec::new() } else { taken(call).to_vec() },
        text: call.extra.clone(),
        capability: call.capability.map(capability_name),
        compat: call.compat.then_some(true),
        unread: call.unread.then_some(true),
    });
}

/// Without what other registers hold.
fn taken(call: &CallEvent) -> &[u64] {
    &call.args[..argument_count(call.nr).min(call.args.len())]
}

/// Whom a signal is for: `holder` has its slot.
pub(super) fn target(signal: &SentSignal, holder: Option<Holder>) -> Target {
    let container = holder.map(|holder| Container::new(holder.id, holder.name, holder.image));
    Target { pid: signal.pid, container, signal: Some(signal.number) }
}

/// The types that are asked for at all; the others as RFC 3597 writes them.
fn question_type(number: u16) -> String {
    const NAMES: [(u16, &str); 18] = [
        (1, "A"),
        (2, "NS"),
        (5, "CNAME"),
        (6, "SOA"),
        (10, "NULL"),
        (12, "PTR"),
        (15, "MX"),
        (16, "TXT"),
        (28, "AAAA"),
        (33, "SRV"),
        (35, "NAPTR"),
        (43, "DS"),
        (48, "DNSKEY"),
        (52, "TLSA"),
        (64, "SVCB"),
        (65, "HTTPS"),
        (255, "ANY"),
        (257, "CAA"),
    ];
    match NAMES.iter().find(|(known, _)| *known == number) {
        Some((_, name)) => (*name).into(),
        None => format!("TYPE{number}"),
    }
}

pub(super) fn action(kind: EventKind) -> AuditKind {
    match kind {
        EventKind::Exec => AuditKind::Exec,
        EventKind::Exit => AuditKind::Exit,
        EventKind::Oom => AuditKind::Oom,
        EventKind::Open => AuditKind::Open,
        EventKind::File => AuditKind::File,
        EventKind::Connect => AuditKind::Connect,
        EventKind::Accept => AuditKind::Accept,
        EventKind::Bind => AuditKind::Bind,
        EventKind::Listen => AuditKind::Listen,
        EventKind::Dns => AuditKind::Dns,
        EventKind::Mount => AuditKind::Mount,
        EventKind::Namespace => AuditKind::Namespace,
        EventKind::Ptrace => AuditKind::Ptrace,
        EventKind::Kernel => AuditKind::Kernel,
        EventKind::Credentials => AuditKind::Credentials,
        EventKind::Keyring => AuditKind::Keyring,
        EventKind::Signal => AuditKind::Signal,
        EventKind::Capability => AuditKind::Capability,
    }
}

/// Where the file lies if that is known, else where it was looked for.
fn file(call: &CallEvent) -> Option<File> {
    let opened = call.file.as_ref();
    let path = match opened.map(|file| &file.path).or(call.path.as_ref()) {
        Some(path) => path.clone(),
        None if call.target.is_some() => String::new(),
        None => return None,
    };
    Some(File {
        path,
        path_truncated: call.truncated.then_some(true),
        target_path: call.target.clone(),
        inode: opened.map(|file| file.inode),
        mode: opened.map(|file| format!("{:04o}", file.mode & PERMISSIONS)),
        flags: call.open_flags.map(open_flag_names).unwrap_or_default(),
        hash: None,
    })
}

/// Source and destination: of what comes in, the source is who came.
fn ends(kind: EventKind, socket: &Socket) -> (Option<Endpoint>, Option<Endpoint>) {
    let path =
        || socket.path.clone().map(|path| Endpoint { path: Some(path), ..Endpoint::default() });
    let (local, remote) = (socket.local.map(endpoint), socket.remote.map(endpoint));
    match kind {
        EventKind::Connect | EventKind::Dns => (local, remote.or_else(path)),
        EventKind::Accept => (remote, local.or_else(path)),
        _ => (local.or_else(path), remote),
    }
}

fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        ip: Some(address.ip().to_string()),
        port: Some(address.port()),
        ..Endpoint::default()
    }
}

#[cfg(test)]
mod tests {
    use tenantry_ebpf::{EventHeader, OpenFile};

    use super::*;

    fn call(kind: EventKind, nr: u32, result: i64) -> CallEvent {
        CallEvent {
            header: EventHeader::default(),
            kind,
            nr,
            compat: false,
            result,
            args: [1, 2, 3, 4, 5, 6],
            path: None,
            target: None,
            extra: None,
            file: None,
            open_flags: None,
            socket: None,
            signal: None,
            capability: None,
            question: None,
            truncated: false,
            unread: false,
        }
    }

    fn check(call: &CallEvent, expected: serde_json::Value) {
        let mut event = AuditEvent::default();
        describe_call(call, &mut event);
        let mut found = serde_json::to_value(event).unwrap();
        let parts = found.as_object_mut().unwrap();
        parts.retain(|name, _| !["@timestamp", "container"].contains(&name.as_str()));
        assert_eq!(found, expected);
    }

    #[test]
    fn an_open_is_where_the_file_lies() {
        let open = CallEvent {
            path: Some("/tmp/link".into()),
            file: Some(OpenFile {
                path: "/etc/passwd".into(),
                inode: 77,
                device: (8, 1),
                mode: 0o100_644,
            }),
            open_flags: Some(0o1001),
            ..call(EventKind::Open, 257, 3)
        };
        check(
            &open,
            serde_json::json!({
                "event": { "action": "open", "outcome": "success" },
                "file": { "path": "/etc/passwd", "inode": 77, "mode": "0644", "flags": ["O_WRONLY", "O_TRUNC"] },
                "syscall": { "name": "openat", "result": 3, "args": [1, 2, 3, 4] },
            }),
        );
    }

    #[test]
    fn a_call_that_failed_has_its_error_and_what_it_was_given() {
        let rename = CallEvent {
            path: Some("/a".into()),
            target: Some("/b".into()),
            truncated: true,
            ..call(EventKind::File, 82, -13)
        };
        check(
            &rename,
            serde_json::json!({
                "event": { "action": "file", "outcome": "failure" },
                "file": { "path": "/a", "path_truncated": true, "target_path": "/b" },
                "syscall": { "name": "rename", "result": -13, "error": "EACCES", "args": [1, 2] },
            }),
        );
    }

    #[test]
    fn of_what_comes_in_the_source_is_who_came() {
        let inet = Socket {
            family: 2,
            protocol: 6,
            local: Some("10.0.0.1:80".parse().unwrap()),
            remote: Some("10.0.0.2:4000".parse().unwrap()),
            ..Socket::default()
        };
        let (here, there) = (
            serde_json::json!({ "ip": "10.0.0.1", "port": 80 }),
            serde_json::json!({ "ip": "10.0.0.2", "port": 4000 }),
        );
        let ends = |kind, nr| {
            let mut event = AuditEvent::default();
            describe_call(
                &CallEvent { socket: Some(inet.clone()), ..call(kind, nr, 0) },
                &mut event,
            );
            assert_eq!(event.network.unwrap().transport, "tcp");
            [event.source, event.destination].map(|end| serde_json::to_value(end).unwrap())
        };
        assert_eq!(ends(EventKind::Connect, 42), [here.clone(), there.clone()]);
        assert_eq!(ends(EventKind::Accept, 43), [there, here]);
        let unix = Socket { family: 1, path: Some("/run/docker.sock".into()), ..Socket::default() };
        let mut event = AuditEvent::default();
        let connect = CallEvent { socket: Some(unix), ..call(EventKind::Connect, 42, 0) };
        describe_call(&connect, &mut event);
        assert_eq!(event.destination.unwrap().path.unwrap(), "/run/docker.sock");
        assert_eq!((event.network.unwrap().transport, event.source), ("unix", None));
    }

    #[test]
    fn a_denied_capability_is_named_beside_the_call_that_failed_for_it() {
        let denied = CallEvent { capability: Some(18), ..call(EventKind::Capability, 161, -1) };
        check(
            &denied,
            serde_json::json!({
                "event": { "action": "capability", "outcome": "failure" },
                "syscall": { "name": "chroot", "result": -1, "error": "EPERM", "capability": "CAP_SYS_CHROOT" },
            }),
        );
    }

    #[test]
    fn a_signal_is_no_call_and_says_whom_it_is_for() {
        let sent = SentSignal { number: 15, pid: 4242, slot: 3 };
        let event = CallEvent { signal: Some(sent), ..call(EventKind::Signal, u32::MAX, 0) };
        check(&event, serde_json::json!({ "event": { "action": "signal", "outcome": "success" } }));
        let holder = Holder { id: "c0".into(), name: "web".into(), image: "demo".into() };
        let json = |holder| serde_json::to_value(target(&sent, holder)).unwrap();
        let container =
            serde_json::json!({ "id": "c0", "name": "web", "image": { "name": "demo" } });
        assert_eq!(
            json(Some(holder)),
            serde_json::json!({ "pid": 4242, "container": container, "signal": 15 })
        );
        assert_eq!(json(None), serde_json::json!({ "pid": 4242, "signal": 15 }));
    }

    #[test]
    fn a_question_has_its_name_its_type_and_whom_it_was_put_to() {
        let socket = Socket {
            family: 2,
            protocol: 17,
            local: Some("10.0.0.2:4000".parse().unwrap()),
            remote: Some("10.0.0.1:53".parse().unwrap()),
            ..Socket::default()
        };
        let question = tenantry_ebpf::Question { name: "example.com".into(), kind: 28 };
        let event = CallEvent {
            socket: Some(socket),
            question: Some(question),
            ..call(EventKind::Dns, u32::MAX, 0)
        };
        check(
            &event,
            serde_json::json!({
                "event": { "action": "dns", "outcome": "success" },
                "source": { "ip": "10.0.0.2", "port": 4000 },
                "destination": { "ip": "10.0.0.1", "port": 53 },
                "network": { "transport": "udp" },
                "dns": { "question": { "name": "example.com", "type": "AAAA" } },
            }),
        );
        assert_eq!(question_type(65280), "TYPE65280");
    }
}
