//! Execs, exits and OOM kills of every container: from the kernel's ring buffer to the
//! audit file and to whoever listens, with an exact count of what was lost. Changes of limits
//! beside them, as they are made.
//!
//! The kernel counts what it produced and what found no room in the ring, per
//! container and kind. This module counts what it delivered; a listener that is
//! too slow is told how many it missed. It decides nothing.
//!
//! ```text
//! event    an event's JSON, as types          line      fills them in
//! chain    what a line's hash is over         rotation  which file has which number
//! file     writes, rotates, tells gaps        tail      where the last agent ended
//! recent   the last lines, in memory          reading   the files, from a line on
//! follow   one reader: memory, then files     verify    finds what is not as it was written
//! heading  what a reader chooses lines by     query     lines by time, container and kind
//! hash     of what was executed
//! ```

mod call;
mod chain;
mod event;
mod file;
mod follow;
mod hash;
mod heading;
mod line;
pub mod query;
mod reading;
mod recent;
mod rotation;
mod tail;
mod verify;

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tenantry_container::LimitChange;
use tenantry_container::limit_changes::Subject;
use tenantry_ebpf::{Event, EventReader, ExecEvent, Slot};
use tokio::io::unix::AsyncFd;

pub use chain::Head;
use event::FileHash;
#[cfg(test)]
pub use event::{Ancestor, Container};
pub use event::{AuditEvent, AuditKind, Endpoint, MatchedRule, Nature, Outcome, Process};
pub use file::FileLimits;
pub use follow::{Filter, Follower, Lost, Piece};
pub use recent::{Line, Refused};
pub use tail::newest;
pub use verify::verify;

use crate::delivered::Delivered;
use crate::oom::Groups;
use crate::readable;
use crate::registry::{Holder, Registry};
use crate::rules::Rules;
use call::target;
use file::{Appended, AuditFile};
use hash::Hasher;
use line::{describe, write};
use recent::{About, Batch, Recent};

/// Events that are described and written at once: about 100 KiB of lines, which stay in the CPU's
/// cache on their way. While there are more, others have their turn in between.
const BATCH: usize = 128;
/// Where events come one after the other, the next ones gather for so long: the kernel wakes
/// nobody for them meanwhile, and neither it nor we pay for a wake-up, a write and an account of
/// each. The ring holds some thousands.
const GATHER: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub struct Audit {
    /// Lines are told to `recent` while this is held: in one order everywhere.
    file: Mutex<AuditFile>,
    recent: Arc<Recent>,
    path: PathBuf,
    rules: Arc<Rules>,
    written: AtomicU64,
    /// Read from the ring, but the disk refused them.
    file_lost: AtomicU64,
    /// Missed by listeners that were too slow, all listeners together.
    stream_lost: AtomicU64,
    /// Batches that left something in the ring for the next one.
    full_batches: AtomicU64,
    /// Execs whose file was gone or another one before it could be hashed.
    unhashed: AtomicU64,
}

/// What the task that reads the ring works with.
#[derive(Debug)]
struct Desk {
    registry: Arc<Registry>,
    groups: Groups,
    boot_ns: i128,
    /// Used again and again: fresh memory of this size costs a fifth of all the time.
    lines: Vec<u8>,
    /// `None`: nobody asked for hashes.
    hasher: Option<Hasher>,
}

impl Audit {
    /// Starts the task that reads `reader` until the agent ends.
    pub fn start(
        reader: EventReader,
        registry: Arc<Registry>,
        limits: FileLimits,
        groups: Groups,
        rules: Arc<Rules>,
        exec_hash: bool,
    ) -> std::io::Result<Arc<Self>> {
        let path = limits.path.clone();
        let file = AuditFile::open(limits)?;
        let audit = Arc::new(Self {
            recent: Arc::new(Recent::new(file.head().sequence)),
            file: Mutex::new(file),
            path,
            rules,
            written: AtomicU64::new(0),
            file_lost: AtomicU64::new(0),
            stream_lost: AtomicU64::new(0),
            full_batches: AtomicU64::new(0),
            unhashed: AtomicU64::new(0),
        });
        let ready = readable::register(reader.as_fd().try_clone_to_owned()?)?;
        let boot_ns = boot_unix_ns();
        let hasher = exec_hash.then(|| Hasher::new(boot_ns));
        let desk = Desk { registry, groups, boot_ns, lines: Vec::new(), hasher };
        tokio::spawn(Arc::clone(&audit).run(ready, reader, desk));
        Ok(audit)
    }

    /// `since`: the sequence number to go on behind; `None`: from now on.
    pub fn follow(&self, since: Option<u64>) -> Result<Follower, Refused> {
        Follower::join(Arc::clone(&self.recent), self.path.clone(), since)
    }

    /// The number of the last line of the file.
    pub fn last_sequence(&self) -> u64 {
        self.recent.last()
    }

    /// Where the lines are.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To the file and to the listeners, before it returns.
    pub fn record_limit(&self, change: &LimitChange) {
        let mut text = Vec::new();
        write(&AuditEvent::from(change), &mut text);
        let Subject { id, name, image } = change.container.clone();
        let holder = Arc::new(Holder { id, name, image });
        self.append(&text, vec![About { kind: AuditKind::Limit, holder }]);
    }

    /// What is still owed to the file: how much it lost while its disk was full.
    pub fn flush(&self) {
        self.append(&[], Vec::new());
    }

    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    pub fn stream_lost(&self) -> u64 {
        self.stream_lost.load(Ordering::Relaxed)
    }

    /// A listener missed `events`. It is for who tells the listener to count them.
    pub fn count_stream_lost(&self, events: u64) {
        self.stream_lost.fetch_add(events, Ordering::Relaxed);
    }

    /// How often a batch was full: the agent was behind by more than that.
    pub fn full_batches(&self) -> u64 {
        self.full_batches.load(Ordering::Relaxed)
    }

    pub fn unhashed(&self) -> u64 {
        self.unhashed.load(Ordering::Relaxed)
    }

    pub fn file_lost(&self) -> u64 {
        self.file_lost.load(Ordering::Relaxed)
    }

    async fn run(
        self: Arc<Self>,
        ready: AsyncFd<OwnedFd>,
        mut reader: EventReader,
        mut desk: Desk,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        while let Ok(mut ready) = ready.readable().await {
            ready.clear_ready();
            loop {
                let is_full = reader.read(BATCH, |event| batch.push(event));
                if batch.is_empty() && !is_full {
                    break;
                }
                self.handle(&batch, &mut desk);
                batch.clear();
                if is_full {
                    self.full_batches.fetch_add(1, Ordering::Relaxed);
                    tokio::task::yield_now().await;
                } else {
                    tokio::time::sleep(GATHER).await;
                }
            }
        }
    }

    /// To the file, to the listeners, and then into the account.
    fn handle(&self, batch: &[Event], desk: &mut Desk) {
        let Desk { registry, groups, boot_ns, lines, hasher } = desk;
        lines.clear();
        let mut abouts = Vec::with_capacity(batch.len());
        // A slot keeps its holder until its last event was delivered.
        let mut holders: HashMap<Slot, Arc<Holder>> = HashMap::new();
        for event in batch {
            let slot = event.header().slot;
            let holder = holders
                .entry(slot)
                .or_insert_with(|| Arc::new(registry.holder(slot).unwrap_or_default()));
            let neighbours = match event {
                Event::Oom(oom) => groups.neighbours(&holder.id, oom.header.pid),
                _ => Vec::new(),
            };
            let mut line = describe(event, Holder::clone(holder), neighbours, *boot_ns);
            if let (Event::Exec(exec), Some(hasher)) = (event, hasher.as_mut()) {
                self.add_hash(hasher, exec, &mut line);
            }
            if let Event::Call(call) = event
                && let Some(signal) = &call.signal
            {
                line.target = Some(target(signal, registry.holder(signal.slot)));
            }
            write(&line, lines);
            abouts.push(About { kind: line.event.action, holder: Arc::clone(holder) });
            // What matched stands behind the event in the file and in the streams.
            for alert in self.rules.judge(&line) {
                write(&alert, lines);
                abouts.push(About { kind: AuditKind::Alert, holder: Arc::clone(holder) });
            }
        }
        self.append(lines, abouts);
        registry.deliver(batch.iter().map(delivery));
    }

    fn add_hash(&self, hasher: &mut Hasher, exec: &ExecEvent, line: &mut AuditEvent) {
        let hash = hasher.hash(exec);
        if hash.is_none() {
            self.unhashed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(file) = &mut line.file {
            file.hash = hash.map(|hash| FileHash { sha256: hash.to_string() });
        }
    }

    /// `abouts`: one for each of `lines`.
    fn append(&self, lines: &[u8], abouts: Vec<About>) {
        // A panic between two writes loses a line, and the file takes the next one.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let events = abouts.len() as u64;
        let Appended { outcome, own, lines: landed_lines } = file.append(lines, events);
        self.written.fetch_add(outcome.written, Ordering::Relaxed);
        self.file_lost.fetch_add(outcome.lost, Ordering::Relaxed);
        let landed = own.len() + outcome.written as usize;
        self.recent.tell(own.len() + abouts.len(), landed, || {
            let mut text = landed_lines.to_vec();
            if outcome.lost > 0 {
                let refused = lines.split_inclusive(|byte| *byte == b'\n');
                refused.skip(outcome.written as usize).for_each(|line| text.extend(line));
            }
            Batch::new(text, &own, landed, abouts)
        });
    }
}

fn delivery(event: &Event) -> (Slot, Delivered) {
    (event.header().slot, Delivered::one(event.kind()))
}

/// What the wall clock said when the monotonic clock was zero.
fn boot_unix_ns() -> i128 {
    let monotonic = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let monotonic_ns = i128::from(monotonic.tv_sec) * 1_000_000_000 + i128::from(monotonic.tv_nsec);
    jiff::Timestamp::now().as_nanosecond() - monotonic_ns
}
