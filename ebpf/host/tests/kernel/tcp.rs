//! TCP connections of a known number and fate, against the network namespace's own counters
//! and against what the sockets themselves say.

use std::sync::atomic::Ordering::Relaxed;

use tenantry_ebpf::{TcpCounters, TcpError};

use crate::child::{Child, End, sleep_ms};
use crate::fixture::{Fixture, wait_until};
use crate::socket::{
    accept, close, connect, deaf, enter_new_namespace, listen, pair, receive, receive_all, reset,
    rtt_usec, send, shared_words, stop, tcp,
};
use crate::witness::{namespace_counters, wait_for_stop};

fn counted(f: &Fixture, slot: u32) -> TcpCounters {
    f.read(slot).tcp.expect("socket operations are there")
}

#[test]
fn connections_and_their_ends_are_those_that_the_namespace_counted() {
    let Some(f) = Fixture::share() else { return };
    const WELL: u64 = 25;
    const REFUSED: u64 = 9;
    const RESET: u64 = 4;
    let body = || {
        if !enter_new_namespace() {
            return 2;
        }
        let (listener, narrow) = (listen(1000, 64), listen(1001, 0));
        if listener < 0 || narrow < 0 {
            return 2;
        }
        for _ in 0..WELL {
            let Some((client, server)) = pair(listener, 1000) else { return 3 };
            if !(send(client, 100) && receive_all(server, 100)) {
                return 4;
            }
            close(client);
            close(server);
        }
        for _ in 0..REFUSED {
            let socket = tcp(0);
            if connect(socket, 2) != libc::ECONNREFUSED {
                return 5;
            }
            close(socket);
        }
        for _ in 0..RESET {
            let Some((client, server)) = pair(listener, 1000) else { return 6 };
            reset(server);
            if receive(client) >= 0 {
                return 7;
            }
            close(client);
        }
        // A queue for one: the second connection's SYN is dropped and sent again after a
        // second, until its program gives up.
        let (first, second) = (tcp(0), tcp(libc::SOCK_NONBLOCK));
        if connect(first, 1001) != 0 || connect(second, 1001) != libc::EINPROGRESS {
            return 8;
        }
        sleep_ms(1500);
        close(second);
        stop();
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    let (tcp, witness) = (counted(&f, 1), namespace_counters(child.pid, &["Tcp", "TcpExt"]));

    assert_eq!(tcp.connects_begun, witness["ActiveOpens"]);
    assert_eq!(tcp.accepts, witness["PassiveOpens"]);
    assert_eq!(tcp.retransmits, witness["RetransSegs"]);
    assert!(tcp.retransmits >= 1, "the dropped SYN was sent again");
    assert_eq!(tcp.listen_overflows, witness["ListenOverflows"]);
    assert!(tcp.listen_overflows >= 2, "it was dropped each time");
    // The namespace does not count an attempt that its program gave up.
    assert_eq!(tcp.connects_failed, witness["AttemptFails"] + 1);
    assert_eq!(tcp.connects_begun, WELL + REFUSED + RESET + 2);
    assert_eq!(tcp.connects_established, WELL + RESET + 1);
    assert_eq!((tcp.connects_failed, tcp.accepts), (REFUSED + 1, WELL + RESET + 1));
    assert_eq!(tcp.failures_of(TcpError::Refused), REFUSED);
    assert_eq!(tcp.failures_of(TcpError::Abandoned), 1);
    // A server that resets saw no error; its client did.
    assert_eq!(tcp.failures_of(TcpError::Reset), RESET);
    assert_eq!(tcp.failures.iter().map(|(_, count)| count).sum::<u64>(), REFUSED + 1 + RESET);
    assert_eq!((tcp.resets_sent, tcp.resets_received), (RESET, REFUSED + RESET));
    // Both ends of the connection in the narrow queue.
    assert_eq!(tcp.open(), 2);
    assert_eq!((tcp.closed, tcp.duration.count), (2 * (WELL + RESET), 2 * (WELL + RESET)));
    drop(child);
    wait_until("what was open to be closed", || counted(&f, 1).open() == 0);
    println!("tcp: {tcp:?}");
}

#[test]
fn a_full_listener_drops_what_the_namespace_says() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        if !enter_new_namespace() {
            return 2;
        }
        // Room for two. A third one's handshake is begun and then left without an answer.
        let (listener, half) = (listen(1000, 1), tcp(libc::SOCK_NONBLOCK));
        if listener < 0 || !deaf(half, true) || connect(half, 1000) != libc::EINPROGRESS {
            return 3;
        }
        for _ in 0..2 {
            if connect(tcp(0), 1000) != 0 {
                return 4;
            }
        }
        // Now its first segment, sent again, is answered, and its third finds the queue full; so
        // does a fourth one's first.
        let late = tcp(libc::SOCK_NONBLOCK);
        if !deaf(half, false) || connect(late, 1000) != libc::EINPROGRESS {
            return 5;
        }
        sleep_ms(2500);
        if accept(listener) < 0 || accept(listener) < 0 {
            return 6;
        }
        stop();
        0
    };
    let mut child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    let witness = namespace_counters(child.pid, &["TcpExt"]);
    println!("the namespace: {} overflows", witness["ListenOverflows"]);
    assert!(witness["ListenOverflows"] >= 3, "{witness:?}");
    assert_eq!(counted(&f, 1).listen_overflows, witness["ListenOverflows"]);
}

#[test]
fn a_connection_lasts_from_its_handshake_to_its_end() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        let well = enter_new_namespace();
        let Some((client, server)) = pair(listen(1000, 8), 1000).filter(|_| well) else { return 2 };
        sleep_ms(300);
        close(client);
        close(server);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let duration = counted(&f, 1).duration;
    // The server's end may last a little longer, and the machine is busy.
    assert_eq!(duration.count, 2);
    assert!(duration.sum_ns >= 600_000_000, "{duration:?}");
    let in_buckets: u64 = duration.buckets[28..].iter().sum();
    assert_eq!(in_buckets, 2, "{duration:?}");
}

#[test]
fn round_trips_are_about_as_long_as_the_socket_says() {
    let Some(f) = Fixture::share() else { return };
    let words = shared_words();
    let body = || {
        let well = enter_new_namespace();
        let Some((client, server)) = pair(listen(1000, 8), 1000).filter(|_| well) else { return 2 };
        let (mut least, mut most) = (u64::MAX, 0);
        for _ in 0..300 {
            let there = send(client, 10) && receive_all(server, 10);
            if !(there && send(server, 10) && receive_all(client, 10)) {
                return 3;
            }
            for socket in [client, server] {
                let rtt = u64::from(rtt_usec(socket));
                (least, most) = (least.min(rtt), most.max(rtt));
            }
        }
        words[0].store(least, Relaxed);
        words[1].store(most, Relaxed);
        close(client);
        close(server);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let (least, most) = (words[0].load(Relaxed) * 1000, words[1].load(Relaxed) * 1000);
    let tcp = counted(&f, 1);
    let rtt = &tcp.rtt_loopback;
    println!(
        "rtt: {} samples, {} ns in sum; the socket: {least} to {most} ns",
        rtt.count, rtt.sum_ns
    );
    assert_eq!(tcp.rtt_external.count, 0);
    // The first value lies before the first look, and the last behind the last one.
    assert!(rtt.count >= 100, "{rtt:?}");
    let mean = rtt.sum_ns / rtt.count;
    assert!(mean >= least / 2 && mean <= most * 2, "{mean} ns, the socket: {least} to {most} ns");
}

#[test]
fn on_the_hosts_own_network_each_end_is_its_containers() {
    let Some(f) = Fixture::share() else { return };
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let words = shared_words();
    let server = || {
        let listener = listen(port, 64);
        words[0].store(1, Relaxed);
        for _ in 0..20 {
            let end = accept(listener);
            if receive(end) != 0 {
                return 3;
            }
            close(end);
        }
        0
    };
    let client = || {
        for _ in 0..15 {
            let socket = tcp(0);
            if connect(socket, port) != 0 {
                return 2;
            }
            close(socket);
        }
        0
    };
    let mut server = Child::gated(server).put(&f.container(1));
    let client = Child::gated(client).put(&f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    server.open_gate();
    wait_until("the listener", || words[0].load(Relaxed) == 1);
    assert_eq!(client.run(), End::Code(0));
    // Of nobody's: the test's own.
    (0..5).for_each(|_| drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap()));
    assert_eq!(server.wait(), End::Code(0));
    let (server, client) = (counted(&f, 1), counted(&f, 2));
    // The handshake of an accepted connection ran in its client's context.
    assert_eq!((server.accepts, server.connects_begun), (20, 0));
    assert_eq!((client.accepts, client.connects_established), (0, 15));
}

#[test]
fn a_slots_next_holder_has_nothing_of_the_last_ones_sockets() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        if !enter_new_namespace() || pair(listen(1000, 8), 1000).is_none() {
            return 2;
        }
        stop();
        0
    };
    let container = f.container(1);
    let mut child = Child::gated(body).put(&container);
    f.meters().arm(1).unwrap();
    child.open_gate();
    wait_for_stop(&child);
    assert_eq!(counted(&f, 1).open(), 2);
    f.meters().reset(1).unwrap();
    f.meters().register(1, &f.stranger(1).ids()).unwrap();
    f.meters().arm(1).unwrap();
    drop(child);
    wait_until("the cgroup to be empty", || {
        std::fs::read_to_string(container.unified.join("cgroup.procs")).unwrap().is_empty()
    });
    let next = counted(&f, 1);
    assert_eq!((next.closed, next.duration.count, next.open()), (0, 0, 0));
}
