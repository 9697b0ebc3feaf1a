//! What the network meters say of connections is what the workload did, and what each
//! container's own network namespace counted.

use std::net::{SocketAddr, TcpStream};

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::namespace_counters;
use tenantry_e2e::netns::listens;
use tenantry_e2e::scrape::{Metrics, destination};
use tenantry_e2e::{patience, skip_unless_possible, until};

/// A sum over series of one container, 0 where there is none.
fn value(metrics: &Metrics, series: &str, container: &str, label: (&str, &str)) -> f64 {
    let labels = [("name", container), label];
    let labels = if label.0.is_empty() { &labels[..1] } else { &labels[..] };
    metrics.sum(series, labels).unwrap_or(0.0)
}

const NO_LABEL: (&str, &str) = ("", "");

/// A server that takes `count` connections on port 9000 and a client that opens them, each
/// sending 3,000 bytes and getting 500; then five refused ones. Both stay.
fn run_pair(agent: &TestAgent, count: u64) {
    let script = format!("workload accept 9000 --count {count} --bytes 500; sleep 1000");
    agent.run_detached("server", &[], &["sh", "-c", &script]).unwrap();
    until("the server listens", || listens(agent.pid_of("server"), 9000));
    let script = format!(
        "workload connections --to {}:9000 --count {count} --bytes 3000 --refused 5; sleep 1000",
        agent.address("server")
    );
    agent.run_detached("client", &[], &["sh", "-c", &script]).unwrap();
    until("both programs have ended", || {
        ["server", "client"].iter().all(|name| {
            let stats = agent.stats(name);
            stats["exits"]["produced"].as_u64() >= Some(1)
                && stats["execs"]["produced"].as_u64() >= Some(3)
        })
    });
}

#[test]
fn forty_connections_and_five_refused_ones_show_exactly_on_both_sides() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    run_pair(&agent, 40);
    until("all are closed", || {
        let metrics = agent.metrics();
        let open = |name| value(&metrics, "tenantry_tcp_connections", name, NO_LABEL);
        open("client") + open("server") == 0.0
    });
    let metrics = agent.metrics();
    let of = |container, series: &str, label| {
        value(&metrics, &format!("tenantry_tcp_{series}"), container, label)
    };
    assert_eq!(of("client", "connects_begun_total", NO_LABEL), 45.0);
    assert_eq!(of("client", "connects_total", ("result", "established")), 40.0);
    assert_eq!(of("client", "connects_total", ("result", "failed")), 5.0);
    assert_eq!(of("client", "failures_total", ("errno", "ECONNREFUSED")), 5.0);
    assert_eq!(of("client", "failures_total", NO_LABEL), 5.0);
    assert_eq!(of("client", "resets_total", ("direction", "received")), 5.0);
    assert_eq!(of("client", "accepts_total", NO_LABEL), 0.0);
    assert_eq!(of("server", "accepts_total", NO_LABEL), 40.0);
    assert_eq!(of("server", "connects_begun_total", NO_LABEL), 0.0);
    for container in ["client", "server"] {
        let witness = namespace_counters(agent.pid_of(container), "Tcp");
        assert_eq!(of(container, "connects_begun_total", NO_LABEL), witness["ActiveOpens"]);
        assert_eq!(of(container, "accepts_total", NO_LABEL), witness["PassiveOpens"]);
        assert_eq!(of(container, "retransmits_total", NO_LABEL), witness["RetransSegs"]);
        assert_eq!(of(container, "connection_duration_seconds_count", NO_LABEL), 40.0);
        let rtts = of(container, "rtt_seconds_count", ("interface", "external"));
        assert!(rtts >= 40.0, "{container}: {rtts}");
        assert_eq!(of(container, "rtt_seconds_count", ("interface", "lo")), 0.0);
    }
    agent.finish();
}

#[test]
fn each_destination_has_its_bytes_and_the_rest_is_other() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with("\n[network_meters]\ndestinations = 1\n").unwrap();
    run_pair(&agent, 20);
    let open = |metrics: &Metrics, name| value(metrics, "tenantry_tcp_connections", name, NO_LABEL);
    until("all are closed", || {
        let metrics = agent.metrics();
        open(&metrics, "client") + open(&metrics, "server") == 0.0
    });
    let metrics = agent.metrics();
    let server = agent.address("server");
    // One seat: the one with bytes has it, or whoever came while there was no other.
    let all = destination(&metrics, "client", &[]);
    assert_eq!(all, [20.0, 5.0, 60_000.0, 10_000.0]);
    let named = destination(&metrics, "client", &[("destination", &server)]);
    let other = destination(&metrics, "client", &[("destination", "other")]);
    assert_eq!([0, 1, 2, 3].map(|n| named[n] + other[n]), all);
    let network = format!("{}.0/24", agent.address("client").rsplit_once('.').unwrap().0);
    let labels = [("destination", &*network), ("port", "9000"), ("direction", "incoming")];
    assert_eq!(destination(&metrics, "server", &labels), [20.0, 0.0, 10_000.0, 60_000.0]);

    // The answer to a question has all of them, whoever has a series.
    let text = agent.ok(&["connections", "--json", "client"]);
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = |port: u64| {
        let rows = answer["destinations"].as_array().unwrap();
        rows.iter().find(|row| row["port"] == port).unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(row(9000)["address"], *server);
    assert_eq!(row(9000)["connections"], 20);
    assert_eq!(row(9000)["sent_bytes"], 60_000);
    assert_eq!(row(9000)["received_bytes"], 10_000);
    assert_eq!((&row(1)["failures"], &row(1)["direction"]), (&5.into(), &"outgoing".into()));
    assert!(agent.ok(&["connections", "client"]).contains("9000"));
    agent.finish();
}

#[test]
fn connections_that_meet_a_full_queue_are_those_that_the_namespace_counted() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("server", &[], &["workload", "accept", "9000", "--count", "1000"]).unwrap();
    until("the server listens", || listens(agent.pid_of("server"), 9000));
    agent.ok(&["kill", "--signal", "STOP", "server"]);
    // Rust's listeners have room for 128, and the kernel for one more.
    let to: SocketAddr = format!("{}:9000", agent.address("server")).parse().unwrap();
    let open = move || TcpStream::connect_timeout(&to, patience(5));
    let waiting: Vec<_> = (0..129).map(|_| open().expect("there is room")).collect();
    let late: Vec<_> = (0..3).map(|_| std::thread::spawn(open)).collect();
    let overflows = || namespace_counters(agent.pid_of("server"), "TcpExt")["ListenOverflows"];
    until("each was refused, and again", || overflows() >= 6.0);
    let metrics =
        || value(&agent.metrics(), "tenantry_tcp_listen_overflows_total", "server", NO_LABEL);
    // One more may come between the two looks.
    until("both say the same", || metrics() == overflows());
    drop(waiting);
    agent.ok(&["kill", "--signal", "CONT", "server"]);
    late.into_iter().for_each(|attempt| drop(attempt.join().unwrap()));
    agent.finish();
}
