//! What the network meters say of UDP is what the workload did, and what each container's own
//! network namespace counted.

use std::collections::HashMap;

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::namespace_counters;
use tenantry_e2e::{skip_unless_possible, until};

/// IPv4 and UDP headers.
const HEADERS: f64 = 28.0;

fn udp(agent: &TestAgent, name: &str, what: &str, labels: &[(&str, &str)]) -> f64 {
    let labels = [&[("name", name)], labels].concat();
    agent.metrics().sum(&format!("tenantry_udp_{what}_total"), &labels).unwrap_or(f64::NAN)
}

fn counted_by_kernel(agent: &TestAgent, name: &str) -> HashMap<String, f64> {
    namespace_counters(agent.pid_of(name), "Udp")
}

/// `count` datagrams of 1,000 bytes from "source" to port 9001 of "sink", all of them arrived.
fn send(agent: &TestAgent, count: u64) {
    let before = udp(agent, "sink", "receive_datagrams", &[]);
    let (to, count_text) = (format!("{}:9001", agent.address("sink")), count.to_string());
    agent.ok(&[
        "exec",
        "source",
        "workload",
        "datagrams",
        "--to",
        &to,
        "--count",
        &count_text,
        "--bytes",
        "1000",
    ]);
    until("all have arrived", || {
        udp(agent, "sink", "receive_datagrams", &[]) == before + count as f64
    });
}

#[test]
fn datagrams_bytes_and_drops_are_those_that_each_namespace_counted() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("sink", &[], &["workload", "sink", "9001"]).unwrap();
    agent.run_detached("source", &[], &["sleep", "1000"]).unwrap();
    until("the sink has its socket", || {
        let sockets = std::fs::read_to_string(format!("/proc/{}/net/udp", agent.pid_of("sink")));
        sockets.unwrap_or_default().contains(":2329 ")
    });
    // The first one asks for the other's hardware address; a queue of those that wait for it is
    // short.
    send(&agent, 1);
    send(&agent, 80);
    let (sink, source) = (counted_by_kernel(&agent, "sink"), counted_by_kernel(&agent, "source"));
    assert_eq!((sink["InDatagrams"], source["OutDatagrams"]), (81.0, 81.0));
    let external = [("interface", "external")];
    let bytes = 81.0 * (1000.0 + HEADERS);
    assert_eq!(udp(&agent, "sink", "receive_datagrams", &external), 81.0);
    assert_eq!(udp(&agent, "sink", "receive_bytes", &external), bytes);
    assert_eq!(udp(&agent, "source", "transmit_datagrams", &external), 81.0);
    assert_eq!(udp(&agent, "source", "transmit_bytes", &external), bytes);
    assert_eq!(udp(&agent, "sink", "receive_drops", &[]), 0.0);
    assert_eq!(udp(&agent, "sink", "transmit_datagrams", &[]), 0.0);

    // A program that does not read.
    agent.ok(&["kill", "--signal", "STOP", "sink"]);
    send(&agent, 2000);
    let dropped = counted_by_kernel(&agent, "sink")["RcvbufErrors"];
    assert!(dropped > 100.0, "{dropped}");
    assert_eq!(udp(&agent, "sink", "receive_drops", &[("reason", "buffer")]), dropped);
    assert_eq!(udp(&agent, "sink", "receive_drops", &[("reason", "memory")]), 0.0);
    assert_eq!(udp(&agent, "source", "receive_drops", &[]), 0.0);
    agent.ok(&["kill", "--signal", "CONT", "sink"]);
    agent.finish();
}
