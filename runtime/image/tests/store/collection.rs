//! Nothing in use is ever collected, whatever is removed at the same time; and a full
//! disk leaves nothing half made.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MsFlags, mount};
use nix::sched::CloneFlags;
use serde_json::json;
use tenantry_image::{
    Changes, Commit, Digest, ErrorKind, ImportOptions, Removal, Store, User, spec,
};

use crate::archives::*;

const ROUNDS: u64 = 40;
const NAMES: [&str; 3] = ["one", "two", "three"];

/// Containers by image, as the agent's engine knows them.
#[derive(Default)]
struct Containers(Mutex<BTreeMap<Digest, usize>>);

impl Containers {
    fn user(&self, id: &Digest) -> Option<User> {
        let running = self.0.lock().unwrap().get(id).copied().unwrap_or(0) > 0;
        running.then(|| User::Container { id: "c0ffee".into(), running })
    }

    fn add(&self, id: Digest, count: isize) {
        let mut containers = self.0.lock().unwrap();
        let entry = containers.entry(id).or_default();
        *entry = entry.checked_add_signed(count).unwrap();
    }
}

fn layer(name: &str) -> Vec<u8> {
    Layer::new().file(name, name.as_bytes()).tar()
}

fn commit(store: &Store, parent: &str, upper: &Path, names: &[String]) -> Option<Digest> {
    let config = json!({"architecture": arch(), "os": "linux"});
    let history = spec::HistoryBuilder::default().build().unwrap();
    let changes = Some(Changes { upper, owners: None });
    let made = store.commit(Commit { parent: Some(parent), changes, config, history, names });
    match made {
        Ok(made) => Some(made.id),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => panic!("{error}"),
    }
}

/// Begins to use an image as the engine does, looks at it for a while, and ends.
fn run(store: &Store, containers: &Containers, name: &str) {
    let Ok(held) = store.hold(name) else { return };
    let image = held.image().unwrap();
    containers.add(image.id, 1);
    drop(held);
    for _ in 0..20 {
        for layer in &image.layers {
            assert!(fs::read_dir(layer).unwrap().count() > 0, "{}", layer.display());
        }
        std::thread::yield_now();
    }
    containers.add(image.id, -1);
}

#[test]
fn what_is_used_stays_while_all_else_is_loaded_tagged_committed_saved_and_removed() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = &scratch.open();
    let containers = &Containers::default();
    let over = &AtomicBool::new(false);
    let archive = |n: usize| {
        let image = Image::new(&[layer("base"), layer(NAMES[n])]);
        Archive::oci(&[&image], vec![image.named(NAMES[n])]).tar()
    };
    let users = |id: &Digest| containers.user(id);
    let upper = scratch.dir.path().join("upper");
    fs::create_dir(&upper).unwrap();
    fs::write(upper.join("change"), b"change").unwrap();
    let upper = &upper;
    let name = |round: u64| NAMES[(round % 3) as usize];

    std::thread::scope(|scope| {
        let again = |work: Box<dyn Fn(u64) + Send>| {
            scope.spawn(move || {
                let mut round = 0;
                while !over.load(Ordering::Relaxed) {
                    work(round);
                    round += 1;
                }
            })
        };
        let users = &users;
        again(Box::new(move |round| run(store, containers, name(round))));
        again(Box::new(move |round| run(store, containers, name(round / 2))));
        again(Box::new(move |round| {
            let _ = store.tag(name(round), "extra");
            let how = Removal { force: round % 2 == 0, keep_parents: round % 3 == 0 };
            let _ = store.remove(name(round / 3), how, users);
        }));
        again(Box::new(move |round| {
            let removed = store.prune(round % 4 == 0, &|_| true, users);
            removed.unwrap();
        }));
        again(Box::new(move |round| {
            let Ok(save) = store.save(&[name(round).to_owned()]) else { return };
            save.write(std::io::sink()).unwrap();
        }));
        let loads = scope.spawn(move || {
            for round in 0..ROUNDS {
                store.load(&*archive((round % 3) as usize)).unwrap();
            }
        });
        let commits = scope.spawn(move || {
            for round in 0..ROUNDS {
                commit(store, name(round), upper, &["made".to_owned()]);
            }
        });
        let ended = (loads.join(), commits.join());
        over.store(true, Ordering::Relaxed);
        ended.0.and(ended.1).unwrap();
    });

    let before = scratch.listing();
    let images = store.list().unwrap();
    for image in &images {
        let image = store.resolve(&image.manifest_digest.to_string()).unwrap();
        assert!(image.layers.iter().all(|layer| fs::read_dir(layer).unwrap().count() > 0));
    }
    store.prune(true, &|_| true, &|_| None).unwrap();
    assert_eq!(store.list().unwrap(), []);
    for part in ["layers", "blobs/sha256", "tmp"] {
        let left = fs::read_dir(scratch.path().join(part)).unwrap().count();
        assert_eq!(left, 0, "{part} of {before:?}");
    }
}

/// Runs with a file system of so many bytes that only this thread sees.
fn on_small_disk(bytes: u64, test: fn(&Path)) {
    let run = move || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let at = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        let flags = MsFlags::empty();
        mount(Some("tmpfs"), at.path(), Some("tmpfs"), flags, Some(options.as_str())).unwrap();
        test(at.path());
        nix::mount::umount2(at.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    };
    std::thread::spawn(run).join().unwrap();
}

#[test]
fn a_full_disk_is_said_and_nothing_half_made_is_left() {
    if skipped() {
        return;
    }
    on_small_disk(8 << 20, |disk| {
        let store = Store::open(&disk.join("store")).unwrap();
        store.load(&*demo(&[layer("small")])).unwrap();
        let listing = || {
            let mut found = Vec::new();
            let mut ahead = vec![disk.join("store")];
            while let Some(dir) = ahead.pop() {
                for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
                    found.push(entry.path());
                    if entry.file_type().unwrap().is_dir() {
                        ahead.push(entry.path());
                    }
                }
            }
            found.sort();
            found
        };
        let before = (listing(), store.list().unwrap());
        let noise: Vec<u8> =
            (0..3u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        // The archive, its blob and its files are three times the content.
        let big = Layer::new().file("big", &noise).tar();
        let upper = tempfile::tempdir_in("/var/tmp").unwrap();
        fs::write(upper.path().join("big"), &noise).unwrap();
        fs::write(upper.path().join("more"), &noise).unwrap();
        fs::write(upper.path().join("most"), &noise).unwrap();
        let changes = Some(Changes { upper: upper.path(), owners: None });
        let config = json!({"architecture": arch(), "os": "linux"});
        let history = spec::HistoryBuilder::default().build().unwrap();
        let commit = Commit { parent: Some("demo"), changes, config, history, names: &[] };
        let two = Layer::new().file("a", &noise).file("b", &noise).tar();
        let attempts = [
            ("load", store.load(&*demo(&[big, two.clone()])).err()),
            ("import", store.import("demo", &*two, ImportOptions::default()).err()),
            ("commit", store.commit(commit).err()),
        ];
        for (verb, error) in attempts {
            let error = error.unwrap_or_else(|| panic!("{verb} had room"));
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains("No space left"), "{verb}: {error}: {source}");
            assert_eq!(error.kind(), ErrorKind::Internal, "{verb}");
            assert_eq!((listing(), store.list().unwrap()), before, "{verb}");
        }
        // Something can be removed from a disk on which there is no room for a byte, and again
        // when that has made some.
        store.import("next", &*layer("next"), ImportOptions::default()).unwrap();
        let mut filler = fs::File::create(disk.join("filler")).unwrap();
        while std::io::Write::write_all(&mut filler, &[7; 4096]).is_ok() {}
        assert!(store.tag("demo", "more").is_err(), "what adds finds no room");
        for name in ["next", "demo"] {
            store.remove(name, Removal::default(), &|_| None).unwrap();
        }
        assert_eq!(store.list().unwrap(), []);
        drop(filler);
        fs::remove_file(disk.join("filler")).unwrap();
        store.load(&*demo(&[layer("small")])).unwrap();
        store.import("next", &*layer("next"), ImportOptions::default()).unwrap();
        drop(store);
        assert_eq!(Store::open(&disk.join("store")).unwrap().list().unwrap().len(), 2);
    });
}
