//! Connecting and disconnecting containers, seen by `ip` and by traffic.

mod support;

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, UdpSocket};
use std::task::Poll;
use std::time::{Duration, Instant};

use support::{Container, config, eventually, links, on_a_host, open, run, source_seen};
use tenantry_network::Error;

#[test]
fn a_container_gets_loopback_an_address_and_a_default_route() {
    on_a_host(async || {
        let network = open().await;
        let (one, two) = (Container::new(), Container::new());
        let a = network.connect("one", one.pid, None).await.unwrap();
        let b = network.connect("two", two.pid, None).await.unwrap();
        assert_eq!(a.address, Ipv4Addr::new(10, 213, 0, 2));
        assert_eq!(b.address, Ipv4Addr::new(10, 213, 0, 3));

        let inside = one.run("ip -o addr show");
        assert!(inside.contains("127.0.0.1/8"), "{inside}");
        assert!(inside.contains("eth0    inet 10.213.0.2/24 brd 10.213.0.255"), "{inside}");
        assert!(!inside.contains("fe80"), "{inside}");
        assert!(one.run("ip link show eth0").contains(&format!("link/ether {}", a.mac)));
        let route = one.run("ip route show default");
        assert!(route.starts_with("default via 10.213.0.1 dev eth0"), "{route}");
        let port = run(&format!("ip -d link show {}", a.host_interface));
        assert!(port.contains("master tnbr0") && port.contains("hairpin on"), "{port}");
        assert!(port.contains("alias tenantry tnbr0 one"), "{port}");

        assert_eq!(source_seen(&one, &two, b.address), a.address);
        assert_eq!(source_seen(&two, &one, a.address), b.address);
        one.inside(|| {
            let own = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            own.send_to(b"me", own.local_addr().unwrap()).unwrap();
            assert_eq!(own.recv_from(&mut [0; 8]).unwrap().1, own.local_addr().unwrap());
        });
        network.close().await.unwrap();
    });
}

#[test]
fn what_leaves_the_bridge_has_the_hosts_address() {
    on_a_host(async || {
        let network = open().await;
        let (container, outside) = (Container::new(), Container::new());
        run(&format!("ip link add up0 type veth peer name eth0 netns {}", outside.pid));
        run("ip addr add 192.0.2.1/24 dev up0");
        run("ip link set up0 up");
        outside.run("ip addr add 192.0.2.2/24 dev eth0");
        outside.run("ip link set eth0 up");
        let e = network.connect("one", container.pid, None).await.unwrap();
        let seen = source_seen(&container, &outside, Ipv4Addr::new(192, 0, 2, 2));
        assert_eq!(seen, Ipv4Addr::new(192, 0, 2, 1));
        network.disconnect(&e).await.unwrap();
        network.close().await.unwrap();
        run("ip link del up0");
    });
}

#[test]
fn twenty_containers_connect_at_once() {
    on_a_host(async || {
        let network = std::sync::Arc::new(open().await);
        let containers: Vec<_> = (0..20).map(|_| Container::new()).collect();
        // The first is slower: code pages, kernel caches.
        let alone = Container::new();
        network.connect("warm", alone.pid, None).await.unwrap();
        let begin = Instant::now();
        let connects: Vec<_> = containers
            .iter()
            .enumerate()
            .map(|(i, c)| {
                let (network, pid) = (network.clone(), c.pid);
                tokio::spawn(async move { network.connect(&format!("c{i}"), pid, None).await })
            })
            .collect();
        let mut endpoints = Vec::new();
        for connect in connects {
            endpoints.push(connect.await.unwrap().unwrap());
        }
        println!("20 connects at once: {:?}", begin.elapsed());
        let mut addresses: Vec<_> = endpoints.iter().map(|e| e.address).collect();
        addresses.sort();
        addresses.dedup();
        assert_eq!(addresses.len(), 20);
        assert_eq!(
            source_seen(&containers[0], &containers[19], endpoints[19].address),
            endpoints[0].address
        );
        assert_eq!(network.counters().await.unwrap().len(), 21);
        for e in &endpoints {
            network.disconnect(e).await.unwrap();
        }
        drop(containers);
        network.close().await.unwrap();
    });
}

#[test]
fn thirty_containers_come_and_go_and_it_is_timed() {
    on_a_host(async || {
        let network = open().await;
        let (mut connects, mut disconnects) = (Vec::new(), Vec::new());
        for i in 0..30 {
            let container = Container::new();
            let begin = Instant::now();
            let e = network.connect(&format!("c{i}"), container.pid, None).await.unwrap();
            connects.push(begin.elapsed());
            drop(container);
            let begin = Instant::now();
            network.disconnect(&e).await.unwrap();
            disconnects.push(begin.elapsed());
        }
        let median = |times: &mut Vec<Duration>| {
            times.sort();
            times[times.len() / 2]
        };
        let (connect, disconnect) = (median(&mut connects), median(&mut disconnects));
        println!("connect {connect:?} (best {:?}), disconnect {disconnect:?}", connects[0]);
        let begin = Instant::now();
        network.close().await.unwrap();
        println!("close {:?}", begin.elapsed());
    });
}

#[test]
fn a_failed_connect_leaves_nothing_and_frees_its_address() {
    on_a_host(async || {
        let network = open().await;
        let before = links();
        let next = Some(Ipv4Addr::new(10, 213, 0, 2));

        let gone = network.connect("c", 4_100_000, next).await.unwrap_err();
        assert_eq!(gone.to_string(), "open /proc/4100000/ns/net: errno 2");

        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let host = network.connect("c", own, next).await.unwrap_err();
        assert!(matches!(host, Error::HostNamespace { .. }), "{host}");

        let outside = network.connect("c", own, Some(Ipv4Addr::new(10, 213, 0, 1))).await;
        assert!(outside.is_err());

        // Fails at the creation: the name is taken inside.
        let container = Container::new();
        container.run("ip link add eth0 type bridge");
        let taken = network.connect("c", container.pid, next).await.unwrap_err();
        assert!(taken.to_string().starts_with("create veth veth"), "{taken}");
        assert_eq!(taken.errno(), Some(17));

        // Fails at the last step: there is a default route already.
        let container = Container::new();
        container.run("ip link add d0 type bridge");
        container.run("ip link set d0 up");
        container.run("ip route add default dev d0");
        let route = network.connect("c", container.pid, next).await.unwrap_err();
        assert!(
            route.to_string().starts_with("add route default via 10.213.0.1: errno 17"),
            "{route}"
        );
        assert_eq!(container.inside(links), ["d0", "lo"]);

        assert_eq!(links(), before);
        let container = Container::new();
        let e = network.connect("c", container.pid, next).await.unwrap();
        assert_eq!(Some(e.address), next);
        let again = network.connect("c", Container::new().pid, next).await.unwrap_err();
        assert!(!again.to_string().is_empty());
        network.close().await.unwrap();
    });
}

#[test]
fn a_connect_that_nobody_waits_for_is_undone() {
    on_a_host(async || {
        let network = open().await;
        let container = Container::new();
        let wanted = Some(Ipv4Addr::new(10, 213, 0, 9));
        {
            let mut abandoned = Box::pin(network.connect("c", container.pid, wanted));
            // Polled once: the worker has begun.
            poll_fn(|context| {
                assert!(abandoned.as_mut().poll(context).is_pending());
                Poll::Ready(())
            })
            .await;
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        eventually("the veth is gone", || links() == ["lo", "tnbr0"]);
        let again = network.connect("c", container.pid, wanted).await.unwrap();
        assert_eq!(Some(again.address), wanted);
        network.close().await.unwrap();
    });
}

#[test]
fn a_veth_goes_with_its_namespace_or_soon_after_the_disconnect() {
    on_a_host(async || {
        let network = open().await;
        let (ended, lingering) = (Container::new(), Container::new());
        let a = network.connect("ended", ended.pid, None).await.unwrap();
        let b = network.connect("lingering", lingering.pid, None).await.unwrap();
        drop(ended);
        network.disconnect(&a).await.unwrap();
        network.disconnect(&b).await.unwrap();
        eventually("both veths are gone", || links() == ["lo", "tnbr0"]);
        assert_eq!(lingering.inside(links), ["lo"]);
        // The namespace of a restarted container is a new one; so is its veth.
        let again = Container::new();
        let c = network.connect("ended", again.pid, Some(a.address)).await.unwrap();
        assert_ne!(c.host_interface, a.host_interface);
        // Disconnecting what is long gone harms nobody.
        network.disconnect(&b).await.unwrap();
        network.close().await.unwrap();
    });
}

#[test]
fn counters_are_the_containers_own_view() {
    on_a_host(async || {
        let network = open().await;
        let (one, two) = (Container::new(), Container::new());
        let a = network.connect("one", one.pid, None).await.unwrap();
        let b = network.connect("two", two.pid, None).await.unwrap();
        for _ in 0..5 {
            source_seen(&one, &two, b.address);
        }
        for (container, endpoint) in [(&one, &a), (&two, &b)] {
            let inside = container.run("cat /proc/thread-self/net/dev");
            let counters = network.counters().await.unwrap()[&endpoint.host_interface];
            let line = inside.lines().find(|l| l.trim().starts_with("eth0:")).unwrap();
            let n: Vec<u64> = line.split_whitespace().skip(1).map(|w| w.parse().unwrap()).collect();
            assert_eq!(
                (counters.rx_bytes, counters.rx_packets, counters.tx_bytes, counters.tx_packets),
                (n[0], n[1], n[8], n[9]),
                "{inside}"
            );
            assert!(counters.tx_packets > 0 && counters.rx_packets > 0);
        }
        let counters = network.counters().await.unwrap();
        assert!(counters[&a.host_interface].tx_packets >= 5);
        network.close().await.unwrap();
    });
}

#[test]
fn a_full_subnet_says_so_and_has_room_again_after_a_disconnect() {
    on_a_host(async || {
        let mut small = config();
        small.subnet = "10.213.0.0/30".parse().unwrap();
        let network = tenantry_network::Network::open(small).await.unwrap();
        let (one, two) = (Container::new(), Container::new());
        let a = network.connect("one", one.pid, None).await.unwrap();
        let full = network.connect("two", two.pid, None).await.unwrap_err();
        assert_eq!(full.to_string(), "no free address in 10.213.0.0/30: all 1 are taken");
        network.disconnect(&a).await.unwrap();
        network.connect("two", two.pid, None).await.unwrap();
        network.close().await.unwrap();
    });
}
