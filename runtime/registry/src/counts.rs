//! What a client did since it was made, in numbers: bytes, tries, and bounds that were reached.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::Error;

/// A bound on what a registry may make us do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// An answer is longer than what it may be.
    AnswerBytes,
    /// It was tried as often as allowed.
    Attempts,
    /// Nothing came for too long.
    Patience,
    Redirects,
    /// It asks to be left alone for longer than we wait.
    RetryAfter,
}

impl Limit {
    pub const ALL: [Limit; 5] =
        [Limit::AnswerBytes, Limit::Attempts, Limit::Patience, Limit::Redirects, Limit::RetryAfter];

    pub fn as_str(self) -> &'static str {
        match self {
            Limit::AnswerBytes => "length of a registry's answer",
            Limit::Attempts => "attempts at a request",
            Limit::Patience => "patience with a registry",
            Limit::Redirects => "redirects",
            Limit::RetryAfter => "wait that a registry asks for",
        }
    }

    /// The bound that an error tells of.
    pub(crate) fn of(error: &Error) -> Option<Limit> {
        match error {
            Error::TooLong { .. } => Some(Limit::AnswerBytes),
            Error::Late { .. } | Error::Stalled { .. } => Some(Limit::Patience),
            Error::Redirects { .. } => Some(Limit::Redirects),
            Error::Wait { .. } => Some(Limit::RetryAfter),
            _ => None,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Of answers' bodies: documents, tokens and blobs, those that came twice among them.
    pub fetched_bytes: u64,
    /// Of blobs, those that were sent again among them.
    pub sent_bytes: u64,
    /// Requests that were made again.
    pub retries: u64,
    /// In the order of [`Limit::ALL`].
    pub limits: Vec<(&'static str, u64)>,
}

/// Counts while it goes on. Each number stands alone: no order between them matters.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    fetched_bytes: AtomicU64,
    sent_bytes: AtomicU64,
    retries: AtomicU64,
    limits: [AtomicU64; Limit::ALL.len()],
}

impl Counters {
    pub fn fetched(&self, bytes: usize) {
        self.fetched_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn sent(&self, bytes: usize) {
        self.sent_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub fn reached(&self, limit: Limit) {
        self.limits[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// If it was a bound that ended it.
    pub fn failed(&self, error: &Error) {
        if let Some(limit) = Limit::of(error) {
            self.reached(limit);
        }
    }

    pub fn read(&self) -> Counts {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let limits = Limit::ALL.iter().zip(&self.limits);
        Counts {
            fetched_bytes: load(&self.fetched_bytes),
            sent_bytes: load(&self.sent_bytes),
            retries: load(&self.retries),
            limits: limits.map(|(limit, counter)| (limit.as_str(), load(counter))).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_a_counter_of_its_own() {
        let counters = Counters::default();
        for (times, limit) in Limit::ALL.into_iter().enumerate() {
            for _ in 0..times {
                counters.reached(limit);
            }
        }
        let found = counters.read().limits;
        for (times, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(found[times], (limit.as_str(), times as u64));
        }
    }
}
