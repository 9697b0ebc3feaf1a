//! One request, one answer over a route netlink socket, without a runtime.
//!
//! Owns the transport: sequence numbers, acknowledgements, multi-part dumps, the
//! kernel's extended error text. It does not know what the messages mean
//! (`link`, `qdisc`) and leaves received ones as bytes (`decode`).
//!
//! Synchronous on purpose: the kernel works a request off inside `send`, so the
//! answer is there when `send` returns, and a socket must be opened by a thread
//! that is in the namespace it is for. rtnetlink's own connection is a task and
//! two channel hops per request; its message builders are used all the same.

use std::io;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_ECHO, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NetlinkMessage,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::sys::{Socket, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::decode::{Attributes, u16_at, u32_at};
use crate::error::{Error, Result};

pub(crate) const HEADER_BYTES: usize = 16;
/// The kernel fills at most 32 KiB of a dump per receive.
const BUFFER_BYTES: usize = 64 * 1024;
/// The answer is queued before `send` returns; this bounds only a kernel's fault.
const PATIENCE: Duration = Duration::from_secs(5);
const NLMSGERR_ATTR_MSG: u16 = 1;
/// A dump that the kernel says changed under it is begun anew this often.
const DUMP_ATTEMPTS: usize = 8;

#[derive(Debug)]
pub(crate) struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a request is about, for the error message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct About<'a> {
    pub operation: &'static str,
    pub object: &'a str,
}

pub(crate) fn about<'a>(operation: &'static str, object: &'a str) -> About<'a> {
    About { operation, object }
}

enum Reply {
    Done,
    /// The dump raced with a change: entries may be missing or twice.
    Interrupted,
    Refused(io::Error, Option<String>),
}

impl Netlink {
    /// In the network namespace of the calling thread, for good.
    pub fn open() -> Result<Netlink> {
        Netlink::try_open().map_err(|e| Error::io("open", "route netlink socket", e))
    }

    fn try_open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        // Both are refinements: without them errors have no text.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// A change, acknowledged. `flags` beyond request and acknowledgement.
    pub fn change(
        &mut self,
        what: About<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<()> {
        self.exchange(what, message, NLM_F_ACK | flags, &mut |_| {})
    }

    /// One object. `None` when the answer carried none that `decode` knows.
    /// With echo: to a request for one qdisc older kernels answer by a
    /// notification, which the asker gets only so.
    pub fn get<T>(
        &mut self,
        what: About<'_>,
        message: RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut found = None;
        self.exchange(what, message, NLM_F_ACK | NLM_F_ECHO, &mut |payload| {
            found = found.take().or_else(|| decode(payload?));
        })?;
        Ok(found)
    }

    /// Every object that `decode` knows.
    pub fn dump<T>(
        &mut self,
        what: About<'_>,
        message: RouteNetlinkMessage,
        decode: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        self.exchange(what, message, NLM_F_DUMP, &mut |payload| match payload {
            Some(payload) => all.extend(decode(payload)),
            None => all.clear(),
        })?;
        Ok(all)
    }

    fn exchange(
        &mut self,
        what: About<'_>,
        message: RouteNetlinkMessage,
        flags: u16,
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> Result<()> {
        let failed = |source, hint| Error::Netlink {
            operation: what.operation,
            object: what.object.to_owned(),
            hint,
            source,
        };
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | flags;
        for _ in 0..DUMP_ATTEMPTS {
            match self.attempt(&mut message, visit) {
                Ok(Reply::Done) => return Ok(()),
                Ok(Reply::Interrupted) => continue,
                Ok(Reply::Refused(source, hint)) => return Err(failed(source, hint)),
                Err(e) => return Err(failed(e, None)),
            }
        }
        Err(failed(
            rustix::io::Errno::INTR.into(),
            Some("the table changed during each dump".into()),
        ))
    }

    /// `visit` gets `None` at the beginning, then each object.
    fn attempt(
        &mut self,
        message: &mut NetlinkMessage<RouteNetlinkMessage>,
        visit: &mut dyn FnMut(Option<&[u8]>),
    ) -> io::Result<Reply> {
        self.sequence = self.sequence.wrapping_add(1);
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        visit(None);

        let mut interrupted = false;
        loop {
            let received = self.receive()?;
            let mut rest = &self.buffer[..received];
            while let Some((header, payload, next)) = split_message(rest) {
                rest = next;
                // Left over from a request whose answer timed out.
                if header.sequence != self.sequence {
                    continue;
                }
                interrupted |= header.flags & NLM_F_DUMP_INTR != 0;
                match header.kind {
                    NLMSG_ERROR | NLMSG_DONE => {
                        let code = payload.get(..4).map_or(0, |b| u32_at(b, 0) as i32);
                        if code < 0 {
                            let hint = extended_text(&header, payload);
                            return Ok(Reply::Refused(io::Error::from_raw_os_error(-code), hint));
                        }
                        return Ok(if interrupted { Reply::Interrupted } else { Reply::Done });
                    }
                    _ => visit(Some(payload)),
                }
            }
        }
    }

    fn receive(&mut self) -> io::Result<usize> {
        loop {
            match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }
}

pub(crate) struct Header {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
}

/// Header, payload, and what follows. `None` at the end, or where a length lies.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    if bytes.len() < HEADER_BYTES {
        return None;
    }
    let length = u32_at(bytes, 0) as usize;
    let payload = bytes.get(HEADER_BYTES..length)?;
    let header =
        Header { kind: u16_at(bytes, 4), flags: u16_at(bytes, 6), sequence: u32_at(bytes, 8) };
    Some((header, payload, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The kernel's own words behind an error code (`NLMSGERR_ATTR_MSG`).
fn extended_text(header: &Header, payload: &[u8]) -> Option<String> {
    let attributes = match header.kind {
        // Code, then the refused message's header, and its body unless capped.
        NLMSG_ERROR if header.flags & NLM_F_CAPPED != 0 => payload.get(4 + HEADER_BYTES..)?,
        NLMSG_ERROR => {
            let echoed = u32_at(payload.get(4..8)?, 0) as usize;
            payload.get((4 + echoed).next_multiple_of(4)..)?
        }
        _ => payload.get(4..)?,
    };
    Attributes::new(attributes).text(NLMSGERR_ATTR_MSG)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((HEADER_BYTES as u32 + payload.len() as u32).to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn messages_are_split_at_their_lengths_and_a_lying_length_ends_the_walk() {
        let mut bytes = message(16, 2, &[1, 2, 3, 4, 5]);
        bytes.extend(message(3, 0, &[]));
        let (header, payload, rest) = split_message(&bytes).unwrap();
        assert_eq!((header.kind, header.flags, header.sequence), (16, 2, 7));
        assert_eq!(payload, [1, 2, 3, 4, 5]);
        let (header, payload, rest) = split_message(rest).unwrap();
        assert_eq!((header.kind, payload.len(), rest.len()), (3, 0, 0));

        assert!(split_message(&[0; 8]).is_none());
        let mut lying = message(16, 0, &[1, 2]);
        lying[0] = 200;
        assert!(split_message(&lying).is_none());
        lying[0] = 3;
        assert!(split_message(&lying).is_none());
    }

    #[test]
    fn the_kernels_own_words_are_found_behind_the_echoed_header() {
        let text = b"Device is busy\0";
        let mut payload = (-16i32).to_ne_bytes().to_vec();
        payload.extend(message(16, 5, &[]));
        payload.extend((4 + text.len() as u16).to_ne_bytes());
        payload.extend(NLMSGERR_ATTR_MSG.to_ne_bytes());
        payload.extend(text);
        let header = Header { kind: NLMSG_ERROR, flags: NLM_F_CAPPED, sequence: 7 };
        assert_eq!(extended_text(&header, &payload).as_deref(), Some("Device is busy"));
        let header = Header { kind: NLMSG_ERROR, flags: 0, sequence: 7 };
        assert_eq!(extended_text(&header, &payload).as_deref(), Some("Device is busy"));
        assert_eq!(extended_text(&header, &[0; 4]), None);
    }
}
