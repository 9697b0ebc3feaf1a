//! The SHA-256 of what was executed, where somebody asked for it.
//!
//! The kernel names the inode; the bytes are read here, from the process's own `exe` while it
//! lives, else by what a process above it runs, as shells do that are many programs in one, or
//! by its path below that one's root. Only what is without doubt the file that ran is hashed: its
//! inode's number must be the event's, and of another process's its device, too, and nothing
//! about it may have changed since. A version of a file is hashed once.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt as _;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use tenantry_ebpf::ExecEvent;

use super::chain::Hash;
use super::line::executable;

/// A larger file would keep all other events waiting for half a second.
const MOST_BYTES: u64 = 256 << 20;
/// Versions of files that are remembered: when there are more, all are forgotten.
const MOST_KNOWN: usize = 4096;

/// A file's content, as far as its inode can tell.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Nanoseconds since 1970; whatever changes the content changes it.
    changed_ns: i128,
}

#[derive(Debug)]
pub(super) struct Hasher {
    boot_ns: i128,
    known: HashMap<Version, Hash>,
}

impl Hasher {
    /// `boot_ns`: what the wall clock said when the monotonic clock was zero.
    pub fn new(boot_ns: i128) -> Self {
        Self { boot_ns, known: HashMap::new() }
    }

    /// `None`: the file is gone, not surely the one that ran, or too large.
    pub fn hash(&mut self, exec: &ExecEvent) -> Option<Hash> {
        let (file, version) = running(exec).or_else(|| self.by_ancestors(exec))?;
        if let Some(hash) = self.known.get(&version) {
            return Some(*hash);
        }
        let hash = (version.bytes <= MOST_BYTES).then(|| Hash::of_content(file))?.ok()?;
        if self.known.len() >= MOST_KNOWN {
            self.known.clear();
        }
        self.known.insert(version, hash);
        Some(hash)
    }

    /// Who started it may be there still.
    fn by_ancestors(&self, exec: &ExecEvent) -> Option<(File, Version)> {
        if exec.memfd || exec.path_truncated {
            return None;
        }
        let path = executable(exec);
        let executed_ns = self.boot_ns + i128::from(exec.header.time_ns);
        let device = rustix::fs::makedev(exec.device.0, exec.device.1);
        let is_same = |found: &(File, Version)| {
            let version = &found.1;
            (version.inode, version.device) == (exec.inode, device)
                && version.changed_ns <= executed_ns
        };
        let above = exec.header.ancestors.iter().map(|ancestor| ancestor.pid);
        above.flat_map(|pid| [program_of(pid), below_root(pid, &path)]).flatten().find(is_same)
    }
}

/// What the process runs now, if that is what it ran then.
fn running(exec: &ExecEvent) -> Option<(File, Version)> {
    // Another process may have its number by now: the inode tells.
    program_of(exec.header.pid).filter(|(_, version)| version.inode == exec.inode)
}

fn program_of(pid: u32) -> Option<(File, Version)> {
    versioned(File::open(format!("/proc/{pid}/exe")).ok()?)
}

fn below_root(pid: u32, path: &str) -> Option<(File, Version)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{pid}/root"), flags, Mode::empty()).ok()?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(root, path, flags, Mode::empty(), within).ok()?;
    versioned(file.into())
}

fn versioned(file: File) -> Option<(File, Version)> {
    let metadata = file.metadata().ok().filter(std::fs::Metadata::is_file)?;
    let version = Version {
        device: metadata.dev(),
        inode: metadata.ino(),
        bytes: metadata.len(),
        changed_ns: i128::from(metadata.ctime()) * 1_000_000_000
            + i128::from(metadata.ctime_nsec()),
    };
    Some((file, version))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    /// Of `cat`, which waits.
    fn exec(child: &Child, device: (u32, u32)) -> ExecEvent {
        let metadata = std::fs::metadata(format!("/proc/{}/exe", child.id())).unwrap();
        let mut exec = ExecEvent {
            path: std::fs::read_link(format!("/proc/{}/exe", child.id()))
                .unwrap()
                .to_str()
                .unwrap()
                .into(),
            inode: metadata.ino(),
            device,
            ..ExecEvent::default()
        };
        exec.header.pid = child.id();
        exec.header.time_ns = u64::MAX;
        exec
    }

    fn sha256sum(path: &str) -> String {
        let output = Command::new("sha256sum").arg(path).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
    }

    #[test]
    fn what_runs_is_hashed_and_what_ran_by_its_path_if_it_is_the_same() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let device = std::fs::metadata(format!("/proc/{}/exe", child.id())).unwrap().dev();
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        // Until the child has executed it, it is still this program.
        let sleeps = || std::fs::read_to_string(format!("/proc/{}/comm", child.id())).unwrap();
        while sleeps() != "sleep\n" {
            std::thread::yield_now();
        }
        let mut exec = exec(&child, device);
        let expected = sha256sum(&exec.path);
        let told = |hasher: &mut Hasher, exec: &ExecEvent| hasher.hash(exec).map(|h| h.to_string());
        assert_eq!(told(&mut Hasher::new(0), &exec).as_deref(), Some(expected.as_str()));

        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(told(&mut Hasher::new(0), &exec), None, "nobody is above it");
        let above = tenantry_ebpf::Ancestor { pid: std::process::id(), comm: "x".into() };
        exec.header.ancestors.push(above);
        let mut hasher = Hasher::new(0);
        assert_eq!(told(&mut hasher, &exec).as_deref(), Some(expected.as_str()));
        assert_eq!(hasher.known.len(), 1);
        assert_eq!(told(&mut hasher, &exec).as_deref(), Some(expected.as_str()), "remembered");

        let another = ExecEvent { inode: exec.inode + 1, ..exec.clone() };
        assert_eq!(told(&mut hasher, &another), None);
        let elsewhere = ExecEvent { device: (device.0, device.1 + 1), ..exec.clone() };
        assert_eq!(told(&mut hasher, &elsewhere), None);
        exec.header.time_ns = 0;
        assert_eq!(told(&mut hasher, &exec), None, "it was changed after that");
    }
}
