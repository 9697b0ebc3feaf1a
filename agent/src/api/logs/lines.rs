//! Whole lines of frames: `tail` and timestamps are by line. Pure.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use tenantry_shim::log::Stream as Source;

use super::Frame;

/// Docker's: what is longer comes in pieces.
const LONGEST_LINE_BYTES: usize = 16 << 10;

/// A program writes its line in several pieces, or several lines at once, and each of its two
/// streams by itself.
#[derive(Debug, Default)]
pub struct Lines {
    /// A line's beginning, of each stream.
    begun: [Option<Frame>; 2],
}

impl Lines {
    /// The lines that end with this frame, and have its time, as Docker's.
    pub fn push(&mut self, frame: Frame) -> Vec<Frame> {
        let mut lines = Vec::new();
        let begun = &mut self.begun[usize::from(frame.source == Source::Stderr)];
        let mut rest = frame.payload.clone();
        while !rest.is_empty() {
            let so_far = begun.as_ref().map_or(0, |begun| begun.payload.len());
            let most = LONGEST_LINE_BYTES.saturating_sub(so_far).max(1).min(rest.len());
            let end = rest[..most].iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let piece = rest.split_to(end.unwrap_or(most));
            let payload = match begun.take() {
                None => piece,
                Some(begun) => joined(&begun.payload, &piece),
            };
            let line = Frame { payload, ..frame.clone() };
            if end.is_some() || line.payload.len() >= LONGEST_LINE_BYTES {
                lines.push(line);
            } else {
                *begun = Some(line);
            }
        }
        lines
    }

    /// Lines that never ended, the older one first.
    pub fn rest(&mut self) -> Vec<Frame> {
        let mut rest: Vec<Frame> = self.begun.iter_mut().filter_map(Option::take).collect();
        rest.sort_by_key(|frame| frame.unix_ns);
        rest
    }
}

fn joined(first: &Bytes, second: &Bytes) -> Bytes {
    let mut bytes = BytesMut::with_capacity(first.len() + second.len());
    bytes.extend_from_slice(first);
    bytes.extend_from_slice(second);
    bytes.freeze()
}

/// The last so many of all that were pushed.
#[derive(Debug)]
pub struct Last {
    most: usize,
    lines: VecDeque<Frame>,
}

impl Last {
    pub fn new(most: usize) -> Self {
        Self { most, lines: VecDeque::new() }
    }

    pub fn extend(&mut self, lines: Vec<Frame>) {
        self.lines.extend(lines);
        self.lines.drain(..self.lines.len().saturating_sub(self.most));
    }

    pub fn into_lines(self) -> VecDeque<Frame> {
        self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: Source, unix_ns: u64, payload: &str) -> Frame {
        Frame { source, unix_ns, payload: Bytes::copy_from_slice(payload.as_bytes()) }
    }

    fn texts(frames: &[Frame]) -> Vec<(u64, &str)> {
        frames.iter().map(|f| (f.unix_ns, std::str::from_utf8(&f.payload).unwrap())).collect()
    }

    #[test]
    fn lines_are_put_together_by_stream_and_cut_after_each() {
        let mut lines = Lines::default();
        assert!(lines.push(frame(Source::Stdout, 1, "on")).is_empty());
        assert_eq!(texts(&lines.push(frame(Source::Stderr, 2, "err\nor"))), [(2, "err\n")]);
        let ended = lines.push(frame(Source::Stdout, 3, "e\ntwo\nthr"));
        assert_eq!(texts(&ended), [(3, "one\n"), (3, "two\n")]);
        assert_eq!(texts(&lines.rest()), [(2, "or"), (3, "thr")]);
        assert!(lines.rest().is_empty());
    }

    #[test]
    fn a_line_without_end_is_not_kept_for_ever() {
        let mut lines = Lines::default();
        let long = "x".repeat(LONGEST_LINE_BYTES - 1);
        assert!(lines.push(frame(Source::Stdout, 1, &long)).is_empty());
        let pieces = lines.push(frame(Source::Stdout, 2, "yz\n"));
        assert_eq!(pieces[0].payload.len(), LONGEST_LINE_BYTES);
        assert_eq!(texts(&pieces[1..]), [(2, "z\n")]);
    }

    #[test]
    fn the_last_lines_are_counted_and_not_frames() {
        let (mut lines, mut last) = (Lines::default(), Last::new(2));
        for payload in ["a\nb\n", "c\nd", "\n"] {
            last.extend(lines.push(frame(Source::Stdout, 1, payload)));
        }
        let kept: Vec<Frame> = last.into_lines().into();
        assert_eq!(texts(&kept), [(1, "c\n"), (1, "d\n")]);
        let mut none = Last::new(0);
        none.extend(vec![frame(Source::Stdout, 1, "a\n")]);
        assert!(none.into_lines().is_empty());
    }
}
