//! Known datagrams, through loopback and through a link.

use std::process::Command;

use tenantry_ebpf::NetworkCounters;

use crate::child::{Child, End};
use crate::fixture::Fixture;

/// IPv4 and UDP headers.
const HEADERS: u64 = 28;

fn address(ip: [u8; 4], port: u16) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: port.to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(ip) },
        sin_zero: [0; 8],
    }
}

fn udp_socket() -> i32 {
    // SAFETY: makes a socket, nothing else.
    unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0) }
}

fn send(socket: i32, bytes: &[u8], to: &libc::sockaddr_in) -> bool {
    let length = size_of_val(to) as u32;
    let (data, to) = (bytes.as_ptr().cast(), &raw const *to);
    // SAFETY: reads `bytes` and an address of the given length.
    let sent = unsafe { libc::sendto(socket, data, bytes.len(), 0, to.cast(), length) };
    sent == bytes.len() as isize
}

fn receive(socket: i32, buffer: &mut [u8]) -> bool {
    // SAFETY: writes into `buffer` only.
    unsafe { libc::recv(socket, buffer.as_mut_ptr().cast(), buffer.len(), 0) > 0 }
}

#[test]
fn datagrams_through_loopback_are_counted_to_the_byte() {
    let Some(f) = Fixture::load(|_| ()) else { return };
    let receiver = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = receiver.local_addr().unwrap().port();
    drop(receiver);
    let body = || {
        let (from, to, buffer) = (udp_socket(), udp_socket(), &mut [0; 2000]);
        let address = address([127, 0, 0, 1], port);
        let length = size_of_val(&address) as u32;
        // SAFETY: an address of the given length.
        if unsafe { libc::bind(to, (&raw const address).cast(), length) } != 0 {
            return 2;
        }
        let well = (0..100).all(|_| send(from, &[7; 1000], &address) && receive(to, buffer));
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
}

#[test]
fn datagrams_through_a_link_are_external() {
    let Some(f) = Fixture::load(|_| ()) else { return };
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
            let (socket, to) = (udp_socket(), address([10, 9, 0, 2], 9));
            i32::from(!(0..50).all(|_| send(socket, &[7; 500], &to)))
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
    } else {
        println!("SKIPPED: no veth link in a network namespace of its own (ip, unshare)");
    }
    holder.kill().unwrap();
    holder.wait().unwrap();
}
