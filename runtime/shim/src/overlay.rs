//! The root file system: an overlay of the image's layers, as a detached mount.
//!
//! Called by the child, or for a container with a user namespace by the shim,
//! because only the host's root may ID-map the layers. Either way no mount ever
//! appears in the host's mount namespace. Directories are given to the kernel as
//! `/proc/self/fd/N`: no path is too long for `fsconfig` (255 bytes) and none
//! needs escaping.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::{IdMapping, Rootfs};

use crate::failure::at;
use crate::sys::{self, MountChange};

/// The overlay of plain layers. Works in the caller's mount namespace, which must
/// be a private one for the sake of kernels without `lowerdir+`.
pub fn mount_plain(rootfs: &Rootfs) -> Result<OwnedFd, Failure> {
    let layers = lower_directories(rootfs).map(open_directory).collect::<Result<Vec<_>, _>>()?;
    mount(rootfs, &layers)
}

/// The overlay of layers that are ID-mapped by `user_namespace`, while upper and
/// work are plain and owned by the mapped root: an ID-mapped upper directory
/// gives a silently read-only mount.
///
/// The layers are attached in a mount namespace that exists for this call only,
/// because overlayfs before 6.15 takes no detached layers; afterwards the shim is
/// in the host's again.
pub fn mount_id_mapped(
    rootfs: &Rootfs,
    mapping: IdMapping,
    user_namespace: BorrowedFd<'_>,
) -> Result<OwnedFd, Failure> {
    let own = "/proc/self/ns/mnt";
    let home = rustix::fs::open(own, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", own))?;
    sys::unshare(UnshareFlags::NEWNS).map_err(at("unshare", "mount namespace"))?;
    let mounted = make_private().and_then(|()| {
        let layers = lower_directories(rootfs)
            .map(|layer| attach_id_mapped(layer, &rootfs.mountpoint, user_namespace))
            .collect::<Result<Vec<_>, _>>()?;
        for directory in [&rootfs.upper, &rootfs.work] {
            let (owner, group) =
                (Uid::from_raw(mapping.host_base), Gid::from_raw(mapping.host_base));
            rustix::fs::chown(directory, Some(owner), Some(group))
                .map_err(at("chown", directory.display()))?;
        }
        mount(rootfs, &layers)
    });
    move_into_link_name_space(home.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(at("setns", "mount namespace"))?;
    mounted
}

/// Nothing that is mounted or unmounted from here on reaches another namespace.
pub fn make_private() -> Result<(), Failure> {
    let flags = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", flags).map_err(at("mount", "private /"))
}

/// An image without layers still has a root: the mountpoint is an empty directory.
fn lower_directories(rootfs: &Rootfs) -> impl Iterator<Item = &Path> {
    let empty = rootfs.lower.is_empty().then_some(rootfs.mountpoint.as_path());
    rootfs.lower.iter().map(|layer| layer.as_path()).chain(empty)
}

fn open_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(at("open", path.display()))
}

/// All layers are stacked on one mountpoint; a descriptor still finds each.
fn attach_id_mapped(
    layer: &Path,
    mountpoint: &Path,
    user_namespace: BorrowedFd<'_>,
) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, layer, flags).map_err(at("open_tree", layer.display()))?;
    let change = MountChange { id_map: Some(user_namespace), ..MountChange::default() };
    sys::change_mount(tree.as_fd(), change).map_err(at("mount_setattr", layer.display()))?;
    move_mount(tree.as_fd(), "", CWD, mountpoint, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(at("move_mount", layer.display()))?;
    Ok(tree)
}

fn descriptor_path(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn mount(rootfs: &Rootfs, layers: &[OwnedFd]) -> Result<OwnedFd, Failure> {
    let upper = open_directory(&rootfs.upper)?;
    let work = open_directory(&rootfs.work)?;
    match mount_by_context(&upper, &work, layers) {
        // Before 6.8 the kernel has no `lowerdir+`; any other mistake comes back.
        Err(Errno::INVAL) => mount_by_options(&rootfs.mountpoint, &upper, &work, layers),
        mounted => mounted,
    }
    .map_err(at("mount", format_args!("overlay {}", rootfs.upper.display())))
}

fn mount_by_context(upper: &OwnedFd, work: &OwnedFd, layers: &[OwnedFd]) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", descriptor_path(layer))?;
    }
    fsconfig_set_string(context.as_fd(), "upperdir", descriptor_path(upper))?;
    fsconfig_set_string(context.as_fd(), "workdir", descriptor_path(work))?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// One page of options takes about 200 layers. No path here needs escaping.
fn render_options(lower: &[String], upper: &str, work: &str) -> String {
    format!("lowerdir={},upperdir={upper},workdir={work}", lower.join(":"))
}

fn mount_by_options(
    mountpoint: &Path,
    upper: &OwnedFd,
    work: &OwnedFd,
    layers: &[OwnedFd],
) -> Result<OwnedFd, Errno> {
    let lower: Vec<String> = layers.iter().map(descriptor_path).collect();
    let options = render_options(&lower, &descriptor_path(upper), &descriptor_path(work));
    let options = CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", mountpoint, "overlay", MountFlags::NODEV, Some(&*options))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let copy = open_tree(CWD, mountpoint, flags);
    rustix::mount::unmount(mountpoint, UnmountFlags::DETACH)?;
    copy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_given_the_topmost_first() {
        let lower = ["/proc/self/fd/7".to_owned(), "/proc/self/fd/8".to_owned()];
        assert_eq!(
            render_options(&lower, "/proc/self/fd/5", "/proc/self/fd/6"),
            "lowerdir=/proc/self/fd/7:/proc/self/fd/8,upperdir=/proc/self/fd/5,workdir=/proc/self/fd/6"
        );
    }

    /// On a kernel that has both, the old way must give what the new one gives.
    #[test]
    fn both_ways_to_mount_give_the_same_root() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: not root");
            return;
        }
        // A mount namespace of this test's thread alone, which ends with it.
        let seen = std::thread::spawn(|| {
            sys::unshare(UnshareFlags::NEWNS).expect("unshare");
            make_private().expect("private");
            [contents_by(false), contents_by(true)]
        });
        let [old, new] = seen.join().expect("the thread");
        assert_eq!(old.as_deref(), Ok("top"));
        if new != Err(Errno::INVAL) {
            assert_eq!(new, old);
        }
    }

    fn contents_by(context: bool) -> Result<String, Errno> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["top", "bottom", "upper", "work", "root"] {
            std::fs::create_dir(path(name)).expect("a directory");
        }
        for name in ["top", "bottom"] {
            std::fs::write(path(name).join("file"), name).expect("a file");
        }
        let open = |name: &str| open_directory(&path(name)).expect("a directory");
        let layers = [open("top"), open("bottom")];
        let root = if context {
            mount_by_context(&open("upper"), &open("work"), &layers)?
        } else {
            mount_by_options(&path("root"), &open("upper"), &open("work"), &layers)?
        };
        let file = rustix::fs::openat(&root, "file", OFlags::RDONLY, Mode::empty())?;
        std::io::read_to_string(std::fs::File::from(file)).map_err(|_| Errno::IO)
    }
}
