//! Which destinations of a container have series of their own.
//!
//! A scrape shows a few destinations by name and the rest as `other`. A counter must not go
//! back when another one comes to the top, hence: who has a series keeps it; a seat that is
//! free goes to whoever has carried the most bytes; and what a destination had before its
//! seat stays in `other`, so that all series together are everything, at each moment, and
//! none ever falls. Pure; the collector keeps one [`Seats`] for each container.

use std::collections::HashMap;

use tenantry_ebpf::{Destination, DestinationCounters, Direction};

/// One destination with a series of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    pub destination: Destination,
    pub counters: DestinationCounters,
}

/// What one scrape shows of a container's destinations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seated {
    pub seats: Vec<Seat>,
    /// Everything else, by direction; `None` where there never was anything.
    pub other: [Option<DestinationCounters>; 2],
}

#[derive(Clone, Debug, Default)]
pub struct Seats {
    /// In the order in which they were given; with what stays in `other`.
    taken: Vec<(Destination, DestinationCounters)>,
    /// What `other` held of the rest when it was shown last.
    standing: HashMap<Destination, DestinationCounters>,
    other_shown: [bool; 2],
}

impl Seats {
    /// `all` has each destination once; `no_room` is what the kernel had no room for, by
    /// direction. At most `seats` destinations have a series.
    pub fn assign(
        &mut self,
        seats: usize,
        all: &[(Destination, DestinationCounters)],
        no_room: [DestinationCounters; 2],
    ) -> Seated {
        let is_taken = |destination| self.taken.iter().any(|(taken, _)| *taken == destination);
        let mut standing: Vec<_> = all.iter().filter(|(one, _)| !is_taken(*one)).copied().collect();
        standing.sort_by(|(a, of_a), (b, of_b)| of_b.bytes().cmp(&of_a.bytes()).then(a.cmp(b)));
        let free = seats.saturating_sub(self.taken.len()).min(standing.len());
        for (destination, _) in standing.drain(..free) {
            let before = self.standing.get(&destination).copied().unwrap_or_default();
            self.taken.push((destination, before));
        }

        let now: HashMap<_, _> = all.iter().copied().collect();
        let mut other = no_room;
        for (destination, counters) in &standing {
            other[place(destination.direction)] += *counters;
        }
        let seats = self.taken.iter().map(|(destination, before)| {
            other[place(destination.direction)] += *before;
            let counters = now.get(destination).copied().unwrap_or_default() - *before;
            Seat { destination: *destination, counters }
        });
        let seats = seats.collect();
        for (shown, other) in self.other_shown.iter_mut().zip(&other) {
            *shown |= *other != DestinationCounters::default();
        }
        self.standing = standing.into_iter().collect();
        let shown = |direction: usize| self.other_shown[direction].then_some(other[direction]);
        Seated { seats, other: [shown(0), shown(1)] }
    }
}

fn place(direction: Direction) -> usize {
    match direction {
        Direction::Outgoing => 0,
        Direction::Incoming => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(number: u8) -> Destination {
        let direction = Direction::ALL[usize::from(number % 2)];
        Destination { direction, address: [10, 0, 0, number].into(), port: 80 }
    }

    fn bytes(sent_bytes: u64) -> DestinationCounters {
        DestinationCounters { sent_bytes, ..DestinationCounters::default() }
    }

    const NONE: [DestinationCounters; 2] =
        [DestinationCounters { connections: 0, failures: 0, sent_bytes: 0, received_bytes: 0 }; 2];

    #[test]
    fn seats_go_to_the_greatest_and_stay() {
        let mut seats = Seats::default();
        let first = seats.assign(1, &[(named(2), bytes(5)), (named(4), bytes(9))], NONE);
        assert_eq!(first.seats, [Seat { destination: named(4), counters: bytes(9) }]);
        assert_eq!(first.other, [Some(bytes(5)), None]);
        let then = seats.assign(1, &[(named(2), bytes(50)), (named(4), bytes(9))], NONE);
        assert_eq!(then.seats, first.seats);
        assert_eq!(then.other, [Some(bytes(50)), None]);
    }

    #[test]
    fn what_was_in_other_stays_there_when_its_destination_gets_a_seat() {
        let mut seats = Seats::default();
        let all = [(named(2), bytes(5)), (named(4), bytes(9))];
        seats.assign(1, &all, NONE);
        let more = seats.assign(2, &[(named(2), bytes(7)), (named(4), bytes(9))], NONE);
        assert_eq!(more.seats[1], Seat { destination: named(2), counters: bytes(2) });
        assert_eq!(more.other, [Some(bytes(5)), None]);
    }

    #[test]
    fn without_seats_everything_is_other() {
        let seated = Seats::default().assign(0, &[(named(1), bytes(3))], [bytes(0), bytes(4)]);
        assert_eq!((seated.seats.len(), seated.other), (0, [None, Some(bytes(7))]));
    }

    proptest! {
        #[test]
        fn no_series_ever_falls_and_all_together_are_everything(
            steps in prop::collection::vec(
                (0_usize..4, prop::collection::vec((0_u8..12, 0_u64..1000), 0..8), 0_u64..9),
                1..30,
            ),
        ) {
            let mut seats = Seats::default();
            let mut truth: HashMap<Destination, DestinationCounters> = HashMap::new();
            let mut no_room = NONE;
            let mut last: HashMap<Option<Destination>, [u64; 2]> = HashMap::new();
            for (free, additions, lost) in steps {
                for (number, more) in additions {
                    *truth.entry(named(number)).or_default() += bytes(more);
                }
                no_room[0] += bytes(lost);
                let all: Vec<_> = truth.iter().map(|(key, value)| (*key, *value)).collect();
                let shown = seats.assign(free, &all, no_room);
                prop_assert!(shown.seats.len() <= 3);
                let mut series: HashMap<Option<Destination>, [u64; 2]> = shown
                    .seats
                    .iter()
                    .map(|seat| (Some(seat.destination), [seat.counters.sent_bytes, 0]))
                    .collect();
                let other = shown.other.map(|other| other.unwrap_or_default().sent_bytes);
                series.insert(None, other);
                for (key, before) in &last {
                    let now = series.get(key).expect("a series stays");
                    prop_assert!(now[0] >= before[0] && now[1] >= before[1], "{key:?}");
                }
                let total: u64 = series.values().flatten().sum();
                let expected: u64 = truth.values().map(|counters| counters.sent_bytes).sum();
                prop_assert_eq!(total, expected + no_room[0].sent_bytes);
                last = series;
            }
        }
    }
}
