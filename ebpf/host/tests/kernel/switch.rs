//! Probes that are attached and detached while the rest counts on.

use tenantry_ebpf::{ProbeStatus, SwitchError};

use crate::child::{Child, End, Gate, call_often, sleeps};
use crate::fixture::{Fixture, wait_until};
use crate::groups::Container;
use crate::witness::reads_of;

const PROBE: &str = "syscall_enter";

fn status(f: &Fixture) -> ProbeStatus {
    let probes = f.meters().probes();
    probes.into_iter().find(|probe| probe.name == PROBE).expect("listed").status
}

/// How many calls were timed so far.
fn timed(f: &Fixture) -> u64 {
    f.read(1).latency.iter().map(|(_, histogram)| histogram.count).sum()
}

fn call_getpid(container: &Container) {
    let body = || {
        call_often(4000, libc::SYS_getpid);
        0
    };
    assert_eq!(Child::gated(body).put(container).run(), End::Code(0));
}

#[test]
fn a_probe_is_switched_off_and_on_and_counting_goes_on() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    call_getpid(&container);
    let first = timed(&f);
    // 250 are expected; five standard deviations are 77.
    assert!(first > 170, "{first}");

    f.meters().switch(PROBE, false).unwrap();
    assert_eq!(status(&f), ProbeStatus::Disabled);
    call_getpid(&container);
    assert_eq!(timed(&f), first);
    // The next agent finds it as it was left, and can turn it.
    f.forget();
    f.load_again();
    assert!(f.meters().adopted());
    assert_eq!(status(&f), ProbeStatus::Disabled);
    call_getpid(&container);
    assert_eq!(timed(&f), first);

    f.meters().switch(PROBE, true).unwrap();
    f.meters().switch(PROBE, true).unwrap();
    assert_eq!(status(&f), ProbeStatus::Active);
    call_getpid(&container);
    let second = timed(&f) - first;
    assert!(second > 170, "{second}");
    f.forget();
    f.load_again();
    assert!(f.meters().adopted());
    assert_eq!(status(&f), ProbeStatus::Active);

    // As quick as a governor never is.
    for _ in 0..5 {
        f.meters().switch(PROBE, false).unwrap();
        f.meters().switch(PROBE, true).unwrap();
    }
    call_getpid(&container);
    assert!(timed(&f) - first - second > 170);
    f.assert_calls(1, libc::SYS_getpid, 5 * 4000);
}

#[test]
fn what_cannot_be_switched_is_refused_by_name() {
    let Some(f) = Fixture::share() else { return };
    let error = f.meters().switch("syscall_entry", true).unwrap_err();
    assert!(matches!(&error, SwitchError::Unknown { probe } if probe == "syscall_entry"));
    let error = f.meters().switch("syscall_exit", false).unwrap_err();
    assert!(matches!(error, SwitchError::NotSwitchable { probe: "syscall_exit" }), "{error}");
}

/// Of so many calls that wait, some are sampled: that none is has a chance of 1.6 %, and
/// then the test proves nothing, which is no failure.
const WAITERS: usize = 64;

#[test]
fn a_sample_from_before_the_probe_was_off_is_never_matched() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let (first, second) = (Gate::new(), Gate::new());
    let body = || i32::from(!(first.wait() && second.wait()));
    let mut children: Vec<Child> =
        (0..WAITERS).map(|_| Child::gated(body).put(&container)).collect();
    children.iter_mut().for_each(Child::open_gate);
    let returned = |reads: usize| {
        let each = (reads / WAITERS) as u64;
        wait_until("the reads to return", || children.iter().all(|c| reads_of(c.pid) == each));
        wait_until("all to wait again", || children.iter().all(sleeps));
        f.assert_calls(1, libc::SYS_read, reads as u64);
    };
    // Now each waits in a read that the probe saw begin …
    returned(WAITERS);
    f.meters().switch(PROBE, false).unwrap();
    first.open_for(WAITERS);
    // … and now in one that it did not see.
    returned(2 * WAITERS);
    let before = timed(&f);
    f.meters().switch(PROBE, true).unwrap();
    second.open_for(WAITERS);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    assert_eq!(timed(&f), before);
}
