//! Reads the chain's lines from a sequence number on, through files that are rotated meanwhile.
//! It checks no hash: `verify` does that.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::chain::{Link, MAX_LINE_BYTES};
use super::rotation;

/// A search ends in a piece of this size, which is read from its beginning.
const SEARCHED_BYTES: u64 = 64 << 10;
/// Times that a file's end is met before what is not found counts as missing: the files may be
/// rotated between two looks.
const TRIES: u32 = 4;

/// Lines that follow each other, each with a newline behind it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filed {
    /// Lines in front of these that are in no file.
    pub missing: u64,
    pub text: Vec<u8>,
    /// Sequence number, and the place behind the newline.
    pub ends: Vec<(u64, usize)>,
}

impl Filed {
    /// Sequence number and line, without its newline.
    pub fn lines(&self) -> impl Iterator<Item = (u64, &[u8])> {
        self.ends.iter().enumerate().map(|(number, (sequence, end))| {
            let start = number.checked_sub(1).map_or(0, |before| self.ends[before].1);
            (*sequence, &self.text[start..end - 1])
        })
    }

    pub fn is_empty(&self) -> bool {
        self.missing == 0 && self.ends.is_empty()
    }
}

#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    /// The sequence number of the next line.
    next: u64,
    open: Option<BufReader<File>>,
}

impl Lines {
    pub fn from(path: PathBuf, next: u64) -> Self {
        Self { path, next, open: None }
    }

    /// The sequence number of the line that is read next.
    pub fn next_number(&self) -> u64 {
        self.next
    }

    /// The next lines up to `until`, about `bytes` at most. Nothing: there are no more up to there.
    pub fn read(&mut self, until: u64, bytes: usize) -> io::Result<Filed> {
        let mut filed = Filed::default();
        let mut line = Vec::new();
        let mut tries = 0;
        while self.next <= until && filed.text.len() < bytes {
            let Some(reader) = &mut self.open else {
                self.open = open_at(&self.path, self.next)?;
                if self.open.is_none() {
                    tries = TRIES;
                }
                tries += 1;
                if tries > TRIES {
                    return Ok(self.miss(until, filed));
                }
                continue;
            };
            line.clear();
            let most = MAX_LINE_BYTES as u64 + 1;
            reader.by_ref().take(most).read_until(b'\n', &mut line)?;
            let Some(whole) = line.strip_suffix(b"\n") else {
                // What comes next is in the file behind this one.
                self.open = None;
                continue;
            };
            let Some(link) = Link::parse(whole) else { continue };
            let found = link.head.sequence;
            match found.cmp(&self.next) {
                Ordering::Less => continue,
                Ordering::Greater if filed.is_empty() => {
                    let missing = found.min(until + 1) - self.next;
                    filed.missing = missing;
                    self.next += missing;
                    if found > until {
                        self.open = None;
                        return Ok(filed);
                    }
                }
                Ordering::Greater => {
                    // First what there is; the next call finds the hole.
                    self.open = None;
                    return Ok(filed);
                }
                Ordering::Equal => {}
            }
            filed.text.extend_from_slice(&line);
            filed.ends.push((found, filed.text.len()));
            self.next = found + 1;
            tries = 0;
        }
        Ok(filed)
    }

    fn miss(&mut self, until: u64, filed: Filed) -> Filed {
        if !filed.is_empty() {
            return filed;
        }
        let missing = until + 1 - self.next;
        self.next = until + 1;
        Filed { missing, ..filed }
    }
}

/// The newest file that begins at or before `next`, at or before its line; else the oldest.
fn open_at(path: &std::path::Path, next: u64) -> io::Result<Option<BufReader<File>>> {
    let mut chosen = None;
    for (_, file) in rotation::open_all(path)? {
        let Some(first) = first_line(&file)?.and_then(|line| sequence(&line)) else { continue };
        if chosen.is_none() || first <= next {
            chosen = Some(file);
        }
    }
    let Some(mut file) = chosen else { return Ok(None) };
    let start = seek(&file, |line| sequence(line).map(|found| found <= next))?;
    file.seek(SeekFrom::Start(start))?;
    Ok(Some(BufReader::with_capacity(SEARCHED_BYTES as usize, file)))
}

fn sequence(line: &[u8]) -> Option<u64> {
    Link::parse(line).map(|link| link.head.sequence)
}

fn first_line(file: &File) -> io::Result<Option<Vec<u8>>> {
    Ok(line_at(file, 0)?.map(|(line, _)| line))
}

/// The line that begins there, without its newline, and where the next one begins. `None`: there
/// is no whole one.
pub fn line_at(file: &File, start: u64) -> io::Result<Option<(Vec<u8>, u64)>> {
    let mut line = Vec::new();
    let mut piece = [0; 4096];
    while line.len() <= MAX_LINE_BYTES {
        let read = file.read_at(&mut piece, start + line.len() as u64)?;
        if read == 0 {
            return Ok(None);
        }
        match piece[..read].iter().position(|byte| *byte == b'\n') {
            Some(newline) => {
                line.extend_from_slice(&piece[..newline]);
                let next = start + line.len() as u64 + 1;
                return Ok(Some((line, next)));
            }
            None => line.extend_from_slice(&piece[..read]),
        }
    }
    Ok(None)
}

/// Where a line begins, of the file's lines in the order in which `is_early` is first true and
/// then false, that is early, or the first: few early ones follow it. `None` of `is_early` is
/// taken for false.
pub fn seek(file: &File, is_early: impl Fn(&[u8]) -> Option<bool>) -> io::Result<u64> {
    let (mut low, mut high) = (0, file.metadata()?.len());
    while high - low > SEARCHED_BYTES {
        let middle = low + (high - low) / 2;
        // The rest of the line that the middle is in, and the line behind it.
        let next = match line_at(file, middle)? {
            Some((_, next)) if next < high => line_at(file, next)?.map(|(line, _)| (line, next)),
            _ => None,
        };
        match next {
            Some((line, start)) if is_early(&line) == Some(true) => low = start,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::super::file::{AuditFile, FileLimits};
    use super::*;

    fn write(directory: &std::path::Path, max_bytes: u64, events: u64) -> AuditFile {
        let path = directory.join("audit.jsonl");
        let mut file = AuditFile::open(FileLimits { path, max_bytes, keep_files: 2 }).unwrap();
        let text = "x".repeat(300);
        for n in 0..events {
            let object = format!("{{\"n\":{n},\"text\":\"{text}\"}}\n");
            assert_eq!(file.append(object.as_bytes(), 1).outcome.lost, 0);
        }
        file
    }

    /// From `next` to `until`: what is missing, and the numbers of the lines.
    fn read(directory: &std::path::Path, next: u64, until: u64, bytes: usize) -> (u64, Vec<u64>) {
        let mut lines = Lines::from(directory.join("audit.jsonl"), next);
        let (mut missing, mut numbers) = (0, Vec::new());
        loop {
            let filed = lines.read(until, bytes).unwrap();
            if filed.is_empty() {
                return (missing, numbers);
            }
            missing += filed.missing;
            for (sequence, line) in filed.lines() {
                assert_eq!(Link::parse(line).unwrap().head.sequence, sequence);
                numbers.push(sequence);
            }
        }
    }

    #[test]
    fn each_line_is_read_once_from_any_number_on_over_rotated_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), 100_000, 1000);
        let last = file.head().sequence;
        let first = super::super::verify(&directory.path().join("audit.jsonl"), None)
            .unwrap()
            .first_sequence
            .unwrap();
        assert!(first > 1 && last > first + 500, "{first} {last}");
        for next in (1..=last + 1).step_by(37).chain([first - 1, first, last, last + 1]) {
            let (missing, numbers) = read(directory.path(), next, last, 10_000);
            assert_eq!(missing, first.saturating_sub(next));
            assert_eq!(numbers, (next.max(first)..=last).collect::<Vec<_>>());
        }
        let (missing, numbers) = read(directory.path(), first - 9, first - 4, 10_000);
        assert_eq!((missing, numbers.len()), (6, 0));
        // Who asks for what is not written yet is told that it is nowhere.
        let (missing, numbers) = read(directory.path(), last, last + 3, 10_000);
        assert_eq!((missing, numbers), (3, vec![last]));
    }

    #[test]
    fn files_that_are_rotated_while_they_are_read_leave_no_hole() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = write(directory.path(), 20_000, 20);
        let mut lines = Lines::from(directory.path().join("audit.jsonl"), 1);
        let mut next = 1;
        for n in 0..400 {
            let object = format!("{{\"n\":{n},\"text\":\"{}\"}}\n", "y".repeat(900));
            file.append(object.as_bytes(), 1);
            let filed = lines.read(file.head().sequence, 700).unwrap();
            assert_eq!(filed.missing, 0, "{next}");
            for (sequence, _) in filed.lines() {
                assert_eq!(sequence, next);
                next += 1;
            }
        }
        assert!(next > 400);
    }

    #[test]
    fn lines_that_somebody_took_out_are_missing() {
        let directory = tempfile::tempdir().unwrap();
        let file = write(directory.path(), 1 << 30, 50);
        let path = directory.path().join("audit.jsonl");
        let text = std::fs::read_to_string(&path).unwrap();
        let kept =
            |line: &&str| !["{\"seq\":20,", "{\"seq\":21,"].iter().any(|no| line.starts_with(no));
        let text: String = text.lines().filter(kept).map(|line| format!("{line}\n")).collect();
        std::fs::write(&path, text).unwrap();
        let (missing, numbers) = read(directory.path(), 1, file.head().sequence, 1 << 20);
        assert_eq!((missing, numbers.len()), (2, 49));
    }
}
