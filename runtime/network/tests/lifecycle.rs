//! Opening, adopting and closing a network; other tools' things stay untouched.

mod support;

use std::net::Ipv4Addr;

use support::{
    BRIDGE, Container, TABLE, config, links, on_a_host, open, read_ip_forward, run, source_seen,
};
use tenantry_network::{Bandwidth, Error, Network, default_candidates, pick_subnet};

#[test]
fn opening_makes_bridge_table_and_forwarding_and_closing_removes_them() {
    on_a_host(async || {
        run("nft add table ip others");
        run("nft add chain ip others c");
        run("nft add rule ip others c counter drop");
        let others = run("nft list table ip others");

        let network = open().await;
        let address = run(&format!("ip -o addr show {BRIDGE}"));
        assert!(address.contains("10.213.0.1/24") && !address.contains("inet6"), "{address}");
        assert_eq!(read_ip_forward(), "1");
        let table = run(&format!("nft list table ip {TABLE}"));
        for rule in [
            "ip saddr 10.213.0.0/24 oifname != \"tnbr0\" masquerade",
            "iifname \"tnbr0\" accept",
            "oifname \"tnbr0\" accept",
        ] {
            assert!(table.contains(rule), "{table}");
        }
        network.close().await.unwrap();

        assert_eq!(links(), ["lo"]);
        assert_eq!(read_ip_forward(), "0");
        assert_eq!(run("nft list ruleset"), others);
        // Closing what is closed harms nothing.
        network.close().await.unwrap();
        run("nft delete table ip others");
    });
}

#[test]
fn forwarding_that_was_on_stays_on() {
    on_a_host(async || {
        support::write_ip_forward("1");
        open().await.close().await.unwrap();
        assert_eq!(read_ip_forward(), "1");
        support::write_ip_forward("0");
    });
}

#[test]
fn an_agent_that_restarts_adopts_bridge_endpoints_and_what_to_restore() {
    on_a_host(async || {
        let container = Container::new();
        let first = open().await;
        let e = first.connect("one", container.pid, None).await.unwrap();
        let bandwidth = Bandwidth { egress_bits_per_s: Some(50_000_000), ..Bandwidth::default() };
        first.set_bandwidth(&e, &bandwidth).await.unwrap();
        let index =
            || run(&format!("ip -o link show {BRIDGE}")).split(':').next().unwrap().to_owned();
        let former = index();
        drop(first);

        let second = open().await;
        assert_eq!(index(), former, "the same bridge");
        second.adopt(&e);
        second.adopt(&e);
        let other = Container::new();
        let f = second.connect("two", other.pid, None).await.unwrap();
        assert_ne!(f.address, e.address);
        assert_eq!(source_seen(&container, &other, f.address), e.address);
        let table = run(&format!("nft list table ip {TABLE}"));
        assert_eq!(table.matches("masquerade").count(), 1, "{table}");
        // What the first agent set is still there, and can be taken away.
        let applied = second.set_bandwidth(&e, &Bandwidth::default()).await.unwrap();
        assert!(applied.iter().all(|a| a.read_back == "none"), "{applied:?}");
        second.close().await.unwrap();
        assert_eq!(read_ip_forward(), "0");
    });
}

#[test]
fn an_ifb_whose_veth_died_while_no_agent_ran_is_removed_by_the_next() {
    on_a_host(async || {
        let container = Container::new();
        let first = open().await;
        let e = first.connect("one", container.pid, None).await.unwrap();
        let bandwidth = Bandwidth { egress_bits_per_s: Some(50_000_000), ..Bandwidth::default() };
        first.set_bandwidth(&e, &bandwidth).await.unwrap();
        drop((first, container));
        support::eventually("the veth is gone", || links().len() == 3);
        assert!(links()[0].starts_with("ifb"), "{:?}", links());
        let second = open().await;
        assert_eq!(links(), ["lo", BRIDGE]);
        second.close().await.unwrap();
    });
}

#[test]
fn a_foreign_link_of_that_name_is_an_error_and_stays() {
    on_a_host(async || {
        let found_instead = async || match Network::open(config()).await {
            Err(e @ Error::ForeignLink { .. }) => e.to_string(),
            other => panic!("{other:?}"),
        };
        run(&format!("ip link add {BRIDGE} type bridge"));
        assert_eq!(
            found_instead().await,
            "link \"tnbr0\" exists and is not this network's bridge: a bridge without an IPv4 \
             address; wanted a bridge with 10.213.0.1/24"
        );
        run(&format!("ip link del {BRIDGE}"));

        run(&format!("ip link add {BRIDGE} type bridge"));
        run(&format!("ip addr add 10.99.0.1/24 dev {BRIDGE}"));
        let message = found_instead().await;
        assert!(message.contains("a bridge with 10.99.0.1/24; wanted"), "{message}");
        assert!(run(&format!("ip -o addr show {BRIDGE}")).contains("10.99.0.1/24"));
        run(&format!("ip link del {BRIDGE}"));
    });
}

#[test]
fn a_subnet_is_picked_that_the_host_does_not_use() {
    on_a_host(async || {
        let pick = async || pick_subnet(BRIDGE, &default_candidates()).await.unwrap().to_string();
        assert_eq!(pick().await, "10.213.0.0/16");
        run("ip link add d0 type bridge");
        run("ip addr add 10.213.7.1/24 dev d0");
        run("ip link set d0 up");
        assert_eq!(pick().await, "10.214.0.0/16");
        run("ip route add 10.0.0.0/8 dev d0");
        assert_eq!(pick().await, "172.31.100.0/24");
        run("ip route add default dev d0");
        assert_eq!(pick().await, "172.31.100.0/24");
        run("ip link del d0");

        let network = open().await;
        assert_eq!(pick().await, "10.213.0.0/24", "a bridge that is there keeps its subnet");
        network.close().await.unwrap();
    });
}

#[test]
fn two_networks_live_side_by_side() {
    on_a_host(async || {
        let mut other = config();
        other.bridge = "tnbr1".into();
        other.table = "tntest1".into();
        other.subnet = "10.214.0.0/24".parse().unwrap();
        let (a, b) = (open().await, Network::open(other).await.unwrap());
        let (one, two) = (Container::new(), Container::new());
        let e = a.connect("one", one.pid, None).await.unwrap();
        let f = b.connect("two", two.pid, None).await.unwrap();
        assert_eq!(f.address, Ipv4Addr::new(10, 214, 0, 2));
        assert_eq!(a.counters().await.unwrap().into_keys().collect::<Vec<_>>(), [e.host_interface]);
        b.close().await.unwrap();
        assert!(run(&format!("nft list table ip {TABLE}")).contains("masquerade"));
        assert_eq!(links().iter().filter(|l| l.starts_with("veth")).count(), 1);
        a.close().await.unwrap();
    });
}
