//! Who goes last in the uplink's queue: the others' round trips, the rate that is left, and
//! who decides that. The witnesses are the workload's own times, `tc` and `nft`.

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::uplink::{FAR, Uplink};
use tenantry_e2e::witness::Witness;
use tenantry_e2e::{patience, skip_unless_possible, until};

const POLICY: &str = r#"
mode = "enforce"
[[rule]]
class = "protected"
name = ["victim"]
[rule.objectives]
network_wait = 0.1
[[rule]]
class = "best-effort"
name = ["bulk"]
"#;

/// Slow enough for a processor under emulation.
fn uplink() -> Uplink {
    let mut uplink = Uplink::create("tbf rate 10mbit burst 8000 limit 300000");
    uplink.sort_by_class();
    uplink.serve(9000, "sink 9000 --tcp");
    uplink.serve(9001, "serve 9001");
    uplink
}

fn load(seconds: &str) -> Vec<String> {
    let text = format!("workload load {FAR}:9001 --rate 50 --connections 2 --seconds {seconds}");
    text.split(' ').map(str::to_owned).collect()
}

/// Of requests and answers through the uplink, for three seconds.
fn p50_ms(agent: &TestAgent) -> f64 {
    let mut command = vec!["run", "--rm", IMAGE];
    let load = load("3");
    command.extend(load.iter().map(String::as_str));
    let told = agent.ok(&command);
    let report = json(told.lines().last().expect("a report"));
    report["p50_us"].as_f64().expect("answers") / 1000.0
}

fn send_all_it_can(agent: &TestAgent) {
    let bulk = format!("workload stream --to {FAR}:9000 --seconds 10000");
    agent.run_detached("bulk", &[], &bulk.split(' ').collect::<Vec<_>>()).unwrap();
}

/// Bits per second that its interface takes from it.
fn rate_of(agent: &TestAgent, name: &str) -> f64 {
    let veth = Witness::of(agent, name).veth;
    let path = format!("/sys/class/net/{veth}/statistics/rx_bytes");
    let bytes = || -> f64 { std::fs::read_to_string(&path).unwrap().trim().parse().unwrap() };
    let (before, began) = (bytes(), std::time::Instant::now());
    std::thread::sleep(patience(2));
    (bytes() - before) * 8.0 / began.elapsed().as_secs_f64()
}

#[test]
fn who_goes_last_keeps_nobody_waiting_and_sends_what_is_left() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let uplink = uplink();
    let alone = p50_ms(&agent);
    send_all_it_can(&agent);
    until("a queue", || uplink.backlog_bytes() > 50_000);
    let beside = p50_ms(&agent);
    agent.ok(&["limit", "bulk", "--for", "10m", "--egress-bulk"]);
    let witness = Witness::of(&agent, "bulk");
    assert!(witness.goes_last());
    let last = p50_ms(&agent);
    let rate = rate_of(&agent, "bulk");
    println!(
        "p50 alone {alone:.2} ms, beside it {beside:.1}, it last {last:.2}; it sends {:.1} Mbit/s",
        rate / 1e6
    );
    // One stream keeps its queue short: what it adds is some ten milliseconds.
    assert!(beside > alone + 5.0, "no queue stood: {beside} ms, alone {alone}");
    assert!(last - alone < 0.3 * (beside - alone), "{last} ms beside who goes last, {alone} alone");
    assert!(rate > 0.8 * 10e6, "{rate} bit/s is not what is left");
    agent.ok(&["limit", "bulk", "--release"]);
    assert!(!witness.goes_last());
    agent.finish();
}

fn decisions(agent: &TestAgent) -> Vec<Value> {
    json(&agent.ok(&["decisions", "--json"])).as_array().cloned().unwrap_or_default()
}

#[test]
fn the_controller_puts_who_fills_the_uplink_last_before_it_limits_anybody() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with_policy(POLICY, "").expect("the agent starts");
    let _uplink = uplink();
    let load = load("10000");
    agent
        .run_detached("victim", &[], &load.iter().map(String::as_str).collect::<Vec<_>>())
        .unwrap();
    send_all_it_can(&agent);
    let witness = Witness::of(&agent, "bulk");
    until("it goes last", || witness.goes_last());
    // Through the time in which what did not help would be undone.
    std::thread::sleep(patience(8));
    let all = decisions(&agent);
    let tightened: Vec<&Value> = all.iter().filter(|d| d["kind"] == "tighten").collect();
    println!("{}", tightened[0]["message"]);
    assert_eq!(tightened.len(), 1, "{all:#?}");
    assert_eq!(tightened[0]["actuator"], "net.priority", "{all:#?}");
    assert_eq!(tightened[0]["victim_name"], "victim", "{all:#?}");
    assert!(witness.goes_last());
    assert!(rate_of(&agent, "bulk") > 0.8 * 10e6, "it sends what is left");
    agent.ok(&["rm", "-f", "victim"]);
    until("it is let go", || !witness.goes_last());
    agent.finish();
}
