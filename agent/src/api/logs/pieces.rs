//! The pieces of a log, read as if they were one file.
//!
//! Owns the open pieces. The shim makes them and removes the oldest meanwhile; how that goes
//! together with readers is said in `tenantry_shim::log_pieces`.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tenantry_shim::log_pieces;

/// Each try means that a piece went between two system calls.
const MOST_TRIES: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The oldest that is kept.
    Beginning,
    /// What comes from now on.
    End,
}

#[derive(Debug)]
pub struct Pieces {
    base: PathBuf,
    number: u64,
    file: File,
    /// The one after `file`, of which some may not have been read yet.
    next: Option<(u64, File)>,
    /// Pieces that are not read yet stay: the container waits for this reader.
    holds: bool,
}

/// What one read gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Got {
    Bytes(usize),
    /// A frame that was begun in the last piece was cut by a crash.
    NextPiece,
    /// Nothing more for now.
    End,
}

impl Pieces {
    pub fn open(base: &Path, from: Start, holds: bool) -> io::Result<Self> {
        for _ in 0..MOST_TRIES {
            let numbers = list(base)?;
            let number = match from {
                Start::Beginning => numbers.first(),
                Start::End => numbers.last(),
            };
            let number = number.copied().unwrap_or(0);
            if let Some(mut file) = open(base, number, numbers.is_empty(), holds)? {
                if from == Start::End {
                    file.seek(SeekFrom::End(0))?;
                }
                return Ok(Self { base: base.to_owned(), number, file, next: None, holds });
            }
        }
        Err(gone(base))
    }

    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<Got> {
        loop {
            let count = self.file.read(buffer)?;
            if count > 0 {
                return Ok(Got::Bytes(count));
            }
            if let Some((number, file)) = self.next.take() {
                (self.number, self.file) = (number, file);
                return Ok(Got::NextPiece);
            }
            // Once more before it is gone to: until it was there, the last one may have grown.
            self.next = self.find_next()?;
            if self.next.is_none() {
                return Ok(Got::End);
            }
        }
    }

    fn find_next(&self) -> io::Result<Option<(u64, File)>> {
        let mut number = self.number + 1;
        for _ in 0..MOST_TRIES {
            if let Some(file) = open(&self.base, number, false, self.holds)? {
                return Ok(Some((number, file)));
            }
            if self.file.metadata()?.nlink() > 0 {
                // The oldest go first: where this one is, no later one has gone.
                return Ok(None);
            }
            let later = list(&self.base)?.into_iter().find(|later| *later > self.number);
            let Some(later) = later else { return Ok(None) };
            number = later;
        }
        Err(gone(&self.base))
    }
}

/// `None`: there is no such piece, or no longer.
fn open(base: &Path, number: u64, create: bool, holds: bool) -> io::Result<Option<File>> {
    let path = log_pieces::path(base, number);
    // Attach comes before the first start, and so before the shim makes the file.
    let file = match File::options().read(true).append(create).create(create).open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound && !create => return Ok(None),
        other => other?,
    };
    if holds {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) if file.metadata()?.nlink() > 0 => {}
            // It is just being removed.
            Ok(()) | Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(Some(file))
}

fn list(base: &Path) -> io::Result<Vec<u64>> {
    let entries = match std::fs::read_dir(base.parent().unwrap_or(Path::new("/"))) {
        // The container was removed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other?,
    };
    let names = entries.map(|entry| entry.map(|entry| entry.file_name()));
    Ok(log_pieces::numbers(base, names.collect::<io::Result<Vec<_>>>()?))
}

/// Where the next frame will be written.
pub fn newest(base: &Path) -> PathBuf {
    let number = list(base).ok().and_then(|numbers| numbers.last().copied()).unwrap_or(0);
    log_pieces::path(base, number)
}

fn gone(base: &Path) -> io::Error {
    io::Error::other(format!("{}: its pieces go faster than they can be opened", base.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Log {
        directory: tempfile::TempDir,
    }

    impl Log {
        fn with(pieces: &[(u64, &str)]) -> Self {
            let log = Self { directory: tempfile::tempdir().unwrap() };
            for (number, text) in pieces {
                log.write(*number, text);
            }
            log
        }

        fn base(&self) -> PathBuf {
            self.directory.path().join("log")
        }

        fn write(&self, number: u64, text: &str) {
            use std::io::Write as _;
            let path = log_pieces::path(&self.base(), number);
            let mut file = File::options().append(true).create(true).open(path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
        }

        fn remove(&self, number: u64) {
            std::fs::remove_file(log_pieces::path(&self.base(), number)).unwrap();
        }
    }

    /// Until there is no more for now; `|` between pieces.
    fn rest(pieces: &mut Pieces) -> String {
        let (mut text, mut buffer) = (String::new(), [0; 3]);
        loop {
            match pieces.read(&mut buffer).unwrap() {
                Got::Bytes(count) => text.push_str(std::str::from_utf8(&buffer[..count]).unwrap()),
                Got::NextPiece => text.push('|'),
                Got::End => return text,
            }
        }
    }

    #[test]
    fn pieces_are_read_in_their_order_and_on_as_they_grow() {
        let log = Log::with(&[(9, "nine"), (10, "ten"), (11, "")]);
        let mut pieces = Pieces::open(&log.base(), Start::Beginning, false).unwrap();
        assert_eq!(rest(&mut pieces), "nine|ten|");
        log.write(11, "eleven");
        log.write(12, "twelve");
        assert_eq!(rest(&mut pieces), "eleven|twelve");
        let mut end = Pieces::open(&log.base(), Start::End, false).unwrap();
        log.write(12, "!");
        log.write(13, "more");
        assert_eq!(rest(&mut end), "!|more");
        assert_eq!(rest(&mut pieces), "!|more");
    }

    #[test]
    fn a_reader_that_was_overtaken_goes_on_with_what_is_left() {
        let log = Log::with(&[(0, "zero")]);
        let mut pieces = Pieces::open(&log.base(), Start::Beginning, false).unwrap();
        let mut buffer = [0; 2];
        assert_eq!(pieces.read(&mut buffer).unwrap(), Got::Bytes(2));
        for number in 1..5 {
            log.write(number, "x");
        }
        (0..3).for_each(|number| log.remove(number));
        // What is open is read to its end.
        assert_eq!(rest(&mut pieces), "ro|x|x");
        (3..5).for_each(|number| log.remove(number));
        assert_eq!(rest(&mut pieces), "");
    }

    #[test]
    fn a_log_that_is_not_there_yet_is_made() {
        let log = Log::with(&[]);
        let mut pieces = Pieces::open(&log.base(), Start::End, true).unwrap();
        log.write(0, "first");
        assert_eq!(rest(&mut pieces), "first");
    }

    #[test]
    fn who_holds_lets_go_of_a_piece_only_with_the_next_in_hand() {
        let log = Log::with(&[(0, "zero")]);
        let mut pieces = Pieces::open(&log.base(), Start::Beginning, true).unwrap();
        let is_held = |number| {
            let file = File::open(log_pieces::path(&log.base(), number)).unwrap();
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_err()
        };
        assert!(is_held(0));
        assert_eq!(rest(&mut pieces), "zero");
        log.write(1, "one");
        assert_eq!(rest(&mut pieces), "|one");
        assert!(!is_held(0) && is_held(1));
        drop(pieces);
        assert!(!is_held(1));
    }
}
