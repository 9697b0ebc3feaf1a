//! `--console-socket`: a terminal's master is sent to who is to have it.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, sendmsg, socket_with,
};

use crate::error::{Error, failed};

/// What goes with the descriptor is its name in the container, for messages.
const NAME: &[u8] = b"/dev/ptmx";

pub fn send(socket: &Path, master: &OwnedFd) -> Result<(), Error> {
    send_to(socket, master).map_err(failed("send the terminal to", socket.display()))
}

fn send_to(path: &Path, master: &OwnedFd) -> Result<(), Errno> {
    let line = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    connect(&line, &SocketAddrUnix::new(path)?)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let descriptors = [master.as_fd()];
    control.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(&line, &[IoSlice::new(NAME)], &mut control, SendFlags::NOSIGNAL).map(drop)
}
