//! Reads the audit's files from the oldest to the newest and follows the chain through them.
//! It needs no agent, and does not mind one that writes meanwhile.

use std::io::{self, BufRead, BufReader, Read as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::chain::{self, Head, Link, MAX_LINE_BYTES, Wrong};
use super::rotation;

/// A running agent ends a line that it began within this time, looked at this often.
const LINE_ENDS_WITHIN: Duration = Duration::from_secs(2);
const LOOKS: u32 = 40;

/// What is wrong with the first line that is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    Wrong(Wrong),
    /// What should stand here stands further on.
    Moved {
        expected: u64,
        found: u64,
    },
    /// The file's last line has no end.
    Torn,
    /// The line that the head was kept of is another one now.
    OtherThanKept,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Wrong(Wrong::NotALine) => {
                write!(
                    f,
                    "edited: not a line of the chain, which begins with seq and ends with hash"
                )
            }
            Self::Wrong(Wrong::NoBeginning) => {
                write!(
                    f,
                    "missing: a file's first line names the hash it follows, and this does not"
                )
            }
            Self::Wrong(Wrong::Edited) => {
                write!(f, "edited: this line, or the one before it together with its hash")
            }
            Self::Wrong(Wrong::Ahead { expected, found }) if expected + 1 == *found => {
                write!(f, "missing: sequence {expected}")
            }
            Self::Wrong(Wrong::Ahead { expected, found }) => {
                write!(f, "missing: sequence {expected} to {}", found - 1)
            }
            Self::Wrong(Wrong::Behind { expected, found }) => {
                write!(f, "repeated: sequence {found} stands where {expected} should")
            }
            Self::Moved { expected, found } => {
                write!(
                    f,
                    "reordered: sequence {found} stands where {expected} should, which follows"
                )
            }
            Self::Torn => write!(f, "torn: the line has no end"),
            Self::OtherThanKept => write!(f, "edited: not the line whose hash was kept"),
        }
    }
}

/// Where the first wrong line stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Place {
    pub file: PathBuf,
    /// From 1, in this file.
    pub line: u64,
    /// That the line says it has.
    pub sequence: Option<u64>,
    pub what: String,
}

/// What was read, up to the first wrong line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub files: u64,
    pub lines: u64,
    pub first_sequence: Option<u64>,
    pub last_sequence: Option<u64>,
    /// The hash of the last line.
    pub head_hash: Option<String>,
    pub first_time: Option<String>,
    pub last_time: Option<String>,
    /// Lines that say that events could not be written, and of how many they say it.
    pub gaps: u64,
    pub lost: u64,
    /// Lines that say that one was cut off that had no end.
    pub torn: u64,
    pub wrong: Option<Place>,
}

impl Summary {
    /// As a person reads it, a newline behind each line.
    pub fn told(&self) -> String {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let mut told =
            format!("{} in {}", several(self.lines, "line"), several(self.files, "file"));
        if let (Some(first), Some(last)) = (self.first_sequence, self.last_sequence) {
            let (from, to) = (or_none(&self.first_time), or_none(&self.last_time));
            told += &format!(", sequence {first} to {last}, {from} to {to}\n");
            told += &format!("head {last}:{}\n", or_none(&self.head_hash));
        } else {
            told.push('\n');
        }
        if self.gaps + self.torn > 0 {
            let (gaps, lost, torn) = (self.gaps, self.lost, self.torn);
            told += &format!(
                "it says itself: {} lost in {}, {} cut off\n",
                several(lost, "event"),
                several(gaps, "gap"),
                several(torn, "torn line"),
            );
        }
        match &self.wrong {
            None => told += "each line is as it was written\n",
            Some(wrong) => told += &format!("wrong from here on: {wrong}\n"),
        }
        told
    }
}

fn several(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, " line {}", self.line)?;
        }
        if let Some(sequence) = self.sequence {
            write!(f, ", sequence {sequence}")?;
        }
        write!(f, ": {}", self.what)
    }
}

/// The chain so far, through all files.
#[derive(Debug, Default)]
struct Walk {
    head: Option<Head>,
    kept: Option<Head>,
    lines: u64,
    gaps: u64,
    lost: u64,
    torn: u64,
    first: Option<(u64, Option<String>)>,
    /// The bytes of the last line, for its time.
    last: Vec<u8>,
}

impl Walk {
    /// `line` without its newline.
    fn step(&mut self, line: &[u8]) -> Result<(), Finding> {
        let link = chain::follow(self.head.as_ref(), line).map_err(Finding::Wrong)?;
        if self.kept.is_some_and(|kept| is_other(&kept, &link)) {
            return Err(Finding::OtherThanKept);
        }
        self.head = Some(link.head);
        self.lines += 1;
        self.torn += u64::from(link.is_kind("torn"));
        if link.is_kind("gap") {
            self.gaps += 1;
            self.lost += member(line, "gap").and_then(|gap| gap["lost"].as_u64()).unwrap_or(0);
        }
        if self.first.is_none() {
            self.first = Some((link.head.sequence, time(line)));
        }
        self.last.clear();
        self.last.extend_from_slice(line);
        Ok(())
    }
}

fn is_other(kept: &Head, link: &Link<'_>) -> bool {
    kept.sequence == link.head.sequence && kept.hash != link.head.hash
}

fn member(line: &[u8], name: &str) -> Option<serde_json::Value> {
    serde_json::from_slice::<serde_json::Value>(line).ok()?.get_mut(name).map(|value| value.take())
}

fn time(line: &[u8]) -> Option<String> {
    member(line, "@timestamp")?.as_str().map(str::to_owned)
}

/// One file, line by line.
struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    /// Of lines that were read whole.
    offset: u64,
    number: u64,
}

/// What [`Lines::next`] found; the line itself is in `line`, without its newline.
enum Found {
    Line,
    /// No more bytes.
    End,
    /// Bytes without a newline behind them; the next read begins with them again.
    Piece,
    TooLong,
}

impl<R: BufRead + io::Seek> Lines<R> {
    fn of(reader: R) -> Self {
        Self { reader, line: Vec::new(), offset: 0, number: 0 }
    }

    fn next(&mut self) -> io::Result<Found> {
        self.line.clear();
        let most = MAX_LINE_BYTES as u64 + 1;
        let bytes = (&mut self.reader).take(most).read_until(b'\n', &mut self.line)?;
        if self.line.pop_if(|byte| *byte == b'\n').is_some() {
            self.offset += bytes as u64;
            self.number += 1;
            return Ok(Found::Line);
        }
        if bytes as u64 == most {
            return Ok(Found::TooLong);
        }
        self.reader.seek(SeekFrom::Start(self.offset))?;
        Ok(if bytes == 0 { Found::End } else { Found::Piece })
    }

    /// As [`next`](Self::next), but gives whoever writes the time to end a line.
    fn next_settled(&mut self, patience: Duration) -> io::Result<Found> {
        for _ in 0..LOOKS {
            match self.next()? {
                Found::Piece => std::thread::sleep(patience / LOOKS),
                found => return Ok(found),
            }
        }
        self.next()
    }

    /// Up to the first wrong line, with its number, or the end.
    fn walk(&mut self, walk: &mut Walk, patience: Duration) -> io::Result<Option<(u64, Finding)>> {
        loop {
            let finding = match self.next_settled(patience)? {
                Found::End => return Ok(None),
                Found::Line => match walk.step(&self.line) {
                    Ok(()) => continue,
                    Err(finding) => return Ok(Some((self.number, finding))),
                },
                Found::Piece => Finding::Torn,
                Found::TooLong => Finding::Wrong(Wrong::NotALine),
            };
            return Ok(Some((self.number + 1, finding)));
        }
    }

    /// Whether a line from here on says that it has this sequence number.
    fn has(&mut self, sequence: u64) -> io::Result<bool> {
        while matches!(self.next()?, Found::Line) {
            if Link::parse(&self.line).is_some_and(|link| link.head.sequence == sequence) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Reads `path` and what was rotated away from it. `kept`: a head of this chain that was noted
/// down before; a chain without it is wrong, too.
///
/// # Errors
/// A file could not be opened or read; there is no file at all.
pub fn verify(path: &Path, kept: Option<Head>) -> io::Result<Summary> {
    verify_within(path, kept, LINE_ENDS_WITHIN)
}

fn verify_within(path: &Path, kept: Option<Head>, patience: Duration) -> io::Result<Summary> {
    let mut files = rotation::open_all(path)?.into_iter();
    let mut walk = Walk { kept, ..Walk::default() };
    let mut summary = Summary::default();
    while let Some((file_path, file)) = files.next() {
        summary.files += 1;
        let mut lines = Lines::of(BufReader::with_capacity(256 << 10, file));
        let Some((line, mut finding)) = lines.walk(&mut walk, patience)? else { continue };
        let sequence = Link::parse(&lines.line).map(|link| link.head.sequence);
        if let Finding::Wrong(Wrong::Ahead { expected, found }) = finding {
            let mut is_there = lines.has(expected)?;
            for (_, later) in files.by_ref() {
                is_there = is_there || Lines::of(BufReader::new(later)).has(expected)?;
            }
            if is_there {
                finding = Finding::Moved { expected, found };
            }
        }
        let what = finding.to_string();
        summary.wrong = Some(Place { file: file_path, line, sequence, what });
        break;
    }
    if summary.wrong.is_none() {
        summary.wrong = kept.and_then(|kept| without_kept(&kept, &walk, path));
    }
    Ok(told(summary, walk))
}

fn told(summary: Summary, walk: Walk) -> Summary {
    let (first_sequence, first_time) = walk.first.unzip();
    Summary {
        lines: walk.lines,
        first_sequence,
        last_sequence: walk.head.map(|head| head.sequence),
        head_hash: walk.head.map(|head| head.hash.to_string()),
        first_time: first_time.flatten(),
        last_time: time(&walk.last),
        gaps: walk.gaps,
        lost: walk.lost,
        torn: walk.torn,
        ..summary
    }
}

/// The kept head's line is not among those that there are.
fn without_kept(kept: &Head, walk: &Walk, path: &Path) -> Option<Place> {
    let first = walk.first.as_ref().map_or(u64::MAX, |(first, _)| *first);
    let last = walk.head.map_or(0, |head| head.sequence);
    let what = match kept.sequence {
        kept if kept > last => {
            format!("missing: the chain ends at {last}, a head of {kept} was kept")
        }
        kept if kept < first => {
            format!("removed: the chain begins at {first}, behind the head of {kept} that was kept")
        }
        _ => return None,
    };
    Some(Place { file: path.to_owned(), line: 0, sequence: None, what })
}

#[cfg(test)]
mod tests;
