//! TCP connections of a slot, as a caller reads them. Pure.

use tenantry_abi as abi;

use crate::{DestinationCounters, Histogram, destinations};

/// Counted since the slot was reset, loopback included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpCounters {
    /// Outgoing connections whose first segment was about to be sent. What is neither
    /// established nor failed is still being tried.
    pub connects_begun: u64,
    pub connects_established: u64,
    pub connects_failed: u64,
    /// Connections that finished their handshake with one of the container's listeners,
    /// whether its program took them or not.
    pub accepts: u64,
    /// Of the established and the accepted ones, those that are closed.
    pub closed: u64,
    pub resets_received: u64,
    /// By the container's sockets: a refusal, where there is no socket, is nobody's.
    pub resets_sent: u64,
    /// Segments, first ones of a handshake included.
    pub retransmits: u64,
    /// Segments that found a listener's queue of accepted connections full, as
    /// `ListenOverflows` counts them for a whole network namespace.
    pub listen_overflows: u64,
    /// Connections and attempts that ended with an error, by kind; only kinds that occurred.
    pub failures: Vec<(TcpError, u64)>,
    /// From established to closed.
    pub duration: Histogram,
    /// Smoothed round-trip times, one for each round trip and one at the end, of
    /// connections that leave by a link.
    pub rtt_external: Histogram,
    /// The same, of connections to the container itself.
    pub rtt_loopback: Histogram,
    /// Of destinations beyond the 1,024 that a slot may have, or that found no room; by
    /// [`Direction`](crate::Direction).
    pub other: [DestinationCounters; 2],
}

impl TcpCounters {
    /// Connections that are open now.
    pub fn open(&self) -> u64 {
        // A reader may come between two additions.
        (self.connects_established + self.accepts).saturating_sub(self.closed)
    }

    pub fn failures_of(&self, error: TcpError) -> u64 {
        self.failures.iter().find(|(kind, _)| *kind == error).map_or(0, |(_, count)| *count)
    }
}

/// Why a connection or an attempt ended, as the kernel told its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TcpError {
    /// An attempt that its own program gave up.
    Abandoned,
    Refused,
    TimedOut,
    HostUnreachable,
    NetUnreachable,
    Reset,
    BrokenPipe,
    Other,
}

impl TcpError {
    const ALL: [(usize, TcpError); abi::TCP_ERRORS] = [
        (abi::TCP_NONE, TcpError::Abandoned),
        (abi::TCP_REFUSED, TcpError::Refused),
        (abi::TCP_TIMED_OUT, TcpError::TimedOut),
        (abi::TCP_HOST_UNREACHABLE, TcpError::HostUnreachable),
        (abi::TCP_NET_UNREACHABLE, TcpError::NetUnreachable),
        (abi::TCP_RESET, TcpError::Reset),
        (abi::TCP_BROKEN_PIPE, TcpError::BrokenPipe),
        (abi::TCP_OTHER, TcpError::Other),
    ];

    /// As `errno(3)` names it; `none` where there was no error and `other` for the rest.
    pub fn name(self) -> &'static str {
        match self {
            TcpError::Abandoned => "none",
            TcpError::Refused => "ECONNREFUSED",
            TcpError::TimedOut => "ETIMEDOUT",
            TcpError::HostUnreachable => "EHOSTUNREACH",
            TcpError::NetUnreachable => "ENETUNREACH",
            TcpError::Reset => "ECONNRESET",
            TcpError::BrokenPipe => "EPIPE",
            TcpError::Other => "other",
        }
    }
}

pub(crate) fn counters(life: &abi::Tcp, rtt: &[abi::TcpRtt]) -> TcpCounters {
    TcpCounters {
        connects_begun: life.connects_begun,
        connects_established: life.connects_established,
        connects_failed: life.connects_failed,
        accepts: life.accepts,
        closed: life.closed,
        resets_received: life.resets_received,
        resets_sent: life.resets_sent,
        retransmits: life.retransmits,
        listen_overflows: life.listen_overflows,
        failures: TcpError::ALL
            .iter()
            .map(|(index, error)| (*error, life.failures[*index]))
            .filter(|(_, count)| *count > 0)
            .collect(),
        duration: Histogram::sum([&life.duration].into_iter()),
        rtt_external: Histogram::sum(rtt.iter().map(|copy| &copy.external)),
        rtt_loopback: Histogram::sum(rtt.iter().map(|copy| &copy.loopback)),
        other: [
            destinations::counters(&life.other[usize::from(abi::OUTGOING)]),
            destinations::counters(&life.other[usize::from(abi::INCOMING)]),
        ],
    }
}

/// An empty row for a slot's next holder: sockets of the last one know it by the generation
/// and leave it alone.
pub(crate) fn next_generation(last: &abi::Tcp) -> abi::Tcp {
    let empty: abi::Tcp = zerocopy::FromZeros::new_zeroed();
    abi::Tcp { generation: last.generation.wrapping_add(1), ..empty }
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros;

    use super::*;

    #[test]
    fn errors_are_named_and_those_that_never_occurred_are_left_out() {
        let mut life = abi::Tcp::new_zeroed();
        life.failures[abi::TCP_REFUSED] = 3;
        life.failures[abi::TCP_NONE] = 1;
        let found = counters(&life, &[]);
        assert_eq!(found.failures, [(TcpError::Abandoned, 1), (TcpError::Refused, 3)]);
        assert_eq!(found.failures_of(TcpError::Refused), 3);
        assert_eq!(found.failures_of(TcpError::Reset), 0);
        for (place, (index, _)) in TcpError::ALL.iter().enumerate() {
            assert_eq!(place, *index, "in the order of the kernel's table");
        }
    }

    #[test]
    fn open_is_what_was_established_and_is_not_closed() {
        let check = |established, accepts, closed, expected| {
            let life = abi::Tcp {
                connects_established: established,
                accepts,
                closed,
                ..FromZeros::new_zeroed()
            };
            assert_eq!(counters(&life, &[]).open(), expected);
        };
        check(0, 0, 0, 0);
        check(3, 2, 4, 1);
        check(0, 0, 1, 0);
    }

    #[test]
    fn a_new_holder_gets_an_empty_row_of_another_generation() {
        let last = abi::Tcp { generation: u32::MAX, accepts: 7, ..FromZeros::new_zeroed() };
        let next = next_generation(&last);
        assert_eq!((next.generation, next.accepts), (0, 0));
    }
}
