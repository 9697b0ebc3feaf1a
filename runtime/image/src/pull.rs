//! An image from a registry: documents first, then the layers that are not here, several at a
//! time, each hashed, kept, decompressed and unpacked in one pass over its bytes.
//!
//! Owns what is asked for and every check of what comes; a [`Source`] gives it. All is staged in
//! a session and appears at once, or not at all.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use oci_spec::image::{ImageIndex, ImageManifest};
use serde_json::Value;

use crate::Digest;
use crate::compression::Decoder;
use crate::document;
use crate::error::{Error, ErrorKind, Result};
use crate::flights::{Claim, Flights};
use crate::oci;
use crate::platform::{self, Platform};
use crate::reference::Wanted;
use crate::refs::{ImageRecord, LayerRecord};
use crate::session::{NewImage, Session, Spool, Spooled, check_content, layer_name};
use crate::store::Store;

/// Layers at a time: some wait for the network while others are unpacked.
const PARALLEL: usize = 4;
/// Manifests and indexes that one pull reads, whatever they say.
const DOCUMENTS: u64 = 32;

pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// Where an image comes from; one repository of a registry.
pub trait Source: Sync {
    /// The manifest or index that a tag or digest means.
    fn manifest(&self, reference: &str) -> Result<Vec<u8>, SourceError>;
    /// A blob as a stream, which ends after so many bytes or with an error.
    fn blob(&self, digest: &Digest, bytes: u64) -> Result<Box<dyn Read + Send>, SourceError>;
    /// Who gives it: pulls from the same one fetch a layer once.
    fn origin(&self) -> &str;
    /// Whether somebody still waits for the image.
    fn is_wanted(&self) -> bool {
        true
    }
}

/// What happens meanwhile, for who watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// What is pulled is known, and is not all here.
    Begins,
    Layer {
        blob: Digest,
        bytes: u64,
        state: LayerState,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// It is here already.
    There,
    /// It will be fetched.
    Wanted,
    /// Another pull is fetching it; it is [`There`](LayerState::There) when that one has it.
    Awaited,
    /// All its bytes are here and have their digest.
    Fetched,
    Unpacked,
}

/// What a pull came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pulled {
    /// Of what the tag or digest means: a manifest's or an index's.
    pub digest: Digest,
    /// The image's id.
    pub id: Digest,
    /// The name meant another image before, or none.
    pub is_new: bool,
}

impl Store {
    /// Makes `wanted` be here as its registry has it. `platform`: `None` takes what runs here, or
    /// the only one there is.
    pub fn pull(
        &self,
        wanted: &Wanted,
        platform: Option<&Platform>,
        source: &dyn Source,
        events: &(dyn Fn(Event) + Sync),
    ) -> Result<Pulled> {
        self.reached.count(self.pull_uncounted(wanted, platform, source, events))
    }

    fn pull_uncounted(
        &self,
        wanted: &Wanted,
        platform: Option<&Platform>,
        source: &dyn Source,
        events: &(dyn Fn(Event) + Sync),
    ) -> Result<Pulled> {
        let mut session = Session::new(self)?;
        let mut found = Found::look(&session, wanted, platform, source)?;
        events(Event::Begins);
        let what = format!("manifest {}", found.manifest);
        let manifest: ImageManifest = document::parse(&what, &found.content)?;
        oci::check_manifest(&what, &manifest)?;
        let (id, config_content) = fetch_config(&session, &manifest, source)?;
        let config = oci::parse_config(&session, &id, &config_content, manifest.layers().len())?;
        if let Some(wanted) = platform
            && config.architecture().to_string() != wanted.architecture
        {
            let available = vec![format!("{}/{}", config.os(), config.architecture())];
            return Err(Error::Platform { what, wanted: wanted.to_string(), available });
        }
        let jobs = jobs(&what, &manifest, oci::diff_ids(&id, &config)?)?;
        let mut layers = Layers { source, events, flights: &self.flights, missing: Vec::new() };
        layers.find(&mut session, &jobs)?;
        layers.fetch(&mut session)?;
        // Each is known by now; one that occurs twice, with two contents, is found out here.
        let records = jobs.iter().map(|job| session.unpack_layer(job.blob, Some(job.diff_id)));
        let records: Vec<LayerRecord> = records.collect::<Result<_>>()?;
        for content in [std::mem::take(&mut found.content), config_content] {
            let spooled = session.spool_bytes(&content)?;
            session.add_blob(spooled);
        }
        let created = config.created().clone();
        let parent = self.state().refs.images.get(&found.manifest).and_then(|known| known.parent);
        let record = ImageRecord { id, created, layers: records, parent };
        let names = match wanted.digest {
            Some(_) => Vec::new(),
            None => vec![wanted.name.clone()],
        };
        let is_new = !self.means(wanted, &found.manifest);
        let image = NewImage { manifest: found.manifest, record, names };
        let digest_name = wanted.name.with_digest(&found.digest);
        session.commit_with(vec![image], vec![(digest_name, found.manifest)])?;
        Ok(Pulled { digest: found.digest, id, is_new })
    }

    /// Whether `wanted` names this image already.
    fn means(&self, wanted: &Wanted, manifest: &Digest) -> bool {
        let state = self.state();
        let known = match &wanted.digest {
            Some(digest) => state.refs.digests.get(&wanted.name.with_digest(digest)),
            None => state.refs.names.get(&wanted.name.full()),
        };
        known == Some(manifest)
    }
}

/// The manifest that was found, and by what.
struct Found {
    digest: Digest,
    manifest: Digest,
    content: Vec<u8>,
}

impl Found {
    fn look(
        session: &Session<'_>,
        wanted: &Wanted,
        platform: Option<&Platform>,
        source: &dyn Source,
    ) -> Result<Found> {
        let what = format!("manifest {wanted}");
        let content = read_manifest(session, &what, &wanted.reference(), source)?;
        let digest = Digest::of(&content);
        if let Some(expected) = wanted.digest
            && expected != digest
        {
            return Err(Error::DigestMismatch { what, expected, actual: digest });
        }
        let host = Platform::host();
        let platform = platform.unwrap_or(&host);
        let mut chooser = Chooser { session, source, platform, documents: 1, seen: Vec::new() };
        match chooser.choose(&what, digest, content, 0)? {
            Some((manifest, content)) => Ok(Found { digest, manifest, content }),
            None => {
                let mut available = chooser.seen;
                available.sort();
                available.dedup();
                if available.is_empty() {
                    available.push("none at all".into());
                }
                Err(Error::Platform { what, wanted: platform.to_string(), available })
            }
        }
    }
}

struct Chooser<'c, 's> {
    session: &'c Session<'s>,
    source: &'c dyn Source,
    platform: &'c Platform,
    documents: u64,
    /// Platforms that were passed over.
    seen: Vec<String>,
}

impl Chooser<'_, '_> {
    /// The manifest that a document leads to: itself, or one of an index's.
    fn choose(
        &mut self,
        what: &str,
        digest: Digest,
        content: Vec<u8>,
        depth: u64,
    ) -> Result<Option<(Digest, Vec<u8>)>> {
        let value: Value = document::parse(what, &content)?;
        if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
            let reason = "it is of schema 1, which nobody should write any more".into();
            return Err(Error::Document { what: what.to_owned(), reason });
        }
        if value.get("manifests").is_none() {
            return Ok(Some((digest, content)));
        }
        let limits = self.session.limits();
        let limit = |quantity, value, allowed| {
            Err(Error::Limit { what: what.to_owned(), quantity, value, allowed })
        };
        if depth + 1 > limits.index_depth {
            return limit("depth of nested indexes", depth + 1, limits.index_depth);
        }
        let index: ImageIndex = document::parse(what, &content)?;
        let entries = index.manifests().len() as u64;
        if entries > limits.images {
            return limit("images", entries, limits.images);
        }
        for descriptor in self.platform.choices(&index) {
            self.documents += 1;
            if self.documents > DOCUMENTS {
                return limit("documents on the way to an image", self.documents, DOCUMENTS);
            }
            let digest: Digest = descriptor.digest().to_string().parse()?;
            let what = format!("manifest {digest}");
            let content = read_manifest(self.session, &what, &digest.to_string(), self.source)?;
            check(&what, digest, descriptor.size(), &content)?;
            if let Some(found) = self.choose(&what, digest, content, depth + 1)? {
                return Ok(Some(found));
            }
        }
        self.seen.extend(platform::available(&index));
        Ok(None)
    }
}

fn read_manifest(
    session: &Session<'_>,
    what: &str,
    reference: &str,
    source: &dyn Source,
) -> Result<Vec<u8>> {
    let fetched = source.manifest(reference);
    let content = fetched.map_err(|source| Error::Fetch { what: what.to_owned(), source })?;
    let (value, allowed) = (content.len() as u64, session.limits().document_bytes);
    if value > allowed {
        return Err(Error::Limit { what: what.to_owned(), quantity: "bytes", value, allowed });
    }
    Ok(content)
}

fn check(what: &str, expected: Digest, bytes: u64, content: &[u8]) -> Result<()> {
    let actual = Digest::of(content);
    if actual != expected {
        return Err(Error::DigestMismatch { what: what.to_owned(), expected, actual });
    }
    oci::check_size(what, bytes, content.len() as u64)
}

fn fetch_config(
    session: &Session<'_>,
    manifest: &ImageManifest,
    source: &dyn Source,
) -> Result<(Digest, Vec<u8>)> {
    let descriptor = manifest.config();
    let id: Digest = descriptor.digest().to_string().parse()?;
    let what = format!("configuration {id}");
    let (value, allowed) = (descriptor.size(), session.limits().document_bytes);
    if value > allowed {
        return Err(Error::Limit { what, quantity: "bytes", value, allowed });
    }
    let fetch = |source| Error::Fetch { what: what.clone(), source };
    let mut content = Vec::new();
    let stream = source.blob(&id, value).map_err(fetch)?;
    stream.take(value + 1).read_to_end(&mut content).map_err(|error| fetch(unwrapped(error)))?;
    check(&what, id, value, &content)?;
    Ok((id, content))
}

#[derive(Clone, Copy)]
struct Job {
    blob: Digest,
    bytes: u64,
    diff_id: Digest,
    /// It was told that another pull has it.
    awaited: bool,
}

fn jobs(what: &str, manifest: &ImageManifest, diff_ids: Vec<Digest>) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    for (descriptor, diff_id) in manifest.layers().iter().zip(diff_ids) {
        oci::check_layer(what, descriptor)?;
        let blob = descriptor.digest().to_string().parse()?;
        jobs.push(Job { blob, bytes: descriptor.size(), diff_id, awaited: false });
    }
    Ok(jobs)
}

struct Layers<'p> {
    source: &'p dyn Source,
    events: &'p (dyn Fn(Event) + Sync),
    flights: &'p Flights,
    missing: Vec<Job>,
}

impl Layers<'_> {
    fn tell(&self, job: &Job, state: LayerState) {
        (self.events)(Event::Layer { blob: job.blob, bytes: job.bytes, state });
    }

    /// Finds out which layers are here; those stay for the session.
    fn find(&mut self, session: &mut Session<'_>, jobs: &[Job]) -> Result<()> {
        let mut seen = BTreeSet::new();
        for job in jobs {
            if !seen.insert(job.blob) {
                continue;
            }
            if self.is_there(session, job)? {
                continue;
            }
            let (value, allowed) = (job.bytes, session.limits().archive_bytes);
            if value > allowed {
                let what = layer_name(&job.blob);
                return Err(Error::Limit { what, quantity: "bytes", value, allowed });
            }
            self.tell(job, LayerState::Wanted);
            self.missing.push(*job);
        }
        Ok(())
    }

    /// Whether it is here by now; then it stays for the session.
    fn is_there(&self, session: &mut Session<'_>, job: &Job) -> Result<bool> {
        if !session.pin_blob(job.blob) {
            return Ok(false);
        }
        session.unpack_layer(job.blob, Some(job.diff_id))?;
        self.tell(job, LayerState::There);
        Ok(true)
    }

    /// Fetches the missing ones; the first failure ends it all.
    fn fetch(&mut self, session: &mut Session<'_>) -> Result<()> {
        let threads = PARALLEL.min(self.missing.len());
        let jobs = Mutex::new(std::mem::take(&mut self.missing));
        let session = Mutex::new(session);
        let failed = Mutex::new(None);
        let stop = AtomicBool::new(false);
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let done = match self.next(&jobs) {
                    Next::Nothing => return,
                    Next::Claimed(job, _claim) => self.get_one(&session, &job, &stop),
                    Next::Awaited => self.wait(),
                };
                if let Err(error) = done {
                    stop.store(true, Ordering::Relaxed);
                    lock(&failed).get_or_insert(error);
                }
            }
        };
        thread::scope(|scope| {
            for _ in 1..threads {
                // This thread does it all where the system gives no other.
                let _ = thread::Builder::new().name("layer".into()).spawn_scoped(scope, work);
            }
            work();
        });
        match lock(&failed).take() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// One that nobody else is fetching.
    fn next(&self, jobs: &Mutex<Vec<Job>>) -> Next<'_> {
        let mut jobs = lock(jobs);
        if jobs.is_empty() {
            return Next::Nothing;
        }
        let blobs = jobs.iter().map(|job| job.blob);
        if let Some((at, claim)) = self.flights.claim(self.source.origin(), blobs) {
            return Next::Claimed(jobs.remove(at), claim);
        }
        for job in jobs.iter_mut().filter(|job| !job.awaited) {
            job.awaited = true;
            self.tell(job, LayerState::Awaited);
        }
        Next::Awaited
    }

    fn wait(&self) -> Result<()> {
        if !self.source.is_wanted() {
            let source = "whoever asked for it has gone".into();
            return Err(Error::Fetch { what: "an image".into(), source });
        }
        self.flights.wait();
        Ok(())
    }

    /// Another pull may have brought it while its claim was waited for, or before.
    fn get_one(
        &self,
        session: &Mutex<&mut Session<'_>>,
        job: &Job,
        stop: &AtomicBool,
    ) -> Result<()> {
        if self.is_there(&mut lock(session), job)? {
            return Ok(());
        }
        self.fetch_one(session, job, stop)
    }

    fn fetch_one(
        &self,
        session: &Mutex<&mut Session<'_>>,
        job: &Job,
        stop: &AtomicBool,
    ) -> Result<()> {
        let what = layer_name(&job.blob);
        let (spool, place, there, limits) = {
            let mut session = lock(session);
            let there = session.size_if_there(&job.diff_id);
            (session.spool()?, session.layer_place(), there, session.limits())
        };
        let stream = self.source.blob(&job.blob, job.bytes);
        let stream = stream.map_err(|source| Error::Fetch { what: what.clone(), source })?;
        let mut tee = Tee { stream, spool, failed: None, stop };
        let unpacked = Decoder::new(&what, &mut tee).and_then(|stream| match there {
            Some(_) => check_content(&what, stream, limits, job.diff_id).map(|()| None),
            None => place.unpack(&what, stream, Some(job.diff_id)).map(Some),
        });
        // What follows the archive is part of the blob. And of content that cannot be unpacked, it
        // is good to know whether it is what was asked for.
        let is_content =
            unpacked.as_ref().map_or_else(|error| error.kind() == ErrorKind::Invalid, |_| true);
        if is_content && tee.failed.is_none() {
            // An error is kept in `failed`.
            let _ = io::copy(&mut tee, &mut io::sink());
        }
        let spooled = match tee.finish(&what)? {
            Some(spooled) if is_content => spooled,
            // Its reader failed for a reason of its own: a full disk.
            _ => return unpacked.map(drop),
        };
        if spooled.digest != job.blob {
            let (expected, actual) = (job.blob, spooled.digest);
            return Err(Error::DigestMismatch { what, expected, actual });
        }
        oci::check_size(&what, job.bytes, spooled.bytes)?;
        let unpacked = unpacked?;
        self.tell(job, LayerState::Fetched);
        let (layer, dir) = match (unpacked, there) {
            (Some(unpacked), _) => {
                place.finish(job.blob, &unpacked).map(|(layer, dir)| (layer, Some(dir)))?
            }
            (None, size_bytes) => {
                let size_bytes = size_bytes.unwrap_or_default();
                (LayerRecord { blob: job.blob, diff_id: job.diff_id, size_bytes }, None)
            }
        };
        lock(session).land_layer(spooled, layer, dir)?;
        self.tell(job, LayerState::Unpacked);
        Ok(())
    }
}

enum Next<'f> {
    /// All are taken care of.
    Nothing,
    Claimed(Job, Claim<'f>),
    /// Others fetch all that is left.
    Awaited,
}

/// Keeps, and hashes, what passes.
struct Tee<'t> {
    stream: Box<dyn Read + Send>,
    spool: Spool,
    /// The first error, which a decoder above may have wrapped in its own words.
    failed: Option<Failure>,
    stop: &'t AtomicBool,
}

enum Failure {
    Source(SourceError),
    Store(Error),
    /// Another layer failed.
    Stopped,
}

impl Tee<'_> {
    /// The file; `None` if it was stopped.
    fn finish(self, what: &str) -> Result<Option<Spooled>> {
        match self.failed {
            Some(Failure::Source(source)) => Err(Error::Fetch { what: what.to_owned(), source }),
            Some(Failure::Store(error)) => Err(error),
            Some(Failure::Stopped) => Ok(None),
            None => self.spool.finish().map(Some),
        }
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let failure = if self.failed.is_some() {
            None
        } else if self.stop.load(Ordering::Relaxed) {
            Some(Failure::Stopped)
        } else {
            match self.stream.read(buffer) {
                Ok(n) => match self.spool.write(&buffer[..n]) {
                    Ok(()) => return Ok(n),
                    Err(error) => Some(Failure::Store(error)),
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => Some(Failure::Source(unwrapped(error))),
            }
        };
        self.failed = self.failed.take().or(failure);
        Err(io::Error::other("the stream failed"))
    }
}

/// The source's own error, where it had to pass as one of `io`.
fn unwrapped(error: io::Error) -> SourceError {
    if error.get_ref().is_some() {
        error.into_inner().unwrap_or_else(|| "nothing".into())
    } else {
        error.into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Who panicked had the pull fail: the scope of its thread passes it on.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
