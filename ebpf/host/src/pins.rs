//! The directory on bpffs: what lies there, whose it is, and how it goes away.
//!
//! Beside maps, links and programs there are two kinds of symlinks, the only thing on
//! bpffs that holds text: `marker`, written last, names the object and the options that
//! made the rest; `why_NAME` tells why a program has no link.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::load::LoadError;
use crate::options::LoadOptions;
use crate::probe::{Hook, ProbeStatus, Program};

const BPFFS: &str = "/sys/fs/bpf";
const BPFFS_MAGIC: u64 = 0xcafe_4a11;

#[derive(Clone, Debug)]
pub(crate) struct Pins {
    pub dir: PathBuf,
}

impl Pins {
    /// Makes the directory, and mounts bpffs where it belongs if nobody has.
    pub fn open(dir: &Path) -> Result<Self, LoadError> {
        let pin = |source| LoadError::PinDir { path: dir.into(), source };
        if dir.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS)).map_err(pin)? {
            mount_bpffs().map_err(LoadError::Mount)?;
        }
        // Before anything is made: a directory elsewhere would be left behind.
        let there = dir.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(dir);
        if !is_bpffs(there).map_err(pin)? {
            return Err(LoadError::NotBpffs { path: dir.into() });
        }
        fs::create_dir_all(dir).map_err(pin)?;
        Ok(Self { dir: dir.into() })
    }

    pub fn link(&self, program: &Program) -> PathBuf {
        self.dir.join(format!("link_{}", program.name))
    }

    pub fn program(&self, program: &Program) -> PathBuf {
        self.dir.join(format!("prog_{}", program.name))
    }

    fn why(&self, program: &Program) -> PathBuf {
        self.dir.join(format!("why_{}", program.name))
    }

    fn marker(&self) -> PathBuf {
        self.dir.join("marker")
    }

    pub fn is_made_by(&self, fingerprint: &str) -> bool {
        fs::read_link(self.marker()).is_ok_and(|found| found == Path::new(fingerprint))
    }

    /// Says that everything is in place.
    pub fn write_marker(&self, fingerprint: &str) -> io::Result<()> {
        symlink(fingerprint, self.marker())
    }

    /// `None` if nothing tells: then the pins are not whole.
    pub fn status(&self, program: &Program) -> Option<ProbeStatus> {
        // What another program goes on to has no link, and is pinned when it is in place.
        let proof = match program.hook {
            Hook::TailCall { .. } => self.program(program),
            _ => self.link(program),
        };
        if proof.exists() {
            return Some(ProbeStatus::Active);
        }
        let why = fs::read_link(self.why(program)).ok()?;
        ProbeStatus::from_line(why.to_str()?)
    }

    /// The program has no link and none is wanted. Said before its link is removed: a link
    /// that is there wins.
    pub fn remove_link(&self, program: &Program) -> io::Result<()> {
        self.forget_status(program)?;
        self.write_status(program, &ProbeStatus::Disabled)?;
        remove_if_there(&self.link(program))
    }

    /// After its link was pinned.
    pub fn forget_status(&self, program: &Program) -> io::Result<()> {
        remove_if_there(&self.why(program))
    }

    pub fn write_status(&self, program: &Program, status: &ProbeStatus) -> io::Result<()> {
        if *status == ProbeStatus::Active {
            return Ok(());
        }
        // Symlinks hold at most a page.
        let line: String = status.to_line().chars().take(1000).collect();
        symlink(line, self.why(program))
    }

    /// Takes everything out of the directory, the marker first: what is half removed is
    /// never adopted. Links go with their programs still pinned, so each program is
    /// detached before it goes.
    pub fn clear(&self) -> io::Result<()> {
        remove_if_there(&self.marker())?;
        let mut rest = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let is_link =
                path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"link_"));
            if is_link {
                remove_if_there(&path)?;
            } else {
                rest.push(path);
            }
        }
        rest.iter().try_for_each(|path| remove_if_there(path))
    }

    /// [`clear`](Self::clear), and the directory itself.
    pub fn remove(&self) -> io::Result<()> {
        match self.clear() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            result => result?,
        }
        fs::remove_dir(&self.dir)
    }
}

/// What must be the same for pins to be adopted.
pub(crate) fn fingerprint(
    options: &LoadOptions,
    blkio_hierarchy: u32,
) -> Result<String, LoadError> {
    let path = &options.cgroup_dir;
    let cgroup =
        fs::metadata(path).map_err(|source| LoadError::CgroupDir { path: path.clone(), source })?;
    let LoadOptions { slots, ring_bytes, syscall_latency, foreign, .. } = options;
    let foreign = foreign.map(|foreign| (foreign.first_slot, u8::from(foreign.services)));
    let (meters, trampolines) =
        (tenantry_programs::METERS_HASH, tenantry_programs::TRAMPOLINES_HASH);
    let cgroup = cgroup.ino();
    Ok(format!(
        "meters={meters} trampolines={trampolines} cgroup={cgroup} blkio={blkio_hierarchy} \
         slots={slots} ring_bytes={ring_bytes} syscall_latency={syscall_latency} foreign={foreign:?}"
    ))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(rustix::fs::statfs(path)?.f_type as u64 == BPFFS_MAGIC)
}

fn mount_bpffs() -> io::Result<()> {
    use rustix::mount::{MountFlags, mount};
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
    Ok(mount("bpf", BPFFS, "bpf", flags, Some(c"mode=700"))?)
}
