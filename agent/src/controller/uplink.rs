//! Whether the queue that containers wait in knows classes: asked for only while some do, and
//! remembered for a while, for a queue that stands does not stand at every moment.

use tenantry_control::{Rates, Resource};

const REMEMBERED_MS: u64 = 30_000;

#[derive(Debug, Default)]
pub struct Uplink {
    /// When a queue that knows classes was last seen standing.
    seen_ms: Option<u64>,
}

impl Uplink {
    /// At this look. `ask`: what stands now, `None` if nothing does or it cannot be read. It is
    /// a walk over all the host's queues, so a yes is not asked for again.
    pub fn has_classes(&mut self, rates: &Rates, ask: impl FnOnce() -> Option<bool>) -> bool {
        let waits = rates.blame.iter().any(|blame| {
            blame.resource == Resource::Network && blame.culprit.container().is_some()
        });
        self.seen_ms = self.seen_ms.filter(|at| rates.at_ms.saturating_sub(*at) < REMEMBERED_MS);
        if self.seen_ms.is_none() && waits && ask() == Some(true) {
            self.seen_ms = Some(rates.at_ms);
        }
        self.seen_ms.is_some()
    }
}

#[cfg(test)]
mod tests {
    use tenantry_control::{Blame, Culprit};

    use super::*;

    fn look(at_ms: u64, resource: Resource, culprit: Culprit) -> Rates {
        let blame = Blame { victim: "web".into(), culprit, resource, seconds_per_second: 0.5 };
        Rates { at_ms, blame: vec![blame], ..Rates::default() }
    }

    #[test]
    fn a_queue_is_looked_for_while_a_neighbour_is_waited_for_and_remembered() {
        let by_neighbour = |at_ms| look(at_ms, Resource::Network, Culprit::Container("b".into()));
        let unasked = || panic!("nobody waits for the network");
        let mut uplink = Uplink::default();
        let cpu = look(0, Resource::Cpu, Culprit::Container("b".into()));
        assert!(!uplink.has_classes(&cpu, unasked));
        assert!(!uplink.has_classes(&look(0, Resource::Network, Culprit::Itself), unasked));
        assert!(!uplink.has_classes(&by_neighbour(1_000), || None));
        assert!(uplink.has_classes(&by_neighbour(2_000), || Some(true)));
        let again = || panic!("it is known");
        assert!(uplink.has_classes(&by_neighbour(31_999), again));
        assert!(uplink.has_classes(&look(31_999, Resource::Cpu, Culprit::Host), again));
        assert!(!uplink.has_classes(&look(32_000, Resource::Cpu, Culprit::Host), unasked));
        assert!(!uplink.has_classes(&by_neighbour(40_000), || Some(false)));
        assert!(uplink.has_classes(&by_neighbour(41_000), || Some(true)));
    }
}
