//! Layers under a real overlay mount, in a mount namespace of a thread's own.

use std::fs;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};
use nix::sched::CloneFlags;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags};

use crate::archives::*;

/// Mounts the layers read-only where only this thread sees it, and looks.
fn with_overlay(layers: Vec<PathBuf>, look: fn(&Path)) {
    let run = move || {
        // A thread's own mount namespace ends with the thread, and the mount with it.
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let at = tempfile::tempdir().unwrap();
        let fs = rustix::mount::fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        for layer in &layers {
            rustix::mount::fsconfig_set_string(&fs, "lowerdir+", layer).unwrap();
        }
        // Overlayfs wants an upper or two lower directories.
        let empty = at.path().join("empty");
        let mountpoint = at.path().join("mnt");
        fs::create_dir(&empty).unwrap();
        fs::create_dir(&mountpoint).unwrap();
        rustix::mount::fsconfig_set_string(&fs, "lowerdir+", &empty).unwrap();
        rustix::mount::fsconfig_create(&fs).unwrap();
        let mount =
            rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        rustix::mount::move_mount(mount.unwrap(), "", rustix::fs::CWD, &mountpoint, flags).unwrap();
        look(&mountpoint);
        // Lazily: a child that another test's thread forks holds our descriptors until it
        // executes its program.
        nix::mount::umount2(&mountpoint, MntFlags::MNT_DETACH).unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

fn check(layers: &[Vec<u8>], look: fn(&Path)) {
    let scratch = Scratch::new();
    let store = scratch.open();
    store.load(&*demo(layers)).unwrap();
    with_overlay(store.resolve("demo").unwrap().layers, look);
}

fn names(dir: PathBuf) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn base() -> Vec<u8> {
    Layer::new()
        .dir("etc/", 0o755)
        .file("etc/keep", b"low")
        .file("etc/gone", b"low")
        .file("etc/changed", b"low")
        .dir("var/", 0o755)
        .file("var/old", b"low")
        .dir("var/deep/", 0o755)
        .file("var/deep/x", b"low")
        .dir("data/", 0o755)
        .file("data/low", b"low")
        .dir("both/", 0o755)
        .file("both/low", b"low")
        .tar()
}

#[test]
fn whiteouts_and_opaque_directories_hide_the_lower_layer() {
    if skipped() {
        return;
    }
    let upper = Layer::new()
        .dir("etc/", 0o755)
        .file("etc/.wh.gone", b"")
        .file("etc/.wh.never-there", b"")
        .file("etc/changed", b"high")
        .dir("var/", 0o755)
        .file("var/.wh..wh..opq", b"")
        .file("var/new", b"high")
        .file("data/.wh..wh.plnk", b"")
        .file(".wh.both", b"");
    check(&[base(), upper.tar()], |root| {
        assert_eq!(names(root.join("etc")), ["changed", "keep"]);
        assert_eq!(fs::read(root.join("etc/changed")).unwrap(), b"high");
        assert_eq!(names(root.join("var")), ["new"]);
        assert_eq!(names(root.join("data")), ["low"]);
        assert_eq!(names(root.join("")), ["data", "etc", "var"]);
    });
}

#[test]
fn what_a_layer_brings_outlives_its_own_whiteouts_in_either_order() {
    if skipped() {
        return;
    }
    let upper = Layer::new()
        // A directory that replaces a whiteout, and one that a whiteout follows.
        .file(".wh.var", b"")
        .dir("var/", 0o755)
        .file("var/new", b"high")
        .dir("data/", 0o755)
        .file("data/new", b"high")
        .file(".wh.data", b"")
        .file("etc/gone", b"high")
        .file("etc/.wh.gone", b"")
        .file("etc/.wh.changed", b"")
        .file("etc/changed", b"high");
    check(&[base(), upper.tar()], |root| {
        assert_eq!(names(root.join("var")), ["new"]);
        assert_eq!(names(root.join("data")), ["new"]);
        assert_eq!(names(root.join("etc")), ["changed", "gone", "keep"]);
        assert_eq!(fs::read(root.join("etc/gone")).unwrap(), b"high");
        assert_eq!(fs::read(root.join("etc/changed")).unwrap(), b"high");
    });
}

#[test]
fn a_layer_that_occurs_twice_can_be_mounted() {
    if skipped() {
        return;
    }
    let removes = Layer::new().file("etc/.wh.keep", b"").file("top", b"x").tar();
    check(&[base(), removes, base()], |root| {
        assert_eq!(names(root.join("etc")), ["changed", "gone", "keep"]);
        assert!(root.join("top").exists());
    });
}

#[test]
fn an_image_of_300_layers_can_be_mounted() {
    if skipped() {
        return;
    }
    let layers: Vec<_> = (0..300)
        .map(|n| {
            Layer::new().file(&format!("f{n}"), b"x").file("last", format!("{n}").as_bytes()).tar()
        })
        .collect();
    check(&layers, |root| {
        assert_eq!(names(root.join("")).len(), 301);
        assert_eq!(fs::read(root.join("last")).unwrap(), b"299");
    });
}
