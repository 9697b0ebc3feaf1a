//! The audit's lines as OpenTelemetry logs: sent by OTLP/HTTP, in batches, to one collector.
//!
//! It is one more reader of the audit (`audit::Follower`), and has no queue but the batch that is
//! under way. While the collector does not answer, it waits and tries again, and the lines stay in
//! the files; what they have no longer when it goes on is counted: *exported + refused + lost =
//! told*. Its place is kept in a file, so that the next agent goes on there. A record comes twice
//! where an agent was killed, or an answer was lost, behind a request: its `seq` tells.
//!
//! ```text
//! endpoint  where to     record  a line as a record     send  one request, and its answer
//! ```

pub mod endpoint;
mod record;
mod send;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::Instant;

use self::endpoint::Endpoint;
use self::record::{LogRecord, request};
use self::send::{Answer, Sender};
use crate::audit::{Audit, Follower, Piece, Refused};

/// Of one request, about.
const BATCH_RECORDS: usize = 512;
const BATCH_BYTES: usize = 1 << 20;
/// A record waits so long for others.
const LINGER: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// What became of the records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtlpReport {
    pub exported: u64,
    /// The collector would not have them.
    pub refused: u64,
    /// Gone from the files before the collector could take them.
    pub lost: u64,
    pub retries: u64,
    /// Lines of the audit file that were not taken yet.
    pub behind: u64,
}

#[derive(Debug)]
pub struct Otlp {
    audit: Arc<Audit>,
    exported: AtomicU64,
    refused: AtomicU64,
    lost: AtomicU64,
    retries: AtomicU64,
    /// The number of the last line that was taken, refused or lost.
    passed: AtomicU64,
    is_ending: AtomicBool,
    ending: Notify,
}

/// Records that go together, and the number of their last line.
#[derive(Debug, Default)]
struct Batch {
    records: Vec<LogRecord>,
    bytes: usize,
    lost: u64,
    passed: Option<u64>,
}

impl Otlp {
    /// Starts the task that sends until the agent ends. `place`: the file that keeps the place.
    pub fn start(
        audit: Arc<Audit>,
        endpoint: Endpoint,
        place: PathBuf,
    ) -> Result<Arc<Self>, Refused> {
        let follower = match read_place(&place) {
            Some(since) => audit.follow(Some(since)).or_else(|refused| {
                // The audit's files are younger than the place.
                tracing::warn!(place = %place.display(), since, %refused, "logs go on from now");
                audit.follow(None)
            })?,
            None => audit.follow(None)?,
        };
        let otlp = Arc::new(Self {
            audit,
            exported: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            passed: AtomicU64::new(follower.passed()),
            is_ending: AtomicBool::new(false),
            ending: Notify::new(),
        });
        tokio::spawn(Arc::clone(&otlp).run(follower, Sender::new(endpoint), place));
        Ok(otlp)
    }

    pub fn report(&self) -> OtlpReport {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        OtlpReport {
            exported: of(&self.exported),
            refused: of(&self.refused),
            lost: of(&self.lost),
            retries: of(&self.retries),
            behind: self.audit.last_sequence().saturating_sub(of(&self.passed)),
        }
    }

    /// No record waits for others any more. Whether all were taken within `patience`.
    pub async fn end(&self, patience: Duration) -> bool {
        self.is_ending.store(true, Ordering::Relaxed);
        self.ending.notify_one();
        let until = Instant::now() + patience;
        while self.report().behind > 0 {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    async fn run(self: Arc<Self>, mut follower: Follower, mut sender: Sender, place: PathBuf) {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        loop {
            let batch = self.gather(&mut follower).await;
            for part in batch.parts() {
                self.deliver(&mut sender, part, &host).await;
            }
            self.lost.fetch_add(batch.lost, Ordering::Relaxed);
            let Some(passed) = batch.passed else { continue };
            self.passed.store(passed, Ordering::Relaxed);
            if let Err(error) = write_place(&place, passed) {
                tracing::warn!(place = %place.display(), %error, "the place in the logs is not kept");
            }
        }
    }

    /// What there is, or comes within [`LINGER`]; one record at least.
    async fn gather(&self, follower: &mut Follower) -> Batch {
        let mut batch = Batch::default();
        let mut until: Option<Instant> = None;
        while batch.records.len() < BATCH_RECORDS && batch.bytes < BATCH_BYTES {
            let is_ending = self.is_ending.load(Ordering::Relaxed);
            let piece = match until {
                None => follower.next().await,
                Some(until) => tokio::select! {
                    biased;
                    piece = follower.next() => piece,
                    () = self.ending.notified(), if !is_ending => continue,
                    () = tokio::time::sleep_until(until), if !is_ending => break,
                    // Nothing more is to be waited for.
                    () = std::future::ready(()), if is_ending => break,
                },
            };
            batch.add(&piece, Timestamp::now());
            batch.passed = Some(follower.passed());
            until = until.or(Some(Instant::now() + LINGER));
        }
        batch
    }

    /// Until the collector has taken or refused them.
    async fn deliver(&self, sender: &mut Sender, records: &[LogRecord], host: &str) {
        let body = bytes::Bytes::from(request(records, host));
        let count = records.iter().filter(|record| record.is_line()).count() as u64;
        let mut pause = FIRST_PAUSE;
        let mut was_late = false;
        loop {
            match sender.post(body.clone()).await {
                Answer::Taken { rejected, why } => {
                    let rejected = rejected.min(count);
                    if rejected > 0 {
                        tracing::error!(rejected, why, "the collector refused log records");
                    }
                    if was_late {
                        tracing::info!("the collector takes logs again");
                    }
                    self.refused.fetch_add(rejected, Ordering::Relaxed);
                    self.exported.fetch_add(count - rejected, Ordering::Relaxed);
                    return;
                }
                Answer::Refused(why) => {
                    tracing::error!(records = count, why, "the collector refused log records");
                    self.refused.fetch_add(count, Ordering::Relaxed);
                    return;
                }
                Answer::Later(why, asked) => {
                    if !was_late {
                        tracing::warn!(why, "the collector takes no logs");
                    }
                    was_late = true;
                    self.retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(asked.unwrap_or_else(|| spread(pause))).await;
                    pause = (pause * 2).min(LAST_PAUSE);
                }
            }
        }
    }
}

impl Batch {
    fn add(&mut self, piece: &Piece, observed: Timestamp) {
        if let Piece::Lost(lost) = piece {
            self.lost += lost.count;
            let told = json!({
                "event": { "action": "lost" }, "@timestamp": observed.to_string(),
                "lost": { "stream": "otlp", "count": lost.count, "until": lost.until },
            });
            self.push(LogRecord::notice(&told, observed));
        }
        piece.each(|line| self.push(LogRecord::new(line.object, observed)));
    }

    fn push(&mut self, record: LogRecord) {
        self.bytes += record.bytes();
        self.records.push(record);
    }

    /// Each small enough for a request: a piece of the audit may be larger.
    fn parts(&self) -> impl Iterator<Item = &[LogRecord]> {
        let mut rest = &self.records[..];
        std::iter::from_fn(move || {
            let mut bytes = 0;
            let fits = rest.iter().take(BATCH_RECORDS).take_while(|record| {
                bytes += record.bytes();
                bytes <= BATCH_BYTES
            });
            // One that is too large alone goes alone.
            let count = fits.count().max(1).min(rest.len());
            let (part, others) = rest.split_at(count);
            rest = others;
            (!part.is_empty()).then_some(part)
        })
    }
}

/// Half of it to all of it, so that many agents do not come back together.
fn spread(pause: Duration) -> Duration {
    let mut byte = [0; 1];
    // Without a random byte, all of it.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    pause - pause * u32::from(byte[0]) / 512
}

fn read_place(place: &Path) -> Option<u64> {
    std::fs::read_to_string(place).ok()?.trim().parse().ok()
}

fn write_place(place: &Path, passed: u64) -> std::io::Result<()> {
    let temporary = place.with_extension("tmp");
    std::fs::write(&temporary, format!("{passed}\n"))?;
    std::fs::rename(temporary, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(bytes: usize) -> LogRecord {
        let text = "x".repeat(bytes);
        LogRecord::new(json!({ "x": text }).to_string().as_bytes(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_batch_goes_in_requests_of_bounded_size() {
        let sizes = |records: Vec<LogRecord>| -> Vec<usize> {
            let batch = Batch { records, ..Batch::default() };
            batch.parts().map(<[LogRecord]>::len).collect()
        };
        assert_eq!(sizes(vec![]), Vec::<usize>::new());
        assert_eq!(sizes((0..1100).map(|_| record(1)).collect()), [512, 512, 76]);
        // Three times its line is what a record is about.
        assert_eq!(sizes((0..5).map(|_| record(150_000)).collect()), [2, 2, 1]);
        assert_eq!(sizes(vec![record(1), record(900_000), record(1)]), [1, 1, 1]);
    }

    #[test]
    fn a_pause_is_half_of_itself_at_least() {
        for _ in 0..1000 {
            let pause = spread(LAST_PAUSE);
            assert!(pause > LAST_PAUSE / 2 && pause <= LAST_PAUSE, "{pause:?}");
        }
    }

    #[test]
    fn the_place_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let place = directory.path().join("otlp.place");
        assert_eq!(read_place(&place), None);
        write_place(&place, 7).unwrap();
        write_place(&place, 12).unwrap();
        assert_eq!(read_place(&place), Some(12));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
