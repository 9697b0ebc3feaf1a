//! Where a created container waits for `start`: a listening socket in its directory.
//!
//! The waiting process is the only one that has it open, so a connection that is refused
//! means that it is gone. Who connects says `go`, and hears of a failure, or of the end of
//! the line, which is a program that runs.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, connect, listen,
    socket_with,
};
use tenantry_shim::channel::{ChildEnd, FromChild, ShimEnd};

use crate::error::{Error, failed};
use crate::record::Place;

pub const NAME: &str = "gate";

fn socket() -> Result<OwnedFd, Errno> {
    socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// By the directory's descriptor: an address has no room for a long path.
fn address(place: &Place) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{NAME}", place.directory().as_raw_fd()))
}

pub fn open(place: &Place) -> Result<OwnedFd, Error> {
    let gate = socket().map_err(failed("socket", NAME))?;
    let address = address(place).map_err(failed("bind", NAME))?;
    bind(&gate, &address).map_err(failed("bind", NAME))?;
    listen(&gate, 4).map_err(failed("listen", NAME))?;
    Ok(gate)
}

/// In the child: waits for somebody who says `go`, and returns the line to them.
pub fn wait(gate: &ChildEnd) -> Result<ChildEnd, Errno> {
    loop {
        let line = retry_on_intr(|| accept_with(gate.as_fd(), SocketFlags::CLOEXEC))?;
        let line = ChildEnd::over(line);
        // Who went away without a word has not started it.
        if line.wait_for_go().is_ok() {
            return Ok(line);
        }
    }
}

/// Lets the container go on and returns when its program runs.
///
/// # Errors
/// Why it could not be executed.
pub fn pass(place: &Place) -> Result<(), Error> {
    let line = socket().map_err(failed("socket", NAME))?;
    let address = address(place).map_err(failed("connect", NAME))?;
    connect(&line, &address).map_err(failed("connect", NAME))?;
    let line = ShimEnd::over(line);
    line.go().map_err(failed("send", NAME))?;
    match receive(&line)? {
        FromChild::Failed(failure) => Err(failure.into()),
        _ => Ok(()),
    }
}

/// Waits for the next packet.
pub fn receive(line: &ShimEnd) -> Result<FromChild, Error> {
    loop {
        if let Some(packet) = line.receive() {
            return Ok(packet);
        }
        let mut ready = [PollFd::from_borrowed_fd(line.as_fd(), PollFlags::IN)];
        retry_on_intr(|| poll(&mut ready, None)).map_err(failed("poll", "the container"))?;
    }
}
