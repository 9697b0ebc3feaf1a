//! Waits, times and switches of threads against the kernel's own account of them.

use std::fs;
use std::time::Instant;

use crate::child::{Child, End, call, pin_to, sleep_ms, spin_ms};
use crate::fixture::{Fixture, wait_until};
use crate::witness::{is_stopped, schedstat, stop};

const SWITCH: &str = "scheduler_switch";

/// A thread's voluntary and involuntary switches.
fn switches(pid: i32) -> (u64, u64) {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let number = |field: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().parse().unwrap()
    };
    (number("voluntary_ctxt_switches:"), number("nonvoluntary_ctxt_switches:"))
}

/// `None` where the kernel does not show it.
fn migrations(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/sched")).ok()?;
    let line = text.lines().find(|line| line.starts_with("se.nr_migrations"))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What the hypervisor took from all CPUs, in nanoseconds.
fn stolen() -> u64 {
    let text = fs::read_to_string("/proc/stat").unwrap();
    text.split_whitespace().nth(8).map_or(0, |ticks| ticks.parse::<u64>().unwrap() * 10_000_000)
}

#[test]
fn waits_and_runs_agree_with_schedstat() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    // Three compete for one processor, then stop, so that their accounts can be read.
    let body = || {
        spin_ms(0, 1200);
        stop();
        0
    };
    let mut children: Vec<Child> = (0..3).map(|_| Child::gated(body).put(&container)).collect();
    f.meters().arm(1).unwrap();
    let account = |children: &[Child]| {
        let accounts = children.iter().map(|child| schedstat(child.pid));
        accounts.fold((0, 0), |sum, (ran, waited)| (sum.0 + ran, sum.1 + waited))
    };
    let (before, stolen_before) = (account(&children), stolen());
    children.iter_mut().for_each(Child::open_gate);
    for child in &children {
        wait_until("the spinners to stop", || is_stopped(child.pid));
    }
    let (after, stolen) = (account(&children), stolen() - stolen_before);
    let counters = f.read(1);
    drop(children);
    let (ran, waited) = (after.0 - before.0, after.1 - before.1);
    assert!(waited > 500_000_000, "the spinners did not compete: {waited} ns");
    let (waits, scheduler) = (counters.run_queue, counters.scheduler);
    let ratio = waits.sum_ns as f64 / waited as f64;
    assert!((0.9..1.1).contains(&ratio), "{} ns against {waited} ns", waits.sum_ns);
    let off = scheduler.off_cpu;
    assert_eq!(waits.sum_ns, off.preempted_ns + off.woken_ns);
    // Ours is the wall clock's time: what is stolen meanwhile is in it, and not in theirs.
    let on_cpu = scheduler.on_cpu_ns as f64;
    let most = (ran + stolen) as f64 * 1.1 + 1e7;
    assert!(on_cpu > ran as f64 * 0.95 && on_cpu < most, "{on_cpu} ns, {ran} ns, {stolen} ns");
    println!("run queue: {} waits, {ratio:.4} of schedstat's time", waits.count);
    println!("on CPU: {:.4} of schedstat's time, {stolen} ns stolen", on_cpu / ran as f64);
}

#[test]
fn switches_and_migrations_are_the_kernels_own_to_the_last_one() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    let cpus = std::thread::available_parallelism().unwrap().get();
    let body = || {
        for n in 0..200 {
            pin_to(0, n % cpus.min(2));
            sleep_ms(1);
            call(libc::SYS_sched_yield);
        }
        spin_ms(0, 50);
        stop();
        0
    };
    let mut children: Vec<Child> = (0..2).map(|_| Child::gated(body).put(&container)).collect();
    f.meters().arm(1).unwrap();
    let account = |children: &[Child]| {
        children.iter().fold((0, 0, Some(0)), |sum, child| {
            let (voluntary, involuntary) = switches(child.pid);
            let moved = sum.2.and_then(|sum: u64| Some(sum + migrations(child.pid)?));
            (sum.0 + voluntary, sum.1 + involuntary, moved)
        })
    };
    let before = account(&children);
    children.iter_mut().for_each(Child::open_gate);
    let ours = || {
        let scheduler = f.read(1).scheduler;
        (scheduler.voluntary_switches, scheduler.involuntary_switches, scheduler.migrations)
    };
    let theirs = || {
        let after = account(&children);
        let moved = after.2.zip(before.2).map(|(after, before)| after - before);
        (after.0 - before.0, after.1 - before.1, moved)
    };
    for child in &children {
        wait_until("the children to stop", || is_stopped(child.pid));
    }
    // Stopped is what they are called a little before they leave their CPU. A switch that the
    // kernel did not show us is made up for at the thread's next one: only a last one is missing.
    let missed = || f.misses(SWITCH);
    wait_until("the accounts to rest", || {
        let (ours, theirs) = (ours(), theirs());
        ours.0 + ours.1 + missed() >= theirs.0 + theirs.1
    });
    let (ours, theirs) = (ours(), theirs());
    println!("voluntary, involuntary, migrations: ours {ours:?}, the kernel's {theirs:?}");
    f.assert_counted(&[SWITCH], ours.0, theirs.0);
    f.assert_counted(&[SWITCH], ours.1, theirs.1);
    // Where a slow machine preempts a thread on its way to sleep, that sleep is no switch of its own.
    assert!(ours.0 >= 200, "each sleeps 200 times: {ours:?}");
    match theirs.2 {
        Some(moved) => f.assert_counted(&["scheduler_migrate"], ours.2, moved),
        None => println!("migrations not compared: this kernel shows none in /proc/PID/sched"),
    }
    if cpus > 1 {
        assert!(ours.2 >= 200, "each moves 200 times: {ours:?}");
    }
}

#[test]
fn time_off_the_cpu_is_split_by_what_the_thread_left_it_for() {
    const PIECE_MS: u64 = 300;
    const PIECE_NS: u64 = PIECE_MS * 1_000_000;
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    let body = || {
        sleep_ms(PIECE_MS as i64);
        // The parent of a vfork sleeps uninterruptibly until its child is gone.
        let flags = libc::CLONE_VFORK | libc::SIGCHLD;
        // SAFETY: a fork without shared memory; the child makes two system calls.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        if pid == 0 {
            call(libc::SYS_getpid);
            sleep_ms(PIECE_MS as i64);
            // SAFETY: ends the child.
            unsafe { libc::_exit(0) };
        }
        stop();
        // A last sleep, so that the stop before it is over and counted.
        sleep_ms(1);
        0
    };
    let mut child = Child::gated(body).put(&container);
    f.meters().arm(1).unwrap();
    let began = Instant::now();
    child.open_gate();
    wait_until("the child to stop", || is_stopped(child.pid));
    sleep_ms(PIECE_MS as i64);
    // SAFETY: a child that was not waited for.
    unsafe { libc::kill(child.pid, libc::SIGCONT) };
    assert_eq!(child.wait(), End::Code(0));
    let elapsed = began.elapsed().as_nanos() as u64;
    let counters = f.read(1).scheduler;
    println!("{counters:?} in {elapsed} ns");
    let off = counters.off_cpu;
    // A sleep begins a little before its thread has left the CPU: long on an emulated processor.
    const LEAST_NS: u64 = PIECE_NS * 99 / 100;
    // The child's own sleep, and its child's.
    assert!(off.interruptible_ns >= 2 * LEAST_NS && off.interruptible_ns < 2 * elapsed);
    // From here on nobody sleeps for longer than he did: only a busy machine adds.
    let piece = |ns: u64| ns >= LEAST_NS && ns < elapsed;
    assert!(piece(off.uninterruptible_ns), "{off:?}");
    assert!(piece(off.stopped_ns), "{off:?}");
    // One thread's whole life, and another's that lasted as long as its parent's sleep in D.
    let off_ns: u64 = off.by_state().iter().map(|(_, ns)| ns).sum();
    let lives = counters.on_cpu_ns + off_ns;
    let most = elapsed + off.uninterruptible_ns + elapsed / 10;
    assert!(lives > 3 * PIECE_NS && lives < most, "{lives} ns of {most} ns");
}

#[test]
fn waits_of_others_are_not_kept() {
    let Some(f) = Fixture::share() else { return };
    f.meters().arm(1).unwrap();
    let spinner = || {
        spin_ms(0, 100);
        0
    };
    let mut children: Vec<Child> = (0..2).map(|_| Child::gated(spinner)).collect();
    children.iter_mut().for_each(Child::open_gate);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    let counters = f.read(1);
    assert_eq!((counters.run_queue.count, counters.scheduler), (0, Default::default()));
}
