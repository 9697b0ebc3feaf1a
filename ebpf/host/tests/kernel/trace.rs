//! Traces: every call of one slot, for a while.

use std::time::Duration;

use tenantry_ebpf::{ProbeStatus, SYSCALL_LATENCY_PROBE, TRACES, TraceError, TracedSyscall};

use crate::child::{Child, End, call_often, sleep_ms};
use crate::fixture::{Fixture, SYSCALL_EXIT};
use crate::groups::Container;

const LONG: Duration = Duration::from_secs(3600);

fn traced(f: &Fixture, nr: libc::c_long) -> Option<TracedSyscall> {
    let calls = f.meters().read_trace(1).unwrap().expect("traced");
    calls.into_iter().find(|call| call.nr == nr as u32)
}

/// A call is timed by two programs.
fn assert_timed(f: &Fixture, timed: u64, calls: u64) {
    f.assert_counted(&[SYSCALL_LATENCY_PROBE, SYSCALL_EXIT], timed, calls);
}

fn run(container: &Container, body: impl FnOnce() -> i32) {
    assert_eq!(Child::gated(body).put(container).run(), End::Code(0));
}

fn work() -> i32 {
    call_often(5000, libc::SYS_getpid);
    for _ in 0..100 {
        // SAFETY: a path with a NUL; the call fails and gives no descriptor.
        unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/missing".as_ptr(), 0, 0) };
    }
    (0..20).for_each(|_| sleep_ms(3));
    0
}

fn is_attached(f: &Fixture) -> bool {
    let probes = f.meters().probes();
    let probe = probes.into_iter().find(|probe| probe.name == "syscall_enter").expect("listed");
    probe.status == ProbeStatus::Active
}

#[test]
fn every_call_of_a_traced_slot_is_timed_and_no_other() {
    let Some(f) = Fixture::load(|options| options.syscall_latency = false) else { return };
    let (one, two) = (f.container(1), f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    assert!(!is_attached(&f));
    f.meters().trace(1, LONG).unwrap();
    assert!(is_attached(&f));
    let error = f.meters().trace(1, LONG).unwrap_err();
    assert!(matches!(error, TraceError::Already { slot: 1 }), "{error}");
    run(&one, work);
    run(&two, work);
    let getpid = traced(&f, libc::SYS_getpid).unwrap();
    assert_timed(&f, getpid.latency.count, 5000);
    assert_eq!(getpid.errors, 0);
    let openat = traced(&f, libc::SYS_openat).unwrap();
    assert_timed(&f, openat.latency.count, 100);
    assert_eq!(openat.latency.count, openat.errors);
    let sleep = traced(&f, libc::SYS_nanosleep).unwrap();
    assert_timed(&f, sleep.latency.count, 20);
    assert!(sleep.latency.sum_ns >= sleep.latency.count * 3_000_000, "{sleep:?}");
    // Only the trace wants the hook: nothing is sampled for the classes.
    assert!(f.read(1).latency.is_empty());
    f.meters().end_trace(1).unwrap();
    assert!(!is_attached(&f));
    assert_eq!(f.meters().read_trace(1).unwrap(), None);
    // A second trace begins at zero.
    f.meters().trace(1, LONG).unwrap();
    assert_eq!(f.meters().read_trace(1).unwrap(), Some(Vec::new()));
}

#[test]
fn a_trace_ends_by_itself_and_stays_readable() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let brief = Duration::from_millis(20);
    f.meters().trace(1, brief).unwrap();
    std::thread::sleep(2 * brief);
    run(&container, work);
    assert_eq!(f.meters().read_trace(1).unwrap(), Some(Vec::new()));
    f.assert_calls(1, libc::SYS_getpid, 5000);
    f.meters().end_trace(1).unwrap();
    // Sampling had the hook before, and keeps it.
    assert!(is_attached(&f));
}

#[test]
fn one_trace_too_many_is_refused_with_the_names_of_the_others() {
    let Some(f) = Fixture::share() else { return };
    let slots = 1..=TRACES as u32;
    for slot in slots.clone() {
        f.meters().trace(slot, LONG).unwrap();
    }
    let error = f.meters().trace(9, LONG).unwrap_err();
    let TraceError::Full { traced } = &error else { panic!("{error}") };
    assert!(slots.eq(traced.iter().copied()), "{traced:?}");
    // A slot that is taken away gives its row back.
    f.meters().reset(2).unwrap();
    f.meters().trace(9, LONG).unwrap();
    f.meters().trace(2, LONG).unwrap_err();
}

#[test]
fn traces_of_an_agent_that_died_are_cleaned_up_by_the_next() {
    let Some(mut f) = Fixture::load(|options| options.syscall_latency = false) else { return };
    for slot in 1..=TRACES as u32 {
        f.meters().trace(slot, LONG).unwrap();
    }
    f.forget();
    f.load_again();
    assert!(f.meters().adopted());
    assert!(!is_attached(&f));
    assert_eq!(f.meters().read_trace(1).unwrap(), None);
    f.meters().trace(9, LONG).unwrap();
}

/// Time that the child itself saw, in memory that both sides see.
struct Shared(*mut u64);

impl Shared {
    fn new() -> Shared {
        // SAFETY: a new anonymous mapping of one page.
        let page = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), 4096, protection, flags, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        Shared(page.cast())
    }

    fn add(&self, ns: u64) {
        // SAFETY: mapped, aligned, and only one process writes at a time.
        unsafe { *self.0 += ns };
    }

    fn get(&self) -> u64 {
        // SAFETY: mapped and aligned; the child has ended.
        unsafe { *self.0 }
    }
}

fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes `time`.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[test]
fn each_call_of_the_fsync_family_is_timed_while_the_probe_is_on() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let file = tempfile::tempfile().unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&file);
    let seen = Shared::new();
    let body = || {
        for round in 0..10_i64 {
            // SAFETY: writes one byte of a literal to the test's own file.
            unsafe { libc::pwrite(fd, b"x".as_ptr().cast(), 1, round) };
            for nr in [libc::SYS_fsync, libc::SYS_fdatasync] {
                let begun = now_ns();
                // SAFETY: a descriptor and no memory.
                if unsafe { libc::syscall(nr, fd) } != 0 {
                    return 1;
                }
                seen.add(now_ns() - begun);
            }
        }
        let begun = now_ns();
        // SAFETY: a descriptor and numbers.
        unsafe { libc::syscall(libc::SYS_sync_file_range, fd, 0_i64, 0_i64, 7_u32) };
        // SAFETY: a page of the shared mapping.
        unsafe { libc::syscall(libc::SYS_msync, seen.0, 4096, libc::MS_SYNC) };
        seen.add(now_ns() - begun);
        0
    };
    run(&container, body);
    let sync = f.read(1).sync_latency;
    assert_timed(&f, sync.count, 22);
    assert!(sync.sum_ns > 0 && sync.sum_ns <= seen.get(), "{} of {}", sync.sum_ns, seen.get());
    println!("fsync: {} ns of the {} ns that the caller saw", sync.sum_ns, seen.get());
    // Off, nothing is timed.
    f.meters().switch("syscall_enter", false).unwrap();
    run(&container, body);
    assert_eq!(f.read(1).sync_latency.count, sync.count);
    f.meters().reset(1).unwrap();
    assert_eq!(f.read(1).sync_latency.count, 0);
}
