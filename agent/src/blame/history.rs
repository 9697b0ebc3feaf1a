//! The last two minutes of waits. Pure: the caller has the clock and knows the names.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tenantry_ebpf::{Blame, BlamedResource, Culprit, Slot};

use super::{Party, Resource, Row, Who, merge, named};

/// Older ones are forgotten.
const KEPT: Duration = Duration::from_secs(120);
/// What all readings together may hold, some 4 MiB: the oldest go first, and a window is then
/// shorter, as it says itself.
const MAX_PARTS: usize = 65_536;

/// What grew from one reading to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub victim: Arc<Party>,
    pub culprit: Who,
    pub resource: Resource,
    pub ns: u64,
}

#[derive(Debug, Default)]
pub struct History {
    /// As the kernel had it at the last reading.
    before: HashMap<(Slot, Culprit, BlamedResource), u64>,
    /// When that was; `None` before the first.
    last: Option<Duration>,
    readings: VecDeque<Reading>,
    parts: usize,
}

#[derive(Debug)]
struct Reading {
    from: Duration,
    to: Duration,
    parts: Vec<Part>,
}

/// Waits within some time up to the last reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Window {
    /// How long it really is.
    pub seconds: f64,
    /// Longest wait first; all rows of a victim and a resource are its whole wait for it.
    pub rows: Vec<Row>,
}

impl History {
    /// `at` is a clock that only goes forward, `read` the whole table then. What grew since the
    /// last reading; the first one only tells where to begin.
    pub fn add(
        &mut self,
        at: Duration,
        read: &[Blame],
        mut holder: impl FnMut(Slot) -> Option<Arc<Party>>,
    ) -> &[Part] {
        let now: HashMap<_, _> =
            read.iter().map(|one| ((one.victim, one.culprit, one.resource), one.ns)).collect();
        let before = std::mem::replace(&mut self.before, now);
        let Some(from) = self.last.replace(at) else { return &[] };
        let mut known: HashMap<Slot, Option<Arc<Party>>> = HashMap::new();
        let mut holder = |slot| known.entry(slot).or_insert_with(|| holder(slot)).clone();
        let grown = read.iter().filter_map(|one| {
            let had = before.get(&(one.victim, one.culprit, one.resource)).copied();
            // Less than before: its slot began anew.
            let ns = had.filter(|had| *had <= one.ns).map_or(one.ns, |had| one.ns - had);
            if ns == 0 {
                return None;
            }
            let (victim, culprit, resource) = named(one, &mut holder)?;
            Some(Part { victim, culprit, resource, ns })
        });
        let parts: Vec<Part> = grown.collect();
        self.parts += parts.len();
        self.readings.push_back(Reading { from, to: at, parts });
        while let Some(oldest) = self.readings.front()
            && self.readings.len() > 1
            && (oldest.to + KEPT < at || self.parts > MAX_PARTS)
        {
            self.parts -= oldest.parts.len();
            self.readings.pop_front();
        }
        self.readings.back().map_or(&[], |reading| &reading.parts)
    }

    /// What belongs to the last reading, too. Before the first it is nobody's.
    pub fn append(&mut self, parts: Vec<Part>) {
        let Some(reading) = self.readings.back_mut() else { return };
        self.parts += parts.len();
        reading.parts.extend(parts);
    }

    /// When the last reading was.
    pub fn last(&self) -> Option<Duration> {
        self.last
    }

    /// The readings of the last `length`; one that began before counts whole if more than half
    /// of it is in.
    pub fn window(&self, length: Duration) -> Window {
        let Some(last) = self.last else { return Window::default() };
        let begin = last.saturating_sub(length);
        let is_in = |reading: &&Reading| (reading.from + reading.to) / 2 >= begin;
        let readings = || self.readings.iter().filter(is_in);
        let parts = readings().flat_map(|reading| &reading.parts).map(|part| Row {
            victim: Arc::clone(&part.victim),
            culprit: part.culprit.clone(),
            resource: part.resource,
            seconds: part.ns as f64 / 1e9,
        });
        let first = readings().next().map_or(last, |reading| reading.from);
        Window { seconds: (last - first).as_secs_f64(), rows: merge(parts) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(slot: Slot) -> Option<Arc<Party>> {
        (slot < 100).then(|| Arc::new(Party { id: slot.to_string(), name: format!("c{slot}") }))
    }

    fn blame(victim: Slot, culprit: Culprit, ns: u64) -> Blame {
        Blame { victim, culprit, resource: BlamedResource::Cpu, ns }
    }

    fn seconds(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// Victim, culprit and milliseconds.
    fn rows(window: &Window) -> Vec<(&str, &str, u64)> {
        let row = |row: &Row| (row.seconds * 1e3).round() as u64;
        let culprit = |who: &'static str| who;
        window
            .rows
            .iter()
            .map(|one| (one.victim.name.as_str(), culprit(one.culprit.kind()), row(one)))
            .collect()
    }

    #[test]
    fn a_window_is_what_grew_within_it() {
        let mut history = History::default();
        assert_eq!(history.window(seconds(10)), Window::default());
        let at = |ns| [blame(1, Culprit::Slot(2), ns)];
        // What was there before the agent is nobody's of this window.
        assert!(history.add(seconds(0), &at(5_000_000_000), party).is_empty());
        history.add(seconds(1), &at(5_100_000_000), party);
        history.add(seconds(2), &at(5_300_000_000), party);
        history.add(seconds(3), &at(5_300_000_000), party);
        let check = |length, length_s, expected: &[(&str, &str, u64)]| {
            let window = history.window(length);
            assert_eq!((rows(&window).as_slice(), window.seconds), (expected, length_s));
        };
        check(seconds(10), 3.0, &[("c1", "container", 300)]);
        check(seconds(2), 2.0, &[("c1", "container", 200)]);
        check(seconds(1), 1.0, &[]);
    }

    #[test]
    fn a_slot_that_began_anew_counts_from_zero() {
        let mut history = History::default();
        history.add(seconds(0), &[blame(1, Culprit::Host, 900)], party);
        let grown = history.add(seconds(1), &[blame(1, Culprit::Host, 200)], party);
        assert_eq!(grown[0].ns, 200);
    }

    #[test]
    fn a_culprit_that_nobody_knows_is_none_and_such_a_victim_is_left_out() {
        let mut history = History::default();
        history.add(seconds(0), &[], party);
        let read = [blame(1, Culprit::Slot(100), 7), blame(100, Culprit::Slot(1), 8)];
        let grown = history.add(seconds(1), &read, party);
        assert_eq!((grown.len(), &grown[0].culprit), (1, &Who::Unexplained));
    }

    #[test]
    fn what_is_added_counts_with_the_last_reading() {
        let part = || Part {
            victim: party(1).unwrap(),
            culprit: Who::Container(party(2).unwrap()),
            resource: Resource::Memory,
            ns: 40_000_000,
        };
        let mut history = History::default();
        history.append(vec![part()]);
        history.add(seconds(0), &[], party);
        history.append(vec![part()]);
        assert_eq!(history.window(seconds(10)), Window::default());
        for second in 1..4 {
            history.add(seconds(second), &[], party);
            history.append(vec![part()]);
        }
        assert_eq!(rows(&history.window(seconds(10))), [("c1", "container", 120)]);
        assert_eq!(rows(&history.window(seconds(1))), [("c1", "container", 40)]);
        for second in 4..200 {
            history.add(seconds(second), &[], party);
        }
        assert_eq!((history.parts, history.window(seconds(200)).rows.len()), (0, 0));
    }

    #[test]
    fn what_is_old_or_too_much_is_forgotten() {
        let mut history = History::default();
        for second in 0..300 {
            history.add(seconds(second), &[blame(1, Culprit::Host, second * 1_000_000)], party);
        }
        let window = history.window(seconds(1000));
        assert_eq!(rows(&window), [("c1", "host", 121)]);
        assert_eq!(window.seconds, 121.0);

        let mut history = History::default();
        let many = |ns: u64| -> Vec<Blame> {
            (0..9_900)
                .map(|n| blame(1 + n / 99, Culprit::Slot(n % 99 + 101 * (n / 99)), ns))
                .collect()
        };
        for second in 0..20 {
            history.add(seconds(second), &many(second * 1000), party);
        }
        assert!(history.parts <= MAX_PARTS, "{}", history.parts);
        assert!(history.window(seconds(60)).seconds < 19.0);
    }
}
