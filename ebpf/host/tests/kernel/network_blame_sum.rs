//! Whatever flows meet in a queue, those who are blamed for a container's wait add up to that
//! wait, within a hundredth (three where the processor is emulated): against the time in which
//! some datagram of its own was on its way, from before it was sent to when the far end's device
//! had it, by the test's own clock and the kernel's receive times. Datagrams leave a queue of one
//! class in their order.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use tenantry_ebpf::{BlamedResource, Culprit, Slot};

use crate::child::{Child, End, sleep_ms};
use crate::fixture::Fixture;
use crate::groups::Container;
use crate::link::{Link, listener, sender};
use crate::socket::{arrival_ns, realtime_ns, receive_into, send, send_buffer, shared_words};

const VICTIM: Slot = 1;
const NEIGHBOURS: [Slot; 3] = [2, 3, 4];
const VICTIM_PORT: u16 = 7001;
const OTHERS_PORT: u16 = 7002;
/// IPv4's and UDP's.
const HEADERS: usize = 28;
const ROUNDS: u32 = 4;

/// xorshift: any sequence will do, and this one needs no crate and no memory of its own.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Who sends beside the victim: datagrams of so many bytes, with such pauses.
#[derive(Clone, Copy, Debug)]
struct Flow {
    bytes: usize,
    /// 0: as fast as the socket takes them.
    pause_ms: u64,
}

#[derive(Debug)]
struct Round {
    mbit: u64,
    datagrams: u64,
    longest_pause_ms: u64,
    /// By slot; `None` sends nothing.
    neighbours: [Option<Flow>; 3],
    /// In no container.
    host: Option<Flow>,
    seed: u64,
}

fn round(random: &mut Random) -> Round {
    let mut flow = |silent_in_three: u64| {
        let (kind, bytes) = (random.below(3), 200 + random.below(800) as usize);
        let pause_ms = if kind == 0 { 1 + random.below(4) } else { 0 };
        (random.below(3) >= silent_in_three).then_some(Flow { bytes, pause_ms })
    };
    let mut neighbours = [flow(1), flow(1), flow(1)];
    let host = flow(2);
    // Somebody keeps a queue standing.
    neighbours[0].get_or_insert(Flow { bytes: 1000, pause_ms: 0 }).pause_ms = 0;
    Round {
        mbit: 6 + random.below(10),
        datagrams: 20 + random.below(20),
        longest_pause_ms: 1 + random.below(150),
        neighbours,
        host,
        seed: random.below(u64::MAX) | 1,
    }
}

fn load(link: &Link, flow: Flow) -> Child {
    Child::gated(move || {
        if !link.enter() {
            return 2;
        }
        let socket = sender(OTHERS_PORT);
        while send(socket, flow.bytes) {
            if flow.pause_ms > 0 {
                sleep_ms(flow.pause_ms as i64);
            }
        }
        3
    })
}

/// Two flows of datagrams that carry the time at which they were sent.
fn victim(link: &Link, round: &Round) -> Child {
    let (datagrams, longest, mut random) =
        (round.datagrams, round.longest_pause_ms, Random(round.seed));
    Child::gated(move || {
        if !link.enter() {
            return 2;
        }
        let sockets = [sender(VICTIM_PORT), sender(VICTIM_PORT)];
        for _ in 0..datagrams {
            let mut buffer = [7; 1000];
            let bytes = 8 + random.below(992) as usize;
            let socket = sockets[random.below(2) as usize];
            buffer[..8].copy_from_slice(&realtime_ns().to_ne_bytes());
            if !send_buffer(socket, &buffer[..bytes]) {
                return 3;
            }
            sleep_ms(random.below(longest) as i64);
        }
        0
    })
}

/// Adds up the time in which at least one datagram was on its way. In no container.
fn witness(
    link: &Link,
    datagrams: u64,
    wait_ns: &'static AtomicU64,
    ready: &'static AtomicU64,
) -> Child {
    Child::gated(move || {
        if !link.enter() {
            return 2;
        }
        let (socket, mut buffer, mut until) = (listener(VICTIM_PORT), [0; 2000], 0);
        // Asked for once, the kernel notes the time of each datagram.
        let _ = arrival_ns(socket);
        ready.store(1, Relaxed);
        for _ in 0..datagrams {
            if receive_into(socket, &mut buffer) < (HEADERS + 8) as isize {
                return 3;
            }
            let Some(arrived) = arrival_ns(socket) else { return 4 };
            let mut sent = [0; 8];
            sent.copy_from_slice(&buffer[HEADERS..HEADERS + 8]);
            let since = u64::from_ne_bytes(sent).max(until);
            wait_ns.fetch_add(arrived.saturating_sub(since), Relaxed);
            until = arrived.max(until);
        }
        0
    })
}

fn blamed(f: &Fixture) -> HashMap<Culprit, u64> {
    let rows = f.meters().read_blame().unwrap().into_iter();
    let rows = rows.filter(|row| (row.victim, row.resource) == (VICTIM, BlamedResource::Network));
    rows.map(|row| (row.culprit, row.ns)).collect()
}

/// Nanoseconds that its datagrams were on their way, and whom the meters blame for how long.
fn run(
    f: &Fixture,
    containers: &[Container],
    round: &Round,
) -> Option<(u64, HashMap<Culprit, u64>)> {
    let queue = format!("tbf rate {}mbit burst 3000 limit 4000000", round.mbit);
    let link = Link::create(&queue)?;
    let words = shared_words();
    let mut witness = witness(&link, round.datagrams, &words[0], &words[1]);
    witness.open_gate();
    crate::fixture::wait_until("the far end listens", || words[1].load(Relaxed) == 1);
    let before = blamed(f);
    let mut others: Vec<Child> = round.host.map(|flow| load(&link, flow)).into_iter().collect();
    for (slot, flow) in NEIGHBOURS.into_iter().zip(round.neighbours) {
        others.extend(flow.map(|flow| load(&link, flow).put(&containers[slot as usize - 1])));
    }
    others.iter_mut().for_each(Child::open_gate);
    sleep_ms(300);
    assert_eq!(victim(&link, round).put(&containers[VICTIM as usize - 1]).run(), End::Code(0));
    assert_eq!(witness.wait(), End::Code(0), "each of its datagrams arrives");
    let mut blamed = blamed(f);
    drop(others);
    blamed.iter_mut().for_each(|(who, ns)| *ns -= before.get(who).copied().unwrap_or_default());
    blamed.retain(|_, ns| *ns > 0);
    Some((words[0].load(Relaxed), blamed))
}

#[test]
fn whatever_flows_meet_in_a_queue_the_culprits_add_up_to_the_wait() {
    let Some(f) = Fixture::share() else { return };
    let containers: Vec<Container> = (1..=4).map(|slot| f.container(slot)).collect();
    (1..=4).for_each(|slot| f.meters().arm(slot).unwrap());
    let mut random = Random(u64::from(std::process::id()) << 1 | 1);
    // An emulated sender takes a while from its stamp to the kernel.
    let allowed = if std::env::var_os("TENANTRY_VM").is_some() { 0.03 } else { 0.01 };
    for _ in 0..ROUNDS {
        let round = round(&mut random);
        let Some((waited, blamed)) = run(&f, &containers, &round) else { return };
        let sum: u64 = blamed.values().sum();
        let ratio = sum as f64 / waited as f64;
        println!("{ratio:.5} of {:.3} s: {blamed:?}; {round:?}", waited as f64 / 1e9);
        assert!(waited > 100_000_000, "no queue stood: {waited} ns of {round:?}");
        assert!((ratio - 1.0).abs() < allowed, "{ratio} of {waited} ns: {blamed:?} of {round:?}");
        for (slot, flow) in NEIGHBOURS.into_iter().zip(round.neighbours) {
            let share = blamed.get(&Culprit::Slot(slot)).copied().unwrap_or_default();
            assert_eq!(share > 0, flow.is_some(), "{slot}: {blamed:?} of {round:?}");
        }
    }
    assert_eq!(f.meters().lost().unwrap().blame, 0);
}
