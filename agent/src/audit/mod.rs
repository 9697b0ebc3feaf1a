//! Execs, exits and OOM kills of every container: from the kernel's ring buffer to the
//! audit file and to whoever listens, with an exact count of what was lost. Changes of limits
//! beside them, as they are made.
//!
//! The kernel counts what it produced and what found no room in the ring, per
//! container and kind. This module counts what it delivered; a listener that is
//! too slow is told how many it missed. It decides nothing.
//!
//! ```text
//! event    an event's JSON, as types
//! chain    what a line's hash is over         rotation  which file has which number
//! line     fills them in                        tail      where the last agent ended
//! file     writes, rotates, tells gaps        verify    finds what is not as it was written
//! ```

mod chain;
mod event;
mod file;
mod line;
mod rotation;
mod tail;
mod verify;

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tenantry_container::LimitChange;
use tenantry_ebpf::{Event, EventReader, Slot};
use tokio::io::unix::AsyncFd;
use tokio::sync::broadcast;

pub use chain::Head;
pub use event::{AuditEvent, AuditKind};
pub use file::FileLimits;

pub use tail::newest;
pub use verify::verify;

use crate::delivered::Delivered;
use crate::oom::Groups;
use crate::readable;
use crate::registry::Registry;
use file::AuditFile;
use line::{describe, write};

/// Events that are described and written at once: about half a megabyte of lines. While
/// there are more, others have their turn in between.
const BATCH: usize = 1024;
/// Events that one slow listener may fall behind before it loses some.
const LISTENER_BACKLOG: usize = 8192;

#[derive(Debug)]
pub struct Audit {
    sender: broadcast::Sender<Arc<AuditEvent>>,
    file: Mutex<AuditFile>,
    written: AtomicU64,
    /// Read from the ring, but the disk refused them.
    file_lost: AtomicU64,
    /// Missed by listeners that were too slow, all listeners together.
    stream_lost: AtomicU64,
    /// Batches that left something in the ring for the next one.
    full_batches: AtomicU64,
}

impl Audit {
    /// Starts the task that reads `reader` until the agent ends.
    pub fn start(
        reader: EventReader,
        registry: Arc<Registry>,
        limits: FileLimits,
        groups: Groups,
    ) -> std::io::Result<Arc<Self>> {
        let audit = Arc::new(Self {
            sender: broadcast::channel(LISTENER_BACKLOG).0,
            file: Mutex::new(AuditFile::open(limits)?),
            written: AtomicU64::new(0),
            file_lost: AtomicU64::new(0),
            stream_lost: AtomicU64::new(0),
            full_batches: AtomicU64::new(0),
        });
        let ready = readable::register(reader.as_fd().try_clone_to_owned()?)?;
        tokio::spawn(Arc::clone(&audit).run(ready, reader, registry, groups));
        Ok(audit)
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Arc<AuditEvent>> {
        self.sender.subscribe()
    }

    /// To the file and to the listeners, before it returns.
    pub fn record_limit(&self, change: &LimitChange) {
        let line = Arc::new(AuditEvent::from(change));
        let mut text = Vec::new();
        write(&line, &mut text);
        self.append(&text, 1);
        let _ = self.sender.send(line);
    }

    /// What is still owed to the file: how much it lost while its disk was full.
    pub fn flush(&self) {
        self.append(&[], 0);
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn stream_lost(&self) -> u64 {
        self.stream_lost.load(Ordering::Relaxed)
    }

    /// A listener missed `events`.
    pub fn count_stream_lost(&self, events: u64) {
        self.stream_lost.fetch_add(events, Ordering::Relaxed);
    }

    /// How often a batch was full: the agent was behind by more than that.
    pub fn full_batches(&self) -> u64 {
        self.full_batches.load(Ordering::Relaxed)
    }

    pub fn file_lost(&self) -> u64 {
        self.file_lost.load(Ordering::Relaxed)
    }

    async fn run(
        self: Arc<Self>,
        ready: AsyncFd<OwnedFd>,
        mut reader: EventReader,
        registry: Arc<Registry>,
        groups: Groups,
    ) {
        let boot_ns = boot_unix_ns();
        while let Ok(mut ready) = ready.readable().await {
            ready.clear_ready();
            loop {
                let mut batch = Vec::new();
                let is_full = reader.read(BATCH, |event| batch.push(event));
                self.handle(&batch, &registry, &groups, boot_ns);
                if !is_full {
                    break;
                }
                self.full_batches.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    }

    /// To the listeners, to the file, and then into the account.
    fn handle(&self, batch: &[Event], registry: &Registry, groups: &Groups, boot_ns: i128) {
        let mut lines = Vec::with_capacity(batch.len() * 512);
        for event in batch {
            let holder = registry.holder(event.header().slot).unwrap_or_default();
            let neighbours = match event {
                Event::Oom(oom) => groups.neighbours(&holder.id, oom.header.pid),
                _ => Vec::new(),
            };
            let line = Arc::new(describe(event, holder, neighbours, boot_ns));
            write(&line, &mut lines);
            let _ = self.sender.send(line);
        }
        self.append(&lines, batch.len() as u64);
        registry.deliver(batch.iter().map(delivery));
    }

    fn append(&self, lines: &[u8], events: u64) {
        // A panic between two writes loses a line, and the file takes the next one.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = file.append(lines, events);
        self.written.fetch_add(outcome.written, Ordering::Relaxed);
        self.file_lost.fetch_add(outcome.lost, Ordering::Relaxed);
    }
}

fn delivery(event: &Event) -> (Slot, Delivered) {
    match event {
        Event::Exec(exec) => (exec.header.slot, Delivered { exec: 1, ..Delivered::default() }),
        Event::Exit(exit) => (exit.header.slot, Delivered { exit: 1, ..Delivered::default() }),
        Event::Oom(oom) => (oom.header.slot, Delivered { oom: 1, ..Delivered::default() }),
    }
}

/// What the wall clock said when the monotonic clock was zero.
fn boot_unix_ns() -> i128 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let monotonic_ns = i128::from(monotonic.tv_sec) * 1_000_000_000 + i128::from(monotonic.tv_nsec);
    jiff::Timestamp::now().as_nanosecond() - monotonic_ns
}
