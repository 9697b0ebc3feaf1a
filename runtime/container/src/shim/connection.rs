//! One connection to a shim: a request, then its replies, one JSON line each.
//!
//! Owns framing and its bound. See `tenantry_shim::protocol` for who says what.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    path::Path,
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg,
};
use tenantry_shim::protocol::{MAX_LINE_BYTES, Reply, Request};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// What a shim says.
#[derive(Debug)]
pub struct Replies {
    reader: BufReader<OwnedReadHalf>,
}

/// What a shim is asked.
#[derive(Debug)]
pub struct Requests {
    writer: OwnedWriteHalf,
}

/// Connects and asks. Connecting to a listener never waits: its backlog takes
/// the connection or refuses it. The connection ends when both halves are dropped.
pub async fn open(socket: &Path, request: &Request) -> io::Result<(Requests, Replies)> {
    let (mut requests, replies) = split(StdStream::connect(socket)?)?;
    requests.send(request).await?;
    Ok((requests, replies))
}

/// As [`open`], and the request's first byte carries `descriptors`.
pub async fn open_with_descriptors(
    socket: &Path,
    request: &Request,
    descriptors: [OwnedFd; 3],
) -> io::Result<(Requests, Replies)> {
    let stream = StdStream::connect(socket)?;
    let line = render(request)?;
    let sent = send_first_byte(&stream, &line, &descriptors)?;
    drop(descriptors);
    let (mut requests, replies) = split(stream)?;
    requests.writer.write_all(&line[sent..]).await?;
    Ok((requests, replies))
}

/// Asks for one thing and takes the one reply, which may carry a descriptor.
pub async fn ask_for_descriptor(
    socket: &Path,
    request: &Request,
) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
    let (_requests, mut replies) = open(socket, request).await?;
    replies.receive_first().await
}

/// Asks for one thing and takes the one reply.
pub async fn ask(socket: &Path, request: &Request) -> io::Result<Option<Reply>> {
    let (_requests, mut replies) = open(socket, request).await?;
    replies.receive().await
}

fn split(stream: StdStream) -> io::Result<(Requests, Replies)> {
    stream.set_nonblocking(true)?;
    let (reader, writer) = UnixStream::from_std(stream)?.into_split();
    Ok((Requests { writer }, Replies { reader: BufReader::new(reader) }))
}

fn send_first_byte(
    stream: &StdStream,
    line: &[u8],
    descriptors: &[OwnedFd; 3],
) -> io::Result<usize> {
    let borrowed = descriptors.each_ref().map(AsFd::as_fd);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(io::Error::other("three descriptors do not fit"));
    }
    let first = [IoSlice::new(&line[..1])];
    Ok(rustix::net::sendmsg(stream, &first, &mut control, SendFlags::NOSIGNAL)?)
}

/// `None` at the end.
fn receive_byte(stream: &UnixStream) -> io::Result<(Option<u8>, Option<OwnedFd>)> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    let mut descriptor = None;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            descriptor = descriptors.last();
        }
    }
    Ok(((received.bytes > 0).then_some(byte[0]), descriptor))
}

impl Requests {
    pub async fn send(&mut self, request: &Request) -> io::Result<()> {
        self.writer.write_all(&render(request)?).await
    }
}

impl Replies {
    /// The next reply, or `None` when the shim has closed the connection. Not
    /// cancel safe: a caller that gives up on a reply drops the connection.
    pub async fn receive(&mut self) -> io::Result<Option<Reply>> {
        self.receive_rest(vec![]).await
    }

    /// As [`Replies::receive`], of the connection's first reply, and the descriptor that its
    /// first byte carries.
    pub async fn receive_first(&mut self) -> io::Result<Option<(Reply, Option<OwnedFd>)>> {
        let stream: &UnixStream = self.reader.get_ref().as_ref();
        let (byte, descriptor) = loop {
            stream.readable().await?;
            match stream.try_io(Interest::READABLE, || receive_byte(stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                received => break received?,
            }
        };
        let Some(byte) = byte else { return Ok(None) };
        let reply = self.receive_rest(vec![byte]).await?;
        Ok(reply.map(|reply| (reply, descriptor)))
    }

    async fn receive_rest(&mut self, mut line: Vec<u8>) -> io::Result<Option<Reply>> {
        loop {
            let available = match self.reader.fill_buf().await {
                Ok(available) => available,
                // The shim ended with unread bytes of ours in its socket.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                return Ok(None);
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |at| at + 1);
            line.extend_from_slice(&available[..taken]);
            self.reader.consume(taken);
            if line.len() > MAX_LINE_BYTES {
                return Err(io::Error::other("a shim's line is too long"));
            }
            if end.is_some() {
                return Ok(Some(serde_json::from_slice(&line)?));
            }
        }
    }
}

fn render(request: &Request) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    if line.len() > MAX_LINE_BYTES {
        return Err(io::Error::other("the request is longer than a shim's line may be"));
    }
    Ok(line)
}
