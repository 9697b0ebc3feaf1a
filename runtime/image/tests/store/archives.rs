//! Builds layers, images and the archives that hold them.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};
use tenantry_image::{Digest, Store};

/// Says why and returns true where the test cannot run.
pub fn skipped() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIPPED: unpacking layers needs root");
    }
    !root
}

pub struct Scratch {
    pub dir: tempfile::TempDir,
}

impl Scratch {
    pub fn new() -> Scratch {
        Scratch { dir: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    pub fn open(&self) -> Store {
        Store::open(&self.path()).unwrap()
    }

    /// Every path in the store: what a failure must not change.
    pub fn listing(&self) -> Vec<String> {
        let mut found = Vec::new();
        walk(&self.path(), "", &mut found);
        found.sort();
        found
    }
}

fn walk(dir: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type().unwrap().is_dir() {
            walk(&entry.path(), &format!("{path}/"), found);
        }
        found.push(path);
    }
}

/// A layer's tar.
pub struct Layer {
    builder: Builder<Vec<u8>>,
}

impl Layer {
    pub fn new() -> Layer {
        Layer { builder: Builder::new(Vec::new()) }
    }

    /// A header with any path, however wrong.
    pub fn header(kind: EntryType, path: &str, mode: u32, size: u64) -> Header {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_000_000);
        header.set_size(size);
        header
    }

    pub fn raw(mut self, mut header: Header, content: &[u8]) -> Layer {
        header.set_cksum();
        self.builder.append(&header, content).unwrap();
        self
    }

    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Layer {
        self.builder.append_pax_extensions(records.iter().copied()).unwrap();
        self
    }

    pub fn dir(self, path: &str, mode: u32) -> Layer {
        self.raw(Layer::header(EntryType::Directory, path, mode, 0), b"")
    }

    pub fn file(self, path: &str, content: &[u8]) -> Layer {
        self.raw(Layer::header(EntryType::Regular, path, 0o644, content.len() as u64), content)
    }

    pub fn link(self, kind: EntryType, path: &str, target: &str) -> Layer {
        let mut header = Layer::header(kind, path, 0o777, 0);
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        self.raw(header, b"")
    }

    pub fn symlink(self, path: &str, target: &str) -> Layer {
        self.link(EntryType::Symlink, path, target)
    }

    pub fn hard_link(self, path: &str, target: &str) -> Layer {
        self.link(EntryType::Link, path, target)
    }

    pub fn device(self, path: &str, kind: EntryType, major: u32, minor: u32) -> Layer {
        let mut header = Layer::header(kind, path, 0o600, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.raw(header, b"")
    }

    pub fn tar(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

pub fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub fn zstd(content: &[u8]) -> Vec<u8> {
    ::zstd::encode_all(content, 1).unwrap()
}

/// An image's blobs and documents, each of which a test may falsify.
pub struct Image {
    pub config: Value,
    /// As stored in the archive: compressed or not.
    pub layers: Vec<(&'static str, Vec<u8>)>,
}

pub const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

pub fn arch() -> String {
    tenantry_image::spec::Arch::default().to_string()
}

impl Image {
    /// Plain layers, the lowest first.
    pub fn new(layers: &[Vec<u8>]) -> Image {
        let diff_ids: Vec<String> = layers.iter().map(|tar| Digest::of(tar).to_string()).collect();
        let config = json!({
            "architecture": arch(), "os": "linux", "created": "2024-01-02T03:04:05Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Entrypoint": null},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        Image { config, layers: layers.iter().map(|tar| (TAR, tar.clone())).collect() }
    }

    pub fn compressed(mut self, media_type: &'static str, with: fn(&[u8]) -> Vec<u8>) -> Image {
        for layer in &mut self.layers {
            *layer = (media_type, with(&layer.1));
        }
        self
    }

    pub fn config_bytes(&self) -> Vec<u8> {
        self.config.to_string().into_bytes()
    }

    pub fn id(&self) -> Digest {
        Digest::of(&self.config_bytes())
    }

    pub fn manifest_bytes(&self) -> Vec<u8> {
        let layers: Vec<Value> =
            self.layers.iter().map(|(kind, blob)| descriptor(kind, blob)).collect();
        let config = descriptor("application/vnd.oci.image.config.v1+json", &self.config_bytes());
        json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        })
        .to_string()
        .into_bytes()
    }

    pub fn descriptor(&self) -> Value {
        descriptor("application/vnd.oci.image.manifest.v1+json", &self.manifest_bytes())
    }

    pub fn named(&self, name: &str) -> Value {
        let mut descriptor = self.descriptor();
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        descriptor
    }
}

pub fn descriptor(media_type: &str, content: &[u8]) -> Value {
    json!({"mediaType": media_type, "digest": Digest::of(content).to_string(), "size": content.len()})
}

/// Members by path, in order of path: documents come after the blobs they refer to
/// or before, as it happens.
#[derive(Default)]
pub struct Archive {
    pub members: BTreeMap<String, Vec<u8>>,
}

impl Archive {
    /// An OCI layout of these images and this index.
    pub fn oci(images: &[&Image], manifests: Vec<Value>) -> Archive {
        let mut archive = Archive::default();
        for image in images {
            archive.blob(image.config_bytes());
            archive.blob(image.manifest_bytes());
            for (_, blob) in &image.layers {
                archive.blob(blob.clone());
            }
        }
        archive.put("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
        archive.index(manifests);
        archive
    }

    pub fn index(&mut self, manifests: Vec<Value>) {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.put("index.json", index.to_string().into_bytes());
    }

    /// `docker save` until Docker 24.
    pub fn docker(image: &Image, tags: &[&str]) -> Archive {
        let mut archive = Archive::default();
        let config = format!("{}.json", image.id().hex());
        archive.put(&config, image.config_bytes());
        let mut layers = Vec::new();
        for (number, (_, blob)) in image.layers.iter().enumerate() {
            let path = format!("{number:064x}/layer.tar");
            archive.put(&path, blob.clone());
            archive.put(&format!("{number:064x}/VERSION"), b"1.0".to_vec());
            layers.push(path);
        }
        let manifest = json!([{"Config": config, "RepoTags": tags, "Layers": layers}]);
        archive.put("manifest.json", manifest.to_string().into_bytes());
        archive
    }

    pub fn put(&mut self, path: &str, content: Vec<u8>) {
        self.members.insert(path.to_owned(), content);
    }

    pub fn blob(&mut self, content: Vec<u8>) -> Digest {
        let digest = Digest::of(&content);
        self.put(&format!("blobs/sha256/{}", digest.hex()), content);
        digest
    }

    pub fn tar(&self) -> Vec<u8> {
        let layer = self
            .members
            .iter()
            .fold(Layer::new(), |layer, (path, content)| layer.file(path, content));
        layer.tar()
    }

    pub fn write(&self, dir: &Path) {
        for (path, content) in &self.members {
            let path = dir.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
    }
}

/// One image of these plain layers, named `demo`, as an OCI archive.
pub fn demo(layers: &[Vec<u8>]) -> Vec<u8> {
    let image = Image::new(layers);
    Archive::oci(&[&image], vec![image.named("demo")]).tar()
}
