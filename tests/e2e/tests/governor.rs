//! Detail goes when the meters cost more than their budget, and comes back.

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::{skip_unless_possible, until};

/// Of both CPUs. A container that does nothing but system calls makes the probes take several
/// times as much, and nothing else on a host does.
const BUDGET: &str = "[governor]\nbudget_percent = 6\ninterval_seconds = 1\nhold_seconds = 1\n";

/// A scrape costs, too: fifty in a second would be most of what the governor sees.
fn slowly(ask: impl FnOnce() -> bool) -> bool {
    std::thread::sleep(std::time::Duration::from_secs(1));
    ask()
}

#[test]
fn latency_sampling_is_shed_under_a_storm_of_calls_and_comes_back_after_it() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with(BUDGET).expect("the agent starts");
    let shed = |agent: &TestAgent| {
        agent.metrics().sum("tenantry_governor_shed", &[("detail", "syscall_enter")])
    };
    let latency = |agent: &TestAgent| {
        let labels = [("probe", "syscall_enter"), ("status", "active")];
        agent.metrics().sum("tenantry_probe_status", &labels)
    };
    let Some(0.0) = shed(&agent) else { panic!("it begins with everything on") };
    let storm = "while true; do workload syscalls --getpid 2000000; done";
    for name in ["one", "two", "three", "four"] {
        agent.run_detached(name, &[], &["sh", "-c", storm]).unwrap();
    }
    until("latency sampling to be shed", || slowly(|| shed(&agent) == Some(1.0)));
    assert_eq!(latency(&agent), Some(0.0));
    let overhead = || agent.metrics().sum("tenantry_governor_overhead_ratio", &[]);
    assert!(overhead() > Some(0.0) && overhead() < Some(1.0), "{:?}", overhead());
    // Counting is never shed.
    let count = |agent: &TestAgent| {
        agent.metrics().sum("tenantry_syscalls_total", &[("syscall", "getpid")]).unwrap_or(0.0)
    };
    let before = count(&agent);
    until("calls to be counted all the same", || count(&agent) > before);
    for name in ["one", "two", "three", "four"] {
        agent.ok(&["kill", name]);
    }
    // Whatever else a busy host does calls, too: three minutes will have a quiet moment.
    let back = (0..180).any(|_| slowly(|| shed(&agent) == Some(0.0)));
    assert!(back, "latency sampling did not come back: {:?}", overhead());
    assert_eq!(latency(&agent), Some(1.0));
    let log = agent.log();
    assert!(log.contains("shed") && log.contains("restored"), "{log}");
    agent.finish();
}
