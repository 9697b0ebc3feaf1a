//! Questions that are not ours: to the host's name servers, from the host.
//!
//! Owns nothing that stays: each question has a socket, a time and an end of its own.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::answer;

/// For each name server.
const PATIENCE: Duration = Duration::from_secs(3);
const MOST_SERVERS: usize = 3;
pub(crate) const PORT: u16 = 53;
const ID_BYTES: usize = 2;
const MOST_BYTES: usize = u16::MAX as usize;
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Docker's choice where a host has none.
const PUBLIC: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(8, 8, 4, 4)];

/// Read at each question: what an administrator changes holds at once.
pub(crate) fn host_servers() -> Vec<SocketAddr> {
    servers_of(&fs::read_to_string(RESOLV_CONF).unwrap_or_default())
}

fn servers_of(resolv_conf: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(address, PORT))
    };
    let found: Vec<_> = resolv_conf.lines().filter_map(server).take(MOST_SERVERS).collect();
    match found.is_empty() {
        true => PUBLIC.map(|address| (address, PORT).into()).to_vec(),
        false => found,
    }
}

/// The first answer that one of them gives; one that could not help is told only if no other
/// can. `None` if none answers in time.
pub(crate) async fn ask(
    servers: &[SocketAddr],
    question: &[u8],
    over_tcp: bool,
) -> Option<Vec<u8>> {
    let mut no_help = None;
    for server in servers.iter().take(MOST_SERVERS) {
        let asked = async {
            let sent = with_id_of_ours(question)?;
            match over_tcp {
                true => by_stream(*server, &sent).await,
                false => by_datagram(*server, &sent).await,
            }
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(mut bytes)) => {
                bytes[..ID_BYTES].copy_from_slice(&question[..ID_BYTES]);
                if !answer::is_no_help(&bytes) {
                    return Some(bytes);
                }
                no_help.get_or_insert(bytes);
            }
            Ok(Err(error)) => tracing::debug!(%server, %error, "name server"),
            Err(_) => tracing::debug!(%server, "name server does not answer"),
        }
    }
    no_help
}

/// Whoever wants to answer in the server's place must guess the id as well as the port: the
/// asker's own may be one that is easily guessed.
fn with_id_of_ours(question: &[u8]) -> io::Result<Vec<u8>> {
    let mut sent = question.to_vec();
    let id = sent.get_mut(..ID_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::rand::getrandom(id, rustix::rand::GetRandomFlags::empty())?;
    Ok(sent)
}

async fn by_datagram(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    // A port of its own that the kernel draws, connected: others' datagrams do not come in.
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    loop {
        socket.readable().await?;
        // Only now: many questions may be waiting.
        let mut buffer = vec![0; MOST_BYTES];
        match socket.try_recv(&mut buffer) {
            Ok(length) if answer::answers(question, &buffer[..length]) => {
                return Ok(buffer[..length].to_vec());
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

async fn by_stream(server: SocketAddr, question: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, question).await?;
    let bytes = read_message(&mut stream, MOST_BYTES).await?;
    match answer::answers(question, &bytes) {
        true => Ok(bytes),
        false => Err(io::Error::other("it answers something else")),
    }
}

/// Two bytes of length, then the message (RFC 1035, 4.2.2).
pub(crate) async fn read_message(stream: &mut TcpStream, most: usize) -> io::Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    if length > most {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await?;
    Ok(bytes)
}

pub(crate) async fn write_message(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let length = u16::try_from(bytes.len()).map_err(|_| io::Error::other("too long"))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(bytes);
    stream.write_all(&framed).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_the_hosts_or_public_ones() {
        let check = |text: &str, expected: &[&str]| {
            let servers = servers_of(text);
            let shown: Vec<String> = servers.iter().map(|s| s.ip().to_string()).collect();
            assert_eq!(shown, expected, "{text:?}");
        };
        check("nameserver 127.0.0.53\nsearch a\nnameserver ::1\n", &["127.0.0.53", "::1"]);
        check(
            "nameserver 1.1.1.1\n nameserver 2.2.2.2\nnameserver 3.3.3.3\nnameserver 4.4.4.4",
            &["1.1.1.1", "2.2.2.2", "3.3.3.3"],
        );
        check("options ndots:2\nnameserver fe80::1%eth0", &["8.8.8.8", "8.8.4.4"]);
    }

    /// `missing.example`, type A, with an id that everybody would guess.
    fn question() -> Vec<u8> {
        let mut bytes = vec![0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7];
        bytes.extend(b"missing\x07example\x00\x00\x01\x00\x01");
        bytes
    }

    /// A name server that answers one question: with what `answers` makes of it.
    fn server(answers: fn(Vec<u8>) -> Vec<Vec<u8>>) -> SocketAddr {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = socket.local_addr().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            for answer in answers(buffer[..length].to_vec()) {
                socket.send_to(&answer, from).unwrap();
            }
        });
        address
    }

    fn answer_with(mut question: Vec<u8>, code: u8) -> Vec<u8> {
        question[2] |= 0x80;
        question[3] = code;
        question
    }

    #[tokio::test]
    async fn a_wrong_id_or_question_is_no_answer_and_the_askers_own_id_comes_back() {
        let server = server(|question| {
            let right = answer_with(question, 3);
            let (mut id, mut name) = (right.clone(), right.clone());
            id[0] ^= 1;
            name[13] ^= 1;
            vec![id, name, right]
        });
        let told = ask(&[server], &question(), false).await.unwrap();
        assert_eq!(told, answer_with(question(), 3));
    }

    #[tokio::test]
    async fn who_cannot_help_is_asked_no_more_and_told_only_if_nobody_can() {
        let broken = || server(|question| vec![answer_with(question, 2)]);
        let told = ask(&[broken(), broken()], &question(), false).await.unwrap();
        assert_eq!(told, answer_with(question(), 2));
        let right = server(|question| vec![answer_with(question, 0)]);
        let told = ask(&[broken(), right], &question(), false).await.unwrap();
        assert_eq!(told, answer_with(question(), 0));
    }
}
