//! Which pairs of victim and culprit have series of their own.
//!
//! Who has one keeps it until one of the two is gone. A free seat goes to the pair with the
//! most waiting so far, which then counts from zero: what it had before stays in `other`, so
//! that no series ever falls and nothing is in two of them. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::history::Part;
use super::{Party, Resource, Who};

/// Pairs without a seat whose waits are remembered one by one: beyond, a pair waits for its
/// seat from zero again.
const MAX_STANDING: usize = 8_192;

type Pair = (Arc<Party>, Who, Resource);

#[derive(Debug)]
pub struct Series {
    seats: usize,
    seated: HashMap<Pair, u64>,
    standing: HashMap<Pair, u64>,
    /// Of all pairs that had no seat at the time.
    other: HashMap<Resource, u64>,
}

/// One series; `None` is everything else of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesRow {
    pub pair: Option<(Arc<Party>, Who)>,
    pub resource: Resource,
    pub seconds: f64,
}

/// What one scrape shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shown {
    pub rows: Vec<SeriesRow>,
}

impl Series {
    /// Pairs beyond `seats` are `other`.
    pub fn new(seats: usize) -> Self {
        Self { seats, seated: HashMap::new(), standing: HashMap::new(), other: HashMap::new() }
    }

    /// What grew since the last time.
    pub fn add(&mut self, grown: &[Part]) {
        for part in grown {
            let pair = (Arc::clone(&part.victim), part.culprit.clone(), part.resource);
            if let Some(ns) = self.seated.get_mut(&pair) {
                *ns += part.ns;
                continue;
            }
            if self.seated.len() < self.seats && self.standing.is_empty() {
                self.seated.insert(pair, part.ns);
                continue;
            }
            *self.other.entry(part.resource).or_default() += part.ns;
            if self.standing.len() >= MAX_STANDING && !self.standing.contains_key(&pair) {
                self.standing.clear();
            }
            *self.standing.entry(pair).or_default() += part.ns;
        }
        self.fill();
    }

    fn fill(&mut self) {
        while self.seated.len() < self.seats {
            let most = self
                .standing
                .iter()
                .max_by(|(a, of_a), (b, of_b)| of_a.cmp(of_b).then_with(|| b.cmp(a)));
            let Some(pair) = most.map(|(pair, _)| pair.clone()) else { return };
            self.standing.remove(&pair);
            self.seated.insert(pair, 0);
        }
    }

    /// Containers that are gone give their seats back; their series end.
    pub fn keep(&mut self, is_known: impl Fn(&str) -> bool) {
        let stays = |(victim, culprit, _): &Pair| {
            let culprit_stays = match culprit {
                Who::Container(party) => is_known(&party.id),
                _ => true,
            };
            culprit_stays && is_known(&victim.id)
        };
        self.seated.retain(|pair, _| stays(pair));
        self.standing.retain(|pair, _| stays(pair));
        self.fill();
    }

    pub fn shown(&self) -> Shown {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let mut rows: Vec<SeriesRow> = self
            .seated
            .iter()
            .map(|((victim, culprit, resource), ns)| SeriesRow {
                pair: Some((Arc::clone(victim), culprit.clone())),
                resource: *resource,
                seconds: seconds(*ns),
            })
            .collect();
        rows.extend(self.other.iter().map(|(resource, ns)| SeriesRow {
            pair: None,
            resource: *resource,
            seconds: seconds(*ns),
        }));
        rows.sort_by(|a, b| (&a.pair, a.resource).cmp(&(&b.pair, b.resource)));
        Shown { rows }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(victim: u8, culprit: u8, ns: u64) -> Part {
        let party = |n: u8| Arc::new(Party { id: n.to_string(), name: format!("c{n}") });
        let culprit = if culprit == 0 { Who::Host } else { Who::Container(party(culprit)) };
        Part { victim: party(victim), culprit, resource: Resource::Cpu, ns }
    }

    fn shown(series: &Series) -> Vec<(Option<String>, u64)> {
        let name = |pair: &Option<(Arc<Party>, Who)>| pair.as_ref().map(|(v, _)| v.name.clone());
        let rows = series.shown().rows.into_iter();
        rows.map(|row| (name(&row.pair), (row.seconds * 1e9).round() as u64)).collect()
    }

    #[test]
    fn a_seat_that_is_free_goes_to_who_waited_most_and_counts_from_zero() {
        let mut series = Series::new(1);
        series.add(&[part(1, 2, 5), part(3, 2, 7), part(4, 2, 9)]);
        assert_eq!(shown(&series), [(None, 16), (Some("c1".into()), 5)]);
        series.keep(|id| id != "1");
        assert_eq!(shown(&series), [(None, 16), (Some("c4".into()), 0)]);
        series.add(&[part(4, 2, 3), part(3, 2, 1)]);
        assert_eq!(shown(&series), [(None, 17), (Some("c4".into()), 3)]);
    }

    #[test]
    fn without_seats_everything_is_other() {
        let mut series = Series::new(0);
        series.add(&[part(1, 0, 5), part(1, 2, 6)]);
        assert_eq!(shown(&series), [(None, 11)]);
    }

    proptest! {
        #[test]
        fn no_series_falls_and_all_together_are_everything(
            steps in prop::collection::vec(
                prop::collection::vec((1_u8..6, 0_u8..6, 1_u64..1000), 0..8), 1..30),
            seats in 0_usize..5,
        ) {
            let mut series = Series::new(seats);
            let mut last: HashMap<String, f64> = HashMap::new();
            let mut all = 0;
            for step in steps {
                let parts: Vec<Part> = step.iter().map(|(v, c, ns)| part(*v, *c, *ns)).collect();
                all += step.iter().map(|(_, _, ns)| ns).sum::<u64>();
                series.add(&parts);
                let rows = series.shown().rows;
                prop_assert!(rows.iter().filter(|row| row.pair.is_some()).count() <= seats);
                let now: HashMap<String, f64> =
                    rows.iter().map(|row| (format!("{:?}", row.pair), row.seconds)).collect();
                for (pair, before) in &last {
                    prop_assert!(now[pair] >= *before, "{}", pair);
                }
                let total: f64 = now.values().sum();
                prop_assert_eq!((total * 1e9).round() as u64, all);
                last = now;
            }
        }
    }
}
