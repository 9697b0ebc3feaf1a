//! Our nftables table as the text that `nft -f` reads. Pure.
//!
//! Owns what the table says: masquerade for what leaves the bridge, what is forwarded from
//! and to it, the last class for what some containers send. Text and not JSON, because nft
//! 1.0.6 (Debian 12) takes maps to an address and a port in text alone. Every value in it is
//! typed (a checked name, an address, a number), so that nothing can end a word early.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use crate::config::NetworkConfig;
use crate::endpoint::Target;
use crate::ports::Published;

/// Published ports of all addresses of the host, and of one.
const ANYWHERE: &str = "published";
const AT: &str = "published_at";
/// The set of the addresses whose packets go last.
pub(crate) const BULK: &str = "bulk";
/// `TC_PRIO_BULK` as nft writes it.
const BULK_PRIORITY: &str = "0:2";

/// A table is of one family: a network with IPv6 has two of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Four,
    Six,
}

impl Family {
    fn word(self) -> &'static str {
        match self {
            Family::Four => "ip",
            Family::Six => "ip6",
        }
    }

    fn address(self) -> &'static str {
        match self {
            Family::Four => "ipv4_addr",
            Family::Six => "ipv6_addr",
        }
    }

    fn of(address: IpAddr) -> Family {
        if address.is_ipv4() { Family::Four } else { Family::Six }
    }
}

fn families(config: &NetworkConfig) -> Vec<(Family, String)> {
    let six = config.shape.six.as_ref().map(|six| (Family::Six, six.subnet.to_string()));
    [(Family::Four, config.subnet.to_string())].into_iter().chain(six).collect()
}

/// Replaces the table as a whole. "Add, then delete" removes it whether or not it was there.
pub(crate) fn render_install(config: &NetworkConfig) -> String {
    let mut script = render_remove(config);
    for (family, subnet) in families(config) {
        install_family(&mut script, config, family, &subnet);
    }
    script
}

fn install_family(script: &mut String, config: &NetworkConfig, family: Family, subnet: &str) {
    let NetworkConfig { bridge, table, shape, .. } = config;
    let ip = family.word();
    let mut line = |text: std::fmt::Arguments<'_>| {
        writeln!(script, "{text}").expect("a string takes everything");
    };
    line(format_args!("add table {ip} {table}"));
    if family == Family::Four {
        line(format_args!("add set {ip} {table} {BULK} {{ type ipv4_addr ; }}"));
    }
    let hooks =
        [("postrouting", "nat", "postrouting", "100"), ("forward", "filter", "forward", "0")];
    for (chain, kind, hook, priority) in hooks {
        line(format_args!(
            "add chain {ip} {table} {chain} {{ type {kind} hook {hook} priority {priority} ; policy accept ; }}"
        ));
    }
    let mut rule =
        |chain: &str, text: &str| line(format_args!("add rule {ip} {table} {chain} {text}"));
    if !shape.internal {
        rule("postrouting", &format!("{ip} saddr {subnet} oifname != \"{bridge}\" masquerade"));
    }
    if family == Family::Four {
        // Before the verdicts: after one the rest of the chain is not asked.
        rule("forward", &format!("ip saddr @{BULK} meta priority set {BULK_PRIORITY}"));
    }
    let (from, to) = (format!("iifname \"{bridge}\""), format!("oifname \"{bridge}\""));
    let (not_from, not_to) =
        (format!("iifname != \"{bridge}\""), format!("oifname != \"{bridge}\""));
    if shape.internal {
        rule("forward", &format!("{from} {not_to} drop"));
        rule("forward", &format!("{to} {not_from} drop"));
    } else if let Some(default) = &shape.apart_from {
        // The default network's own table lets everything in.
        rule(
            "forward",
            &format!("{from} oifname \"{default}\" ct state new ct status & dnat == 0 drop"),
        );
        rule("forward", &format!("{to} {not_from} ct state established,related accept"));
        rule("forward", &format!("{to} {not_from} ct status dnat accept"));
        rule("forward", &format!("{to} {not_from} drop"));
    }
    rule("forward", &format!("{from} accept"));
    rule("forward", &format!("{to} accept"));
}

/// What published ports need, before the first of them. The host's own addresses are what
/// the routing table calls local; nothing else is looked at.
pub(crate) fn render_ports(config: &NetworkConfig) -> String {
    let mut script = String::new();
    for (family, subnet) in families(config) {
        ports_of_family(&mut script, config, family, &subnet);
    }
    script
}

fn ports_of_family(script: &mut String, config: &NetworkConfig, family: Family, subnet: &str) {
    let NetworkConfig { bridge, table, .. } = config;
    let (ip, address) = (family.word(), family.address());
    let to = format!("{address} . inet_service");
    let port = "meta l4proto . th dport";
    let mut line = |text: String| {
        writeln!(script, "add {text}").expect("a string takes everything");
    };
    line(format!("map {ip} {table} {ANYWHERE} {{ type inet_proto . inet_service : {to} ; }}"));
    line(format!(
        "map {ip} {table} {AT} {{ type {address} . inet_proto . inet_service : {to} ; }}"
    ));
    let hooks = [
        ("guard", "filter", "prerouting", "-300"),
        ("prerouting", "nat", "prerouting", "-100"),
        ("output", "nat", "output", "-100"),
    ];
    for (chain, kind, hook, priority) in hooks {
        line(format!(
            "chain {ip} {table} {chain} {{ type {kind} hook {hook} priority {priority} ; policy accept ; }}"
        ));
    }
    let from = match family {
        Family::Four => {
            // The bridge routes 127.0.0.0/8 for answers; no container may use that.
            line(format!("rule ip {table} guard iifname \"{bridge}\" ip daddr 127.0.0.0/8 drop"));
            // Who is on the same bridge would answer directly, and 127.0.0.1 is the answerer
            // itself.
            format!("{{ 127.0.0.0/8, {subnet} }}")
        }
        Family::Six => {
            // No kernel routes ::1 to another link, whatever is set: who tries is to be
            // refused at once, so that clients go on to 127.0.0.1.
            line(format!("rule ip6 {table} output ip6 daddr ::1 return"));
            subnet.to_owned()
        }
    };
    for chain in ["prerouting", "output"] {
        let local = format!("rule {ip} {table} {chain} fib daddr type local dnat {ip} to");
        line(format!("{local} {ip} daddr . {port} map @{AT}"));
        line(format!("{local} {port} map @{ANYWHERE}"));
    }
    line(format!(
        "rule {ip} {table} postrouting oifname \"{bridge}\" {ip} saddr {from} \
         ct status dnat masquerade"
    ));
}

/// Each leads to its own port of this container. One of an address of a family that the
/// container has none of leads nowhere, and is left out.
pub(crate) fn render_publish(table: &str, target: Target, all: &[Published]) -> String {
    let mut script = String::new();
    for (one, to) in led(target, all) {
        let (ip, map, key) = element(one);
        let number = one.port.number;
        writeln!(script, "add element {ip} {table} {map} {{ {key} : {to} . {number} }}")
            .expect("a string takes everything");
    }
    script
}

/// Whoever they lead to.
pub(crate) fn render_unpublish(table: &str, target: Target, all: &[Published]) -> String {
    // What is not there may not be deleted: it is added first.
    let mut script = render_publish(table, target, all);
    for (one, _) in led(target, all) {
        let (ip, map, key) = element(one);
        writeln!(script, "delete element {ip} {table} {map} {{ {key} }}")
            .expect("a string takes everything");
    }
    script
}

fn led(target: Target, all: &[Published]) -> impl Iterator<Item = (&Published, IpAddr)> {
    all.iter().filter_map(move |one| {
        let to = match Family::of(one.host_address) {
            Family::Four => target.four.into(),
            Family::Six => target.six?.into(),
        };
        Some((one, to))
    })
}

fn element(one: &Published) -> (&'static str, &'static str, String) {
    let key = format!("{} . {}", one.port.protocol.as_str(), one.host_port);
    let ip = Family::of(one.host_address).word();
    match one.host_address.is_unspecified() {
        true => (ip, ANYWHERE, key),
        false => (ip, AT, format!("{} . {key}", one.host_address)),
    }
}

pub(crate) fn render_remove(config: &NetworkConfig) -> String {
    let table = &config.table;
    let remove = |(family, _): (Family, String)| {
        let ip = family.word();
        format!("add table {ip} {table}\ndelete table {ip} {table}\n")
    };
    families(config).into_iter().map(remove).collect()
}

pub(crate) fn render_add_bulk(table: &str, address: Ipv4Addr) -> String {
    format!("add element ip {table} {BULK} {{ {address} }}\n")
}

/// What is not there may not be deleted: it is added first.
pub(crate) fn render_remove_bulk(table: &str, address: Ipv4Addr) -> String {
    let add = render_add_bulk(table, address);
    format!("{add}delete element ip {table} {BULK} {{ {address} }}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Shape, Six};

    fn config(shape: Shape) -> NetworkConfig {
        let subnet = "10.9.0.0/16".parse().unwrap();
        NetworkConfig { bridge: "br7".into(), subnet, table: "t0".into(), shape }
    }

    #[test]
    fn the_table_is_replaced_as_a_whole_and_names_only_itself() {
        let apart = Shape { apart_from: Some("br0".into()), ..Shape::default() };
        for shape in [Shape::default(), apart, Shape { internal: true, ..Shape::default() }] {
            let script = render_install(&config(shape));
            let lines: Vec<&str> = script.lines().collect();
            assert_eq!(lines[..3], ["add table ip t0", "delete table ip t0", "add table ip t0"]);
            for line in lines {
                let words: Vec<&str> = line.split(' ').collect();
                assert_eq!(words[2..4], ["ip", "t0"], "{line}");
            }
        }
    }

    #[test]
    fn the_default_network_forwards_everything_and_masquerades_what_leaves() {
        let script = render_install(&config(Shape::default()));
        let rules: Vec<&str> =
            script.lines().filter_map(|l| l.strip_prefix("add rule ip t0 ")).collect();
        let expected = [
            "postrouting ip saddr 10.9.0.0/16 oifname != \"br7\" masquerade",
            "forward ip saddr @bulk meta priority set 0:2",
            "forward iifname \"br7\" accept",
            "forward oifname \"br7\" accept",
        ];
        assert_eq!(rules, expected);
    }

    #[test]
    fn a_published_port_is_one_element_of_one_map() {
        let publish = |host_address: [u8; 4], port: &str| Published {
            port: port.parse().unwrap(),
            host_address: host_address.into(),
            host_port: 8080,
        };
        let all = [publish([0; 4], "80"), publish([127, 0, 0, 1], "53/udp")];
        let target = Target { four: Ipv4Addr::new(10, 9, 0, 2), six: None };
        let expected = "add element ip t0 published { tcp . 8080 : 10.9.0.2 . 80 }\n\
                        add element ip t0 published_at { 127.0.0.1 . udp . 8080 : 10.9.0.2 . 53 }\n";
        assert_eq!(render_publish("t0", target, &all), expected);
        let undone = render_unpublish("t0", target, &all);
        assert!(undone.starts_with(expected) && undone.matches("delete element").count() == 2);
        let script = render_ports(&config(Shape::default()));
        assert!(script.contains("guard iifname \"br7\" ip daddr 127.0.0.0/8 drop"), "{script}");
    }

    #[test]
    fn a_network_with_ipv6_has_a_second_table_that_says_the_same() {
        let subnet = "fd00:9::/64".parse().unwrap();
        let apart_from = Some("br0".into());
        let shape =
            Shape { six: Some(Six { subnet, gateway: None }), apart_from, ..Shape::default() };
        let script = render_install(&config(shape.clone()));
        let rules = |ip: &str| -> Vec<String> {
            let rules =
                script.lines().filter_map(|l| l.strip_prefix(&format!("add rule {ip} t0 ")));
            rules.filter(|rule| !rule.contains("@bulk")).map(str::to_owned).collect()
        };
        let four = rules("ip").join("\n").replace("ip saddr 10.9.0.0/16", "ip6 saddr fd00:9::/64");
        assert_eq!(rules("ip6").join("\n"), four);
        let ports = render_ports(&config(shape));
        assert!(ports.contains("rule ip6 t0 output ip6 daddr ::1 return"), "{ports}");
        let port = "80".parse().unwrap();
        let host_address = std::net::Ipv6Addr::UNSPECIFIED.into();
        let one = Published { port, host_address, host_port: 8080 };
        let four = Ipv4Addr::new(10, 9, 0, 2);
        let target = Target { four, six: "fd00:9::2".parse().ok() };
        assert_eq!(
            render_publish("t0", target, &[one]),
            "add element ip6 t0 published { tcp . 8080 : fd00:9::2 . 80 }\n"
        );
        assert_eq!(render_publish("t0", Target { four, six: None }, &[one]), "");
    }

    #[test]
    fn nothing_new_comes_into_another_network_and_nothing_at_all_passes_an_internal_one() {
        let apart = Shape { apart_from: Some("br0".into()), ..Shape::default() };
        let script = render_install(&config(apart.clone()));
        assert!(script.contains("oifname \"br7\" iifname != \"br7\" drop"), "{script}");
        assert!(script.contains("iifname \"br7\" oifname \"br0\" ct state new"), "{script}");
        let script = render_install(&config(Shape { internal: true, ..apart }));
        assert!(!script.contains("masquerade"), "{script}");
        assert!(script.contains("iifname \"br7\" oifname != \"br7\" drop"), "{script}");
    }
}
