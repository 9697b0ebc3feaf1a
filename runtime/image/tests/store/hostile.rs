//! Archives that mean harm, are damaged or ask for too much: an error that says what
//! and where, and a store that is as before.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;

use serde_json::json;
use tar::EntryType;
use tenantry_image::{Digest, Error, ErrorKind, ImportOptions, Limits, Store};

use crate::archives::*;

/// Loads in a store that has one good image already; the error must contain all of
/// `expected`, and the store's files must be unchanged.
fn refuse_with(limits: Limits, archive: &[u8], expected: &[&str]) -> Error {
    let scratch = Scratch::new();
    let store = Store::open_with(&scratch.path(), limits).unwrap();
    let image = Image::new(&[]);
    store.load(&*Archive::oci(&[&image], vec![image.named("good")]).tar()).unwrap();
    let before = (scratch.listing(), store.list().unwrap());
    let error = store.load(archive).unwrap_err();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text += &format!(": {cause}");
        source = cause.source();
    }
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(error.kind(), ErrorKind::Invalid, "{text}");
    assert_eq!((scratch.listing(), store.list().unwrap()), before, "{text}");
    error
}

fn refuse(archive: &[u8], expected: &[&str]) -> Error {
    refuse_with(Limits::default(), archive, expected)
}

/// A good layer below the bad one: it must not stay either.
fn refuse_layer(layer: Layer, expected: &[&str]) -> Error {
    let tar = layer.tar();
    let named = format!("layer {}", Digest::of(&tar));
    let mut expected = expected.to_vec();
    expected.push(&named);
    refuse(&demo(&[Layer::new().file("good", b"good").tar(), tar]), &expected)
}

#[test]
fn paths_that_lead_outside_are_refused() {
    if skipped() {
        return;
    }
    for path in ["../evil", "a/../../evil", "a/..", "/etc/evil", "//evil", ".."] {
        let error = refuse_layer(Layer::new().file(path, b"x"), &[path]);
        assert!(matches!(error, Error::Escape { .. }), "{error:?}");
    }
    for path in ["../evil/", "/evil/"] {
        refuse_layer(Layer::new().dir(path, 0o755), &["leads outside"]);
    }
}

#[test]
fn writing_through_a_symlink_that_leads_outside_is_refused() {
    if skipped() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for (link, entry) in [("l", "l/evil"), ("d/l", "d/l/deep/evil")] {
        let layer = Layer::new().symlink(link, target).file(entry, b"x");
        let error = refuse_layer(layer, &[entry, target]);
        assert!(matches!(error, Error::Escape { .. }), "{error:?}");
    }
    refuse_layer(
        Layer::new().symlink("l", "../../..").file("l/evil", b"x"),
        &["l/evil", "../../.."],
    );
    // Each of the two is harmless alone.
    let chain = Layer::new()
        .symlink("a", "b/..")
        .dir("b/", 0o755)
        .symlink("c", "a/..")
        .file("c/evil", b"x");
    refuse_layer(chain, &["c/evil", "a/.."]);
    let circle = Layer::new().symlink("a", "b").symlink("b", "a").file("a/evil", b"x");
    refuse_layer(circle, &["a/evil"]);
    // Directories, links and whiteouts through it as well.
    for layer in [
        Layer::new().symlink("l", target).dir("l/evil/", 0o777),
        Layer::new().symlink("l", target).symlink("l/evil", "x"),
        Layer::new().symlink("l", target).file("x", b"").hard_link("l/evil", "x"),
        Layer::new().symlink("l", target).file("l/.wh.evil", b""),
        Layer::new().symlink("l", target).file("l/.wh..wh..opq", b""),
    ] {
        refuse_layer(layer, &["leads outside", target]);
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn a_symlink_itself_is_replaced_and_not_followed() {
    if skipped() {
        return;
    }
    let outside = tempfile::NamedTempFile::new().unwrap();
    let target = outside.path().to_str().unwrap();
    let layer =
        Layer::new().symlink("l", target).file("l", b"evil").symlink("d", "/").dir("d/", 0o777);
    let scratch = Scratch::new();
    let store = scratch.open();
    store.load(&*demo(&[layer.tar()])).unwrap();
    assert_eq!(fs::read(outside.path()).unwrap(), b"");
}

#[test]
fn hard_links_that_lead_outside_are_refused() {
    if skipped() {
        return;
    }
    for target in ["/etc/passwd", "../../../etc/passwd", "a/../../x"] {
        let error = refuse_layer(Layer::new().hard_link("evil", target), &["evil", target]);
        assert!(matches!(error, Error::Escape { .. }), "{error:?}");
    }
    let through = Layer::new().symlink("l", "/etc").hard_link("evil", "l/passwd");
    refuse_layer(through, &["evil", "leads outside", "/etc"]);
    refuse_layer(Layer::new().hard_link("evil", "nothing"), &["hard-link target", "evil"]);
    refuse_layer(Layer::new().dir("d/", 0o755).hard_link("evil", "d"), &["to a directory"]);
    refuse_layer(Layer::new().hard_link("evil", "."), &["to a directory"]);
}

#[test]
fn devices_strange_whiteouts_attributes_and_owners_are_refused() {
    if skipped() {
        return;
    }
    let device = Layer::new().device("etc/kmem", EntryType::Char, 1, 2);
    refuse_layer(device, &["etc/kmem", "a device node"]);
    refuse_layer(Layer::new().device("w", EntryType::Char, 0, 0), &["a device node"]);
    for path in [".wh.", ".wh..", ".wh...", "a/.wh..."] {
        refuse_layer(Layer::new().file(path, b""), &[path, "names no file"]);
    }
    let steering =
        Layer::new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/x")]).dir("d/", 0o755);
    refuse_layer(steering, &["trusted.overlay.redirect"]);
    refuse_layer(Layer::new().pax(&[("uid", b"4294967295")]).file("f", b""), &["owner 4294967295"]);
    refuse_layer(
        Layer::new()
            .raw(Layer::header(EntryType::Regular, "./", 0o644, 0), b"")
            .file("a/b", b"")
            .file("a", b"")
            .file("a/c", b""),
        &["a/c"],
    );
    refuse_layer(Layer::new().file(".", b"x"), &["root must be a directory"]);
}

/// Docker and containerd keep such files as well: an image may bring a `sudo` of its own. What
/// contains them is the store, which nobody but root can look into, and the container's
/// `no_new_privs` or user namespace.
#[test]
fn set_id_files_of_foreign_ids_are_kept_and_contained_by_a_private_store() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let store = scratch.open();
    let owned = |path, mode, uid, gid| {
        let mut header = Layer::header(EntryType::Regular, path, mode, 1);
        header.set_uid(uid);
        header.set_gid(gid);
        header
    };
    let layer = Layer::new()
        .raw(owned("root", 0o4755, 0, 0), b"x")
        .raw(owned("foreign", 0o6755, 123_456, 2_000_000), b"x")
        // Its mode was another when there was another owner.
        .raw(owned("twice", 0o4755, 0, 0), b"x")
        .raw(owned("twice", 0o755, 1000, 1000), b"x");
    store.load(&*demo(&[layer.tar()])).unwrap();
    let at = store.resolve("demo").unwrap().layers[0].clone();
    let found = |name: &str| {
        let file = fs::metadata(at.join(name)).unwrap();
        (file.mode() & 0o7777, file.uid(), file.gid())
    };
    assert_eq!(found("root"), (0o4755, 0, 0));
    assert_eq!(found("foreign"), (0o6755, 123_456, 2_000_000));
    assert_eq!(found("twice"), (0o755, 1000, 1000));
    // The kernel's own word: somebody else does not even get near it.
    let mut stranger = std::process::Command::new("stat");
    stranger.arg(at.join("root")).uid(65_534).gid(65_534);
    let refused = stranger.output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("Permission denied"), "{refused:?}");
}

#[test]
fn what_becomes_a_symlink_meanwhile_is_not_written_through() {
    if skipped() {
        return;
    }
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    // Its directory was opened a moment ago, for the entry before.
    let swapped = Layer::new().dir("d/", 0o755).file("d/a", b"x").symlink("d", target);
    refuse_layer(swapped.file("d/evil", b"x"), &["d/evil", "leads outside", target]);
    let deep = Layer::new().file("a/b/c/x", b"x").symlink("a/b", target);
    refuse_layer(deep.file("a/b/c/evil", b"x"), &["a/b/c/evil", "leads outside", target]);
    let opaque = Layer::new().dir("d/", 0o755).file("d/a", b"x").symlink("d", target);
    refuse_layer(opaque.file("d/.wh..wh..opq", b""), &["leads outside", target]);
    // A hard link to a symlink is that symlink, and is replaced as one.
    let evil = format!("{target}/evil");
    let linked = Layer::new().symlink("l", &evil).hard_link("h", "l").file("h", b"x");
    let scratch = Scratch::new();
    scratch.open().load(&*demo(&[linked.tar()])).unwrap();
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn whiteouts_of_every_kind_leave_no_file_of_that_name() {
    if skipped() {
        return;
    }
    let layer = Layer::new()
        // AUFS' own bookkeeping, and names that only look like it.
        .file(".wh..wh.plnk", b"x")
        .file(".wh..wh..", b"x")
        .file("d/.wh..wh.aufs", b"x")
        // What it hides is of no interest, nor what kind of entry says so, nor its content.
        .file("d/.wh.file", b"content")
        .symlink("d/.wh.link", "/etc/passwd")
        .dir("d/.wh.directory/", 0o777)
        .file("d/.wh.file", b"twice");
    let scratch = Scratch::new();
    let store = scratch.open();
    store.load(&*demo(&[layer.tar()])).unwrap();
    let at = store.resolve("demo").unwrap().layers[0].clone();
    let names = |dir: &std::path::Path| {
        let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<_> = entries.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&at), ["d"]);
    assert_eq!(names(&at.join("d")), ["directory", "file", "link"]);
    for name in ["directory", "file", "link"] {
        let whiteout = fs::symlink_metadata(at.join("d").join(name)).unwrap();
        assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0, "{name}");
    }
}

#[test]
fn ten_thousand_entries_of_one_path_are_one_file() {
    if skipped() {
        return;
    }
    let layer = (0..10_000).fold(Layer::new(), |layer, number| match number % 3 {
        0 => layer.file("same", &[7; 100]),
        1 => layer.symlink("same", "/etc/passwd"),
        _ => layer.dir("same/", 0o755),
    });
    let limits = Limits { unpacked_bytes: 100 * 4000, ..Limits::default() };
    let scratch = Scratch::new();
    let store = Store::open_with(&scratch.path(), limits).unwrap();
    store.load(&*demo(&[layer.tar()])).unwrap();
    assert_eq!(store.list().unwrap()[0].size_bytes, 100);
    let limits = Limits { entries_per_layer: 9_999, ..Limits::default() };
    let layer = (0..10_000).fold(Layer::new(), |layer, _| layer.file("same", b"x"));
    refuse_with(limits, &demo(&[layer.tar()]), &["entries is 10000, allowed is 9999"]);
}

#[test]
fn a_wrong_digest_is_refused_wherever_it_is() {
    let image = Image::new(&[Layer::new().file("a", b"x").tar()]);
    let good = || Archive::oci(&[&image], vec![image.named("demo")]);
    for content in [image.config_bytes(), image.manifest_bytes(), image.layers[0].1.clone()] {
        let path = format!("blobs/sha256/{}", Digest::of(&content).hex());
        let mut archive = good();
        archive.members.get_mut(&path).unwrap()[10] ^= 1;
        let error = refuse(&archive.tar(), &[&path, "expected is"]);
        assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
        let mut archive = good();
        archive.members.remove(&path);
        refuse(&archive.tar(), &[&path, "lacks"]);
    }
    let mut docker = Archive::docker(&image, &["demo"]);
    let config = format!("{}.json", image.id().hex());
    docker.members.get_mut(&config).unwrap().push(b' ');
    refuse(&docker.tar(), &[&config, "its digest is"]);
}

#[test]
fn a_wrong_diff_id_or_size_is_refused() {
    if skipped() {
        return;
    }
    let good = Layer::new().file("a", b"x").tar();
    let other = Layer::new().file("b", b"x").tar();
    let mut image = Image::new(&[good.clone(), other.clone()]);
    image.config["rootfs"]["diff_ids"][1] = json!(Digest::of(b"else").to_string());
    let archive = Archive::oci(&[&image], vec![image.named("demo")]).tar();
    refuse(
        &archive,
        &["diff_id", &Digest::of(b"else").to_string(), &Digest::of(&other).to_string()],
    );

    // Also when a layer of that diff_id is there already: the claim is not believed.
    let mut liar = Image::new(&[good.clone(), other]);
    liar.config["rootfs"]["diff_ids"][1] = json!(Digest::of(&good).to_string());
    refuse(&Archive::oci(&[&liar], vec![liar.named("demo")]).tar(), &["diff_id"]);

    // What follows the end of the archive is part of the digest.
    let mut image = Image::new(std::slice::from_ref(&good));
    image.layers[0].1.extend(b"more");
    refuse(&Archive::oci(&[&image], vec![image.named("demo")]).tar(), &["diff_id"]);

    let image = Image::new(&[good]);
    let mut descriptor = image.named("demo");
    descriptor["size"] = json!(7);
    refuse(&Archive::oci(&[&image], vec![descriptor]).tar(), &["its descriptor says 7"]);
}

#[test]
fn a_cut_off_archive_or_layer_is_refused() {
    if skipped() {
        return;
    }
    let image = Image::new(&[Layer::new().file("a", &[7; 5000]).tar()]);
    let tar = Archive::oci(&[&image], vec![image.named("demo")]).tar();
    for archive in [gzip(&tar), zstd(&tar)] {
        let cut = &archive[..archive.len() / 2];
        let error = refuse(cut, &[]);
        assert!(matches!(error, Error::Truncated { .. } | Error::Read { .. }), "{error:?}");
    }
    refuse(&tar[..tar.len() / 2], &["ends early"]);

    let mut image =
        Image::new(&[Layer::new().file("a", &[7; 5000]).tar()]).compressed(TAR_GZIP, gzip);
    let half = image.layers[0].1.len() / 2;
    image.layers[0].1.truncate(half);
    let error = refuse(&Archive::oci(&[&image], vec![image.named("demo")]).tar(), &["ends early"]);
    assert!(matches!(error, Error::Truncated { .. }), "{error:?}");

    let mut layer = Layer::new().file("a", &[7; 5000]).tar();
    layer.truncate(3000);
    refuse(&demo(&[layer]), &["ends early", "inside a file's content"]);
}

#[test]
fn an_import_that_fails_leaves_nothing() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let before = scratch.listing();
    let mut cut = Layer::new().file("a", &[7; 5000]).tar();
    cut.truncate(3000);
    for rootfs in [Layer::new().file("../evil", b"x").tar(), cut, b"no tar at all".to_vec()] {
        let error = store.import("demo", &*rootfs, ImportOptions::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        assert_eq!(scratch.listing(), before);
    }
}

#[test]
fn each_limit_names_itself_with_both_numbers() {
    if skipped() {
        return;
    }
    let limits = Limits::default;
    let huge =
        Layer::new().raw(Layer::header(EntryType::Regular, "huge", 0o644, 1 << 50), b"").tar();
    let rows = [
        (
            limits(),
            huge[..512].to_vec(),
            "bytes unpacked with it is 1125899906842624, allowed is 274877906944",
        ),
        (
            Limits { unpacked_bytes: 10, ..limits() },
            Layer::new().file("a", b"12345").file("b", b"123456").tar(),
            "entry `b`: bytes unpacked with it is 11, allowed is 10",
        ),
        (
            Limits { entries_per_layer: 3, ..limits() },
            Layer::new().file("a", b"").file("b", b"").file("c", b"").file("d", b"").tar(),
            "entries is 4, allowed is 3",
        ),
        // Directories that are only implied count.
        (
            Limits { entries_per_layer: 3, ..limits() },
            Layer::new().file("a/b/c/d", b"").tar(),
            "entries is 4, allowed is 3",
        ),
        (
            Limits { path_depth: 4, ..limits() },
            Layer::new().file("1/2/3/4/5", b"").tar(),
            "depth of its path is 5, allowed is 4",
        ),
        (
            limits(),
            Layer::new().pax(&[("path", &b"d/".repeat(300))]).file("x", b"").tar(),
            "depth of its path is 300, allowed is 256",
        ),
        (
            limits(),
            Layer::new().pax(&[("path", &[b'x'; 5000])]).file("x", b"").tar(),
            "length of a path is 5000, allowed is 4095",
        ),
        (
            Limits { pax_bytes: 100, ..limits() },
            Layer::new().pax(&[("comment", &[b'x'; 200])]).file("x", b"").tar(),
            "allowed is 100",
        ),
    ];
    for (limits, layer, expected) in rows {
        let error = refuse_with(limits, &demo(&[layer]), &[expected, "layer sha256:"]);
        assert!(matches!(error, Error::Limit { .. }), "{error:?}");
    }

    let image = Image::new(&[Layer::new().file("a", b"").tar(), Layer::new().file("b", b"").tar()]);
    let archive = Archive::oci(&[&image], vec![image.named("demo")]).tar();
    let rows = [
        (Limits { document_bytes: 300, ..limits() }, "size is"),
        (Limits { archive_members: 4, ..limits() }, "members is 5, allowed is 4"),
        (Limits { archive_bytes: 2000, ..limits() }, "allowed is 2000"),
        (Limits { layers: 1, ..limits() }, "layers is 2, allowed is 1"),
    ];
    for (limits, expected) in rows {
        let scratch = Scratch::new();
        let store = Store::open_with(&scratch.path(), limits).unwrap();
        let before = scratch.listing();
        let error = store.load(&*archive).unwrap_err();
        assert!(matches!(error, Error::Limit { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(scratch.listing(), before);
    }
    let many = vec![image.named("demo"), image.named("two")];
    let archive = Archive::oci(&[&image], many).tar();
    refuse_with(Limits { images: 1, ..limits() }, &archive, &["images is 2, allowed is 1"]);
}

#[test]
fn a_compression_bomb_stops_at_the_limit() {
    if skipped() {
        return;
    }
    let mut image = Image::new(&[Layer::new().file("a", b"").tar()]);
    let mut bomb = image.layers[0].1.clone();
    bomb.resize(64 << 20, 0);
    image.config["rootfs"]["diff_ids"][0] = json!(Digest::of(&bomb).to_string());
    image.layers[0] = (TAR_GZIP, gzip(&bomb));
    let archive = Archive::oci(&[&image], vec![image.named("demo")]).tar();
    let limits = Limits { archive_bytes: 4 << 20, ..Limits::default() };
    refuse_with(limits, &archive, &["size of the archive", "allowed is 4194304"]);
}

#[test]
fn indexes_nested_too_deep_or_in_a_circle_are_refused() {
    let kind = "application/vnd.oci.image.index.v1+json";
    let image = Image::new(&[]);
    let mut archive = Archive::oci(&[&image], vec![]);
    let mut inner = image.descriptor();
    for _ in 0..6 {
        let index = json!({"schemaVersion": 2, "manifests": [inner]}).to_string().into_bytes();
        inner = descriptor(kind, &index);
        archive.blob(index);
    }
    archive.index(vec![inner]);
    refuse(&archive.tar(), &["depth of nested indexes is 5, allowed is 4"]);

    // A circle needs an index whose digest is a lie.
    let path = format!("blobs/sha256/{}", Digest::of(b"circle").hex());
    let mut itself = descriptor(kind, b"circle");
    let circle =
        json!({"schemaVersion": 2, "manifests": [itself.clone()]}).to_string().into_bytes();
    itself["size"] = json!(circle.len());
    let mut archive = Archive::oci(&[], vec![itself]);
    archive.put(&path, circle);
    refuse(&archive.tar(), &[&path, "its digest is"]);
    let dir = tempfile::tempdir().unwrap();
    archive.write(dir.path());
    let scratch = Scratch::new();
    let error = scratch.open().load_dir(dir.path()).unwrap_err();
    assert!(matches!(error, Error::DigestMismatch { .. }), "{error:?}");
}

#[test]
fn ambiguous_and_escaping_members_are_refused() {
    let image = Image::new(&[]);
    let good = Archive::oci(&[&image], vec![image.named("demo")]);
    let members = || {
        good.members.iter().fold(Layer::new(), |layer, (path, content)| layer.file(path, content))
    };
    let twice = members().file("index.json", br#"{"schemaVersion":2,"manifests":[]}"#);
    refuse(&twice.tar(), &["`index.json` twice"]);
    refuse(&members().file("./blobs/../../evil", b"x").tar(), &["evil", "leads outside"]);
    refuse(&members().file("/evil", b"x").tar(), &["/evil", "leads outside"]);
    assert!(
        Scratch::new()
            .open()
            .load(&*members().file("./index.json", &good.members["index.json"]).tar())
            .is_ok()
    );

    let mut archive = Archive::docker(&image, &["demo"]);
    let saved = json!([{"Config": "../../etc/passwd", "RepoTags": null, "Layers": []}]);
    archive.put("manifest.json", saved.to_string().into_bytes());
    refuse(&archive.tar(), &["../../etc/passwd", "leads outside"]);

    let saved = json!([{"Config": "c", "RepoTags": ["Not A Name"], "Layers": []}]);
    archive.put("c", image.config_bytes());
    archive.put("manifest.json", saved.to_string().into_bytes());
    refuse(&archive.tar(), &["Not A Name", "allowed is"]);

    let circle = Layer::new().symlink("manifest.json", "other").symlink("other", "manifest.json");
    refuse(&circle.tar(), &["circle"]);
}

#[test]
fn a_directory_with_symlinks_outside_or_fifos_is_refused() {
    let image = Image::new(&[]);
    let dir = tempfile::tempdir().unwrap();
    Archive::oci(&[&image], vec![image.named("demo")]).write(dir.path());
    let index = dir.path().join("index.json");
    let outside = tempfile::tempdir().unwrap();
    let elsewhere = outside.path().join("index.json");
    fs::rename(&index, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &index).unwrap();
    let scratch = Scratch::new();
    let store = scratch.open();
    let error = store.load_dir(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Escape { .. }), "{error:?}");
    fs::remove_file(&index).unwrap();
    nix::unistd::mkfifo(&index, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = store.load_dir(dir.path()).unwrap_err();
    assert!(error.to_string().contains("not a regular file"), "{error}");
    let error = store.load_dir(&dir.path().join("nothing")).unwrap_err();
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[test]
fn wrong_documents_name_themselves() {
    let tar = Layer::new().file("a", b"").tar();
    let check = |change: fn(&mut Image), expected: &[&str]| {
        let mut image = Image::new(std::slice::from_ref(&tar));
        change(&mut image);
        refuse(&Archive::oci(&[&image], vec![image.named("demo")]).tar(), expected);
    };
    check(|image| image.config["os"] = json!("windows"), &["os is windows, allowed is linux"]);
    check(
        |image| image.config["rootfs"]["diff_ids"] = json!([]),
        &["rootfs.diff_ids has 0 entries"],
    );
    check(
        |image| image.config["rootfs"]["diff_ids"] = json!(["sha256:xyz"]),
        &["diff_id `sha256:xyz`"],
    );
    check(|image| image.config["rootfs"] = json!(7), &["configuration sha256:", "not valid JSON"]);
    check(
        |image| image.layers[0].0 = "application/vnd.oci.image.layer.v1.tar+encrypted",
        &["+encrypted; allowed are"],
    );
    check(|image| image.layers[0].0 = "text/plain", &["text/plain; allowed are"]);
    let mut archive = Archive::default();
    archive.put("index.json", b"{".to_vec());
    refuse(&archive.tar(), &["index.json is not valid JSON"]);
    archive.put("index.json", br#"{"schemaVersion":2,"manifests":[]}"#.to_vec());
    refuse(&archive.tar(), &["it has none at all"]);
    archive.put("oci-layout", br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    refuse(&archive.tar(), &["version 2.0.0, allowed is 1.x"]);
}
