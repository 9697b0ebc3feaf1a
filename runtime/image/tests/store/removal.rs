//! What `rmi` and `prune` take, what they leave, and in which words.

use std::fs;
use std::path::Path;

use serde_json::json;
use tenantry_image::{Commit, Digest, ErrorKind, Removal, Store, User, spec};

use crate::archives::*;

const UNUSED: &dyn Fn(&Digest) -> Option<User> = &|_| None;
const FORCE: Removal = Removal { force: true, keep_parents: false };

fn user(running: bool) -> Option<User> {
    Some(User::Container { id: "c0ffee".into(), running })
}

fn count(path: &Path) -> usize {
    fs::read_dir(path).unwrap().count()
}

fn load(store: &Store, name: &str) -> Digest {
    let image = Image::new(&[Layer::new().file(name, name.as_bytes()).tar()]);
    store.load(&*Archive::oci(&[&image], vec![image.named(name)]).tar()).unwrap()[0].id
}

/// An image of `parent` with another author.
fn child(store: &Store, parent: &Digest, author: &str, names: &[String]) -> Digest {
    let config = json!({"architecture": arch(), "os": "linux", "author": author});
    let history = spec::HistoryBuilder::default().build().unwrap();
    let parent = parent.to_string();
    let parent = Some(parent.as_str());
    store.commit(Commit { parent, changes: None, config, history, names }).unwrap().id
}

#[track_caller]
fn refuses(store: &Store, name: &str, how: Removal, running: Option<bool>, expected: &str) {
    let before = store.list().unwrap();
    let users = |_: &Digest| running.and_then(user);
    let error = store.remove(name, how, &users).unwrap_err();
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(store.list().unwrap(), before);
}

#[test]
fn a_used_image_is_kept_in_dockers_words() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id = load(&store, "demo");
    let (short, plain) = (id.short(), Removal::default());
    let name = format!(
        "conflict: unable to remove repository reference \"demo\" (must force) - container c0ffee \
         is using its referenced image {short}"
    );
    refuses(&store, "demo", plain, Some(true), &name);
    refuses(&store, "demo", plain, Some(false), &name);
    let by_id = |force, state| {
        format!(
            "conflict: unable to delete {short} ({force}) - image is being used by {state} \
             container c0ffee"
        )
    };
    refuses(&store, &short, plain, Some(true), &by_id("cannot be forced", "running"));
    refuses(&store, &short, FORCE, Some(true), &by_id("cannot be forced", "running"));
    refuses(&store, &short, plain, Some(false), &by_id("must be forced", "stopped"));
    store.tag("demo", "other").unwrap();
    let several = format!(
        "conflict: unable to delete {short} (must be forced) - image is referenced in multiple \
         repositories"
    );
    refuses(&store, &short, plain, None, &several);

    // One of two names goes though it is used; by force the last one goes too, and what a
    // stopped container needs stays.
    let removed = store.remove("other", plain, &|_| user(true)).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["other:latest".to_owned()], vec![]));
    let removed = store.remove(&short, FORCE, &|_| user(false)).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["demo:latest".to_owned()], vec![]));
    assert!(store.resolve(&short).unwrap().layers[0].join("demo").exists());
    refuses(&store, &short, FORCE, Some(false), &by_id("cannot be forced", "stopped"));
    let removed = store.remove(&short, plain, UNUSED).unwrap();
    assert_eq!((removed.deleted, removed.freed_bytes), (vec![id], 4));
    assert_eq!(count(&scratch.path().join("layers")), 0);
}

#[test]
fn a_parent_stays_for_its_child_and_goes_with_the_last() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let base = load(&store, "base");
    let middle = child(&store, &base, "middle", &[]);
    let top = child(&store, &middle, "top", &["top".to_owned()]);
    let list = store.list().unwrap();
    let of = |id| list.iter().find(|image| image.id == id).unwrap();
    assert_eq!(
        (of(base).has_children, of(middle).has_children, of(top).has_children),
        (true, true, false)
    );
    assert_eq!((of(middle).parent, of(top).shared_bytes), (Some(base), 4));
    assert_eq!(store.layers_bytes(), 4);

    let children = format!(
        "conflict: unable to delete {} (cannot be forced) - image has dependent child images",
        middle.short()
    );
    refuses(&store, &middle.short(), FORCE, None, &children);
    let removed = store.remove("base", Removal::default(), UNUSED).unwrap();
    assert_eq!((removed.untagged, removed.deleted), (vec!["base:latest".to_owned()], vec![]));
    // Not dangling: it was made into another image.
    assert_eq!(store.prune(false, &|_| true, UNUSED).unwrap().deleted, []);
    let removed = store.remove("top", Removal::default(), UNUSED).unwrap();
    assert_eq!((removed.deleted, removed.freed_bytes), (vec![top, middle, base], 4));
    assert_eq!(count(&scratch.path().join("blobs/sha256")), 0);
}

#[test]
fn parents_can_be_kept() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let base = load(&store, "base");
    child(&store, &base, "top", &["top".to_owned()]);
    store.remove("base", Removal::default(), UNUSED).unwrap();
    let keep = Removal { keep_parents: true, ..Removal::default() };
    store.remove("top", keep, UNUSED).unwrap();
    assert_eq!(store.list().unwrap().len(), 1);
    assert_eq!(store.prune(false, &|_| true, UNUSED).unwrap().deleted, [base]);
}

#[test]
fn prune_takes_what_nobody_names_or_uses() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let (kept, lost, used) = (load(&store, "kept"), load(&store, "lost"), load(&store, "used"));
    let other = load(&store, "other");
    store.tag("other", "lost").unwrap();
    store.tag("other", "used").unwrap();
    let users = |id: &Digest| if *id == used { user(false) } else { None };
    assert_eq!(store.prune(false, &|id| *id != lost, &users).unwrap().deleted, []);
    let pruned = store.prune(false, &|_| true, &users).unwrap();
    assert_eq!((pruned.deleted, pruned.freed_bytes), (vec![lost], 4));
    let mut pruned = store.prune(true, &|_| true, &users).unwrap();
    pruned.deleted.sort();
    let mut expected = vec![kept, other];
    expected.sort();
    assert_eq!((pruned.deleted, pruned.untagged.len()), (expected, 4));
    let left = store.list().unwrap();
    assert_eq!((left.len(), left[0].id), (1, used));
}

#[test]
fn what_is_held_stays_until_it_is_let_go() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let id = load(&store, "demo");
    let held = store.hold("demo").unwrap();
    let begun = format!(
        "conflict: unable to delete {} (cannot be forced) - image is being used by what has just \
         begun",
        id.short()
    );
    refuses(&store, &id.short(), FORCE, None, &begun);
    assert_eq!(store.prune(true, &|_| true, UNUSED).unwrap().deleted, []);
    let removed = store.remove("demo", Removal::default(), UNUSED).unwrap();
    assert_eq!(removed.deleted, []);
    assert_eq!(held.image().unwrap().id, id);
    drop(held);
    assert_eq!(store.prune(false, &|_| true, UNUSED).unwrap().deleted, [id]);
}
