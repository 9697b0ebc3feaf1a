//! Names, sharing, removal, concurrency and crashes.

use std::fs;
use std::path::Path;

use tenantry_image::{Digest, Error, ErrorKind, ImportOptions, Removal, Store, User};

use crate::archives::*;

fn layer(name: &str) -> Vec<u8> {
    Layer::new().file(name, name.as_bytes()).tar()
}

fn load(store: &Store, name: &str, layers: &[Vec<u8>]) -> Digest {
    let image = Image::new(layers);
    store.load(&*Archive::oci(&[&image], vec![image.named(name)]).tar()).unwrap();
    image.id()
}

fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

const UNUSED: &dyn Fn(&Digest) -> Option<User> = &|_| None;

#[test]
fn images_share_layers_on_disk_and_removal_keeps_what_another_needs() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id_a = load(&store, "a", &[layer("base"), layer("a")]);
    let inode = |name| {
        use std::os::unix::fs::MetadataExt;
        let base = store.resolve(name).unwrap().layers.pop().unwrap();
        fs::metadata(base.join("base")).unwrap().ino()
    };
    let before = inode("a");
    load(&store, "b", &[layer("base"), layer("b")]);
    assert_eq!((inode("a"), inode("b")), (before, before));
    assert_eq!(count(&scratch.path().join("layers")), 3);
    // Two manifests, two configurations, three layers.
    assert_eq!(count(&scratch.path().join("blobs/sha256")), 7);

    let removed = store.remove("a", Removal::default(), UNUSED).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["a:latest".to_owned()], vec![id_a]));
    assert_eq!(count(&scratch.path().join("layers")), 2);
    assert_eq!(count(&scratch.path().join("blobs/sha256")), 4);
    assert!(store.resolve("b").is_ok());
    assert_eq!(store.resolve("a").unwrap_err().kind(), ErrorKind::NotFound);
    store.remove("b", Removal::default(), UNUSED).unwrap();
    for part in ["layers", "blobs/sha256", "tmp"] {
        assert_eq!(count(&scratch.path().join(part)), 0, "{part}");
    }
}

#[test]
fn the_same_layer_compressed_otherwise_is_unpacked_once() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let plain = Image::new(&[layer("x")]);
    let gzipped = Image::new(&[layer("x")]).compressed(TAR_GZIP, gzip);
    for (image, name) in [(&plain, "plain"), (&gzipped, "gzipped")] {
        store.load(&*Archive::oci(&[image], vec![image.named(name)]).tar()).unwrap();
    }
    assert_eq!(count(&scratch.path().join("layers")), 1);
    // One configuration, two manifests: one id.
    let (a, b) = (store.resolve("plain").unwrap(), store.resolve("gzipped").unwrap());
    assert_eq!((a.id, &a.layers), (b.id, &b.layers));
    assert_ne!(a.manifest_digest, b.manifest_digest);
    assert_eq!(store.resolve(&a.id.to_string()).unwrap().id, a.id);
}

/// A plain layer's blob and its unpacked directory have the same digest; having one
/// does not mean having the other.
#[test]
fn a_layer_that_is_there_unpacked_may_still_lack_its_plain_blob() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let gzipped = Image::new(&[layer("x")]).compressed(TAR_GZIP, gzip);
    store.load(&*Archive::oci(&[&gzipped], vec![gzipped.named("one")]).tar()).unwrap();
    let plain = Image::new(&[layer("x")]);
    let manifests = vec![gzipped.named("two"), plain.named("three")];
    store.load(&*Archive::oci(&[&gzipped, &plain], manifests).tar()).unwrap();
    assert_eq!(store.list().unwrap().len(), 2);
    assert!(scratch.path().join("blobs/sha256").join(Digest::of(&layer("x")).hex()).exists());
}

#[test]
fn names_move_and_leave_an_unnamed_image() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let old = load(&store, "demo", &[layer("old")]);
    assert_eq!(store.tag("demo", "other:1").unwrap(), "other:1");
    let new = load(&store, "demo", &[layer("new")]);
    assert_eq!(store.resolve("demo").unwrap().id, new);
    assert_eq!(store.resolve("other:1").unwrap().id, old);
    let users =
        |id: &Digest| (*id == old).then(|| User::Container { id: "c0ffee".into(), running: true });
    let force = Removal { force: true, ..Removal::default() };
    let removed = store.remove("other:1", force, &users).unwrap();
    assert_eq!(removed.deleted, [], "in use: it stays, without a name");
    assert_eq!(store.resolve(&old.hex()).unwrap().names, [""; 0]);

    let error = store.remove(&old.short(), force, &users).unwrap_err();
    assert!(matches!(&error, Error::InUse { image, .. } if *image == old.short()));
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(store.remove(&old.short(), Removal::default(), UNUSED).unwrap().deleted, [old]);
    assert_eq!(count(&scratch.path().join("layers")), 1);
    drop(store);
    assert_eq!(scratch.open().list().unwrap().len(), 1);
}

#[test]
fn by_name_one_name_goes_and_by_id_all_go() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id = load(&store, "demo", &[layer("x")]);
    store.tag("demo", "quay.io/me/demo:2").unwrap();
    store.tag("demo", "third").unwrap();
    assert_eq!(
        store.list().unwrap()[0].names,
        ["demo:latest", "third:latest", "quay.io/me/demo:2"]
    );
    let removed = store.remove("docker.io/library/demo", Removal::default(), UNUSED).unwrap();
    assert_eq!((removed.untagged.len(), removed.deleted.len()), (1, 0));
    let force = Removal { force: true, ..Removal::default() };
    let removed = store.remove(&id.to_string(), force, UNUSED).unwrap();
    assert_eq!(removed.untagged, ["third:latest", "quay.io/me/demo:2"]);
    assert_eq!(removed.deleted, [id]);
}

#[test]
fn an_ambiguous_prefix_lists_the_candidates() {
    let scratch = Scratch::new();
    let store = scratch.open();
    // Enough images that two ids begin alike.
    let mut prefixes = std::collections::BTreeMap::new();
    let mut images = Vec::new();
    let clash = (0..).find_map(|n| {
        let mut image = Image::new(&[]);
        image.config["author"] = serde_json::json!(n.to_string());
        let prefix = image.id().hex()[..4].to_owned();
        images.push(image);
        prefixes.insert(prefix.clone(), n).map(|other| (prefix, other, n))
    });
    let (prefix, one, two) = clash.unwrap();
    let (one, two): (&Image, &Image) = (&images[one], &images[two]);
    let manifests = vec![one.descriptor(), two.descriptor()];
    store.load(&*Archive::oci(&[one, two], manifests).tar()).unwrap();
    let error = store.resolve(&prefix).unwrap_err();
    assert!(error.to_string().contains(&one.id().short()), "{error}");
    assert!(error.to_string().contains(&two.id().short()), "{error}");
    let longer = (5..).find(|n| one.id().hex()[..*n] != two.id().hex()[..*n]).unwrap();
    assert_eq!(store.resolve(&one.id().hex()[..longer]).unwrap().id, one.id());
    assert!(matches!(store.resolve(&prefix[..3]), Err(Error::NotFound { .. })));
}

#[test]
fn one_process_at_a_time() {
    let scratch = Scratch::new();
    let store = scratch.open();
    let error = Store::open(&scratch.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    drop(store);
    scratch.open();
}

#[test]
fn what_a_crash_left_is_cleaned_at_open_and_images_stay() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id = load(&store, "demo", &[layer("x")]);
    drop(store);
    let before = scratch.listing();
    let at = scratch.path();
    // A session that never ended, images.json half written, a layer and a blob that
    // were moved in before images.json was replaced.
    fs::create_dir_all(at.join("tmp/session-7/layer-1/fs/etc")).unwrap();
    fs::write(at.join("tmp/session-7/layer-1/fs/etc/half"), b"half").unwrap();
    fs::write(at.join("tmp/images-3"), b"{").unwrap();
    fs::create_dir_all(at.join("layers").join(Digest::of(b"1").hex()).join("fs")).unwrap();
    fs::write(at.join("blobs/sha256").join(Digest::of(b"2").hex()), b"2").unwrap();
    let store = scratch.open();
    assert_eq!(scratch.listing(), before);
    assert_eq!(store.resolve("demo").unwrap().id, id);
}

const CRASH_STORE: &str = "TENANTRY_IMAGE_TEST_STORE";

/// Not a test of its own but what the next one kills; it does nothing without the
/// variable.
#[test]
fn changes_a_store_until_killed() {
    let Some(path) = std::env::var_os(CRASH_STORE) else { return };
    let store = Store::open(Path::new(&path)).unwrap();
    for round in 0..1_000_000 {
        let name = format!("image{}", round % 5);
        load(&store, &name, &[layer("base"), layer(&name)]);
        let _ = store.remove(&format!("image{}", round % 3), Removal::default(), UNUSED);
    }
}

#[test]
fn a_killed_process_leaves_a_whole_store() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    for round in 0..12 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::changes_a_store_until_killed"])
            .env(CRASH_STORE, scratch.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(40 + 17 * round));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = scratch.open();
        let images = store.list().unwrap();
        let mut layers = std::collections::BTreeSet::new();
        for image in &images {
            let image = store.resolve(&image.manifest_digest.to_string()).unwrap();
            assert_eq!(fs::read(image.layers[1].join("base")).unwrap(), b"base");
            layers.extend(image.layers);
        }
        assert_eq!(count(&scratch.path().join("layers")), layers.len());
        // A manifest, a configuration and a plain blob for each layer.
        let blobs = images.len() * 2 + layers.len();
        assert_eq!(count(&scratch.path().join("blobs/sha256")), blobs);
        assert_eq!(count(&scratch.path().join("tmp")), 0);
    }
}

#[test]
fn a_damaged_store_says_which_file() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id = load(&store, "demo", &[layer("x")]);
    let path = scratch.path().join("blobs/sha256").join(id.hex());
    let config = fs::read(&path).unwrap();
    fs::write(&path, b"{}").unwrap();
    let error = store.resolve("demo").unwrap_err();
    assert!(error.to_string().contains(&id.hex()), "{error}");
    assert_eq!(error.kind(), ErrorKind::Internal);
    fs::write(&path, config).unwrap();
    drop(store);

    let refs = scratch.path().join("images.json");
    let saved = fs::read(&refs).unwrap();
    fs::remove_file(&refs).unwrap();
    let error = Store::open(&scratch.path()).unwrap_err();
    assert!(error.to_string().contains("images.json"), "{error}");
    fs::write(&refs, b"nonsense").unwrap();
    assert!(Store::open(&scratch.path()).unwrap_err().to_string().contains("images.json"));
    fs::write(&refs, saved).unwrap();
    assert!(scratch.open().resolve("demo").is_ok());
}

#[test]
fn loads_and_removals_at_the_same_time_leave_whole_images() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let archives: Vec<Vec<u8>> = (0..4)
        .map(|n| {
            let image = Image::new(&[layer("base"), layer("second"), layer(&format!("own{n}"))]);
            Archive::oci(&[&image], vec![image.named(&format!("image{n}"))]).tar()
        })
        .collect();
    std::thread::scope(|scope| {
        for (n, archive) in archives.iter().enumerate() {
            let store = &store;
            scope.spawn(move || {
                for round in 0..8 {
                    let name = store.load(&**archive).unwrap()[0].name.clone().unwrap();
                    let image = store.resolve(&name).unwrap();
                    assert_eq!(image.layers.len(), 3);
                    assert_eq!(fs::read(image.layers[2].join("base")).unwrap(), b"base");
                    if round < 7 || n % 2 == 0 {
                        store.remove(&name, Removal::default(), UNUSED).unwrap();
                    }
                }
            });
        }
    });
    assert_eq!(store.list().unwrap().len(), 2);
    assert_eq!(count(&scratch.path().join("layers")), 4);
    assert_eq!(count(&scratch.path().join("tmp")), 0);
    for image in store.list().unwrap() {
        store.remove(&image.id.to_string(), Removal::default(), UNUSED).unwrap();
    }
    assert_eq!(count(&scratch.path().join("layers")), 0);
    assert_eq!(count(&scratch.path().join("blobs/sha256")), 0);
}

#[test]
fn a_reader_that_fails_midway_leaves_nothing() {
    struct Failing<'a>(&'a [u8]);
    impl std::io::Read for Failing<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(std::io::Error::other("the connection broke")),
                n => Ok(n),
            }
        }
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let before = scratch.listing();
    let archive = demo(&[layer("x")]);
    let error = store.load(Failing(&archive[..2000])).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
    let tar = layer("x");
    let error = store.import("x", Failing(&tar[..600]), ImportOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error:?}");
    assert_eq!(scratch.listing(), before);
}
