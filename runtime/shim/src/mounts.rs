//! Executes the steps of `plan`. Decides nothing that a step does not say.
//!
//! In three parts, because no single place can do all: the shim takes the trees
//! while it still is the host's root in the host's mount namespace; the child
//! creates file systems in its own namespaces while the old root is still there
//! (a user namespace may mount proc and sysfs only beside an existing one); after
//! `pivot_root` everything is attached.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid, makedev};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Propagation;

use crate::failure::{at, failure};
use crate::namespaces;
use crate::plan::Step;
use crate::sys::{self, MountChange};
use crate::{copy_up, in_root};

/// Detached mounts, one place per step.
#[derive(Debug)]
pub struct Detached(Vec<Option<OwnedFd>>);

/// In the shim: copies of the host's mounts, private and with their attributes.
pub fn take_trees(steps: &[Step]) -> Result<Detached, Failure> {
    let take = |step: &Step| match step {
        Step::Tree { source, attributes, recursive, propagation, .. } => {
            let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            if *recursive {
                flags |= OpenTreeFlags::AT_RECURSIVE;
            }
            let tree = open_tree(CWD, source, flags).map_err(at("open_tree", source.display()))?;
            let change = MountChange {
                set: u64::from(attributes.bits()),
                propagation: match propagation {
                    Propagation::Private => libc::MS_PRIVATE,
                    Propagation::Slave => libc::MS_SLAVE,
                    // A copy of a shared mount is one of its peers.
                    Propagation::Shared => 0,
                },
                recursive: *recursive,
                id_map: None,
            };
            sys::change_mount(tree.as_fd(), change)
                .map_err(at("mount_setattr", source.display()))?;
            Ok(Some(tree))
        }
        Step::SharedMemory { of, .. } => namespaces::take_shared_memory(*of).map(Some),
        _ => Ok(None),
    };
    steps.iter().map(take).collect::<Result<_, _>>().map(Detached)
}

/// In the child, before `pivot_root`.
pub fn create_filesystems(steps: &[Step], detached: &mut Detached) -> Result<(), Failure> {
    for (step, place) in steps.iter().zip(&mut detached.0) {
        if let Step::Filesystem { kind, options, attributes, .. } = step {
            *place = Some(create_filesystem(kind, options, *attributes)?);
        }
    }
    Ok(())
}

fn create_filesystem(
    kind: &str,
    options: &[(impl AsRef<str>, impl AsRef<str>)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Failure> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen", kind))?;
    for (key, value) in options {
        let (key, value) = (key.as_ref(), value.as_ref());
        let set = if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), key)
        } else {
            fsconfig_set_string(context.as_fd(), key, value)
        };
        set.map_err(at("fsconfig", format_args!("{kind} {key}={value}")))?;
    }
    fsconfig_create(context.as_fd()).map_err(at("fsconfig", kind))?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount", kind))
}

/// In the child, after `pivot_root`, with the new root as working directory and
/// an empty umask.
pub fn attach(steps: &[Step], detached: Detached) -> Result<(), Failure> {
    let mut empty_directory = None;
    for (step, mount) in steps.iter().zip(detached.0) {
        match (step, mount) {
            (Step::Filesystem { target, copy_up, .. }, Some(mount)) => {
                let place = in_root::create_directory(target).map_err(at("mkdir", target))?;
                if *copy_up {
                    copy_up::copy(&place, &mount).map_err(at("copy", target))?;
                }
                move_to(&mount, &place).map_err(at("move_mount", target))?;
            }
            (Step::Tree { target, .. }, Some(tree)) => attach_tree(&tree, target)?,
            (Step::SharedMemory { target, .. }, Some(tree)) => attach_tree(&tree, target)?,
            (Step::Directory { path }, _) => {
                rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)).map_err(at("mkdir", path))?;
            }
            (Step::Ensure { path }, _) => {
                in_root::create_directory(path).map_err(at("mkdir", path))?;
            }
            (Step::Symlink { path, to }, _) => {
                rustix::fs::symlink(*to, *path).map_err(at("symlink", path))?;
            }
            (Step::Device { path, major, minor }, _) => create_device(path, *major, *minor)?,
            (Step::Restrict { path, attributes }, _) => restrict(path, *attributes)?,
            (Step::Node { path, kind, major, minor, mode, uid, gid }, _) => {
                let device = makedev(*major, *minor);
                create_node(path, *kind, device, *mode)?;
                own_node(path, *mode, *uid, *gid)?;
            }
            (Step::Link { path, to }, _) => match rustix::fs::symlink(to.as_str(), path.as_str()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(failure("symlink", path, errno)),
            },
            (Step::Write { path, text }, _) => write_setting(path, text)?,
            (Step::Propagate { path, propagation }, _) => {
                let place = in_root::open_target(path).map_err(at("open", path))?;
                let change = MountChange { propagation: *propagation, ..MountChange::default() };
                sys::change_mount(place.as_fd(), change).map_err(at("mount_setattr", path))?;
            }
            (Step::Mask { path }, _) => mask(path, &mut empty_directory)?,
            (Step::ReadOnly { path }, _) => make_read_only(path)?,
            (Step::Filesystem { target, .. } | Step::Tree { target, .. }, None) => {
                return Err(failure("move_mount", target, Errno::BADF));
            }
            (Step::SharedMemory { target, .. }, None) => {
                return Err(failure("move_mount", target, Errno::BADF));
            }
        }
    }
    Ok(())
}

fn move_to(mount: &OwnedFd, place: &OwnedFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount.as_fd(), "", place.as_fd(), "", flags)
}

fn copy_of(place: &OwnedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(place.as_fd(), "", flags)
}

fn is_directory(file: &OwnedFd) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(file)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

fn attach_tree(tree: &OwnedFd, target: &str) -> Result<(), Failure> {
    let place = if is_directory(tree).map_err(at("fstat", target))? {
        in_root::create_directory(target).map_err(at("mkdir", target))?
    } else {
        in_root::create_file(target).map_err(at("open", target))?
    };
    move_to(tree, &place).map_err(at("move_mount", target))
}

fn create_device(path: &str, major: u32, minor: u32) -> Result<(), Failure> {
    let mode = Mode::from_raw_mode(0o666);
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, mode, makedev(major, minor))
        .map_err(at("mknod", path))?;
    mount_node(path)
}

/// Its directory is created where it is missing.
fn create_node(path: &str, kind: FileType, device: u64, mode: u32) -> Result<(), Failure> {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    let directory = if directory.is_empty() { "/" } else { directory };
    let directory = in_root::create_directory(directory).map_err(at("mkdir", path))?;
    let is_device = matches!(kind, FileType::CharacterDevice | FileType::BlockDevice);
    match rustix::fs::mknodat(&directory, name, kind, Mode::from_raw_mode(mode), device) {
        Ok(()) if is_device => mount_node(path),
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let there = in_root::open_target(path).map_err(at("open", path))?;
            let stat = rustix::fs::fstat(&there).map_err(at("fstat", path))?;
            if FileType::from_raw_mode(stat.st_mode) != kind || stat.st_rdev != device {
                return Err(failure("mknod", path, Errno::EXIST));
            }
            if is_device { mount_node(path) } else { Ok(()) }
        }
        Err(errno) => Err(failure("mknod", path, errno)),
    }
}

fn own_node(path: &str, mode: u32, uid: u32, gid: u32) -> Result<(), Failure> {
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(CWD, path, Some(uid), Some(gid), flags).map_err(at("chown", path))?;
    rustix::fs::chmod(path, Mode::from_raw_mode(mode)).map_err(at("chmod", path))
}

/// Not by a plain `open`: what an image has at `/proc` must not be written to.
fn write_setting(path: &str, text: &str) -> Result<(), Failure> {
    const PROC_SUPER_MAGIC: i64 = 0x9fa0;
    let file = in_root::open(path, OFlags::WRONLY).map_err(at("open", path))?;
    let system = rustix::fs::fstatfs(&file).map_err(at("fstatfs", path))?;
    if system.f_type != PROC_SUPER_MAGIC {
        return Err(failure("open", path, Errno::NODEV));
    }
    rustix::io::write(&file, text.as_bytes())
        .map(drop)
        .map_err(at("write", format_args!("{text} to {path}")))
}

/// A mount of the node itself stays usable where the file system around it is `nodev`.
fn mount_node(path: &str) -> Result<(), Failure> {
    let node = in_root::open_target(path).map_err(at("open", path))?;
    let own = copy_of(&node, false).map_err(at("open_tree", path))?;
    move_to(&own, &node).map_err(at("move_mount", path))
}

fn restrict(path: &str, attributes: MountAttrFlags) -> Result<(), Failure> {
    let place = in_root::open_target(path).map_err(at("open", path))?;
    let change = MountChange { set: u64::from(attributes.bits()), ..MountChange::default() };
    sys::change_mount(place.as_fd(), change).map_err(at("mount_setattr", path))
}

/// All masked directories share one empty file system.
fn mask(path: &str, empty_directory: &mut Option<OwnedFd>) -> Result<(), Failure> {
    let Some(place) = open_existing(path)? else { return Ok(()) };
    let cover = if is_directory(&place).map_err(at("fstat", path))? {
        match empty_directory {
            Some(mounted) => copy_of(mounted, false).map_err(at("open_tree", path))?,
            None => {
                let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
                    | MountAttrFlags::MOUNT_ATTR_NOSUID
                    | MountAttrFlags::MOUNT_ATTR_NODEV
                    | MountAttrFlags::MOUNT_ATTR_NOEXEC;
                let new =
                    create_filesystem("tmpfs", &[("mode", "755"), ("size", "4k")], attributes)?;
                move_to(&new, &place).map_err(at("move_mount", path))?;
                *empty_directory = Some(new);
                return Ok(());
            }
        }
    } else {
        let null = in_root::open_target("/dev/null").map_err(at("open", "/dev/null"))?;
        copy_of(&null, false).map_err(at("open_tree", path))?
    };
    move_to(&cover, &place).map_err(at("move_mount", path))
}

fn make_read_only(path: &str) -> Result<(), Failure> {
    let Some(place) = open_existing(path)? else { return Ok(()) };
    let copy = copy_of(&place, true).map_err(at("open_tree", path))?;
    let change = MountChange {
        set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        recursive: true,
        ..MountChange::default()
    };
    sys::change_mount(copy.as_fd(), change).map_err(at("mount_setattr", path))?;
    move_to(&copy, &place).map_err(at("move_mount", path))
}

fn open_existing(path: &str) -> Result<Option<OwnedFd>, Failure> {
    match in_root::open(path, OFlags::PATH) {
        Ok(place) => Ok(Some(place)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(failure("open", path, errno)),
    }
}
