//! Inputs out of inputs: bytes, tar headers, JSON documents, whole members.

use serde_json::{Value, json};
use tenantry_image::Digest;

use crate::archives::{Archive, Image, Layer, TAR, arch, gzip, zstd};
use crate::{Input, Kind};

/// Where a checksum stands in a tar header.
const CHECKSUM: std::ops::Range<usize> = 148..156;
const BLOCK: usize = 512;

pub struct Mutator {
    state: u64,
}

impl Mutator {
    pub fn new(seed: u64) -> Mutator {
        Mutator { state: seed | 1 }
    }

    /// splitmix64.
    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: usize) -> usize {
        (self.random() % most.max(1) as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn next(&mut self, corpus: &[Input]) -> Input {
        match self.below(4) {
            0 => {
                let mut input = corpus[self.below(corpus.len())].clone();
                self.tar(&mut input.content);
                input
            }
            1 => {
                let layers: Vec<_> =
                    corpus.iter().filter(|input| input.kind == Kind::Layer).collect();
                let mut content = layers[self.below(layers.len())].content.clone();
                self.tar(&mut content);
                let content = match self.below(6) {
                    0 => self.cut(gzip(&content)),
                    1 => self.cut(zstd(&content)),
                    _ => content,
                };
                Input { kind: Kind::Layer, content }
            }
            2 => Input { kind: Kind::Archive, content: self.documents(corpus) },
            _ => Input { kind: Kind::Layer, content: self.strange_layer() },
        }
    }

    /// Sometimes a compressed stream is damaged as well.
    fn cut(&mut self, mut content: Vec<u8>) -> Vec<u8> {
        if self.one_in(3) {
            self.bytes(&mut content);
        }
        content
    }

    fn bytes(&mut self, content: &mut Vec<u8>) {
        for _ in 0..=self.below(6) {
            if content.is_empty() {
                return;
            }
            let at = self.below(content.len());
            match self.below(5) {
                0 => content[at] ^= 1 << self.below(8),
                1 => content[at] = [0, 0xff, b'/', b'.', b'7', b'\n'][self.below(6)],
                2 => content.truncate(at),
                3 => {
                    let end = (at + self.below(BLOCK)).min(content.len());
                    let part = content[at..end].to_vec();
                    let to = self.below(content.len());
                    content.splice(to..to, part);
                }
                _ => {
                    let end = (at + self.below(64)).min(content.len());
                    content.drain(at..end);
                }
            }
        }
    }

    /// Mostly inside headers, whose checksums are then made right again.
    fn tar(&mut self, content: &mut Vec<u8>) {
        if self.one_in(4) {
            return self.bytes(content);
        }
        let is_header = |block: &&[u8]| block.get(257..262) == Some(b"ustar");
        let headers: Vec<usize> = content
            .chunks_exact(BLOCK)
            .enumerate()
            .filter(|(_, block)| is_header(block))
            .map(|(at, _)| at * BLOCK)
            .collect();
        for _ in 0..=self.below(4) {
            if headers.is_empty() {
                return;
            }
            let at = headers[self.below(headers.len())];
            let other = headers[self.below(headers.len())];
            // Name, mode, owner, size, time, type, link name.
            let fields = [0..100, 100..108, 108..116, 124..136, 136..148, 156..157, 157..257];
            let field = fields[self.below(fields.len())].clone();
            let (start, bytes) = (at + field.start, field.len());
            match self.below(4) {
                0 => {
                    let taken = content[other + field.start..other + field.end].to_vec();
                    content[start..start + bytes].copy_from_slice(&taken);
                }
                1 => {
                    let texts: [&[u8]; 8] = [
                        b"../x",
                        b"/etc/x",
                        b"a/../../x",
                        b".wh..wh..opq",
                        b".wh.a",
                        b"./",
                        b"",
                        b"7777777",
                    ];
                    let text = texts[self.below(texts.len())];
                    let n = text.len().min(bytes);
                    content[start..start + bytes].fill(0);
                    content[start..start + n].copy_from_slice(&text[..n]);
                }
                2 => content[start] = b"0123456789xgLKSD\0V"[self.below(18)],
                _ => {
                    let at = start + self.below(bytes);
                    content[at] = self.random() as u8;
                }
            }
            if !self.one_in(8) {
                fix_checksum(&mut content[at..at + BLOCK]);
            }
        }
    }

    /// An archive whose documents are mutated, with digests that fit again.
    fn documents(&mut self, corpus: &[Input]) -> Vec<u8> {
        let layers: Vec<_> = corpus.iter().filter(|input| input.kind == Kind::Layer).collect();
        let mut layer = layers[self.below(layers.len())].content.clone();
        if self.one_in(3) {
            self.tar(&mut layer);
        }
        let mut image = Image::new(&[layer.clone(), Layer::new().file("top", b"top").tar()]);
        image.config["history"] = json!([{"created_by": "a"}, {"empty_layer": true}, {}]);
        if self.one_in(2) {
            self.value(&mut image.config);
        }
        if self.one_in(2) {
            let mut archive = Archive::docker(&image, &["fuzz:1"]);
            if self.one_in(2) {
                let mut saved: Value =
                    serde_json::from_slice(&archive.members["manifest.json"]).unwrap();
                self.value(&mut saved);
                archive.put("manifest.json", self.text(&saved));
            }
            return archive.tar();
        }
        let mut manifest: Value = serde_json::from_slice(&image.manifest_bytes()).unwrap();
        if self.one_in(2) {
            self.value(&mut manifest);
        }
        let manifest = self.text(&manifest);
        let mut index = json!({"schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": Digest::of(&manifest).to_string(), "size": manifest.len(),
            "platform": {"os": "linux", "architecture": arch()},
            "annotations": {"org.opencontainers.image.ref.name": "fuzz:1"},
        }]});
        if self.one_in(3) {
            self.value(&mut index);
        }
        let mut archive = Archive::oci(&[&image], Vec::new());
        archive.blob(manifest);
        archive.put("index.json", self.text(&index));
        archive.tar()
    }

    /// The document's bytes, sometimes damaged.
    fn text(&mut self, value: &Value) -> Vec<u8> {
        let mut text = value.to_string().into_bytes();
        if self.one_in(8) {
            self.bytes(&mut text);
        }
        text
    }

    /// Changes something somewhere inside.
    fn value(&mut self, value: &mut Value) {
        let odd = |mutator: &mut Mutator| {
            let odd = [
                Value::Null,
                json!(-1),
                json!(u64::MAX),
                json!(""),
                json!("../../x"),
                json!("sha256:00"),
                json!([]),
                json!({}),
                json!(true),
                json!("x".repeat(5000)),
                json!(TAR),
                json!([null, {"a": [1]}]),
            ];
            odd[mutator.below(odd.len())].clone()
        };
        match value {
            Value::Object(fields) if !fields.is_empty() && !self.one_in(8) => {
                let key = fields.keys().nth(self.below(fields.len())).unwrap().clone();
                if self.one_in(6) {
                    fields.remove(&key);
                } else {
                    self.value(&mut fields[&key]);
                }
            }
            Value::Array(items) if !items.is_empty() && !self.one_in(8) => {
                let at = self.below(items.len());
                match self.below(4) {
                    0 => items.push(items[at].clone()),
                    1 => drop(items.remove(at)),
                    _ => self.value(&mut items[at]),
                }
            }
            other => *other = odd(self),
        }
    }

    /// Entries that are each allowed somewhere, in any order and number.
    fn strange_layer(&mut self) -> Vec<u8> {
        use tar::EntryType::{Block, Char, Fifo, Link, Symlink};
        let names = [
            "a",
            "a/b",
            "a/b/c",
            "d",
            "d/a",
            "dev/x",
            ".wh.a",
            "a/.wh..wh..opq",
            "./",
            "a/../b",
            "d/.wh.a",
        ];
        let targets = ["a", "a/b", "..", "../..", "/", "d", "", "a/b/c", "."];
        let mut layer = Layer::new();
        for _ in 0..=self.below(14) {
            let name = names[self.below(names.len())];
            let target = targets[self.below(targets.len())];
            layer = match self.below(8) {
                0 | 1 => layer.dir(&format!("{name}/"), self.random() as u32 & 0o7777),
                2 => layer.file(name, &vec![b'x'; self.below(2000)]),
                3 => layer.symlink(name, target),
                4 => layer.hard_link(name, target),
                5 => layer.link([Symlink, Link, Fifo][self.below(3)], name, target),
                6 => layer.device(
                    name,
                    [Char, Block][self.below(2)],
                    self.below(3) as u32,
                    self.below(3) as u32,
                ),
                _ => {
                    let value = [&b"x"[..], b"y\n", b""][self.below(3)];
                    let keys = [
                        "SCHILY.xattr.user.a",
                        "SCHILY.xattr.security.capability",
                        "SCHILY.xattr.trusted.overlay.opaque",
                        "path",
                        "size",
                        "uid",
                        "GNU.sparse.realsize",
                    ];
                    layer.pax(&[(keys[self.below(keys.len())], value)]).file(name, b"pax")
                }
            };
        }
        layer.tar()
    }
}

fn fix_checksum(header: &mut [u8]) {
    header[CHECKSUM].fill(b' ');
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[CHECKSUM].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
