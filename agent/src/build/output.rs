//! What a client of a build sees while it goes on.
//!
//! Owns the lines' form (Docker's JSON messages) and the news that the client is gone.

use bytes::Bytes;
use serde_json::json;
use tokio::sync::mpsc;

/// One message of the stream.
pub type Line = Bytes;

/// Lines that may wait for a slow reader; then the build waits.
const WAITING: usize = 256;

/// Where a build tells its progress.
#[derive(Clone, Debug)]
pub struct Output {
    lines: mpsc::Sender<Line>,
    quiet: bool,
}

/// The client went away: nobody wants the image any more.
#[derive(Clone, Copy, Debug)]
pub struct Gone;

impl Output {
    pub fn new(quiet: bool) -> (Output, mpsc::Receiver<Line>) {
        let (lines, receiver) = mpsc::channel(WAITING);
        (Output { lines, quiet }, receiver)
    }

    /// Progress, which a quiet client does not see.
    pub async fn say(&self, text: &str) -> Result<(), Gone> {
        match self.quiet {
            true if self.lines.is_closed() => Err(Gone),
            true => Ok(()),
            false => self.send(&json!({ "stream": text })).await,
        }
    }

    /// Progress that somebody else has put into words.
    pub async fn pass_on(&self, line: Line) -> Result<(), Gone> {
        match self.quiet {
            true if self.lines.is_closed() => Err(Gone),
            true => Ok(()),
            false => self.lines.send(line).await.map_err(|_| Gone),
        }
    }

    /// What every client sees.
    pub async fn tell(&self, text: &str) -> Result<(), Gone> {
        self.send(&json!({ "stream": text })).await
    }

    pub async fn id(&self, id: &str) -> Result<(), Gone> {
        self.send(&json!({ "aux": { "ID": id } })).await
    }

    pub async fn error(&self, code: i32, message: &str) -> Result<(), Gone> {
        let detail = json!({ "code": code, "message": message });
        self.send(&json!({ "errorDetail": detail, "error": message })).await
    }

    /// Resolves when the client has gone.
    pub async fn gone(&self) {
        self.lines.closed().await;
    }

    pub fn is_gone(&self) -> bool {
        self.lines.is_closed()
    }

    async fn send(&self, message: &serde_json::Value) -> Result<(), Gone> {
        let line = message.to_string() + "\r\n";
        self.lines.send(line.into()).await.map_err(|_| Gone)
    }
}

impl From<Gone> for super::BuildError {
    fn from(Gone: Gone) -> Self {
        Self::Cancelled
    }
}

impl From<Gone> for super::StepError {
    fn from(Gone: Gone) -> Self {
        Self::Cancelled
    }
}
