//! Whom a container waited for when it stood still for want of memory: there is no queue with
//! names in it, so the time is shared out by who took memory: meanwhile, if the container had
//! to wait until the kernel found some, and at the time of the loss, if it had to read again
//! what it had lost. The kernel's pressure for memory has the second kind only of pages that
//! were in use lately, so there the disk's pressure counts, too. Pure.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tenantry_control::{Blame, Culprit, Rates, Resource};

use crate::blame::{Part, Party, Who};

pub const PAGE_BYTES: f64 = 4096.0;

/// What one container did about memory in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken<'a> {
    pub id: &'a str,
    /// Share of the time in which some thread of it stood still for memory.
    pub stalled: f64,
    /// Share of the time in which some thread waited for a disk to bring back what had been
    /// reclaimed. The kernel may have counted some of it as `stalled`, too.
    pub read_again: f64,
    /// What it takes is the host's doing: the agent runs in it.
    pub of_host: bool,
    /// The kernel held it back at a limit of its own, now or lately. How much it uses tells
    /// less: reclaim at the limit frees some, so that a look finds it below as often as not.
    pub hit_limit: bool,
    /// Bytes by which its use grew, a second; 0 if it fell.
    pub growth_per_s: f64,
    /// Pages that it had to read again, a second.
    pub refaults_per_s: f64,
    /// Bytes that were reclaimed from it, a second.
    pub lost_per_s: f64,
    /// Bytes of what it had lost that may be there again, a second.
    pub regained_per_s: f64,
}

impl Taken<'_> {
    /// Bytes that it made the kernel find among everybody's, a second. Who came to a limit of
    /// its own took what it grew by; what it reads again it takes from itself.
    fn demand(&self) -> f64 {
        let read_again = if self.hit_limit { 0.0 } else { self.refaults_per_s * PAGE_BYTES };
        self.growth_per_s.max(0.0) + read_again
    }

    /// Who took memory, and how much of all that was taken; nobody if none was.
    fn takers(&self, all: &[Taken]) -> Vec<(Culprit, f64)> {
        let demand = total(all);
        let share = |taker: &Taken| {
            let culprit = match taker.id == self.id {
                true => Culprit::Itself,
                false if taker.of_host => Culprit::Host,
                false => Culprit::Container(taker.id.to_owned()),
            };
            (culprit, taker.demand() / demand)
        };
        all.iter().filter(|taker| taker.demand() > 0.0).map(share).collect()
    }
}

/// After so long, half of what was lost and not read again is no longer missed.
const MISSED_HALF_LIFE_S: f64 = 30.0;

/// What a container lost lately, by who took memory at that time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Missed {
    /// An entry for each that took some.
    bytes: BTreeMap<Culprit, f64>,
    /// So many came back in the last interval: that was a wait for them, and the last one.
    regained_bytes: f64,
}

impl Missed {
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What is still missed of it an interval of `seconds` later.
    pub fn fade(&mut self, seconds: f64) {
        let regained = std::mem::take(&mut self.regained_bytes) / self.sum();
        let left = (1.0 - regained).max(0.0) * 0.5_f64.powf(seconds / MISSED_HALF_LIFE_S);
        self.bytes.values_mut().for_each(|bytes| *bytes *= left);
        self.bytes.retain(|_, bytes| *bytes >= PAGE_BYTES);
    }

    /// What `victim` lost and regained in an interval of `seconds`. What goes at its own limit
    /// is nobody's doing. What goes because it reads again what it had lost is the doing of
    /// those who took that.
    pub fn add(&mut self, victim: &Taken, all: &[Taken], seconds: f64) {
        self.regained_bytes = victim.regained_per_s * seconds;
        let demand = total(all);
        if victim.hit_limit || victim.lost_per_s <= 0.0 || demand <= 0.0 {
            return;
        }
        let (had, before) = (self.sum(), self.bytes.clone());
        let own = Taken { growth_per_s: 0.0, ..*victim }.demand() / demand;
        for (culprit, share) in victim.takers(all) {
            let is_passed_on = had > 0.0 && culprit == Culprit::Itself;
            let share = if is_passed_on { (share - own).max(0.0) } else { share };
            *self.bytes.entry(culprit).or_default() += share * victim.lost_per_s * seconds;
        }
        for (culprit, bytes) in before {
            let share = own * bytes / had;
            *self.bytes.entry(culprit).or_default() += share * victim.lost_per_s * seconds;
        }
    }

    /// Whom to blame for the reading of so many bytes again, and for how much of it. What went
    /// when nobody looked, or long ago, is in nobody's share.
    fn takers(&self, bytes: f64) -> impl Iterator<Item = (Culprit, f64)> {
        let all = self.sum().max(bytes);
        self.bytes.iter().map(move |(culprit, taken)| (culprit.clone(), taken / all))
    }

    fn sum(&self) -> f64 {
        self.bytes.values().sum()
    }
}

fn total(all: &[Taken]) -> f64 {
    all.iter().map(Taken::demand).sum()
}

/// The rows of all who stalled; those of one victim add up to its stall. Who came to a limit of
/// its own stood still for that. `missed`: of a container, by its id.
pub fn blame<'a>(
    all: &[Taken],
    seconds: f64,
    missed: impl Fn(&str) -> Option<&'a Missed>,
) -> Vec<Blame> {
    let rows_of = |victim: &Taken| -> Vec<Blame> {
        let stalled = victim.stalled.max(victim.read_again);
        let row = |(culprit, seconds_per_second): (Culprit, f64)| Blame {
            victim: victim.id.to_owned(),
            culprit,
            resource: Resource::Memory,
            seconds_per_second,
        };
        if victim.hit_limit {
            return vec![row((Culprit::Quota, stalled))];
        }
        let mut shares: BTreeMap<Culprit, f64> = BTreeMap::new();
        let bytes = victim.refaults_per_s * PAGE_BYTES * seconds;
        for (culprit, share) in missed(victim.id).into_iter().flat_map(|m| m.takers(bytes)) {
            // It has ended: nobody who could be asked to leave room.
            let is_there = culprit.container().is_none_or(|id| all.iter().any(|one| one.id == id));
            let culprit = if is_there { culprit } else { Culprit::Unexplained };
            *shares.entry(culprit).or_default() += victim.read_again * share;
        }
        for (culprit, share) in victim.takers(all) {
            *shares.entry(culprit).or_default() += (stalled - victim.read_again) * share;
        }
        let explained: f64 = shares.values().sum();
        *shares.entry(Culprit::Unexplained).or_default() += (stalled - explained).max(0.0);
        shares.into_iter().filter(|(_, share)| *share > LEAST_SHARE).map(row).collect()
    };
    let stands_still = |victim: &&Taken| victim.stalled > 0.0 || victim.read_again > 0.0;
    all.iter().filter(stands_still).flat_map(rows_of).collect()
}

/// Less is what a sum of rounded numbers leaves.
const LEAST_SHARE: f64 = 1e-12;

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

    /// Without a past, in a second.
    fn now(all: &[Taken]) -> Vec<Blame> {
        blame(all, 1.0, |_| None)
    }

    const MIB: f64 = 1048576.0;

    /// Reads 2 MiB a second again, for which it waits a tenth of the time.
    fn reader(lost_per_s: f64) -> Taken<'static> {
        Taken {
            read_again: 0.1,
            refaults_per_s: 2.0 * MIB / PAGE_BYTES,
            lost_per_s,
            ..taken("web", 0.01, 0.0)
        }
    }

    #[test]
    fn a_stall_is_shared_out_by_who_took_memory() {
        let reader = Taken { refaults_per_s: 256.0, ..taken("reader", 0.0, 0.0) };
        let rows = now(&[taken("web", 0.4, 0.0), taken("hog", 0.0, 3.0 * 1048576.0), reader]);
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
            let rows = now(&[full(growth), taken("other", 0.2, 0.0)]);
            assert_eq!((rows.len(), &rows[0].culprit), (2, &Culprit::Quota));
            assert_eq!((rows[1].seconds_per_second, &rows[1].culprit), (0.2, &expected));
        };
        check(0.0, Culprit::Unexplained);
        check(5e6, Culprit::Container("web".into()));
    }

    /// Shares of its wait, in per cent, by culprit.
    fn shares(all: &[Taken], missed: &Missed) -> Vec<(Culprit, f64)> {
        let rows = blame(all, 1.0, |_| Some(missed));
        rows.into_iter().map(|row| (row.culprit, (row.seconds_per_second * 1e3).round())).collect()
    }

    #[test]
    fn who_reads_again_what_it_lost_blames_who_took_it_then_and_not_who_takes_now() {
        let hog = |growth| taken("hog", 0.0, growth);
        let late = |growth| taken("late", 0.0, growth);
        let container = |id: &str| Culprit::Container(id.into());
        let mut missed = Missed::default();
        // Of what is taken the reader takes a fourth itself.
        missed.add(&reader(40.0 * MIB), &[reader(0.0), hog(6.0 * MIB), late(0.0)], 1.0);
        let all = [reader(0.0), hog(0.0), late(9e9)];
        let expected = [(container("hog"), 75.0), (Culprit::Itself, 25.0)];
        assert_eq!(shares(&all, &missed), expected);
        // What is missed fades; in three minutes 40 / 64 MiB are left for the 2 that are read.
        missed.fade(180.0);
        let left = 0.625 / 2.0 * 100.0;
        let check = |culprit, share: f64| {
            let found = shares(&all, &missed).into_iter().find(|(who, _)| *who == culprit);
            assert_eq!(found.expect("a row").1, share.round());
        };
        check(container("hog"), left * 0.75);
        check(Culprit::Unexplained, 100.0 - left);
        // Who has ended is nobody.
        let expected = [(Culprit::Itself, 8.0), (Culprit::Unexplained, 92.0)];
        assert_eq!(shares(&[reader(0.0)], &missed), expected);
        missed.fade(1800.0);
        assert_eq!(missed, Missed::default());
    }

    #[test]
    fn what_is_there_again_is_no_longer_missed() {
        let hog = Culprit::Container("hog".into());
        let taker = taken("hog", 0.0, 6.0 * MIB);
        let mut missed = Missed::default();
        let idle = Taken { refaults_per_s: 0.0, ..reader(40.0 * MIB) };
        missed.add(&idle, &[idle, taker], 1.0);
        let back = Taken { regained_per_s: 30.0 * MIB, ..reader(0.0) };
        missed.add(&back, &[back, taker], 1.0);
        // It was still missed when it was waited for.
        assert_eq!(missed.bytes, BTreeMap::from([(hog.clone(), 40.0 * MIB)]));
        missed.fade(0.0);
        assert_eq!(missed.bytes, BTreeMap::from([(hog, 10.0 * MIB)]));
        missed.add(&back, &[back, taker], 1.0);
        missed.fade(0.0);
        assert_eq!(missed, Missed::default());
    }

    #[test]
    fn what_goes_because_of_reading_again_is_the_doing_of_who_took_it_first() {
        let mut missed = Missed::default();
        let hog = taken("hog", 0.0, 6.0 * MIB);
        let idle = Taken { refaults_per_s: 0.0, ..reader(40.0 * MIB) };
        missed.add(&idle, &[idle, hog], 1.0);
        // The hog is full, and grows no more.
        let alone = [reader(8.0 * MIB), taken("hog", 0.0, 0.0)];
        missed.add(&alone[0], &alone, 1.0);
        let hog = Culprit::Container("hog".into());
        let found: f64 = missed.bytes.values().sum();
        assert_eq!((missed.bytes.get(&hog), found), (Some(&(48.0 * MIB)), 48.0 * MIB));
        // Without such a past it is its own doing.
        let mut missed = Missed::default();
        missed.add(&alone[0], &alone, 1.0);
        assert_eq!(missed.bytes, BTreeMap::from([(Culprit::Itself, 8.0 * MIB)]));
    }

    #[test]
    fn what_went_when_nobody_looked_or_at_its_own_limit_is_nobodys_doing() {
        let hog = taken("hog", 0.0, 9.0 * MIB);
        assert_eq!(
            shares(&[reader(0.0), hog], &Missed::default()),
            [(Culprit::Unexplained, 100.0)]
        );
        let mut missed = Missed::default();
        missed.add(&reader(0.0), &[reader(0.0), hog], 1.0);
        let full = Taken { hit_limit: true, ..reader(40.0 * MIB) };
        missed.add(&full, &[full, hog], 1.0);
        assert_eq!(missed, Missed::default());
        assert_eq!(shares(&[full, hog], &missed), [(Culprit::Quota, 100.0)]);
    }

    #[test]
    fn a_wait_for_reclaim_beside_reads_is_blamed_on_who_takes_now() {
        let mut missed = Missed::default();
        let web = Taken { stalled: 0.3, ..reader(4.0 * MIB) };
        let then = taken("then", 0.0, 9e12);
        missed.add(&web, &[web, then], 1.0);
        let now = taken("now", 0.0, 9e12);
        let expected = [("now", 200.0), ("then", 100.0)];
        let found: Vec<(String, f64)> = shares(&[web, now, taken("then", 0.0, 0.0)], &missed)
            .into_iter()
            .filter_map(|(culprit, share)| Some((culprit.container()?.to_owned(), share)))
            .collect();
        assert_eq!(found, expected.map(|(id, share)| (id.to_owned(), share)));
    }

    #[test]
    fn what_holds_the_agent_is_blamed_as_the_host() {
        let agent = Taken { of_host: true, ..taken("tenantry.service", 0.1, 1e6) };
        let rows = now(&[agent, taken("web", 0.2, 0.0)]);
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
            blame: now(&[taken("web", 0.4, 3e5), hog]),
            ..Rates::default()
        };
        let parts = parts(&rates);
        let names: Vec<(&str, &str)> =
            parts.iter().map(|part| (part.victim.name.as_str(), part.culprit.kind())).collect();
        assert_eq!(names, [("the web", "container"), ("the web", "self")]);
        let all: u64 = parts.iter().map(|part| part.ns).sum();
        assert!(all.abs_diff(200_000_000) <= 2, "{all}");
        assert!(super::parts(&Rates::default()).is_empty());
    }

    proptest! {
        #[test]
        fn a_victims_rows_add_up_to_its_stall(
            all in proptest::collection::vec(
                (0.0f64..1.0, 0.0f64..1.0, 0.0f64..1e9, 0.0f64..1e5, 0.0f64..1e9),
                1..8,
            )
        ) {
            let ids: Vec<String> = (0..all.len()).map(|i| i.to_string()).collect();
            let all: Vec<Taken> = all
                .iter()
                .zip(&ids)
                .map(|((stalled, read_again, growth, refaults, lost), id)| Taken {
                    read_again: *read_again,
                    refaults_per_s: *refaults,
                    lost_per_s: *lost,
                    ..taken(id, *stalled, *growth)
                })
                .collect();
            let missed: HashMap<&str, Missed> = all
                .iter()
                .map(|victim| {
                    let mut missed = Missed::default();
                    missed.add(victim, &all, 1.0);
                    (victim.id, missed)
                })
                .collect();
            let rows = blame(&all, 1.0, |id| missed.get(id));
            for victim in &all {
                let sum: f64 = rows
                    .iter()
                    .filter(|row| row.victim == victim.id)
                    .map(|row| row.seconds_per_second)
                    .sum();
                prop_assert!((sum - victim.stalled.max(victim.read_again)).abs() <= 1e-9);
            }
        }
    }
}
