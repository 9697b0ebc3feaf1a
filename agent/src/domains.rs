//! Which domains of a container's questions to name servers have series of their own.
//!
//! Names are put together by their registered domain, as the public suffix list has it
//! (compiled in): `a.cdn.example.co.uk` is `example.co.uk`'s. A name that is none's, as a host
//! without a dot, stands for itself. A domain takes a seat when it is first seen, the busiest
//! first, and keeps it; once all are taken, whoever comes is `other` for good, so that no
//! series ever falls. Pure; the collector keeps one [`DomainSeats`] for each container.

use std::collections::BTreeMap;

use tenantry_ebpf::{DnsCounters, DnsQuestions};

/// What one scrape shows of a container's questions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    /// In the order in which they took their seats.
    pub seated: Vec<(String, DnsCounters)>,
    /// Everything else; `None` if there never was anything.
    pub other: Option<DnsCounters>,
}

#[derive(Clone, Debug, Default)]
pub struct DomainSeats {
    taken: Vec<String>,
}

impl DomainSeats {
    /// `no_room` is what belongs to no name. At most `seats` domains have a series.
    pub fn assign(
        &mut self,
        seats: usize,
        questions: DnsQuestions,
        no_room: &DnsCounters,
    ) -> Domains {
        let mut domains = by_domain(questions.names);
        let mut new: Vec<(&String, u64)> = domains
            .iter()
            .filter(|(domain, _)| !self.taken.contains(*domain))
            .map(|(domain, counters)| (domain, counters.queries()))
            .collect();
        new.sort_by(|(a, of_a), (b, of_b)| of_b.cmp(of_a).then(a.cmp(b)));
        new.truncate(seats.saturating_sub(self.taken.len()));
        let new: Vec<String> = new.into_iter().map(|(domain, _)| domain.clone()).collect();
        self.taken.extend(new);

        let seated = self.taken.iter().map(|domain| {
            let counters = domains.remove(domain).unwrap_or_default();
            (domain.clone(), counters)
        });
        let seated = seated.collect();
        let mut other = questions.other + no_room;
        domains.values().for_each(|counters| other += counters);
        Domains { seated, other: (other.queries() > 0).then_some(other) }
    }
}

fn by_domain(names: Vec<(String, DnsCounters)>) -> BTreeMap<String, DnsCounters> {
    let mut domains: BTreeMap<String, DnsCounters> = BTreeMap::new();
    for (name, counters) in names {
        *domains.entry(domain_of(&name).to_owned()).or_default() += &counters;
    }
    domains
}

/// The registered domain of a name in lower case; the name itself where it has none: a public
/// suffix, or a single label.
pub fn domain_of(name: &str) -> &str {
    psl::domain_str(name).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_belong_to_their_registered_domain() {
        let check = |name, expected| assert_eq!(domain_of(name), expected);
        check("www.example.com", "example.com");
        check("example.com", "example.com");
        check("a.b.example.co.uk", "example.co.uk");
        check("co.uk", "co.uk");
        check("db", "db");
        // No public suffix: the last label counts as one.
        check("db.prod.internal", "prod.internal");
        // A suffix of the list's private part: each of its customers is a domain.
        check("me.github.io", "me.github.io");
    }

    fn asked(a: u64) -> DnsCounters {
        DnsCounters { a, ..DnsCounters::default() }
    }

    fn questions(names: &[(&str, u64)]) -> DnsQuestions {
        let names = names.iter().map(|(name, a)| ((*name).to_owned(), asked(*a))).collect();
        DnsQuestions { names, ..DnsQuestions::default() }
    }

    #[test]
    fn the_busiest_of_those_that_come_together_gets_the_seat_and_keeps_it() {
        let mut seats = DomainSeats::default();
        let first = questions(&[("a.one.com", 2), ("b.one.com", 3), ("two.com", 4)]);
        let shown = seats.assign(1, first, &asked(0));
        assert_eq!(shown.seated, [("one.com".to_owned(), asked(5))]);
        assert_eq!(shown.other, Some(asked(4)));
        let then = questions(&[("a.one.com", 2), ("b.one.com", 3), ("two.com", 400)]);
        let shown = seats.assign(1, then, &asked(7));
        assert_eq!(shown.seated, [("one.com".to_owned(), asked(5))]);
        assert_eq!(shown.other, Some(asked(407)));
    }

    #[test]
    fn who_never_asked_has_no_series() {
        let shown = DomainSeats::default().assign(10, DnsQuestions::default(), &asked(0));
        assert_eq!(shown, Domains::default());
    }

    proptest! {
        #[test]
        fn no_series_ever_falls_and_all_together_are_everything(
            steps in prop::collection::vec(
                (prop::collection::vec((0_usize..8, 1_u64..1000), 0..8), 0_u64..9),
                1..20,
            ),
        ) {
            let mut seats = DomainSeats::default();
            let mut truth = [0; 8];
            let mut no_room = 0;
            let mut last: HashMap<Option<String>, u64> = HashMap::new();
            for (additions, lost) in steps {
                additions.into_iter().for_each(|(name, more)| truth[name] += more);
                no_room += lost;
                let names = truth.iter().enumerate().filter(|(_, count)| **count > 0);
                let names =
                    names.map(|(n, count)| (format!("{}.d{}.com", n % 2, n / 2), asked(*count)));
                let all = DnsQuestions { names: names.collect(), ..DnsQuestions::default() };
                let shown = seats.assign(2, all, &asked(no_room));
                prop_assert!(shown.seated.len() <= 2);
                let mut series: HashMap<Option<String>, u64> =
                    shown.seated.into_iter().map(|(one, n)| (Some(one), n.queries())).collect();
                series.insert(None, shown.other.map_or(0, |other| other.queries()));
                for (key, before) in &last {
                    prop_assert!(series.get(key).expect("a series stays") >= before, "{key:?}");
                }
                let sum: u64 = series.values().sum();
                prop_assert_eq!(sum, truth.iter().sum::<u64>() + no_room);
                last = series;
            }
        }
    }
}
