//! The last changes of limits, in the order in which they were made.
//!
//! Bounded for each container and in all: the oldest goes, and is counted. Whoever changes a
//! limit tells it here; one who writes them down ([`LimitHistory::attach`]) hears each one
//! before whoever made the change has its answer.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::limit_changes::{ChangeKind, LimitChange, Party};

pub const MOST_OF_ONE: usize = 64;
pub const MOST_IN_ALL: usize = 1024;

type Listener = Box<dyn Fn(&LimitChange) + Send + Sync>;

#[derive(Default)]
pub struct LimitHistory {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    kept: VecDeque<Arc<LimitChange>>,
    counts: LimitCounts,
    listener: Option<Listener>,
}

/// Since the agent began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitCounts {
    pub changes: BTreeMap<(Party, ChangeKind), u64>,
    /// Changes that are not kept any more for want of room.
    pub forgotten: u64,
}

impl LimitHistory {
    /// `listener` hears what is kept already, then everything that comes, one at a time. It
    /// must not come back here.
    pub fn attach(&self, listener: Listener) {
        let mut inner = self.lock();
        inner.kept.iter().for_each(|change| listener(change));
        inner.listener = Some(listener);
    }

    pub fn record(&self, changes: impl IntoIterator<Item = LimitChange>) {
        let mut inner = self.lock();
        for change in changes {
            if let Some(listener) = &inner.listener {
                listener(&change);
            }
            inner.keep(change);
        }
    }

    /// A container's, the oldest first.
    pub fn of(&self, id: &str) -> Vec<Arc<LimitChange>> {
        let inner = self.lock();
        inner.kept.iter().filter(|change| change.container.id == id).cloned().collect()
    }

    /// The container is gone for good.
    pub fn forget(&self, id: &str) {
        self.lock().kept.retain(|change| change.container.id != id);
    }

    pub fn counts(&self) -> LimitCounts {
        self.lock().counts.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A listener that panicked left the list whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn keep(&mut self, change: LimitChange) {
        *self.counts.changes.entry((change.party, change.kind)).or_default() += 1;
        let is_of_it = |kept: &Arc<LimitChange>| kept.container.id == change.container.id;
        let full = self.kept.iter().filter(|kept| is_of_it(kept)).count() >= MOST_OF_ONE;
        let oldest = match full {
            true => self.kept.iter().position(is_of_it),
            false => (self.kept.len() >= MOST_IN_ALL).then_some(0),
        };
        if let Some(oldest) = oldest {
            self.kept.remove(oldest);
            self.counts.forgotten += 1;
        }
        self.kept.push_back(Arc::new(change));
    }
}

impl fmt::Debug for LimitHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimitHistory").field("counts", &self.lock().counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit_changes::{Difference, Subject};

    fn change(id: &str, number: usize) -> LimitChange {
        LimitChange {
            unix_ns: number as u64,
            container: Subject { id: id.into(), ..Subject::default() },
            party: Party::Operator,
            kind: ChangeKind::Set,
            difference: Difference {
                limit: "pids.max".into(),
                before: "max".into(),
                after: number.to_string(),
            },
            reason: String::new(),
            lease: None,
            cause: None,
        }
    }

    fn numbers(history: &LimitHistory, id: &str) -> Vec<u64> {
        history.of(id).iter().map(|change| change.unix_ns).collect()
    }

    #[test]
    fn one_container_s_changes_drive_out_its_own_oldest_alone() {
        let history = LimitHistory::default();
        history.record([change("quiet", 1)]);
        history.record((0..MOST_OF_ONE + 3).map(|number| change("busy", number)));
        assert_eq!(numbers(&history, "quiet"), [1]);
        let expected: Vec<u64> = (3..MOST_OF_ONE as u64 + 3).collect();
        assert_eq!(numbers(&history, "busy"), expected);
        let counts = history.counts();
        assert_eq!(counts.forgotten, 3);
        let all = MOST_OF_ONE as u64 + 4;
        assert_eq!(counts.changes, BTreeMap::from([((Party::Operator, ChangeKind::Set), all)]));
    }

    #[test]
    fn all_of_them_have_one_bound_and_who_is_gone_makes_room() {
        let history = LimitHistory::default();
        history.record((0..MOST_IN_ALL + 5).map(|number| change(&number.to_string(), number)));
        assert_eq!(history.counts().forgotten, 5);
        assert!(history.of("4").is_empty());
        assert_eq!(numbers(&history, "5"), [5]);
        history.forget("6");
        assert!(history.of("6").is_empty());
        history.record([change("new", 7)]);
        assert_eq!(history.counts().forgotten, 5);
        assert_eq!(numbers(&history, "5"), [5]);
    }

    #[test]
    fn a_listener_hears_everything_in_order_also_what_was_before_it() {
        let history = LimitHistory::default();
        history.record([change("a", 1), change("b", 2)]);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let ears = heard.clone();
        history.attach(Box::new(move |change| ears.lock().unwrap().push(change.unix_ns)));
        history.record([change("a", 3)]);
        assert_eq!(*heard.lock().unwrap(), [1, 2, 3]);
    }
}
