//! Which cgroup hierarchies a host has, from the text of `/proc/self/mountinfo`.
//!
//! Owns the pure parse and the choice between [`Layout`]s; opens no file.
//! [`crate::Hierarchy`] reads the text and calls it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Layout {
    /// Pure v2: one tree with all controllers, as a rule at `/sys/fs/cgroup`.
    Unified,
    /// v1 hierarchies with the controllers, and a v2 tree without them, as a rule at
    /// `/sys/fs/cgroup/unified`.
    Hybrid,
}

/// Where the hierarchies are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mounts {
    pub layout: Layout,
    pub unified: PathBuf,
    /// Empty if the layout is unified.
    pub v1: Vec<V1Mount>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct V1Mount {
    /// Controllers, or one `name=…`: a mount can carry several (`cpu`, `cpuacct`).
    pub controllers: Vec<String>,
    pub dir: PathBuf,
}

/// Mount options of a v1 cgroup superblock that are no controllers.
const V1_OPTIONS: [&str; 6] = ["rw", "ro", "noprefix", "clone_children", "xattr", "cpuset_v2_mode"];

/// Reads proc(5)'s mountinfo format. A hierarchy that is mounted more than once counts
/// once, at its first mount; a mount that hides an earlier one at the same place wins.
///
/// # Errors
/// [`Error::Layout`] if there is no cgroup2 mount: nothing here works without.
pub fn parse_mounts(mountinfo: &str) -> Result<Mounts, Error> {
    let mut at: Vec<(PathBuf, Option<Tree>)> = Vec::new();
    for (dir, tree) in mountinfo.lines().filter_map(parse_line) {
        at.retain(|(other, _)| *other != dir);
        at.push((dir, tree));
    }
    let mut unified = None;
    let mut v1: Vec<V1Mount> = Vec::new();
    for (dir, tree) in at {
        match tree {
            Some(Tree::V2) => unified = unified.or(Some(dir)),
            Some(Tree::V1(controllers)) if v1.iter().all(|m| m.controllers != controllers) => {
                v1.push(V1Mount { controllers, dir });
            }
            Some(Tree::V1(_)) | None => {}
        }
    }
    let unified = unified.ok_or_else(|| Error::Layout {
        why: "no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup/unified)"
            .to_owned(),
    })?;
    let has_controllers =
        v1.iter().any(|mount| mount.controllers.iter().any(|c| !c.starts_with("name=")));
    let layout = if has_controllers { Layout::Hybrid } else { Layout::Unified };
    if layout == Layout::Unified {
        v1.clear();
    }
    Ok(Mounts { layout, unified, v1 })
}

enum Tree {
    V1(Vec<String>),
    V2,
}

/// Mount point and, where it is a cgroup file system, which.
/// `36 35 98:0 /root /point options [fields…] - type source super-options`
fn parse_line(line: &str) -> Option<(PathBuf, Option<Tree>)> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let dir = unescape(mount.split(' ').nth(4)?);
    let mut fields = filesystem.split(' ');
    let (kind, _source, options) = (fields.next()?, fields.next()?, fields.next()?);
    let tree = match kind {
        "cgroup2" => Some(Tree::V2),
        "cgroup" => Some(Tree::V1(
            options
                .split(',')
                .filter(|o| !V1_OPTIONS.contains(o) && !o.starts_with("release_agent="))
                .map(str::to_owned)
                .collect(),
        )),
        _ => None,
    };
    Some((PathBuf::from(dir), tree))
}

/// mountinfo writes space, tab, newline and backslash as `\` and three octal digits.
fn unescape(field: &str) -> String {
    let mut parts = field.split('\\');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                text.push(char::from(byte));
                text.push_str(&part[3..]);
            }
            None => {
                text.push('\\');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TMPFS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n";

    fn check(mountinfo: &str, layout: Layout, unified: &str, v1: &[(&str, &str)]) {
        let mounts = parse_mounts(mountinfo).unwrap();
        let got: Vec<_> = mounts
            .v1
            .iter()
            .map(|m| (m.controllers.join(","), m.dir.to_str().unwrap().to_owned()))
            .collect();
        let want: Vec<_> = v1.iter().map(|(c, d)| (c.to_string(), d.to_string())).collect();
        assert_eq!((mounts.layout, mounts.unified.to_str().unwrap()), (layout, unified));
        assert_eq!(got, want);
    }

    #[test]
    fn a_cgroup2_mount_alone_is_unified() {
        let text =
            "26 24 0:22 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        check(text, Layout::Unified, "/sys/fs/cgroup", &[]);
    }

    #[test]
    fn v1_controllers_beside_it_are_hybrid_and_named_hierarchies_are_joined_too() {
        let text = format!(
            "{TMPFS}32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
             40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
             41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        );
        let v1 = [
            ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            ("name=systemd", "/sys/fs/cgroup/systemd"),
        ];
        check(&text, Layout::Hybrid, "/sys/fs/cgroup/unified", &v1);
    }

    #[test]
    fn a_named_v1_hierarchy_without_controllers_does_not_make_a_hybrid() {
        let text = "1 0 0:1 / /cg rw - cgroup2 none rw\n2 0 0:2 / /n rw - cgroup none rw,name=x\n";
        check(text, Layout::Unified, "/cg", &[]);
    }

    #[test]
    fn a_second_mount_counts_once_and_a_hidden_one_not_at_all() {
        let text = "1 0 0:1 / /a rw - cgroup2 none rw\n\
                    2 0 0:1 / /b\\040c rw - cgroup2 none rw\n\
                    3 0 0:2 / /m rw - cgroup none rw,memory\n\
                    4 0 0:2 / /n rw - cgroup none rw,memory\n\
                    5 0 0:3 / /a rw - tmpfs none rw\n";
        check(text, Layout::Hybrid, "/b c", &[("memory", "/m")]);
    }

    #[test]
    fn without_cgroup2_the_error_says_so() {
        let error = parse_mounts(TMPFS).unwrap_err();
        assert!(error.to_string().contains("no cgroup2 file system is mounted"), "{error}");
    }
}
