//! `linux.namespaces`, the mappings of a user namespace, and settings below `/proc/sys`.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxIdMapping, LinuxNamespaceType};
use rustix::thread::UnshareFlags;
use tenantry_shim::plan::Step;

use crate::error::Error;

/// The kernel takes so many lines (`UID_GID_MAP_MAX_EXTENTS`).
const MOST_MAPPINGS: usize = 340;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    pub inside: u32,
    pub outside: u32,
    pub size: u32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Namespaces {
    /// Those that `clone3` makes.
    pub new: UnshareFlags,
    /// Made when all cgroups are joined, which become its root.
    pub new_cgroup: bool,
    pub new_user: bool,
    /// What is joined: the kind's name and a file of it.
    pub joined: Vec<(LinuxNamespaceType, PathBuf)>,
    pub uid_map: Vec<Mapping>,
    pub gid_map: Vec<Mapping>,
}

pub fn translate(linux: &Linux) -> Result<Namespaces, Error> {
    let field = "linux.namespaces";
    let mut namespaces = Namespaces {
        new: UnshareFlags::empty(),
        new_cgroup: false,
        new_user: false,
        joined: Vec::new(),
        uid_map: mappings("linux.uidMappings", linux.uid_mappings().as_deref())?,
        gid_map: mappings("linux.gidMappings", linux.gid_mappings().as_deref())?,
    };
    let mut seen = Vec::new();
    for namespace in linux.namespaces().iter().flatten() {
        let kind = namespace.typ();
        if seen.contains(&kind) {
            return Err(Error::invalid(field, kind, "each type once"));
        }
        seen.push(kind);
        let path = namespace.path().as_ref().filter(|path| !path.as_os_str().is_empty());
        match (kind, path) {
            (LinuxNamespaceType::Time, _) => {
                return Err(Error::unsupported("linux.namespaces time", "clocks are the host's"));
            }
            (LinuxNamespaceType::Mount | LinuxNamespaceType::User, Some(_)) => {
                let field = format!("{field} {kind} with a path");
                return Err(Error::unsupported(field, "it is always a new one"));
            }
            (kind, Some(path)) => namespaces.joined.push((kind, path.clone())),
            (LinuxNamespaceType::Cgroup, None) => namespaces.new_cgroup = true,
            (kind, None) => {
                namespaces.new_user |= kind == LinuxNamespaceType::User;
                namespaces.new |= flag(kind);
            }
        }
    }
    if !namespaces.new.contains(UnshareFlags::NEWNS) {
        return Err(Error::invalid(field, "no mount", "mount among them"));
    }
    let mapped = !namespaces.uid_map.is_empty() && !namespaces.gid_map.is_empty();
    let any = !namespaces.uid_map.is_empty() || !namespaces.gid_map.is_empty();
    match (namespaces.new_user, mapped) {
        (true, false) => {
            let allowed = "at least one mapping each, with a user namespace";
            Err(Error::invalid("linux.uidMappings, linux.gidMappings", "", allowed))
        }
        (false, _) if any => {
            Err(Error::invalid("linux.uidMappings", "mappings", "only with a user namespace"))
        }
        _ => Ok(namespaces),
    }
}

fn flag(kind: LinuxNamespaceType) -> UnshareFlags {
    match kind {
        LinuxNamespaceType::Mount => UnshareFlags::NEWNS,
        LinuxNamespaceType::Cgroup => UnshareFlags::NEWCGROUP,
        LinuxNamespaceType::Uts => UnshareFlags::NEWUTS,
        LinuxNamespaceType::Ipc => UnshareFlags::NEWIPC,
        LinuxNamespaceType::User => UnshareFlags::NEWUSER,
        LinuxNamespaceType::Pid => UnshareFlags::NEWPID,
        LinuxNamespaceType::Network => UnshareFlags::NEWNET,
        LinuxNamespaceType::Time => UnshareFlags::NEWTIME,
    }
}

fn mappings(field: &str, list: Option<&[LinuxIdMapping]>) -> Result<Vec<Mapping>, Error> {
    let list = list.unwrap_or_default();
    if list.len() > MOST_MAPPINGS {
        let allowed = format!("{MOST_MAPPINGS} mappings at most");
        return Err(Error::invalid(field, list.len(), &allowed));
    }
    let read = |mapping: &LinuxIdMapping| Mapping {
        inside: mapping.container_id(),
        outside: mapping.host_id(),
        size: mapping.size(),
    };
    Ok(list.iter().map(read).collect())
}

/// As `/proc/PID/uid_map` takes it.
pub fn render(map: &[Mapping]) -> String {
    let line = |m: &Mapping| format!("{} {} {}\n", m.inside, m.outside, m.size);
    map.iter().map(line).collect()
}

/// What the host calls an id of the container. `None`: nobody.
pub fn host_id(map: &[Mapping], inside: u32) -> Option<u32> {
    let of = |m: &Mapping| {
        let offset = inside.checked_sub(m.inside).filter(|offset| *offset < m.size)?;
        m.outside.checked_add(offset)
    };
    map.iter().find_map(of)
}

impl Namespaces {
    fn has(&self, kind: LinuxNamespaceType) -> bool {
        self.new.contains(flag(kind)) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    /// A host name that is not the host's.
    pub fn has_own_names(&self) -> bool {
        self.has(LinuxNamespaceType::Uts)
    }

    /// An id of the container as the host has it.
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        if self.new_user { host_id(&self.uid_map, uid) } else { Some(uid) }
    }

    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        if self.new_user { host_id(&self.gid_map, gid) } else { Some(gid) }
    }

    /// `linux.sysctl`: only what belongs to a namespace of the container's own, or a
    /// container would change its host.
    pub fn settings(&self, sysctl: Option<&HashMap<String, String>>) -> Result<Vec<Step>, Error> {
        let mut settings: Vec<(&String, &String)> = sysctl.into_iter().flatten().collect();
        settings.sort();
        let step = |(name, value): (&String, &String)| {
            let path = name.replace('.', "/");
            let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            if !plain || !self.owner(&path).is_some_and(|kind| self.has(kind)) {
                let allowed = "net.* with a network namespace; kernel.msg*, kernel.sem, \
                               kernel.shm* and fs.mqueue.* with an ipc namespace; \
                               kernel.domainname with a uts namespace";
                return Err(Error::invalid("linux.sysctl", name, allowed));
            }
            Ok(Step::Write { path: format!("/proc/sys/{path}"), text: value.clone() })
        };
        settings.into_iter().map(step).collect()
    }

    /// Whose setting it is.
    fn owner(&self, path: &str) -> Option<LinuxNamespaceType> {
        const IPC: [&str; 8] = [
            "kernel/msgmax",
            "kernel/msgmnb",
            "kernel/msgmni",
            "kernel/sem",
            "kernel/shmall",
            "kernel/shmmax",
            "kernel/shmmni",
            "kernel/shm_rmid_forced",
        ];
        if path.starts_with("net/") {
            return Some(LinuxNamespaceType::Network);
        }
        if IPC.contains(&path) || path.starts_with("fs/mqueue/") {
            return Some(LinuxNamespaceType::Ipc);
        }
        (path == "kernel/domainname").then_some(LinuxNamespaceType::Uts)
    }
}
