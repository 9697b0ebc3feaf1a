//! Counts of known calls, and the sampling of their latency.

use tenantry_ebpf::{ErrorClass, SyscallClass};

use crate::child::{Child, End, call, call_often, sleep_ms};
use crate::fixture::{Fixture, SYSCALL_EXIT};

const OTHER: libc::c_long = 511;

fn open_missing() {
    // SAFETY: a path with a NUL; the call fails and gives no descriptor.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, c"/missing".as_ptr(), 0, 0) };
}

#[test]
fn each_call_and_each_error_is_counted() {
    let Some(f) = Fixture::share() else { return };
    let child = Child::gated(|| {
        call_often(5000, libc::SYS_getpid);
        (0..300).for_each(|_| open_missing());
        0
    });
    let container = f.container(1);
    let child = child.put(&container);
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    f.assert_calls(1, libc::SYS_getpid, 5000);
    assert_eq!(f.syscall(1, libc::SYS_getpid).errors, 0);
    f.assert_calls(1, libc::SYS_openat, 300);
    let openat = f.syscall(1, libc::SYS_openat);
    assert_eq!(openat.count, openat.errors);
}

#[test]
fn each_error_is_counted_by_its_class() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        (0..70).for_each(|_| open_missing());
        for _ in 0..50 {
            // SAFETY: no descriptor, no memory.
            unsafe { libc::syscall(libc::SYS_read, -1, std::ptr::null::<u8>(), 0) };
        }
        for _ in 0..20 {
            // SAFETY: there is no such child, and nothing is written.
            unsafe { libc::syscall(libc::SYS_wait4, -1, 0, libc::WNOHANG, 0) };
            // SAFETY: a signal that does not exist.
            unsafe { libc::syscall(libc::SYS_kill, 0, 9999) };
            // SAFETY: a wait that times out at once.
            unsafe { libc::syscall(libc::SYS_futex, &0_u32, libc::FUTEX_WAIT, 1, 0, 0, 0) };
            // SAFETY: no call has this number.
            unsafe { libc::syscall(500) };
        }
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let counters = f.read(1);
    let check = |nr: libc::c_long, class, expected: u64| {
        let of_it = counters.syscall_errors.iter().filter(|errors| errors.nr == nr as u32);
        let [of_it] = of_it.collect::<Vec<_>>()[..] else { panic!("{nr} has one class") };
        assert_eq!(of_it.class, class, "{nr}");
        f.assert_counted(&[SYSCALL_EXIT], of_it.count, expected);
    };
    check(libc::SYS_openat, ErrorClass::NotFound, 70);
    check(libc::SYS_read, ErrorClass::Invalid, 50);
    check(libc::SYS_wait4, ErrorClass::NotFound, 20);
    check(libc::SYS_kill, ErrorClass::Invalid, 20);
    check(libc::SYS_futex, ErrorClass::Busy, 20);
    check(500, ErrorClass::Unsupported, 20);
    let total: u64 = counters.syscalls.iter().map(|call| call.errors).sum();
    let by_class: u64 = counters.syscall_errors.iter().map(|errors| errors.count).sum();
    assert_eq!(by_class, total);
}

#[test]
fn what_happens_before_the_first_exec_is_nobodys() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        call_often(5000, libc::SYS_getpid);
        let argv = [c"sh".as_ptr(), c"-c".as_ptr(), c"exit 4".as_ptr(), std::ptr::null()];
        // SAFETY: strings with a NUL and a list that ends with null.
        unsafe { libc::execv(c"/bin/sh".as_ptr(), argv.as_ptr()) };
        127
    };
    let child = Child::gated(body).put(&f.container(1));
    assert_eq!(child.run(), End::Code(4));
    assert!(f.syscall(1, libc::SYS_getpid).count < 100, "{:?}", f.read(1).syscalls);
    // The exec itself returns after it armed the slot.
    f.assert_calls(1, libc::SYS_execve, 1);
}

#[test]
fn a_clone_counts_once_and_a_signal_handlers_return_too() {
    let Some(f) = Fixture::share() else { return };
    extern "C" fn handler(_: libc::c_int) {}
    let body = || {
        // SAFETY: the handler does nothing.
        unsafe { libc::signal(libc::SIGUSR1, handler as *const () as libc::sighandler_t) };
        for _ in 0..10 {
            // SAFETY: the grandchild only ends.
            let pid = unsafe { libc::syscall(libc::SYS_fork) };
            if pid == 0 {
                // SAFETY: as above.
                unsafe { libc::_exit(0) };
            }
            // SAFETY: waits for the grandchild.
            unsafe { libc::wait4(pid as i32, std::ptr::null_mut(), 0, std::ptr::null_mut()) };
            // SAFETY: a signal to oneself, which is handled.
            unsafe { libc::raise(libc::SIGUSR1) };
        }
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    f.assert_calls(1, libc::SYS_fork, 10);
    f.assert_calls(1, libc::SYS_rt_sigreturn, 10);
    assert_eq!(f.syscall(1, libc::SYS_rt_sigreturn).errors, 0);
    assert_eq!(f.syscall(1, OTHER).count, 0, "{:?}", f.read(1).syscalls);
}

#[test]
fn calls_of_32_bit_programs_do_not_pass_for_others() {
    let Some(f) = Fixture::share() else { return };
    /// The 32-bit door with the 32-bit number of getpid, which is writev's here.
    fn getpid_32() -> u32 {
        let result: u32;
        // SAFETY: getpid touches no memory; the gate changes eax and what is listed.
        unsafe {
            std::arch::asm!("int 0x80", inlateout("eax") 20_u32 => result,
                out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        }
        result
    }
    let body = || (0..50).all(|_| getpid_32() == call(libc::SYS_getpid) as u32) as i32;
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    match child.run() {
        End::Code(1) => {}
        other => return println!("SKIPPED: this kernel runs no 32-bit calls ({other:?})"),
    }
    f.assert_calls(1, OTHER, 50);
    assert_eq!(f.syscall(1, libc::SYS_writev).count, 0);
    f.assert_calls(1, libc::SYS_getpid, 50);
}

#[test]
fn one_call_in_sixteen_is_timed_whatever_the_pattern() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        // Process and file by turns: a fixed stride of 16 would see only one of them.
        for _ in 0..16_000 {
            call(libc::SYS_getppid);
            open_missing();
        }
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let latency = f.read(1).latency;
    for class in [SyscallClass::Process, SyscallClass::File] {
        let (_, histogram) = latency.iter().find(|(found, _)| *found == class).expect("seen");
        // 1000 are expected; five standard deviations are 153.
        assert!((850..1150).contains(&histogram.count), "{class:?} {}", histogram.count);
        assert!(histogram.quantile(0.5).unwrap().as_micros() < 100, "{histogram:?}");
    }
}

#[test]
fn a_sleep_takes_as_long_as_it_takes() {
    let Some(f) = Fixture::share() else { return };
    let body = || {
        (0..300).for_each(|_| sleep_ms(3));
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    let latency = f.read(1).latency;
    let (_, time) = latency.iter().find(|(class, _)| *class == SyscallClass::Time).expect("seen");
    assert!(time.sum_ns >= time.count * 3_000_000, "{time:?}");
    assert_eq!(time.buckets[..22].iter().sum::<u64>(), 0, "shorter than 2.1 ms: {time:?}");
}

#[test]
fn without_the_option_nothing_is_timed_and_the_probe_says_so() {
    let Some(f) = Fixture::load(|options| options.syscall_latency = false) else { return };
    let body = || {
        call_often(1000, libc::SYS_getpid);
        0
    };
    let child = Child::gated(body).put(&f.container(1));
    f.meters().arm(1).unwrap();
    assert_eq!(child.run(), End::Code(0));
    f.assert_calls(1, libc::SYS_getpid, 1000);
    assert!(f.read(1).latency.is_empty());
    let probes = f.meters().probes();
    let probe = probes.iter().find(|probe| probe.name == "syscall_enter").unwrap();
    assert_eq!(probe.status, tenantry_ebpf::ProbeStatus::Disabled);
}
