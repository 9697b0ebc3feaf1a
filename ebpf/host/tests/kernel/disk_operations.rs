//! Every kind of operation, its queue and its failures, on a device of the test's own:
//! against the workload's own count and the device's statistics (`/sys/block/*/stat`),
//! which come from the block layer's accounting and know nothing of cgroups.

use std::os::unix::ffi::OsStrExt;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tenantry_ebpf::{DiskCounters, DiskOp};

use crate::child::{Child, End};
use crate::fixture::Fixture;
use crate::groups::Container;
use crate::loop_device::{DiskStat, LoopDevice};

const PAGE: u64 = 4096;
/// The largest transfer, in pages.
const PAGES_MAX: u64 = 64;
const DEVICE_PAGES: u64 = 4096;
const BLKDISCARD: u64 = 0x1277;

#[derive(Clone, Copy, Debug)]
enum Step {
    Read { page: u64, pages: u64 },
    Write { page: u64, pages: u64 },
    Flush,
    Discard { page: u64, pages: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..DEVICE_PAGES - PAGES_MAX, 1..=PAGES_MAX);
    prop_oneof![
        4 => place().prop_map(|(page, pages)| Step::Read { page, pages }),
        4 => place().prop_map(|(page, pages)| Step::Write { page, pages }),
        1 => Just(Step::Flush),
        1 => place().prop_map(|(page, pages)| Step::Discard { page, pages }),
    ]
}

#[repr(align(4096))]
struct Piece {
    _bytes: [u8; (PAGE * PAGES_MAX) as usize],
}

pub fn piece() -> *mut libc::c_void {
    static mut PIECE: Piece = Piece { _bytes: [7; (PAGE * PAGES_MAX) as usize] };
    (&raw mut PIECE).cast()
}

/// Past the page cache; each step has returned before the next begins.
fn take(path: &[u8], steps: &[Step]) -> i32 {
    // SAFETY: a path with a NUL.
    let disk = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR | libc::O_DIRECT) };
    for step in steps {
        let (done, wanted) = match *step {
            Step::Read { page, pages } => {
                let bytes = (pages * PAGE) as usize;
                // SAFETY: writes a static that is at least as long; this child has one thread.
                (unsafe { libc::pread(disk, piece(), bytes, (page * PAGE) as i64) }, bytes as isize)
            }
            Step::Write { page, pages } => {
                let bytes = (pages * PAGE) as usize;
                // SAFETY: reads a static that is at least as long.
                let done = unsafe { libc::pwrite(disk, piece(), bytes, (page * PAGE) as i64) };
                (done, bytes as isize)
            }
            // SAFETY: a descriptor and nothing else.
            Step::Flush => (unsafe { libc::fsync(disk) } as isize, 0),
            Step::Discard { page, pages } => {
                let range = [page * PAGE, pages * PAGE];
                // SAFETY: reads two words.
                (unsafe { libc::ioctl(disk, BLKDISCARD, range.as_ptr()) } as isize, 0)
            }
        };
        if done != wanted {
            return 2;
        }
    }
    0
}

pub fn c_path(device: &LoopDevice) -> Vec<u8> {
    [device.path.as_os_str().as_bytes(), b"\0"].concat()
}

/// What the meters counted on a device for slot 1, by operation.
fn counted(f: &Fixture, device: &LoopDevice, op: DiskOp) -> DiskCounters {
    let rows = f.meters().read_disks().unwrap().containers;
    let is_wanted = |key: &tenantry_ebpf::DiskKey| {
        (key.slot, (key.major, key.minor), key.op) == (1, device.number(), op)
    };
    rows.into_iter().find(|(key, _)| is_wanted(key)).map(|(_, row)| row).unwrap_or_default()
}

const OPERATIONS: [DiskOp; 4] = [DiskOp::Read, DiskOp::Write, DiskOp::Flush, DiskOp::Discard];

/// The rows of [`OPERATIONS`], and the device's own statistics of the same kinds.
fn both(f: &Fixture, device: &LoopDevice) -> [(DiskCounters, DiskStat); 4] {
    let stats = device.stats();
    let witness = [stats.read, stats.write, stats.flush, stats.discard];
    let mut witness = witness.into_iter();
    OPERATIONS.map(|op| (counted(f, device, op), witness.next().unwrap()))
}

struct Bench {
    f: Fixture,
    container: Container,
    device: LoopDevice,
}

/// `None` after saying what this machine lacks.
fn bench(direct: bool) -> Option<Bench> {
    let f = Fixture::share()?;
    let device = match LoopDevice::create(DEVICE_PAGES * PAGE, direct) {
        Ok(device) => device,
        Err(why) => {
            println!("SKIPPED: no loop device: {why}");
            return None;
        }
    };
    let container = f.container(1);
    if container.blkio.is_none() && !container.unified.join("io.stat").exists() {
        println!("SKIPPED: the io controller cannot be enabled");
        return None;
    }
    Some(Bench { f, container, device })
}

#[test]
fn any_mix_of_operations_is_counted_as_the_device_counts_it() {
    let Some(Bench { f, container, device }) = bench(false) else { return };
    f.meters().arm(1).unwrap();
    let path = c_path(&device);
    // The number may have been another's before.
    let begin = device.stats();
    // The mixes are the same in each run; a failing one is shrunk by running it again.
    let config = Config { cases: 12, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let mixes = prop::collection::vec(step(), 1..40);
    let outcome = runner.run(&mixes, |steps| {
        let before = both(&f, &device);
        let child = Child::gated(|| take(&path, &steps)).put(&container);
        prop_assert_eq!(child.run(), End::Code(0));
        let after = both(&f, &device);
        let grown = |i: usize| {
            let (a, b) = (&after[i].0, &before[i].0);
            (a.operations - b.operations, a.bytes - b.bytes)
        };
        let device_grown = |i: usize| {
            let (a, b) = (&after[i].1, &before[i].1);
            (a.operations - b.operations, a.bytes - b.bytes)
        };
        let sum = |pages: fn(&Step) -> u64| steps.iter().map(pages).sum::<u64>() * PAGE;
        let read = sum(|step| if let Step::Read { pages, .. } = step { *pages } else { 0 });
        let written = sum(|step| if let Step::Write { pages, .. } = step { *pages } else { 0 });
        let discarded = sum(|step| if let Step::Discard { pages, .. } = step { *pages } else { 0 });
        let flushes = steps.iter().filter(|step| matches!(step, Step::Flush)).count() as u64;
        prop_assert_eq!(grown(0), device_grown(0));
        prop_assert_eq!(grown(0).1, read);
        // The block layer accounts an fsync's request twice: as the flush that it caused and
        // as a write of nothing.
        prop_assert_eq!((grown(1).0 + flushes, grown(1).1), device_grown(1));
        prop_assert_eq!(grown(1).1, written);
        prop_assert_eq!(grown(2), (flushes, 0));
        prop_assert_eq!(device_grown(2).0, flushes);
        prop_assert_eq!(grown(3), device_grown(3));
        prop_assert_eq!(grown(3).1, discarded);
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));

    let stats = device.stats().since(&begin);
    for (op, theirs_ms) in [
        (DiskOp::Read, stats.read.ms),
        (DiskOp::Write, stats.write.ms),
        (DiskOp::Flush, 0),
        (DiskOp::Discard, stats.discard.ms),
    ] {
        let row = counted(&f, &device, op);
        assert_eq!(row.latency.count, row.operations, "{op:?}");
        assert_eq!((row.errors, row.in_flight), (0, 0), "{op:?}");
        if op == DiskOp::Flush {
            assert_eq!(row.queue.count, 0);
            continue;
        }
        assert_eq!(row.queue.count, row.operations, "{op:?}");
        // The device's time runs from the request's beginning to its end, too, rounded down to
        // ms once for all; a write's holds the fsyncs', which are flushes here.
        let mut ours_ms = (row.queue.sum_ns + row.latency.sum_ns) as f64 / 1e6;
        if op == DiskOp::Write {
            ours_ms += counted(&f, &device, DiskOp::Flush).latency.sum_ns as f64 / 1e6;
        }
        let theirs_ms = theirs_ms as f64;
        println!(
            "{op:?}: {} operations, {ours_ms:.1} ms of which {:.1} queued; device {theirs_ms} ms",
            row.operations,
            row.queue.sum_ns as f64 / 1e6
        );
        // The device's ends only after the waiters were woken, which takes a busy host a
        // while and an emulated processor a long one.
        let waking_ms = if std::env::var_os("TENANTRY_VM").is_some() { 2.0 } else { 0.2 };
        let allowed_ms = 3.0 + 0.1 * theirs_ms;
        let waking_ms = waking_ms * row.operations as f64;
        let missing_ms = theirs_ms - ours_ms;
        let bounds_ms = -allowed_ms..=allowed_ms + waking_ms;
        assert!(bounds_ms.contains(&missing_ms), "{op:?}: {missing_ms} ms missing: {row:?}");
    }
    assert_eq!(f.meters().lost().unwrap(), Default::default());
}

/// Through the page cache, so that the kernel merges neighbours.
fn write_and_sync(path: &[u8]) -> i32 {
    // SAFETY: a path with a NUL.
    let disk = unsafe { libc::open(path.as_ptr().cast(), libc::O_RDWR) };
    let bytes = (PAGE * PAGES_MAX) as usize;
    for at in 0..8 {
        // SAFETY: reads a static of this size.
        if unsafe { libc::pwrite(disk, piece(), bytes, (at * bytes) as i64) } != bytes as isize {
            return 2;
        }
    }
    // SAFETY: a descriptor and nothing else.
    if unsafe { libc::fsync(disk) } == 0 { 0 } else { 3 }
}

#[test]
fn merges_are_counted_as_the_device_counts_them() {
    let Some(Bench { f, container, device }) = bench(false) else { return };
    f.meters().arm(1).unwrap();
    let path = c_path(&device);
    let before = device.stats();
    assert_eq!(Child::gated(|| write_and_sync(&path)).put(&container).run(), End::Code(0));
    let stats = device.stats().since(&before);
    let row = counted(&f, &device, DiskOp::Write);
    let flush = counted(&f, &device, DiskOp::Flush);
    assert_eq!(row.bytes, 8 * PAGE * PAGES_MAX);
    assert_eq!(flush.operations, 1);
    let theirs = stats.write;
    assert_eq!((row.operations + 1, row.merges), (theirs.operations, theirs.merges), "{row:?}");
    println!("{} operations, {} merges", row.operations, row.merges);
}

#[test]
fn a_synchronous_writes_flushes_are_the_writers() {
    let Some(Bench { f, container, device }) = bench(false) else { return };
    f.meters().arm(1).unwrap();
    let path = c_path(&device);
    let body = || {
        let flags = libc::O_RDWR | libc::O_DIRECT | libc::O_DSYNC;
        // SAFETY: a path with a NUL.
        let disk = unsafe { libc::open(path.as_ptr().cast(), flags) };
        for at in 0..5 {
            // SAFETY: reads a static of more than a page.
            if unsafe { libc::pwrite(disk, piece(), PAGE as usize, at * PAGE as i64) } < 0 {
                return 2;
            }
        }
        0
    };
    let before = device.stats();
    assert_eq!(Child::gated(body).put(&container).run(), End::Code(0));
    let stats = device.stats().since(&before);
    let (write, flush) = (counted(&f, &device, DiskOp::Write), counted(&f, &device, DiskOp::Flush));
    assert_eq!((write.operations, write.bytes), (5, 5 * PAGE));
    // At least one for each write: the device knows no write-through.
    assert!(flush.operations >= 5, "{flush:?}");
    assert_eq!(flush.operations, stats.flush.operations);
    assert_eq!((flush.bytes, flush.latency.count), (0, flush.operations));
}

#[test]
fn a_read_that_the_device_cannot_finish_is_an_error() {
    let Some(Bench { f, container, device }) = bench(true) else { return };
    if !device.is_direct() {
        return println!("SKIPPED: this loop device reads through the page cache");
    }
    f.meters().arm(1).unwrap();
    // The second half of what is read next is no longer there.
    device.backing.as_file().set_len(8 * PAGE).unwrap();
    let path = c_path(&device);
    let steps = [Step::Read { page: 0, pages: 16 }];
    assert_eq!(Child::gated(|| take(&path, &steps)).put(&container).run(), End::Code(2));
    let read = counted(&f, &device, DiskOp::Read);
    assert_eq!((read.operations, read.errors, read.in_flight), (1, 1, 0));
    // Half came, and the rest was tried again.
    assert_eq!((read.bytes, read.requeues), (8 * PAGE, 1), "{read:?}");
    assert_eq!((read.latency.count, read.queue.count), (1, 1));
}

#[test]
fn a_completion_that_no_program_saw_is_counted_when_its_place_is_taken() {
    const WRITES: u64 = 1000;
    let Some(Bench { f, container, device }) = bench(false) else { return };
    f.meters().arm(1).unwrap();
    // From here on the kernel runs no program at completions.
    std::fs::remove_file(f.options.pin_dir.join("link_disk_complete")).unwrap();
    let before = device.stats();
    let path = c_path(&device);
    let steps = vec![Step::Write { page: 0, pages: 1 }; WRITES as usize];
    assert_eq!(Child::gated(|| take(&path, &steps)).put(&container).run(), End::Code(0));
    assert_eq!(device.stats().since(&before).write.operations, WRITES);
    let write = counted(&f, &device, DiskOp::Write);
    // The device has fewer places than that: of each the last write is still taken for one
    // in flight, all others are known to have ended.
    assert!(write.in_flight < WRITES / 2, "{write:?}");
    assert_eq!(write.operations + write.in_flight, WRITES);
    assert_eq!(write.bytes, write.operations * PAGE);
    assert_eq!((write.latency.count, write.queue.count), (0, WRITES));
    assert_eq!(f.meters().unseen_completions().unwrap(), write.operations);
}
