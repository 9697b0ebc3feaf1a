//! How many series one scrape may have. Pure.
//!
//! A scrape is cut at one place: from the first series that does not fit, nothing more is
//! written, so that the order of the families is the order of their worth: the agent's own
//! first, then lives and limits of the containers, then what the kernel counted, syscalls by
//! name and namespaces last; within a family containers by name. A histogram is written whole
//! or not at all.

/// What is left of a scrape's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Budget {
    left: u64,
    pub served: u64,
    pub dropped: u64,
}

impl Budget {
    pub fn new(max_series: u64) -> Self {
        Self { left: max_series, served: 0, dropped: 0 }
    }

    /// Whether `lines` series (one, or a whole histogram's) may be written; they count as
    /// served or as dropped from here on.
    pub fn take(&mut self, lines: u64) -> bool {
        if lines <= self.left {
            self.left -= lines;
            self.served += lines;
            return true;
        }
        self.left = 0;
        self.dropped += lines;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_the_first_series_that_does_not_fit_nothing_more_is_written() {
        let mut budget = Budget::new(10);
        assert!(budget.take(1));
        assert!(budget.take(8));
        // A histogram of five does not fit into the one that is left, and ends the scrape.
        assert!(!budget.take(5));
        assert!(!budget.take(1));
        assert_eq!((budget.served, budget.dropped), (9, 6));
    }

    #[test]
    fn exactly_as_many_as_fit_are_served() {
        let mut budget = Budget::new(3);
        assert!((0..3).all(|_| budget.take(1)));
        assert!(!budget.take(1));
        assert_eq!(budget, Budget { left: 0, served: 3, dropped: 1 });
    }
}
