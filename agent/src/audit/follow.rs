//! One reader of the audit's lines, from a sequence number or from now on: out of memory while it
//! keeps up, out of the files where it does not. Each line comes once. What neither has any more
//! is counted: *delivered + lost = told*, for each reader by itself.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::heading::Heading;
use super::reading::{Filed, Lines};
use super::recent::{Batch, Line, Next, Position, Recent, Refused};

/// Read from the file at once, about.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug)]
pub struct Follower {
    recent: Arc<Recent>,
    path: PathBuf,
    /// Behind what was taken from memory, or was to be.
    at: Position,
    /// The number of the last line that was given out or passed over.
    passed: u64,
    filing: Option<Filing>,
    due: VecDeque<Piece>,
    more: watch::Receiver<u64>,
}

/// The way through the files up to what is in memory.
#[derive(Debug)]
struct Filing {
    /// `None` while `work` has them.
    lines: Option<Lines>,
    work: Option<JoinHandle<(Lines, io::Result<Filed>)>>,
    until: Position,
    /// Lines that were told and not given out yet.
    owed: u64,
}

impl Filing {
    fn new(path: PathBuf, behind: u64, until: Position, owed: u64) -> Self {
        Self { lines: Some(Lines::from(path, behind + 1)), work: None, until, owed }
    }
}

#[derive(Debug)]
pub enum Piece {
    /// From the line with this number in it on.
    Recent(Arc<Batch>, usize),
    Filed(Filed),
    Lost(Lost),
}

/// Lines that came too early or too quickly for this reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    pub count: u64,
    /// The sequence number behind which it goes on; `None`: they never were in the file.
    pub until: Option<u64>,
}

impl Piece {
    /// Room for the lines with what a stream puts around each.
    pub fn told_bytes(&self) -> usize {
        const AROUND: usize = 64;
        match self {
            Self::Recent(batch, _) => batch.bytes() + batch.len() * AROUND,
            Self::Filed(filed) => filed.text.len() + filed.ends.len() * AROUND,
            Self::Lost(_) => 512,
        }
    }

    /// Calls `take` with each line.
    pub fn each(&self, mut take: impl FnMut(Line<'_>)) {
        match self {
            Self::Recent(batch, first) => batch.lines(*first).for_each(take),
            Self::Filed(filed) => {
                for (sequence, object) in filed.lines() {
                    let heading = Heading::parse(object).unwrap_or_default();
                    take(Line {
                        sequence: Some(sequence),
                        kind: &heading.event.action,
                        container_id: &heading.container.id,
                        container_name: &heading.container.name,
                        object,
                    });
                }
            }
            Self::Lost(_) => {}
        }
    }
}

impl Follower {
    /// `since`: the number of the line to go on behind; `None`: from now on.
    pub fn join(recent: Arc<Recent>, path: PathBuf, since: Option<u64>) -> Result<Self, Refused> {
        let (end, more) = recent.join(since)?;
        let since = since.unwrap_or(end.sequence);
        let filing = (since < end.sequence)
            .then(|| Filing::new(path.clone(), since, end, end.sequence - since));
        Ok(Self { recent, path, at: end, passed: since, filing, due: VecDeque::new(), more })
    }

    /// The sequence number of the last line that was given out or passed over.
    pub fn passed(&self) -> u64 {
        self.passed
    }

    /// Waits for more. It may be dropped and called again: nothing is lost by that.
    pub async fn next(&mut self) -> Piece {
        loop {
            if let Some(piece) = self.due.pop_front() {
                let passed = match &piece {
                    Piece::Filed(filed) => filed.ends.last().map(|(sequence, _)| *sequence),
                    Piece::Lost(lost) => lost.until,
                    Piece::Recent(..) => None,
                };
                self.passed = passed.unwrap_or(self.passed);
                return piece;
            }
            if self.filing.is_some() {
                self.read_files().await;
                continue;
            }
            self.more.mark_unchanged();
            match self.recent.next(self.at) {
                Next::Batch(batch, first, after) => {
                    self.at = after;
                    self.passed = after.sequence;
                    return Piece::Recent(batch, first);
                }
                Next::Gone(until) => {
                    let owed = until.told - self.at.told;
                    let path = self.path.clone();
                    self.filing = Some(Filing::new(path, self.at.sequence, until, owed));
                }
                Next::Nothing => {
                    // `recent` holds the sender: this never fails.
                    let _ = self.more.changed().await;
                }
            }
        }
    }

    /// The next piece of the files becomes due, or the way through them ends.
    async fn read_files(&mut self) {
        let Some(filing) = &mut self.filing else { return };
        let until = filing.until.sequence;
        if let Some(mut lines) = filing.lines.take() {
            filing.work = Some(tokio::task::spawn_blocking(move || {
                let filed = lines.read(until, PIECE_BYTES);
                (lines, filed)
            }));
        }
        let Some(work) = &mut filing.work else { return self.end_filing(Some(until)) };
        let outcome = work.await.map_err(io::Error::other);
        filing.work = None;
        match outcome {
            Ok((lines, Ok(filed))) if !filed.is_empty() => {
                let count = filed.ends.len() as u64;
                if filed.missing > 0 {
                    let until = lines.next_number() - 1 - count;
                    self.due
                        .push_back(Piece::Lost(Lost { count: filed.missing, until: Some(until) }));
                }
                filing.lines = Some(lines);
                filing.owed -= filing.owed.min(filed.missing + count);
                if count > 0 {
                    self.due.push_back(Piece::Filed(filed));
                }
            }
            Ok((_, Ok(_))) => self.end_filing(None),
            Ok((_, Err(error))) | Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "audit files cannot be read");
                self.end_filing(Some(until));
            }
        }
    }

    /// What is owed still was never in the files, or they cannot be read.
    fn end_filing(&mut self, unread_until: Option<u64>) {
        let Some(filing) = self.filing.take() else { return };
        self.at = filing.until;
        if filing.owed > 0 {
            self.due.push_back(Piece::Lost(Lost { count: filing.owed, until: unread_until }));
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.recent.leave();
    }
}

/// Which lines a reader wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// A name, an id or its beginning; `None`: each.
    pub container: Option<String>,
    /// Empty: each.
    pub kinds: Vec<String>,
}

impl Filter {
    /// What was lost concerns every reader.
    pub fn wants(&self, line: &Line<'_>) -> bool {
        let kind = line.kind;
        let kind_fits = self.kinds.is_empty() || self.kinds.iter().any(|wanted| wanted == kind);
        let container_fits = || {
            self.container.as_ref().is_none_or(|wanted| {
                line.container_name == wanted
                    || (!wanted.is_empty() && line.container_id.starts_with(wanted.as_str()))
            })
        };
        matches!(kind, "gap" | "lost") || (kind_fits && container_fits())
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::{AuditFile, FileLimits};
    use super::super::recent::About;
    use super::*;
    use crate::audit::AuditKind;
    use crate::registry::Holder;

    /// What the audit does: the file, then memory.
    struct Teller {
        file: AuditFile,
        recent: Arc<Recent>,
        told: u64,
    }

    impl Teller {
        fn new(directory: &std::path::Path, max_bytes: u64) -> Self {
            let path = directory.join("audit.jsonl");
            let file = AuditFile::open(FileLimits { path, max_bytes, keep_files: 1 }).unwrap();
            let recent = Arc::new(Recent::new(file.head().sequence));
            Self { file, recent, told: 0 }
        }

        fn follow(&self, since: Option<u64>) -> Follower {
            let path = self.file.path().to_path_buf();
            Follower::join(Arc::clone(&self.recent), path, since).unwrap()
        }

        fn tell(&mut self, events: u64, bytes: usize) {
            let kind = AuditKind::Exec;
            let text = "x".repeat(bytes);
            let line = |n| {
                format!(
                    r#"{{"event":{{"action":"exec"}},"container":{{"id":"c0","name":"web"}},"n":{n},"t":"{text}"}}"#
                ) + "\n"
            };
            let objects: String = (0..events).map(|n| line(self.told + n)).collect();
            self.told += events;
            let appended = self.file.append(objects.as_bytes(), events);
            assert_eq!(appended.outcome.lost, 0);
            let lines = appended.own.len() + events as usize;
            self.recent.tell(lines, lines, || {
                let about = About { kind, holder: Arc::new(Holder::default()) };
                let abouts = vec![about; events as usize];
                Batch::new(appended.lines.to_vec(), &appended.own, lines, abouts)
            });
        }

        /// Lines that the disk refuses.
        fn refuse(&mut self, events: usize) {
            self.recent.tell(events, 0, || {
                let about = About { kind: AuditKind::Exec, holder: Arc::new(Holder::default()) };
                Batch::new("{}\n".repeat(events).into(), &[], 0, vec![about; events])
            });
        }
    }

    /// What comes until nothing more does: sequence numbers, and what was lost.
    async fn drain(follower: &mut Follower) -> (Vec<Option<u64>>, Vec<Lost>) {
        let (mut numbers, mut lost) = (Vec::new(), Vec::new());
        let patience = std::time::Duration::from_millis(200);
        while let Ok(piece) = tokio::time::timeout(patience, follower.next()).await {
            piece.each(|line| numbers.push(line.sequence));
            if let Piece::Lost(piece) = piece {
                lost.push(piece);
            }
        }
        (numbers, lost)
    }

    fn some(numbers: std::ops::RangeInclusive<u64>) -> Vec<Option<u64>> {
        numbers.map(Some).collect()
    }

    #[tokio::test]
    async fn who_resumes_gets_each_line_once_from_the_file_and_then_from_memory() {
        let directory = tempfile::tempdir().unwrap();
        let mut teller = Teller::new(directory.path(), 1 << 30);
        teller.tell(5000, 300);
        let mut follower = teller.follow(Some(7));
        teller.tell(10, 10);
        assert_eq!(follower.passed(), 7);
        assert_eq!(drain(&mut follower).await, (some(8..=5011), vec![]));
        teller.tell(1, 10);
        assert_eq!(drain(&mut follower).await, (some(5012..=5012), vec![]));
        assert_eq!(follower.passed(), 5012);
        // From now on, and from the end on, are the same.
        for since in [None, Some(5012)] {
            let mut follower = teller.follow(since);
            assert_eq!(drain(&mut follower).await, (vec![], vec![]));
        }
        assert_eq!(teller.recent.followers(), 1);
    }

    #[tokio::test]
    async fn who_was_rotated_away_from_is_told_of_exactly_that() {
        let directory = tempfile::tempdir().unwrap();
        let mut teller = Teller::new(directory.path(), 200_000);
        teller.tell(1, 300);
        let mut stuck = teller.follow(None);
        let mut quick = teller.follow(None);
        let at = quick.passed();
        for _ in 0..60 {
            teller.tell(300, 500);
            let (numbers, lost) = drain_ready(&mut quick).await;
            assert!(lost.is_empty() && numbers.len() >= 300, "{lost:?}");
        }
        let last = teller.file.head().sequence;
        assert_eq!(quick.passed(), last);
        // More than memory holds: it goes on with the files, and most of them are gone.
        let (numbers, lost) = drain(&mut stuck).await;
        let lines = numbers.len() as u64;
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert_eq!(lost[0].count + lines, last - at);
        assert_eq!(lost[0].until, Some(at + lost[0].count));
        assert_eq!(numbers, some(at + lost[0].count + 1..=last));
        let (numbers, lost) = drain(&mut teller.follow(Some(1))).await;
        assert_eq!(lost[0].count + numbers.len() as u64, last - 1);
    }

    /// As [`drain`], but does not wait.
    async fn drain_ready(follower: &mut Follower) -> (Vec<Option<u64>>, Vec<Lost>) {
        let (mut numbers, mut lost) = (Vec::new(), Vec::new());
        while let std::task::Poll::Ready(piece) = futures_util::poll!(Box::pin(follower.next())) {
            piece.each(|line| numbers.push(line.sequence));
            if let Piece::Lost(piece) = piece {
                lost.push(piece);
            }
        }
        (numbers, lost)
    }

    #[tokio::test]
    async fn what_the_disk_refused_comes_to_who_keeps_up_and_is_counted_for_who_does_not() {
        let directory = tempfile::tempdir().unwrap();
        let mut teller = Teller::new(directory.path(), 1 << 30);
        teller.tell(1, 10);
        let (mut slow, mut quick) = (teller.follow(None), teller.follow(None));
        teller.refuse(3);
        teller.tell(1, 10);
        assert_eq!(drain(&mut quick).await, (vec![None, None, None, Some(3)], vec![]));
        for _ in 0..30 {
            teller.tell(1, 400_000);
        }
        let (numbers, lost) = drain(&mut slow).await;
        assert_eq!(numbers, some(3..=33));
        assert_eq!(lost, [Lost { count: 3, until: None }]);
        assert_eq!(drain(&mut quick).await, (some(4..=33), vec![]));
    }

    #[test]
    fn a_filter_lets_losses_through() {
        let filter = Filter { container: Some("web".into()), kinds: vec!["exec".into()] };
        let line = |kind, container_name, container_id| Line {
            sequence: None,
            kind,
            container_id,
            container_name,
            object: b"{}",
        };
        assert!(filter.wants(&line("exec", "web", "")));
        assert!(filter.wants(&line("exec", "other", "webcafe")));
        assert!(!filter.wants(&line("exit", "web", "")));
        assert!(!filter.wants(&line("exec", "db", "c0")));
        assert!(filter.wants(&line("gap", "", "")) && filter.wants(&line("lost", "", "")));
        assert!(!filter.wants(&line("chain", "", "")));
        assert!(Filter::default().wants(&line("chain", "", "")));
    }
}
