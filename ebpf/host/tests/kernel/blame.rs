//! Who kept whom waiting for a CPU: against the kernel's own account of a thread's waits
//! (`/proc/PID/schedstat`) and of a group's throttled time (`cpu.stat`).

use std::collections::HashMap;

use tenantry_ebpf::{BlamedResource, Culprit, Slot};

use crate::child::{Child, End, call, sleep_ms, spin_ms};
use crate::cpu_group::CpuGroup;
use crate::fixture::{Fixture, wait_until};
use crate::witness::{is_stopped, run_delay_ns, stop};

/// What a slot waited for a CPU, by culprit.
fn blamed(f: &Fixture, victim: Slot) -> HashMap<Culprit, u64> {
    let rows = f.meters().read_blame().unwrap().into_iter();
    let rows = rows.filter(|row| (row.victim, row.resource) == (victim, BlamedResource::Cpu));
    rows.map(|row| (row.culprit, row.ns)).collect()
}

fn neighbours_ns(blamed: &HashMap<Culprit, u64>) -> u64 {
    blamed.iter().filter(|(who, _)| matches!(who, Culprit::Slot(_))).map(|(_, ns)| ns).sum()
}

/// The causes of all waits that have ended are these waits, to the last nanosecond.
fn assert_adds_up(f: &Fixture, victim: Slot) -> HashMap<Culprit, u64> {
    let (waits, blamed) = (f.read(victim).run_queue.sum_ns, blamed(f, victim));
    assert_eq!(blamed.values().sum::<u64>(), waits, "slot {victim}: {blamed:?}");
    blamed
}

/// Loaded meters; and a group before all other work of this machine, of which tests know
/// nothing. It goes first: children die before it.
fn load() -> Option<(Option<CpuGroup>, Fixture)> {
    Some((CpuGroup::ahead(), Fixture::share()?))
}

trait Ahead {
    fn ahead(self, group: &Option<CpuGroup>) -> Self;
}

impl Ahead for Child {
    fn ahead(self, group: &Option<CpuGroup>) -> Self {
        group.as_ref().inspect(|group| group.add(self.pid));
        self
    }
}

fn spinner(cpu: usize, ms: i64) -> Child {
    Child::gated(move || {
        spin_ms(cpu, ms);
        0
    })
}

/// Works a little and sleeps a little, then stops so that its accounts can be read.
fn worker(cpu: usize, rounds: u32) -> Child {
    Child::gated(move || {
        for _ in 0..rounds {
            // Longer than a slice: who only wakes is let in at once.
            spin_ms(cpu, 8);
            sleep_ms(2);
        }
        stop();
        0
    })
}

/// Runs everybody until `victim` has stopped; its waits as the kernel has them.
fn run_until_it_stops(victim: &mut Child, others: &mut [Child]) -> u64 {
    let before = run_delay_ns(victim.pid);
    others.iter_mut().for_each(Child::open_gate);
    victim.open_gate();
    wait_until("the victim to stop", || is_stopped(victim.pid));
    run_delay_ns(victim.pid) - before
}

#[test]
fn a_neighbour_on_the_same_cpu_is_blamed_for_the_wait_that_the_kernel_counts() {
    let Some((ahead, f)) = load() else { return };
    let (one, two) = (f.container(1), f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    let mut victim = worker(0, 60).put(&one).ahead(&ahead);
    let mut culprits = [spinner(0, 60_000).put(&two).ahead(&ahead)];
    let delay = run_until_it_stops(&mut victim, &mut culprits);
    let of_victim = assert_adds_up(&f, 1);
    println!("{delay} ns of run delay; {of_victim:?}");
    assert!(delay > 50_000_000, "they did not compete: {delay} ns");
    let by_neighbour = of_victim[&Culprit::Slot(2)];
    let ratio = by_neighbour as f64 / delay as f64;
    // Stolen time is in both accounts, and nobody's fault in ours.
    let stolen = of_victim.get(&Culprit::Steal).copied().unwrap_or_default() as f64 / delay as f64;
    assert!(ratio < 1.02 && ratio + stolen > 0.9, "{ratio} of the delay, {stolen} stolen");
    // The other way round: each waited for the other and for nobody else.
    drop((victim, culprits));
    let of_culprit = blamed(&f, 2);
    assert!(of_culprit[&Culprit::Slot(1)] > 0);
    assert_eq!(of_culprit.keys().filter(|who| matches!(who, Culprit::Slot(_))).count(), 1);
}

#[test]
fn siblings_are_their_own_fault() {
    let Some((ahead, f)) = load() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let mut children: Vec<Child> =
        (0..3).map(|_| spinner(0, 600).put(&container).ahead(&ahead)).collect();
    children.iter_mut().for_each(Child::open_gate);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    let blamed = assert_adds_up(&f, 1);
    println!("{blamed:?}");
    assert_eq!(neighbours_ns(&blamed), 0);
    let all: u64 = blamed.values().sum();
    assert!(all > 500_000_000, "the spinners did not compete: {blamed:?}");
    let stolen = blamed.get(&Culprit::Steal).copied().unwrap_or_default();
    assert!(blamed[&Culprit::Itself] + stolen > all / 10 * 9, "{blamed:?}");
}

/// `nested`: the quota is that of the cgroup above.
fn check_quota(nested: bool) {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    let group = match CpuGroup::limited(&container, nested) {
        Ok(group) => group,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    f.meters().arm(1).unwrap();
    group.set_quota_percent(20);
    let child = spinner(0, 2000);
    if group.is_apart() {
        container.add(child.pid);
    }
    group.add(child.pid);
    assert_eq!(child.run(), End::Code(0));
    let throttled = group.throttled_ns();
    let blamed = assert_adds_up(&f, 1);
    println!("throttled for {throttled} ns; {blamed:?}");
    assert!(throttled > 400_000_000, "{throttled} ns");
    let quota = blamed[&Culprit::Quota];
    let ratio = quota as f64 / throttled as f64;
    assert!((0.95..1.05).contains(&ratio), "{ratio} of the throttled time");
    assert_eq!(neighbours_ns(&blamed), 0);
}

#[test]
fn a_quota_is_blamed_on_nobody() {
    check_quota(false);
}

#[test]
fn a_quota_of_the_cgroup_above_is_blamed_on_nobody() {
    check_quota(true);
}

#[test]
fn a_quota_beside_a_spinning_neighbour_is_told_apart_from_it() {
    let Some((ahead, f)) = load() else { return };
    let (one, two) = (f.container(1), f.container(2));
    let group = match CpuGroup::limited(&one, false) {
        Ok(group) => group,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    group.set_quota_percent(20);
    let victim = spinner(0, 2000).put(&one);
    group.add(victim.pid);
    // At work all the time in which the victim may not.
    let mut neighbour = spinner(0, 60_000).put(&two).ahead(&ahead);
    neighbour.open_gate();
    assert_eq!(victim.run(), End::Code(0));
    let throttled = group.throttled_ns();
    let blamed = assert_adds_up(&f, 1);
    println!("throttled for {throttled} ns; {blamed:?}");
    let ratio = blamed[&Culprit::Quota] as f64 / throttled as f64;
    assert!((0.95..1.05).contains(&ratio), "{ratio} of the throttled time");
    // What is left of two seconds: it runs for a fifth at most.
    assert!(blamed[&Culprit::Slot(2)] < 1_200_000_000, "{blamed:?}");
}

#[test]
fn of_five_neighbours_the_one_on_the_victims_cpu_is_blamed() {
    let Some((ahead, f)) = load() else { return };
    if std::thread::available_parallelism().unwrap().get() < 2 {
        return println!("SKIPPED: one processor");
    }
    let containers: Vec<_> = (1..=6).map(|slot| f.container(slot)).collect();
    (1..=6).for_each(|slot| f.meters().arm(slot).unwrap());
    let mut victim = worker(0, 60).put(&containers[0]).ahead(&ahead);
    let sleeper = || {
        Child::gated(|| {
            loop {
                spin_ms(0, 0);
                sleep_ms(50);
            }
        })
    };
    let mut others = [
        spinner(1, 60_000).put(&containers[1]).ahead(&ahead),
        spinner(1, 60_000).put(&containers[2]).ahead(&ahead),
        spinner(0, 60_000).put(&containers[3]).ahead(&ahead),
        sleeper().put(&containers[4]).ahead(&ahead),
        sleeper().put(&containers[5]).ahead(&ahead),
    ];
    // From the first moment on.
    for (child, cpu) in [(victim.pid, 0), (others[0].pid, 1), (others[1].pid, 1)] {
        crate::child::pin_to(child, cpu);
    }
    let delay = run_until_it_stops(&mut victim, &mut others);
    let blamed = assert_adds_up(&f, 1);
    println!("{delay} ns of run delay; {blamed:?}");
    let (right, all) = (blamed[&Culprit::Slot(4)], neighbours_ns(&blamed));
    // A sleeper's every waking takes an emulated processor a while, and the host's work too.
    assert!(right > all / 4 * 3, "{right} of {all} ns");
    assert!(right > delay / 4, "{right} of {delay} ns");
    for elsewhere in [2, 3] {
        assert_eq!(blamed.get(&Culprit::Slot(elsewhere)), None, "{blamed:?}");
    }
}

/// Threads that come and go, move, yield, sleep and spin, in four containers at once.
#[test]
fn whatever_threads_do_the_causes_add_up_to_their_waits() {
    let Some(f) = Fixture::share() else { return };
    let containers: Vec<_> = (1..=4).map(|slot| f.container(slot)).collect();
    (1..=4).for_each(|slot| f.meters().arm(slot).unwrap());
    let body = |kind: u32| {
        move || {
            for n in 0..120_u32 {
                match (kind + n) % 6 {
                    0 => sleep_ms(1),
                    1 => spin_ms((n % 2) as usize, 2),
                    2 => drop(call(libc::SYS_sched_yield)),
                    3 => crate::child::burn_ms(3),
                    4 => crate::child::unpin(),
                    _ => {
                        // SAFETY: a fork of a child with one thread, whose child ends at once.
                        let pid = unsafe { libc::fork() };
                        if pid == 0 {
                            crate::child::burn_ms(1);
                            // SAFETY: ends the child.
                            unsafe { libc::_exit(0) };
                        }
                        // SAFETY: waits for that child.
                        unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) };
                    }
                }
            }
            0
        }
    };
    let mut children = Vec::new();
    for (kind, container) in containers.iter().enumerate() {
        for more in 0..3 {
            children.push(Child::gated(body(kind as u32 + more)).put(container));
        }
    }
    children.iter_mut().for_each(Child::open_gate);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    let mut sums: HashMap<&str, u64> = HashMap::new();
    let mut moves = 0;
    for slot in 1..=4 {
        moves += f.read(slot).scheduler.migrations;
        for (who, ns) in assert_adds_up(&f, slot) {
            let kind = match who {
                Culprit::Slot(other) => {
                    assert!((1..=4).contains(&other) && other != slot, "{slot}: {other}");
                    "neighbour"
                }
                Culprit::Itself => "self",
                Culprit::Host => "host",
                Culprit::Quota => "quota",
                Culprit::Steal => "steal",
                Culprit::Unexplained => "unexplained",
            };
            *sums.entry(kind).or_default() += ns;
        }
    }
    println!("{moves} migrations, {sums:?}");
    assert_eq!(sums.get("quota"), None);
    let all: u64 = sums.values().sum();
    assert!(all > 1_000_000_000, "they did not compete: {sums:?}");
    let unexplained = sums.get("unexplained").copied().unwrap_or_default();
    assert!(unexplained * 50 < all, "{unexplained} of {all} ns are unexplained");
    assert_eq!(f.meters().lost().unwrap().blame, 0);
}

#[test]
fn a_reset_slot_is_neither_victim_nor_culprit() {
    let Some(f) = Fixture::share() else { return };
    let containers = [f.container(1), f.container(2), f.container(3)];
    (1..=3).for_each(|slot| f.meters().arm(slot).unwrap());
    let mut children: Vec<Child> = containers.iter().map(|c| spinner(0, 300).put(c)).collect();
    children.iter_mut().for_each(Child::open_gate);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    assert!(blamed(&f, 1)[&Culprit::Slot(2)] > 0 && blamed(&f, 2)[&Culprit::Slot(1)] > 0);
    let of_third = blamed(&f, 3)[&Culprit::Slot(2)];
    f.meters().reset(1).unwrap();
    let rows = f.meters().read_blame().unwrap();
    assert!(rows.iter().all(|row| row.victim != 1 && row.culprit != Culprit::Slot(1)), "{rows:?}");
    assert_eq!(blamed(&f, 3)[&Culprit::Slot(2)], of_third);
}

#[test]
fn without_room_for_a_pair_the_wait_is_unexplained_and_counted() {
    let Some(f) = Fixture::share() else { return };
    let map = aya::maps::MapData::from_pin(f.options.pin_dir.join("blame")).unwrap();
    let mut table: aya::maps::HashMap<_, [u32; 3], u64> =
        aya::maps::Map::HashMap(map).try_into().unwrap();
    // Of a resource that nobody knows.
    let taken = (0..u32::MAX).take_while(|n| table.insert([*n, 0, 99], 1, 0).is_ok()).count();
    assert_eq!(taken, 8192);
    let containers = [f.container(1), f.container(2)];
    (1..=2).for_each(|slot| f.meters().arm(slot).unwrap());
    let mut children: Vec<Child> = containers.iter().map(|c| spinner(0, 300).put(c)).collect();
    children.iter_mut().for_each(Child::open_gate);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    let blamed = assert_adds_up(&f, 1);
    assert_eq!(neighbours_ns(&blamed), 0);
    assert!(blamed[&Culprit::Unexplained] > 50_000_000, "{blamed:?}");
    assert!(f.meters().lost().unwrap().blame > 0);
}
