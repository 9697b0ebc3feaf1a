//! Cgroups as another runtime or systemd would make them, without either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A cgroup of the test's own in the hierarchies that matter, named as a runtime would.
#[derive(Debug)]
pub struct Cgroup {
    dirs: Vec<PathBuf>,
    /// Of those, what the test made on the way.
    above: Vec<PathBuf>,
    pub path: String,
}

impl Cgroup {
    pub fn make(path: &str) -> Self {
        Self::make_in(path, &["unified", "blkio"])
    }

    /// In these hierarchies, or in the only one.
    pub fn make_in(path: &str, hierarchies: &[&str]) -> Self {
        let (mut dirs, mut above) = (Vec::new(), Vec::new());
        for root in hierarchies.iter().map(|name| root(name)).collect::<BTreeSet<_>>() {
            let mut dir = root;
            for part in path.trim_start_matches('/').split('/') {
                dir.push(part);
                if std::fs::create_dir(&dir).is_ok() {
                    above.push(dir.clone());
                }
            }
            dirs.push(dir);
        }
        Self { dirs, above, path: path.into() }
    }

    /// A shell that is in the cgroup before it executes `program`.
    pub fn run(&self, program: &str) {
        let status = self.command(program).status().unwrap();
        assert!(status.success(), "{program}: {status}");
    }

    pub fn command(&self, program: &str) -> Command {
        // Quoted, as a unit's name may hold backslashes.
        let join = |dir: &PathBuf| format!("echo $$ > '{}/cgroup.procs'; ", dir.display());
        let files = self.dirs.iter().map(join);
        let script = files.collect::<String>() + "exec " + program;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &script]);
        command
    }

    /// A process that stays in it.
    pub fn hold(&self) -> Held {
        Held(self.command("sleep 1000").spawn().unwrap())
    }

    /// Its files of limits, with what they say.
    pub fn limits(&self) -> BTreeMap<PathBuf, String> {
        const FILES: [&str; 7] = [
            "cpu.max",
            "cpu.cfs_quota_us",
            "cpu.shares",
            "cpu.weight",
            "cpu.idle",
            "io.max",
            "blkio.throttle.read_bps_device",
        ];
        let all = self.dirs.iter().flat_map(|dir| FILES.map(|file| dir.join(file)));
        all.filter_map(|path| Some((path.clone(), std::fs::read_to_string(path).ok()?))).collect()
    }
}

/// A process that ends with the test.
#[derive(Debug)]
pub struct Held(pub std::process::Child);

impl Drop for Held {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Where a hierarchy is mounted: on v2 there is one for all.
pub fn root(hierarchy: &str) -> PathBuf {
    let top = Path::new("/sys/fs/cgroup");
    match top.join("unified/cgroup.procs").exists() {
        true => top.join(hierarchy),
        false => top.into(),
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in self.above.iter().rev() {
            // Dead processes leave their cgroups a little after they were waited for.
            for _ in 0..100 {
                match std::fs::remove_dir(dir) {
                    Err(error) if error.raw_os_error() == Some(16) => {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    _ => break,
                }
            }
        }
    }
}
