//! Pulls from sources that the tests are themselves: what lies, what goes in a circle, and who
//! fetches what when several want the same.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Barrier, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tenantry_image::{Digest, Error, Event, LayerState, Pulled, Source, SourceError, Store};

use crate::archives::*;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// One repository: documents and blobs by digest, and what its one tag means.
#[derive(Default)]
struct Repository {
    tag: Vec<u8>,
    contents: BTreeMap<String, Vec<u8>>,
    origin: &'static str,
    /// Between two pieces of a blob.
    pause: Duration,
    /// This blob breaks off in the middle.
    breaks: Option<Digest>,
    asked: Mutex<Vec<Digest>>,
    unwanted: AtomicBool,
}

impl Repository {
    fn of(image: &Image) -> Repository {
        let mut repository = Repository { tag: image.manifest_bytes(), ..Repository::default() };
        repository.put(image.config_bytes());
        for (_, blob) in &image.layers {
            repository.put(blob.clone());
        }
        repository
    }

    fn put(&mut self, content: Vec<u8>) -> Digest {
        let digest = Digest::of(&content);
        self.contents.insert(digest.to_string(), content);
        digest
    }

    fn asked_for(&self, digest: &Digest) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == digest).count()
    }
}

impl Source for Repository {
    fn manifest(&self, reference: &str) -> Result<Vec<u8>, SourceError> {
        if reference == "latest" {
            return Ok(self.tag.clone());
        }
        self.contents.get(reference).cloned().ok_or_else(|| "not there".into())
    }

    fn blob(&self, digest: &Digest, _bytes: u64) -> Result<Box<dyn Read + Send>, SourceError> {
        self.asked.lock().unwrap().push(*digest);
        let content = self.contents.get(&digest.to_string()).cloned().ok_or("not there")?;
        let ends = match self.breaks == Some(*digest) {
            true => content.len() / 2,
            false => content.len(),
        };
        Ok(Box::new(Slow { content, at: 0, ends, pause: self.pause }))
    }

    fn origin(&self) -> &str {
        self.origin
    }

    fn is_wanted(&self) -> bool {
        !self.unwanted.load(Ordering::Relaxed)
    }
}

struct Slow {
    content: Vec<u8>,
    at: usize,
    ends: usize,
    pause: Duration,
}

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        thread::sleep(self.pause);
        if self.at == self.ends && self.ends < self.content.len() {
            return Err(io::Error::other("it broke off"));
        }
        let n = buffer.len().min(self.ends - self.at).min(4096);
        buffer[..n].copy_from_slice(&self.content[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn pull(store: &Store, source: &Repository) -> Result<Pulled, Error> {
    store.pull(&"demo".parse().unwrap(), None, source, &|_| {})
}

/// The error and what it comes from, and a store that is as it was.
#[track_caller]
fn refuse(source: &Repository, expected: &[&str]) {
    let scratch = Scratch::new();
    let store = scratch.open();
    let before = scratch.listing();
    let error = pull(&store, source).unwrap_err();
    let text = match std::error::Error::source(&error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    };
    for part in expected {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert_eq!(scratch.listing(), before, "{text}");
}

fn index(manifests: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests })
        .to_string()
        .into_bytes()
}

#[test]
fn indexes_in_a_circle_too_deep_or_too_many_end_a_pull() {
    // One that names itself can do so only by a digest that is not its own.
    let itself = Digest::of(b"itself");
    let entry = json!({ "mediaType": INDEX, "digest": itself.to_string(), "size": 6 });
    let circle = index(&[entry]);
    let mut source = Repository { tag: circle.clone(), ..Repository::default() };
    source.contents.insert(itself.to_string(), circle);
    refuse(&source, &[&format!("manifest {itself}"), "its digest is"]);

    let mut source = Repository::default();
    let mut inner = index(&[]);
    for _ in 0..6 {
        let entry = descriptor(INDEX, &inner);
        source.put(inner);
        inner = index(&[entry]);
    }
    source.tag = inner;
    refuse(&source, &["depth of nested indexes is 5, allowed is 4"]);

    let mut source = Repository::default();
    let entries: Vec<Value> = (0..40)
        .map(|number| {
            let inner = json!({ "schemaVersion": 2, "manifests": [], "annotations": { "n": number.to_string() } });
            let inner = inner.to_string().into_bytes();
            let entry = descriptor(INDEX, &inner);
            source.put(inner);
            entry
        })
        .collect();
    source.tag = index(&entries);
    refuse(&source, &["documents on the way to an image is 33, allowed is 32"]);
    source.tag = index(&vec![entries[0].clone(); 1001]);
    refuse(&source, &["images is 1001, allowed is 1000"]);
    source.tag = index(&[]);
    refuse(&source, &["it has none at all"]);
}

#[test]
fn wrong_digests_and_sizes_end_a_pull_wherever_they_are() {
    if skipped() {
        return;
    }
    let image = Image::new(&[Layer::new().file("a", &[7; 5000]).tar()]);
    let layer = Digest::of(&image.layers[0].1);
    for digest in [image.id(), layer] {
        let mut source = Repository::of(&image);
        source.contents.get_mut(&digest.to_string()).unwrap()[20] ^= 1;
        refuse(&source, &[&digest.to_string(), "expected is"]);
        let mut source = Repository::of(&image);
        source.contents.get_mut(&digest.to_string()).unwrap().pop();
        refuse(&source, &[&digest.to_string()]);
        let mut source = Repository::of(&image);
        source.contents.remove(&digest.to_string());
        refuse(&source, &[&digest.to_string(), "not there"]);
    }
    let check = |at: &str, size: u64, expected: &str| {
        let mut source = Repository::of(&image);
        let mut manifest: Value = serde_json::from_slice(&source.tag).unwrap();
        *manifest.pointer_mut(at).unwrap() = json!(size);
        source.tag = manifest.to_string().into_bytes();
        refuse(&source, &[expected]);
    };
    let length = image.layers[0].1.len() as u64;
    check("/layers/0/size", length - 1, "its descriptor says");
    check("/layers/0/size", length + 1, "its descriptor says");
    check("/layers/0/size", 1 << 50, "bytes is 1125899906842624, allowed is 274877906944");
    check("/config/size", 1, "expected is");
    check("/config/size", 1 << 30, "bytes is 1073741824, allowed is 4194304");
    let mut source = Repository::of(&image);
    let lie = descriptor("application/vnd.oci.image.manifest.v1+json", b"else");
    source.contents.insert(Digest::of(b"else").to_string(), image.manifest_bytes());
    source.tag = index(&[lie]);
    refuse(&source, &["manifest sha256:", "its digest is"]);
}

/// Layers of a few pieces each, with these names.
fn layers(names: &[&str]) -> Vec<Vec<u8>> {
    let layer = |name: &&str| Layer::new().file(name, name.repeat(10_000).as_bytes()).tar();
    names.iter().map(layer).collect()
}

#[test]
fn pulls_at_once_fetch_each_layer_once_in_whatever_order_they_want_them() {
    if skipped() {
        return;
    }
    let scratch = Scratch::new();
    let store = scratch.open();
    let forth = Image::new(&layers(&["a", "b", "c", "d", "e", "f"]));
    let back = Image::new(&layers(&["f", "e", "d", "c", "b", "a"]));
    let sources: Vec<Repository> = [&forth, &back, &forth, &back]
        .into_iter()
        .map(|image| Repository { pause: Duration::from_millis(2), ..Repository::of(image) })
        .collect();
    let together = Barrier::new(sources.len());
    let told = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for (number, source) in sources.iter().enumerate() {
            let (store, together, told) = (&store, &together, &told);
            scope.spawn(move || {
                let name = format!("demo{number}").parse().unwrap();
                together.wait();
                let tell = |event| {
                    if let Event::Layer { blob, state, .. } = event {
                        told.lock().unwrap().push((number, blob, state));
                    }
                };
                // The tag is asked for by the source's one name.
                store.pull(&name, None, source, &tell).unwrap();
            });
        }
    });
    let told = told.into_inner().unwrap();
    for (_, layer) in &forth.layers {
        let layer = Digest::of(layer);
        let asked: usize = sources.iter().map(|source| source.asked_for(&layer)).sum();
        assert_eq!(asked, 1, "{layer}");
        let count = |state| told.iter().filter(|told| (told.1, told.2) == (layer, state)).count();
        assert_eq!((count(LayerState::Unpacked), count(LayerState::There)), (1, 3), "{layer}");
    }
    for number in 0..4 {
        assert_eq!(store.resolve(&format!("demo{number}")).unwrap().layers.len(), 6);
    }
    assert_eq!(std::fs::read_dir(scratch.path().join("tmp")).unwrap().count(), 0);
}

/// Begins a pull that will break off, and runs `meanwhile` while its layer is on its way.
fn beside_one_that_breaks(image: &Image, meanwhile: impl FnOnce(&Store, &Digest)) {
    let scratch = Scratch::new();
    let store = scratch.open();
    let layer = Digest::of(&image.layers[0].1);
    let pause = Duration::from_millis(60);
    let broken = Repository { pause, breaks: Some(layer), ..Repository::of(image) };
    thread::scope(|scope| {
        let first = scope.spawn(|| pull(&store, &broken));
        while broken.asked_for(&layer) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        meanwhile(&store, &layer);
        let error = first.join().unwrap().unwrap_err();
        assert!(format!("{error:?}").contains("it broke off"), "{error:?}");
    });
    assert_eq!(broken.asked_for(&layer), 1);
    // The other's image needs it; without that one nothing does.
    store.remove("demo", Default::default(), &|_| None).unwrap();
    for part in ["layers", "blobs/sha256", "tmp"] {
        assert_eq!(std::fs::read_dir(scratch.path().join(part)).unwrap().count(), 0, "{part}");
    }
}

#[test]
fn what_breaks_off_for_one_pull_is_fetched_by_the_one_that_waited() {
    if skipped() {
        return;
    }
    let image = Image::new(&layers(&["whole"]));
    beside_one_that_breaks(&image, |store, layer| {
        let gone = Repository { unwanted: true.into(), ..Repository::of(&image) };
        let error = pull(store, &gone).unwrap_err();
        assert!(format!("{error:?}").contains("has gone"), "{error:?}");
        let good = Repository::of(&image);
        pull(store, &good).unwrap();
        assert_eq!((gone.asked_for(layer), good.asked_for(layer)), (0, 1));
    });
}

#[test]
fn nobody_waits_for_another_registry() {
    if skipped() {
        return;
    }
    let image = Image::new(&layers(&["whole"]));
    beside_one_that_breaks(&image, |store, layer| {
        let elsewhere = Repository { origin: "elsewhere", ..Repository::of(&image) };
        let states = Mutex::new(Vec::new());
        let tell = |event| {
            if let Event::Layer { state, .. } = event {
                states.lock().unwrap().push(state);
            }
        };
        store.pull(&"demo".parse().unwrap(), None, &elsewhere, &tell).unwrap();
        assert_eq!(elsewhere.asked_for(layer), 1);
        assert!(!states.lock().unwrap().contains(&LayerState::Awaited));
    });
}
