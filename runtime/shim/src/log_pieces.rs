//! A log in pieces: `log`, `log.1`, `log.2` and so on, of which the oldest go when there are more
//! than are to be kept.
//!
//! Pure. Owns the pieces' names and the choice where one ends. A number is never used twice, and
//! a piece is complete once there is a next one: who reads has come to the end of a piece when
//! it sees the next, and goes on with that, whatever was removed meanwhile. Who must not miss
//! anything holds a shared `flock` on the piece that it reads, which is then not removed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use crate::log::{HEADER_BYTES, MAX_PAYLOAD_BYTES};
use crate::spec::LogBound;

/// The file of a piece; `base` is that of piece 0.
pub fn path(base: &Path, number: u64) -> PathBuf {
    if number == 0 {
        return base.to_owned();
    }
    let mut path = OsString::from(base);
    path.push(format!(".{number}"));
    path.into()
}

/// Which pieces there are, the oldest first, by the names in the directory of `base`.
pub fn numbers(base: &Path, names: impl IntoIterator<Item = OsString>) -> Vec<u64> {
    let Some(own) = base.file_name() else { return Vec::new() };
    let mut numbers: Vec<u64> = names.into_iter().filter_map(|name| number(own, &name)).collect();
    numbers.sort_unstable();
    numbers
}

fn number(base: &OsStr, name: &OsStr) -> Option<u64> {
    if name == base {
        return Some(0);
    }
    let digits = name.to_str()?.strip_prefix(base.to_str()?)?.strip_prefix('.')?;
    // Only what `path` writes: no sign, no zeros before it.
    digits.parse().ok().filter(|number: &u64| *number > 0 && number.to_string() == digits)
}

/// No frame has a longer payload: each fits into a piece of its own.
pub fn most_payload_bytes(bound: Option<LogBound>) -> usize {
    let Some(bound) = bound else { return MAX_PAYLOAD_BYTES };
    let room = bound.piece_bytes.saturating_sub(HEADER_BYTES as u64).max(1);
    usize::try_from(room).map_or(MAX_PAYLOAD_BYTES, |room| room.min(MAX_PAYLOAD_BYTES))
}

/// `None`: the payload fits into the newest piece, which has `written` bytes. Else so many of its
/// bytes still go there, and the rest begins the next one: whole lines, where one ends in the room
/// that is left.
pub fn cut(bound: Option<LogBound>, written: u64, payload: &[u8]) -> Option<usize> {
    let room = bound?.piece_bytes.saturating_sub(written + HEADER_BYTES as u64);
    if written == 0 || payload.len() as u64 <= room {
        return None;
    }
    let fitting = usize::try_from(room).map_or(payload, |room| &payload[..room]);
    Some(fitting.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1))
}

/// How many of the oldest of `pieces` are more than are to be kept.
pub fn surplus(bound: Option<LogBound>, pieces: usize) -> usize {
    bound.map_or(0, |bound| pieces.saturating_sub(bound.pieces.max(1) as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(piece_bytes: u64, pieces: u32) -> Option<LogBound> {
        Some(LogBound { piece_bytes, pieces })
    }

    #[test]
    fn pieces_are_found_by_their_names_and_nothing_else_is() {
        let base = Path::new("/c/log");
        let names =
            ["log.10", "log", "log.9", "log.x", "log.09", "log.0", "log.+1", "logs", "log.1.2"];
        let found = numbers(base, names.map(OsString::from));
        assert_eq!(found, [0, 9, 10]);
        assert_eq!(path(base, 0), Path::new("/c/log"));
        assert_eq!(path(base, 9), Path::new("/c/log.9"));
    }

    #[test]
    fn a_piece_ends_where_a_line_ends() {
        let check = |room: u64, payload: &str, expected: Option<usize>| {
            let written = 100;
            let of = bound(written + HEADER_BYTES as u64 + room, 2);
            assert_eq!(cut(of, written, payload.as_bytes()), expected, "{room} {payload:?}");
        };
        check(8, "one\ntwo\n", None);
        check(7, "one\ntwo\n", Some(4));
        check(3, "one\ntwo\n", Some(0));
        check(0, "x", Some(0));
        // What is longer than the room and has no end of a line in it goes as a whole.
        check(5, "12345678\n", Some(0));
        assert_eq!(cut(None, u64::MAX, b"anything"), None);
        // A piece has a frame at least, whatever the bound.
        assert_eq!(cut(bound(1, 1), 0, b"x"), None);
    }

    proptest::proptest! {
        #[test]
        fn no_piece_is_longer_than_its_bound(
            piece_bytes in 40..400u64,
            payloads in proptest::collection::vec("[a-z\n]{1,300}", 1..50),
        ) {
            let of = bound(piece_bytes, 3);
            let mut written = 0;
            for payload in payloads {
                for payload in payload.as_bytes().chunks(most_payload_bytes(of)) {
                    let length = (HEADER_BYTES + payload.len()) as u64;
                    match cut(of, written, payload) {
                        None => written += length,
                        Some(here) => {
                            if here > 0 {
                                written += (HEADER_BYTES + here) as u64;
                            }
                            proptest::prop_assert!(written <= piece_bytes);
                            proptest::prop_assert!(here < payload.len());
                            written = length - here as u64;
                        }
                    }
                    proptest::prop_assert!(written <= piece_bytes);
                }
            }
        }
    }

    #[test]
    fn what_is_surplus_are_the_oldest_beyond_the_bound() {
        assert_eq!(surplus(bound(1, 3), 2), 0);
        assert_eq!(surplus(bound(1, 3), 5), 2);
        assert_eq!(surplus(bound(1, 0), 2), 1);
        assert_eq!(surplus(None, 1000), 0);
    }
}
