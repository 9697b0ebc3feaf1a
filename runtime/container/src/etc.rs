//! `/etc/hosts`, `/etc/hostname` and `/etc/resolv.conf` of a container.
//!
//! Owns their content, pure. The engine writes the files into the container's
//! directory and the shim binds them over the image's.

use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The kernel's resolver looks at three servers and, historically, six domains; these bounds
/// are only against nonsense.
const MOST_SERVERS: usize = 16;
const MOST_WORDS: usize = 64;
const MOST_HOSTS: usize = 1024;
/// The word for the address under which a container reaches its host.
const HOST_GATEWAY: &str = "host-gateway";

/// What a user says of `/etc/resolv.conf`; what is empty stays the host's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resolver {
    pub servers: Vec<IpAddr>,
    /// `.` alone: none.
    pub search: Vec<String>,
    pub options: Vec<String>,
}

impl Resolver {
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn check(&self) -> Result<(), Error> {
        if self.servers.len() > MOST_SERVERS {
            let allowed = format!("at most {MOST_SERVERS}");
            return Err(Error::invalid("dns", self.servers.len(), allowed));
        }
        for (field, words) in [("dns_search", &self.search), ("dns_options", &self.options)] {
            if words.len() > MOST_WORDS {
                let allowed = format!("at most {MOST_WORDS}");
                return Err(Error::invalid(field, words.len(), allowed));
            }
            let is_word = |word: &&String| {
                !word.is_empty() && word.len() <= 255 && word.bytes().all(|b| b.is_ascii_graphic())
            };
            if let Some(word) = words.iter().find(|word| !is_word(word)) {
                return Err(Error::invalid(field, word, "one word of at most 255 bytes"));
            }
        }
        Ok(())
    }

    /// A file with these wishes in the place of what it says itself.
    pub fn render_over(&self, text: &str) -> String {
        let replaced = |line: &&str| match line.split_whitespace().next() {
            Some("nameserver") => !self.servers.is_empty(),
            Some("search" | "domain") => !self.search.is_empty(),
            Some("options") => !self.options.is_empty(),
            _ => false,
        };
        let kept = text.lines().filter(|line| !replaced(line));
        let mut rendered: String = kept.map(|line| format!("{line}\n")).collect();
        for server in &self.servers {
            rendered.push_str(&format!("nameserver {server}\n"));
        }
        let search: Vec<&str> =
            self.search.iter().map(String::as_str).filter(|domain| *domain != ".").collect();
        for (word, words) in [("search", search.join(" ")), ("options", self.options.join(" "))] {
            if !words.is_empty() {
                rendered.push_str(&format!("{word} {words}\n"));
            }
        }
        rendered
    }
}

/// # Errors
/// [`Error::Invalid`] for what is not `NAME:ADDRESS`.
pub fn check_extra_hosts(extra: &[String]) -> Result<(), Error> {
    if extra.len() > MOST_HOSTS {
        let allowed = format!("at most {MOST_HOSTS}");
        return Err(Error::invalid("extra_hosts", extra.len(), allowed));
    }
    // Any address will do for the word.
    render_extra_hosts(extra, Some(Ipv4Addr::LOCALHOST)).map(drop)
}

/// Lines for entries such as `db:10.0.0.7`, `db:[::1]` and `host:host-gateway`.
///
/// # Errors
/// [`Error::Invalid`] also for `host-gateway` where there is no such address.
pub fn render_extra_hosts(extra: &[String], gateway: Option<Ipv4Addr>) -> Result<String, Error> {
    let line = |entry: &String| {
        let refused = |allowed: &str| Error::invalid("extra_hosts", entry, allowed);
        let allowed = "NAME:ADDRESS, where the address may be host-gateway";
        let (name, address) = entry.split_once([':', '=']).ok_or_else(|| refused(allowed))?;
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        if name.is_empty() || name.len() > 253 || !name.bytes().all(fits) {
            return Err(refused("a name of letters, digits, _ . and -"));
        }
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let address: IpAddr = match (address, gateway) {
            (HOST_GATEWAY, Some(gateway)) => gateway.into(),
            (HOST_GATEWAY, None) => return Err(refused("host-gateway on a bridge network only")),
            (address, _) => address.parse::<IpAddr>().map_err(|_| refused(allowed))?,
        };
        Ok(format!("{address}\t{name}\n"))
    };
    extra.iter().map(line).collect()
}

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

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_a_user_says_replaces_what_the_host_says() {
        let host = "# by hand\nnameserver 10.0.0.1\nsearch a b\noptions ndots:5\n";
        assert_eq!(Resolver::default().render_over(host), host);
        let servers = vec!["9.9.9.9".parse().unwrap(), "::1".parse().unwrap()];
        let resolver = Resolver { servers, ..Resolver::default() };
        let expected =
            "# by hand\nsearch a b\noptions ndots:5\nnameserver 9.9.9.9\nnameserver ::1\n";
        assert_eq!(resolver.render_over(host), expected);
        let (search, options) = (words(&["."]), words(&["timeout:1", "rotate"]));
        let resolver = Resolver { search, options, ..Resolver::default() };
        let expected = "# by hand\nnameserver 10.0.0.1\noptions timeout:1 rotate\n";
        assert_eq!(resolver.render_over(host), expected);
    }

    #[test]
    fn no_word_can_begin_a_line_of_its_own() {
        let search = words(&["a\nnameserver 6.6.6.6"]);
        assert!(Resolver { search, ..Resolver::default() }.check().is_err());
        assert!(Resolver { options: words(&[""]), ..Resolver::default() }.check().is_err());
        assert!(Resolver { search: words(&["a.example"]), ..Resolver::default() }.check().is_ok());
    }

    #[test]
    fn further_hosts_become_lines() {
        let gateway = Some(Ipv4Addr::new(10, 0, 0, 1));
        let check = |entry: &str, expected: &str| {
            assert_eq!(render_extra_hosts(&words(&[entry]), gateway).unwrap(), expected);
        };
        check("db:10.0.0.7", "10.0.0.7\tdb\n");
        check("db=10.0.0.7", "10.0.0.7\tdb\n");
        check("db:[::1]", "::1\tdb\n");
        check("db:2001:db8::1", "2001:db8::1\tdb\n");
        check("host.docker.internal:host-gateway", "10.0.0.1\thost.docker.internal\n");
        for wrong in
            ["db", "db:", ":10.0.0.7", "d b:10.0.0.7", "db:10.0.0", "db:10.0.0.7\n8.8.8.8 x"]
        {
            assert!(render_extra_hosts(&words(&[wrong]), gateway).is_err(), "{wrong}");
        }
        assert!(render_extra_hosts(&words(&["a:host-gateway"]), None).is_err());
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
