//! Kills for want of memory against the kernel's own count of them.

use std::fs;
use std::path::{Path, PathBuf};

use tenantry_ebpf::{Event, EventKind, OomEvent};

use crate::child::{Child, End};
use crate::fixture::{Fixture, mount_of};
use crate::groups::Container;

const LIMIT: u64 = 32 << 20;

/// Where a container's memory is limited: v1's hierarchy, or the container's own cgroup.
struct Memory {
    dir: PathBuf,
    v1: bool,
}

impl Memory {
    /// `Err` says what this machine lacks.
    fn limit(container: &Container) -> Result<Memory, String> {
        let memory = match mount_of("cgroup", "memory") {
            Some(mount) => {
                let dir = mount.join(format!("tenantry-test-oom-{}", std::process::id()));
                fs::create_dir(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
                Memory { dir, v1: true }
            }
            None => {
                let parent = container.unified.parent().unwrap();
                for dir in [parent.parent().unwrap(), parent] {
                    // Refused where it is on already, or where nobody has it: seen below.
                    let _ = fs::write(dir.join("cgroup.subtree_control"), "+memory");
                }
                Memory { dir: container.unified.clone(), v1: false }
            }
        };
        let (limit, swap) = match memory.v1 {
            true => ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
            false => ("memory.max", "memory.swap.max"),
        };
        let path = memory.dir.join(limit);
        fs::write(&path, LIMIT.to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
        // Not everywhere is swap accounted.
        let _ = fs::write(memory.dir.join(swap), if memory.v1 { LIMIT } else { 0 }.to_string());
        Ok(memory)
    }

    /// Below this one and without a limit of its own.
    fn nested(&self, container: &Container) -> Memory {
        match self.v1 {
            true => {
                let dir = self.dir.join("nested");
                fs::create_dir(&dir).unwrap();
                Memory { dir, v1: true }
            }
            false => {
                fs::write(self.dir.join("cgroup.subtree_control"), "+memory").unwrap();
                Memory { dir: container.unified.clone(), v1: false }
            }
        }
    }

    fn add(&self, pid: i32) {
        if self.v1 {
            fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
        }
    }

    /// The kernel's own count.
    fn kills(&self) -> u64 {
        let file = if self.v1 { "memory.oom_control" } else { "memory.events" };
        keyed(&self.dir.join(file), "oom_kill ")
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.v1 {
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

fn keyed(path: &Path, key: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    text.lines().find_map(|line| line.strip_prefix(key)).unwrap().parse().unwrap()
}

/// Touches twice the limit.
fn hog() -> i32 {
    let bytes = 2 * LIMIT as usize;
    let (protection, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, nowhere in particular.
    let memory = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    for offset in (0..bytes).step_by(4096) {
        // SAFETY: within the mapping, which is this child's own.
        let page = unsafe { memory.cast::<u8>().add(offset) };
        // SAFETY: mapped and writable.
        unsafe { page.write_volatile(1) };
    }
    0
}

fn kill_one(f: &mut Fixture, container: &Container, memory: &Memory) -> (i32, Vec<OomEvent>) {
    let child = Child::gated(hog).put(container);
    let pid = child.pid;
    memory.add(pid);
    assert_eq!(child.run(), End::Signal(libc::SIGKILL));
    let ooms = f.events().into_iter().filter_map(|event| match event {
        Event::Oom(oom) => Some(oom),
        _ => None,
    });
    (pid, ooms.collect())
}

#[test]
fn a_kill_for_want_of_memory_says_who_held_what_under_which_limit() {
    let Some(mut f) = Fixture::share() else { return };
    let container = f.container(1);
    let memory = match Memory::limit(&container) {
        Ok(memory) => memory,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    f.meters().arm(1).unwrap();
    let of_host = || keyed(Path::new("/proc/vmstat"), "oom_kill ");
    let before = of_host();
    let (pid, ooms) = kill_one(&mut f, &container, &memory);
    println!("{ooms:?}");
    let [oom] = &ooms[..] else { panic!("one event, not {}", ooms.len()) };
    assert_eq!((oom.header.slot, oom.header.pid as i32, oom.header.uid), (1, pid, 0));
    assert_eq!((oom.trigger_pid as i32, &oom.trigger_comm), (pid, &oom.header.comm));
    assert_eq!(oom.header.container_pid as i32, pid);
    let above: Vec<u32> = oom.header.ancestors.iter().map(|ancestor| ancestor.pid).collect();
    assert_eq!(above, [std::process::id()]);
    assert!(oom.header.namespaces.mnt > 0 && oom.header.cgroup_id == container.ids().unified);
    assert_eq!(oom.limit_bytes, Some(LIMIT));
    // The kernel keeps back 32 pages for each CPU, page tables and the like take some; pages
    // that a fork shares with its parent are the child's memory, and charged to the parent.
    let (least, most) = (LIMIT - (8 << 20), LIMIT + (8 << 20));
    assert!((least..=most).contains(&oom.anon_bytes), "{}", oom.anon_bytes);
    assert!((least..=LIMIT).contains(&oom.usage_bytes), "{}", oom.usage_bytes);
    assert_eq!((oom.cgroup_kills, memory.kills()), (1, 1));
    assert!(of_host() > before);

    // In a nested cgroup it is the same container's, and the limit is the outer one.
    let inner = container.nested("inner");
    let inner_memory = memory.nested(&inner);
    let (pid, ooms) = kill_one(&mut f, &inner, &inner_memory);
    let [oom] = &ooms[..] else { panic!("one event, not {}", ooms.len()) };
    assert_eq!((oom.header.slot, oom.header.pid as i32, oom.limit_bytes), (1, pid, Some(LIMIT)));
    assert_eq!((oom.cgroup_kills, inner_memory.kills()), (1, 1));
    let counted = f.read(1).events.of(EventKind::Oom);
    assert_eq!((counted.produced, counted.lost), (2, 0));
    drop(inner_memory);
}
