//! Independent witnesses: GNU tar writes what the store reads, and where they are
//! installed, umoci and skopeo write and read images as well.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use tenantry_image::ImportOptions;

use crate::archives::*;

/// Whether the program ran and succeeded; says SKIPPED where it is missing.
fn run(program: &str, arguments: &[&str], dir: &Path) -> bool {
    match Command::new(program).args(arguments).current_dir(dir).output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{program} {arguments:?}: {text}");
            true
        }
        Err(error) => {
            println!("SKIPPED: {program} cannot be run: {error}");
            false
        }
    }
}

#[test]
fn what_gnu_tar_writes_in_each_of_its_formats_is_read() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let long = format!("{}/{}", "l".repeat(200), "m".repeat(200));
    fs::create_dir_all(root.join(&long)).unwrap();
    fs::write(root.join(&long).join("file"), b"deep").unwrap();
    fs::write(root.join("a"), b"abc").unwrap();
    fs::hard_link(root.join("a"), root.join("b")).unwrap();
    std::os::unix::fs::symlink("x".repeat(300), root.join("s")).unwrap();
    std::os::unix::fs::chown(root.join("a"), Some(100_000), Some(3)).unwrap();
    // More segments than fit a header.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    for n in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[n as u8 + 1; 4096], n * (1 << 20))
            .unwrap();
    }
    sparse.set_len(64 << 20).unwrap();

    for format in [
        "--format=gnu",
        "--format=posix",
        "--sparse-version=0.0",
        "--sparse-version=0.1",
        "--sparse-version=1.0",
    ] {
        let format_arguments: &[&str] =
            if format.starts_with("--sparse") { &["--format=posix", format] } else { &[format] };
        let mut arguments = vec!["-S", "-cf", "out.tar", "-C", "root"];
        arguments.extend(format_arguments);
        arguments.push(".");
        if !run("tar", &arguments, dir.path()) {
            return;
        }
        let scratch = Scratch::new();
        let store = scratch.open();
        let tar = fs::read(dir.path().join("out.tar")).unwrap();
        assert!(tar.len() < 1 << 20, "tar kept the holes");
        store.import("demo", &*tar, ImportOptions::default()).unwrap();
        let at = store.resolve("demo").unwrap().layers.remove(0);
        assert_eq!(fs::read(at.join(&long).join("file")).unwrap(), b"deep", "{format}");
        let a = fs::metadata(at.join("a")).unwrap();
        assert_eq!((a.nlink(), a.uid(), a.gid()), (2, 100_000, 3), "{format}");
        assert_eq!(fs::read_link(at.join("s")).unwrap().as_os_str().len(), 300);
        assert!(
            fs::read(at.join("sparse")).unwrap() == fs::read(root.join("sparse")).unwrap(),
            "{format}"
        );
        let blocks = fs::metadata(at.join("sparse")).unwrap().blocks();
        assert!(blocks * 512 <= 50 * 4096, "{format}: {blocks} blocks");
        let mtime = fs::metadata(root.join(&long)).unwrap();
        assert_eq!(fs::metadata(at.join(&long)).unwrap().mtime(), mtime.mtime(), "{format}");
    }
}

#[test]
fn what_umoci_writes_loads() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    if !run("umoci", &["init", "--layout", "image"], dir.path()) {
        return;
    }
    run("umoci", &["new", "--image", "image:demo"], dir.path());
    fs::create_dir(dir.path().join("root")).unwrap();
    fs::write(dir.path().join("root/hello"), b"hello").unwrap();
    run("umoci", &["insert", "--image", "image:demo", "root", "/srv"], dir.path());
    let scratch = Scratch::new();
    let store = scratch.open();
    let loaded = store.load_dir(&dir.path().join("image")).unwrap();
    assert_eq!(loaded[0].name.as_deref(), Some("demo:latest"));
    let image = store.resolve("demo").unwrap();
    assert_eq!(fs::read(image.layers[0].join("srv/hello")).unwrap(), b"hello");
}

#[test]
fn skopeo_converts_to_docker_archives_that_load_with_the_same_id() {
    if skipped() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image::new(&[Layer::new().file("hello", b"hello").tar()]);
    Archive::oci(&[&image], vec![image.named("demo")]).write(&dir.path().join("layout"));
    let copy =
        ["--insecure-policy", "copy", "oci:layout:demo", "docker-archive:out.tar:demo:latest"];
    if !run("skopeo", &copy, dir.path()) {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let loaded = store.load(fs::File::open(dir.path().join("out.tar")).unwrap()).unwrap();
    assert_eq!((loaded[0].name.as_deref(), loaded[0].id), (Some("demo:latest"), image.id()));
}
