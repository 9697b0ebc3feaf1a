//! The lines that came last, in memory, for those who follow the audit. A follower has a position
//! and no queue of its own: one that is stuck costs nothing, and hurts nobody.
//!
//! What is no longer here is in the file (`reading`); what never was there is lost for whoever
//! was too slow, and counted by `follow`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::event::AuditKind;
use crate::registry::Holder;

/// Held for followers; one batch more, if it is larger.
const RECENT_BYTES: usize = 8 << 20;
/// Followers at a time: each may have a piece of the file in memory.
const MAX_FOLLOWERS: usize = 64;

/// Behind some line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Lines told since the agent began, those that the disk refused among them.
    pub told: u64,
    /// Of the last line of the chain.
    pub sequence: u64,
}

/// What a line is about, for those who want only some.
#[derive(Clone, Debug)]
pub struct About {
    pub kind: AuditKind,
    pub holder: Arc<Holder>,
}

/// Lines that were told together.
#[derive(Debug, Default)]
pub struct Batch {
    before: Position,
    /// Each with a newline behind it. First what landed in the file, the file's own lines in
    /// front, then what the disk refused, which has neither sequence number nor hash.
    text: Vec<u8>,
    landed: usize,
    marks: Vec<Mark>,
}

#[derive(Debug)]
struct Mark {
    /// Behind the newline.
    end: usize,
    kind: &'static str,
    /// `None`: the file's own.
    holder: Option<Arc<Holder>>,
}

/// One line, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// `None`: it is not in the file.
    pub sequence: Option<u64>,
    pub kind: &'a str,
    pub container_id: &'a str,
    pub container_name: &'a str,
    pub object: &'a [u8],
}

impl Batch {
    /// `text`: as in the field. `own`: the kinds of the file's own lines. `landed`: lines that
    /// are in the file, `own` among them.
    pub fn new(text: Vec<u8>, own: &[&'static str], landed: usize, abouts: Vec<About>) -> Self {
        let own = own.iter().map(|kind| (*kind, None));
        let all = own.chain(abouts.into_iter().map(|it| (it.kind.as_str(), Some(it.holder))));
        let marks = all
            .zip(memchr::memchr_iter(b'\n', &text))
            .map(|((kind, holder), newline)| Mark { end: newline + 1, kind, holder })
            .collect();
        Self { before: Position::default(), text, landed, marks }
    }

    pub fn len(&self) -> usize {
        self.marks.len()
    }

    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    fn after(&self) -> Position {
        Position {
            told: self.before.told + self.marks.len() as u64,
            sequence: self.before.sequence + self.landed as u64,
        }
    }

    /// From the line with this number in the batch on.
    pub fn lines(&self, first: usize) -> impl Iterator<Item = Line<'_>> {
        (first..self.marks.len()).map(|number| {
            let start = number.checked_sub(1).map_or(0, |before| self.marks[before].end);
            let mark = &self.marks[number];
            let of = mark.holder.as_ref();
            Line {
                sequence: (number < self.landed).then(|| self.before.sequence + number as u64 + 1),
                kind: mark.kind,
                container_id: of.map_or("", |of| &of.id),
                container_name: of.map_or("", |of| &of.name),
                object: &self.text[start..mark.end - 1],
            }
        })
    }
}

/// What a follower finds behind its position.
#[derive(Debug)]
pub enum Next {
    Nothing,
    /// From the line with this number in it on; the position behind it.
    Batch(Arc<Batch>, usize, Position),
    /// What came next is no longer here; the position before what still is.
    Gone(Position),
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refused {
    #[error("{MAX_FOLLOWERS} readers follow the events already")]
    TooMany,
    #[error("the last line of the chain is {last}")]
    NotYet { last: u64 },
}

#[derive(Debug)]
pub struct Recent {
    held: Mutex<Held>,
    told: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Held {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
    end: Position,
    followers: usize,
}

impl Recent {
    /// `sequence`: of the last line that an earlier agent wrote.
    pub fn new(sequence: u64) -> Self {
        let held = Held { end: Position { told: 0, sequence }, ..Held::default() };
        Self { held: Mutex::new(held), told: watch::Sender::new(0) }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        // A panic in here would leave whole batches or none.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sequence number of the last line.
    pub fn last(&self) -> u64 {
        self.held().end.sequence
    }

    pub fn followers(&self) -> usize {
        self.held().followers
    }

    /// `make`: of `lines` lines, of which `landed` are in the file; not called if nobody follows.
    pub fn tell(&self, lines: usize, landed: usize, make: impl FnOnce() -> Batch) {
        let mut held = self.held();
        let before = held.end;
        held.end.told += lines as u64;
        held.end.sequence += landed as u64;
        if held.followers == 0 {
            held.batches.clear();
            held.bytes = 0;
            return;
        }
        let batch = Batch { before, ..make() };
        debug_assert_eq!((batch.len(), batch.landed), (lines, landed));
        held.bytes += batch.text.len();
        held.batches.push_back(Arc::new(batch));
        while held.bytes > RECENT_BYTES && held.batches.len() > 1 {
            let oldest = held.batches.pop_front();
            held.bytes -= oldest.map_or(0, |oldest| oldest.text.len());
        }
        self.told.send_replace(held.end.told);
    }

    /// Where the lines end now, and what wakes whoever waits for more. `since`: the sequence
    /// number to go on behind.
    pub fn join(&self, since: Option<u64>) -> Result<(Position, watch::Receiver<u64>), Refused> {
        let mut held = self.held();
        if since.is_some_and(|since| since > held.end.sequence) {
            return Err(Refused::NotYet { last: held.end.sequence });
        }
        if held.followers >= MAX_FOLLOWERS {
            return Err(Refused::TooMany);
        }
        held.followers += 1;
        Ok((held.end, self.told.subscribe()))
    }

    /// One follower less.
    pub fn leave(&self) {
        self.held().followers -= 1;
    }

    pub fn next(&self, at: Position) -> Next {
        let held = self.held();
        if at.told >= held.end.told {
            return Next::Nothing;
        }
        let Some(oldest) = held.batches.front() else { return Next::Gone(held.end) };
        if at.told < oldest.before.told {
            return Next::Gone(oldest.before);
        }
        let number = held.batches.partition_point(|batch| batch.after().told <= at.told);
        let batch = &held.batches[number];
        let first = (at.told - batch.before.told) as usize;
        Next::Batch(Arc::clone(batch), first, batch.after())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder() -> Arc<Holder> {
        Arc::new(Holder { id: "c0ffee".into(), name: "web".into(), image: "demo".into() })
    }

    /// `landed` lines and `refused` ones.
    fn tell(recent: &Recent, landed: usize, refused: usize, bytes: usize) {
        let text = [&vec![b'x'; bytes][..], b"\n"].concat().repeat(landed + refused);
        let about = || About { kind: AuditKind::Exec, holder: holder() };
        let abouts = (0..landed + refused).map(|_| about()).collect();
        recent.tell(landed + refused, landed, || Batch::new(text, &[], landed, abouts));
    }

    #[test]
    fn a_follower_reads_from_its_position_on_and_knows_what_is_not_in_the_file() {
        let recent = Recent::new(7);
        tell(&recent, 3, 0, 10);
        let (at, _) = recent.join(None).unwrap();
        assert_eq!(at, Position { told: 3, sequence: 10 });
        assert!(matches!(recent.next(at), Next::Nothing));
        tell(&recent, 2, 1, 10);
        tell(&recent, 1, 0, 10);
        let Next::Batch(batch, first, after) = recent.next(at) else { panic!() };
        assert_eq!((first, after), (0, Position { told: 6, sequence: 12 }));
        let numbers: Vec<_> = batch.lines(first).map(|line| line.sequence).collect();
        assert_eq!(numbers, [Some(11), Some(12), None]);
        let line = batch.lines(first).next().unwrap();
        assert_eq!((line.kind, line.container_name, line.object.len()), ("exec", "web", 10));
        let Next::Batch(batch, first, _) = recent.next(Position { told: 5, ..at }) else {
            panic!()
        };
        assert_eq!((first, batch.lines(first).count()), (2, 1));
        let Next::Batch(batch, ..) = recent.next(after) else { panic!() };
        assert_eq!(batch.lines(0).next().unwrap().sequence, Some(13));
    }

    #[test]
    fn memory_is_bounded_and_whoever_is_behind_is_told_where_the_rest_begins() {
        let recent = Recent::new(0);
        let (at, _) = recent.join(None).unwrap();
        (0..40).for_each(|_| tell(&recent, 1, 0, RECENT_BYTES / 8));
        assert!(recent.held().bytes <= RECENT_BYTES);
        let Next::Gone(until) = recent.next(at) else { panic!() };
        let left = recent.held().batches.len() as u64;
        assert_eq!(until, Position { told: 40 - left, sequence: 40 - left });
        assert!(matches!(recent.next(until), Next::Batch(_, 0, _)));
        // Without followers nothing is held, and positions go on.
        recent.leave();
        tell(&recent, 1, 0, 10);
        assert_eq!(recent.held().bytes, 0);
        assert_eq!(recent.held().end.told, 41);
        assert!(matches!(recent.next(at), Next::Gone(end) if end.sequence == 41));
    }

    #[test]
    fn how_many_follow_is_bounded_and_nobody_follows_what_is_not_there() {
        let recent = Recent::new(5);
        assert_eq!(recent.join(Some(6)).unwrap_err(), Refused::NotYet { last: 5 });
        (0..MAX_FOLLOWERS).for_each(|_| drop(recent.join(Some(5)).unwrap()));
        assert_eq!(recent.join(None).unwrap_err(), Refused::TooMany);
        recent.leave();
        recent.join(None).unwrap();
    }
}
