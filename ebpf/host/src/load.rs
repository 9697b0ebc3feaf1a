//! Brings the programs into the kernel and pins what they are made of.
//!
//! Owns the way from the ELF bytes to pins; afterwards nothing of the objects or of the
//! kernel's BTF stays in memory. One program that this kernel does not take becomes a
//! status; only [`Program::essential`] ones are errors. `Meters::load` is the caller.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use aya::maps::ProgramArray;
use aya::programs::links::FdLink;
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkbAttachType, Program as AyaProgram, ProgramError,
};
use aya::{Btf, Ebpf, EbpfLoader};
use zerocopy::IntoBytes as _;

use crate::call_shapes::{call_shapes, compat_numbers};
use crate::error_class::error_class_table;
use crate::map::MapError;
use crate::options::LoadOptions;
use crate::pins::Pins;
use crate::probe::{Hook, METERS, ProbeStatus, Program, TRAMPOLINES};
use crate::switch::SwitchError;
use crate::syscalls::class_table;

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{0}")]
    Options(String),
    #[error("this kernel offers no BTF at /sys/kernel/btf/vmlinux")]
    Btf(#[source] aya::BtfError),
    #[error("{path} is not on a bpf file system")]
    NotBpffs { path: PathBuf },
    #[error("bpf file system not mounted at /sys/fs/bpf")]
    Mount(#[source] io::Error),
    #[error("pin directory {path}")]
    PinDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cgroup directory {path}")]
    CgroupDir {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("number of the blkio hierarchy: {0}")]
    Blkio(String),
    #[error("object {object} not loaded")]
    Object {
        object: &'static str,
        #[source]
        source: aya::EbpfError,
    },
    #[error("program {program} does not run on this kernel: {why}")]
    Essential { program: &'static str, why: String },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Switch(#[from] SwitchError),
}

/// Maps with one entry for each slot.
const BY_SLOT: &[&str] = &[
    "slot_states",
    "syscalls",
    "syscall_latency",
    "sync_latency",
    "slot_traces",
    "profile_controls",
    "profiles",
    "network",
    "scheduler",
    "causes",
    "queue_waits",
    "tcp",
    "tcp_rtt",
    "dns",
    "event_counts",
    "audit_filters",
    "trampoline_counts",
];
/// The others.
const SHARED: &[&str] = &[
    "slot_cache",
    "cgroup_slots",
    "namespace_syscalls",
    "slot_pool",
    "cgroup_names",
    "cgroup_scratch",
    "cgroup_events",
    "syscall_samples",
    "timing",
    "trace_calls",
    "refused_calls",
    "passages",
    "dice",
    "tcp_sockets",
    "destinations",
    "dns_names",
    "dns_sockets",
    "disks",
    "disk_services",
    "requests",
    "tasks",
    "cpu_runs",
    "blame",
    "queue_standing",
    "flows",
    "queued",
    "queues",
    "oom_kills_seen",
    "events",
    "call_scratch",
    "exec_scratch",
    "path_scratch",
    "call_programs",
    "self_counters",
];

/// Loads, attaches and pins everything into an empty directory, but for the marker and for
/// the links of programs that are switched at run time.
pub(crate) fn load_anew(
    options: &LoadOptions,
    blkio_hierarchy: u32,
    pins: &Pins,
) -> Result<(), LoadError> {
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let cgroup = File::open(&options.cgroup_dir)
        .map_err(|source| LoadError::CgroupDir { path: options.cgroup_dir.clone(), source })?;
    let pin = |source| LoadError::PinDir { path: pins.dir.clone(), source };

    let bytes = tenantry_programs::METERS;
    let mut meters = load_object(bytes, options, blkio_hierarchy, pins, &btf)
        .map_err(|source| LoadError::Object { object: "meters", source })?;
    for program in METERS {
        let status = start(&mut meters, program, pins, &btf, &cgroup);
        if let (true, ProbeStatus::Unsupported(why) | ProbeStatus::Failed(why)) =
            (program.essential, &status)
        {
            return Err(LoadError::Essential { program: program.name, why: why.clone() });
        }
        pins.write_status(program, &status).map_err(pin)?;
    }
    drop(meters);

    let bytes = tenantry_programs::TRAMPOLINES;
    let mut trampolines = load_object(bytes, options, blkio_hierarchy, pins, &btf);
    for program in TRAMPOLINES {
        let status = match &mut trampolines {
            Ok(object) => start(object, program, pins, &btf, &cgroup),
            Err(error) => ProbeStatus::Failed(error.to_string()),
        };
        pins.write_status(program, &status).map_err(pin)?;
    }
    Ok(())
}

fn load_object(
    bytes: &[u8],
    options: &LoadOptions,
    blkio_hierarchy: u32,
    pins: &Pins,
    btf: &Btf,
) -> Result<Ebpf, aya::EbpfError> {
    let (classes, error_classes) = (class_table(), error_class_table());
    let (shapes, compat) = (call_shapes(), compat_numbers());
    let mut loader = EbpfLoader::new();
    // Task and socket storage have no user-space interface in aya, and need none.
    loader.btf(Some(btf)).allow_unsupported_maps();
    // Not in the trampoline object, which has no use for them.
    loader.override_global("syscall_class", &classes[..], false);
    loader.override_global("error_class", &error_classes[..], false);
    loader.override_global("call_shapes", shapes.as_bytes(), false);
    loader.override_global("compat_numbers", &compat[..], false);
    loader.override_global("blkio_hierarchy", &blkio_hierarchy, false);
    let first_foreign_slot = options.foreign.map_or(0, |foreign| foreign.first_slot);
    let foreign_services = u8::from(options.foreign.is_some_and(|foreign| foreign.services));
    loader.override_global("first_foreign_slot", &first_foreign_slot, false);
    loader.override_global("foreign_services", &foreign_services, false);
    for name in BY_SLOT {
        loader.map_max_entries(name, options.slots);
    }
    loader.map_max_entries("events", options.ring_bytes);
    for name in BY_SLOT.iter().chain(SHARED) {
        loader.map_pin_path(name, pins.dir.join(name));
    }
    loader.load(bytes)
}

fn start(
    object: &mut Ebpf,
    program: &Program,
    pins: &Pins,
    btf: &Btf,
    cgroup: &File,
) -> ProbeStatus {
    if let Hook::TailCall { tracepoint, map, index } = program.hook {
        return status(program, put_into(object, program, tracepoint, (map, index), pins, btf));
    }
    let Some(loaded) = object.program_mut(program.name) else {
        return ProbeStatus::Failed("not in the object".into());
    };
    let started = match program.switchable {
        true => load_alone(loaded, program, pins, btf).map(|()| ProbeStatus::Disabled),
        false => attach(loaded, program.hook, btf, cgroup).and_then(|link| {
            loaded.pin(pins.program(program)).map_err(pin_error)?;
            link.pin(pins.link(program)).map_err(pin_error)?;
            Ok(ProbeStatus::Active)
        }),
    };
    status(program, started)
}

fn status(program: &Program, started: Result<ProbeStatus, ProgramError>) -> ProbeStatus {
    match started {
        Ok(status) => status,
        Err(error) => {
            let status = ProbeStatus::from_error(&error);
            tracing::warn!(program = program.name, hook = %program.hook, status = %status.to_line(), "probe not active");
            status
        }
    }
}

/// Loads a program that another one goes on to, puts it where that one looks, and pins it.
fn put_into(
    object: &mut Ebpf,
    program: &Program,
    hook: &str,
    (map, index): (&str, u32),
    pins: &Pins,
    btf: &Btf,
) -> Result<ProbeStatus, ProgramError> {
    let missing = || ProgramError::IOError(io::Error::other("not in the object"));
    let Some(AyaProgram::BtfTracePoint(loaded)) = object.program_mut(program.name) else {
        return Err(missing());
    };
    loaded.load(hook, btf)?;
    let fd = loaded.fd()?.try_clone().map_err(ProgramError::IOError)?;
    let mut programs = ProgramArray::try_from(object.map_mut(map).ok_or_else(missing)?)?;
    programs.set(index, &fd, 0)?;
    let loaded = object.program_mut(program.name).ok_or_else(missing)?;
    loaded.pin(pins.program(program)).map_err(pin_error)?;
    Ok(ProbeStatus::Active)
}

/// Pins a program whose link is made later, by [`attach_pinned`].
fn load_alone(
    loaded: &mut AyaProgram,
    program: &Program,
    pins: &Pins,
    btf: &Btf,
) -> Result<(), ProgramError> {
    match (&mut *loaded, program.hook) {
        (AyaProgram::BtfTracePoint(tracepoint), Hook::Tracepoint(name)) => {
            tracepoint.load(name, btf)?;
        }
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    loaded.pin(pins.program(program)).map_err(pin_error)
}

/// Makes and pins the link of a tracepoint's pinned program.
pub(crate) fn attach_pinned(program: &Program, pins: &Pins) -> Result<(), ProgramError> {
    let mut pinned = BtfTracePoint::from_pin(pins.program(program))?;
    let link = pinned.attach()?;
    let link: FdLink = pinned.take_link(link)?.into();
    link.pin(pins.link(program)).map_err(pin_error)?;
    Ok(())
}

pub(crate) fn attach(
    program: &mut AyaProgram,
    hook: Hook,
    btf: &Btf,
    cgroup: &File,
) -> Result<FdLink, ProgramError> {
    match (program, hook) {
        (AyaProgram::BtfTracePoint(program), Hook::Tracepoint(name)) => {
            program.load(name, btf)?;
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        (AyaProgram::RawTracePoint(program), Hook::RawTracepoint(name)) => {
            program.load()?;
            let id = program.attach(name)?;
            Ok(program.take_link(id)?.into())
        }
        (AyaProgram::CgroupSkb(program), Hook::CgroupIngress | Hook::CgroupEgress) => {
            let direction = match hook {
                Hook::CgroupIngress => CgroupSkbAttachType::Ingress,
                _ => CgroupSkbAttachType::Egress,
            };
            program.load()?;
            // Links always allow others beside them; the mode is for older kernels' calls.
            let id = program.attach(cgroup, direction, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)
        }
        (AyaProgram::CgroupSock(program), Hook::SocketRelease) => {
            program.load()?;
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)
        }
        (AyaProgram::SockOps(program), Hook::SocketOperations) => {
            program.load()?;
            let id = program.attach(cgroup, CgroupAttachMode::Single)?;
            program.take_link(id)?.try_into().map_err(|_| ProgramError::UnexpectedProgramType)
        }
        (AyaProgram::Lsm(program), Hook::Lsm(name)) => {
            program.load(name, btf)?;
            let id = program.attach()?;
            Ok(program.take_link(id)?.into())
        }
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn pin_error(error: aya::pin::PinError) -> ProgramError {
    match error {
        aya::pin::PinError::SyscallError(error) => ProgramError::SyscallError(error),
        other => ProgramError::IOError(io::Error::other(other)),
    }
}
