//! The device nodes that a bundle shows of the host's `/dev`, by its binds.
//!
//! Looks, and chooses nothing: which of them may be opened is `config`'s to say.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, major, minor};

use crate::config::{HostNode, is_bind};

/// Of one bundle. What is beyond cannot be opened.
const MOST: usize = 4096;
/// `/dev` is flat.
const MOST_DEPTH: usize = 8;

pub fn look(spec: &Spec) -> Vec<HostNode> {
    let mut nodes = Vec::new();
    for mount in spec.mounts().iter().flatten().filter(|mount| is_bind(mount)) {
        let Some(source) = mount.source().as_ref().filter(|path| path.starts_with("/dev")) else {
            continue;
        };
        let Ok(place) = fs::metadata(source) else { continue };
        if place.is_dir() {
            let recursive = mount.options().iter().flatten().any(|option| option == "rbind");
            let device = (!recursive).then_some(place.dev());
            walk(source, device, MOST_DEPTH, &mut nodes);
        } else {
            nodes.extend(node(source, &place));
        }
    }
    nodes
}

/// `device`: the only file system that is looked at; others are not shown either.
fn walk(directory: &Path, device: Option<u64>, depth: usize, nodes: &mut Vec<HostNode>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        // Of the entry itself: a link is followed in the container.
        let Ok(stat) = entry.metadata() else { continue };
        if nodes.len() >= MOST || device.is_some_and(|device| device != stat.dev()) {
            continue;
        }
        if stat.is_dir() && depth > 1 {
            walk(&entry.path(), device, depth - 1, nodes);
        }
        nodes.extend(node(&entry.path(), &stat));
    }
}

fn node(path: &Path, stat: &fs::Metadata) -> Option<HostNode> {
    let kind = stat.file_type();
    let kind = match (kind.is_char_device(), kind.is_block_device()) {
        (true, _) => FileType::CharacterDevice,
        (_, true) => FileType::BlockDevice,
        _ => return None,
    };
    let path = path.to_owned();
    Some(HostNode { path, kind, major: major(stat.rdev()), minor: minor(stat.rdev()) })
}
