//! Whom a container talks to, and how many bytes went there, to the last one.

use std::sync::atomic::Ordering::Relaxed;

use tenantry_ebpf::{Destination, DestinationCounters, Direction};

use crate::child::{Child, End};
use crate::fixture::{Fixture, wait_until};
use crate::socket::{
    LOCALHOST, accept, close, connect, enter_new_namespace, listen, pair, receive_all, reset, send,
    shared_words, tcp,
};

fn of(f: &Fixture, slot: u32, direction: Direction, port: u16) -> DestinationCounters {
    let mut address = LOCALHOST;
    if direction == Direction::Incoming {
        address[3] = 0;
    }
    let wanted = Destination { direction, address: address.into(), port };
    let all = f.meters().read_destinations().unwrap().remove(&slot).unwrap_or_default();
    all.into_iter()
        .find(|(found, _)| *found == wanted)
        .map(|(_, counters)| counters)
        .unwrap_or_default()
}

#[test]
fn bytes_connections_and_failures_are_exact_for_each_destination() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        if !enter_new_namespace() {
            return 2;
        }
        let listeners = [listen(1000, 8), listen(1001, 8)];
        for (round, bytes) in [(0, 700), (1, 1000), (0, 0), (0, 999)] {
            let port = 1000 + round as u16;
            let Some((client, server)) = pair(listeners[round], port) else { return 3 };
            for _ in 0..3 {
                if !(send(client, bytes) && receive_all(server, bytes as isize)) {
                    return 4;
                }
            }
            if !(send(server, 10) && receive_all(client, 10)) {
                return 5;
            }
            // Once the server says farewell first, once the client.
            let (first, second) = if bytes == 700 { (server, client) } else { (client, server) };
            close(first);
            close(second);
        }
        // One that ends with a reset, two that are refused.
        let Some((client, server)) = pair(listeners[1], 1001) else { return 6 };
        if !(send(client, 5) && receive_all(server, 5)) {
            return 7;
        }
        reset(server);
        close(client);
        for _ in 0..2 {
            let socket = tcp(0);
            connect(socket, 2);
            close(socket);
        }
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    wait_until("all to be closed", || f.read(1).tcp.unwrap().open() == 0);
    let counters = |connections, failures, sent_bytes, received_bytes| DestinationCounters {
        connections,
        failures,
        sent_bytes,
        received_bytes,
    };
    let first = 3 * (700 + 999);
    assert_eq!(of(&f, 1, Direction::Outgoing, 1000), counters(3, 0, first, 30));
    assert_eq!(of(&f, 1, Direction::Incoming, 1000), counters(3, 0, 30, first));
    assert_eq!(of(&f, 1, Direction::Outgoing, 1001), counters(2, 1, 3005, 10));
    assert_eq!(of(&f, 1, Direction::Incoming, 1001), counters(2, 0, 10, 3005));
    assert_eq!(of(&f, 1, Direction::Outgoing, 2), counters(0, 2, 0, 0));
    assert_eq!(f.read(1).tcp.unwrap().other, [DestinationCounters::default(); 2]);
    f.meters().reset(1).unwrap();
    assert!(f.meters().read_destinations().unwrap().is_empty());
}

#[test]
fn bytes_of_an_open_connection_are_seen_before_it_closes() {
    let Some(f) = Fixture::share() else { return };
    let words = shared_words();
    const BYTES: u64 = 1_000_000;
    let body = || {
        let well = enter_new_namespace();
        let Some((client, server)) = pair(listen(1000, 8), 1000).filter(|_| well) else { return 2 };
        for _ in 0..BYTES / 1000 {
            if !(send(client, 1000) && receive_all(server, 1000)) {
                return 3;
            }
        }
        words[0].store(1, Relaxed);
        while words[0].load(Relaxed) == 1 {
            std::hint::spin_loop();
        }
        close(client);
        close(server);
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_until("the bytes to be sent", || words[0].load(Relaxed) == 1);
    let sent = of(&f, 1, Direction::Outgoing, 1000).sent_bytes;
    let received = of(&f, 1, Direction::Incoming, 1000).received_bytes;
    words[0].store(2, Relaxed);
    assert_eq!(child.wait(), End::Code(0));
    println!("of {BYTES} bytes {sent} were seen as sent and {received} as received");
    // The receiver's are added every 64 KiB, and one packet late.
    assert!((BYTES - 140_000..=BYTES).contains(&received), "{received}");
    assert!((BYTES / 2..=BYTES).contains(&sent), "{sent}");
    wait_until("both ends to be closed", || f.read(1).tcp.unwrap().open() == 0);
    assert_eq!(of(&f, 1, Direction::Outgoing, 1000).sent_bytes, BYTES);
    assert_eq!(of(&f, 1, Direction::Incoming, 1000).received_bytes, BYTES);
}

#[test]
fn destinations_beyond_a_slots_share_are_added_up() {
    let Some(f) = Fixture::share() else { return };
    // As many as the slot may have, and a hundred more, all refused; then one that is taken.
    const REFUSED: u64 = 1024 + 100;
    let body = || {
        if !enter_new_namespace() {
            return 2;
        }
        let listener = listen(9000, 8);
        for port in 0..REFUSED as u16 {
            let socket = tcp(0);
            if connect(socket, 1000 + port) != libc::ECONNREFUSED {
                return 3;
            }
            close(socket);
        }
        let client = tcp(0);
        if connect(client, 9000) != 0 {
            return 4;
        }
        let server = accept(listener);
        let well = send(client, 100) && receive_all(server, 100);
        close(client);
        close(server);
        i32::from(!well)
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    wait_until("all to be closed", || f.read(1).tcp.unwrap().open() == 0);
    let destinations = f.meters().read_destinations().unwrap().remove(&1).unwrap();
    assert_eq!(destinations.len(), 1024);
    let named: u64 = destinations.iter().map(|(_, counters)| counters.failures).sum();
    let [outgoing, incoming] = f.read(1).tcp.unwrap().other;
    assert_eq!(named + outgoing.failures, REFUSED);
    assert_eq!((outgoing.connections, outgoing.sent_bytes), (1, 100));
    assert_eq!((incoming.connections, incoming.received_bytes), (1, 100));
    // Each connection and failure, not each byte.
    assert_eq!(f.meters().lost().unwrap().destinations, 100 + 2);
}
