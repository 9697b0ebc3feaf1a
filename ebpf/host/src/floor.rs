//! Empty programs at the meters' hooks, to measure beside: what any program there costs,
//! which no meter can go below.

use std::fs::File;
use std::path::Path;

use aya::programs::links::FdLink;
use aya::{Btf, EbpfLoader};

use crate::load::{LoadError, attach};
use crate::probe::{Hook, Program, tracepoint};

const PROGRAMS: &[Program] = &[
    tracepoint("empty_exit", "sys_exit"),
    tracepoint("empty_enter", "sys_enter"),
    tracepoint("empty_switch", "sched_switch"),
    tracepoint("empty_wakeup", "sched_wakeup"),
    Program { hook: Hook::CgroupIngress, ..tracepoint("empty_ingress", "") },
    Program { hook: Hook::CgroupEgress, ..tracepoint("empty_egress", "") },
    Program { hook: Hook::SocketOperations, ..tracepoint("empty_socket", "") },
];

/// Attached until it is dropped.
#[derive(Debug)]
pub struct Floor {
    _links: Vec<FdLink>,
}

impl Floor {
    /// Attaches the empty programs of these names (`empty_exit`, …), those for sockets and
    /// packets to everything below `cgroup`.
    pub fn attach(names: &[&str], cgroup: &Path) -> Result<Self, LoadError> {
        let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
        let directory = File::open(cgroup)
            .map_err(|source| LoadError::CgroupDir { path: cgroup.to_owned(), source })?;
        let mut object = EbpfLoader::new()
            .btf(Some(&btf))
            .load(tenantry_programs::FLOOR)
            .map_err(|source| LoadError::Object { object: "floor", source })?;
        let mut links = Vec::new();
        for program in PROGRAMS.iter().filter(|program| names.contains(&program.name)) {
            let essential = |why: String| LoadError::Essential { program: program.name, why };
            let loaded = object
                .program_mut(program.name)
                .ok_or_else(|| essential("not in the object".to_owned()))?;
            let link = attach(loaded, program.hook, &btf, &directory);
            links.push(link.map_err(|error| essential(error.to_string()))?);
        }
        Ok(Self { _links: links })
    }
}
