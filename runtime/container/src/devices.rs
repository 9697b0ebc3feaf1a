//! `--device` and what `--privileged` sees: device nodes of the host, for a container.
//!
//! Owns the request, what of it can be granted, and the reading of the host's nodes, which is
//! done at each start because numbers change. Opens no device.

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use tenantry_shim::spec::DeviceNode;

use crate::{config::check_absolute, error::Error};

/// Of one container, those in directories counted one by one.
const MOST: usize = 4096;
/// How deep directories are walked.
const DEEPEST: usize = 4;
const ROOT: &str = "/dev";

/// Every container has these in a shape of its own, or must not have the host's.
const NOT_THE_HOSTS: [&str; 16] = [
    "/dev/console",
    "/dev/core",
    "/dev/fd",
    "/dev/full",
    "/dev/mqueue",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/random",
    "/dev/shm",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
];

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceRequest {
    /// On the host: a device, or a directory with all that are in it.
    pub source: String,
    /// In the container, below `/dev`.
    pub target: String,
}

/// What can be judged without the host.
pub fn check(devices: &[DeviceRequest]) -> Result<(), Error> {
    if devices.len() > MOST {
        return Err(Error::invalid("devices", devices.len(), format!("at most {MOST}")));
    }
    for (index, device) in devices.iter().enumerate() {
        check_absolute("devices.source", &device.source)?;
        check_absolute("devices.target", &device.target)?;
        let target = device.target.as_str();
        let below = target.strip_prefix("/dev/").is_some_and(|rest| {
            !rest.is_empty() && rest.split('/').all(|part| !part.is_empty() && part != ".")
        });
        if !below {
            return Err(Error::invalid("devices.target", target, "a path below /dev"));
        }
        if is_not_the_hosts(target) && device.source != *target {
            let allowed = "a path that not every container has already";
            return Err(Error::invalid("devices.target", target, allowed));
        }
        if devices[..index].iter().any(|other| other.target == device.target) {
            return Err(Error::invalid("devices.target", target, "each path once"));
        }
    }
    Ok(())
}

/// `rwm` in any order. No device node that a container makes can be opened, and a bound node can
/// be opened both ways, so less than that cannot be kept and is refused.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_permissions(permissions: &str) -> Result<(), Error> {
    let known = permissions.bytes().all(|b| b"rwm".contains(&b));
    if permissions.is_empty() || (known && permissions.contains('r') && permissions.contains('w')) {
        return Ok(());
    }
    let allowed = "rwm or rw: what may be opened at all may be read and written";
    Err(Error::invalid("devices.permissions", permissions, allowed))
}

/// The nodes that these requests mean on this host, now.
///
/// # Errors
/// [`Error::Invalid`] for a source that is not there, or holds no device.
pub fn read(devices: &[DeviceRequest]) -> Result<Vec<DeviceNode>, Error> {
    let mut nodes = Vec::new();
    for device in devices {
        let before = nodes.len();
        // A link is the user's own way to say it; where it leads is what counts.
        let source = fs::canonicalize(&device.source);
        let read = source.and_then(|path| read_into(&mut nodes, &path, &device.target, 0));
        let refused = |why: &str| {
            let allowed = format!("a device of this host, or a directory of devices ({why})");
            Error::invalid("devices.source", &device.source, allowed)
        };
        read.map_err(|error| refused(&error.to_string()))?;
        if nodes.len() == before && !is_not_the_hosts(&device.target) {
            return Err(refused("there is none"));
        }
    }
    Ok(nodes)
}

/// All of the host's, for a container that may do everything.
///
/// # Errors
/// [`Error::Failed`] if `/dev` cannot be read.
pub fn read_all() -> Result<Vec<DeviceNode>, Error> {
    let mut nodes = Vec::new();
    read_into(&mut nodes, Path::new(ROOT), ROOT, 0)
        .map_err(|error| Error::failed("read the host's devices", error))?;
    Ok(nodes)
}

fn read_into(
    nodes: &mut Vec<DeviceNode>,
    source: &Path,
    target: &str,
    depth: usize,
) -> io::Result<()> {
    if is_not_the_hosts(target) {
        return Ok(());
    }
    // No link is followed: it may lead anywhere.
    let stat = fs::symlink_metadata(source)?;
    let kind = stat.file_type();
    if kind.is_dir() {
        if !source.starts_with(ROOT) {
            // A walk over everything that the host has is nobody's wish.
            return Err(io::Error::other("a directory outside /dev"));
        }
        if depth >= DEEPEST {
            return Ok(());
        }
        let entries = fs::read_dir(source)?;
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        for name in names {
            let (source, target) = (source.join(&name), format!("{target}/{name}"));
            match read_into(nodes, &source, &target, depth + 1) {
                // One that was taken away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        return Ok(());
    }
    if !kind.is_block_device() && !kind.is_char_device() {
        return Ok(());
    }
    if nodes.len() >= MOST {
        return Err(io::Error::other(format!("more than {MOST} devices")));
    }
    // Two requests may name one device's path twice, by a directory and alone.
    if nodes.iter().any(|node| node.path == target) {
        return Ok(());
    }
    nodes.push(node(source.to_owned(), target, &stat));
    Ok(())
}

fn node(source: PathBuf, target: &str, stat: &fs::Metadata) -> DeviceNode {
    let number = stat.rdev();
    DeviceNode {
        path: target.to_owned(),
        source,
        block: stat.file_type().is_block_device(),
        major: rustix::fs::major(number),
        minor: rustix::fs::minor(number),
        mode: stat.mode() & 0o7777,
        uid: stat.uid(),
        gid: stat.gid(),
    }
}

fn is_not_the_hosts(target: &str) -> bool {
    NOT_THE_HOSTS.contains(&target)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(source: &str, target: &str) -> DeviceRequest {
        DeviceRequest { source: source.into(), target: target.into() }
    }

    #[test]
    fn a_device_lies_below_dev() {
        assert!(check(&[device("/dev/fuse", "/dev/fuse"), device("/x", "/dev/a/b")]).is_ok());
        for target in ["/etc/passwd", "/dev", "/dev/", "/dev//x", "/dev/./x", "dev/x"] {
            assert!(check(&[device("/dev/fuse", target)]).is_err(), "{target}");
        }
        assert!(check(&[device("/dev/fuse", "/dev/null")]).is_err());
        assert!(check(&[device("/dev/null", "/dev/null")]).is_ok());
        assert!(check(&[device("/a", "/dev/x"), device("/b", "/dev/x")]).is_err());
    }

    #[test]
    fn only_whole_permissions_are_granted() {
        for whole in ["", "rwm", "mrw", "rw"] {
            assert!(check_permissions(whole).is_ok(), "{whole}");
        }
        for less in ["r", "w", "rm", "x", "rwx"] {
            assert!(check_permissions(less).is_err(), "{less}");
        }
    }

    #[test]
    fn a_node_is_read_with_its_number() {
        let nodes = read(&[device("/dev/zero", "/dev/nothing")]).unwrap();
        assert_eq!(nodes.len(), 1);
        assert_eq!((nodes[0].major, nodes[0].minor, nodes[0].block), (1, 5, false));
        assert_eq!(nodes[0].path, "/dev/nothing");
        // Every container has its own.
        assert_eq!(read(&[device("/dev/null", "/dev/null")]).unwrap(), []);
        assert!(read(&[device("/etc/passwd", "/dev/x")]).is_err());
        assert!(read(&[device("/etc", "/dev/x")]).is_err());
        assert!(read(&[device("/dev/there/is/none", "/dev/x")]).is_err());
    }

    #[test]
    fn what_every_container_has_is_not_the_hosts() {
        let nodes = read_all().unwrap();
        assert!(nodes.iter().all(|node| node.path.starts_with("/dev/")));
        let has = |path: &str| nodes.iter().any(|node| node.path == path);
        assert!(!has("/dev/null") && !has("/dev/ptmx"));
        assert!(nodes.iter().all(|node| !node.path.starts_with("/dev/pts/")));
    }
}
