//! In which namespaces calls are made, against what /proc says of the caller.

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;

use tenantry_ebpf::{CgroupIds, Namespaces};

use crate::child::{Child, End, Gate, call_often, sleeps};
use crate::fixture::{Fixture, SYSCALL_EXIT, wait_until};
use crate::groups::Container;

const GETPID: u32 = libc::SYS_getpid as u32;

/// The inodes of a process's namespaces.
fn witness(pid: i32) -> Namespaces {
    let inode = |kind: &str| {
        std::fs::metadata(format!("/proc/{pid}/ns/{kind}")).expect("it lives").ino() as u32
    };
    Namespaces {
        mnt: inode("mnt"),
        pid: inode("pid"),
        net: inode("net"),
        user: inode("user"),
        uts: inode("uts"),
        ipc: inode("ipc"),
        cgroup: inode("cgroup"),
    }
}

/// How many getpid each set of namespaces saw.
fn getpids(f: &Fixture, slot: u32) -> Vec<(Namespaces, u64)> {
    let rows = f.meters().read_namespaces(slot).unwrap();
    let count = |calls: &[tenantry_ebpf::SyscallCount]| {
        calls.iter().find(|call| call.nr == GETPID).map_or(0, |call| call.count)
    };
    let rows = rows.iter().map(|(namespaces, calls)| (*namespaces, count(calls)));
    rows.filter(|(_, count)| *count > 0).collect()
}

/// Asserts the calls of each set, in this order, as [`Fixture::assert_counted`] does.
fn assert_getpids(f: &Fixture, slot: u32, expected: &[(Namespaces, u64)]) {
    let found = getpids(f, slot);
    let of = |set| found.iter().find(|(other, _)| *other == set).map_or(0, |(_, count)| *count);
    let seen = expected.iter().filter(|(set, _)| of(*set) > 0);
    assert!(seen.map(|(set, _)| set).eq(found.iter().map(|(set, _)| set)), "{found:?}");
    assert!(expected.iter().all(|(set, calls)| of(*set) <= *calls), "{found:?}");
    let sum = |sets: &[(Namespaces, u64)]| sets.iter().map(|(_, count)| count).sum();
    f.assert_counted(&[SYSCALL_EXIT], sum(&found), sum(expected));
}

fn wait_for(f: &Fixture, slot: u32, getpids: u64, child: &Child) {
    let count = || f.syscall(slot, libc::SYS_getpid).count;
    wait_until("the calls", || count() + f.misses(SYSCALL_EXIT) >= getpids);
    wait_until("the child to wait", || sleeps(child));
}

fn unshare(flags: libc::c_int) -> bool {
    // SAFETY: changes the namespaces of the calling child alone.
    unsafe { libc::syscall(libc::SYS_unshare, flags) == 0 }
}

/// A container's totals are what its rows add up to.
fn assert_rows_add_up(f: &Fixture, slot: u32) {
    let counters = f.read(slot);
    let calls: u64 = counters.syscalls.iter().map(|call| call.count).sum();
    let errors: u64 = counters.syscalls.iter().map(|call| call.errors).sum();
    let by_class: u64 = counters.syscall_errors.iter().map(|errors| errors.count).sum();
    let rows = &counters.namespaces;
    assert_eq!(rows.iter().map(|row| row.calls).sum::<u64>(), calls);
    assert_eq!(rows.iter().map(|row| row.errors).sum::<u64>(), errors);
    assert_eq!(by_class, errors);
}

#[test]
fn a_process_that_unshares_is_seen_where_it_is() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let (moved, end) = (Gate::new(), Gate::new());
    let flags = libc::CLONE_NEWUTS | libc::CLONE_NEWNET | libc::CLONE_NEWNS | libc::CLONE_NEWIPC;
    let body = || {
        call_often(1000, libc::SYS_getpid);
        let done = moved.wait() && unshare(flags);
        call_often(500, libc::SYS_getpid);
        i32::from(!(done && end.wait()))
    };
    let mut child = Child::gated(body).put(&container);
    child.open_gate();
    wait_for(&f, 1, 1000, &child);
    let before = witness(child.pid);
    assert_getpids(&f, 1, &[(before, 1000)]);
    moved.open_for(1);
    wait_for(&f, 1, 1500, &child);
    let after = witness(child.pid);
    assert!(before.uts != after.uts && before.net != after.net && before.mnt != after.mnt);
    assert_getpids(&f, 1, &[(before, 1000), (after, 500)]);
    end.open_for(1);
    assert_eq!(child.wait(), End::Code(0));
    assert_rows_add_up(&f, 1);
    assert_eq!(f.meters().lost().unwrap().namespaces, 0);
    // Whoever gets the slot next finds nothing of it.
    f.meters().reset(1).unwrap();
    assert_eq!(f.meters().read_namespaces(1).unwrap(), []);
    assert_eq!(f.read(1).namespaces, []);
}

#[test]
fn a_process_that_enters_another_containers_namespace_is_seen_there() {
    let Some(f) = Fixture::share() else { return };
    let (one, two) = (f.container(1), f.container(2));
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    let (end, go) = (Gate::new(), Gate::new());
    let host = || {
        let done = unshare(libc::CLONE_NEWUTS);
        call_often(300, libc::SYS_getpid);
        i32::from(!(done && end.wait()))
    };
    let mut host = Child::gated(host).put(&two);
    host.open_gate();
    wait_for(&f, 2, 300, &host);
    let door = std::fs::File::open(format!("/proc/{}/ns/uts", host.pid)).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&door);
    let guest = || {
        call_often(100, libc::SYS_getpid);
        // SAFETY: a descriptor of a namespace; the calling child alone enters it.
        let done = unsafe { libc::syscall(libc::SYS_setns, fd, libc::CLONE_NEWUTS) == 0 };
        call_often(700, libc::SYS_getpid);
        i32::from(!(done && go.wait()))
    };
    let mut guest = Child::gated(guest).put(&one);
    let home = witness(guest.pid);
    guest.open_gate();
    wait_for(&f, 1, 800, &guest);
    let (there, here) = (witness(host.pid), witness(guest.pid));
    assert_eq!(here.uts, there.uts);
    assert_getpids(&f, 1, &[(home, 100), (here, 700)]);
    // Both containers were in that namespace, each with what it did itself.
    let in_it = |slot| -> u64 {
        let rows = getpids(&f, slot).into_iter();
        rows.filter(|(set, _)| set.uts == there.uts).map(|(_, count)| count).sum()
    };
    f.assert_counted(&[SYSCALL_EXIT], in_it(1), 700);
    f.assert_counted(&[SYSCALL_EXIT], in_it(2), 300);
    end.open_for(1);
    go.open_for(1);
    assert_eq!((host.wait(), guest.wait()), (End::Code(0), End::Code(0)));
    assert_rows_add_up(&f, 1);
}

/// Pairs of numbers that a child writes and the test reads.
struct Notes(*mut [Cell<u64>; 2]);

const NOTES: usize = 64;

impl Notes {
    fn new() -> Notes {
        let bytes = NOTES * size_of::<[Cell<u64>; 2]>();
        // SAFETY: a new anonymous mapping.
        let page = unsafe {
            let (protection, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0)
        };
        assert_ne!(page, libc::MAP_FAILED);
        Notes(page.cast())
    }

    fn all(&self) -> &[[Cell<u64>; 2]] {
        // SAFETY: mapped, aligned and zeroed; one process at a time writes.
        unsafe { std::slice::from_raw_parts(self.0, NOTES) }
    }
}

/// The inode of one of the caller's own namespaces, without an allocation.
fn own_inode(path: &std::ffi::CStr) -> u64 {
    // SAFETY: all zero is a valid stat.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: a path with a NUL, and room for the answer.
    unsafe { libc::stat(path.as_ptr(), &raw mut stat) };
    stat.st_ino
}

/// The kernel gives addresses and inodes that were freed to the next that asks: nothing may
/// be counted for what lay there before.
#[test]
fn addresses_that_are_used_again_deceive_nobody() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    let (ready, notes) = (Gate::new(), Notes::new());
    let body = || {
        // The first namespaces that count are the child's alone, and gone after the next step.
        let mut done = unshare(libc::CLONE_NEWUTS) && ready.wait();
        for (round, note) in notes.all().iter().enumerate() {
            let calls = round as u32 % 7 + 1;
            note[0].set(own_inode(c"/proc/self/ns/uts"));
            note[1].set(calls.into());
            call_often(calls, libc::SYS_getpid);
            done &= unshare(libc::CLONE_NEWUTS);
        }
        i32::from(!done)
    };
    let mut child = Child::gated(body).put(&container);
    child.open_gate();
    wait_until("the child to wait", || sleeps(&child) && witness(child.pid).uts != own_uts());
    f.meters().arm(1).unwrap();
    ready.open_for(1);
    assert_eq!(child.wait(), End::Code(0));
    let mut expected = std::collections::BTreeMap::new();
    for [inode, calls] in notes.all() {
        *expected.entry(inode.get() as u32).or_insert(0) += calls.get();
    }
    let found: std::collections::BTreeMap<u32, u64> =
        getpids(&f, 1).into_iter().map(|(set, count)| (set.uts, count)).collect();
    let of = |inode| expected.get(inode).copied().unwrap_or(0);
    assert!(found.iter().all(|(inode, calls)| *calls <= of(inode)), "{found:?} of {expected:?}");
    f.assert_counted(&[SYSCALL_EXIT], found.values().sum(), expected.values().sum());
    println!("{NOTES} namespaces one after the other had {} inodes", expected.len());
}

/// As a process that `docker exec` starts: it came by setns, and so has the container's
/// namespaces at an address of its own.
#[test]
fn who_comes_back_by_setns_is_at_home_again() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let (ready, end) = (Gate::new(), Gate::new());
    let body = || {
        let enter = |fd: i32| {
            // SAFETY: a descriptor of a namespace; the calling child alone enters it.
            unsafe { libc::syscall(libc::SYS_setns, fd, libc::CLONE_NEWUTS) == 0 }
        };
        // SAFETY: opens a path with a NUL.
        let open = || unsafe { libc::open(c"/proc/self/ns/uts".as_ptr(), libc::O_RDONLY) };
        let home = open();
        call_often(10, libc::SYS_getpid);
        let mut done = unshare(libc::CLONE_NEWUTS);
        let away = open();
        done &= ready.wait();
        for _ in 0..50 {
            call_often(3, libc::SYS_getpid);
            done &= enter(home);
            call_often(2, libc::SYS_getpid);
            done &= enter(away);
        }
        i32::from(!(done && end.wait()))
    };
    let mut child = Child::gated(body).put(&container);
    let home = witness(child.pid);
    child.open_gate();
    wait_for(&f, 1, 10, &child);
    let away = witness(child.pid);
    ready.open_for(1);
    wait_for(&f, 1, 10 + 50 * 5, &child);
    assert_getpids(&f, 1, &[(home, 10 + 50 * 2), (away, 50 * 3)]);
    end.open_for(1);
    assert_eq!(child.wait(), End::Code(0));
    assert_rows_add_up(&f, 1);
}

fn own_uts() -> u32 {
    witness(std::process::id() as i32).uts
}

#[test]
fn children_in_a_new_pid_namespace_are_told_from_their_parent() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    let notes = Notes::new();
    let body = || {
        let done = unshare(libc::CLONE_NEWPID);
        // SAFETY: the grandchild makes calls and ends.
        let pid = unsafe { libc::syscall(libc::SYS_fork) };
        if pid == 0 {
            notes.all()[0][0].set(own_inode(c"/proc/self/ns/pid"));
            call_often(300, libc::SYS_getpid);
            // SAFETY: as above.
            unsafe { libc::_exit(0) };
        }
        call_often(200, libc::SYS_getpid);
        // SAFETY: waits for the grandchild.
        unsafe { libc::wait4(pid as i32, std::ptr::null_mut(), 0, std::ptr::null_mut()) };
        i32::from(!done)
    };
    let mut child = Child::gated(body).put(&container);
    let home = witness(child.pid);
    child.open_gate();
    assert_eq!(child.wait(), End::Code(0));
    let inner = notes.all()[0][0].get() as u32;
    assert_ne!(inner, home.pid);
    let of = |pid| getpids(&f, 1).iter().filter(|(set, _)| set.pid == pid).map(|(_, n)| n).sum();
    f.assert_counted(&[SYSCALL_EXIT], of(home.pid), 200);
    f.assert_counted(&[SYSCALL_EXIT], of(inner), 300);
}

#[test]
fn more_sets_than_there_are_rows_lose_no_call() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    f.meters().arm(1).unwrap();
    // Far more than rows: kernel 7 shows some of their calls to no program.
    const CHILDREN: usize = 200;
    let end = Gate::new();
    let body = || {
        let done = unshare(libc::CLONE_NEWUTS);
        call_often(10, libc::SYS_getpid);
        i32::from(!(done && end.wait()))
    };
    let mut children: Vec<Child> =
        (0..CHILDREN).map(|_| Child::gated(body).put(&container)).collect();
    children.iter_mut().for_each(Child::open_gate);
    let expected = 10 * CHILDREN as u64;
    // Kernel 7 preempts the program: what the others on that CPU call meanwhile is missed.
    let counted_or_missed =
        || f.syscall(1, libc::SYS_getpid).count + f.misses(SYSCALL_EXIT) >= expected;
    wait_until("the calls", counted_or_missed);
    end.open_for(CHILDREN);
    for child in children {
        assert_eq!(child.wait(), End::Code(0));
    }
    assert!(f.syscall(1, libc::SYS_getpid).count <= expected && counted_or_missed());
    assert!(f.meters().lost().unwrap().namespaces > 0);
    assert!(f.meters().read_namespaces(1).unwrap().len() <= 129);
    assert_rows_add_up(&f, 1);
}

#[test]
fn the_next_run_of_a_container_is_not_charged_with_the_last_ones_calls() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(1);
    let run = |container: &Container, calls| {
        let (ready, end) = (Gate::new(), Gate::new());
        let body = || {
            let done = unshare(libc::CLONE_NEWUTS) && ready.wait();
            call_often(calls, libc::SYS_getpid);
            i32::from(!(done && end.wait()))
        };
        let mut child = Child::gated(body).put(container);
        child.open_gate();
        wait_until("it has moved", || sleeps(&child) && witness(child.pid).uts != own_uts());
        f.meters().arm(1).unwrap();
        let before = f.syscall(1, libc::SYS_getpid).count;
        ready.open_for(1);
        wait_for(&f, 1, before + u64::from(calls), &child);
        let set = witness(child.pid);
        let counters = f.read(1);
        end.open_for(1);
        assert_eq!(child.wait(), End::Code(0));
        (set, counters)
    };
    run(&container, 1000);
    let ids: CgroupIds = container.ids();
    f.meters().register(1, &ids).unwrap();
    let (set, counters) = run(&container, 50);
    assert_eq!(counters.namespaces.len(), 1);
    assert_eq!(counters.namespaces[0].namespaces, set);
    // The wait for the gate, too, ended in this run.
    let calls = counters.namespaces[0].calls;
    assert!(calls < 60, "{:?}", counters.namespaces);
    f.assert_counted(&[SYSCALL_EXIT], calls.min(50), 50);
    f.assert_calls(1, libc::SYS_getpid, 1050);
}
