//! Datagrams that are queued, taken and dropped, against the network namespace's own counters.

use tenantry_ebpf::{NetworkCounters, UdpDrops};

use crate::child::Child;
use crate::fixture::Fixture;
use crate::socket::{
    LOCALHOST, address, bind, enter_new_namespace, narrow, receive, send_to, stop, udp, udp_v6,
};
use crate::witness::{namespace_counters, namespace_counters_v6, wait_for_stop};

/// Of one protocol: datagrams of 500 bytes to a socket that takes each, and to one that is
/// narrow and takes none.
const TAKEN: u64 = 40;
const TOO_MANY: u64 = 200;
const PAYLOAD: usize = 500;

fn exchange<A>(from: i32, to: i32, narrow_one: i32, addresses: [&A; 2]) -> bool {
    bind(to, addresses[0])
        && bind(narrow_one, addresses[1])
        && narrow(narrow_one)
        && (0..TAKEN)
            .all(|_| send_to(from, PAYLOAD, addresses[0]) && receive(to) == PAYLOAD as isize)
        && (0..TOO_MANY).all(|_| send_to(from, PAYLOAD, addresses[1]))
}

#[test]
fn datagrams_and_drops_are_those_that_the_namespace_counted() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        if !enter_new_namespace() {
            return 2;
        }
        let four = [&address(LOCALHOST, 700), &address(LOCALHOST, 701)];
        if !exchange(udp(), udp(), udp(), four) {
            return 3;
        }
        let ((from, _), (to, open), (narrow_one, full)) = (udp_v6(0), udp_v6(700), udp_v6(701));
        if !exchange(from, to, narrow_one, [&open, &full]) {
            return 4;
        }
        stop();
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    let (four, six) = (namespace_counters(child.pid, &["Udp"]), namespace_counters_v6(child.pid));
    let udp = f.read(1).udp;
    println!(
        "drops: {} of IPv4, {} of IPv6; {udp:?}",
        four["RcvbufErrors"], six["Udp6RcvbufErrors"]
    );

    let each = TAKEN + TOO_MANY;
    assert_eq!([four["OutDatagrams"], six["Udp6OutDatagrams"]], [each, each]);
    let bytes = each * (PAYLOAD as u64 + 28) + each * (PAYLOAD as u64 + 48);
    let expected = NetworkCounters {
        rx_bytes: bytes,
        rx_packets: 2 * each,
        tx_bytes: bytes,
        tx_packets: 2 * each,
    };
    assert_eq!((udp.loopback, udp.external), (expected, NetworkCounters::default()));
    assert!(four["RcvbufErrors"] > 100 && six["Udp6RcvbufErrors"] > 100);
    // A kernel before 6.5 does not tell of IPv6's.
    let of_six = if tells_of_v6() { six["Udp6RcvbufErrors"] } else { 0 };
    let buffer = four["RcvbufErrors"] + of_six;
    assert_eq!(udp.drops, Some(UdpDrops { buffer, memory: 0 }));
}

fn tells_of_v6() -> bool {
    let text = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = text.split('.').map(|number| number.parse::<u32>().unwrap_or_default());
    (numbers.next().unwrap(), numbers.next().unwrap()) >= (6, 5)
}
