//! Recordings for seccomp profiles: every call that a slot asks for, and every refusal.

use tenantry_ebpf::{ProbeStatus, Recording, RefusedCall, Subjects, SwitchError};

use crate::child::{Child, End, Gate, call, call_often, sleeps};
use crate::fixture::{Fixture, wait_until};

const RECORDERS: [&str; 2] = ["profile_enter", "profile_exit"];

fn statuses(f: &Fixture) -> Vec<ProbeStatus> {
    let probes = f.meters().probes().into_iter();
    probes.filter(|probe| RECORDERS.contains(&probe.name.as_str())).map(|p| p.status).collect()
}

fn recording(f: &Fixture, slot: u32) -> Recording {
    f.meters().read_recording(slot).unwrap().expect("recorded")
}

fn numbers(calls: &[libc::c_long]) -> Vec<u32> {
    let mut numbers: Vec<u32> = calls.iter().map(|nr| *nr as u32).collect();
    numbers.sort_unstable();
    numbers
}

/// From here on `getpgrp` is answered with ENOSYS, and everything else is let pass.
fn filter_getpgrp() -> bool {
    const ALLOW: u32 = 0x7fff_0000;
    const ENOSYS: u32 = 0x5_0000 | libc::ENOSYS as u32;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut steps = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_getpgrp as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, ENOSYS),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, ALLOW),
    ];
    let program = libc::sock_fprog { len: 4, filter: steps.as_mut_ptr() };
    // SAFETY: numbers alone.
    let alone = unsafe { libc::syscall(libc::SYS_prctl, libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: the program and its steps live through the call.
    let set = unsafe { libc::syscall(libc::SYS_seccomp, mode, 0, &raw const program) };
    alone == 0 && set == 0
}

fn execute_nothing() {
    let none: [*const libc::c_char; 1] = [std::ptr::null()];
    // SAFETY: a path with a NUL and two empty lists; it fails.
    unsafe { libc::syscall(libc::SYS_execve, c"/missing".as_ptr(), none.as_ptr(), none.as_ptr()) };
}

#[test]
fn a_filtered_slot_is_recorded_from_its_filter_on_and_refusals_are_told_from_errors() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    assert!(f.meters().record(1, Subjects::Filtered, true).unwrap());
    let body = || {
        // The runtime's: before there is a filter.
        call(libc::SYS_getppid);
        if !filter_getpgrp() {
            return 1;
        }
        call_often(3, libc::SYS_getpgrp);
        call(libc::SYS_getuid);
        execute_nothing();
        // An error of the kernel's own, and the same number as the filter's.
        // SAFETY: no system call has that number.
        unsafe { libc::syscall(400) };
        0
    };
    assert_eq!(Child::gated(body).put(&container).run(), End::Code(0));
    // Not one exec succeeded: it is no slot that counts, and is recorded nonetheless. And
    // exit_group never returned.
    assert!(f.read(1).syscalls.is_empty());
    let seen = recording(&f, 1);
    let called = [libc::SYS_getuid, libc::SYS_execve, libc::SYS_exit_group, 400];
    assert_eq!(seen.called, numbers(&called));
    let nr = libc::SYS_getpgrp as u32;
    let error = Some(libc::ENOSYS as u32);
    assert_eq!(seen.refused, [RefusedCall { nr, is_compat: false, count: 3, error }]);
    assert_eq!((seen.unnoted, seen.refusals_lost, seen.from_start), (0, 0, true));
    assert!(seen.called_compat.is_empty());
    assert_eq!(seen.missed, RECORDERS.iter().map(|program| f.misses(program)).sum::<u64>());
}

#[test]
fn a_call_that_never_returns_is_recorded_while_it_waits_and_so_is_what_was_begun_before() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let gate = Gate::new();
    let mut child = Child::gated(|| {
        if !filter_getpgrp() || !gate.wait() {
            return 1;
        }
        call(libc::SYS_getpgrp);
        i32::from(call(libc::SYS_pause) != 0)
    })
    .put(&container);
    child.open_gate();
    wait_until("it waits at the second gate", || {
        let calls = std::fs::read_to_string(format!("/proc/{}/status", child.pid)).unwrap();
        calls.contains("Seccomp:\t2") && sleeps(&child)
    });
    assert!(f.meters().record(1, Subjects::Filtered, false).unwrap());
    // A second wish changes nothing.
    assert!(!f.meters().record(1, Subjects::Armed, true).unwrap());
    assert!(recording(&f, 1).called.is_empty());
    gate.open_for(1);
    let expected = numbers(&[libc::SYS_read, libc::SYS_pause]);
    wait_until("it pauses", || recording(&f, 1).called == expected);
    let seen = recording(&f, 1);
    let [refused] = seen.refused[..] else { panic!("{seen:?}") };
    assert_eq!((refused.nr, refused.count), (libc::SYS_getpgrp as u32, 1));
    assert!(!seen.from_start);
    drop(child);
    // Killed in it: nobody saw it return.
    assert_eq!(f.syscall(1, libc::SYS_exit_group).count, 0);
    assert_eq!(recording(&f, 1).called, expected);
}

#[test]
fn a_slot_without_filters_is_recorded_from_its_first_exec_on() {
    let Some(f) = Fixture::share() else { return };
    let (one, two) = (f.container(1), f.container(2));
    f.meters().record(1, Subjects::Armed, true).unwrap();
    let body = || {
        call(libc::SYS_getuid);
        0
    };
    assert_eq!(Child::gated(body).put(&one).run(), End::Code(0));
    assert!(recording(&f, 1).called.is_empty());
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    assert_eq!(Child::gated(body).put(&one).run(), End::Code(0));
    assert_eq!(Child::gated(body).put(&two).run(), End::Code(0));
    // A child that is slow may come to its gate when it is in the cgroup already.
    let seen = recording(&f, 1);
    let of_body = numbers(&[libc::SYS_getuid, libc::SYS_exit_group]);
    let rest: Vec<_> = seen.called.iter().filter(|nr| !of_body.contains(nr)).collect();
    assert!(of_body.iter().all(|nr| seen.called.contains(nr)), "{seen:?}");
    let of_gate = numbers(&[libc::SYS_set_robust_list, libc::SYS_close, libc::SYS_read]);
    assert!(rest.iter().all(|nr| of_gate.contains(nr)), "{seen:?}");
    assert_eq!(f.meters().read_recording(2).unwrap(), None);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_32_bit_call_is_recorded_by_its_own_number() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    f.meters().record(1, Subjects::Armed, true).unwrap();
    let body = || {
        let mut result = 20_u64;
        // SAFETY: getpid by the 32-bit table; it touches no memory. Kernels without that
        // table raise SIGSEGV.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        i32::from(result == 0)
    };
    match Child::gated(body).put(&container).run() {
        End::Code(code) => assert_eq!(code, 0),
        End::Signal(signal) => {
            println!("SKIPPED: no 32-bit calls on this kernel (signal {signal})");
            return;
        }
    }
    let seen = recording(&f, 1);
    assert_eq!(seen.called_compat, [20]);
    assert!(!seen.called.contains(&20), "{seen:?}");
}

#[test]
fn the_recorders_are_there_while_somebody_is_recorded_and_outlive_the_agent() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let off = [ProbeStatus::Disabled, ProbeStatus::Disabled];
    let on = [ProbeStatus::Active, ProbeStatus::Active];
    assert_eq!(statuses(&f), off);
    f.meters().record(1, Subjects::Armed, false).unwrap();
    f.meters().record(2, Subjects::Armed, false).unwrap();
    assert_eq!(statuses(&f), on);
    // Nobody may shed them.
    let error = f.meters().switch("profile_enter", false).unwrap_err();
    assert!(matches!(error, SwitchError::Records { .. }), "{error}");
    assert!(f.meters().switchable().iter().all(|(name, _)| !RECORDERS.contains(name)));
    let run = |nr| {
        let body = move || {
            call(nr);
            0
        };
        assert_eq!(Child::gated(body).put(&container).run(), End::Code(0));
    };
    f.forget();
    run(libc::SYS_getuid);
    f.load_again();
    assert!(f.meters().adopted());
    assert_eq!(statuses(&f), on);
    // A restart of the container.
    f.meters().register(1, &container.ids()).unwrap();
    assert!(recording(&f, 1).called.contains(&(libc::SYS_getuid as u32)));
    f.meters().arm(1).unwrap();
    run(libc::SYS_geteuid);
    f.meters().end_recording(1).unwrap();
    assert_eq!(statuses(&f), on);
    run(libc::SYS_getgid);
    let seen = recording(&f, 1);
    assert!(!seen.running);
    let is_there = |nr: libc::c_long| seen.called.contains(&(nr as u32));
    assert!(is_there(libc::SYS_getuid) && is_there(libc::SYS_geteuid), "{seen:?}");
    assert!(!is_there(libc::SYS_getgid), "{seen:?}");
    // The last one's slot is taken away.
    f.meters().reset(2).unwrap();
    assert_eq!(statuses(&f), off);
    assert_eq!(f.meters().read_recording(2).unwrap(), None);
    f.meters().reset(1).unwrap();
    assert_eq!(f.meters().read_recording(1).unwrap(), None);
}
