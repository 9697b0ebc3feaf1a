//! Images made of an image and an upper directory: what is packed is what was there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::stat::{Mode, SFlag};
use proptest::prelude::*;
use serde_json::{Value, json};
use tenantry_image::{Changes, Commit, Error, Loaded, OwnerMapping, Removal, Store, spec};

use crate::archives::*;

fn config() -> Value {
    json!({
        "architecture": arch(), "os": "linux", "created": "2024-01-02T03:04:05Z",
        "config": {"Cmd": ["/bin/sh"], "Healthcheck": {"Test": ["CMD", "true"]}},
    })
}

fn history(created_by: &str) -> spec::History {
    spec::HistoryBuilder::default()
        .created("2024-01-02T03:04:05Z")
        .created_by(created_by)
        .build()
        .unwrap()
}

fn commit(store: &Store, parent: Option<&str>, upper: Option<&Path>, name: &str) -> Loaded {
    let changes = upper.map(|upper| Changes { upper, owners: None });
    let names = [name.to_owned()];
    let history = history("step");
    store.commit(Commit { parent, changes, config: config(), history, names: &names }).unwrap()
}

/// Refused; the store's content is as before.
fn refused(scratch: &Scratch, store: &Store, upper: &Path) -> Error {
    let before = scratch.listing();
    let changes = Some(Changes { upper, owners: None });
    let commit =
        Commit { parent: None, changes, config: config(), history: history("x"), names: &[] };
    let error = store.commit(commit).unwrap_err();
    assert_eq!(scratch.listing(), before);
    error
}

fn mknod(path: &Path, kind: SFlag, device: u64) {
    nix::sys::stat::mknod(path, kind, Mode::from_bits_truncate(0o600), device).unwrap();
}

fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
}

/// What `lstat`, `listxattr`, `readlink` and `read` say of everything in a directory.
fn walk(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut first_names = BTreeMap::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(path) = ahead.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().to_owned();
        let kind = stat.mode() & 0o170_000;
        let is_whiteout = kind == 0o020_000 && stat.rdev() == 0;
        let mut said = format!("{kind:o}");
        if !is_whiteout {
            said += &format!(" {:o} {}:{}", stat.mode() & 0o7777, stat.uid(), stat.gid());
        }
        if !is_whiteout && path != root {
            said += &format!(" {}", stat.mtime());
        }
        match kind {
            0o040_000 => ahead.extend(fs::read_dir(&path).unwrap().map(|e| e.unwrap().path())),
            0o120_000 => said += &format!(" -> {}", fs::read_link(&path).unwrap().display()),
            0o100_000 => said += &format!(" {:?}", fs::read(&path).unwrap()),
            _ => {}
        }
        for attribute in xattrs(&path) {
            said += &format!(" {attribute}");
        }
        // overlayfs links its whiteouts to save inodes.
        if kind != 0o040_000 && !is_whiteout {
            let names: &mut Vec<PathBuf> = first_names.entry(stat.ino()).or_default();
            names.push(name.clone());
        }
        found.insert(name, said);
    }
    for mut names in first_names.into_values() {
        names.sort();
        for name in &names {
            found.get_mut(name).unwrap().push_str(&format!(" one of {names:?}"));
        }
    }
    found
}

fn xattrs(path: &Path) -> Vec<String> {
    let mut names = [0; 4096];
    let n = rustix::fs::llistxattr(path, &mut names[..]).unwrap_or(0);
    let mut found: Vec<String> = names[..n]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty() && !name.starts_with(b"security.selinux"))
        .map(|name| {
            let mut value = [0; 4096];
            let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
            format!("{}={:?}", name.escape_ascii(), &value[..n])
        })
        .collect();
    found.sort();
    found
}

#[derive(Clone, Debug)]
enum Make {
    Directory { opaque: bool },
    File { content: Vec<u8>, note: bool },
    Symlink(String),
    HardLink(Vec<String>),
    Fifo,
    Whiteout,
}

#[derive(Clone, Debug)]
struct Step {
    path: Vec<String>,
    make: Make,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
}

fn path() -> impl Strategy<Value = Vec<String>> {
    let long = format!("{}é", "n".repeat(120));
    let names = proptest::sample::select(vec!["a".into(), "b b".into(), "c.d".into(), long]);
    proptest::collection::vec(names, 1..4)
}

prop_compose! {
    fn step()(
        path in path(),
        make in prop_oneof![
            3 => any::<bool>().prop_map(|opaque| Make::Directory { opaque }),
            3 => (proptest::collection::vec(any::<u8>(), 0..1500), any::<bool>())
                .prop_map(|(content, note)| Make::File { content, note }),
            1 => "[a-z/.]{1,150}".prop_map(Make::Symlink),
            2 => path().prop_map(Make::HardLink),
            1 => Just(Make::Fifo),
            1 => Just(Make::Whiteout),
        ],
        mode in 0..0o10000u32,
        owner in (0..3_000_000u32, 0..3_000_000u32),
        mtime in -5_000_000_000i64..10_000_000_000,
    ) -> Step {
        Step { path, make, mode, owner, mtime }
    }
}

/// Does what can be done of a step; a name that is taken stays.
fn apply(root: &Path, step: &Step) {
    let at = step.path.iter().fold(root.to_owned(), |at, name| at.join(name));
    let parent = at.parent().unwrap();
    let real = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    if !parent.ancestors().take_while(|above| above.starts_with(root)).all(real)
        || fs::symlink_metadata(&at).is_ok()
    {
        return;
    }
    match &step.make {
        Make::Directory { .. } => fs::create_dir(&at).unwrap(),
        Make::File { content, .. } => fs::write(&at, content).unwrap(),
        Make::Symlink(target) => symlink(target, &at).unwrap(),
        Make::HardLink(target) => {
            let target = target.iter().fold(root.to_owned(), |at, name| at.join(name));
            // To what is no directory and there, through no symlink.
            if target.ancestors().skip(1).take_while(|above| above.starts_with(root)).all(real)
                && !real(&target)
            {
                let _ = fs::hard_link(&target, &at);
            }
            return;
        }
        Make::Fifo => mknod(&at, SFlag::S_IFIFO, 0),
        Make::Whiteout => return mknod(&at, SFlag::S_IFCHR, 0),
    }
    std::os::unix::fs::lchown(&at, Some(step.owner.0), Some(step.owner.1)).unwrap();
    if !matches!(step.make, Make::Symlink(_)) {
        fs::set_permissions(&at, fs::Permissions::from_mode(step.mode)).unwrap();
    }
    match &step.make {
        Make::Directory { opaque: true } => set_xattr(&at, "trusted.overlay.opaque", b"y"),
        Make::File { note: true, .. } => set_xattr(&at, "user.note", b"line\nline\0"),
        _ => {}
    }
}

/// From the inside out, since an entry changes its directory's time.
fn set_times(root: &Path, steps: &[Step]) {
    let mut steps: Vec<&Step> = steps.iter().collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.path.len()));
    for step in steps {
        let at = step.path.iter().fold(root.to_owned(), |at, name| at.join(name));
        let real = |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        if !at.ancestors().skip(1).take_while(|above| above.starts_with(root)).all(real) {
            continue;
        }
        let time = rustix::fs::Timespec { tv_sec: step.mtime, tv_nsec: 0 };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
        let _ = rustix::fs::utimensat(rustix::fs::CWD, &at, &times, flags);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_tree_packed_and_unpacked_is_the_same_tree(steps in proptest::collection::vec(step(), 1..40)) {
        if skipped() {
            return Ok(());
        }
        let scratch = Scratch::new();
        let store = scratch.open();
        let upper = scratch.dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        for step in &steps {
            apply(&upper, step);
        }
        set_times(&upper, &steps);
        let first = commit(&store, None, Some(&upper), "first");
        let again = commit(&store, None, Some(&upper), "again");
        prop_assert_eq!(first.id, again.id, "the same tree is the same layer");
        let image = store.resolve("first").unwrap();
        prop_assert_eq!(walk(&image.layers[0]), walk(&upper));
    }
}

fn upper(scratch: &Scratch) -> PathBuf {
    let upper = scratch.dir.path().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).unwrap();
    upper
}

#[test]
fn a_new_image_has_its_parents_layers_and_history_and_one_more_of_each() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let mut base = Image::new(&[Layer::new().file("base", b"low").tar()]);
    base.config["history"] = json!([{"created_by": "base"}]);
    store.load(&*Archive::oci(&[&base], vec![base.named("base")]).tar()).unwrap();
    let upper = upper(&scratch);
    fs::write(upper.join("new"), b"high").unwrap();
    commit(&store, Some("base"), Some(&upper), "second");
    let third = commit(&store, Some("second"), None, "third");

    let image = store.resolve("third").unwrap();
    assert_eq!((image.id, image.parent), (third.id, Some(store.resolve("second").unwrap().id)));
    assert_eq!(fs::read(image.layers[0].join("new")).unwrap(), b"high");
    assert_eq!(fs::read(image.layers[1].join("base")).unwrap(), b"low");
    assert_eq!(image.layers.len(), 2);
    assert_eq!(image.document["config"]["Healthcheck"]["Test"], json!(["CMD", "true"]));
    let history = image.document["history"].as_array().unwrap();
    let said: Vec<_> = history
        .iter()
        .map(|step| (step["created_by"].as_str(), step["empty_layer"] == true))
        .collect();
    assert_eq!(said, [(Some("base"), false), (Some("step"), false), (Some("step"), true)]);
    assert_eq!(image.document["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);

    // A removed parent takes nothing with it.
    store.remove("base", Removal::default(), &|_| None).unwrap();
    store.remove("second", Removal::default(), &|_| None).unwrap();
    drop(store);
    let image = scratch.open().resolve("third").unwrap();
    assert_eq!(fs::read(image.layers[1].join("base")).unwrap(), b"low");
}

#[test]
fn changes_without_an_entry_make_no_layer() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let upper = upper(&scratch);
    commit(&store, None, Some(&upper), "nothing");
    let image = store.resolve("nothing").unwrap();
    assert_eq!(image.document["history"][0]["empty_layer"], true);
    assert_eq!(image.document["rootfs"]["diff_ids"], json!([]));
    // Another root is an entry.
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o1777)).unwrap();
    commit(&store, None, Some(&upper), "open");
    let root = store.resolve("open").unwrap().layers.remove(0);
    assert_eq!(fs::metadata(root).unwrap().mode() & 0o7777, 0o1777);
}

#[test]
fn gnu_tar_reads_what_is_packed() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let upper = upper(&scratch);
    fs::create_dir_all(upper.join("usr/bin")).unwrap();
    fs::write(upper.join("usr/bin/tool"), [7; 3000]).unwrap();
    fs::set_permissions(upper.join("usr/bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::hard_link(upper.join("usr/bin/tool"), upper.join("usr/bin/z")).unwrap();
    let capability = b"\x01\0\0\x02\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    fs::write(upper.join("ping"), b"ping").unwrap();
    set_xattr(&upper.join("ping"), "security.capability", capability);
    mknod(&upper.join("usr/gone"), SFlag::S_IFCHR, 0);
    fs::create_dir(upper.join("var")).unwrap();
    set_xattr(&upper.join("var"), "trusted.overlay.opaque", b"y");
    let long = "l".repeat(180);
    symlink(&long, upper.join(&long)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(upper.join("socket")).unwrap();
    commit(&store, None, Some(&upper), "demo");

    let blobs = scratch.path().join("blobs/sha256");
    let layer = fs::read_dir(blobs).unwrap().map(|entry| entry.unwrap().path());
    let mut layer = layer.filter(|path| fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]));
    let tar = Command::new("tar")
        .args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-tvvzf"])
        .arg(layer.next().unwrap())
        .output()
        .unwrap();
    assert!(tar.status.success(), "{}", String::from_utf8_lossy(&tar.stderr));
    let listed = String::from_utf8(tar.stdout).unwrap();
    // Mode and name, without times and the attributes' own lines.
    let entries: Vec<(String, String)> = listed
        .lines()
        .filter(|line| !line.starts_with(' '))
        .map(|line| {
            let mut words = line.split_whitespace();
            let mode = words.next().unwrap().to_owned();
            (mode, words.skip(4).collect::<Vec<_>>().join(" "))
        })
        .collect();
    let expected = [
        ("lrwxrwxrwx", format!("{long} -> {long}")),
        ("-rw-r--r--*", "ping".into()),
        ("drwxr-xr-x", "usr/".into()),
        ("drwxr-xr-x", "usr/bin/".into()),
        ("-rwsr-xr-x", "usr/bin/tool".into()),
        ("hrwsr-xr-x", "usr/bin/z link to usr/bin/tool".into()),
        ("-rw-------", "usr/.wh.gone".into()),
        ("drwxr-xr-x", "var/".into()),
        ("-rw-------", "var/.wh..wh..opq".into()),
    ];
    assert_eq!(entries, expected.map(|(mode, name)| (mode.to_owned(), name)), "{listed}");
    assert!(listed.contains("security.capability"), "{listed}");
}

#[test]
fn what_no_image_can_hold_is_refused_and_nothing_stays() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let upper = upper(&scratch);
    type Row = (&'static str, fn(&Path), &'static str);
    let rows: [Row; 4] = [
        ("null", |at| mknod(at, SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3)), "device node"),
        (".wh.name", |at| fs::write(at, b"").unwrap(), "whiteouts"),
        (
            "moved",
            |at| {
                fs::create_dir(at).unwrap();
                set_xattr(at, "trusted.overlay.redirect", b"/old");
            },
            "redirects",
        ),
        (
            "partial",
            |at| {
                fs::write(at, b"").unwrap();
                set_xattr(at, "trusted.overlay.metacopy", b"");
            },
            "left below",
        ),
    ];
    for (name, make, expected) in rows {
        let at = upper.join(name);
        make(&at);
        let error = refused(&scratch, &store, &upper);
        assert!(matches!(&error, Error::Refused { entry, .. } if entry.contains(name)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        if at.is_dir() { fs::remove_dir(&at).unwrap() } else { fs::remove_file(&at).unwrap() }
    }
    // Below dev the runtime mounts its own.
    fs::create_dir(upper.join("dev")).unwrap();
    mknod(&upper.join("dev/null"), SFlag::S_IFCHR, nix::sys::stat::makedev(1, 3));
    commit(&store, None, Some(&upper), "demo");
    let root = store.resolve("demo").unwrap().layers.remove(0);
    assert_eq!(fs::read_dir(root.join("dev")).unwrap().count(), 0);
}

#[test]
fn a_mapped_containers_files_get_their_owners_back() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let upper = upper(&scratch);
    let mapping = OwnerMapping { host_base: 100_000, size: 65_536 };
    fs::write(upper.join("own"), b"").unwrap();
    std::os::unix::fs::chown(&upper, Some(100_000), Some(100_000)).unwrap();
    std::os::unix::fs::chown(upper.join("own"), Some(101_000), Some(100_000)).unwrap();
    let make = |names: &[String]| {
        let changes = Some(Changes { upper: &upper, owners: Some(mapping) });
        store.commit(Commit {
            parent: None,
            changes,
            config: config(),
            history: history("x"),
            names,
        })
    };
    make(&["demo".into()]).unwrap();
    let root = store.resolve("demo").unwrap().layers.remove(0);
    let own = fs::metadata(root.join("own")).unwrap();
    assert_eq!((own.uid(), own.gid()), (1000, 0));
    assert_eq!(fs::metadata(root).unwrap().uid(), 0);
    std::os::unix::fs::chown(upper.join("own"), Some(5), Some(5)).unwrap();
    let error = make(&[]).unwrap_err();
    assert!(error.to_string().contains("owner 5"), "{error}");
}

#[test]
fn a_configuration_that_is_none_and_a_parent_that_is_not_there_are_refused() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let before = scratch.listing();
    let make = |parent, config| {
        store.commit(Commit { parent, changes: None, config, history: history("x"), names: &[] })
    };
    assert!(matches!(make(Some("nobody"), config()), Err(Error::NotFound { .. })));
    assert!(matches!(make(None, json!([])), Err(Error::Document { .. })));
    assert!(matches!(make(None, json!({"os": 5})), Err(Error::Json { .. })));
    let mut windows = config();
    windows["os"] = json!("windows");
    assert!(matches!(make(None, windows), Err(Error::Document { .. })));
    assert_eq!(scratch.listing(), before);
}

#[test]
fn steps_that_made_no_image_stand_in_the_history_before_the_one_that_did() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    commit(&store, None, None, "base");
    let earlier = [history("ENV"), history("LABEL")];
    let step = Commit {
        parent: Some("base"),
        changes: None,
        config: config(),
        history: history("RUN"),
        names: &["next".to_owned()],
    };
    store.commit_after(&earlier, step).unwrap();
    let document = store.resolve("next").unwrap().document;
    let steps = document["history"].as_array().unwrap();
    let by: Vec<&str> = steps.iter().map(|step| step["created_by"].as_str().unwrap()).collect();
    assert_eq!(by, ["step", "ENV", "LABEL", "RUN"]);
    assert!(steps.iter().all(|step| step["empty_layer"] == true));
}
