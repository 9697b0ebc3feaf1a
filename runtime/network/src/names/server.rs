//! One container's name server: two tasks of ours over its two sockets.
//!
//! Owns their life and what a container may keep open. What is answered is [`super::asker`]'s
//! matter.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::asker::{Asker, Step};
use super::forward;
use super::sockets::Sockets;

/// Connections of one container.
const MOST_STREAMS: usize = 16;
/// A connection on which nothing is asked is closed.
const IDLE: Duration = Duration::from_secs(10);
/// No question needs as much; a longer one is malformed.
const MOST_QUESTION_BYTES: usize = 4096;
/// After an error of a socket, so that one that lasts costs nothing.
const BREATH: Duration = Duration::from_millis(100);

/// Dropped, it ends: a socket that stayed would keep the container's namespace.
#[derive(Debug)]
pub(crate) struct Server {
    _tasks: JoinSet<()>,
}

impl Server {
    pub fn start(sockets: Sockets, asker: Asker) -> io::Result<Server> {
        let datagrams = Arc::new(UdpSocket::from_std(sockets.datagrams)?);
        let streams = TcpListener::from_std(sockets.streams)?;
        let asker = Arc::new(asker);
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_datagrams(datagrams, Arc::clone(&asker)));
        tasks.spawn(serve_streams(streams, asker));
        Ok(Server { _tasks: tasks })
    }
}

async fn serve_datagrams(socket: Arc<UdpSocket>, asker: Arc<Asker>) {
    // As many as the asker gives turns.
    let mut forwarded = JoinSet::new();
    let mut buffer = vec![0; MOST_QUESTION_BYTES];
    loop {
        while forwarded.try_join_next().is_some() {}
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(container_id = asker.container, %error, "name server");
                sleep(BREATH).await;
                continue;
            }
        };
        wait(&asker).await;
        match asker.decide(&buffer[..length], false) {
            Step::Say(answer) => say(&socket, answer, from).await,
            Step::Ask(turn) => {
                let (socket, asker) = (Arc::clone(&socket), Arc::clone(&asker));
                let question = buffer[..length].to_vec();
                forwarded.spawn(async move {
                    let answer = asker.forward(&question, false).await;
                    say(&socket, answer, from).await;
                    drop(turn);
                });
            }
        }
    }
}

async fn say(socket: &UdpSocket, answer: Option<Vec<u8>>, to: SocketAddr) {
    if let Some(bytes) = answer {
        // Who does not listen any more needs no answer.
        let _ = socket.send_to(&bytes, to).await;
    }
}

async fn wait(asker: &Asker) {
    if let Some(pause) = asker.pause() {
        sleep(pause).await;
    }
}

async fn serve_streams(listener: TcpListener, asker: Arc<Asker>) {
    let places = Arc::new(Semaphore::new(MOST_STREAMS));
    let mut streams = JoinSet::new();
    loop {
        while streams.try_join_next().is_some() {}
        // One too many waits in the backlog; beyond that the kernel refuses.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let asker = Arc::clone(&asker);
                streams.spawn(async move {
                    serve_stream(stream, &asker).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::debug!(container_id = asker.container, %error, "name server");
                sleep(BREATH).await;
            }
        }
    }
}

/// One question after the other, until there is none for a while.
async fn serve_stream(mut stream: TcpStream, asker: &Asker) {
    loop {
        let read = forward::read_message(&mut stream, MOST_QUESTION_BYTES);
        let Ok(Ok(question)) = timeout(IDLE, read).await else { return };
        wait(asker).await;
        let answer = match asker.decide(&question, true) {
            Step::Say(answer) => answer,
            Step::Ask(turn) => {
                let answer = asker.forward(&question, true).await;
                drop(turn);
                answer
            }
        };
        let Some(bytes) = answer else { return };
        let Ok(Ok(())) = timeout(IDLE, forward::write_message(&mut stream, &bytes)).await else {
            return;
        };
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddrV4};

    use super::super::{Named, Names};
    use super::*;

    /// Of type A, with the id 9.
    fn question(name: &str) -> Vec<u8> {
        let mut bytes = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        bytes.push(name.len() as u8);
        bytes.extend(name.bytes());
        bytes.extend([0, 0, 1, 0, 1]);
        bytes
    }

    /// At a port of 127.0.0.1 where both kinds of socket are free.
    fn sockets() -> Sockets {
        let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        Sockets::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).unwrap()
    }

    #[tokio::test]
    async fn both_sockets_answer_and_are_closed_with_the_server() {
        let names = Names::new(Vec::new());
        let address = Ipv4Addr::new(10, 9, 8, 7);
        let named =
            Named { address, six: None, names: vec!["web".into()], network_name: "front".into() };
        names.join("c", "n1", true, Some(named), vec![]);
        let sockets = sockets();
        let home = sockets.streams.local_addr().unwrap();
        let server =
            Server::start(sockets, Asker::new("c", Arc::clone(&names.shared), vec![])).unwrap();

        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.send_to(&question("web"), home).await.unwrap();
        let mut buffer = [0; 512];
        let (length, _) = timeout(IDLE, client.recv_from(&mut buffer)).await.unwrap().unwrap();
        assert!(buffer[..length].ends_with(&address.octets()), "{:?}", &buffer[..length]);

        // Two questions on one connection.
        let mut stream = TcpStream::connect(home).await.unwrap();
        for _ in 0..2 {
            forward::write_message(&mut stream, &question("web")).await.unwrap();
            let answer = forward::read_message(&mut stream, 512);
            let answer = timeout(IDLE, answer).await.unwrap().unwrap();
            assert!(answer.ends_with(&address.octets()), "{answer:?}");
        }
        // What is longer than a question can be ends the connection.
        forward::write_message(&mut stream, &[0; MOST_QUESTION_BYTES + 1]).await.unwrap();
        assert!(timeout(IDLE, forward::read_message(&mut stream, 512)).await.unwrap().is_err());

        drop(server);
        // The tasks end a moment later.
        for _ in 0..100 {
            if std::net::UdpSocket::bind(home).is_ok() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("the socket is still there");
    }
}
