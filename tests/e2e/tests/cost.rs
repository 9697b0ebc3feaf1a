//! What the agent says that it costs.

use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::skip_unless_possible;

#[test]
fn probes_tell_what_they_cost_and_the_maps_stay_below_64_mib() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let loop_of_calls = "while true; do workload syscalls --getpid 20000; done";
    agent.run_detached("busy", &[], &["sh", "-c", loop_of_calls]).unwrap();
    let cost = json(&agent.ok(&["probes", "--cost", "--for", "500ms", "--json"]));
    let programs = cost["programs"].as_array().expect("a list");
    let exit = programs.iter().find(|p| p["name"] == "syscall_exit").expect("it is essential");
    assert!(exit["runs"].as_u64() > Some(0), "{exit}");
    assert!(exit["ns_per_run"].as_f64() > Some(1.0), "{exit}");
    let cpus = cost["cpus"].as_f64().unwrap();
    let share = cost["cpu_ratio"].as_f64().unwrap();
    assert!(0.0 < share && share < cpus, "{share} of {cpus}");
    assert!(cost["seconds"].as_f64() >= Some(0.5));
    let map_bytes = cost["map_bytes"].as_f64().unwrap();
    let sum: f64 =
        cost["maps"].as_array().unwrap().iter().map(|m| m["memory_bytes"].as_f64().unwrap()).sum();
    assert_eq!(map_bytes, sum);
    // The promise is for two CPUs; what is kept for each grows with them.
    assert!(map_bytes <= (64 << 20) as f64 * (cpus / 2.0).max(1.0), "{map_bytes}");
    assert_eq!(
        agent.metrics().sum("tenantry_kernel_memory_bytes", &[("kind", "maps")]),
        Some(map_bytes)
    );
    let table = agent.ok(&["probes", "--cost", "--for", "100ms"]);
    assert!(table.contains("NS/RUN") && table.contains("a share of 100 %"), "{table}");
    assert!(agent.fails(&["probes", "--cost", "--for", "2h"]).1.contains("60s"));
    agent.finish();
}
