//! Published ports and the kernel's memory of streams: one socket of the host, which never
//! pauses, and containers that come and go behind one port.

mod support;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

use support::{Container, config, on_a_host};
use tenantry_network::{
    Asked, Attachment, CreateNetwork, Endpoint, Networks, NetworksConfig, Place, PortWish, SixWish,
};

const HOST_PORT: u16 = 8053;
const OWN_PORT: u16 = 9000;

const NETWORK: &str = "both";

async fn connect(networks: &Networks, id: &str, container: &Container) -> Endpoint {
    let (pid, network, place) = (container.pid, NETWORK, Place::default());
    let wish = Attachment { container: id, pid, network, asked: Asked::default(), place };
    networks.connect(&wish).await.unwrap()
}

async fn publish(networks: &Networks, endpoint: &mut Endpoint) {
    let port = format!("{OWN_PORT}/udp").parse().unwrap();
    let wish = PortWish { port, host_address: None, host_ports: Some((HOST_PORT, HOST_PORT)) };
    networks.publish(endpoint, &[wish]).await.unwrap();
}

/// To the same address as its own.
fn send(socket: &UdpSocket) {
    let home = socket.local_addr().unwrap().ip();
    // Where nobody is, an earlier datagram's refusal is told.
    let _ = socket.send_to(b"hello", SocketAddr::new(home, HOST_PORT));
}

/// Whether the socket's next datagram comes to this container.
fn reaches(socket: &UdpSocket, container: &Container) -> bool {
    let (ready, bound) = channel();
    let arrived = container.start(move || {
        let own = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, OWN_PORT)).unwrap();
        own.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        ready.send(()).unwrap();
        own.recv_from(&mut [0; 16]).is_ok()
    });
    bound.recv().unwrap();
    send(socket);
    arrived.recv().unwrap()
}

#[test]
fn a_stream_goes_to_whoever_has_the_port_now() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let (default, dir) = (config(), dir.path().to_owned());
        let config = NetworksConfig { default, dir, max: 8, name_servers: vec![] };
        let networks = Networks::open(config).await.unwrap();
        let wish = CreateNetwork {
            name: NETWORK.into(),
            subnet: "10.77.1.0/24".parse().ok(),
            six: Some(SixWish { subnet: "fd00:77::/64".parse().ok(), gateway: None }),
            ..CreateNetwork::default()
        };
        networks.create(wish).await.unwrap();
        let homes = [IpAddr::from(Ipv4Addr::LOCALHOST), "fd00:77::1".parse().unwrap()];
        let sockets = homes.map(|home| UdpSocket::bind((home, 0)).unwrap());
        sockets.iter().for_each(send);
        let (one, two) = (Container::new(), Container::new());
        let mut of_one = connect(&networks, "one", &one).await;
        // It has other addresses than the first.
        let mut of_two = connect(&networks, "two", &two).await;
        publish(&networks, &mut of_one).await;
        for socket in &sockets {
            assert!(reaches(socket, &one), "{socket:?}: it began before the port was there");
        }
        networks.disconnect("one", &of_one).await.unwrap();
        sockets.iter().for_each(send);
        publish(&networks, &mut of_two).await;
        for socket in &sockets {
            assert!(reaches(socket, &two), "{socket:?}: it went elsewhere before");
        }
        networks.disconnect("two", &of_two).await.unwrap();
        drop((one, two));
        networks.remove(NETWORK).await.unwrap();
        networks.close().await.unwrap();
    });
}
