//! Names of containers, asked by plain sockets in the containers' namespaces; the name server
//! behind is the test's own.

mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use support::{Container, config, eventually, on_a_host};
use tenantry_network::{
    Asked, Attachment, CreateNetwork, Endpoint, Networks, NetworksConfig, Outcome, Place, RESOLVER,
};

const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

async fn open(dir: &Path, name_server: SocketAddr) -> Networks {
    let (dir, name_servers) = (dir.to_owned(), vec![name_server]);
    let config = NetworksConfig { default: config(), dir, max: 8, name_servers };
    Networks::open(config).await.unwrap()
}

/// On that network and, unless it is the default one, known there by its id.
async fn connect(networks: &Networks, id: &str, container: &Container, network: &str) -> Endpoint {
    let (pid, place) = (container.pid, Place::default());
    let wish = Attachment { container: id, pid, network, asked: Asked::default(), place };
    let endpoint = networks.connect(&wish).await.unwrap();
    networks.introduce(id, &endpoint, vec![id.to_owned()], vec![]);
    networks.serve_names(id, pid, vec![]).await.unwrap();
    endpoint
}

/// Knows nobody, and counts who asks. It ends when nobody asks for a while.
fn name_server() -> (SocketAddr, Arc<AtomicU64>) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let (address, asked) = (socket.local_addr().unwrap(), Arc::<AtomicU64>::default());
    let counter = Arc::clone(&asked);
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            counter.fetch_add(1, Ordering::Relaxed);
            buffer[2] |= 0x80;
            buffer[3] = NXDOMAIN;
            socket.send_to(&buffer[..length], from).unwrap();
        }
    });
    (address, asked)
}

/// What the resolver's address in the container's namespace says; `None` if nobody is there.
fn ask(from: &Container, name: &str) -> Option<Vec<u8>> {
    let mut question = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    from.inside(move || {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.connect((RESOLVER, 53)).unwrap();
        let mut buffer = [0; 512];
        let length = socket.send(&question).and_then(|_| socket.recv(&mut buffer)).ok()?;
        assert_eq!(buffer[..2], [0, 9], "the answer's id");
        Some(buffer[..length].to_vec())
    })
}

#[track_caller]
fn finds(from: &Container, name: &str) -> Ipv4Addr {
    let answer = ask(from, name).expect("it is answered");
    assert_eq!(answer[3] & 0x0f, 0, "{name}: {answer:?}");
    let last: [u8; 4] = answer[answer.len() - 4..].try_into().unwrap();
    last.into()
}

#[track_caller]
fn code(from: &Container, name: &str) -> u8 {
    ask(from, name).expect("it is answered")[3] & 0x0f
}

#[test]
fn who_is_on_a_network_is_found_there_and_nowhere_else() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let (name_server, asked) = name_server();
        let networks = open(dir.path(), name_server).await;
        let wanted = |name: &str, internal| CreateNetwork {
            name: name.into(),
            internal,
            ..CreateNetwork::default()
        };
        networks.create(wanted("front", false)).await.unwrap();
        networks.create(wanted("vault", true)).await.unwrap();
        let (web, app, inner) = (Container::new(), Container::new(), Container::new());
        let of_web = connect(&networks, "web", &web, "front").await;
        let of_app = connect(&networks, "app", &app, "front").await;
        let of_inner = connect(&networks, "inner", &inner, "vault").await;
        // Twice is as good as once.
        networks.serve_names("app", app.pid, vec![]).await.unwrap();

        assert_eq!(finds(&app, "web"), of_web.address);
        assert_eq!(finds(&app, "WEB.front"), of_web.address);
        assert_eq!(finds(&web, "app"), of_app.address);
        assert_eq!(finds(&inner, "inner"), of_inner.address);
        assert_eq!(asked.load(Ordering::Relaxed), 0, "nobody else is asked for these");
        // What is unknown goes on to others, but not out of an internal network.
        assert_eq!(code(&app, "inner"), NXDOMAIN);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(code(&inner, "web"), SERVFAIL);
        assert_eq!(asked.load(Ordering::Relaxed), 1);

        // It is called otherwise; then it is gone.
        networks.introduce("web", &of_web, vec!["site".into()], vec![]);
        assert_eq!(finds(&app, "site"), of_web.address);
        assert_eq!(code(&app, "web"), NXDOMAIN);
        networks.stop_names("web");
        networks.disconnect("web", &of_web).await.unwrap();
        assert_eq!(code(&app, "site"), NXDOMAIN);
        eventually("its name server is closed", || ask(&web, "app").is_none());

        let counts = networks.name_counts();
        let of = |wanted: Outcome| counts.iter().find(|(outcome, _)| *outcome == wanted).unwrap().1;
        assert_eq!(of(Outcome::Forwarded), asked.load(Ordering::Relaxed));
        assert!(of(Outcome::Withheld) >= 1 && of(Outcome::Failed) == 0, "{counts:?}");
        for (id, endpoint) in [("app", &of_app), ("inner", &of_inner)] {
            networks.stop_names(id);
            networks.disconnect(id, endpoint).await.unwrap();
        }
        drop((web, app, inner));
        networks.close().await.unwrap();
    });
}

#[test]
fn a_container_on_no_network_talks_to_itself() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path(), (Ipv4Addr::LOCALHOST, 53).into()).await;
        let alone = Container::new();
        networks.raise_loopback(alone.pid).await.unwrap();
        let link = alone.run("ip -o addr show lo");
        assert!(link.contains("127.0.0.1/8"), "{link}");
        drop(alone);
        networks.close().await.unwrap();
    });
}
