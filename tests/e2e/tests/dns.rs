//! What the network meters say of questions to name servers is what a name server of the
//! test's own received, asked by busybox's `nslookup` in a container.

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::namespace_counters;
use tenantry_e2e::name_server::NameServer;
use tenantry_e2e::scrape::Metrics;
use tenantry_e2e::{skip_unless_possible, until};

fn queries(metrics: &Metrics, labels: &[(&str, &str)]) -> u64 {
    metrics.sum("tenantry_dns_queries_total", labels).unwrap_or(0.0) as u64
}

fn failures(metrics: &Metrics, domain: &str, code: &str) -> Option<u64> {
    let labels = [("name", "client"), ("domain", domain), ("rcode", code)];
    metrics.sum("tenantry_dns_failures_total", &labels).map(|count| count as u64)
}

#[test]
fn questions_are_those_that_the_name_server_received() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("client", &[], &["sleep", "1000"]).unwrap();
    let gateway = agent.gateway_of("client");
    let server = NameServer::start(&gateway).expect("port 53 of the bridge is free");
    let ask = |name: &str, times: u32| {
        // It fails where a name has no address.
        let script = format!("for n in $(seq {times}); do nslookup {name} {gateway}; done; true");
        agent.ok(&["exec", "client", "sh", "-c", &script]);
    };
    ask("www.example.com", 5);
    ask("API.example.com", 3);
    ask("missing.shop.example.co.uk", 2);
    ask("broken.example.org", 2);
    // Asked again after some seconds, and then given up.
    ask("silent.example.net", 1);
    let received = server.received();
    println!("the name server: {received:?}");
    let of_domain = |domain: &str, kind: Option<u16>| -> u64 {
        let fits = |(name, one): &(String, u16)| {
            name.ends_with(domain) && kind.is_none_or(|kind| kind == *one)
        };
        received.iter().filter(|(key, _)| fits(key)).map(|(_, count)| count).sum()
    };
    assert!(of_domain("example.com", Some(1)) >= 8 && of_domain("example.net", None) >= 2);
    let metrics = agent.metrics();
    let client = ("name", "client");
    for domain in ["example.com", "example.co.uk", "example.org", "example.net"] {
        for (kind, number) in [("A", 1), ("AAAA", 28)] {
            let labels = [client, ("domain", domain), ("type", kind)];
            assert_eq!(queries(&metrics, &labels), of_domain(domain, Some(number)), "{labels:?}");
        }
    }
    assert_eq!(queries(&metrics, &[client]), received.values().sum::<u64>());
    let datagrams = namespace_counters(agent.pid_of("client"), "Udp")["OutDatagrams"] as u64;
    assert_eq!(queries(&metrics, &[client]), datagrams);

    let all = |domain| Some(of_domain(domain, None));
    assert_eq!(failures(&metrics, "example.co.uk", "NXDOMAIN"), all("example.co.uk"));
    assert_eq!(failures(&metrics, "example.org", "SERVFAIL"), all("example.org"));
    assert_eq!(failures(&metrics, "example.com", "NXDOMAIN"), Some(0));
    assert_eq!(failures(&metrics, "example.com", "none"), Some(0));
    until("the last silent question was given up", || {
        failures(&agent.metrics(), "example.net", "none") == all("example.net")
    });
    let answers = |domain: &str| {
        let labels = [client, ("domain", domain)];
        metrics.sum("tenantry_dns_latency_seconds_count", &labels).map(|count| count as u64)
    };
    assert_eq!(answers("example.com"), all("example.com"));
    assert_eq!(answers("example.net"), None);
    drop(server);
    agent.finish();
}
