//! `mounts[]`: one step each, in the specification's order.

use std::borrow::Cow;
use std::path::Path;

use oci_spec::runtime::Mount;
use rustix::mount::MountAttrFlags as Attr;
use tenantry_shim::plan::{Step, cgroup_steps};
use tenantry_shim::spec::{CgroupPlacement, V1Directory};

use super::device_rules::{HostNode, Rules};
use super::options::{self, Options};
use crate::error::Error;

/// What the steps depend on beside the mounts themselves.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    pub bundle: &'a Path,
    pub placement: &'a CgroupPlacement,
    /// Device nodes anywhere may be opened.
    pub open_devices: bool,
    /// If not: which ones.
    pub rules: &'a Rules,
    pub host_nodes: &'a [HostNode],
}

impl World<'_> {
    fn has_device_cgroup(&self) -> bool {
        let names = |directory: &V1Directory| {
            directory.controller.split(',').any(|controller| controller == "devices")
        };
        self.placement.v1.iter().any(names)
    }
}

/// File systems without a source of their own.
const SOURCELESS: [&str; 5] = ["proc", "sysfs", "tmpfs", "mqueue", "devpts"];

pub fn steps(mounts: &[Mount], world: &World<'_>) -> Result<Vec<Step>, Error> {
    let mut steps = Vec::new();
    for (index, mount) in mounts.iter().enumerate() {
        let place = format!("mounts[{index}]");
        steps.extend(mount_steps(mount, &place, world)?);
    }
    Ok(steps)
}

/// Absolute: an older specification allowed others, relative to the root.
pub fn destination(mount: &Mount) -> Result<String, Error> {
    let path = mount.destination();
    let text = path.to_str().map(|text| text.trim_start_matches('/'));
    match text.map(|text| text.trim_end_matches('/')) {
        Some(text) if !text.is_empty() => Ok(format!("/{text}")),
        _ => Err(Error::invalid(
            "mounts[].destination",
            path.display(),
            "a path below the container's root",
        )),
    }
}

pub fn is_bind(mount: &Mount) -> bool {
    let named = |option: &String| option == "bind" || option == "rbind";
    mount.typ().as_deref() == Some("bind") || mount.options().iter().flatten().any(named)
}

fn mount_steps(mount: &Mount, place: &str, world: &World<'_>) -> Result<Vec<Step>, Error> {
    let mapped = |map: &Option<Vec<_>>| map.as_ref().is_some_and(|map| !map.is_empty());
    if mapped(mount.uid_mappings()) || mapped(mount.gid_mappings()) {
        let field = format!("{place}.uidMappings");
        return Err(Error::unsupported(field, "mounts keep the owners that they have"));
    }
    let target = destination(mount)?;
    let options = options::parse(mount.options().as_deref().unwrap_or_default(), place)?;
    if is_bind(mount) {
        return bind(mount, place, target, &options, world);
    }
    let kind = mount.typ().as_deref().unwrap_or_default();
    match kind {
        "" => Err(Error::invalid(format!("{place}.type"), kind, "bind, or a file system's name")),
        "cgroup" | "cgroup2" => {
            if target != "/sys/fs/cgroup" {
                let field = format!("{place}.destination");
                return Err(Error::invalid(field, target, "/sys/fs/cgroup for cgroups"));
            }
            // Of the container's own groups alone and read-only, whatever the options are.
            Ok(cgroup_steps(world.placement, false))
        }
        kind => {
            let mut attributes = options.attributes;
            // Terminals are devices; `/dev` gets it when its nodes are there.
            if !world.open_devices && kind != "devpts" && target != "/dev" {
                attributes |= Attr::MOUNT_ATTR_NODEV;
            }
            if target == "/dev" || kind == "devpts" {
                attributes.remove(Attr::MOUNT_ATTR_NODEV);
            }
            let mut data = Vec::new();
            if let Some(source) = mount.source().as_ref().and_then(|source| source.to_str())
                && !SOURCELESS.contains(&kind)
            {
                data.push(("source".to_owned(), source.to_owned()));
            }
            data.extend(options.data);
            let kind = Cow::Owned(kind.to_owned());
            let copy_up = options.copy_up;
            Ok(vec![Step::Filesystem { kind, options: data, target, attributes, copy_up }])
        }
    }
}

/// Where v1's devices controller says which nodes of the host's `/dev` may be opened, that is
/// all. Where there is none those are mounts of their own over the others, which are as unusable
/// as everywhere else.
fn bind(
    mount: &Mount,
    place: &str,
    target: String,
    options: &Options,
    world: &World<'_>,
) -> Result<Vec<Step>, Error> {
    let source = mount.source().as_ref();
    let source = source.filter(|source| !source.as_os_str().is_empty()).ok_or_else(|| {
        Error::invalid(format!("{place}.source"), "", "a path on the host, for a bind")
    })?;
    let source = world.bundle.join(source);
    let tree = |source, target, attributes| Step::Tree {
        source,
        target,
        attributes,
        // `bind` may also stand in the place of the type.
        recursive: options.bind.unwrap_or(false),
        propagation: options.propagation,
    };
    if world.open_devices || (source.starts_with("/dev") && world.has_device_cgroup()) {
        return Ok(vec![tree(source, target, options.attributes)]);
    }
    let shown = world.host_nodes.iter().filter(|node| world.rules.allow(node));
    let shown = shown.filter_map(|node| Some((node, node.path.strip_prefix(&source).ok()?)));
    let nodes: Vec<Step> = shown
        .filter_map(|(node, below)| {
            let below = below.to_str()?;
            let target =
                if below.is_empty() { target.clone() } else { format!("{target}/{below}") };
            Some(tree(node.path.clone(), target, options.attributes))
        })
        .collect();
    let mut steps = vec![tree(source, target, options.attributes | Attr::MOUNT_ATTR_NODEV)];
    steps.extend(nodes);
    Ok(steps)
}
