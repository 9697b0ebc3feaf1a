//! Where a queue stands on its way out of the host, and whether it knows classes.
//!
//! Owns the question alone; `bandwidth` puts senders in the last class. Only what stands is
//! looked at: a host has many links, most of which nobody waits at.

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::tc::TcMessage;

use crate::decode::{self, Link, Qdisc};
use crate::error::Result;
use crate::link;
use crate::netlink::{Netlink, about};

/// `linux/pkt_sched.h`.
const TC_PRIO_BESTEFFORT: usize = 0;
const TC_PRIO_BULK: usize = 2;

/// As [`crate::Network::standing_queue_knows_classes`].
pub(crate) fn look(netlink: &mut Netlink) -> Result<Option<bool>> {
    let message = Message::GetQueueDiscipline(TcMessage::default());
    let queues = netlink.dump(about("list", "qdiscs"), message, decode::qdisc)?;
    let standing = knows_classes(&queues);
    let mut answer = None;
    for (index, knows) in standing {
        if answer != Some(true) && link::find_index(netlink, index)?.is_some_and(leads_out) {
            answer = Some(knows);
        }
    }
    Ok(answer)
}

/// By link where something stands: whether a queue in which it stands knows classes.
fn knows_classes(queues: &[Qdisc]) -> BTreeMap<u32, bool> {
    let mut links = BTreeMap::new();
    for queue in queues.iter().filter(|queue| queue.backlog_bytes > 0) {
        // The kernel keeps no order among bands but their number.
        let knows = queue.bands.is_some_and(|of| of[TC_PRIO_BULK] > of[TC_PRIO_BESTEFFORT]);
        *links.entry(queue.index).or_default() |= knows;
    }
    links
}

/// Not what leads into a container, or holds one back: what stands there waits for nobody else.
fn leads_out(link: Link) -> bool {
    !link.alias.is_some_and(|alias| alias.starts_with("tenantry "))
        && link.kind.as_deref() != Some("ifb")
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: [u8; 16] = [1, 2, 2, 2, 1, 2, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1];

    fn queue(index: u32, kind: &str, backlog_bytes: u32, bands: Option<[u8; 16]>) -> Qdisc {
        let kind = kind.to_owned();
        Qdisc { index, handle: 0, parent: u32::MAX, kind, tbf: None, backlog_bytes, bands }
    }

    #[test]
    fn a_queue_knows_classes_if_it_stands_and_bulk_goes_after_the_rest() {
        let check = |queues: &[Qdisc], expected: &[(u32, bool)]| {
            assert_eq!(knows_classes(queues), expected.iter().copied().collect(), "{queues:?}");
        };
        check(&[], &[]);
        check(&[queue(2, "pfifo_fast", 0, Some(USUAL))], &[]);
        check(&[queue(2, "pfifo_fast", 1500, Some(USUAL))], &[(2, true)]);
        check(&[queue(2, "fq_codel", 1500, None)], &[(2, false)]);
        // One band for all.
        check(&[queue(2, "prio", 1500, Some([1; 16]))], &[(2, false)]);
        // A token bucket counts what stands in the queue inside it.
        let inside = [queue(3, "tbf", 3000, None), queue(3, "pfifo_fast", 3000, Some(USUAL))];
        check(&inside, &[(3, true)]);
        let two = [queue(2, "mq", 10, None), queue(3, "prio", 10, Some(USUAL))];
        check(&two, &[(2, false), (3, true)]);
    }

    #[test]
    fn our_own_links_lead_nowhere() {
        let link = |kind: Option<&str>, alias: Option<&str>| Link {
            index: 1,
            name: "x".into(),
            kind: kind.map(str::to_owned),
            master: None,
            alias: alias.map(str::to_owned),
            counters: Default::default(),
        };
        assert!(leads_out(link(None, None)));
        assert!(leads_out(link(Some("veth"), Some("uplink"))));
        assert!(!leads_out(link(Some("veth"), Some("tenantry br0 web"))));
        assert!(!leads_out(link(Some("ifb"), None)));
    }
}
