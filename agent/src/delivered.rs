//! How many events of each slot's holder left the kernel's ring: kept where the next agent
//! finds it, whatever ends this one.
//!
//! The maps are pinned and go on counting what was produced, so that *delivered + lost =
//! produced* must hold over an agent's death too. One file of fixed records, in the run
//! directory (a tmpfs): a batch of events writes 256 bytes for each slot in it, where the
//! table of names, which changes with containers alone, need not be written again. Of one
//! record a killed agent leaves the old or the new one, never half of each: it lies in one
//! page, and a signal does not interrupt the copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tenantry_ebpf::{EVENT_KINDS, EventKind, Slot};

/// Events that left the kernel's ring, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    by_kind: [u64; EVENT_KINDS],
}

impl Delivered {
    pub fn one(kind: EventKind) -> Self {
        let mut one = Self::default();
        one.by_kind[kind as usize] = 1;
        one
    }

    pub fn of(&self, kind: EventKind) -> u64 {
        self.by_kind[kind as usize]
    }

    pub fn set(&mut self, kind: EventKind, events: u64) {
        self.by_kind[kind as usize] = events;
    }

    pub fn add(&mut self, more: Self) {
        for (sum, more) in self.by_kind.iter_mut().zip(more.by_kind) {
            *sum += more;
        }
    }
}

/// A power of two, so that no record crosses a page.
const RECORD_BYTES: usize = 256;
const _: () = assert!(EVENT_KINDS * size_of::<u64>() <= RECORD_BYTES);

/// The file. Errors are for the caller to tell: without it an agent works, and the next
/// one knows less.
#[derive(Debug)]
pub struct Ledger {
    file: File,
}

impl Ledger {
    /// `keep`: the kernel's counters are an earlier agent's, and so is what it delivered.
    pub fn open(path: &Path, keep: bool) -> io::Result<Self> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(!keep).open(path)?;
        Ok(Self { file })
    }

    /// Zero where nothing was written yet.
    pub fn read(&self, slot: Slot) -> Delivered {
        let mut record = [0; RECORD_BYTES];
        if self.file.read_exact_at(&mut record, offset(slot)).is_err() {
            return Delivered::default();
        }
        let words = record.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
        let mut delivered = Delivered::default();
        delivered.by_kind.iter_mut().zip(words).for_each(|(events, word)| *events = word);
        delivered
    }

    pub fn write(&self, slot: Slot, delivered: Delivered) -> io::Result<()> {
        let mut record = [0; RECORD_BYTES];
        for (bytes, word) in record.chunks_exact_mut(8).zip(delivered.by_kind) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.file.write_all_at(&record, offset(slot))
    }
}

fn offset(slot: Slot) -> u64 {
    u64::from(slot) * RECORD_BYTES as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_survives_its_agent_unless_the_kernels_counters_are_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slots.delivered");
        let mut five = Delivered::one(EventKind::Exec);
        five.set(EventKind::Exit, u64::MAX);
        five.set(EventKind::Capability, 3);
        let nine = Delivered::one(EventKind::Oom);
        let ledger = Ledger::open(&path, true).unwrap();
        assert_eq!(ledger.read(5), Delivered::default());
        ledger.write(9, nine).unwrap();
        ledger.write(5, five).unwrap();
        drop(ledger);
        let ledger = Ledger::open(&path, true).unwrap();
        assert_eq!(
            [5, 6, 9, 10].map(|slot| ledger.read(slot)),
            [five, Delivered::default(), nine, Delivered::default()]
        );
        drop(ledger);
        assert_eq!(Ledger::open(&path, false).unwrap().read(5), Delivered::default());
    }
}
