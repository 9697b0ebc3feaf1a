//! A "host" that is a network namespace of the test's own, "containers" that
//! are threads in namespaces of theirs, and the witnesses `ip`, `tc`, `nft`.
//!
//! The real host's links, routes and rules are never touched.
#![allow(dead_code)] // Each test binary uses its part.

pub mod flow;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use tenantry_network::{Network, NetworkConfig, Shape};

pub const TABLE: &str = "tntest";
pub const BRIDGE: &str = "tnbr0";

pub fn config() -> NetworkConfig {
    NetworkConfig {
        bridge: BRIDGE.into(),
        subnet: "10.213.0.0/24".parse().unwrap(),
        table: TABLE.into(),
        shape: Shape::default(),
    }
}

pub async fn open() -> Network {
    Network::open(config()).await.unwrap()
}

/// Runs a program in the calling thread's namespace.
pub fn try_run(command: &str) -> Result<String, String> {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap())
        .args(words)
        .output()
        .map_err(|e| format!("{command}: {e}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    match output.status.success() {
        true => Ok(text(output.stdout)),
        false => Err(format!("{command}: {}", text(output.stderr))),
    }
}

#[track_caller]
pub fn run(command: &str) -> String {
    try_run(command).unwrap()
}

fn reason_to_skip() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    ["ip -V", "tc -V", "nft -v"].into_iter().find_map(|tool| try_run(tool).err())
}

/// Names of all links of the calling thread's namespace.
pub fn links() -> Vec<String> {
    let mut names: Vec<String> = run("ip -o link show")
        .lines()
        .map(|l| l.split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

pub fn write_ip_forward(value: &str) {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", value).unwrap();
}

pub fn read_ip_forward() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap().trim().to_owned()
}

/// Runs the body with a fresh namespace as the host, forwarding off, and checks
/// that the body left the host as it found it.
pub fn on_a_host(body: impl AsyncFnOnce() + Send + 'static) {
    if let Some(why) = reason_to_skip() {
        println!("SKIPPED: {why}");
        return;
    }
    let thread = std::thread::spawn(move || {
        if let Err(e) = unshare(CloneFlags::CLONE_NEWNET) {
            println!("SKIPPED: unshare(CLONE_NEWNET): {e}");
            return;
        }
        run("ip link set lo up");
        write_ip_forward("0");
        let before = (links(), run("nft list ruleset"), run("ip route show"), read_ip_forward());
        // Its threads are born in this thread's namespace.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.unwrap().block_on(body());
        let after = (links(), run("nft list ruleset"), run("ip route show"), read_ip_forward());
        assert_eq!(before, after, "the host as it was before");
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own; the namespace ends with it.
pub struct Container {
    pub pid: u32,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Container {
    pub fn new() -> Container {
        let (jobs, inbox) = channel::<Job>();
        let (ready, pid) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            ready.send(rustix::thread::gettid().as_raw_nonzero().get() as u32).unwrap();
            inbox.into_iter().for_each(|job| job());
        });
        Container { pid: pid.recv().unwrap(), jobs: Some(jobs), thread: Some(thread) }
    }

    /// Begins the job inside; the answer comes through the receiver.
    pub fn start<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> Receiver<T> {
        let (answer, receiver) = channel();
        let job = Box::new(move || drop(answer.send(job())));
        self.jobs.as_ref().unwrap().send(job).unwrap();
        receiver
    }

    #[track_caller]
    pub fn inside<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        self.start(job).recv_timeout(Duration::from_secs(30)).expect("the job inside panicked")
    }

    #[track_caller]
    pub fn run(&self, command: &str) -> String {
        let command = command.to_owned();
        self.inside(move || run(&command))
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.jobs.take();
        let _ = self.thread.take().unwrap().join();
    }
}

/// Waits in small steps until the condition holds.
#[track_caller]
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// One datagram from `from` to `to`; the source address that `to` saw.
#[track_caller]
pub fn source_seen(from: &Container, to: &Container, address: Ipv4Addr) -> Ipv4Addr {
    let (ready, bound) = channel();
    let answer = to.start(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        ready.send(socket.local_addr().unwrap().port()).unwrap();
        socket.recv_from(&mut [0; 16]).map(|(_, source)| source)
    });
    let port = bound.recv().unwrap();
    from.inside(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.send_to(b"hello", (address, port)).unwrap();
    });
    match answer.recv().unwrap() {
        Ok(SocketAddr::V4(source)) => *source.ip(),
        other => panic!("nothing arrived at {address}: {other:?}"),
    }
}
