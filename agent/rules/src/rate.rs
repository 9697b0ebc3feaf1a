//! How many alerts of one rule about one container are told, and how many are held back.

use std::collections::HashMap;

use serde::Serialize;

/// Rules and containers whose alerts are counted apart. Past that, containers that come later
/// share one count for each rule.
const MOST_COUNTS: usize = 4096;
const NS_PER_S: u64 = 1_000_000_000;

/// At most `most` in a window, which begins with the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rate {
    pub most: u64,
    pub window_s: u64,
}

impl Rate {
    /// `10/min`; the windows are `s`, `min`, `h` and `d`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: a number and s, min, h or d, like \"10/min\"");
        let (most, window) = text.split_once('/').ok_or_else(wrong)?;
        let most = most.parse().ok().filter(|most| (1..=1_000_000).contains(most));
        let window_s = match window {
            "s" => 1,
            "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            _ => return Err(wrong()),
        };
        let most = most.ok_or_else(|| format!("{text:?}: 1 to 1000000 alerts"))?;
        Ok(Self { most, window_s })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `held_back`: how many were, since the last that was told.
    Tell {
        held_back: u64,
    },
    HoldBack,
}

/// The counts of one set of rules: a new set begins anew.
#[derive(Debug, Default)]
pub struct Limiter {
    counts: HashMap<(usize, String), Count>,
}

#[derive(Debug)]
struct Count {
    since_ns: u64,
    window_ns: u64,
    told: u64,
    held_back: u64,
}

impl Limiter {
    /// `rule`: its place in the set. `now_ns` is a clock that nobody sets.
    pub fn admit(&mut self, rule: usize, rate: Rate, container: &str, now_ns: u64) -> Verdict {
        let mut key = (rule, container.to_owned());
        if self.counts.len() >= MOST_COUNTS && !self.counts.contains_key(&key) {
            // What these held back and did not tell yet stays in the metric alone.
            self.counts.retain(|_, count| now_ns.saturating_sub(count.since_ns) < count.window_ns);
            if self.counts.len() >= MOST_COUNTS {
                key.1.clear();
            }
        }
        let window_ns = rate.window_s * NS_PER_S;
        let new = || Count { since_ns: now_ns, window_ns, told: 0, held_back: 0 };
        let count = self.counts.entry(key).or_insert_with(new);
        // Events of two CPUs may come a little out of order: that is no new window.
        if now_ns.saturating_sub(count.since_ns) >= window_ns {
            count.since_ns = now_ns;
            count.told = 0;
        }
        if count.told >= rate.most {
            count.held_back += 1;
            return Verdict::HoldBack;
        }
        count.told += 1;
        Verdict::Tell { held_back: std::mem::take(&mut count.held_back) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60 * NS_PER_S;

    #[test]
    fn what_is_too_much_is_held_back_and_told_with_the_next() {
        let rate = Rate::parse("2/min").unwrap();
        let mut limiter = Limiter::default();
        let mut at = |container: &str, now_ns| limiter.admit(0, rate, container, now_ns);
        assert_eq!(at("a", 0), Verdict::Tell { held_back: 0 });
        assert_eq!(at("a", 1), Verdict::Tell { held_back: 0 });
        assert_eq!(at("a", 2), Verdict::HoldBack);
        assert_eq!(at("a", MINUTE - 1), Verdict::HoldBack);
        assert_eq!(at("b", 3), Verdict::Tell { held_back: 0 });
        assert_eq!(at("a", MINUTE), Verdict::Tell { held_back: 2 });
        assert_eq!(at("a", MINUTE - 5), Verdict::Tell { held_back: 0 });
        assert_eq!(at("a", MINUTE + 1), Verdict::HoldBack);
    }

    #[test]
    fn the_counts_have_a_bound_and_what_is_past_it_shares_one() {
        let rate = Rate::parse("1/h").unwrap();
        let mut limiter = Limiter::default();
        for container in 0..MOST_COUNTS {
            let verdict = limiter.admit(0, rate, &container.to_string(), 0);
            assert_eq!(verdict, Verdict::Tell { held_back: 0 });
        }
        assert_eq!(limiter.admit(0, rate, "late", 1), Verdict::Tell { held_back: 0 });
        assert_eq!(limiter.admit(0, rate, "later", 1), Verdict::HoldBack);
        assert_eq!(limiter.admit(0, rate, "0", 1), Verdict::HoldBack);
        assert!(limiter.counts.len() <= MOST_COUNTS + 1);
        // Windows that ended make room.
        limiter.admit(0, rate, "new", 2 * 3600 * NS_PER_S);
        assert_eq!(limiter.counts.len(), 1);
    }

    #[test]
    fn a_rate_is_a_number_in_a_time() {
        let check = |text: &str, most, window_s| {
            assert_eq!(Rate::parse(text), Ok(Rate { most, window_s }), "{text}");
        };
        check("10/min", 10, 60);
        check("1/s", 1, 1);
        check("5/h", 5, 3600);
        check("1000000/d", 1_000_000, 86_400);
        for text in ["", "10", "/min", "10/week", "-1/s", "0/s", "1000001/s", "1.5/s"] {
            assert!(Rate::parse(text).unwrap_err().contains(text), "{text}");
        }
    }
}
