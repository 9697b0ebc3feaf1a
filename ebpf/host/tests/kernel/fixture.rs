//! Loaded meters over a cgroup directory of one test, and containers in it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenantry_ebpf::{
    CgroupIds, Event, EventReader, LoadOptions, Meters, Slot, SlotCounters, SyscallCount,
};

/// One test at a time: some measure waiting times.
static ALONE: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// The program that counts system calls.
pub const SYSCALL_EXIT: &str = "syscall_exit";

/// What a test has while it runs; everything is removed when it is dropped.
pub struct Fixture {
    pub options: LoadOptions,
    pub meters: Option<Meters>,
    pub reader: Option<EventReader>,
    groups: Groups,
    /// Last, so that everything above is gone when the next test begins.
    _alone: MutexGuard<'static, ()>,
}

/// The test's own directories in the hierarchies that matter.
struct Groups {
    unified: PathBuf,
    blkio: Option<PathBuf>,
}

/// A registered cgroup, by hierarchy.
pub struct Container {
    pub slot: Slot,
    pub unified: PathBuf,
    pub blkio: Option<PathBuf>,
}

impl Fixture {
    /// `None` after saying what this machine lacks.
    pub fn load(change: impl FnOnce(&mut LoadOptions)) -> Option<Fixture> {
        if let Err(why) = check_machine() {
            println!("SKIPPED: {why}");
            return None;
        }
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("tenantry-test-{}-{number}", std::process::id());
        let groups = Groups::create(&name);
        let mut options = LoadOptions::new(format!("/sys/fs/bpf/{name}"), &groups.unified);
        options.blkio_v1 = groups.blkio.is_some();
        options.slots = 16;
        change(&mut options);
        let mut fixture = Fixture { options, meters: None, reader: None, groups, _alone: alone };
        fixture.load_again();
        Some(fixture)
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

    /// Runs of a program that the kernel left out, as it says itself.
    pub fn misses(&self, program: &str) -> u64 {
        let probes = self.meters().probes();
        probes.into_iter().find(|probe| probe.name == program).and_then(|p| p.misses).unwrap_or(0)
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
        // Links that are still pinned would keep counting for nobody.
        if let Some(meters) = &self.meters {
            let _ = meters.unpin();
        } else if let Ok((meters, _)) = Meters::load(&self.options) {
            let _ = meters.unpin();
        }
        self.forget();
        self.groups.remove();
    }
}

impl Groups {
    fn create(name: &str) -> Self {
        let unified = mount_of("cgroup2", "").expect("checked before").join(name);
        fs::create_dir(&unified).expect("v2 cgroup");
        let blkio = mount_of("cgroup", "blkio").map(|root| root.join(name));
        match &blkio {
            Some(blkio) => fs::create_dir(blkio).expect("blkio cgroup"),
            // v2 charges disk I/O to the nearest cgroup that has the controller.
            None => {
                let _ = fs::write(unified.join("cgroup.subtree_control"), "+io");
                // And writeback to the cgroup that has both.
                let _ = fs::write(unified.join("cgroup.subtree_control"), "+memory");
            }
        }
        Self { unified, blkio }
    }

    fn container(&self, slot: Slot) -> Container {
        let below = |parent: &PathBuf| {
            let path = parent.join(format!("c{slot}"));
            fs::create_dir(&path).expect("cgroup of a container");
            path
        };
        Container { slot, unified: below(&self.unified), blkio: self.blkio.as_ref().map(below) }
    }

    fn remove(&self) {
        remove_tree(&self.unified);
        self.blkio.as_ref().inspect(|blkio| remove_tree(blkio));
    }
}

impl Container {
    pub fn ids(&self) -> CgroupIds {
        CgroupIds { unified: id(&self.unified), blkio: self.blkio.as_deref().map(id) }
    }

    pub fn add(&self, pid: i32) {
        for dir in [Some(&self.unified), self.blkio.as_ref()].into_iter().flatten() {
            fs::write(dir.join("cgroup.procs"), pid.to_string()).expect("cgroup.procs");
        }
    }

    /// A cgroup below this one, in each hierarchy.
    pub fn nested(&self, name: &str) -> Container {
        let below = |parent: &PathBuf| {
            let path = parent.join(name);
            fs::create_dir(&path).expect("nested cgroup");
            path
        };
        let blkio = self.blkio.as_ref().map(below);
        Container { slot: self.slot, unified: below(&self.unified), blkio }
    }

    pub fn remove(&self) {
        remove_tree(&self.unified);
        self.blkio.as_ref().inspect(|blkio| remove_tree(blkio));
    }
}

fn id(dir: &Path) -> u64 {
    fs::metadata(dir).expect("cgroup").ino()
}

/// Dead processes leave their cgroups a little after they were waited for.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let gone = poll(|| !dir.exists() || fs::remove_dir(dir).is_ok());
    // No panic: a test that fails drops its fixture too.
    if !gone {
        println!("cgroup {} was left behind", dir.display());
    }
}

/// Fails the test after ten seconds.
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
