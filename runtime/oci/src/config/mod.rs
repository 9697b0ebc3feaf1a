//! From `config.json` to what is literally done: the OCI runtime specification, 1.2.
//!
//! Pure: values in, values out; opens no file. What the specification has and this
//! runtime does not is refused by the field's name; what the specification does not know
//! is ignored, as it demands.

mod device_rules;
mod devices;
mod mounts;
mod namespaces;
mod options;
mod process;
mod resources;
mod seccomp;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::mount::MountAttrFlags as Attr;
use serde_json::Value;
use tenantry_cgroupfs::{DeviceRule, Resources};
use tenantry_shim::plan::Step;
use tenantry_shim::spec::{CgroupPlacement, Propagation};

use crate::error::Error;
use crate::hooks::Hooks;
pub use device_rules::HostNode;
pub use mounts::is_bind;
pub use namespaces::{Namespaces, render as render_map};
pub use options::FLAGS as MOUNT_FLAGS;
pub use process::{
    ProcessPlan, Rlimit, capability_names, ignore_unknown_capabilities, plan as plan_process,
};
pub use resources::{OWN_PARENT, cgroup_path, translate as translate_resources};

/// A container before it is born: nothing in it is left to choose.
#[derive(Clone, Debug)]
pub struct Plan {
    pub root: PathBuf,
    pub root_propagation: Propagation,
    pub steps: Vec<Step>,
    pub namespaces: Namespaces,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub process: ProcessPlan,
    pub resources: Resources,
    /// For the devices controller of v1; empty where all may be opened.
    pub device_rules: Vec<DeviceRule>,
    /// A profile in the format that our own containers have.
    pub seccomp: Option<String>,
    pub hooks: Hooks,
}

/// `raw` is the same document as `spec`. `bundle` is absolute. `host_nodes` are those that its
/// binds show of the host's `/dev`.
///
/// # Errors
/// [`Error::Invalid`] and [`Error::Unsupported`] with the field's name.
pub fn plan(
    spec: &Spec,
    raw: &Value,
    bundle: &Path,
    placement: &CgroupPlacement,
    host_nodes: &[HostNode],
) -> Result<Plan, Error> {
    check_version(spec.version())?;
    refuse_whole_fields(raw)?;
    let linux = spec.linux().as_ref();
    let linux = linux.ok_or_else(|| Error::invalid("linux", "", "it is required"))?;
    let namespaces = namespaces::translate(linux)?;
    let process = spec.process().as_ref();
    let process = process.ok_or_else(|| Error::invalid("process", "", "it is required"))?;
    let process = process::plan(process)?;
    let root = spec.root().as_ref();
    let root = root.ok_or_else(|| Error::invalid("root", "", "it is required"))?;
    let resources = linux.resources().as_ref();
    let open_devices = resources.is_some_and(devices::all_are_allowed);
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    let rules = device_rules::Rules::of(linux);
    let world = mounts::World { bundle, placement, open_devices, rules: &rules, host_nodes };
    let mut steps = mounts::steps(mounts, &world)?;
    steps.extend(devices::steps(mounts, linux, &namespaces, open_devices)?);
    steps.extend(namespaces.settings(linux.sysctl().as_ref())?);
    let masked = linux.masked_paths().iter().flatten();
    steps.extend(masked.map(|path| Step::Mask { path: path.clone() }));
    let read_only = linux.readonly_paths().iter().flatten();
    steps.extend(read_only.map(|path| Step::ReadOnly { path: path.clone() }));
    let (root_propagation, propagate) = root_propagation(linux.rootfs_propagation().as_deref())?;
    steps.extend(propagate);
    // While it can still be made.
    if process.process.cwd != "/" {
        steps.push(Step::Ensure { path: process.process.cwd.clone() });
    }
    let mut attributes = Attr::empty();
    attributes.set(Attr::MOUNT_ATTR_RDONLY, root.readonly().unwrap_or(false));
    attributes.set(Attr::MOUNT_ATTR_NODEV, !open_devices);
    if !attributes.is_empty() {
        steps.push(Step::Restrict { path: "/", attributes });
    }
    let named = |field: &str, name: &Option<String>| match name {
        Some(name) if !name.is_empty() && !namespaces.has_own_names() => {
            Err(Error::invalid(field, name, "only with a uts namespace"))
        }
        name => Ok(name.clone().filter(|name| !name.is_empty())),
    };
    Ok(Plan {
        root: bundle.join(root.path()),
        root_propagation,
        steps,
        hostname: named("hostname", spec.hostname())?,
        domainname: named("domainname", spec.domainname())?,
        process,
        resources: resources.map(translate_resources).transpose()?.unwrap_or_default(),
        device_rules: if open_devices { Vec::new() } else { rules.lines() },
        seccomp: seccomp::profile(&raw["linux"]["seccomp"])?,
        hooks: Hooks::of(spec.hooks().as_ref())?,
        namespaces,
    })
}

fn check_version(version: &str) -> Result<(), Error> {
    let mut parts = version.split('.');
    let major = parts.next().and_then(|part| part.parse::<u32>().ok());
    let minor = parts.next().and_then(|part| part.parse::<u32>().ok());
    match (major, minor) {
        (Some(1), Some(_)) => Ok(()),
        _ => Err(Error::invalid("ociVersion", version, "1.0.0 and later versions 1.x")),
    }
}

/// What is refused as soon as it says something, whatever it says.
fn refuse_whole_fields(raw: &Value) -> Result<(), Error> {
    const REFUSED: [(&str, &str); 17] = [
        ("/solaris", "this is Linux"),
        ("/windows", "this is Linux"),
        ("/vm", "containers here are no virtual machines"),
        ("/zos", "this is Linux"),
        ("/process/selinuxLabel", "SELinux is not spoken to"),
        ("/process/ioPriority", "use linux.resources.blockIO.weight"),
        ("/process/scheduler", "use linux.resources.cpu"),
        ("/process/execCPUAffinity", "use linux.resources.cpu.cpus"),
        ("/linux/mountLabel", "SELinux is not spoken to"),
        ("/linux/intelRdt", "cache allocation is not set here"),
        ("/linux/memoryPolicy", "memory nodes are not chosen here"),
        ("/linux/netDevices", "interfaces are not moved here"),
        ("/linux/timeOffsets", "there are no time namespaces here"),
        ("/linux/resources/hugepageLimits", "huge pages are not limited here"),
        ("/linux/resources/network", "network classes are not set here"),
        ("/linux/resources/rdma", "RDMA is not limited here"),
        ("/linux/resources/unified", "name the limit by its own field"),
    ];
    for (pointer, why) in REFUSED {
        if raw.pointer(pointer).is_some_and(says_something) {
            return Err(Error::unsupported(pointer[1..].replace('/', "."), why));
        }
    }
    match raw.pointer("/process/apparmorProfile").and_then(Value::as_str) {
        None | Some("" | "unconfined") => {}
        Some(_) => {
            return Err(Error::unsupported("process.apparmorProfile", "AppArmor is not spoken to"));
        }
    }
    match raw.pointer("/linux/personality/domain").and_then(Value::as_str) {
        None | Some("" | "LINUX") => Ok(()),
        Some(other) => Err(Error::invalid("linux.personality.domain", other, "LINUX")),
    }
}

/// Go writes empty values where there is nothing to say.
fn says_something(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(bool) => *bool,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(values) => !values.is_empty(),
        Value::Object(fields) => fields.values().any(says_something),
    }
}

/// Of the tree that becomes the root, and what is left to say when it is the root:
/// `pivot_root` takes no shared mount.
fn root_propagation(text: Option<&str>) -> Result<(Propagation, Option<Step>), Error> {
    let later = |propagation| Some(Step::Propagate { path: "/", propagation });
    match text.unwrap_or_default() {
        "" | "private" | "rprivate" => Ok((Propagation::Private, None)),
        "slave" | "rslave" => Ok((Propagation::Slave, None)),
        "shared" | "rshared" => Ok((Propagation::Private, later(libc::MS_SHARED))),
        "unbindable" | "runbindable" => Ok((Propagation::Private, later(libc::MS_UNBINDABLE))),
        other => {
            let allowed = "private, slave, shared, unbindable, and each with an r before it";
            Err(Error::invalid("linux.rootfsPropagation", other, allowed))
        }
    }
}
