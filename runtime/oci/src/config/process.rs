//! `process`: the program, who it is and what it may do. Also that of an `exec`.

use serde_json::Value;

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};
use rustix::process::Resource;
use tenantry_container::capabilities;
use tenantry_shim::privileges::Sets;
use tenantry_shim::spec::{self, WindowSize};

use crate::error::Error;

#[derive(Clone, Debug)]
pub struct ProcessPlan {
    /// Its `capabilities` are not looked at: `sets` has them.
    pub process: spec::Process,
    pub umask: u32,
    pub sets: Sets,
    pub rlimits: Vec<Rlimit>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rlimit {
    pub kind: PosixRlimitType,
    pub resource: Resource,
    pub soft: u64,
    pub hard: u64,
}

pub fn plan(process: &Process) -> Result<ProcessPlan, Error> {
    let args = process.args().clone().unwrap_or_default();
    if args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("process.args", "", "at least the program"));
    }
    let cwd = process.cwd().to_str().filter(|cwd| cwd.starts_with('/'));
    let cwd = cwd.ok_or_else(|| {
        Error::invalid("process.cwd", process.cwd().display(), "an absolute path")
    })?;
    let env = process.env().clone().unwrap_or_default();
    let user = process.user();
    if let Some(score) = process.oom_score_adj()
        && !(-1000..=1000).contains(&score)
    {
        return Err(Error::invalid("process.oomScoreAdj", score, "-1000 to 1000"));
    }
    Ok(ProcessPlan {
        process: spec::Process {
            args,
            env,
            cwd: cwd.to_owned(),
            uid: user.uid(),
            gid: user.gid(),
            additional_gids: user.additional_gids().clone().unwrap_or_default(),
            capabilities: 0,
            no_new_privileges: process.no_new_privileges().unwrap_or(false),
            oom_score_adj: process.oom_score_adj(),
            // Set from outside, by who starts it.
            rlimits: Vec::new(),
            terminal: terminal(process),
        },
        umask: user.umask().unwrap_or(0o022) & 0o777,
        sets: process.capabilities().as_ref().map(sets).unwrap_or_default(),
        rlimits: rlimits(process)?,
    })
}

fn terminal(process: &Process) -> Option<WindowSize> {
    let cells = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
    let size = process.console_size().map_or(WindowSize::default(), |size| WindowSize {
        rows: cells(size.height()),
        columns: cells(size.width()),
    });
    process.terminal().unwrap_or(false).then_some(size)
}

fn sets(named: &LinuxCapabilities) -> Sets {
    let set = |names: &Option<Capabilities>| names.as_ref().map_or(0, capability_bits);
    Sets {
        bounding: set(named.bounding()),
        permitted: set(named.permitted()),
        effective: set(named.effective()),
        inheritable: set(named.inheritable()),
        ambient: set(named.ambient()),
    }
}

/// The kernel's names, in the order of their numbers.
pub fn capability_names() -> Vec<String> {
    capabilities::names(capabilities::all())
}

/// Takes out what no kernel of ours calls a capability, and names it: the specification has it
/// ignored, with a warning. `process` is the specification's.
pub fn ignore_unknown_capabilities(process: &mut Value) -> Vec<String> {
    let known = capability_names();
    let is_known = |name: &str| {
        let name = name.to_ascii_uppercase();
        known.iter().any(|known| *known == name || known.strip_prefix("CAP_") == Some(&name))
    };
    let mut ignored: Vec<String> = Vec::new();
    let sets = process.get_mut("capabilities").and_then(Value::as_object_mut);
    for names in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut)
    {
        names.retain(|name| match name.as_str() {
            Some(name) if !is_known(name) => {
                ignored.push(name.to_owned());
                false
            }
            // What is no text is refused where the document is read.
            _ => true,
        });
    }
    ignored.sort();
    ignored.dedup();
    ignored
}

fn capability_bits(names: &Capabilities) -> u64 {
    let known = capability_names();
    let bit = |name: String| {
        let number =
            known.iter().position(|known| known.strip_prefix("CAP_") == Some(name.as_str()));
        number.map_or(0, |number| 1_u64 << number)
    };
    names.iter().map(|capability| bit(capability.to_string())).fold(0, |set, bit| set | bit)
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, Error> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let (kind, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
        if soft > hard {
            let value = format!("{kind} soft {soft} hard {hard}");
            return Err(Error::invalid(
                "process.rlimits",
                value,
                "a soft limit up to the hard one",
            ));
        }
        if limits.iter().any(|known| known.kind == kind) {
            return Err(Error::invalid("process.rlimits", kind, "each type once"));
        }
        limits.push(Rlimit { kind, resource: resource(kind), soft, hard });
    }
    Ok(limits)
}

fn resource(kind: PosixRlimitType) -> Resource {
    match kind {
        PosixRlimitType::RlimitCpu => Resource::Cpu,
        PosixRlimitType::RlimitFsize => Resource::Fsize,
        PosixRlimitType::RlimitData => Resource::Data,
        PosixRlimitType::RlimitStack => Resource::Stack,
        PosixRlimitType::RlimitCore => Resource::Core,
        PosixRlimitType::RlimitRss => Resource::Rss,
        PosixRlimitType::RlimitNproc => Resource::Nproc,
        PosixRlimitType::RlimitNofile => Resource::Nofile,
        PosixRlimitType::RlimitMemlock => Resource::Memlock,
        PosixRlimitType::RlimitAs => Resource::As,
        PosixRlimitType::RlimitLocks => Resource::Locks,
        PosixRlimitType::RlimitSigpending => Resource::Sigpending,
        PosixRlimitType::RlimitMsgqueue => Resource::Msgqueue,
        PosixRlimitType::RlimitNice => Resource::Nice,
        PosixRlimitType::RlimitRtprio => Resource::Rtprio,
        PosixRlimitType::RlimitRttime => Resource::Rttime,
    }
}
