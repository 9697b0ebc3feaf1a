//! Known datagrams, through loopback and through a link.

use std::process::Command;

use tenantry_ebpf::NetworkCounters;

use crate::child::{Child, End};
use crate::fixture::Fixture;
use crate::socket::{LOCALHOST, address, bind, receive, send_to, udp};

/// IPv4 and UDP headers.
const HEADERS: u64 = 28;

#[test]
fn datagrams_through_loopback_are_counted_to_the_byte() {
    let Some(f) = Fixture::share() else { return };
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    drop(receiver);
    let body = || {
        let (from, to, address) = (udp(), udp(), address(LOCALHOST, port));
        if !bind(to, &address) {
            return 2;
        }
        let well = (0..100).all(|_| send_to(from, 1000, &address) && receive(to) == 1000);
        i32::from(!well)
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let (bytes, packets) = (100 * (1000 + HEADERS), 100);
    let expected = NetworkCounters {
        rx_bytes: bytes,
        rx_packets: packets,
        tx_bytes: bytes,
        tx_packets: packets,
    };
    let counters = f.read(1);
    assert_eq!((counters.loopback, counters.external), (expected, Default::default()));
    assert_eq!((counters.udp.loopback, counters.udp.external), (expected, Default::default()));
}

#[test]
fn datagrams_through_a_link_are_external() {
    let Some(f) = Fixture::share() else { return };
    // A link in a network namespace of its own. Nobody answers at 10.9.0.2: datagrams wait for
    // its hardware address, which is behind where they are counted. busybox names the other
    // end as it likes.
    let script = "ip link add v0 type veth peer name v1 && ip link set v0 up \
                  && { ip link set v1 up 2>/dev/null || ip link set veth0 up; } \
                  && ip address add 10.9.0.1/24 dev v0 && echo ready && exec sleep 30";
    let mut holder = Command::new("unshare")
        .args(["--net", "sh", "-c", script])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("unshare");
    let mut line = String::new();
    let output = holder.stdout.take().unwrap();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line).unwrap();
    if line.trim() == "ready" {
        let path = format!("/proc/{}/ns/net\0", holder.id());
        let body = || {
            // SAFETY: a path with a NUL.
            let ns = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY) };
            // SAFETY: moves this child, which has one thread, into the namespace.
            if unsafe { libc::setns(ns, libc::CLONE_NEWNET) } != 0 {
                return 2;
            }
            let (socket, to) = (udp(), address([10, 9, 0, 2], 9));
            i32::from(!(0..50).all(|_| send_to(socket, 500, &to)))
        };
        let child = Child::gated(body).put(&f.container(1));
        f.meters().arm(1).unwrap();
        assert_eq!(child.run(), End::Code(0));
        let expected = NetworkCounters {
            tx_bytes: 50 * (500 + HEADERS),
            tx_packets: 50,
            ..Default::default()
        };
        let counters = f.read(1);
        assert_eq!((counters.external, counters.loopback), (expected, Default::default()));
        assert_eq!((counters.udp.external, counters.udp.loopback), (expected, Default::default()));
    } else {
        println!("SKIPPED: no veth link in a network namespace of its own (ip, unshare)");
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}
