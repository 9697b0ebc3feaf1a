//! An image's or a stopped container's root, to read from and to copy into: an overlay that
//! only one thread sees.
//!
//! Owns the mount. It is made in a mount namespace that a thread of its own has for this
//! one call, so that the host never sees a mount, and none can be left by an agent that
//! dies.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, UnmountFlags,
    fsconfig_create, fsconfig_set_string, fsmount, fsopen,
};

/// Directories of one overlay. What was written lies in `upper` afterwards.
#[derive(Debug)]
pub struct Overlay {
    /// The topmost first; at least one.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory, for kernels that cannot make a mount without a place.
    pub place: PathBuf,
}

/// Calls `look` with the overlay's root, and returns what it returned.
///
/// # Errors
/// The overlay cannot be had.
pub fn with_root<T: Send>(
    overlay: &Overlay,
    look: impl FnOnce(&OwnedFd) -> T + Send,
) -> io::Result<T> {
    let inside = || {
        nix::sched::unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let layers = overlay.lower.iter().map(|layer| open(layer));
        let layers = layers.collect::<Result<Vec<_>, _>>()?;
        let (upper, work) = (open(&overlay.upper)?, open(&overlay.work)?);
        match by_context(&layers, &upper, &work) {
            // Before 6.8 the kernel has no `lowerdir+`; any other mistake comes back.
            Err(Errno::INVAL) => {
                let root = by_options(&layers, &upper, &work, &overlay.place)?;
                let looked = look(&root);
                drop(root);
                rustix::mount::unmount(&overlay.place, UnmountFlags::DETACH)?;
                Ok(looked)
            }
            root => Ok(look(&root?)),
        }
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("tenantry-copy".to_owned());
        match thread.spawn_scoped(scope, inside)?.join() {
            Ok(done) => done,
            Err(_) => Err(io::Error::other("the thread that copies panicked")),
        }
    })
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| io::Error::new(io::Error::from(errno).kind(), path.display().to_string()))
}

/// No path is too long for `fsconfig` (255 bytes), and none needs escaping.
fn short(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn by_context(layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", short(layer))?;
    }
    fsconfig_set_string(context.as_fd(), "upperdir", short(upper))?;
    fsconfig_set_string(context.as_fd(), "workdir", short(work))?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)
}

/// One page of options takes about 200 layers.
fn by_options(
    layers: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    place: &Path,
) -> io::Result<OwnedFd> {
    let lower: Vec<String> = layers.iter().map(short).collect();
    let lower = lower.join(":");
    let options = format!("lowerdir={lower},upperdir={},workdir={}", short(upper), short(work));
    let options = CString::new(options)?;
    rustix::mount::mount("overlay", place, "overlay", MountFlags::NODEV, Some(&*options))?;
    open(place)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(dir: &Path) -> Overlay {
        for name in ["top", "bottom", "upper", "work", "place"] {
            std::fs::create_dir(dir.join(name)).unwrap();
        }
        std::fs::write(dir.join("top/a"), "top").unwrap();
        std::fs::write(dir.join("bottom/a"), "bottom").unwrap();
        std::fs::write(dir.join("bottom/b"), "bottom").unwrap();
        let [upper, work, place] = ["upper", "work", "place"].map(|name| dir.join(name));
        Overlay { lower: vec![dir.join("top"), dir.join("bottom")], upper, work, place }
    }

    fn read(root: &OwnedFd, name: &str) -> String {
        let file = rustix::fs::openat(root, name, OFlags::RDONLY, Mode::empty()).unwrap();
        io::read_to_string(std::fs::File::from(file)).unwrap()
    }

    #[test]
    fn what_is_written_lies_in_the_upper_directory_and_no_mount_is_seen() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let overlay = overlay(dir.path());
        let mounts = || std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let trace = dir.path().to_str().unwrap().to_owned();
        let seen = with_root(&overlay, |root| {
            let flags = OFlags::WRONLY | OFlags::CREATE;
            rustix::fs::openat(root, "new", flags, Mode::RUSR).unwrap();
            let outside =
                std::fs::read_to_string(format!("/proc/{}/mountinfo", std::process::id()));
            (read(root, "a"), read(root, "b"), outside.unwrap().contains(&trace))
        });
        assert_eq!(seen.unwrap(), ("top".into(), "bottom".into(), false));
        assert!(overlay.upper.join("new").exists());
        assert!(!mounts().contains(&trace));
    }

    /// On a kernel that has both, the old way must give what the new one gives.
    #[test]
    fn the_old_way_to_mount_gives_the_same_root() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: not root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let overlay = overlay(dir.path());
        let seen = std::thread::spawn(move || {
            nix::sched::unshare(CloneFlags::CLONE_NEWNS).unwrap();
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            rustix::mount::mount_change("/", private).unwrap();
            let layers: Vec<_> = overlay.lower.iter().map(|layer| open(layer).unwrap()).collect();
            let (upper, work) = (open(&overlay.upper).unwrap(), open(&overlay.work).unwrap());
            let root = by_options(&layers, &upper, &work, &overlay.place).unwrap();
            (read(&root, "a"), read(&root, "b"))
        });
        assert_eq!(seen.join().unwrap(), ("top".into(), "bottom".into()));
    }
}
