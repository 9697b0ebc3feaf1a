//! What the meters say of their own cost, against what was really done.

use tenantry_ebpf::Timing;

use crate::child::{Child, End, call_often};
use crate::fixture::{Fixture, wait_until};

const CALLS: u32 = 20_000;

#[test]
fn runs_and_times_are_counted_only_while_somebody_measures() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let work = || {
        let body = || {
            call_often(CALLS, libc::SYS_getpid);
            0
        };
        assert_eq!(Child::gated(body).put(&container).run(), End::Code(0));
    };
    let timing = Timing::begin().unwrap();
    let before = f.meters().cost().unwrap();
    let began = std::time::Instant::now();
    work();
    let after = f.meters().cost().unwrap();
    let elapsed_ns = began.elapsed().as_nanos() as u64;
    drop(timing);
    let window = after.since(&before);
    let exit = window.programs.iter().find(|p| p.name == "syscall_exit").expect("active");
    // The witness is the work itself; the rest of the machine calls as well.
    assert!(exit.runs >= u64::from(CALLS), "{exit:?}");
    assert!(exit.run_ns > exit.runs, "more than a nanosecond each: {exit:?}");
    let cpus = std::thread::available_parallelism().unwrap().get() as u64;
    assert!(window.run_ns() < elapsed_ns * cpus, "{} ns of {elapsed_ns} ns", window.run_ns());
    println!("syscall_exit: {} runs of {} ns", exit.runs, exit.run_ns / exit.runs);
    // Somebody else on this machine may measure for a while: not for ever.
    wait_until("the statistics to go off", || {
        let before = f.meters().cost().unwrap();
        work();
        f.meters().cost().unwrap().since(&before).run_ns() == 0
    });
}

#[test]
fn every_map_tells_its_memory_and_all_stay_within_the_promise() {
    let Some(f) = Fixture::load(|o| o.slots = 256) else { return };
    let cost = f.meters().cost().unwrap();
    let of = |name: &str| cost.maps.iter().find(|map| map.name == name).expect("a map");
    let cpus = possible_cpus();
    // 512 calls of two counters each: values alone, without the kernel's own headers.
    assert!(of("syscalls").memory_bytes >= 256 * 512 * 16 * cpus, "{:?}", of("syscalls"));
    assert!(of("events").memory_bytes >= u64::from(f.options.ring_bytes), "{:?}", of("events"));
    // Objects' read-only data are pinned nowhere, and are memory all the same.
    assert!(cost.maps.iter().any(|map| map.name.starts_with(".rodata")), "{:?}", cost.maps);
    for program in &cost.programs {
        assert!(program.memory_bytes > 0, "{program:?}");
    }
    let (maps, programs) = (cost.map_bytes(), cost.program_bytes());
    println!(
        "{} maps: {maps} bytes; {} programs: {programs}",
        cost.maps.len(),
        cost.programs.len()
    );
    assert!(maps <= 64 << 20, "{maps} bytes on {cpus} CPUs:\n{:#?}", cost.maps);
}

fn possible_cpus() -> u64 {
    aya::util::nr_cpus().expect("possible CPUs") as u64
}
