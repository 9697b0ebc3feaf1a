//! Copies in scratch directories, seen by the standard library.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use super::*;

struct Roots {
    _dir: tempfile::TempDir,
    from: PathBuf,
    to: PathBuf,
}

fn roots() -> Roots {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    Roots { _dir: dir, from, to }
}

/// Our own user may always be given; others need root.
fn ours(mode: Option<u32>) -> Attributes {
    let owner = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    Attributes { owner: Some(owner), mode }
}

fn copy(roots: &Roots, source: &str, destination: &str) -> Result<(), StepError> {
    use tenantry_build::copy::Files as _;
    let tree = Tree::open(&roots.from).unwrap();
    let is_directory = tree.is_directory(source).unwrap().unwrap();
    let source = Source { path: source.to_owned(), is_directory };
    let destination = Destination {
        path: format!("/{}", destination.trim_matches('/')),
        is_directory: destination.ends_with('/'),
    };
    let root = open(&roots.to);
    Placer::new(&root, ours(None)).copy(&tree, &source, &destination)
}

fn open(path: &Path) -> OwnedFd {
    fs::File::open(path).unwrap().into()
}

fn text(path: PathBuf) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn a_file_goes_to_a_name_or_into_a_directory() {
    let roots = roots();
    fs::write(roots.from.join("a"), "a").unwrap();
    fs::set_permissions(roots.from.join("a"), fs::Permissions::from_mode(0o751)).unwrap();
    copy(&roots, "a", "/x/y").unwrap();
    assert_eq!(text(roots.to.join("x/y")), "a");
    let metadata = fs::metadata(roots.to.join("x/y")).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o751);
    let source = fs::metadata(roots.from.join("a")).unwrap();
    assert_eq!(metadata.modified().unwrap(), source.modified().unwrap());
    assert_eq!(fs::metadata(roots.to.join("x")).unwrap().mode() & 0o7777, 0o755);
    copy(&roots, "a", "/new/").unwrap();
    assert_eq!(text(roots.to.join("new/a")), "a");
    copy(&roots, "a", "/new").unwrap();
    assert_eq!(text(roots.to.join("new/a")), "a");
}

#[test]
fn a_directorys_content_is_merged_and_what_is_in_the_way_replaced() {
    let roots = roots();
    fs::create_dir_all(roots.from.join("d/sub")).unwrap();
    fs::write(roots.from.join("d/sub/f"), "new").unwrap();
    fs::write(roots.from.join("d/was_dir"), "file").unwrap();
    symlink("/etc/passwd", roots.from.join("d/link")).unwrap();
    fs::create_dir_all(roots.to.join("x/sub")).unwrap();
    fs::create_dir_all(roots.to.join("x/was_dir/inner")).unwrap();
    fs::write(roots.to.join("x/sub/f"), "old").unwrap();
    fs::write(roots.to.join("x/sub/kept"), "kept").unwrap();
    fs::write(roots.to.join("x/link"), "was a file").unwrap();
    copy(&roots, "d", "/x").unwrap();
    assert_eq!(text(roots.to.join("x/sub/f")), "new");
    assert_eq!(text(roots.to.join("x/sub/kept")), "kept");
    assert_eq!(text(roots.to.join("x/was_dir")), "file");
    assert_eq!(fs::read_link(roots.to.join("x/link")).unwrap(), Path::new("/etc/passwd"));
}

#[test]
fn symlinks_of_the_image_lead_where_they_lead_in_the_container() {
    let roots = roots();
    let outside = roots.to.parent().unwrap().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(roots.from.join("a"), "a").unwrap();
    symlink(&outside, roots.to.join("absolute")).unwrap();
    symlink("../outside", roots.to.join("climbing")).unwrap();
    symlink("real", roots.to.join("fine")).unwrap();
    fs::create_dir(roots.to.join("real")).unwrap();
    copy(&roots, "a", "/fine/").unwrap();
    assert_eq!(text(roots.to.join("real/a")), "a");
    // Inside, they lead to what is not there: a symlink is no directory to be made.
    for link in ["/absolute/", "/climbing/", "/absolute/deeper/x"] {
        assert!(copy(&roots, "a", link).is_err(), "{link}");
    }
    // As a file's own name, a symlink is replaced.
    symlink(outside.join("a"), roots.to.join("file")).unwrap();
    copy(&roots, "a", "/file").unwrap();
    assert_eq!(text(roots.to.join("file")), "a");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "something was written outside");
}

#[test]
fn a_whiteouts_name_is_refused() {
    let roots = roots();
    fs::create_dir(roots.from.join("d")).unwrap();
    fs::write(roots.from.join("d/.wh.etc"), "").unwrap();
    let error = copy(&roots, "d", "/").unwrap_err();
    assert!(crate::api::error::chain(&error).contains("whiteout"), "{error}");
    fs::write(roots.from.join("a"), "").unwrap();
    assert!(copy(&roots, "a", "/.wh.x").is_err());
}

#[test]
fn a_text_of_the_dockerfile_becomes_a_file() {
    let roots = roots();
    let root = open(&roots.to);
    let destination = Destination { path: "/etc/conf".into(), is_directory: false };
    Placer::new(&root, ours(Some(0o640))).write("EOF", "text\n", &destination).unwrap();
    assert_eq!(text(roots.to.join("etc/conf")), "text\n");
    assert_eq!(fs::metadata(roots.to.join("etc/conf")).unwrap().mode() & 0o7777, 0o640);
}
