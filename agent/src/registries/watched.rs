//! A stream from elsewhere as the store's threads read it: its progress is told, and it ends when
//! nobody wants to know.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use tenantry_registry::{Blob, Download, Result};
use tokio::runtime::Handle;

use super::lines::Lines;

#[derive(Debug)]
pub enum Stream {
    Blob(Blob),
    Download(Box<Download>),
}

impl Stream {
    async fn next(&mut self) -> Option<Result<Bytes>> {
        match self {
            Stream::Blob(blob) => blob.next().await,
            Stream::Download(download) => download.next().await,
        }
    }
}

#[derive(Debug)]
pub struct Watched {
    stream: Stream,
    piece: Bytes,
    /// Whose progress is told; `None` tells none.
    id: Option<String>,
    lines: Arc<Lines>,
    runtime: Handle,
    done: u64,
    /// 0 if nobody knows.
    bytes: u64,
}

#[derive(Debug, thiserror::Error)]
#[error("whoever asked for it has gone")]
pub struct Unwanted;

impl Watched {
    /// Called within a runtime, or with one at hand.
    pub fn new(
        stream: Stream,
        id: Option<String>,
        bytes: u64,
        lines: &Arc<Lines>,
        runtime: &Handle,
    ) -> Watched {
        let (lines, runtime) = (Arc::clone(lines), runtime.clone());
        Watched { stream, piece: Bytes::new(), id, lines, runtime, done: 0, bytes }
    }

    /// The next piece; empty at the end.
    fn next(&mut self) -> io::Result<Bytes> {
        let next = self.runtime.block_on(wanted_still(&self.lines, self.stream.next()));
        let piece = next.map_err(io::Error::other)?.transpose().map_err(io::Error::other)?;
        Ok(piece.unwrap_or_default())
    }
}

/// Blocks: for the store's threads.
impl Read for Watched {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            self.piece = self.next()?;
            self.done += self.piece.len() as u64;
            if let Some(id) = &self.id {
                self.lines.progress(id, "Downloading", self.done, self.bytes);
            }
        }
        let n = buffer.len().min(self.piece.len());
        self.piece.copy_to_slice(&mut buffer[..n]);
        Ok(n)
    }
}

/// What comes of `work`, unless the client goes away meanwhile.
pub async fn wanted_still<T>(lines: &Lines, work: impl Future<Output = T>) -> Result<T, Unwanted> {
    tokio::select! {
        done = work => Ok(done),
        () = lines.closed() => Err(Unwanted),
    }
}
