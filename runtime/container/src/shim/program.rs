//! The shim's program file, kept open for the engine's life.
//!
//! Owns a private read-only mount of it that is nowhere attached. A shim that is
//! executed from there cannot be overwritten through `/proc/PID/exe` by root in a
//! container (CVE-2019-5736), and need not make such a mount and execute itself
//! again, as it otherwise does at each start. An upgrade that replaces the file
//! takes effect when the agent starts anew.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Access, AtFlags, CWD},
    mount::{MountAttrFlags, OpenTreeFlags, open_tree},
};

use super::spawn::FIRST_FREE;
use crate::error::Error;

#[derive(Debug)]
pub struct ShimProgram {
    path: PathBuf,
    /// What `path` leads to, where it is not the file itself.
    _mount: Option<OwnedFd>,
}

impl ShimProgram {
    /// # Errors
    /// The file is missing or may not be executed. A kernel that refuses the
    /// mount is no error: the shim then makes its own.
    pub fn open(file: &Path) -> Result<Self, Error> {
        rustix::fs::accessat(CWD, file, Access::EXEC_OK, AtFlags::EACCESS)
            .map_err(|e| Error::failed(format!("find the shim {}", file.display()), e))?;
        match read_only_mount(file) {
            Ok(mount) => {
                // Above the fixed numbers of a shim's birth, which overwrite what is there.
                let mount = rustix::io::fcntl_dupfd_cloexec(&mount, FIRST_FREE)
                    .map_err(|e| Error::failed("keep the shim's mount open", e))?;
                let path = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
                Ok(Self { path, _mount: Some(mount) })
            }
            Err(error) => {
                tracing::debug!(%error, "no read-only mount of the shim");
                Ok(Self { path: file.to_owned(), _mount: None })
            }
        }
    }

    /// Valid in this process and in a child of it before it executes.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn read_only_mount(file: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, file, flags)?;
    let attributes = libc::mount_attr {
        attr_set: u64::from(MountAttrFlags::MOUNT_ATTR_RDONLY.bits()),
        attr_clr: 0,
        propagation: libc::MS_PRIVATE,
        userns_fd: 0,
    };
    // SAFETY: the descriptor is open, the path is a C string, and the kernel reads
    // exactly the size that is given from a structure of that size.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    if result == 0 { Ok(mount) } else { Err(io::Error::last_os_error()) }
}
