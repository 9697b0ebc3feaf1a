//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//!
//! Owns their content, pure. The engine writes the files into the container's
//! directory and the shim binds them over the image's.

use std::net::{IpAddr, Ipv4Addr};

/// The names every container knows; its own follows in [`render_hosts_line`].
pub const HOSTS: &str = "127.0.0.1\tlocalhost\n\
                         ::1\tlocalhost ip6-localhost ip6-loopback\n\
                         fe00::\tip6-localnet\n\
                         ff00::\tip6-mcastprefix\n\
                         ff02::1\tip6-allnodes\n\
                         ff02::2\tip6-allrouters\n";

/// Appended once the address is known, before the program runs.
pub fn render_hosts_line(address: IpAddr, hostname: &str) -> String {
    match hostname.split_once('.') {
        Some((first, _)) => format!("{address}\t{hostname} {first}\n"),
        None => format!("{address}\t{hostname}\n"),
    }
}

/// The file without the lines of addresses that are gone.
pub fn without_addresses(hosts: &str, gone: impl IntoIterator<Item = IpAddr>) -> String {
    let gone: Vec<String> = gone.into_iter().map(|address| address.to_string()).collect();
    let is_of = |line: &&str| {
        line.split_whitespace().next().is_some_and(|first| gone.iter().any(|one| one == first))
    };
    hosts.lines().filter(|line| !is_of(line)).map(|line| format!("{line}\n")).collect()
}

/// The host's resolver configuration as a container can use it: name servers on
/// the host's own loopback cannot be reached from another network namespace and
/// are left out. The host's network keeps them. What follows is Docker's rule
/// (`libnetwork/resolvconf`), public servers included when none is left.
pub fn render_resolv_conf(host: &str, shares_host_network: bool) -> String {
    if shares_host_network {
        return host.to_owned();
    }
    let mut rendered = String::new();
    let mut servers = 0;
    for line in host.lines() {
        let mut words = line.split_whitespace();
        if words.next() == Some("nameserver") {
            let server = words.next().unwrap_or("");
            let plain = server.split('%').next().unwrap_or(server);
            match plain.parse::<IpAddr>() {
                Ok(ip) if !ip.is_loopback() && !server.contains('%') => servers += 1,
                _ => continue,
            }
        }
        rendered.push_str(line);
        rendered.push('\n');
    }
    if servers == 0 {
        rendered.push_str("nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }
    rendered
}

/// That of a container on a network where containers have names: its own name server, and
/// what the host says besides.
pub fn render_own_resolv_conf(host: &str, resolver: Ipv4Addr) -> String {
    let is_server = |line: &&str| line.split_whitespace().next() == Some("nameserver");
    let rest = host.lines().filter(|line| !is_server(line));
    let mut rendered = format!("nameserver {resolver}\n");
    rest.for_each(|line| rendered.extend([line, "\n"]));
    if !rendered.contains("ndots:") {
        // A name without a dot is a container's before it is a host's of the search list.
        rendered.push_str("options ndots:0\n");
    }
    rendered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_name_servers_are_left_out() {
        let check = |host: &str, expected: &str| {
            assert_eq!(render_resolv_conf(host, false), expected, "{host:?}");
        };
        let public = "nameserver 8.8.8.8\nnameserver 8.8.4.4\n";
        check("", public);
        check("nameserver 127.0.0.53\n", public);
        check("search a b\nnameserver ::1\n", &format!("search a b\n{public}"));
        check("nameserver 10.0.0.2\nnameserver 127.0.0.1", "nameserver 10.0.0.2\n");
        check("nameserver fe80::1%eth0\n", public);
        assert_eq!(render_resolv_conf("nameserver 127.0.0.53\n", true), "nameserver 127.0.0.53\n");
    }

    #[test]
    fn the_lines_of_an_address_are_taken_out_and_no_others() {
        let hosts = "127.0.0.1\tlocalhost\n10.0.0.2\ta\nfd00:5::2\ta\n10.0.0.22\tb\n";
        let gone = ["10.0.0.2", "fd00:5::2"].map(|text| text.parse::<IpAddr>().unwrap());
        let without = without_addresses(hosts, gone);
        assert_eq!(without, "127.0.0.1\tlocalhost\n10.0.0.22\tb\n");
    }

    #[test]
    fn an_own_name_server_takes_the_place_of_the_hosts() {
        let check = |host: &str, expected: &str| {
            assert_eq!(render_own_resolv_conf(host, Ipv4Addr::new(127, 0, 0, 11)), expected);
        };
        check("", "nameserver 127.0.0.11\noptions ndots:0\n");
        let host = "search a b\nnameserver 10.0.0.2\noptions ndots:2\n";
        check(host, "nameserver 127.0.0.11\nsearch a b\noptions ndots:2\n");
    }

    #[test]
    fn a_host_with_a_domain_has_its_short_name_too() {
        let address = Ipv4Addr::new(10, 213, 0, 2).into();
        assert_eq!(render_hosts_line(address, "a.b.c"), "10.213.0.2\ta.b.c a\n");
        assert_eq!(render_hosts_line(address, "a"), "10.213.0.2\ta\n");
    }
}
