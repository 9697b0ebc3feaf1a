//! Where the chain ended: the last line of the newest file, found from the file's end. The work
//! is bounded, so that an agent starts as fast with a large file.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::chain::{Hash, Head, Link, MAX_LINE_BYTES};
use super::rotation;

/// Read first; enough for the last two lines nearly always.
const WINDOW_BYTES: u64 = 64 << 10;
/// The most that is read: two lines of the longest and a piece of a third.
const MAX_WINDOW_BYTES: u64 = 3 * MAX_LINE_BYTES as u64;

/// How a file ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last line of the chain; `None` if none was found.
    pub last: Option<Last>,
    /// Bytes behind the last newline.
    pub torn: Option<Torn>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Last {
    pub head: Head,
    /// Its hash fits, and no whole line stands behind it that is none of the chain.
    pub is_right: bool,
}

/// A line that was not written to its end.
#[derive(Debug, PartialEq, Eq)]
pub struct Torn {
    pub bytes: u64,
    pub hash: Hash,
}

/// `window`: the file's last bytes. `is_whole`: there are none before. `None`: more are needed.
fn look(window: &[u8], is_whole: bool) -> Option<Tail> {
    let end = match window.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => newline + 1,
        None if is_whole => 0,
        None => return None,
    };
    let torn = &window[end..];
    let torn =
        (!torn.is_empty()).then(|| Torn { bytes: torn.len() as u64, hash: Hash::of(&[torn]) });
    // Without the last newline, each piece is a line; the first may have lost its beginning.
    let mut lines = window[..end.saturating_sub(1)].rsplit(|byte| *byte == b'\n');
    let mut is_last = true;
    while let Some(line) = lines.next() {
        let Some(link) = Link::parse(line) else {
            is_last = false;
            continue;
        };
        let mut earlier = lines.clone();
        let before = earlier.next();
        if before.is_none() && !is_whole {
            return None;
        }
        let hash_before = before.and_then(Link::parse).map(|link| link.head.hash);
        let follows = match link.previous().or(hash_before) {
            Some(previous) => link.follows(&previous),
            None if is_whole || earlier.next().is_some() => false,
            None => return None,
        };
        let last = Last { head: link.head, is_right: is_last && follows };
        return Some(Tail { last: Some(last), torn });
    }
    is_whole.then_some(Tail { last: None, torn })
}

/// How this file ends. A file whose last megabytes hold no line of the chain has neither a last
/// nor a torn one.
pub fn read(file: &File) -> io::Result<Tail> {
    let length = file.metadata()?.len();
    let mut wanted = WINDOW_BYTES;
    loop {
        let start = length.saturating_sub(wanted);
        let mut window = vec![0; usize::try_from(length - start).unwrap_or_default()];
        file.read_exact_at(&mut window, start)?;
        if let Some(tail) = look(&window, start == 0) {
            return Ok(tail);
        }
        if wanted >= MAX_WINDOW_BYTES {
            return Ok(Tail::default());
        }
        wanted = (wanted * 8).min(MAX_WINDOW_BYTES);
    }
}

/// The last line of the newest file that has one; `path` is the audit file's.
pub fn newest(path: &Path) -> io::Result<Option<Last>> {
    for number in rotation::present(path)? {
        let file = match File::open(rotation::numbered(path, number)) {
            Ok(file) => file,
            // A running agent rotates.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if let Some(last) = read(&file)?.last {
            return Ok(Some(last));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::super::chain::seal;
    use super::*;

    fn chain(lines: usize) -> (Head, Vec<u8>) {
        let (mut head, mut text) = (Head::START, Vec::new());
        let first = format!(r#"{{"event":{{"action":"chain"}},"prev":"{}"}}"#, Hash::NONE);
        seal(&mut head, first.as_bytes(), &mut text);
        (1..lines).for_each(|n| seal(&mut head, format!(r#"{{"n":{n}}}"#).as_bytes(), &mut text));
        (head, text)
    }

    #[track_caller]
    fn check(text: &[u8], head: Option<(Head, bool)>, torn: u64) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("audit.jsonl");
        std::fs::write(&path, text).unwrap();
        let tail = read(&File::open(&path).unwrap()).unwrap();
        let last = head.map(|(head, is_right)| Last { head, is_right });
        assert_eq!(tail.last, last);
        assert_eq!(tail.torn.as_ref().map_or(0, |torn| torn.bytes), torn);
        let behind = &text[text.len() - torn as usize..];
        assert!(tail.torn.is_none_or(|torn| torn.hash == Hash::of(&[behind])));
        assert_eq!(newest(&path).unwrap().map(|last| last.head), head.map(|(head, _)| head));
    }

    #[test]
    fn the_last_whole_line_is_found_and_what_is_behind_it_counted() {
        check(b"", None, 0);
        check(b"{\"seq\":1,", None, 9);
        for lines in [1, 2, 5] {
            let (head, text) = chain(lines);
            check(&text, Some((head, true)), 0);
            check(&[&text, &b"{\"se"[..]].concat(), Some((head, true)), 4);
            check(&[&text, &[0; 70_000][..]].concat(), Some((head, true)), 70_000);
        }
    }

    #[test]
    fn a_last_line_that_is_not_right_is_told() {
        let (head, text) = chain(4);
        check(&[&text, &b"not ours\n"[..]].concat(), Some((head, false)), 0);
        let edited = String::from_utf8(text).unwrap().replace("\"n\":3", "\"n\":4");
        check(edited.as_bytes(), Some((head, false)), 0);
        check(b"not\nours\n", None, 0);
        let (mut head, mut text) = chain(2000);
        text.extend_from_slice(b"not ours\n");
        seal(&mut head, br#"{"n":0}"#, &mut text);
        check(&text, Some((head, false)), 0);
    }

    #[test]
    fn a_large_file_is_not_read_to_its_beginning() {
        let (mut head, mut text) = chain(30_000);
        assert!(text.len() > 2 * WINDOW_BYTES as usize);
        check(&text, Some((head, true)), 0);
        let long = format!(r#"{{"path":"{}"}}"#, "x".repeat(MAX_LINE_BYTES - 200));
        for _ in 0..2 {
            seal(&mut head, long.as_bytes(), &mut text);
        }
        check(&text, Some((head, true)), 0);
        check(&vec![b'\n'; 4 * MAX_LINE_BYTES], None, 0);
        check(&vec![0; 4 * MAX_LINE_BYTES], None, 0);
    }
}
