//! A real Prometheus scrapes a running agent, and every question that the dashboards, the
//! recording rules and the alerts ask of it has an answer.

mod grafana;
mod prometheus_server;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use grafana::PanelKind;
use prometheus_server::Prometheus;
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::host::disk_below;
use tenantry_e2e::name_server::NameServer;
use tenantry_e2e::skip_unless_possible;

/// `increase` and `rate` need two samples within it, and the run is short.
const WINDOW: &str = "1m";

/// Asks again until there is an answer: the first samples of a rate, and the first turn of
/// the rules, come a few seconds after the first scrape.
fn until_answered(
    prometheus: &Prometheus,
    place: &str,
    query: &str,
    good: impl Fn(&[(Value, f64)]) -> bool,
    deadline: Instant,
) -> Result<(), String> {
    loop {
        let answer = prometheus.query(query).map_err(|error| format!("{place}: {error:#}"))?;
        if good(&answer) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("{place}: {query}\n    answered {answer:?}"));
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// A server; `busy`, which does everything that a panel shows, under every limit; and
/// `hungry`, which the kernel kills for want of memory and which comes back for more.
fn start_containers(agent: &TestAgent, disk: &Path) -> NameServer {
    let run = |name: &str, flags: &[&str], command: &[&str]| {
        agent.run_detached(name, flags, command).unwrap_or_else(|error| panic!("{error:#}"));
    };
    run("web", &[], &["workload", "serve", "8080"]);
    let (address, gateway) = (agent.address("web"), agent.gateway_of("web"));
    let name_server = NameServer::start(&gateway).expect("port 53 of the bridge is free");
    let work = format!(
        "while :; do \
           workload directio --path /data/f --bytes 1048576; \
           workload syscalls --getpid 200 --failing-openat 50; \
           workload load {address}:8080 --rate 50 --seconds 1; \
           workload spin --seconds 1 --threads 2; \
           nslookup www.example.com {gateway}; nslookup missing.example.org {gateway}; \
         done"
    );
    let throttle = format!("{}:20m", disk.display());
    let operations = format!("{}:2000", disk.display());
    let flags = [
        ["--cpus", "0.5"],
        ["--memory", "256m"],
        ["--pids", "64"],
        ["--egress", "50mbit"],
        ["--ingress", "40mbit"],
        ["--io-read", &throttle],
        ["--io-write", &throttle],
        ["--io-read-ops", &operations],
        ["--io-write-ops", &operations],
    ];
    run("busy", flags.as_flattened(), &["sh", "-c", &work]);
    // It waits before it eats, so that a scrape sees it before and after.
    let eat = "sleep 4; exec workload memory --bytes 134217728";
    run("hungry", &["--memory", "32m", "--restart", "always"], &["sh", "-c", eat]);
    name_server
}

#[test]
fn every_panel_and_every_recording_rule_has_data_from_a_running_agent() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let Some(disk) = disk_below(&agent.data_dir()) else {
        println!("SKIPPED: {} lies on no disk of its own", agent.data_dir().display());
        agent.finish();
        return;
    };
    let started = Prometheus::start(&grafana::folder(), agent.listen);
    let Some(prometheus) = started.expect("prometheus starts") else {
        println!("SKIPPED: prometheus is not installed (Debian package: prometheus)");
        agent.finish();
        return;
    };
    // Prometheus takes up new targets every five seconds; what happens before its first
    // scrape is no increase to it.
    check_values(&prometheus, &[("up", |value| value == 1.0)]);
    let _name_server = start_containers(&agent, &disk);

    check_values(&prometheus, PROVOKED);
    check_panels(&prometheus, agent.listen, ".*", "busy");
    check_rules(&prometheus);
    check_alert(&prometheus, "ContainerOomKilled", "hungry");
    // Each run has a cgroup of its own that counts from zero; the container's count goes on.
    check_values(
        &prometheus,
        &[("container_oom_events_total{name=\"hungry\"}", |value| value >= 2.0)],
    );
    assert_eq!(prometheus.log(), "", "prometheus has nothing to complain about");
    agent.finish();
}

type Check = (&'static str, fn(f64) -> bool);

/// What [`start_containers`] provokes.
const PROVOKED: &[Check] = &[
    ("sum(tenantry_container_running)", |value| value >= 2.0),
    ("tenantry_limit_cpus{name=\"busy\"}", |value| value == 0.5),
    ("tenantry_limit_memory_bytes{name=\"busy\"}", |value| value == 268_435_456.0),
    ("container_spec_memory_limit_bytes{name=\"busy\"}", |value| value == 268_435_456.0),
    ("tenantry_limit_pids{name=\"busy\"}", |value| value == 64.0),
    ("tenantry_limit_network_bytes_per_second{name=\"busy\",direction=\"egress\"}", |value| {
        value == 6_250_000.0
    }),
    ("tenantry_limit_io_bytes_per_second{name=\"busy\",op=\"write\"}", |value| {
        value == 20_971_520.0
    }),
    ("tenantry_limit_io_operations_per_second{name=\"busy\",op=\"read\"}", |value| value == 2000.0),
    ("container_cpu_cfs_throttled_periods_total{name=\"busy\"}", |value| value > 0.0),
    ("tenantry_syscall_errors_total{name=\"busy\",syscall=\"openat\"}", |value| value > 0.0),
    ("sum(tenantry_disk_bytes_total{name=\"busy\",op=\"write\"})", |value| value >= 1_048_576.0),
    ("container_oom_events_total{name=\"hungry\"}", |value| value >= 1.0),
    ("tenantry_container_restarts_total{name=\"hungry\"}", |value| value >= 1.0),
];

/// The queries answer, and every value that they answer is as it must be.
fn check_values(prometheus: &Prometheus, checks: &[Check]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    for (query, good) in checks {
        let all_good = |answer: &[(Value, f64)]| {
            !answer.is_empty() && answer.iter().all(|(_, value)| good(*value))
        };
        until_answered(prometheus, "value", query, all_good, deadline)
            .unwrap_or_else(|error| panic!("{error}"));
    }
}

/// The alert is raised for this container.
fn check_alert(prometheus: &Prometheus, alert: &str, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let query = format!("ALERTS{{alertname=\"{alert}\",alertstate=\"firing\",name=\"{name}\"}}");
    until_answered(prometheus, alert, &query, |answer| !answer.is_empty(), deadline)
        .unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn a_scraper_gets_the_format_that_it_asks_for() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("web", &[], &["workload", "serve", "8080"]).expect("a container");
    let get = |accept: &str| {
        let answer = prometheus_server::get_accepting(agent.listen, "/metrics", accept);
        let (status, header, body) = answer.expect("/metrics answers");
        assert_eq!(status, 200, "{body}");
        (header.to_ascii_lowercase(), body)
    };

    let (header, text) = get("*/*");
    assert!(header.contains("content-type: text/plain; version=0.0.4; charset=utf-8"), "{header}");
    assert!(!text.contains("# EOF") && text.contains("# TYPE tenantry_syscalls_total counter"));
    let (header, open) = get("application/openmetrics-text;version=1.0.0,text/plain;q=0.5");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(header.contains(kind), "{header}");
    assert!(open.ends_with("# EOF\n") && open.contains("# TYPE tenantry_syscalls counter"));

    check_with_promtool(&agent, &text);
    agent.finish();
}

/// Prometheus's own linter reads what a running agent serves.
fn check_with_promtool(agent: &TestAgent, text: &str) {
    let served = agent.scratch.join("metrics.txt");
    std::fs::write(&served, text).expect("the scratch directory can be written");
    let output = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::from(std::fs::File::open(&served).expect("what was just written")))
        .output();
    match output {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: promtool is not installed (Debian package: prometheus)");
        }
        Err(error) => panic!("promtool cannot be run: {error}"),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
        }
    }
}

/// Every panel of both dashboards shows something: the overview for `names` (a regular
/// expression), the container's dashboard for `name`.
fn check_panels(prometheus: &Prometheus, target: SocketAddr, names: &str, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let instance = target.to_string();
    let mut unanswered = Vec::new();
    let mut asked = 0;
    for (file, dashboard) in grafana::dashboards() {
        let name = if dashboard.uid == "tenantry-container" { name } else { names };
        let values = [("job", "tenantry"), ("instance", instance.as_str()), ("name", name)];
        for panel in dashboard.panels.iter().filter(|panel| panel.kind != PanelKind::Row) {
            for target in &panel.targets {
                let query = grafana::substitute(&target.expr, &values, WINDOW);
                let place = format!("{file}: {}, {}", panel.title, target.ref_id);
                let answered =
                    until_answered(prometheus, &place, &query, |a| !a.is_empty(), deadline);
                unanswered.extend(answered.err());
                asked += 1;
            }
        }
    }
    println!("{asked} queries of panels, {} without data", unanswered.len());
    assert!(unanswered.is_empty(), "no data:\n{}", unanswered.join("\n"));
}

/// Every recording rule records something, and Prometheus can evaluate every alert.
fn check_rules(prometheus: &Prometheus) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut unanswered = Vec::new();
    let (mut recording, mut alerting) = (0, 0);
    let rules = prometheus.api("/api/v1/rules").expect("prometheus knows its rules");
    for rule in rules["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("a group has rules"))
    {
        let name = rule["name"].as_str().expect("a rule has a name");
        if rule["type"] == "recording" {
            let answered = until_answered(prometheus, name, name, |a| !a.is_empty(), deadline);
            unanswered.extend(answered.err());
            recording += 1;
        } else {
            alerting += 1;
        }
    }
    assert!(unanswered.is_empty(), "no data:\n{}", unanswered.join("\n"));
    let rules = prometheus.api("/api/v1/rules").expect("prometheus knows its rules");
    let unhealthy: Vec<&str> = rules["groups"]
        .as_array()
        .expect("a list")
        .iter()
        .flat_map(|group| group["rules"].as_array().expect("a group has rules"))
        .filter(|rule| rule["health"] != "ok")
        .filter_map(|rule| rule["name"].as_str())
        .collect();
    assert!(unhealthy.is_empty(), "not evaluated: {unhealthy:?}");
    println!("{recording} recording rules record, {alerting} alerts are evaluated");
    assert!(recording >= 10 && alerting >= 10);
}
