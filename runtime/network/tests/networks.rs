//! Networks that users make: kept on disk, made again, apart from each other, gone.

mod support;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::{Container, config, links, on_a_host, run};
use tenantry_network::{
    Asked, Attachment, CreateNetwork, Endpoint, Error, Networks, NetworksConfig, Place, PortWish,
    SixWish,
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
    let wish =
        Attachment { container: id, pid: container.pid, network, asked: Asked::default(), place };
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
fn links_of_a_network_take_packets_of_its_size() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        let small = CreateNetwork { mtu: Some(1300), ..wanted("small", "10.77.1.0/24") };
        let bridge = networks.create(small).await.unwrap().bridge.unwrap();
        let container = Container::new();
        let made = connect(&networks, &container, "small", 0).await;
        for name in [&bridge, &made.host_interface] {
            let shown = run(&format!("ip -o link show {name}"));
            assert!(shown.contains("mtu 1300 "), "{shown}");
        }
        let inside = container.run("ip -o link show eth0");
        assert!(inside.contains("mtu 1300 "), "{inside}");
        // The next agent's links, too.
        drop(networks);
        let networks = open(dir.path()).await;
        networks.adopt(&made);
        let other = Container::new();
        connect(&networks, &other, "small", 0).await;
        assert!(other.run("ip -o link show eth0").contains("mtu 1300 "));
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

/// Answers everybody on port 80 with the address that they come from, until it is dropped.
struct Greeter(Arc<AtomicBool>, Option<std::thread::JoinHandle<()>>);

impl Greeter {
    fn start(container: &Container) -> Greeter {
        let listener = container.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 80)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((mut stream, from)) => {
                        let from = from.ip().to_canonical().to_string();
                        let _ = stream.write_all(from.as_bytes());
                    }
                    Err(_) => std::thread::sleep(Duration::from_millis(2)),
                }
            }
        });
        Greeter(stop, Some(thread))
    }
}

impl Drop for Greeter {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        let _ = self.1.take().map(std::thread::JoinHandle::join);
    }
}

fn greeting(address: &str, port: u16) -> io::Result<String> {
    let to = (address.parse::<IpAddr>().unwrap(), port).into();
    let patience = Duration::from_millis(1500);
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

fn greeting_of(from: &Container, address: &str, port: u16) -> Option<String> {
    let address = address.to_owned();
    from.inside(move || greeting(&address, port).ok())
}

fn with_six(name: &str, subnet: &str, six: &str) -> CreateNetwork {
    let six = Some(SixWish { subnet: six.parse().ok(), gateway: None });
    CreateNetwork { six, ..wanted(name, subnet) }
}

fn attachment<'a>(container: &Container, network: &'a str, six: &str) -> Attachment<'a> {
    let (pid, place) = (container.pid, Place::default());
    let asked = Asked { six: six.parse().ok(), ..Asked::default() };
    Attachment { container: "0123456789abcdef", pid, network, asked, place }
}

fn forwarding6() -> String {
    run("cat /proc/sys/net/ipv6/conf/all/forwarding").trim().to_owned()
}

#[test]
fn ipv6_addresses_are_given_out_and_forwarded_and_the_host_is_as_before() {
    on_a_host(async || {
        let before = forwarding6();
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        assert_eq!(forwarding6(), before, "nobody has asked for IPv6 yet");
        let made = networks.create(with_six("both", "10.77.1.0/24", "fd00:77::/64")).await.unwrap();
        let drawn = networks.create(with_six("drawn", "10.77.2.0/24", "")).await.unwrap();
        let drawn = drawn.shape.six.unwrap().subnet.to_string();
        assert!(drawn.starts_with("fd") && drawn.ends_with("/64"), "{drawn}");
        assert_eq!(forwarding6(), "1");
        let twice = networks.create(with_six("twice", "10.77.3.0/24", "fd00:77::/80")).await;
        let twice = twice.unwrap_err().to_string();
        assert!(twice.contains("fd00:77::/80 and network both"), "{twice}");

        let [a, b, c] = std::array::from_fn(|_| Container::new());
        let first = connect(&networks, &a, "both", 0).await;
        let last = first.address.octets()[3];
        assert_eq!(first.six.unwrap().address.to_string(), format!("fd00:77::{last}"));
        assert!(a.run("ip -6 route").contains("default via fd00:77::1"));
        let fixed = networks.connect(&attachment(&b, "both", "fd00:77::99")).await.unwrap();
        assert_eq!(fixed.six.unwrap().address.to_string(), "fd00:77::99");
        let refused = async |network: &str, six: &str| {
            networks.connect(&attachment(&c, network, six)).await.unwrap_err().to_string()
        };
        assert_eq!(refused("both", "fd00:77::99").await, "address fd00:77::99 is taken");
        let outside = refused("both", "fd00:78::2").await;
        assert!(outside.contains("is not one a container in fd00:77::/64 can have"), "{outside}");
        let none = refused("bridge", "fd00:77::7").await;
        assert_eq!(none, "network bridge has no IPv6, and fd00:77::7 needs it");

        // The next agent knows what is given out, and what the switch was.
        drop(networks);
        let networks = open(dir.path()).await;
        networks.adopt(&fixed);
        assert_eq!(networks.find("both").unwrap(), made);
        let taken = networks.connect(&attachment(&c, "both", "fd00:77::99")).await.unwrap_err();
        assert!(matches!(taken, Error::AddressTaken { .. }), "{taken}");
        networks.disconnect("b", &fixed).await.unwrap();
        for name in ["both", "drawn"] {
            assert_eq!(forwarding6(), "1", "another network needs it");
            networks.remove(name).await.unwrap();
        }
        assert_eq!(forwarding6(), before);
        assert!(!run("nft list ruleset").contains("ip6"));
        networks.close().await.unwrap();
    });
}

#[test]
fn where_new_links_have_no_ipv6_those_that_need_it_have() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        let off = || std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        off();
        networks.create(with_six("both", "10.77.1.0/24", "fd00:77::/64")).await.unwrap();
        networks.create(wanted("four", "10.77.2.0/24")).await.unwrap();
        let [a, b] = std::array::from_fn(|_| Container::new());
        a.inside(off);
        b.inside(off);
        let web = connect(&networks, &a, "both", 0).await;
        connect(&networks, &b, "both", 0).await;
        let _web = Greeter::start(&a);
        let own = web.six.unwrap().address.to_string();
        assert!(greeting_of(&b, &own, 80).is_some() && greeting(&own, 80).is_ok());
        connect(&networks, &b, "four", 1).await;
        assert_eq!(b.run("cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6").trim(), "1");
        networks.close().await.unwrap();
    });
}

#[test]
fn ipv6_leads_out_and_published_ports_lead_in_and_networks_are_apart() {
    on_a_host(async || {
        let dir = tempfile::tempdir().unwrap();
        let networks = open(dir.path()).await;
        networks.create(with_six("both", "10.77.1.0/24", "fd00:77::/64")).await.unwrap();
        networks.create(with_six("other", "10.77.2.0/24", "fd00:78::/64")).await.unwrap();
        let vault =
            CreateNetwork { internal: true, ..with_six("vault", "10.77.3.0/24", "fd00:79::/64") };
        networks.create(vault).await.unwrap();
        let [a, near, far, inner] = std::array::from_fn(|_| Container::new());
        let mut web = connect(&networks, &a, "both", 0).await;
        networks.connect(&attachment(&near, "both", "fd00:77::99")).await.unwrap();
        connect(&networks, &far, "other", 0).await;
        connect(&networks, &inner, "vault", 0).await;
        let _web = Greeter::start(&a);
        let own = web.six.unwrap().address.to_string();
        assert_eq!(greeting_of(&near, &own, 80).as_deref(), Some("fd00:77::99"));
        assert_eq!(greeting_of(&far, &own, 80), None, "networks are apart");
        assert_eq!(greeting_of(&inner, &own, 80), None, "an internal one leads nowhere");

        let wish = PortWish { port: "80".parse().unwrap(), host_address: None, host_ports: None };
        networks.publish(&mut web, &[wish]).await.unwrap();
        let port = web.published[0].host_port;
        let at: Vec<String> =
            web.published.iter().map(|one| one.host_address.to_string()).collect();
        assert_eq!(at, ["0.0.0.0", "::"]);
        let home = "fd00:77::1";
        // Before the host itself has spoken to the container and knows its link address.
        for (name, from) in [("far", &far), ("near", &near), ("itself", &a)] {
            assert!(greeting_of(from, home, port).is_some(), "{name}");
        }
        for address in [home, "127.0.0.1", "10.77.1.1"] {
            greeting(address, port).unwrap_or_else(|e| panic!("{address}: {e}"));
        }
        // No kernel leads from ::1 to another link: clients must not hang there.
        let refused = greeting("::1", port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        // Another machine, and the way out to it.
        let machine = Container::new();
        run(&format!("ip link add up0 type veth peer name up1 netns {}", machine.pid));
        run("ip address add fd00:99::1/64 dev up0 nodad");
        run("ip link set up0 up");
        machine.run("ip address add fd00:99::2/64 dev up1 nodad");
        machine.run("ip link set up1 up");
        let machines = Greeter::start(&machine);
        assert_eq!(greeting_of(&machine, "fd00:99::1", port).as_deref(), Some("fd00:99::2"));
        assert_eq!(greeting_of(&a, "fd00:99::2", 80).as_deref(), Some("fd00:99::1"));
        assert_eq!(greeting_of(&inner, "fd00:99::2", 80), None);
        machine.run("ip route add fd00:77::/64 via fd00:99::1");
        assert_eq!(greeting_of(&machine, &own, 80), None, "by the port alone");

        // The next agent leads there, too.
        drop(networks);
        let networks = open(dir.path()).await;
        networks.adopt(&web);
        assert!(greeting_of(&machine, "fd00:99::1", port).is_some());
        networks.disconnect("a", &web).await.unwrap();
        assert!(greeting(home, port).is_err());
        drop(machines);
        run("ip link delete up0");
        networks.close().await.unwrap();
    });
}
