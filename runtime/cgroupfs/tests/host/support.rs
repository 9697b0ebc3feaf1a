//! Real cgroups for tests, and processes in them.
//!
//! Everything lives below a parent of this test process's own and is killed and removed
//! when the test ends, however it ends. Processes are this test binary again with a
//! role, held at a gate until they are in their group, and end by themselves in time.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tenantry_cgroupfs::{Group, Hierarchy, Layout, Resources};

const ROLE: &str = "TENANTRY_CGTEST_ROLE";
/// No child outlives this, whatever happens to the test.
const CHILD_LIFE: Duration = Duration::from_secs(60);

/// A parent cgroup, removed with all below it on drop.
pub struct Parent {
    pub hierarchy: Hierarchy,
    pub path: String,
}

impl Parent {
    /// `None` after saying why: not root.
    pub fn new() -> Option<Parent> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: creating cgroups needs root");
            return None;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = format!("tenantry-cgtest-{}-{number}", std::process::id());
        let hierarchy = Hierarchy::detect().unwrap();
        let parent = Parent { hierarchy, path };
        parent.hierarchy.prepare_parent(&parent.path).unwrap();
        // Whoever else keeps this machine busy must not decide what the tests measure.
        let heavy = Resources { cpu_weight: Some(10_000), ..Resources::default() };
        parent.hierarchy.group(&parent.path).apply(&heavy).unwrap();
        Some(parent)
    }

    pub fn hybrid(&self) -> bool {
        self.hierarchy.layout() == Layout::Hybrid
    }

    pub fn group(&self, name: &str) -> Group {
        let group = self.hierarchy.group(&format!("{}/{name}", self.path));
        group.create().unwrap();
        group
    }
}

impl Drop for Parent {
    fn drop(&mut self) {
        // The parent as a group: all that is nested in it goes too.
        let all = self.hierarchy.group(&self.path);
        let outcome = all.kill().and_then(|()| all.remove());
        if !std::thread::panicking() {
            outcome.unwrap();
        }
    }
}

/// A child in a group, waiting at its gate.
pub struct Gated {
    pub child: Child,
    gate: ChildStdin,
}

impl Gated {
    /// Starts this binary in a role (`role` and its argument) and moves it into `group`.
    pub fn new(group: &Group, role: &str) -> Gated {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_child_plays_its_role", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id().to_string();
        for file in group.procs_files_v1() {
            std::fs::write(file, &pid).unwrap();
        }
        std::fs::write(group.unified_dir().join("cgroup.procs"), &pid).unwrap();
        let gate = child.stdin.take().unwrap();
        Gated { child, gate }
    }

    pub fn open(mut self) -> Running {
        self.gate.write_all(b"go\n").unwrap();
        let output = BufReader::new(self.child.stdout.take().unwrap());
        Running { child: self.child, output, _gate: self.gate }
    }
}

pub struct Running {
    pub child: Child,
    output: BufReader<std::process::ChildStdout>,
    _gate: ChildStdin,
}

impl Running {
    pub fn start(group: &Group, role: &str) -> Running {
        Gated::new(group, role).open()
    }

    /// The next line the role says (the test harness's own lines are passed over).
    pub fn says(&mut self) -> String {
        let mut line = String::new();
        while self.output.read_line(&mut line).unwrap() > 0 {
            if let Some((_, said)) = line.split_once("ROLE:") {
                return said.trim().to_owned();
            }
            line.clear();
        }
        String::new()
    }

    /// CPU time used so far by the process as `/proc/PID/stat` tells it: the witness
    /// that does not read cgroup files.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 10)
    }

    /// Share of one CPU used during `window`.
    pub fn cpu_ratio(&self, window: Duration) -> f64 {
        let (used, started) = (self.cpu_time(), Instant::now());
        std::thread::sleep(window);
        (self.cpu_time() - used).as_secs_f64() / started.elapsed().as_secs_f64()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Body of the test of that name: nothing, unless this process is a child.
pub fn play_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let started = Instant::now();
    std::thread::spawn(|| {
        std::thread::sleep(CHILD_LIFE);
        std::process::exit(99);
    });
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    assert_eq!(line, "go\n", "the test went away");
    let (role, argument) = role.split_once(' ').unwrap_or((&role, ""));
    match role {
        "spin" => while started.elapsed() < CHILD_LIFE {},
        // Takes so many MiB, then holds them.
        "hold" => {
            let memory = vec![1u8; argument.parse::<usize>().unwrap() << 20];
            say(&memory.iter().step_by(4096).map(|b| usize::from(*b)).sum::<usize>());
            std::thread::sleep(CHILD_LIFE);
        }
        // As many tasks as asked for, and then one process.
        "fork" => {
            let wanted: usize = argument.parse().unwrap();
            let spawn = |_| {
                let builder = std::thread::Builder::new().stack_size(64 << 10);
                builder.spawn(|| std::thread::sleep(CHILD_LIFE)).is_ok()
            };
            let threads = (0..wanted).map(spawn).filter(|started| *started).count();
            let process = Command::new("/proc/self/exe").arg("--list").output().is_ok();
            say(&format!("{threads} {process}"));
            std::thread::sleep(CHILD_LIFE);
        }
        // 2 MiB to a device, past the page cache.
        "write" => {
            say(&write_direct(argument).as_millis());
            std::thread::sleep(CHILD_LIFE);
        }
        other => panic!("no role {other}"),
    }
}

fn say(what: &dyn std::fmt::Display) {
    println!("ROLE:{what}");
}

pub const WRITTEN: usize = 2 << 20;

fn write_direct(device: &str) -> Duration {
    use rustix::fs::{Mode, OFlags, open};
    const BLOCK: usize = 64 << 10;
    let file = open(device, OFlags::WRONLY | OFlags::DIRECT, Mode::empty()).unwrap();
    // Direct I/O wants an aligned buffer: a piece of a larger one.
    let room = vec![7u8; BLOCK + 4096];
    let offset = room.as_ptr().align_offset(4096);
    let block = &room[offset..offset + BLOCK];
    let started = Instant::now();
    for _ in 0..WRITTEN / BLOCK {
        assert_eq!(rustix::io::write(&file, block).unwrap(), BLOCK);
    }
    started.elapsed()
}
