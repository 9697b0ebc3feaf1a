//! One walk over a directory tree, a few entries at a time.
//!
//! Counts what `du` counts: blocks, not lengths, so that holes are free; an inode with
//! several names once; nothing of other file systems mounted inside. Follows no link and
//! resolves no path: each directory is opened from its parent's descriptor, so a tree
//! that changes meanwhile can at worst be counted as it was or as it is. Never sleeps,
//! never fails because of what disappeared.

use std::collections::HashSet;
use std::io;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, fstat, fstatvfs, openat, statat,
};
use rustix::io::Errno;

/// Directories open at once, that is the depth to which a tree is counted.
const DEPTH_MAX: usize = 128;
/// Inodes with several names that are remembered: 64 Ki of them in at most 2 MiB.
const LINKED_MAX: usize = 1 << 16;
/// The unit of `st_blocks`, whatever the file system's blocks are.
const BLOCK_BYTES: u64 = 512;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Space that the tree takes, the root directory's own included.
    pub bytes: u64,
    /// Inodes, the root directory's own included.
    pub inodes: u64,
    /// Directories that were too deep to be entered; what is in them is not counted.
    pub skipped: u64,
}

/// The file system that a tree lies on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    pub major: u32,
    pub minor: u32,
    pub size_bytes: u64,
}

#[derive(Debug)]
pub struct Walk {
    /// From the root down to the directory that is being read.
    open: Vec<Dir>,
    device: u64,
    linked: HashSet<u64>,
    usage: Usage,
    entries: u64,
    pub file_system: FileSystem,
}

impl Walk {
    /// Errors if the root itself cannot be opened.
    pub fn start(root: &Path) -> io::Result<Walk> {
        let fd = open(CWD, root)?;
        let stat = fstat(&fd)?;
        let size = fstatvfs(&fd)?;
        let file_system = FileSystem {
            major: rustix::fs::major(stat.st_dev),
            minor: rustix::fs::minor(stat.st_dev),
            size_bytes: size.f_blocks * size.f_frsize,
        };
        let mut walk = Walk {
            open: vec![Dir::new(fd)?],
            device: stat.st_dev,
            linked: HashSet::new(),
            usage: Usage::default(),
            entries: 0,
            file_system,
        };
        walk.count(&stat, false);
        Ok(walk)
    }

    /// Looks at up to so many entries more. `Some` when the tree has been seen whole.
    pub fn step(&mut self, entries: usize) -> Option<Usage> {
        for _ in 0..entries {
            let Some(dir) = self.open.last_mut() else { return Some(self.usage) };
            match dir.next() {
                Some(Ok(entry)) => self.visit(entry.file_name()),
                // A directory that cannot be read on is one that has been removed.
                Some(Err(_)) | None => {
                    self.open.pop();
                }
            }
        }
        self.open.is_empty().then_some(self.usage)
    }

    /// Entries that were looked at since the last call.
    pub fn take_entries(&mut self) -> u64 {
        std::mem::take(&mut self.entries)
    }

    fn visit(&mut self, name: &std::ffi::CStr) {
        self.entries += 1;
        if name == c"." || name == c".." {
            return;
        }
        let Some(Ok(dir)) = self.open.last().map(Dir::fd) else { return };
        // Gone since it was listed: not part of the tree any more.
        let Ok(stat) = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) else { return };
        if stat.st_dev != self.device {
            return;
        }
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let too_deep = is_directory && self.open.len() == DEPTH_MAX;
        let below = (is_directory && !too_deep).then(|| open(dir, name).and_then(Dir::new));
        self.count(&stat, !is_directory);
        self.usage.skipped += u64::from(too_deep);
        if let Some(Ok(below)) = below {
            self.open.push(below);
        }
    }

    fn count(&mut self, stat: &Stat, may_be_linked: bool) {
        let bytes = stat.st_blocks as u64 * BLOCK_BYTES;
        let links = u64::from(stat.st_nlink as u32);
        if !may_be_linked || links <= 1 {
            self.usage.bytes += bytes;
            self.usage.inodes += 1;
        } else if self.linked.contains(&stat.st_ino) {
            // Counted under another name.
        } else if self.linked.len() < LINKED_MAX {
            self.linked.insert(stat.st_ino);
            self.usage.bytes += bytes;
            self.usage.inodes += 1;
        } else {
            // Each name carries its share, which adds up if all of them are in the tree.
            self.usage.bytes += bytes / links;
        }
    }
}

fn open<P: rustix::path::Arg>(parent: impl AsFd, name: P) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
    use std::process::Command;

    use super::*;

    /// In steps of so many entries.
    fn usage(root: &Path, entries: usize) -> Usage {
        let mut walk = Walk::start(root).unwrap();
        loop {
            if let Some(usage) = walk.step(entries) {
                return usage;
            }
        }
    }

    fn du(root: &Path) -> u64 {
        let output = Command::new("du").args(["-s", "--block-size=1"]).arg(root).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    fn tree() -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("a/b/c")).unwrap();
        for n in 0..300_usize {
            fs::write(path(&format!("a/file-{n}")), vec![7; n * 37]).unwrap();
        }
        // A gigabyte that is nothing but a hole and two blocks.
        let sparse = File::create(path("a/b/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        sparse.write_all_at(&[1; 4096], 1 << 20).unwrap();
        fs::write(path("a/b/many"), vec![1; 100_000]).unwrap();
        for n in 0..5 {
            fs::hard_link(path("a/b/many"), path(&format!("a/b/c/name-{n}"))).unwrap();
        }
        symlink("/", path("a/everything")).unwrap();
        symlink("nowhere", path("a/nothing")).unwrap();
        // Space for it is set aside when it reaches the disk.
        rustix::fs::syncfs(File::open(root.path()).unwrap()).unwrap();
        root
    }

    #[test]
    fn a_tree_takes_what_du_says() {
        let root = tree();
        let counted = usage(root.path(), 64);
        assert_eq!(counted.bytes, du(root.path()));
        // root, a, b, c, 300 files, sparse, many, two links.
        assert_eq!((counted.inodes, counted.skipped), (308, 0));
        for entries in [1, 7, 100_000] {
            assert_eq!(usage(root.path(), entries), counted, "{entries} at a time");
        }
    }

    #[test]
    fn the_file_system_is_the_one_that_the_tree_lies_on() {
        let root = tempfile::tempdir().unwrap();
        let file_system = Walk::start(root.path()).unwrap().file_system;
        let device = fs::metadata(root.path()).unwrap().dev();
        let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
        assert_eq!((file_system.major, file_system.minor), numbers);
        assert!(file_system.size_bytes > 0);
    }

    #[test]
    fn a_tree_that_goes_meanwhile_is_no_error() {
        let root = tree();
        let mut walk = Walk::start(root.path()).unwrap();
        assert_eq!(walk.step(40), None);
        // A step is bounded by what it looks at, however large the tree is.
        assert!(walk.usage.inodes <= 41, "{:?}", walk.usage);
        fs::remove_dir_all(root.path().join("a")).unwrap();
        let counted = std::iter::repeat_with(|| walk.step(40)).find_map(|usage| usage).unwrap();
        assert!(counted.inodes < 308, "{counted:?}");
    }

    #[test]
    fn a_tree_that_grows_meanwhile_comes_to_an_end() {
        let root = tree();
        let mut walk = Walk::start(root.path()).unwrap();
        let mut n = 0;
        while walk.step(10).is_none() {
            n += 1;
            assert!(n < 1000, "without end");
            fs::write(root.path().join(format!("a/b/c/new-{n}")), "new").unwrap();
        }
    }

    #[test]
    fn what_lies_too_deep_is_skipped_and_told() {
        let root = tempfile::tempdir().unwrap();
        let deep = vec!["d"; DEPTH_MAX + 5].join("/");
        fs::create_dir_all(root.path().join(deep)).unwrap();
        let counted = usage(root.path(), 16);
        // The root, one for each level below it, and the one that is not entered.
        assert_eq!((counted.inodes, counted.skipped), (DEPTH_MAX as u64 + 1, 1));
    }

    #[test]
    fn what_is_not_there_cannot_be_walked() {
        assert!(Walk::start(Path::new("/nonexistent")).is_err());
        let root = tempfile::tempdir().unwrap();
        symlink("/", root.path().join("link")).unwrap();
        assert!(Walk::start(&root.path().join("link")).is_err());
    }
}
