//! Who kept whose requests waiting, on a device of the test's own whose only work the test
//! is: against who was there at all, and the requests' whole time from beginning to end.

use std::collections::HashMap;

use tenantry_ebpf::{BlamedResource, Culprit, Slot};

use crate::child::{Child, End, now_ms};
use crate::disk_operations::{c_path, piece};
use crate::fixture::Fixture;
use crate::groups::Container;
use crate::loop_device::LoopDevice;

const PAGE: usize = 4096;
const BYTES: usize = 64 << 20;

/// Random pages, one after the other, for a while.
fn read_pages(path: &[u8], ms: i64) -> i32 {
    // SAFETY: a path with a NUL.
    let disk = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDONLY | libc::O_DIRECT) };
    let (end, mut state) = (now_ms() + ms, 1_u64);
    while now_ms() < end {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let page = (state >> 33) as usize % (BYTES / PAGE);
        // SAFETY: writes a static that is at least as long; this child has one thread.
        if unsafe { libc::pread(disk, piece(), PAGE, (page * PAGE) as i64) } != PAGE as isize {
            return 2;
        }
    }
    0
}

/// Large pieces, one after the other, for a while.
fn write_pieces(path: &[u8], ms: i64) -> i32 {
    let bytes = 64 * PAGE;
    // SAFETY: a path with a NUL.
    let disk = unsafe { libc::open(path.as_ptr().cast(), libc::O_WRONLY | libc::O_DIRECT) };
    let (end, mut at) = (now_ms() + ms, 0);
    while now_ms() < end {
        // SAFETY: reads a static that is at least as long.
        if unsafe { libc::pwrite(disk, piece(), bytes, at as i64) } != bytes as isize {
            return 2;
        }
        at = (at + bytes) % BYTES;
    }
    0
}

struct Bench {
    f: Fixture,
    containers: Vec<Container>,
    path: Vec<u8>,
    _device: LoopDevice,
}

/// Six containers; `None` after saying what this machine lacks.
fn bench() -> Option<Bench> {
    let f = Fixture::share()?;
    let device = match LoopDevice::create(BYTES as u64, true) {
        Ok(device) => device,
        Err(why) => {
            println!("SKIPPED: no loop device: {why}");
            return None;
        }
    };
    let containers: Vec<Container> = (1..=6).map(|slot| f.container(slot)).collect();
    if containers[0].blkio.is_none() && !containers[0].unified.join("io.stat").exists() {
        println!("SKIPPED: the io controller cannot be enabled");
        return None;
    }
    (1..=6).for_each(|slot| f.meters().arm(slot).unwrap());
    Some(Bench { path: c_path(&device), f, containers, _device: device })
}

impl Bench {
    fn blamed(&self, victim: Slot) -> HashMap<Culprit, u64> {
        let rows = self.f.meters().read_blame().unwrap().into_iter();
        let rows = rows.filter(|row| (row.victim, row.resource) == (victim, BlamedResource::Disk));
        rows.map(|row| (row.culprit, row.ns)).collect()
    }

    /// From the beginnings to the ends of a slot's requests, at all devices.
    fn whole_ns(&self, slot: Slot) -> u64 {
        let rows = self.f.meters().read_disks().unwrap().containers;
        let rows = rows.iter().filter(|(key, _)| key.slot == slot);
        rows.map(|(_, row)| row.queue.sum_ns + row.latency.sum_ns).sum()
    }

    fn run(&self, children: Vec<Child>) {
        let mut children = children;
        children.iter_mut().for_each(Child::open_gate);
        for child in children {
            assert_eq!(child.wait(), End::Code(0));
        }
    }

    fn reader(&self, ms: i64) -> Child {
        Child::gated(move || read_pages(&self.path, ms))
    }

    fn writer(&self, ms: i64) -> Child {
        Child::gated(move || write_pieces(&self.path, ms))
    }
}

fn neighbours(blamed: &HashMap<Culprit, u64>) -> Vec<(Slot, u64)> {
    let slot = |(who, ns): (&Culprit, &u64)| match who {
        Culprit::Slot(slot) => Some((*slot, *ns)),
        _ => None,
    };
    blamed.iter().filter_map(slot).collect()
}

#[test]
fn who_is_alone_at_its_disk_blames_no_neighbour() {
    let Some(bench) = bench() else { return };
    bench.run(vec![bench.reader(500).put(&bench.containers[0])]);
    let (blamed, whole) = (bench.blamed(1), bench.whole_ns(1));
    println!("{blamed:?} of {whole} ns");
    assert!(whole > 0 && neighbours(&blamed).is_empty());
    assert!(blamed.values().sum::<u64>() <= whole);
}

#[test]
fn two_of_one_container_wait_for_each_other_and_for_nobody_else() {
    let Some(bench) = bench() else { return };
    let own = &bench.containers[0];
    bench.run(vec![bench.reader(500).put(own), bench.writer(500).put(own)]);
    let (blamed, whole) = (bench.blamed(1), bench.whole_ns(1));
    println!("{blamed:?} of {whole} ns");
    assert!(neighbours(&blamed).is_empty());
    assert!(blamed[&Culprit::Itself] > 0 && blamed.values().sum::<u64>() <= whole);
}

#[test]
fn the_neighbour_that_writes_is_blamed_and_those_that_do_not_are_not() {
    let Some(bench) = bench() else { return };
    let mut children = vec![
        bench.reader(1500).put(&bench.containers[0]),
        bench.writer(1500).put(&bench.containers[3]),
        bench.writer(1500).put(&bench.containers[3]),
    ];
    for idle in [1, 2, 4, 5] {
        let sleeper = Child::gated(|| {
            crate::child::sleep_ms(1500);
            0
        });
        children.push(sleeper.put(&bench.containers[idle]));
    }
    bench.run(children);
    let (blamed, whole) = (bench.blamed(1), bench.whole_ns(1));
    println!("{blamed:?} of {whole} ns");
    let guilty = neighbours(&blamed);
    assert_eq!(guilty.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [4]);
    let all: u64 = blamed.values().sum();
    assert!(all <= whole);
    assert!(guilty[0].1 * 2 > all, "{blamed:?}");
    assert_eq!(bench.f.meters().lost().unwrap().disk_services, 0);
}

#[test]
fn a_writer_in_no_container_is_the_host() {
    let Some(bench) = bench() else { return };
    bench.run(vec![bench.reader(1000).put(&bench.containers[0]), bench.writer(1000)]);
    let blamed = bench.blamed(1);
    println!("{blamed:?}");
    assert!(neighbours(&blamed).is_empty());
    assert!(blamed[&Culprit::Host] > 10_000_000, "{blamed:?}");
}
