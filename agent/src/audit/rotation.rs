//! The audit's files by number: `audit.jsonl` is 0, `audit.jsonl.1` the one before it, and so on.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How often the list of files may change while they are opened.
const OPEN_TRIES: u32 = 20;

/// The file with this number.
pub fn numbered(path: &Path, number: u32) -> PathBuf {
    match number {
        0 => path.to_owned(),
        _ => PathBuf::from(format!("{}.{number}", path.display())),
    }
}

/// The numbers of the files that there are, the newest first.
pub fn present(path: &Path) -> io::Result<Vec<u32>> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let found = entry?.file_name();
        numbers.extend(found.to_str().and_then(|found| number(&name, found)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// How many of these, in ascending order, we made: one may be missing, as a rotation that was
/// broken off leaves them. What comes after a wider gap (`audit.jsonl.20261122`) is somebody
/// else's copy.
fn ours(numbers: &[u32]) -> usize {
    let gap = |pair: &[u32]| pair[1] - pair[0] > 2;
    match numbers.first() {
        Some(0..=2) => numbers.windows(2).position(gap).map_or(numbers.len(), |at| at + 1),
        _ => 0,
    }
}

/// Which of the files of `name` this is. One that we would not have named so is none.
fn number(name: &str, found: &str) -> Option<u32> {
    let rest = found.strip_prefix(name)?;
    if rest.is_empty() {
        return Some(0);
    }
    let digits = rest.strip_prefix('.')?;
    let number: u32 = digits.parse().ok()?;
    (number > 0 && number.to_string() == digits).then_some(number)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Remove(u32),
    /// The file gets the next number.
    Shift(u32),
}

/// What makes the number 0 free and leaves `keep` files beside it, or one that is to be removed
/// when its follower has begun: a chain must not be without a file for a moment. The order
/// matters: each number that is shifted to is free by then.
///
/// `present` is in ascending order. If 0 is not there, there is nothing to do.
pub fn plan(present: &[u32], keep: u32) -> Vec<Step> {
    if present.first() != Some(&0) {
        return Vec::new();
    }
    let step = |number: u32| match number >= keep.max(1) {
        true => Step::Remove(number),
        false => Step::Shift(number),
    };
    present[..ours(present)].iter().rev().copied().map(step).collect()
}

pub fn execute(path: &Path, steps: &[Step]) -> io::Result<()> {
    steps.iter().try_for_each(|step| match *step {
        Step::Remove(number) => std::fs::remove_file(numbered(path, number)),
        Step::Shift(number) => std::fs::rename(numbered(path, number), numbered(path, number + 1)),
    })
}

/// All files, the oldest first, as they were at one moment.
pub fn open_all(path: &Path) -> io::Result<Vec<(PathBuf, File)>> {
    for _ in 0..OPEN_TRIES {
        if let Some(files) = try_open_all(path)? {
            return Ok(files);
        }
    }
    Err(io::Error::other("the files are rotated faster than they can be opened"))
}

/// `None` if they were rotated meanwhile.
fn try_open_all(path: &Path) -> io::Result<Option<Vec<(PathBuf, File)>>> {
    let numbers = present(path)?;
    if numbers.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let mut files = Vec::with_capacity(numbers.len());
    for number in numbers.iter().rev() {
        let path = numbered(path, *number);
        match File::open(&path) {
            Ok(file) => files.push((path, file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    for (path, file) in &files {
        let here = file.metadata()?;
        let there = match std::fs::metadata(path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        if (here.dev(), here.ino()) != (there.dev(), there.ino()) {
            return Ok(None);
        }
    }
    Ok((present(path)? == numbers).then_some(files))
}

#[cfg(test)]
mod tests {
    use super::Step::{Remove, Shift};
    use super::*;

    #[track_caller]
    fn check(present: &[u32], keep: u32, expected: &[Step]) {
        assert_eq!(plan(present, keep), expected, "{present:?}, {keep}");
    }

    #[test]
    fn the_oldest_goes_and_the_others_move() {
        check(&[], 2, &[]);
        check(&[1, 2], 2, &[]);
        check(&[0], 2, &[Shift(0)]);
        check(&[0, 1], 2, &[Shift(1), Shift(0)]);
        check(&[0, 1, 2], 2, &[Remove(2), Shift(1), Shift(0)]);
        check(&[0, 1, 2, 3, 9], 2, &[Remove(3), Remove(2), Shift(1), Shift(0)]);
        check(&[0, 2], 4, &[Shift(2), Shift(0)]);
        check(&[0], 0, &[Shift(0)]);
        check(&[0, 1], 0, &[Remove(1), Shift(0)]);
        check(&[0, u32::MAX], u32::MAX, &[Shift(0)]);
    }

    #[test]
    fn what_stands_apart_is_not_ours() {
        let check = |numbers: &[u32], expected: usize| assert_eq!(ours(numbers), expected);
        check(&[], 0);
        check(&[0], 1);
        check(&[0, 1, 2, 3], 4);
        check(&[0, 2, 3], 3);
        check(&[1, 2], 2);
        check(&[0, 1, 2, 20_261_122], 3);
        check(&[0, 3], 1);
        check(&[2026], 0);
    }

    #[track_caller]
    fn check_number(found: &str, expected: Option<u32>) {
        assert_eq!(number("audit.jsonl", found), expected, "{found}");
    }

    #[test]
    fn only_our_own_names_count() {
        check_number("audit.jsonl", Some(0));
        check_number("audit.jsonl.1", Some(1));
        check_number("audit.jsonl.12", Some(12));
        for name in ["audit.jsonl.0", "audit.jsonl.01", "audit.jsonl.gz", "audit.jsonl.1.gz"] {
            check_number(name, None);
        }
        check_number("audit.json", None);
        check_number("audit.jsonl.99999999999", None);
    }
}
