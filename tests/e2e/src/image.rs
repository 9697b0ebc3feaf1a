//! The image of tests and demonstration: a static busybox and the workload.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::programs;

/// The statically linked one, which runs in an otherwise empty root.
pub fn busybox() -> Option<PathBuf> {
    ["/usr/bin/busybox", "/bin/busybox"].into_iter().map(PathBuf::from).find(|path| path.exists())
}

/// A root filesystem as a tar, written by busybox's own `tar`: an archive that
/// our own code did not make.
pub fn write_rootfs(tar: &Path) -> Result<()> {
    let busybox = busybox().context("busybox-static is not installed")?;
    let root = tar.with_extension("d");
    for directory in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "data"] {
        std::fs::create_dir_all(root.join(directory))?;
    }
    std::fs::copy(&busybox, root.join("bin/busybox"))?;
    std::fs::copy(programs().join("tenantry-workload"), root.join("bin/workload"))?;
    let applets = Command::new(&busybox).arg("--list").output()?;
    for applet in String::from_utf8(applets.stdout)?.lines().filter(|name| *name != "busybox") {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).or_else(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
        })?;
    }
    write(&root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")?;
    write(&root.join("etc/group"), "root:x:0:\nweb:x:1000:\n")?;
    let status = Command::new(&busybox)
        .args(["tar", "-cf"])
        .arg(tar)
        .arg("-C")
        .arg(&root)
        .arg(".")
        .stdin(Stdio::null())
        .status()?;
    ensure!(status.success(), "busybox tar: {status}");
    Ok(std::fs::remove_dir_all(&root)?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(std::fs::File::create(path)?.write_all(text.as_bytes())?)
}
