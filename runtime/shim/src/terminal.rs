//! A terminal of the container's own, made by the child that is to have it.
//!
//! Called in the child, with the container's root as working directory and before it
//! gives up its privileges. The terminal is the container's `devpts`' and not the host's,
//! so that it has a name inside; nothing of the container is trusted to say which one
//! that is, but that it is a `devpts`.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::{Process, WindowSize};

use crate::channel::{ChildEnd, Pty};
use crate::failure::{at, failure};
use crate::in_root;

const MULTIPLEXER: &str = "/dev/pts/ptmx";
const CONSOLE: &str = "/dev/console";
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// A new terminal that belongs to the process' user and controls the calling session;
/// the shim has both ends afterwards.
pub fn take(process: &Process, size: WindowSize, channel: &ChildEnd) -> Result<Pty, Failure> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK;
    let master = in_root::open(MULTIPLEXER, flags).map_err(at("open", MULTIPLEXER))?;
    let system = rustix::fs::fstatfs(&master).map_err(at("fstatfs", MULTIPLEXER))?;
    if system.f_type != DEVPTS_MAGIC {
        return Err(failure("open", MULTIPLEXER, Errno::NODEV));
    }
    rustix::pty::unlockpt(&master).map_err(at("ioctl", MULTIPLEXER))?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).map_err(at("ioctl", "terminal"))?;
    // Its group and mode, tty's and 0620, are the file system's.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(process.uid)), None)
        .map_err(at("fchown", "terminal"))?;
    set_size(master.as_fd(), size).map_err(at("ioctl", "terminal's size"))?;
    rustix::process::ioctl_tiocsctty(&slave).map_err(at("ioctl", "controlling terminal"))?;
    let pty = Pty { master, slave };
    channel.send_terminal(&pty).map_err(at("sendmsg", "terminal"))?;
    Ok(pty)
}

pub fn set_size(terminal: BorrowedFd<'_>, size: WindowSize) -> Result<(), Errno> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
}

/// The terminal once more as `/dev/console`, by a mount of its node.
pub fn mount_console(pty: &Pty) -> Result<(), Failure> {
    let place = in_root::create_file(CONSOLE).map_err(at("open", CONSOLE))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    let node = open_tree(pty.slave.as_fd(), "", flags).map_err(at("open_tree", CONSOLE))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(node.as_fd(), "", place.as_fd(), "", flags).map_err(at("move_mount", CONSOLE))
}
