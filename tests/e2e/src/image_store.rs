//! An image store as it lies on disk, looked at without the product: what is wrong with it.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Everything that a sound store has not; empty is sound. `sha256sum` is the witness of
/// each blob.
pub fn faults(store: &Path) -> Vec<String> {
    let mut faults = Vec::new();
    let names = |part: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(store.join(part)).expect("a part of the store");
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    let blobs = names("blobs/sha256");
    if !blobs.is_empty() {
        let output = Command::new("sha256sum")
            .args(&blobs)
            .current_dir(store.join("blobs/sha256"))
            .output()
            .expect("sha256sum runs");
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let (digest, name) = line.split_once("  ").expect("digest and name");
            if digest != name {
                faults.push(format!("blob {name} has the digest {digest}"));
            }
        }
    }
    let text = std::fs::read(store.join("images.json")).expect("images.json");
    let refs: Value = serde_json::from_slice(&text).expect("images.json is JSON");
    let hex = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.strip_prefix("sha256:").unwrap_or_default().to_owned()
    };
    let (mut wanted_blobs, mut wanted_layers) = (BTreeSet::new(), BTreeSet::new());
    for (manifest, image) in refs["images"].as_object().into_iter().flatten() {
        wanted_blobs.insert(manifest.trim_start_matches("sha256:").to_owned());
        wanted_blobs.insert(hex(&image["id"]));
        for layer in image["layers"].as_array().into_iter().flatten() {
            wanted_blobs.insert(hex(&layer["blob"]));
            wanted_layers.insert(hex(&layer["diff_id"]));
        }
    }
    for name in refs["names"].as_object().into_iter().flatten() {
        if refs["images"].get(name.1.as_str().unwrap_or_default()).is_none() {
            faults.push(format!("{} names no image", name.0));
        }
    }
    let layers = names("layers");
    for (kind, wanted, found) in
        [("blob", &wanted_blobs, &blobs), ("layer", &wanted_layers, &layers)]
    {
        faults.extend(wanted.difference(found).map(|name| format!("{kind} {name} is missing")));
        faults.extend(found.difference(wanted).map(|name| format!("{kind} {name} is nobody's")));
    }
    for layer in &layers {
        let dir = store.join("layers").join(layer);
        let record = std::fs::read(dir.join("layer.json")).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        if hex(&record["diff_id"]) != *layer || !dir.join("fs").is_dir() {
            faults.push(format!("layer {layer} is not whole"));
        }
    }
    faults.extend(names("tmp").iter().map(|name| format!("tmp/{name} was left")));
    faults
}
