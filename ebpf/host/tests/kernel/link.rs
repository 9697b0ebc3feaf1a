//! A link in a network namespace of the test's own, through whose queue children send; its far
//! end hears everything and answers nothing.

use std::io::BufRead as _;
use std::process::{Child as Process, Command, Stdio};

use crate::socket::{address, bind, connect_to, udp};

/// Nobody's: what is sent there arrives at the far end and goes no further.
const FAR: [u8; 4] = [10, 9, 0, 2];

pub struct Link {
    holder: Process,
    /// Of the namespace, with a NUL.
    path: String,
}

impl Link {
    /// `queue` is what `tc qdisc add dev v0 root` takes; empty: none, as the kernel makes a
    /// veth. `None` after saying what this machine lacks.
    pub fn create(queue: &str) -> Option<Link> {
        let queue = match queue {
            "" => String::new(),
            queue => format!("&& /usr/sbin/tc qdisc add dev v0 root {queue}"),
        };
        // By its path: busybox's shell would take its own, which knows less.
        let script = format!(
            "ip=/usr/sbin/ip && $ip link add v0 type veth peer name v1 \
             && $ip link set v1 address 02:00:00:00:00:01 \
             && $ip link set v0 up && $ip link set v1 up && $ip address add 10.9.0.1/24 dev v0 \
             && $ip neighbour add 10.9.0.2 lladdr 02:00:00:00:00:01 dev v0 nud permanent {queue} \
             && echo ready && exec sleep 300"
        );
        let mut holder = Command::new("unshare")
            .args(["--net", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut line = String::new();
        let output = holder.stdout.take().unwrap();
        std::io::BufReader::new(output).read_line(&mut line).unwrap();
        let path = format!("/proc/{}/ns/net\0", holder.id());
        let link = Link { holder, path };
        if line.trim() != "ready" {
            println!("SKIPPED: no link with such a queue (ip, tc, unshare): {queue}");
            return None;
        }
        Some(link)
    }

    /// For a child, which has one thread.
    pub fn enter(&self) -> bool {
        // SAFETY: a path with a NUL.
        let ns = unsafe { libc::open(self.path.as_ptr().cast(), libc::O_RDONLY) };
        // SAFETY: moves this child into the namespace.
        unsafe { libc::setns(ns, libc::CLONE_NEWNET) == 0 }
    }
}

impl Drop for Link {
    /// The namespace goes with its last process, but later; what stands in the queue, now.
    fn drop(&mut self) {
        let pid = self.holder.id().to_string();
        let delete = ["-n", "/usr/sbin/ip", "link", "delete", "v0"];
        let _ = Command::new("nsenter").args(["-t", &pid]).args(delete).status();
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A datagram socket that is connected to a port behind the link, or -1.
pub fn sender(port: u16) -> i32 {
    let socket = udp();
    if connect_to(socket, &address(FAR, port)) == 0 { socket } else { -1 }
}

/// A socket that hears what arrives at the far end for one port, or -1: what arrived is over
/// when it is read, and nobody else is told.
pub fn listener(port: u16) -> i32 {
    // Of no protocol, so that it hears nothing before its filter is there.
    // SAFETY: makes a socket, nothing else.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM, 0) };
    // Classic BPF: the packet type is "to this host", for what left the near end is heard
    // too; and the datagram's port, behind an IPv4 header without options.
    let packet_type = (-4096_i32 + 4) as u32;
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut steps = [
        step(0x28, 0, 0, packet_type),
        step(0x15, 0, 3, 0),
        step(0x28, 0, 0, 22),
        step(0x15, 0, 1, port.into()),
        step(0x06, 0, 0, 0xffff),
        step(0x06, 0, 0, 0),
    ];
    let filter = libc::sock_fprog { len: 6, filter: steps.as_mut_ptr() };
    let (level, name) = (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER);
    let (value, length) = ((&raw const filter).cast(), size_of_val(&filter) as u32);
    // SAFETY: a program of as many instructions as it says, which the kernel copies.
    if unsafe { libc::setsockopt(socket, level, name, value, length) } != 0 {
        return -1;
    }
    let patience = libc::timeval { tv_sec: 5, tv_usec: 0 };
    let (value, length) = ((&raw const patience).cast(), size_of_val(&patience) as u32);
    // SAFETY: an option of the given length.
    unsafe { libc::setsockopt(socket, level, libc::SO_RCVTIMEO, value, length) };
    // SAFETY: all zero is an address of no protocol at no interface.
    let mut everywhere: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    everywhere.sll_family = libc::AF_PACKET as u16;
    everywhere.sll_protocol = (libc::ETH_P_IP as u16).to_be();
    if bind(socket, &everywhere) { socket } else { -1 }
}
