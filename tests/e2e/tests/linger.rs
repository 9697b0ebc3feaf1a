//! Counters outlive their container for a while, then its series end.

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::{patience, skip_unless_possible, until};

#[test]
fn last_values_linger_and_then_all_series_end() {
    skip_unless_possible!();
    let seconds = patience(8).as_secs();
    let config = format!("[metrics]\nlinger_seconds = {seconds}\n");
    let agent = TestAgent::try_start_with(&config).unwrap();
    agent.run_detached("stays", &[], &["sh", "-c", "workload syscalls --getpid 3000"]).unwrap();
    agent.run_detached("goes", &[], &["workload", "syscalls", "--getpid", "5000"]).unwrap();
    until("both have ended", || {
        agent.state("goes") == "exited" && agent.state("stays") == "exited"
    });
    let getpid = |name| {
        let labels = [("name", name), ("syscall", "getpid")];
        agent.metrics().sum("tenantry_syscalls_total", &labels)
    };
    let running = |name| agent.metrics().sum("tenantry_container_running", &[("name", name)]);
    agent.ok(&["rm", "goes"]);
    // The container is gone; what it did since the last scrape is not.
    assert!(getpid("goes") >= Some(5000.0), "{:?}", getpid("goes"));
    assert!(getpid("stays") >= Some(3000.0), "{:?}", getpid("stays"));
    assert_eq!(running("goes"), None);
    assert_eq!(running("stays"), Some(0.0));
    until("the counters end", || getpid("goes").is_none() && getpid("stays").is_none());
    // What was removed leaves nothing; what is only stopped still says so.
    let text = tenantry_e2e::scrape::get(agent.listen, "/metrics").unwrap();
    assert!(!text.contains("name=\"goes\""), "{text}");
    assert_eq!(running("stays"), Some(0.0));
    assert!(agent.metrics().sum("tenantry_metrics_series", &[]) > Some(20.0));
    assert_eq!(agent.metrics().sum("tenantry_metrics_series_dropped_total", &[]), Some(0.0));
    // A second start counts on where the first run stopped.
    agent.ok(&["start", "stays"]);
    until("it counts again", || getpid("stays") >= Some(6000.0));
    agent.finish();
}
