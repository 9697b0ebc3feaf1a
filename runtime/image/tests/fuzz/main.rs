//! Mutated archives, manifests, configurations and layers: no panic, nothing outside of
//! the store, nothing left by what was refused, and what was taken goes again.
//!
//! A fuzzer by seeded mutation, since the stable compiler instruments nothing for
//! libFuzzer. It begins with `tests/corpus`: archives of other tools, and every input that
//! once found something. `TENANTRY_FUZZ_SECONDS` says for how long (2), and
//! `TENANTRY_FUZZ_SEED` makes a run happen again; an input that fails is kept below the
//! system's temporary directory and its path is printed.

#[path = "../store/archives.rs"]
#[allow(dead_code, reason = "the store's tests use the rest")]
mod archives;
mod mutate;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Mutator;
use tenantry_image::{ImportOptions, Limits, Removal, Store};

/// Small, so that bombs are cheap; each still far above what the corpus needs.
fn limits() -> Limits {
    Limits {
        entries_per_layer: 2_000,
        unpacked_bytes: 4 << 20,
        archive_bytes: 8 << 20,
        archive_members: 200,
        document_bytes: 64 << 10,
        ..Limits::default()
    }
}

/// No input may hold the store longer.
const PATIENCE: Duration = Duration::from_secs(10);

struct Target {
    /// The store, and a canary beside it that nothing may touch.
    dir: tempfile::TempDir,
    store: Store,
    clean: Vec<PathBuf>,
}

fn walk(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut ahead = vec![root.to_owned()];
    while let Some(dir) = ahead.pop() {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                ahead.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    found
}

impl Target {
    fn new() -> Target {
        // In memory where it can be had: each image is flushed to the disk.
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        fs::write(dir.path().join("canary"), b"alive").unwrap();
        let store = Store::open_with(&dir.path().join("store"), limits()).unwrap();
        let clean = walk(dir.path());
        Target { dir, store, clean }
    }

    /// Says what is wrong.
    fn run(&self, input: &Input) -> Result<(), String> {
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| match input.kind {
            Kind::Archive => self.store.load(&*input.content).is_ok(),
            Kind::Layer => {
                self.store.import("fuzz", &*input.content, ImportOptions::default()).is_ok()
            }
        }));
        let taken = done.map_err(|_| "it panicked")?;
        if started.elapsed() > PATIENCE {
            return Err(format!("it took {:?}", started.elapsed()));
        }
        if taken {
            for image in self.store.list().map_err(|error| error.to_string())? {
                let digest = image.manifest_digest.to_string();
                self.store.resolve(&digest).map_err(|error| format!("taken, but: {error}"))?;
                self.store.history(&digest).map_err(|error| format!("its history: {error}"))?;
            }
            let save = self.store.list().map_err(|error| error.to_string())?;
            let ids: Vec<String> = save.iter().map(|image| image.id.to_string()).collect();
            let mut archive = Vec::new();
            let saved = self.store.save(&ids).and_then(|save| save.write(&mut archive));
            saved.map_err(|error| format!("it cannot be saved: {error}"))?;
            let force = Removal { force: true, ..Removal::default() };
            for id in ids {
                let removed = self.store.remove(&id, force, &|_| None);
                removed.map_err(|error| format!("it cannot be removed: {error}"))?;
            }
        }
        let left = walk(self.dir.path());
        if left != self.clean || fs::read(self.dir.path().join("canary")).unwrap() != b"alive" {
            let more: Vec<_> = left.iter().filter(|path| !self.clean.contains(path)).collect();
            return Err(format!("the disk is not as before: {more:?}"));
        }
        Ok(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An archive of images.
    Archive,
    /// A layer's tar, plain or compressed.
    Layer,
}

#[derive(Clone, Debug)]
pub struct Input {
    pub kind: Kind,
    pub content: Vec<u8>,
}

/// `NAME.archive` and `NAME.layer`.
fn corpus() -> Vec<Input> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut paths = walk(&dir);
    paths.retain(|path| path.is_file());
    let inputs = paths.iter().filter_map(|path| {
        let kind = match path.extension()?.to_str()? {
            "archive" => Kind::Archive,
            "layer" => Kind::Layer,
            _ => return None,
        };
        Some(Input { kind, content: fs::read(path).unwrap() })
    });
    inputs.collect()
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: {text}")))
}

#[test]
fn mutated_images_break_nothing() {
    if archives::skipped() {
        return;
    }
    let seconds = Duration::from_secs(variable("TENANTRY_FUZZ_SECONDS").unwrap_or(2));
    let clock = || std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
    let seed = variable("TENANTRY_FUZZ_SEED").unwrap_or_else(clock);
    println!("TENANTRY_FUZZ_SEED={seed}");
    let target = Target::new();
    let corpus = corpus();
    assert!(corpus.len() >= 8, "the corpus is not there");
    let fail = |input: &Input, why: String| {
        let extension = if input.kind == Kind::Archive { "archive" } else { "layer" };
        let path = std::env::temp_dir().join(format!("tenantry-fuzz-{seed}.{extension}"));
        fs::write(&path, &input.content).unwrap();
        panic!("{why}: {} (seed {seed})", path.display());
    };
    for input in &corpus {
        target.run(input).unwrap_or_else(|why| fail(input, why));
    }
    let mut mutator = Mutator::new(seed);
    let (started, mut inputs) = (Instant::now(), 0);
    while started.elapsed() < seconds {
        let input = mutator.next(&corpus);
        target.run(&input).unwrap_or_else(|why| fail(&input, why));
        inputs += 1;
    }
    println!("{inputs} inputs in {:?}", started.elapsed());
    assert!(inputs > 20, "only {inputs} inputs");
}
