//! A container's log as a stream of frames, once or for as long as it runs.
//!
//! The shim writes, this reads, and the kernel (inotify) says when there is
//! more: attach, `logs --follow` and a log read after the agent's restart are
//! one and the same thing.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use rustix::fs::inotify;
use tenantry_shim::log::{HEADER_BYTES, Header, Stream as Source};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::readable;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub source: Source,
    pub unix_ns: u64,
    pub payload: Bytes,
}

pub type Frames = Pin<Box<dyn Stream<Item = std::io::Result<Frame>> + Send>>;

const PIECE_BYTES: usize = 64 << 10;

/// Splits the file's bytes into frames, whatever pieces they come in.
#[derive(Debug, Default)]
struct Parser {
    pending: BytesMut,
}

impl Parser {
    fn next(&mut self) -> std::io::Result<Option<Frame>> {
        let Some(header) = self.pending.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::parse(header)
            .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "malformed log"))?;
        let length = HEADER_BYTES + header.payload_bytes as usize;
        if self.pending.len() < length {
            return Ok(None);
        }
        let mut frame = self.pending.split_to(length).freeze();
        let payload = frame.split_off(HEADER_BYTES);
        Ok(Some(Frame { source: header.stream, unix_ns: header.unix_ns, payload }))
    }
}

#[derive(Debug)]
struct Follower {
    file: File,
    parser: Parser,
    /// `None`: the end of the file is the end of the stream.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    /// `None` only while it is dropped.
    changes: Option<AsyncFd<OwnedFd>>,
    /// Resolves when the container has ended and its log is complete.
    ended: Option<oneshot::Receiver<()>>,
}

/// All frames from byte `from` on. With `ended`, goes on until that resolves and
/// the file is read to its end.
pub fn frames(
    path: &Path,
    from: u64,
    ended: Option<oneshot::Receiver<()>>,
) -> std::io::Result<Frames> {
    use std::io::Seek as _;
    // Attach comes before the first start, and so before the shim makes the file.
    let mut file = File::options().read(true).append(true).create(true).open(path)?;
    let watch = match ended {
        None => None,
        Some(ended) => {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            let changes = inotify::init(flags)?;
            inotify::add_watch(&changes, path, inotify::WatchFlags::MODIFY)?;
            Some(Watch { changes: Some(readable::register(changes)?), ended: Some(ended) })
        }
    };
    file.seek(std::io::SeekFrom::Start(from))?;
    let follower = Follower { file, parser: Parser::default(), watch };
    Ok(Box::pin(futures_util::stream::try_unfold(follower, |mut follower| async move {
        Ok(follower.next().await?.map(|frame| (frame, follower)))
    })))
}

impl Drop for Watch {
    /// Closing an inotify descriptor waits for an SRCU grace period, some ten
    /// milliseconds, which is as long as a short container's whole life.
    fn drop(&mut self) {
        if let Some(changes) = self.changes.take() {
            let descriptor = changes.into_inner();
            tokio::task::spawn_blocking(move || drop(descriptor));
        }
    }
}

impl Follower {
    async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parser.next()? {
                return Ok(Some(frame));
            }
            if self.read_more()? {
                continue;
            }
            let Some(watch) = &mut self.watch else { return Ok(None) };
            let (Some(ended), Some(changes)) = (&mut watch.ended, &watch.changes) else {
                return Ok(None);
            };
            tokio::select! {
                // The log was complete before this resolved: one more look at the file.
                _ = ended => watch.ended = None,
                ready = changes.readable() => drain(&mut ready?),
            }
        }
    }

    fn read_more(&mut self) -> std::io::Result<bool> {
        let start = self.parser.pending.len();
        self.parser.pending.resize(start + PIECE_BYTES, 0);
        let read = self.file.read(&mut self.parser.pending[start..]);
        self.parser.pending.truncate(start + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }
}

fn drain(ready: &mut tokio::io::unix::AsyncFdReadyGuard<'_, OwnedFd>) {
    let mut events = [0; 1024];
    while rustix::io::read(ready.get_inner(), &mut events).is_ok_and(|n| n > 0) {}
    ready.clear_ready();
}

/// Docker's multiplexed stream: stream number, three zeros, big-endian length, payload.
pub fn multiplexed(frame: &Frame, timestamps: bool) -> Bytes {
    let time = if timestamps { format!("{} ", rfc3339(frame.unix_ns)) } else { String::new() };
    let length = (time.len() + frame.payload.len()) as u32;
    let stream = match frame.source {
        Source::Stdout => 1,
        Source::Stderr => 2,
    };
    let mut bytes = BytesMut::with_capacity(8 + length as usize);
    bytes.extend_from_slice(&[stream, 0, 0, 0]);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(time.as_bytes());
    bytes.extend_from_slice(&frame.payload);
    bytes.freeze()
}

/// As a client reads it: a terminal has one stream, which has no headers.
pub fn rendered(frame: &Frame, timestamps: bool, terminal: bool) -> Bytes {
    let bytes = multiplexed(frame, timestamps);
    if terminal { bytes.slice(8..) } else { bytes }
}

/// A frame cut after each newline, because `tail` and timestamps are by line.
pub fn lines(frame: &Frame) -> Vec<Frame> {
    let mut rest = frame.payload.clone();
    let mut lines = Vec::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        lines.push(Frame { payload: rest.split_to(end), ..frame.clone() });
    }
    lines
}

/// With all nine digits, as Docker's log lines have them, so that lines stand in columns.
pub fn rfc3339(unix_ns: u64) -> String {
    let time = jiff::Timestamp::from_nanosecond(i128::from(unix_ns)).unwrap_or_default();
    format!("{time:.9}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(source: Source, payload: &'static [u8]) -> Frame {
        Frame { source, unix_ns: 7, payload: Bytes::from_static(payload) }
    }

    fn render(frame: &Frame) -> Vec<u8> {
        let payload_bytes = frame.payload.len() as u32;
        let header = Header { stream: frame.source, payload_bytes, unix_ns: frame.unix_ns };
        [&header.render()[..], &frame.payload].concat()
    }

    #[test]
    fn frames_come_out_whole_whatever_pieces_they_come_in() {
        let expected = [frame(Source::Stdout, b"one\n"), frame(Source::Stderr, b"\xff\x00")];
        let bytes: Vec<u8> = expected.iter().flat_map(render).collect();
        for size in 1..bytes.len() {
            let mut parser = Parser::default();
            let mut frames = Vec::new();
            for piece in bytes.chunks(size) {
                parser.pending.extend_from_slice(piece);
                while let Some(frame) = parser.next().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn a_frame_that_was_cut_by_a_crash_is_not_shown() {
        let mut parser = Parser::default();
        parser.pending.extend_from_slice(&render(&frame(Source::Stdout, b"cut"))[..26]);
        assert_eq!(parser.next().unwrap(), None);
    }

    #[test]
    fn docker_sees_its_own_header() {
        let bytes = multiplexed(&frame(Source::Stderr, b"no\n"), false);
        assert_eq!(&bytes[..], b"\x02\0\0\0\0\0\0\x03no\n");
        let plain = rendered(&frame(Source::Stdout, b"yes\r\n"), false, true);
        assert_eq!(&plain[..], b"yes\r\n");
    }

    #[test]
    fn a_frame_of_several_lines_is_cut_after_each() {
        let texts: Vec<Bytes> = lines(&frame(Source::Stdout, b"a\nb\nc"))
            .into_iter()
            .map(|line| line.payload)
            .collect();
        assert_eq!(texts, ["a\n", "b\n", "c"]);
    }
}
