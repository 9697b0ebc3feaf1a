//! One client: lines in, lines out, descriptors that came along.
//!
//! Owns the socket and its two bounded buffers. Knows nothing of what requests
//! mean. Used by `serve`.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, retry_on_intr};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tenantry_shim::protocol::{MAX_LINE_BYTES, Reply, Request};

/// Replies that a client has not read. One that lets more pile up is cut off.
const MAX_OUTBOX_BYTES: usize = 64 << 10;

const READ_BYTES: usize = 16 << 10;

/// Standard input, output and error of an `Exec`.
const MAX_DESCRIPTORS: usize = 3;

#[derive(Debug)]
pub struct Connection {
    /// Never given to another connection of this shim.
    pub id: u64,
    /// Asked to be told of every state.
    pub watching: bool,
    socket: OwnedFd,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    /// What goes with the outbox' first byte.
    outgoing: Option<OwnedFd>,
    descriptors: Vec<OwnedFd>,
    open: bool,
}

impl Connection {
    pub fn new(id: u64, socket: OwnedFd) -> Self {
        Self {
            id,
            watching: false,
            socket,
            inbox: Vec::new(),
            outbox: Vec::new(),
            outgoing: None,
            descriptors: Vec::new(),
            open: true,
        }
    }

    pub fn is_open(&self) -> bool {
        self.open
    }

    pub fn wants_to_write(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// The descriptors that came with the request just read.
    pub fn take_descriptors(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.descriptors)
    }

    /// Reads what is there, once. What follows are the complete requests.
    pub fn receive(&mut self) {
        let mut bytes = [0; READ_BYTES];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = retry_on_intr(|| {
            recvmsg(&self.socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)
        });
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.descriptors.extend(descriptors);
            }
        }
        match received {
            Ok(message) if message.bytes > 0 => {
                self.inbox.extend_from_slice(&bytes[..message.bytes])
            }
            Err(Errno::AGAIN) => {}
            _ => self.open = false,
        }
        if self.inbox.len() > MAX_LINE_BYTES || self.descriptors.len() > MAX_DESCRIPTORS {
            self.open = false;
        }
    }

    /// A line that is no request ends the conversation.
    pub fn next_request(&mut self) -> Option<Request> {
        let end = self.inbox.iter().position(|byte| *byte == b'\n')?;
        let request = serde_json::from_slice(&self.inbox[..end]).ok();
        self.inbox.drain(..=end);
        if self.inbox.is_empty() {
            self.inbox = Vec::new();
        }
        self.open &= request.is_some();
        request
    }

    pub fn send(&mut self, reply: &Reply) {
        if !self.open {
            return;
        }
        if serde_json::to_writer(&mut self.outbox, reply).is_err() {
            self.open = false;
        }
        self.outbox.push(b'\n');
        self.flush();
        if self.outbox.len() > MAX_OUTBOX_BYTES {
            self.open = false;
        }
    }

    /// As [`Connection::send`], with a descriptor. Who has not read what was said before is cut
    /// off: the descriptor goes with the first byte that is written next.
    pub fn send_with(&mut self, reply: &Reply, descriptor: OwnedFd) {
        self.open &= self.outbox.is_empty();
        self.outgoing = Some(descriptor);
        self.send(reply);
    }

    /// Writes as much as the client takes now.
    pub fn flush(&mut self) {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        while !self.outbox.is_empty() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let outgoing = self.outgoing.as_ref().map(|descriptor| [descriptor.as_fd()]);
            if let Some(descriptors) = &outgoing {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let bytes = [IoSlice::new(&self.outbox)];
            match retry_on_intr(|| sendmsg(&self.socket, &bytes, &mut control, flags)) {
                Ok(sent) => {
                    self.outgoing = None;
                    self.outbox.drain(..sent);
                }
                Err(Errno::AGAIN) => return,
                Err(_) => {
                    self.open = false;
                    return;
                }
            }
        }
        self.outbox = Vec::new();
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
