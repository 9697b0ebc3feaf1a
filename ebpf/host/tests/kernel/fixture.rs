//! Loaded meters over a cgroup directory of one test, and containers in it.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use tenantry_ebpf::{
    Event, EventReader, LoadOptions, Meters, Probe, Slot, SlotCounters, SyscallCount,
};

use crate::groups::{Container, Groups};
use crate::loaded::{Condition, Loaded, lock};

/// One test at a time: some measure waiting times.
static ALONE: Mutex<()> = Mutex::new(());

/// The program that counts system calls.
pub const SYSCALL_EXIT: &str = "syscall_exit";

/// What a test has while it runs; everything is removed when it is dropped.
pub struct Fixture {
    pub options: LoadOptions,
    pub meters: Option<Meters>,
    pub reader: Option<EventReader>,
    root: Groups,
    groups: Groups,
    /// Of shared meters: how this test found them.
    found: Option<Condition>,
    /// What the kernel had left out before this test, by program.
    missed_before: HashMap<String, u64>,
    /// Last, so that everything above is gone when the next test begins.
    _alone: MutexGuard<'static, ()>,
}

impl Fixture {
    /// Meters like any others; `None` after saying what this machine lacks.
    pub fn share() -> Option<Fixture> {
        let alone = begin()?;
        let mut fixture = Fixture::of(Loaded::take(), alone);
        fixture.events();
        fixture.found = Some(Condition::of(&fixture.options, fixture.meters()));
        Some(fixture)
    }

    /// Meters of the test's own; `None` after saying what this machine lacks.
    pub fn load(change: impl FnOnce(&mut LoadOptions)) -> Option<Fixture> {
        let alone = begin()?;
        Some(Fixture::of(Loaded::new(change), alone))
    }

    fn of(loaded: Loaded, alone: MutexGuard<'static, ()>) -> Fixture {
        let Loaded { options, meters, reader, root } = loaded;
        let probes = meters.as_ref().map(Meters::probes).unwrap_or_default();
        let missed = |probe: Probe| (probe.name.to_string(), probe.misses.unwrap_or(0));
        Fixture {
            groups: root.below("test"),
            options,
            meters,
            reader,
            root,
            found: None,
            missed_before: probes.into_iter().map(missed).collect(),
            _alone: alone,
        }
    }

    /// As an agent does that starts.
    pub fn load_again(&mut self) {
        let (meters, reader) = Meters::load(&self.options).expect("load");
        self.meters = Some(meters);
        self.reader = Some(reader);
    }

    /// As an agent does that ends: nothing is unpinned.
    pub fn forget(&mut self) {
        self.meters = None;
        self.reader = None;
    }

    pub fn meters(&self) -> &Meters {
        self.meters.as_ref().expect("loaded")
    }

    /// A new cgroup, registered and not armed.
    pub fn container(&self, slot: Slot) -> Container {
        let container = self.groups.container(slot);
        self.meters().register(slot, &container.ids()).expect("register");
        container
    }

    /// A new cgroup that nobody registered.
    pub fn stranger(&self, number: u32) -> Container {
        self.groups.container(1000 + number)
    }

    pub fn read(&self, slot: Slot) -> SlotCounters {
        self.meters().read(slot).expect("read")
    }

    pub fn syscall(&self, slot: Slot, nr: libc::c_long) -> SyscallCount {
        let nr = nr as u32;
        let none = SyscallCount { nr, count: 0, errors: 0 };
        self.read(slot).syscalls.into_iter().find(|call| call.nr == nr).unwrap_or(none)
    }

    /// Runs of a program that the kernel left out during this test, as it says itself.
    pub fn misses(&self, program: &str) -> u64 {
        let probes = self.meters().probes();
        let found = probes.into_iter().find(|probe| probe.name == program);
        let before = self.missed_before.get(program).copied().unwrap_or(0);
        // Loaded anew during the test, they begin at zero.
        found.and_then(|probe| probe.misses).map_or(0, |now| now.checked_sub(before).unwrap_or(now))
    }

    /// Asserts that what happened was counted, all of it but for what the kernel left out when
    /// one of these programs should have run: nothing before 7.0, where it began to preempt them.
    pub fn assert_counted(&self, programs: &[&str], counted: u64, happened: u64) {
        let missed: u64 = programs.iter().map(|program| self.misses(program)).sum();
        let accounted = counted <= happened && counted + missed >= happened;
        assert!(accounted, "{counted} counted of {happened}, {missed} missed by {programs:?}");
    }

    pub fn assert_calls(&self, slot: Slot, nr: libc::c_long, calls: u64) {
        self.assert_counted(&[SYSCALL_EXIT], self.syscall(slot, nr).count, calls);
    }

    pub fn events(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.reader.as_mut().expect("loaded").read(usize::MAX, |event| events.push(event));
        events
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        self.groups.remove();
        let loaded = Loaded {
            options: self.options.clone(),
            meters: self.meters.take(),
            reader: self.reader.take(),
            root: self.root.clone(),
        };
        let now = loaded.meters.as_ref().map(|meters| Condition::of(&loaded.options, meters));
        let is_as_found = self.found.is_some() && self.found == now;
        match is_as_found && !std::thread::panicking() {
            true => loaded.give_back(),
            false => loaded.remove(),
        }
    }
}

/// When it is this test's turn.
fn begin() -> Option<MutexGuard<'static, ()>> {
    match check_machine() {
        Ok(()) => Some(lock(&ALONE)),
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    }
}

/// Fails the test after a minute.
pub fn wait_until(what: &str, done: impl FnMut() -> bool) {
    assert!(poll(done), "waited for {what}");
}

pub fn poll(mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

fn check_machine() -> Result<(), String> {
    // SAFETY: geteuid has no preconditions.
    if unsafe { libc::geteuid() } != 0 {
        return Err("not root".into());
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Err("this kernel has no BTF".into());
    }
    if mount_of("cgroup2", "").is_none() {
        return Err("no cgroup2 mount".into());
    }
    Ok(())
}

/// Where a file system of a kind, and with an option, is mounted.
pub fn mount_of(kind: &str, option: &str) -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        let has = option.is_empty() || words[3].split(',').any(|word| word == option);
        (words[2] == kind && has).then(|| PathBuf::from(words[1]))
    })
}
