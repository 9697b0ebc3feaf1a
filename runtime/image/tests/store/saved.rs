//! What `save` writes, and the history that goes with it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::process::Command;

use serde_json::{Value, json};
use tenantry_image::{Digest, Error, Removal, Store};

use crate::archives::*;

fn save(store: &Store, names: &[&str]) -> Vec<u8> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut archive = Vec::new();
    store.save(&names).unwrap().write(&mut archive).unwrap();
    archive
}

/// Read by the tar crate, not by ours.
fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        (entry.path().unwrap().to_str().unwrap().to_owned(), content)
    });
    entries.collect()
}

fn store_with_two(scratch: &Scratch) -> Store {
    let store = scratch.open();
    let base = || Layer::new().file("base", b"base").tar();
    let one = Image::new(&[base(), Layer::new().file("one", b"1").tar()]);
    let two = Image::new(&[base()]).compressed(TAR_GZIP, gzip);
    let manifests = vec![one.named("quay.io/me/app:1"), two.named("app:2")];
    store.load(&*Archive::oci(&[&one, &two], manifests).tar()).unwrap();
    store.tag("app:2", "app:again").unwrap();
    store
}

#[test]
fn what_is_saved_holds_each_blob_once_under_its_digest() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = store_with_two(&scratch);
    let archive = save(&store, &["quay.io/me/app:1", "app:2"]);
    assert_eq!(archive, save(&store, &["quay.io/me/app:1", "app:2"]), "the same each time");
    let members = members(&archive);
    let blobs: Vec<_> = members
        .iter()
        .filter_map(|(path, of)| Some((path.strip_prefix("blobs/sha256/")?, of)))
        .collect();
    // Two manifests, two configurations, a plain and a gzipped base, one more layer.
    assert_eq!(blobs.len(), 7);
    for (hex, content) in blobs {
        assert_eq!(Digest::of(content).hex(), hex);
    }
    let json = |path: &str| serde_json::from_slice::<Value>(&members[path]).unwrap();
    assert_eq!(json("oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
    let names: Vec<Value> = json("index.json")["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|manifest| manifest["annotations"]["io.containerd.image.name"].clone())
        .collect();
    assert_eq!(names, ["quay.io/me/app:1", "docker.io/library/app:2"]);
    let docker = json("manifest.json");
    assert_eq!(docker[1]["RepoTags"], json!(["app:2"]));
    for image in docker.as_array().unwrap() {
        let paths = image["Layers"].as_array().unwrap().iter().chain([&image["Config"]]);
        assert!(paths.map(|path| path.as_str().unwrap()).all(|path| members.contains_key(path)));
    }
}

#[test]
fn what_is_saved_loads_into_another_store_with_the_same_ids_and_names() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = store_with_two(&scratch);
    // A name without a tag means all tags of that repository; an id keeps no name.
    let id = store.resolve("quay.io/me/app:1").unwrap().id;
    let archive = save(&store, &["app", &id.short()]);
    let other = Scratch::new();
    let other = other.open();
    other.load(&*archive).unwrap();
    let seen = |store: &Store| {
        let images = store.list().unwrap().into_iter();
        images.map(|image| (image.id, image.manifest_digest, image.names)).collect::<Vec<_>>()
    };
    let mut expected = seen(&store);
    for (_, _, names) in &mut expected {
        names.retain(|name| name.starts_with("app"));
    }
    let (mut found, by_id) = (seen(&other), |image: &(Digest, Digest, Vec<String>)| image.0);
    found.sort_by_key(by_id);
    expected.sort_by_key(by_id);
    assert_eq!(found, expected);
    assert_eq!(found.iter().map(|image| image.2.len()).sum::<usize>(), 2);
}

#[test]
fn what_is_being_saved_outlives_its_removal() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = store_with_two(&scratch);
    let names = ["quay.io/me/app:1".to_owned()];
    let save = store.save(&names).unwrap();
    let removed = store.remove(&names[0], Removal::default(), &|_| None).unwrap();
    assert_eq!(removed.deleted.len(), 1);
    let mut archive = Vec::new();
    save.write(&mut archive).unwrap();
    drop(save);
    assert_eq!(members(&archive).len(), 7);
    assert_eq!(fs::read_dir(scratch.path().join("layers")).unwrap().count(), 1);
    assert!(matches!(store.save(&names), Err(Error::NotFound { .. })));
    assert_eq!(fs::read_dir(scratch.path().join("tmp")).unwrap().count(), 0);
}

#[test]
fn skopeo_reads_what_is_saved_as_either_kind() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = store_with_two(&scratch);
    let tar = scratch.dir.path().join("saved.tar");
    fs::write(&tar, save(&store, &["app:2"])).unwrap();
    for from in
        [format!("docker-archive:{}", tar.display()), format!("oci-archive:{}", tar.display())]
    {
        let Ok(output) = Command::new("skopeo").args(["inspect", "--config", &from]).output()
        else {
            println!("SKIPPED: skopeo cannot be run");
            return;
        };
        assert!(output.status.success(), "{from}: {}", String::from_utf8_lossy(&output.stderr));
        let config: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn history_tells_steps_with_their_sizes_and_images() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = |name: &str| Layer::new().file(name, name.as_bytes()).tar();
    let mut image = Image::new(&[layer("base"), layer("more!")]);
    image.config["history"] = json!([
        {"created": "2024-01-01T00:00:00Z", "created_by": "ADD base"},
        {"created_by": "ENV a=b", "empty_layer": true, "comment": "said"},
        {"created_by": "RUN more"},
    ]);
    store.load(&*Archive::oci(&[&image], vec![image.named("demo")]).tar()).unwrap();
    let history = store.history("demo").unwrap();
    let told: Vec<_> =
        history.iter().map(|step| (step.created_by.as_str(), step.size_bytes)).collect();
    assert_eq!(told, [("RUN more", 5), ("ENV a=b", 0), ("ADD base", 4)]);
    assert_eq!((history[0].id, history[1].id), (Some(image.id()), None));
    assert_eq!(
        (history[0].names.as_slice(), history[1].comment.as_str()),
        (&["demo:latest".to_owned()][..], "said")
    );
    assert_eq!(history[2].created.as_deref(), Some("2024-01-01T00:00:00Z"));
}
