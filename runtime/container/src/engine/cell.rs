//! One container in memory: its record, what of it is alive, and its snapshots.
//!
//! Owns the locks and the order of publication: every change of the record or of
//! what is alive goes through [`Cell::update`], which publishes a new snapshot.
//! It must not decide; [`crate::state`] and [`crate::restart`] do.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use tenantry_cgroupfs::Group;
use tokio::sync::{Notify, watch};

use super::throttle::Throttled;
use crate::{
    error::Error,
    health::Health,
    plan::Timings,
    record::{self, Record},
    shim::spawn::Shim,
    snapshot::{Live, Snapshot},
    state::{self, Happening},
};

#[derive(Debug)]
pub struct Cell {
    pub id: String,
    pub dir: PathBuf,
    /// Held while a start, an end, a change of limits or a removal is handled.
    pub op: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// Whether the directory is where it should be. Held while the record is
    /// written, so that an older one never wins, and while the directory goes.
    on_disk: Mutex<bool>,
    stdin: Mutex<Stdin>,
}

#[derive(Debug)]
pub struct Inner {
    pub record: Record,
    pub running: Option<Running>,
    pub start_timings: Timings,
    pub endings: u64,
    pub removed: bool,
    /// Of the present or last run, if there is a check.
    pub health: Option<Health>,
    /// Wakes the task that waits for a restart's time, to tell it to give up.
    pub cancel_restart: Option<Arc<Notify>>,
}

/// What a start made and an end takes away.
#[derive(Clone, Debug)]
pub struct Running {
    pub live: Live,
    pub group: Group,
    /// `None` for a shim that is gone, or whose pid is not known for certain.
    pub shim: Option<Arc<Shim>>,
    pub since: Instant,
    pub throttled: Option<Arc<Throttled>>,
}

/// Both ends of a pipe until somebody takes them.
#[derive(Debug, Default)]
struct Stdin {
    read: Option<OwnedFd>,
    write: Option<OwnedFd>,
}

impl Cell {
    pub fn new(record: Record, dir: PathBuf) -> Self {
        let id = record.id.clone();
        let inner = Inner {
            record,
            running: None,
            start_timings: Timings::new(),
            endings: 0,
            removed: false,
            health: None,
            cancel_restart: None,
        };
        let snapshots = watch::channel(Arc::new(render(&inner, &dir))).0;
        Self {
            id,
            dir,
            op: tokio::sync::Mutex::default(),
            inner: Mutex::new(inner),
            snapshots,
            on_disk: Mutex::new(true),
            stdin: Mutex::default(),
        }
    }

    /// Twelve digits of the id: unique enough for file names and host names.
    pub fn short(&self) -> &str {
        &self.id[..12]
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshots.subscribe()
    }

    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the container and publishes what it looks like now.
    pub fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let mut inner = self.lock();
        let result = change(&mut inner);
        self.snapshots.send_replace(Arc::new(render(&inner, &self.dir)));
        result
    }

    /// Writes the record as it is now. Blocks; syncs unless it need not survive.
    pub fn persist(&self) -> Result<(), Error> {
        let on_disk = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        if !*on_disk {
            return Ok(());
        }
        let record = self.lock().record.clone();
        let path = self.dir.join(record::FILE);
        record::write_json(&path, &record, !record.config.auto_remove)
            .map_err(|e| Error::failed(format!("write {}", path.display()), e))
    }

    /// Moves the directory away; nothing is written to it any more. One that is
    /// gone already is no error.
    pub fn leave_disk(&self, destination: &Path) -> io::Result<()> {
        let mut on_disk = self.on_disk.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::rename(&self.dir, destination) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        *on_disk = false;
        Ok(())
    }

    /// The reading end for a start; the writing end waits in [`Cell::take_stdin`].
    pub fn stdin_for_start(&self) -> io::Result<Option<OwnedFd>> {
        if !has_stdin_pipe(&self.lock().record) {
            return Ok(None);
        }
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        if stdin.read.is_none() {
            stdin.fill()?;
        }
        Ok(stdin.read.take())
    }

    /// What an ended run did not read is nobody's; the next run gets a new pipe.
    pub fn reset_stdin(&self) {
        *self.stdin.lock().unwrap_or_else(PoisonError::into_inner) = Stdin::default();
    }

    pub fn take_stdin(&self) -> Result<Option<OwnedFd>, Error> {
        let snapshot = self.snapshot();
        if !has_stdin_pipe(&snapshot.record) {
            return Ok(None);
        }
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        if stdin.read.is_none() && stdin.write.is_none() && snapshot.live.is_none() {
            stdin.fill().map_err(|e| Error::failed("make a pipe for standard input", e))?;
        }
        Ok(stdin.write.take())
    }
}

/// A terminal takes what is typed itself.
fn has_stdin_pipe(record: &Record) -> bool {
    record.config.open_stdin && record.config.terminal.is_none()
}

impl Stdin {
    /// A new pipe for the next run.
    fn fill(&mut self) -> io::Result<()> {
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        *self = Stdin { read: Some(read), write: Some(write) };
        Ok(())
    }
}

impl Inner {
    /// Moves on by the table. What the table does not hold is a bug of the
    /// caller's, which checked before: it is logged and changes nothing.
    pub fn transition(&mut self, happening: Happening) {
        match state::next(self.record.state, happening) {
            Some(next) => self.record.state = next,
            None => tracing::error!(
                container_id = self.record.id,
                state = self.record.state.as_str(),
                ?happening,
                "impossible transition"
            ),
        }
    }
}

fn render(inner: &Inner, dir: &Path) -> Snapshot {
    Snapshot {
        record: inner.record.clone(),
        live: inner.running.as_ref().map(|running| running.live.clone()),
        dir: dir.to_owned(),
        start_timings: inner.start_timings.clone(),
        health: inner.health.clone(),
        endings: inner.endings,
        removed: inner.removed,
    }
}
