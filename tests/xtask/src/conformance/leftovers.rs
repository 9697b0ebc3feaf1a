//! Cgroups that a suite leaves: those that were not there before, and have nobody in them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const ROOT: &str = "/sys/fs/cgroup";
/// Hierarchy, a parent, the container's own, and one that it has made.
const DEPTH: usize = 4;
/// What a suite and the runtimes call theirs; others' new cgroups are none of ours.
const NAMES: [&str; 5] = ["test-", "container-", "frozen", "tenantry-runtime", "crun-"];

#[derive(Debug)]
pub struct Cgroups(BTreeSet<PathBuf>);

impl Cgroups {
    pub fn look() -> Self {
        let mut seen = BTreeSet::new();
        walk(Path::new(ROOT), DEPTH, &mut seen);
        Self(seen)
    }

    /// Children after their parents in a sorted set, so from its end.
    pub fn remove_new(&self) {
        let now = Self::look();
        let is_new = |path: &&PathBuf| !self.0.contains(*path) && is_a_suites(path);
        for path in now.0.iter().rev().filter(is_new) {
            if let Err(error) = fs::remove_dir(path) {
                println!("conformance: {} is left: {error}", path.display());
            }
        }
    }
}

fn walk(directory: &Path, depth: usize, seen: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth > 1 {
                walk(&entry.path(), depth - 1, seen);
            }
            seen.insert(entry.path());
        }
    }
}

fn is_a_suites(path: &Path) -> bool {
    path.components().any(|part| {
        let part = part.as_os_str().to_string_lossy();
        NAMES.iter().any(|name| part.starts_with(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_suite_calls_its_own_is_removed() {
        let check = |path: &str, expected: bool| {
            assert_eq!(is_a_suites(Path::new(path)), expected, "{path}");
        };
        check("/sys/fs/cgroup/cpu/test-tmpx1", true);
        check("/sys/fs/cgroup/cpu/tenantry-runtime/test-tmpx1", true);
        check("/sys/fs/cgroup/freezer/frozen", true);
        check("/sys/fs/cgroup/cpu/docker", false);
        check("/sys/fs/cgroup/cpu/user.slice/x", false);
    }
}
