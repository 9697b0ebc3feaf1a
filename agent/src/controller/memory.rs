//! Whom a container waited for when it stood still for want of memory: there is no queue with
//! names in it, so the time is shared out by who took memory meanwhile. Pure.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tenantry_control::{Blame, Culprit, Rates, Resource};

use crate::blame::{Part, Party, Who};

const PAGE_BYTES: f64 = 4096.0;

/// What one container did about memory in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken<'a> {
    pub id: &'a str,
    /// Share of the time in which some thread of it stood still for memory.
    pub stalled: f64,
    /// What it takes is the host's doing: the agent runs in it.
    pub of_host: bool,
    /// The kernel held it back at a limit of its own, now or lately. How much it uses tells
    /// less: reclaim at the limit frees some, so that a look finds it below as often as not.
    pub hit_limit: bool,
    /// Bytes by which its use grew, a second; 0 if it fell.
    pub growth_per_s: f64,
    /// Pages that it had to read again, a second.
    pub refaults_per_s: f64,
}

impl Taken<'_> {
    /// Bytes that it made the kernel find among everybody's, a second. Who came to a limit of
    /// its own took what it grew by; what it reads again it takes from itself.
    fn demand(&self) -> f64 {
        let read_again = if self.hit_limit { 0.0 } else { self.refaults_per_s * PAGE_BYTES };
        self.growth_per_s.max(0.0) + read_again
    }
}

/// The rows of all who stalled; those of one victim add up to its stall. Who came to a limit of
/// its own stood still for that.
pub fn blame(all: &[Taken]) -> Vec<Blame> {
    let demand: f64 = all.iter().map(Taken::demand).sum();
    let rows_of = |victim: &Taken| -> Vec<Blame> {
        let row = |culprit: Culprit, share: f64| Blame {
            victim: victim.id.to_owned(),
            culprit,
            resource: Resource::Memory,
            seconds_per_second: victim.stalled * share,
        };
        if victim.hit_limit {
            return vec![row(Culprit::Quota, 1.0)];
        }
        if demand <= 0.0 {
            return vec![row(Culprit::Unexplained, 1.0)];
        }
        let shares = all.iter().filter(|taker| taker.demand() > 0.0).map(|taker| {
            let culprit = match taker.id == victim.id {
                true => Culprit::Itself,
                false if taker.of_host => Culprit::Host,
                false => Culprit::Container(taker.id.to_owned()),
            };
            row(culprit, taker.demand() / demand)
        });
        shares.collect()
    };
    all.iter().filter(|victim| victim.stalled > 0.0).flat_map(rows_of).collect()
}

/// The same rows, as they are kept beside the kernel's.
pub fn parts(rates: &Rates) -> Vec<Part> {
    let rows: Vec<&Blame> =
        rates.blame.iter().filter(|row| row.resource == Resource::Memory).collect();
    if rows.is_empty() {
        return Vec::new();
    }
    let party = |id: &str, name: &str| Arc::new(Party { id: id.to_owned(), name: name.to_owned() });
    let parties: HashMap<&str, Arc<Party>> =
        rates.containers.iter().map(|one| (one.id.as_str(), party(&one.id, &one.name))).collect();
    let who = |culprit: &Culprit| match culprit {
        Culprit::Container(id) => {
            parties.get(id.as_str()).map_or(Who::Unexplained, |party| Who::Container(party.clone()))
        }
        Culprit::Itself => Who::Itself,
        Culprit::Host => Who::Host,
        Culprit::Quota => Who::Quota,
        Culprit::Steal => Who::Steal,
        Culprit::Unexplained => Who::Unexplained,
    };
    let part = |row: &Blame| {
        Some(Part {
            victim: parties.get(row.victim.as_str())?.clone(),
            culprit: who(&row.culprit),
            resource: Resource::Memory,
            ns: (row.seconds_per_second * rates.interval_ms as f64 * 1e6).round() as u64,
        })
    };
    rows.into_iter().filter_map(part).collect()
}

/// Whether it is worth to look at everybody's memory: some task of the host stood still for it
/// now or lately. While none does, no container's can.
#[derive(Debug, Default)]
pub struct Shortage {
    stalled_usec: Option<u64>,
    lasts_until: Option<Duration>,
}

/// So that a container that stalls now and then is looked at twice, without a gap.
const SHORTAGE_LASTS: Duration = Duration::from_secs(10);

impl Shortage {
    /// `at`: a clock that only goes forward. `None`: the kernel does not tell; nor will a
    /// container's files.
    pub fn is_there(&mut self, at: Duration, stalled_usec: Option<u64>) -> bool {
        let before = std::mem::replace(&mut self.stalled_usec, stalled_usec);
        if before.is_some() && stalled_usec > before {
            self.lasts_until = Some(at + SHORTAGE_LASTS);
        }
        self.lasts_until.is_some_and(|until| at <= until)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(id: &str, stalled: f64, growth_per_s: f64) -> Taken<'_> {
        Taken { id, stalled, growth_per_s, ..Taken::default() }
    }

    #[test]
    fn a_stall_is_shared_out_by_who_took_memory() {
        let reader = Taken { refaults_per_s: 256.0, ..taken("reader", 0.0, 0.0) };
        let rows = blame(&[taken("web", 0.4, 0.0), taken("hog", 0.0, 3.0 * 1048576.0), reader]);
        let row = |id: &str| {
            let culprit = Culprit::Container(id.into());
            rows.iter().find(|row| row.culprit == culprit).unwrap().seconds_per_second
        };
        assert_eq!(rows.len(), 2);
        assert!((row("hog") - 0.3).abs() < 1e-9);
        assert!((row("reader") - 0.1).abs() < 1e-9);
    }

    #[test]
    fn who_came_to_its_own_limit_blames_nobody_and_is_blamed_for_its_growth_alone() {
        let full =
            |growth| Taken { hit_limit: true, refaults_per_s: 1000.0, ..taken("web", 0.5, growth) };
        let check = |growth, expected: Culprit| {
            let rows = blame(&[full(growth), taken("other", 0.2, 0.0)]);
            assert_eq!((rows.len(), &rows[0].culprit), (2, &Culprit::Quota));
            assert_eq!((rows[1].seconds_per_second, &rows[1].culprit), (0.2, &expected));
        };
        check(0.0, Culprit::Unexplained);
        check(5e6, Culprit::Container("web".into()));
    }

    #[test]
    fn what_holds_the_agent_is_blamed_as_the_host() {
        let agent = Taken { of_host: true, ..taken("tenantry.service", 0.1, 1e6) };
        let rows = blame(&[agent, taken("web", 0.2, 0.0)]);
        let culprits: Vec<&Culprit> = rows.iter().map(|row| &row.culprit).collect();
        assert_eq!(culprits, [&Culprit::Itself, &Culprit::Host]);
    }

    #[test]
    fn everybody_is_looked_at_while_somebody_stalls_and_for_a_while_after() {
        let mut shortage = Shortage::default();
        let mut check = |at, stalled, expected| {
            assert_eq!(shortage.is_there(Duration::from_secs(at), stalled), expected, "at {at}");
        };
        // What was before the agent says nothing.
        check(0, Some(700), false);
        check(1, Some(700), false);
        check(2, Some(701), true);
        check(12, Some(701), true);
        check(13, Some(701), false);
        check(14, Some(900), true);
        check(15, None, true);
        check(25, None, false);
    }

    #[test]
    fn what_is_kept_has_names_and_adds_up_to_the_stall() {
        let container = |id: &str| tenantry_control::ContainerRates {
            id: id.into(),
            name: format!("the {id}"),
            ..Default::default()
        };
        let hog = Taken { refaults_per_s: 100.0, ..taken("hog", 0.0, 1e6) };
        let rates = Rates {
            interval_ms: 500,
            containers: vec![container("hog"), container("web")],
            blame: blame(&[taken("web", 0.4, 3e5), hog]),
            ..Rates::default()
        };
        let parts = parts(&rates);
        let names: Vec<(&str, &str)> =
            parts.iter().map(|part| (part.victim.name.as_str(), part.culprit.kind())).collect();
        assert_eq!(names, [("the web", "self"), ("the web", "container")]);
        let all: u64 = parts.iter().map(|part| part.ns).sum();
        assert!(all.abs_diff(200_000_000) <= 2, "{all}");
        assert!(super::parts(&Rates::default()).is_empty());
    }

    proptest! {
        #[test]
        fn a_victims_rows_add_up_to_its_stall(
            all in proptest::collection::vec((0.0f64..1.0, 0.0f64..1e9, 0.0f64..1e5), 1..8)
        ) {
            let ids: Vec<String> = (0..all.len()).map(|i| i.to_string()).collect();
            let all: Vec<Taken> = all
                .iter()
                .zip(&ids)
                .map(|((stalled, growth, refaults), id)| Taken {
                    refaults_per_s: *refaults,
                    ..taken(id, *stalled, *growth)
                })
                .collect();
            let rows = blame(&all);
            for victim in &all {
                let sum: f64 = rows
                    .iter()
                    .filter(|row| row.victim == victim.id)
                    .map(|row| row.seconds_per_second)
                    .sum();
                prop_assert!((sum - victim.stalled).abs() <= 1e-9);
            }
        }
    }
}
