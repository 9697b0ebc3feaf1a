//! Records the decision logs in `agent/control/tests/logs`, each from a run on this host: for
//! when the log's format or what is decided has changed, and the old ones no longer replay.
//!
//! Other containers than the run's are left out, so that the files stay small. `tenantry
//! replay` must find in each what was decided, and the log must hold what it is for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::uplink::{FAR, Uplink};

/// How long the culprit runs after it was first limited.
const HELD: Duration = Duration::from_secs(8);
const PATIENCE: Duration = Duration::from_secs(40);

#[derive(Clone, Copy, Debug)]
enum End {
    VictimGone,
    CulpritGone,
    /// An operator sets a limit of the resource that is held.
    Operator(&'static [&'static str]),
}

#[derive(Debug)]
struct Run {
    name: &'static str,
    objective: &'static str,
    allow: &'static str,
    /// Name and command; `{far}` is where the narrow link ends.
    containers: &'static [(&'static str, &'static str)],
    /// The last of them, which begins later.
    culprit: &'static str,
    end: End,
    /// What the log is for.
    kind: &'static str,
}

const SPINNER: &str = "workload spin --seconds 600 --threads 4";
const SPUN: &[(&str, &str)] = &[("victim", "workload spin --seconds 600 --threads 2")];
const ANY: &str = "[\"cpu.weight\", \"cpu.idle\", \"cpu.max\", \"io.max\", \"net.egress\"]";

const RUNS: &[Run] = &[
    Run {
        name: "cpu",
        objective: "pressure_cpu = 0.2",
        allow: "[\"cpu.max\"]",
        containers: SPUN,
        culprit: SPINNER,
        end: End::CulpritGone,
        kind: "release",
    },
    Run {
        name: "disk",
        objective: "disk_p99_ms = 2.0",
        allow: ANY,
        containers: &[(
            "victim",
            "workload randread --path /data/reads --bytes 64m --rate 200 --seconds 600",
        )],
        culprit: "workload noise --write /data/writes --seconds 600",
        end: End::CulpritGone,
        kind: "release",
    },
    Run {
        name: "network",
        objective: "network_wait = 0.05",
        allow: "[\"net.egress\"]",
        containers: &[(
            "victim",
            "workload connections --to {far}:9001 --count 1000000 --bytes 100",
        )],
        culprit: "workload connections --to {far}:9002 --count 1000000 --bytes 4000000",
        end: End::CulpritGone,
        kind: "release",
    },
    Run {
        name: "operator",
        objective: "pressure_cpu = 0.2",
        allow: "[\"cpu.max\"]",
        containers: SPUN,
        culprit: SPINNER,
        end: End::Operator(&["--cpus", "1.5"]),
        kind: "yield",
    },
    Run {
        name: "victim-gone",
        objective: "pressure_cpu = 0.2",
        allow: ANY,
        containers: SPUN,
        culprit: SPINNER,
        end: End::VictimGone,
        kind: "release",
    },
];

pub fn run() -> Result<()> {
    let only = std::env::var("TENANTRY_RECORD").ok();
    let is_asked_for =
        |run: &&Run| only.as_ref().is_none_or(|only| only.split(',').any(|name| name == run.name));
    RUNS.iter().filter(is_asked_for).try_for_each(|run| record(run).context(run.name))
}

fn record(run: &Run) -> Result<()> {
    let policy = format!(
        "mode = \"enforce\"\n[[rule]]\nclass = \"protected\"\nname = [\"victim\"]\n\
         [rule.objectives]\n{}\n[[rule]]\nclass = \"best-effort\"\nname = [\"culprit\"]\n\
         [act]\nallow = {}\n",
        run.objective, run.allow
    );
    let mut uplink = Uplink::create("tbf rate 20mbit burst 8000 limit 300000");
    for port in [9001, 9002] {
        uplink.serve(port, &format!("accept {port} --count 1000000 --bytes 1"));
    }
    let agent = TestAgent::try_start_with_policy(&policy, "[foreign]\nenabled = false\n")?;
    let recorded = play(&agent, run);
    let log = agent.data_dir().join("decisions.jsonl");
    let text = std::fs::read_to_string(&log).unwrap_or_default();
    let replayed = recorded.and_then(|()| agent.run(&["replay", &log.display().to_string()]));
    agent.finish();
    let path = logs().join(format!("{}.jsonl", run.name));
    print!("{}: {} KiB, {}", run.name, text.len() / 1024, replayed?);
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}

fn play(agent: &TestAgent, run: &Run) -> Result<()> {
    let start = |name: &str, command: &str| {
        let command = command.replace("{far}", FAR);
        agent.run_detached(name, &[], &command.split(' ').collect::<Vec<_>>())
    };
    run.containers.iter().try_for_each(|(name, command)| start(name, command))?;
    std::thread::sleep(Duration::from_secs(5));
    start("culprit", run.culprit)?;
    until(agent, "tighten")?;
    std::thread::sleep(HELD);
    match run.end {
        End::VictimGone => agent.run(&["rm", "-f", "victim"])?,
        End::CulpritGone => agent.run(&["rm", "-f", "culprit"])?,
        End::Operator(limit) => agent.run(&[&["limit", "culprit"], limit].concat())?,
    };
    until(agent, run.kind)?;
    // What follows when nobody is held any more.
    std::thread::sleep(Duration::from_secs(3));
    Ok(())
}

fn until(agent: &TestAgent, kind: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        let decisions: Vec<Value> = serde_json::from_str(&agent.run(&["decisions", "--json"])?)?;
        if decisions.iter().any(|decision| decision["kind"] == kind) {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "no {kind}: {decisions:#?}");
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn logs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/control/tests/logs")
}
