//! An audit event as the rules ask it: field by field, nothing copied.

use tenantry_rules::{Event, Field, Kind, Texts, Value};

use crate::audit::{AuditEvent, AuditKind, Endpoint, Outcome, Process};

/// An event of a kind that rules look at.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    event: &'a AuditEvent,
    kind: Kind,
}

impl<'a> Judged<'a> {
    pub fn new(event: &'a AuditEvent) -> Option<Self> {
        Some(Self { event, kind: kind(event.event.action)? })
    }
}

/// `None`: what the agent itself did.
fn kind(action: AuditKind) -> Option<Kind> {
    Some(match action {
        AuditKind::Exec => Kind::Exec,
        AuditKind::Exit => Kind::Exit,
        AuditKind::Oom => Kind::Oom,
        AuditKind::Open => Kind::Open,
        AuditKind::File => Kind::File,
        AuditKind::Connect => Kind::Connect,
        AuditKind::Accept => Kind::Accept,
        AuditKind::Bind => Kind::Bind,
        AuditKind::Listen => Kind::Listen,
        AuditKind::Dns => Kind::Dns,
        AuditKind::Mount => Kind::Mount,
        AuditKind::Namespace => Kind::Namespace,
        AuditKind::Ptrace => Kind::Ptrace,
        AuditKind::Kernel => Kind::Kernel,
        AuditKind::Credentials => Kind::Credentials,
        AuditKind::Keyring => Kind::Keyring,
        AuditKind::Signal => Kind::Signal,
        AuditKind::Capability => Kind::Capability,
        AuditKind::Limit | AuditKind::Alert => return None,
    })
}

impl Event for Judged<'_> {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn field(&self, field: Field) -> Option<Value<'_>> {
        let event = self.event;
        match field {
            Field::EventOutcome => event.event.outcome.map(|outcome| {
                Value::Text(match outcome {
                    Outcome::Success => "success",
                    Outcome::Failure => "failure",
                })
            }),
            Field::ContainerId => text(&event.container.id),
            Field::ContainerName => text(&event.container.name),
            Field::ImageName => event.container.image.as_ref().and_then(|image| text(&image.name)),
            Field::FilePath => event.file.as_ref().and_then(|file| text(&file.path)),
            Field::FileTargetPath => event.file.as_ref()?.target_path.as_deref().map(Value::Text),
            Field::FileInode => event.file.as_ref()?.inode.map(wide),
            Field::FileHash => text(&event.file.as_ref()?.hash.as_ref()?.sha256),
            Field::FileMode => event.file.as_ref()?.mode.as_deref().map(Value::Text),
            Field::FileFlags => {
                let flags = &event.file.as_ref()?.flags;
                (!flags.is_empty()).then_some(Value::Texts(flags))
            }
            Field::SourceIp => ip(event.source.as_ref()?),
            Field::SourcePort => port(event.source.as_ref()?),
            Field::SourcePath => event.source.as_ref()?.path.as_deref().map(Value::Text),
            Field::DestinationIp => ip(event.destination.as_ref()?),
            Field::DestinationPort => port(event.destination.as_ref()?),
            Field::DestinationPath => event.destination.as_ref()?.path.as_deref().map(Value::Text),
            Field::NetworkTransport => event.network.as_ref().map(|of| Value::Text(of.transport)),
            Field::DnsName => event.dns.as_ref().map(|dns| Value::Text(&dns.question.name)),
            Field::DnsType => event.dns.as_ref()?.question.kind.as_deref().map(Value::Text),
            Field::SyscallName => event.syscall.as_ref().map(|call| Value::Text(call.name)),
            Field::SyscallResult => event.syscall.as_ref().map(|call| Value::Number(call.result)),
            Field::SyscallError => event.syscall.as_ref()?.error.map(Value::Text),
            Field::TargetPid => event.target.as_ref().map(|target| number(target.pid)),
            Field::TargetContainerId => text(&event.target.as_ref()?.container.as_ref()?.id),
            Field::TargetContainerName => text(&event.target.as_ref()?.container.as_ref()?.name),
            of_process => of(event.process.as_ref()?, of_process),
        }
    }
}

fn of(process: &Process, field: Field) -> Option<Value<'_>> {
    match field {
        Field::Pid => Some(number(process.pid)),
        Field::ContainerPid => Some(number(process.container_pid)),
        Field::ThreadId => Some(number(process.thread.id)),
        Field::ProcessName => Some(Value::Text(&process.name)),
        Field::UserId => Some(number(process.user.id)),
        Field::ParentPid => Some(number(process.parent.pid)),
        Field::ParentName => process.ancestors.first().map(|parent| Value::Text(&parent.name)),
        Field::AncestorNames => (!process.ancestors.is_empty()).then_some(Value::Texts(process)),
        Field::Executable => process.executable.as_deref().map(Value::Text),
        Field::Args => process.args.as_ref().map(|args| Value::Texts(args)),
        Field::ArgsTruncated => process.args_truncated.map(Value::Truth),
        Field::WorkingDirectory => process.working_directory.as_deref().map(Value::Text),
        Field::ExitCode => process.exit_code.map(|code| Value::Number(code.into())),
        Field::ExitSignal => process.signal.map(|signal| Value::Number(signal.into())),
        _ => None,
    }
}

/// The names of its ancestors.
impl Texts for Process {
    fn any(&self, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.ancestors.iter().any(|ancestor| test(&ancestor.name))
    }
}

/// Of a container or a file that is not known there is an empty name: none.
fn text(text: &str) -> Option<Value<'_>> {
    (!text.is_empty()).then_some(Value::Text(text))
}

fn number(number: u32) -> Value<'static> {
    Value::Number(number.into())
}

/// No inode reaches the half of what its 64 bits can hold.
fn wide(number: u64) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn port(endpoint: &Endpoint) -> Option<Value<'static>> {
    endpoint.port.map(|port| Value::Number(port.into()))
}

fn ip(endpoint: &Endpoint) -> Option<Value<'static>> {
    endpoint.ip.as_ref()?.parse().ok().map(Value::Address)
}
