//! A container's log as a stream of frames, once or for as long as it runs.
//!
//! The shim writes, this reads, and the kernel (inotify) says when there is
//! more: attach, `logs --follow` and a log read after the agent's restart are
//! one and the same thing.

mod lines;
mod pieces;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use rustix::fs::inotify;
use tenantry_shim::log::{HEADER_BYTES, Header, Stream as Source};
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

pub use self::lines::{Last, Lines};
use self::pieces::{Got, Pieces};
pub use self::pieces::{Start, newest};
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

/// Of one client.
#[derive(Debug)]
pub struct Reader {
    pieces: Pieces,
    parser: Parser,
    /// `None`: what is there now is all.
    watch: Option<Watch>,
}

#[derive(Debug)]
struct Watch {
    /// `None` only while it is dropped.
    changes: Option<AsyncFd<OwnedFd>>,
    /// Resolves when the container has ended and its log is complete.
    ended: Option<oneshot::Receiver<()>>,
}

/// Which frames are read, and what is due to the reader.
#[derive(Debug)]
pub struct Reading {
    pub from: Start,
    /// `Some`: on until that resolves and the log is read to its end.
    pub until: Option<oneshot::Receiver<()>>,
    /// The reader must not miss anything: a log with a bound keeps what it has not read, and the
    /// container waits for it.
    pub holds: bool,
}

impl Reader {
    /// `path` is that of the log's first piece. It is watched when this returns.
    pub fn open(path: &Path, reading: Reading) -> std::io::Result<Self> {
        let Reading { from, until, holds } = reading;
        let watch = match until {
            None => None,
            Some(ended) => {
                let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
                let changes = inotify::init(flags)?;
                // Of the directory, as the next piece appears there. Little else happens in it.
                let kinds = inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE;
                inotify::add_watch(&changes, path.parent().unwrap_or(path), kinds)?;
                Some(Watch { changes: Some(readable::register(changes)?), ended: Some(ended) })
            }
        };
        let pieces = Pieces::open(path, from, holds)?;
        Ok(Self { pieces, parser: Parser::default(), watch })
    }

    pub fn into_frames(self) -> Frames {
        Box::pin(futures_util::stream::try_unfold(self, |mut reader| async move {
            Ok(reader.next().await?.map(|frame| (frame, reader)))
        }))
    }
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

impl Reader {
    /// `None` at the end of the log, or of what is there, and never before.
    pub async fn next(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.next_kept().await? {
                return Ok(Some(frame));
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

    /// `None` at the end of what is there now.
    pub async fn next_kept(&mut self) -> std::io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parser.next()? {
                return Ok(Some(frame));
            }
            match self.read_more()? {
                // A long log leaves others their turn.
                Got::Bytes(_) => tokio::task::yield_now().await,
                Got::NextPiece => self.parser = Parser::default(),
                Got::End => return Ok(None),
            }
        }
    }

    fn read_more(&mut self) -> std::io::Result<Got> {
        let start = self.parser.pending.len();
        self.parser.pending.resize(start + PIECE_BYTES, 0);
        let got = self.pieces.read(&mut self.parser.pending[start..]);
        let count = if let Ok(Got::Bytes(count)) = &got { *count } else { 0 };
        self.parser.pending.truncate(start + count);
        got
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
}
