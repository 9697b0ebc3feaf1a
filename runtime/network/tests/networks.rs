//! Networks that users make: kept on disk, made again, apart from each other, gone.

mod support;

use std::net::Ipv4Addr;
use std::path::Path;

use support::{Container, config, links, on_a_host, run};
use tenantry_network::{
    Attachment, CreateNetwork, Endpoint, Error, Networks, NetworksConfig, Place,
};

fn networks_config(dir: &Path, max: usize) -> NetworksConfig {
    NetworksConfig { default: config(), dir: dir.to_owned(), max, name_servers: vec![] }
}

async fn open(dir: &Path) -> Networks {
    Networks::open(networks_config(dir, 8)).await.unwrap()
}

fn wanted(name: &str, subnet: &str) -> CreateNetwork {
    CreateNetwork { name: name.into(), subnet: subnet.parse().ok(), ..CreateNetwork::default() }
}

async fn connect(networks: &Networks, container: &Container, network: &str, eth: u8) -> Endpoint {
    let place = Place { interface: format!("eth{eth}"), default_route: eth == 0 };
    let id = "0123456789abcdef";
    let wish = Attachment { container: id, pid: container.pid, network, address: None, place };
    networks.connect(&wish).await.unwrap()
}

/// Whether a datagram comes through.
fn reaches(from: &Container, to: &Container, address: Ipv4Addr) -> bool {
    let (ready, bound) = std::sync::mpsc::channel();
    let answer = to.start(move || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_millis(800))).unwrap();
        ready.send(socket.local_addr().unwrap().port()).unwrap();
        socket.recv_from(&mut [0; 16]).is_ok()
    });
    let port = bound.recv().unwrap();
    from.inside(move || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        // Where no route leads there it is refused at once.
        let _ = socket.send_to(b"hello", (address, port));
    });
    answer.recv().unwrap()
}

#[test]
fn a_network_is_kept_and_made_again_and_goes_without_a_trace() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        let names: Vec<String> = networks.list().into_iter().map(|n| n.name).collect();
        assert_eq!(names, ["bridge", "host", "none"]);
        let made = networks.create(wanted("web", "10.77.0.0/24")).await.unwrap();
        assert_eq!(networks.find("web").unwrap(), made);
        assert_eq!(networks.find(&made.id[..10]).unwrap(), made);
        let bridge = made.bridge.clone().unwrap();
        assert!(links().contains(&bridge));
        // Off the host with the agent, and whole again with the next.
        networks.close().await.unwrap();
        assert_eq!(links(), ["lo"]);
        let networks = open(dir.path()).await;
        assert_eq!(networks.find("web").unwrap(), made);
        assert!(links().contains(&bridge));
        // An agent that was killed: the bridge is there, and adopted.
        drop(networks);
        let networks = open(dir.path()).await;
        networks.remove("web").await.unwrap();
        assert!(!links().contains(&bridge));
        assert!(!run("nft list ruleset").contains(&bridge));
        assert!(matches!(networks.find("web"), Err(Error::NotFound { .. })));
        networks.close().await.unwrap();
        assert!(open(dir.path()).await.list().len() == 3);
        open(dir.path()).await.close().await.unwrap();
    });
}

#[test]
fn what_cannot_be_granted_is_refused_and_leaves_nothing() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = Networks::open(networks_config(dir.path(), 2)).await.unwrap();
        networks.create(wanted("a", "10.77.0.0/24")).await.unwrap();
        let refused = async |request| networks.create(request).await.unwrap_err().to_string();
        assert_eq!(
            refused(wanted("a", "10.78.0.0/24")).await,
            "network with name a already exists"
        );
        let overlap = refused(wanted("b", "10.77.0.0/16")).await;
        assert!(overlap.starts_with("Pool overlaps") && overlap.contains("network a"), "{overlap}");
        let overlap = refused(wanted("b", "10.213.0.0/25")).await;
        assert!(overlap.contains("network bridge"), "{overlap}");
        let foreign = CreateNetwork { bridge: Some("lo".into()), ..wanted("b", "10.79.0.0/24") };
        assert!(refused(foreign).await.contains("exists and is not this network's bridge"));
        assert_eq!(networks.list().len(), 4);
        let free = networks.create(wanted("b", "")).await.unwrap();
        assert_ne!(free.subnet, networks.find("bridge").unwrap().subnet);
        assert!(refused(wanted("c", "")).await.contains("there are 2 networks"));
        assert!(matches!(networks.remove("bridge").await, Err(Error::Predefined { .. })));
        networks.close().await.unwrap();
    });
}

#[test]
fn networks_are_apart_and_an_internal_one_leads_nowhere() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        networks.create(wanted("left", "10.77.1.0/24")).await.unwrap();
        networks.create(wanted("right", "10.77.2.0/24")).await.unwrap();
        let vault = CreateNetwork { internal: true, ..wanted("vault", "10.77.3.0/24") };
        networks.create(vault).await.unwrap();
        let [l1, l2, r, v1, v2, d] = std::array::from_fn(|_| Container::new());
        let a = connect(&networks, &l1, "left", 0).await;
        connect(&networks, &l2, "left", 0).await;
        connect(&networks, &r, "right", 0).await;
        connect(&networks, &v1, "vault", 0).await;
        let hidden = connect(&networks, &v2, "vault", 0).await;
        let plain = connect(&networks, &d, "bridge", 0).await;
        assert!(reaches(&l2, &l1, a.address));
        assert!(!reaches(&r, &l1, a.address) && !reaches(&d, &l1, a.address));
        assert!(!reaches(&l1, &d, plain.address));
        assert!(reaches(&v1, &v2, hidden.address));
        assert!(!hidden.default_route && !reaches(&l1, &v2, hidden.address));
        assert!(!v1.run("ip route").contains("default"));

        // On both it reaches both; taken off the first, the way out is the second's.
        let second = connect(&networks, &r, "left", 1).await;
        assert!(reaches(&r, &l1, a.address));
        assert!(matches!(networks.remove("left").await, Err(Error::InUse { .. })));
        networks.unplug("r", &second).await.unwrap();
        assert!(!r.run("ip -o link").contains("eth1"));
        assert!(!reaches(&r, &l1, a.address));
        networks.close().await.unwrap();
    });
}
