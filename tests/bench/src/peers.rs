//! Tracers that count or time system calls as the meters do, as Debian packages them, and
//! how each is started, seen to work and stopped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

/// A tracer of system calls.
#[derive(Debug)]
pub struct Peer {
    pub name: &'static str,
    command: &'static [&'static str],
    /// Whether it looks at one process, whose id is the last argument, or at all of them.
    one_process: bool,
    /// A call takes a hundred times as long: what takes a second would then take minutes.
    pub slow: bool,
}

const COUNT: &str = "tracepoint:raw_syscalls:sys_exit { @[cgroup, args->id] = count(); \
     if (args->ret < 0) { @e[cgroup, args->id] = count(); } }";
const LATENCY: &str = "tracepoint:raw_syscalls:sys_enter { @at[tid] = nsecs; } \
     tracepoint:raw_syscalls:sys_exit /@at[tid]/ { \
     @[cgroup, args->id] = hist(nsecs - @at[tid]); delete(@at[tid]); }";

pub const PEERS: &[Peer] = &[
    Peer::of_all("bpftrace: calls and errors by cgroup", &["bpftrace", "-e", COUNT]),
    Peer::of_all("bpftrace: histograms by cgroup", &["bpftrace", "-e", LATENCY]),
    Peer::of_all("libbpf-tools: syscount", &["syscount"]),
    Peer::of_all("libbpf-tools: syscount -L (latency)", &["syscount", "-L"]),
    Peer::of_one("perf trace -s, this process alone", &["perf", "trace", "-s", "-p"], true),
    Peer::of_one("strace -c, this process alone", &["strace", "-c", "-f", "-p"], true),
];

impl Peer {
    const fn of_all(name: &'static str, command: &'static [&'static str]) -> Self {
        Self { name, command, one_process: false, slow: false }
    }

    const fn of_one(name: &'static str, command: &'static [&'static str], slow: bool) -> Self {
        Self { name, command, one_process: true, slow }
    }

    pub fn is_installed(&self) -> bool {
        is_installed(self.command[0])
    }

    /// Starts it; `pid` is what a tracer of one process looks at.
    pub fn start(&self, pid: u32) -> Result<Tracer> {
        let pid = pid.to_string();
        let target = if self.one_process { &[pid.as_str()][..] } else { &[] };
        Tracer::start(&[self.command, target].concat())
    }
}

/// By being there: what it answers to `--version` differs.
pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

/// A peer that runs until it is told to print what it saw.
#[derive(Debug)]
pub struct Tracer {
    child: Child,
}

impl Tracer {
    pub fn start(command: &[&str]) -> Result<Self> {
        // It wants tracefs, which is not mounted everywhere: mounted where it alone sees it.
        let script = "mount -t tracefs none /sys/kernel/tracing; \
                      mount -t debugfs none /sys/kernel/debug; exec \"$0\" \"$@\"";
        let mut child = Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        // It says "Attaching" before and nothing after; the maps tell when it counts.
        std::thread::sleep(Duration::from_secs(2));
        ensure!(child.try_wait()?.is_none(), "{command:?} ended at once");
        Ok(Self { child })
    }

    /// Ends it; all that it printed, on both outputs.
    pub fn stop(self) -> Result<String> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        let output = self.child.wait_with_output()?;
        let text = [output.stdout, output.stderr].concat();
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    /// As [`Self::stop`], where the tracer must have seen system call `name`, which some
    /// print by its number `nr`.
    pub fn stop_having_seen(self, name: &str, nr: u32) -> Result<()> {
        let text = self.stop()?;
        let line =
            text.lines().find(|line| line.contains(name) || line.contains(&format!(", {nr}]")));
        line.with_context(|| format!("the tracer saw no {name}: {text}")).map(drop)
    }
}
