//! A stream of bytes from one "container" to another, and what of it a window of time saw: at
//! the receiver's interface, and in the receiver's hands.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use super::{Container, run};

/// The payload of a full Ethernet frame.
const DATAGRAM_BYTES: usize = 1472;

/// Bits per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Window {
    /// Through the host's end of the receiver's veth, behind every shaper: what was let pass,
    /// however late anybody was woken up to take it.
    pub passed: f64,
    /// What the receiver had of it.
    pub payload: f64,
}

/// Whether a shaper kept a rate. It never lets pass more, in any window: what may pass at
/// once belongs to the rate and is 2.5 % of two seconds. It lets pass so much as there is; and
/// on a machine that has other work, or that its hypervisor stops, sender, timer and receiver
/// are late at times and what they miss beyond the burst is nobody's debt. So the best window
/// decides there, of those in which the receiver was not merely handed over what had passed
/// before.
pub fn judge(windows: &[Window], limit: u64) -> Result<(), String> {
    let limit = limit as f64;
    let most = windows.iter().map(|w| w.passed).fold(0.0, f64::max);
    if most > 1.05 * limit {
        return Err(format!("too fast: {most:.0} bit/s passed a limit of {limit:.0}"));
    }
    let best = windows.iter().map(|w| w.payload.min(w.passed)).fold(0.0, f64::max);
    match best >= 0.95 * limit {
        true => Ok(()),
        false => Err(format!("too slow: at best {best:.0} bit/s of {limit:.0}, {windows:?}")),
    }
}

/// It sends as fast as it may until it is ended.
pub struct Flow {
    /// The host's end of the receiver's veth.
    interface: String,
    received: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    threads: [Receiver<()>; 2],
}

impl Flow {
    pub fn tcp(from: &Container, to: &Container, address: Ipv4Addr, interface: &str) -> Flow {
        let send = move |port: u16| {
            let mut stream = TcpStream::connect((address, port)).unwrap();
            stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
            let block = vec![0u8; 128 * 1024];
            // Ends when the receiver has closed.
            while stream.write_all(&block).is_ok() {}
        };
        let receive = |ready: Sender<u16>, received: &AtomicU64, is_over: &AtomicBool| {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            ready.send(listener.local_addr().unwrap().port()).unwrap();
            let mut stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            let mut buffer = vec![0u8; 256 * 1024];
            while !is_over.load(Ordering::Relaxed) {
                let n = stream.read(&mut buffer).expect("traffic goes on");
                assert!(n > 0, "the sender went away");
                received.fetch_add(n as u64, Ordering::Relaxed);
            }
        };
        Flow::start(from, to, interface, |_| send, receive)
    }

    /// Full packets at `bits_per_s`, or less where sending blocks.
    pub fn udp(
        from: &Container,
        to: &Container,
        address: Ipv4Addr,
        interface: &str,
        bits_per_s: u64,
    ) -> Flow {
        let sending = |is_over: Arc<AtomicBool>| {
            move |port: u16| {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
                let (begin, mut sent_bits) = (Instant::now(), 0);
                while !is_over.load(Ordering::Relaxed) {
                    let _ = socket.send_to(&[0; DATAGRAM_BYTES], (address, port));
                    sent_bits += DATAGRAM_BYTES as u128 * 8;
                    if sent_bits > begin.elapsed().as_micros() * u128::from(bits_per_s) / 1_000_000
                    {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            }
        };
        let receive = |ready: Sender<u16>, received: &AtomicU64, is_over: &AtomicBool| {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            ready.send(socket.local_addr().unwrap().port()).unwrap();
            let mut buffer = [0; 2048];
            while !is_over.load(Ordering::Relaxed) {
                match socket.recv(&mut buffer) {
                    Ok(n) => received.fetch_add(n as u64, Ordering::Relaxed),
                    Err(_) if is_over.load(Ordering::Relaxed) => return,
                    Err(e) => panic!("traffic goes on: {e}"),
                };
            }
        };
        Flow::start(from, to, interface, sending, receive)
    }

    fn start<S: FnOnce(u16) + Send + 'static>(
        from: &Container,
        to: &Container,
        interface: &str,
        sending: impl FnOnce(Arc<AtomicBool>) -> S,
        receive: impl FnOnce(Sender<u16>, &AtomicU64, &AtomicBool) + Send + 'static,
    ) -> Flow {
        let (received, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (ready, bound) = channel();
        let (counter, end) = (received.clone(), is_over.clone());
        let receiver = to.start(move || receive(ready, &counter, &end));
        let port = bound.recv().unwrap();
        let send = sending(is_over.clone());
        let sender = from.start(move || send(port));
        Flow { interface: interface.to_owned(), received, is_over, threads: [receiver, sender] }
    }

    pub fn window(&self, length: Duration) -> Window {
        let received = || self.received.load(Ordering::Relaxed);
        let read = || (Instant::now(), passed_bytes(&self.interface), received());
        let before = read();
        std::thread::sleep(length);
        let after = read();
        let seconds = (after.0 - before.0).as_secs_f64();
        let rate = |before: u64, after: u64| (after - before) as f64 * 8.0 / seconds;
        Window { passed: rate(before.1, after.1), payload: rate(before.2, after.2) }
    }

    /// Windows of two seconds, until one is as fast as the limit allows, at most `most`.
    pub fn windows(&self, limit: u64, most: usize) -> Vec<Window> {
        let mut windows = vec![];
        while windows.len() < most && judge(&windows, limit).is_err() {
            windows.push(self.window(Duration::from_secs(2)));
        }
        windows
    }

    pub fn end(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in &self.threads {
            thread.recv_timeout(Duration::from_secs(30)).expect("an end of the flow panicked");
        }
    }
}

/// What went to the other end of this veth. The calling thread's namespace has another
/// `/proc/net` than its process.
pub fn passed_bytes(interface: &str) -> u64 {
    let text = run("cat /proc/thread-self/net/dev");
    let mut lines = text.lines().filter_map(|line| line.trim_start().split_once(':'));
    let (_, counters) = lines.find(|(name, _)| *name == interface).expect("the veth");
    counters.split_whitespace().nth(8).unwrap().parse().unwrap()
}

/// A test that fails drops its containers, which wait for their threads.
impl Drop for Flow {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
