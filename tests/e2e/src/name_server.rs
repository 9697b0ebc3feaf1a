//! A name server of the tests' own, which knows nobody and remembers who was asked for.

use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often each name was asked for, by type (RFC 1035: 1 is A, 28 AAAA).
pub type Record = BTreeMap<(String, u16), u64>;

/// Answers until it is dropped.
#[derive(Debug)]
pub struct NameServer {
    received: Arc<Mutex<Record>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl NameServer {
    /// Port 53 of an address of this host. Names say what they want: `missing…` does not
    /// exist, `broken…` fails, `silent…` has no answer, others have no address.
    pub fn start(address: &str) -> std::io::Result<NameServer> {
        let socket = UdpSocket::bind((address, 53))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (received, over) = (Arc::<Mutex<Record>>::default(), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::spawn({
            let (received, over) = (Arc::clone(&received), Arc::clone(&over));
            move || {
                let mut packet = [0; 512];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut packet) else { continue };
                    let (name, kind) = question(&packet[12..length]);
                    *locked(&received).entry((name.clone(), kind)).or_default() += 1;
                    let code = match name.split(['.', '-']).next() {
                        Some("silent") => continue,
                        Some("missing") => 3,
                        Some("broken") => 2,
                        _ => 0,
                    };
                    packet[2] |= 0x80;
                    packet[3] = code;
                    let _ = socket.send_to(&packet[..length], from);
                }
            }
        });
        Ok(NameServer { received, over, thread: Some(thread) })
    }

    pub fn received(&self) -> Record {
        locked(&self.received).clone()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn locked(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

fn question(mut packet: &[u8]) -> (String, u16) {
    let mut labels = Vec::new();
    while packet[0] != 0 {
        let (label, rest) = packet[1..].split_at(usize::from(packet[0]));
        labels.push(String::from_utf8_lossy(label).to_lowercase());
        packet = rest;
    }
    (labels.join("."), u16::from_be_bytes([packet[1], packet[2]]))
}
