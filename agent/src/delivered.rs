//! How many events of each slot's holder left the kernel's ring: kept where the next agent
//! finds it, whatever ends this one.
//!
//! The maps are pinned and go on counting what was produced, so that *delivered + lost =
//! produced* must hold over an agent's death too. One file of fixed records, in the run
//! directory (a tmpfs): a batch of events writes 32 bytes for each slot in it, where the
//! table of names, which changes with containers alone, need not be written again. Of one
//! record a killed agent leaves the old or the new one, never half of each: it lies in one
//! page, and a signal does not interrupt the copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use tenantry_ebpf::Slot;

/// Events that left the kernel's ring, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    pub exec: u64,
    pub exit: u64,
    pub oom: u64,
}

impl Delivered {
    pub fn add(&mut self, more: Self) {
        self.exec += more.exec;
        self.exit += more.exit;
        self.oom += more.oom;
    }
}

/// A power of two, so that no record crosses a page.
const RECORD_BYTES: usize = 32;

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
        let [exec, exit, oom, _] = words(record);
        Delivered { exec, exit, oom }
    }

    pub fn write(&self, slot: Slot, delivered: Delivered) -> io::Result<()> {
        let Delivered { exec, exit, oom } = delivered;
        let mut record = [0; RECORD_BYTES];
        for (bytes, word) in record.chunks_exact_mut(8).zip([exec, exit, oom]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        self.file.write_all_at(&record, offset(slot))
    }
}

fn offset(slot: Slot) -> u64 {
    u64::from(slot) * RECORD_BYTES as u64
}

fn words(record: [u8; RECORD_BYTES]) -> [u64; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(record.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_delivered_survives_its_agent_unless_the_kernels_counters_are_new() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("slots.delivered");
        let (five, nine) = (
            Delivered { exec: 1, exit: u64::MAX, oom: 3 },
            Delivered { exec: 7, ..Delivered::default() },
        );
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
