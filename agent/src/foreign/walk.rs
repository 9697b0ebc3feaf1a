//! What is there already: a walk over a cgroup tree, bounded in depth and number.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::classify::{Subject, classify};
use crate::origin::Runtime;

const MAX_DEPTH: usize = 16;
const MAX_DIRECTORIES: usize = 32_768;

/// A container's own cgroup in one hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub subject: Subject,
    pub id: u64,
}

#[derive(Debug, Default)]
pub struct Walk {
    pub found: Vec<Found>,
    /// Whether there was more than the bounds allow.
    pub cut: bool,
}

/// All containers below `root`, services only if they are wanted.
pub fn walk(root: &Path, services: bool) -> Walk {
    let mut walk = Walk::default();
    let mut left = MAX_DIRECTORIES;
    descend(root, "", services, 0, &mut left, &mut walk);
    walk
}

fn descend(
    dir: &Path,
    path: &str,
    services: bool,
    depth: usize,
    left: &mut usize,
    walk: &mut Walk,
) {
    for child in children(dir) {
        if depth == MAX_DEPTH || *left == 0 {
            walk.cut = true;
            return;
        }
        *left -= 1;
        let Some(name) = child.file_name().and_then(|name| name.to_str()) else { continue };
        let path = format!("{path}/{name}");
        match classify(&path) {
            // Everything below it is the container's, also where nobody wants it.
            Some(subject) if subject.runtime == Runtime::Systemd && !services => {}
            Some(subject) => {
                // Gone since the listing otherwise.
                if let Some(id) = id_of(&child) {
                    walk.found.push(Found { subject, id });
                }
            }
            None => descend(&child, &path, services, depth + 1, left, walk),
        }
    }
}

/// The ids of all cgroups below `dir`, as far as the bounds allow.
pub fn nested(dir: &Path) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut stack = vec![(dir.to_path_buf(), 0)];
    while let Some((dir, depth)) = stack.pop() {
        for child in children(&dir) {
            ids.extend(id_of(&child));
            if depth < MAX_DEPTH && ids.len() < MAX_DIRECTORIES {
                stack.push((child, depth + 1));
            }
        }
    }
    ids
}

/// A cgroup's id is its directory's inode number.
pub fn id_of(dir: &Path) -> Option<u64> {
    std::fs::metadata(dir).ok().map(|dir| dir.ino())
}

fn children(dir: &Path) -> impl Iterator<Item = std::path::PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_found_and_what_is_in_them_is_theirs() {
        let root = tempfile::tempdir().unwrap();
        let id = "a".repeat(64);
        let make = |path: &str| std::fs::create_dir_all(root.path().join(path)).unwrap();
        make(&format!("docker/{id}/docker/{id}"));
        make("system.slice/cron.service/below");
        make(&format!("tenantry/{id}"));
        make("init.scope");
        let found = |services| {
            let walk = walk(root.path(), services);
            assert!(!walk.cut);
            let mut paths: Vec<String> =
                walk.found.into_iter().map(|found| found.subject.cgroup).collect();
            paths.sort();
            paths
        };
        assert_eq!(found(false), [format!("/docker/{id}")]);
        assert_eq!(found(true), [format!("/docker/{id}"), "/system.slice/cron.service".into()]);
        assert_eq!(nested(&root.path().join("docker").join(&id)).len(), 2);
    }

    #[test]
    fn a_tree_that_is_too_deep_is_cut() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/".repeat(30))).unwrap();
        assert!(walk(root.path(), true).cut);
    }
}
