//! What a client is told while an image is on its way: Docker's JSON lines.
//!
//! Owns the queue to one client. States are all told; how far a layer is, only while the client
//! keeps up. A client that is gone has everything stopped.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// More than an image of 500 layers has states; half of it is never used for mere progress.
const QUEUE: usize = 8192;
const PROGRESS_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub struct Lines {
    sender: mpsc::Sender<Bytes>,
    /// When each layer's progress was told last.
    told: Mutex<HashMap<String, Instant>>,
}

impl Lines {
    pub fn new() -> (Lines, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Lines { sender, told: Mutex::default() }, receiver)
    }

    /// When nobody reads any more.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }

    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    pub fn status(&self, text: String) {
        self.send(&json!({ "status": text }));
    }

    /// Of one layer, or whatever `id` is.
    pub fn state(&self, id: &str, text: &str) {
        self.send(&json!({ "status": text, "progressDetail": {}, "id": id }));
    }

    /// The first line of a pull.
    pub fn heading(&self, id: &str, text: &str) {
        self.send(&json!({ "status": text, "id": id }));
    }

    pub fn progress(&self, id: &str, text: &str, current: u64, total: u64) {
        if self.sender.capacity() <= QUEUE / 2 || !self.is_due(id) {
            return;
        }
        let detail = json!({ "current": current, "total": total });
        self.send(&json!({ "status": text, "progressDetail": detail, "id": id }));
    }

    pub fn aux(&self, value: &Value) {
        self.send(&json!({ "progressDetail": {}, "aux": value }));
    }

    pub fn error(&self, message: &str) {
        self.send(&json!({ "errorDetail": { "message": message }, "error": message }));
    }

    fn is_due(&self, id: &str) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let is_due = told.get(id).is_none_or(|last| now - *last >= PROGRESS_EVERY);
        if is_due {
            told.insert(id.to_owned(), now);
        }
        is_due
    }

    fn send(&self, line: &Value) {
        // A client that is gone needs none, and the queue has room for all states.
        let _ = self.sender.try_send(Bytes::from(line.to_string() + "\n"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_all_told_and_progress_sometimes() {
        let (lines, mut receiver) = Lines::new();
        for current in 0..100 {
            lines.progress("a", "Downloading", current, 100);
            lines.progress("b", "Downloading", current, 100);
        }
        lines.state("a", "Pull complete");
        let told: Vec<Bytes> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert!((3..20).contains(&told.len()), "{}", told.len());
        let last: Value = serde_json::from_slice(&told[told.len() - 1]).unwrap();
        assert_eq!(last["status"], "Pull complete");
    }

    #[test]
    fn a_slow_client_still_gets_every_state() {
        let (lines, mut receiver) = Lines::new();
        for id in 0..QUEUE {
            lines.progress(&id.to_string(), "Downloading", 1, 2);
        }
        for id in 0..QUEUE / 2 {
            lines.state(&id.to_string(), "Pull complete");
        }
        let told = std::iter::from_fn(|| receiver.try_recv().ok());
        let complete = told.filter(|line| line.windows(8).any(|text| text == b"complete"));
        assert_eq!(complete.count(), QUEUE / 2);
    }
}
