//! What a caller reads: sums over CPUs, since the slot was reset. Pure.

use tenantry_abi as abi;

use crate::tcp::TcpCounters;
use crate::{
    DnsCounters, EventKind, Histogram, NamespaceCounts, SchedulerCounters, SyscallClass,
    SyscallCount, SyscallErrors,
};

/// Everything that one slot counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotCounters {
    /// Those that were called at all, by number.
    pub syscalls: Vec<SyscallCount>,
    /// The errors among them by syscall and class.
    pub syscall_errors: Vec<SyscallErrors>,
    /// How many of them were made in which namespaces, the slot's own first; each set once.
    pub namespaces: Vec<NamespaceCounts>,
    /// Of the sampled calls (1 in 16), the classes that were seen while sampling was on.
    pub latency: Vec<(SyscallClass, Histogram)>,
    /// Calls of the fsync family, each one while `syscall_enter` was attached.
    pub sync_latency: Histogram,
    /// Through all interfaces but loopback.
    pub external: NetworkCounters,
    pub loopback: NetworkCounters,
    pub udp: UdpCounters,
    /// Waits between runnable and running.
    pub run_queue: Histogram,
    pub scheduler: SchedulerCounters,
    /// Audit events by kind.
    pub events: SlotEvents,
    /// `None` where the kernel takes no program for socket operations.
    pub tcp: Option<TcpCounters>,
    /// What was asked of name servers for the root, and for names that found no room in
    /// [`Meters::read_dns`](crate::Meters::read_dns).
    pub dns_other: DnsCounters,
    /// Execs tried, failed ones included; `None` where the kernel has no trampolines.
    pub exec_attempts: Option<u64>,
}

/// Bytes with network-layer headers, without link-layer ones; packets as segments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
}

/// What of a slot's traffic was UDP; a packet is a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpCounters {
    pub external: NetworkCounters,
    pub loopback: NetworkCounters,
    /// Datagrams received that found no room; `None` where the kernel does not tell. Before
    /// Linux 6.5 it tells of IPv4 alone.
    pub drops: Option<UdpDrops>,
}

/// Datagrams that reached a socket and were not queued there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpDrops {
    /// The socket's receive buffer was full.
    pub buffer: u64,
    /// All UDP sockets of the host together had their share of memory, or there was none.
    pub memory: u64,
}

/// What was delivered through [`EventReader`](crate::EventReader) is `produced - lost`
/// once the ring is empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventCounters {
    pub produced: u64,
    /// Found no room in the ring.
    pub lost: u64,
    /// Left out by the slot's filter: neither produced nor lost.
    pub filtered: u64,
}

/// A slot's events by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotEvents {
    /// By the kind's number.
    pub by_kind: [EventCounters; EVENT_KINDS],
}

impl SlotEvents {
    pub fn of(&self, kind: EventKind) -> EventCounters {
        self.by_kind[kind as usize]
    }
}

/// How many kinds there are.
pub const EVENT_KINDS: usize = abi::EVENT_KINDS;

/// Entries that found no room in a kernel map since the programs were loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Nested cgroups that belong to nobody, though their parent does.
    pub cgroups: u64,
    /// Disk requests not counted: too many (slot, device, operation) triples.
    pub disks: u64,
    /// Disk requests not counted: too many at the devices at once.
    pub requests: u64,
    /// Threads whose switches are not counted.
    pub tasks: u64,
    /// TCP connections not counted: no memory to remember them.
    pub tcp_sockets: u64,
    /// Syscalls of processes in other namespaces, counted as if in their container's own: too
    /// many different sets.
    pub namespaces: u64,
    /// Connections and failures that were added to `other` for want of room.
    pub destinations: u64,
    /// Questions to name servers that were added to `other` for want of room for their names.
    pub dns_names: u64,
    /// Questions whose answers nobody waits for: too many at once from one socket.
    pub dns_questions: u64,
    /// Waits whose culprit is unexplained for want of room: too many pairs of victim and
    /// culprit.
    pub blame: u64,
    /// Requests whose waits are blamed on nobody: too many disks.
    pub disk_services: u64,
    /// Foreign containers that were born when no slot was in reserve: user space registered
    /// them a little later.
    pub pool: u64,
    /// Foreign containers' comings and goings that nobody was told of.
    pub cgroup_events: u64,
}

impl Lost {
    /// By the map's name.
    pub fn by_map(&self) -> [(&'static str, u64); 13] {
        [
            ("cgroup_slots", self.cgroups),
            ("disks", self.disks),
            ("requests", self.requests),
            ("tasks", self.tasks),
            ("tcp_sockets", self.tcp_sockets),
            ("namespace_syscalls", self.namespaces),
            ("destinations", self.destinations),
            ("dns_names", self.dns_names),
            ("dns_sockets", self.dns_questions),
            ("blame", self.blame),
            ("disk_services", self.disk_services),
            ("slot_pool", self.pool),
            ("cgroup_events", self.cgroup_events),
        ]
    }
}

pub(crate) fn latency(copies: &[abi::SyscallLatency]) -> Vec<(SyscallClass, Histogram)> {
    SyscallClass::ALL
        .iter()
        .map(|class| {
            let of_class = copies.iter().map(|copy| &copy.classes[*class as usize]);
            (*class, Histogram::sum(of_class))
        })
        .filter(|(_, histogram)| histogram.count > 0)
        .collect()
}

pub(crate) fn udp(copies: &[abi::Network], drops_are_told: bool) -> UdpCounters {
    let drops = |why: usize| copies.iter().map(|copy| copy.udp_drops[why]).sum();
    UdpCounters {
        external: traffic(copies.iter().map(|copy| &copy.udp_external)),
        loopback: traffic(copies.iter().map(|copy| &copy.udp_loopback)),
        drops: drops_are_told
            .then(|| UdpDrops { buffer: drops(abi::UDP_BUFFER), memory: drops(abi::UDP_MEMORY) }),
    }
}

pub(crate) fn traffic<'a>(copies: impl Iterator<Item = &'a abi::Traffic>) -> NetworkCounters {
    copies.fold(NetworkCounters::default(), |sum, copy| NetworkCounters {
        rx_bytes: sum.rx_bytes + copy.rx_bytes,
        rx_packets: sum.rx_packets + copy.rx_packets,
        tx_bytes: sum.tx_bytes + copy.tx_bytes,
        tx_packets: sum.tx_packets + copy.tx_packets,
    })
}

pub(crate) fn events(counts: &abi::EventCounts) -> SlotEvents {
    let by_kind = std::array::from_fn(|kind| EventCounters {
        produced: counts.produced[kind],
        lost: counts.lost[kind],
        filtered: counts.filtered[kind],
    });
    SlotEvents { by_kind }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn datagrams_and_drops_are_summed_over_processors() {
        let mut copy = abi::Network::new_zeroed();
        copy.udp_external.rx_packets = 3;
        copy.udp_loopback.tx_bytes = 5;
        copy.udp_drops[abi::UDP_BUFFER] = 7;
        let sum = udp(&[copy, copy], true);
        assert_eq!((sum.external.rx_packets, sum.loopback.tx_bytes), (6, 10));
        assert_eq!(sum.drops, Some(UdpDrops { buffer: 14, memory: 0 }));
        assert_eq!(udp(&[copy], false).drops, None);
    }

    #[test]
    fn latency_is_by_class() {
        let mut copy = abi::SyscallLatency::new_zeroed();
        copy.classes[SyscallClass::Poll as usize].buckets[20] = 5;
        let classes = latency(&[copy, copy]);
        assert_eq!(classes.len(), 1);
        assert_eq!((classes[0].0, classes[0].1.count), (SyscallClass::Poll, 10));
    }
}
