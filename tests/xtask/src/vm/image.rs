//! Making image files out of folders: ext4 and cpio, without mounting anything.
//! What goes into them is `disks`'s business.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use crate::process;

/// A folder that becomes an image and is removed with this value.
#[derive(Debug)]
pub struct Stage {
    pub path: PathBuf,
}

impl Stage {
    pub fn new(image: &Path) -> Result<Stage> {
        let path = image.with_extension(format!("{}.stage", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Stage { path })
    }

    pub fn dir(&self, name: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("creating {}", path.display()))
    }

    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.path.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }

    pub fn link(&self, target: &str, name: &str) -> Result<()> {
        let path = self.path.join(name);
        symlink(target, &path).with_context(|| format!("linking {}", path.display()))
    }

    /// Copies a file, following links, and makes it readable and executable.
    pub fn copy(&self, from: &Path, name: &str) -> Result<()> {
        let to = self.path.join(name);
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).with_context(|| format!("creating {}", parent.display()))?;
        }
        fs::copy(from, &to).with_context(|| format!("copying {}", from.display()))?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {} executable", to.display()))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.path) {
            eprintln!("xtask: {} could not be removed: {e}", self.path.display());
        }
    }
}

/// Packs a folder as an initrd.
pub fn pack_cpio(dir: &Path, image: &Path) -> Result<()> {
    let names = process::output(process::command("find").arg(".").current_dir(dir))?;
    let out = fs::File::create(image).with_context(|| format!("creating {}", image.display()))?;
    let mut child = process::command("cpio")
        .args(["-o", "-H", "newc", "--quiet", "--owner=0:0"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(out)
        .spawn()
        .context("cannot run cpio")?;
    child.stdin.take().context("no pipe to cpio")?.write_all(&names).context("writing to cpio")?;
    if !child.wait().context("waiting for cpio")?.success() {
        bail!("cpio failed");
    }
    Ok(())
}

/// Makes a file system of `size` (as mke2fs reads it) with the content of a folder.
pub fn make_ext4(image: &Path, size: &str, content: Option<&Path>) -> Result<()> {
    // Emptied first: an older image's blocks would stay in it.
    fs::File::create(image).with_context(|| format!("creating {}", image.display()))?;
    let mut mke2fs = process::command("mke2fs");
    mke2fs.args(["-q", "-F", "-t", "ext4", "-O", "^has_journal", "-m", "0"]);
    mke2fs.args(["-E", "lazy_itable_init=1,root_owner=0:0"]);
    if let Some(dir) = content {
        mke2fs.arg("-d").arg(dir);
    }
    process::run(mke2fs.arg(image).arg(size))
}

/// The bytes of all files below a folder.
pub fn size_of_tree(dir: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let entry = entry?;
        let meta = entry.metadata()?;
        bytes += if meta.is_dir() { size_of_tree(&entry.path())? } else { meta.len() };
    }
    Ok(bytes)
}

/// Runs `build` unless `image` was built from exactly these inputs (path, size, time).
pub fn build_if_changed(
    image: &Path,
    inputs: &[PathBuf],
    build: impl FnOnce(&Path) -> Result<()>,
) -> Result<()> {
    let mut state = format!("layout {LAYOUT}\n");
    for input in inputs {
        let meta =
            fs::metadata(input).with_context(|| format!("looking at {}", input.display()))?;
        let time = meta.modified()?.duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        state += &format!("{} {} {time}\n", input.display(), meta.len());
    }
    let stamp = image.with_extension("inputs");
    if image.exists() && fs::read_to_string(&stamp).is_ok_and(|old| old == state) {
        return Ok(());
    }
    let _ = fs::remove_file(&stamp);
    println!("vm: building {}", image.display());
    // Renamed when whole: another run may be using the old one.
    let new = image.with_extension(format!("{}.new", std::process::id()));
    build(&new)?;
    fs::rename(&new, image).with_context(|| format!("replacing {}", image.display()))?;
    fs::write(&stamp, state).with_context(|| format!("writing {}", stamp.display()))
}

/// Raised when `disks` builds other images from the same inputs.
const LAYOUT: u32 = 1;
