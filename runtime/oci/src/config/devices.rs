//! Device nodes, and what of `linux.resources.devices` there is without a device cgroup.
//!
//! As in our own containers no mount that a container may write to honours device nodes,
//! and each node that it is to have is a mount of its own: what is not listed cannot be
//! opened, whoever makes a node for it. Rules that allow one device to be made by hand
//! say nothing here; a rule that allows everything (a privileged container) lifts it all.

use std::path::PathBuf;

use oci_spec::runtime::{Linux, LinuxDevice, LinuxDeviceType, LinuxResources, Mount};
use rustix::fs::FileType;
use rustix::mount::MountAttrFlags as Attr;
use tenantry_shim::plan::{DEVICES, LINKS, Step};
use tenantry_shim::spec::Propagation;

use super::mounts::{destination, is_bind};
use super::namespaces::Namespaces;
use crate::error::Error;

/// The last rule about all devices allows them.
pub fn all_are_allowed(resources: &LinuxResources) -> bool {
    let any = |number: Option<i64>| number.is_none_or(|number| number < 0);
    let mut whole = resources.devices().iter().flatten().filter(|rule| {
        let every_type = matches!(rule.typ(), None | Some(LinuxDeviceType::A));
        every_type && any(rule.major()) && any(rule.minor())
    });
    whole.next_back().is_some_and(|rule| rule.allow())
}

/// After the mounts, in which they lie.
pub fn steps(
    mounts: &[Mount],
    linux: &Linux,
    namespaces: &Namespaces,
    open_devices: bool,
) -> Result<Vec<Step>, Error> {
    let mut dev = None;
    for mount in mounts {
        if destination(mount)? == "/dev" {
            dev = Some(mount);
        }
    }
    // The host's own directory: nothing is to be made in it.
    if dev.is_some_and(is_bind) {
        return Ok(Vec::new());
    }
    let mut steps = Vec::new();
    let listed = linux.devices().iter().flatten();
    let listed: Vec<&LinuxDevice> = listed.collect();
    for (path, major, minor) in DEVICES {
        if !listed.iter().any(|device| device.path().as_os_str() == path) {
            let kind = FileType::CharacterDevice;
            let node = Node { kind, major, minor, mode: 0o666, uid: 0, gid: 0 };
            steps.push(node.step(path.to_owned(), namespaces));
        }
    }
    for device in listed {
        let (path, node) = read(device)?;
        steps.push(node.step(path, namespaces));
    }
    steps.extend(LINKS.map(|(path, to)| Step::Link { path: path.to_owned(), to: to.to_owned() }));
    if dev.is_some() && !open_devices {
        steps.push(Step::Restrict { path: "/dev", attributes: Attr::MOUNT_ATTR_NODEV });
    }
    Ok(steps)
}

struct Node {
    kind: FileType,
    major: u32,
    minor: u32,
    mode: u32,
    uid: u32,
    gid: u32,
}

fn read(device: &LinuxDevice) -> Result<(String, Node), Error> {
    let path = device.path().to_str().filter(|path| path.starts_with('/') && *path != "/");
    let path = path.ok_or_else(|| {
        let path = device.path().display();
        Error::invalid("linux.devices[].path", path, "an absolute path")
    })?;
    let kind = match device.typ() {
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => {
            return Err(Error::invalid("linux.devices[].type", "a", "c, b, u, p"));
        }
    };
    let number = |field: &str, number: i64| {
        // A FIFO has none.
        let number = if kind == FileType::Fifo { 0 } else { number };
        u32::try_from(number)
            .map_err(|_| Error::invalid(field, number, "the device's number, 0 or more"))
    };
    let node = Node {
        kind,
        major: number("linux.devices[].major", device.major())?,
        minor: number("linux.devices[].minor", device.minor())?,
        mode: device.file_mode().unwrap_or(0o666) & 0o7777,
        uid: device.uid().unwrap_or(0),
        gid: device.gid().unwrap_or(0),
    };
    Ok((path.to_owned(), node))
}

impl Node {
    fn step(self, path: String, namespaces: &Namespaces) -> Step {
        let Self { kind, major, minor, mode, uid, gid } = self;
        if namespaces.new_user && kind != FileType::Fifo {
            // mknod needs the host's privilege: the host's own node is shown instead.
            return Step::Tree {
                source: PathBuf::from(&path),
                target: path,
                attributes: Attr::MOUNT_ATTR_NOSUID.union(Attr::MOUNT_ATTR_NOEXEC),
                recursive: false,
                propagation: Propagation::Private,
            };
        }
        Step::Node { path, kind, major, minor, mode, uid, gid }
    }
}
