//! The private line between the shim and a child that is not its program yet.
//!
//! A `SOCK_SEQPACKET` pair: packets keep their bounds, either side's death is the
//! other's end of file, and close-on-exec turns a successful `execve` into just
//! that. Used by `launch` and `exec`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result, retry_on_intr};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tenantry_shim::protocol::Failure;

/// Longer failures lose their end; no path of the shim's own comes near.
const MAX_PACKET_BYTES: usize = 8 << 10;

#[derive(Debug)]
pub struct ShimEnd(OwnedFd);

#[derive(Debug)]
pub struct ChildEnd(OwnedFd);

/// What the shim reads.
#[derive(Debug)]
pub enum FromChild {
    Failed(Failure),
    Terminal(Pty),
    /// It has come as far as it goes by itself. The shim's own children do not say it.
    Ready,
    /// Its program runs, or it died.
    Closed,
}

/// Both ends of a terminal that the child has made in its own `/dev/pts`.
#[derive(Debug)]
pub struct Pty {
    /// Does not block.
    pub master: OwnedFd,
    pub slave: OwnedFd,
}

/// The whole packet that carries a [`Pty`]; a failure begins with a brace.
const TERMINAL: &[u8] = b"T";

/// The whole packet of a child that is ready.
const READY: &[u8] = b"Y";

pub fn pair() -> Result<(ShimEnd, ChildEnd)> {
    let (shim, child) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((ShimEnd(shim), ChildEnd(child)))
}

impl ShimEnd {
    /// Of a socket that was connected to a child's gate.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Lets the child pass the point where it waits.
    pub fn go(&self) -> Result<()> {
        rustix::net::send(&self.0, b"G", SendFlags::NOSIGNAL).map(drop)
    }

    /// Hands over the root filesystem that only the shim could mount.
    pub fn send_rootfs(&self, rootfs: BorrowedFd<'_>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [rootfs];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &[IoSlice::new(b"R")], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// `None` if nothing is there to read.
    pub fn receive(&self) -> Option<FromChild> {
        let mut packet = [0; MAX_PACKET_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = retry_on_intr(|| {
            recvmsg(&self.0, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)
        });
        let mut descriptors = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        match received.map(|message| message.bytes) {
            Ok(0) => Some(FromChild::Closed),
            Ok(length) => Some(parse(&packet[..length], descriptors)),
            Err(Errno::AGAIN) => None,
            Err(_) => Some(FromChild::Closed),
        }
    }
}

fn parse(packet: &[u8], descriptors: Vec<OwnedFd>) -> FromChild {
    if packet == READY {
        return FromChild::Ready;
    }
    if packet == TERMINAL
        && let Ok([master, slave]) = <[OwnedFd; 2]>::try_from(descriptors)
    {
        return FromChild::Terminal(Pty { master, slave });
    }
    FromChild::Failed(serde_json::from_slice(packet).unwrap_or_else(|_| {
        crate::failure::failure("start", "a failure that could not be read", Errno::PROTO)
    }))
}

impl AsFd for ShimEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for ChildEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl ChildEnd {
    /// Of a socket that was accepted, or of the one that listens.
    pub fn over(socket: OwnedFd) -> Self {
        Self(socket)
    }

    pub fn say_ready(&self) -> Result<()> {
        rustix::net::send(&self.0, READY, SendFlags::NOSIGNAL).map(drop)
    }

    /// Waits for [`ShimEnd::go`]. A shim that died takes its child along: PIPE.
    pub fn wait_for_go(&self) -> Result<()> {
        let mut packet = [0; 1];
        match retry_on_intr(|| rustix::io::read(&self.0, &mut packet))? {
            0 => Err(Errno::PIPE),
            _ => Ok(()),
        }
    }

    /// Waits for [`ShimEnd::send_rootfs`].
    pub fn receive_rootfs(&self) -> Result<OwnedFd> {
        let mut packet = [0; 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        recvmsg(
            &self.0,
            &mut [IoSliceMut::new(&mut packet)],
            &mut control,
            RecvFlags::CMSG_CLOEXEC,
        )?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
                && let Some(rootfs) = descriptors.next()
            {
                return Ok(rootfs);
            }
        }
        Err(Errno::PIPE)
    }

    /// Hands both ends of a terminal over; they stay open here as well.
    pub fn send_terminal(&self, pty: &Pty) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [pty.master.as_fd(), pty.slave.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        sendmsg(&self.0, &[IoSlice::new(TERMINAL)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Best effort: a shim that is gone has nobody to tell. `write` instead of
    /// `send`, because a seccomp program is more likely to allow it.
    pub fn fail(&self, failure: &Failure) {
        let packet = serde_json::to_vec(failure).unwrap_or_default();
        let _ = rustix::io::write(&self.0, &packet);
    }
}
