//! What the entries of a layer turn into on disk.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use tar::EntryType;
use tenantry_image::Store;

use crate::archives::*;

/// Loads one layer; returns its directory.
fn unpack(store: &Store, layer: Vec<u8>) -> PathBuf {
    store.load(&*demo(&[layer])).unwrap();
    store.resolve("demo").unwrap().layers[0].clone()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let n = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(n);
    Some(value)
}

#[test]
fn owners_modes_times_and_attributes_are_kept() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let capability = b"\x01\0\0\x02\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let mut set_id = Layer::header(EntryType::Regular, "bin/su", 0o4755, 2);
    set_id.set_uid(12);
    set_id.set_gid(34);
    let mut closed = Layer::header(EntryType::Directory, "closed/", 0o1000, 0);
    closed.set_mtime(77);
    let layer = Layer::new()
        .raw(Layer::header(EntryType::Directory, "./", 0o711, 0), b"")
        .raw(closed, b"")
        .file("closed/inside", b"1")
        .dir("bin/", 0o755)
        .raw(set_id, b"su")
        .pax(&[("SCHILY.xattr.security.capability", capability), ("mtime", b"12.25")])
        .file("bin/ping", b"ping")
        .pax(&[("SCHILY.xattr.user.note", b"line\nline"), ("SCHILY.xattr.security.selinux", b"x")])
        .dir("noted/", 0o700)
        .symlink("sh", "/bin/busybox")
        .raw(Layer::header(EntryType::Fifo, "fifo", 0o622, 0), b"");
    let at = unpack(&store, layer.tar());

    let su = fs::metadata(at.join("bin/su")).unwrap();
    assert_eq!((su.mode() & 0o7777, su.uid(), su.gid(), su.mtime()), (0o4755, 12, 34, 1_000_000));
    let closed = fs::metadata(at.join("closed")).unwrap();
    assert_eq!((closed.mode() & 0o7777, closed.mtime()), (0o1000, 77));
    let ping = fs::metadata(at.join("bin/ping")).unwrap();
    assert_eq!((ping.mtime(), ping.mtime_nsec()), (12, 250_000_000));
    assert_eq!(xattr(&at.join("bin/ping"), "security.capability").unwrap(), capability);
    assert_eq!(xattr(&at.join("noted"), "user.note").unwrap(), b"line\nline");
    assert_eq!(xattr(&at.join("noted"), "security.selinux"), None);
    assert_eq!(fs::read_link(at.join("sh")).unwrap(), Path::new("/bin/busybox"));
    assert!(fs::metadata(at.join("fifo")).unwrap().file_type().is_fifo());
    let root = fs::metadata(&at).unwrap();
    assert_eq!((root.mode() & 0o7777, root.mtime()), (0o711, 1_000_000));
}

#[test]
fn hard_links_share_an_inode_and_count_once() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = Layer::new()
        .dir("bin/", 0o755)
        .file("bin/busybox", &[7; 1000])
        .hard_link("bin/sh", "bin/busybox")
        .hard_link("bin/ls", "./bin/sh")
        .hard_link("bin/ls", "bin/busybox")
        .hard_link("bin/sh", "bin/sh")
        .symlink("lib", "nowhere")
        .hard_link("lib2", "lib");
    let at = unpack(&store, layer.tar());
    let busybox = fs::metadata(at.join("bin/busybox")).unwrap();
    assert_eq!(busybox.nlink(), 3);
    assert_eq!(fs::metadata(at.join("bin/sh")).unwrap().ino(), busybox.ino());
    assert_eq!(fs::read_link(at.join("lib2")).unwrap(), Path::new("nowhere"));
    assert_eq!(store.list().unwrap()[0].size_bytes, 1000);
}

#[test]
fn holes_stay_holes() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut sparse = Layer::header(EntryType::GNUSparse, "sparse", 0o600, 512);
    let gnu = sparse.as_gnu_mut().unwrap();
    let offset = 5 << 20;
    gnu.sparse[0].offset.copy_from_slice(format!("{offset:011o}\0").as_bytes());
    gnu.sparse[0].numbytes.copy_from_slice(b"00000001000\0");
    // The end is a hole too.
    gnu.sparse[1].offset.copy_from_slice(format!("{:011o}\0", 10 << 20).as_bytes());
    gnu.sparse[1].numbytes.copy_from_slice(b"00000000000\0");
    gnu.set_real_size(10 << 20);
    let mut zeros = vec![0; 4 << 20];
    zeros[1 << 20] = 1;
    let layer = Layer::new().raw(sparse, &[9; 512]).file("zeros", &zeros);
    let at = unpack(&store, layer.tar());

    let metadata = fs::metadata(at.join("sparse")).unwrap();
    assert_eq!(metadata.len(), 10 << 20);
    assert!(metadata.blocks() * 512 < 64 << 10, "{} blocks", metadata.blocks());
    let content = fs::read(at.join("sparse")).unwrap();
    assert_eq!(content.iter().filter(|byte| **byte == 9).count(), 512);
    assert_eq!(content[offset], 9);
    let metadata = fs::metadata(at.join("zeros")).unwrap();
    assert!(metadata.blocks() * 512 <= 128 << 10, "{} blocks", metadata.blocks());
    assert_eq!(fs::read(at.join("zeros")).unwrap(), zeros);
    assert_eq!(store.list().unwrap()[0].size_bytes, 14 << 20);
}

#[test]
fn missing_parents_are_made_and_inner_symlinks_are_followed() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = Layer::new()
        .file("usr/share/doc/x", b"1")
        .symlink("doc", "usr/share/doc")
        .file("doc/y", b"2")
        .hard_link("usr/z", "doc/y");
    let at = unpack(&store, layer.tar());
    assert_eq!(fs::read(at.join("usr/share/doc/y")).unwrap(), b"2");
    assert_eq!(fs::metadata(at.join("usr/z")).unwrap().nlink(), 2);
    let made = fs::metadata(at.join("usr/share")).unwrap();
    assert_eq!((made.mode() & 0o7777, made.uid()), (0o755, 0));
}

#[test]
fn later_entries_replace_earlier_ones() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = Layer::new()
        .file("a", b"first")
        .file("a", b"second!")
        .dir("d/", 0o700)
        .file("d/x/y", b"gone")
        .file("d", b"file")
        .symlink("s", "/etc")
        .dir("s/", 0o755)
        .file("s/inside", b"1")
        .dir("kept/", 0o700)
        .file("kept/x", b"1")
        .dir("kept/", 0o750);
    let at = unpack(&store, layer.tar());
    assert_eq!(fs::read(at.join("a")).unwrap(), b"second!");
    assert_eq!(fs::read(at.join("d")).unwrap(), b"file");
    assert!(at.join("s").symlink_metadata().unwrap().is_dir());
    assert!(at.join("s/inside").exists() && at.join("kept/x").exists());
    assert_eq!(fs::metadata(at.join("kept")).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(store.list().unwrap()[0].size_bytes, 7 + 4 + 1 + 1);
}

#[test]
fn device_nodes_below_dev_are_dropped_with_their_links() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = Layer::new()
        .dir("dev/", 0o755)
        .device("dev/null", EntryType::Char, 1, 3)
        .device("dev/sda", EntryType::Block, 8, 0)
        .hard_link("dev/disk", "dev/sda")
        .file("dev/file", b"x");
    let at = unpack(&store, layer.tar());
    let names: Vec<_> =
        fs::read_dir(at.join("dev")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["file"]);
}

#[test]
fn a_layer_may_end_without_padding() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut tar = Layer::new().file("a", b"abc").tar();
    tar.truncate(512 + 3);
    let at = unpack(&store, tar);
    assert_eq!(fs::read(at.join("a")).unwrap(), b"abc");
}

#[test]
fn what_follows_the_end_of_a_layer_counts_for_its_digest() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut tar = Layer::new().file("a", b"abc").tar();
    tar.extend([0; 10_240]);
    tar.extend(b"trailing");
    let at = unpack(&store, tar);
    assert!(at.join("a").exists());
}

#[test]
fn an_archive_that_is_no_layer_has_no_whiteouts_and_is_contained_all_the_same() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let limits = tenantry_image::Limits::default();
    let unpack = |name: &str, layer: Layer| {
        let at = scratch.dir.path().join(name);
        let done = tenantry_image::unpack_archive("context", &*layer.tar(), &at, &limits);
        done.map(|()| at)
    };
    let at = unpack("plain", Layer::new().file(".wh.a", b"text").dir("d/", 0o700)).unwrap();
    assert_eq!(fs::read(at.join(".wh.a")).unwrap(), b"text");
    assert!(!at.join("a").exists());
    let hostile = Layer::new().symlink("out", "/tmp").file("out/escaped", b"x");
    let error = unpack("hostile", hostile).unwrap_err().to_string();
    assert!(error.contains("leads outside"), "{error}");
}
