//! Who holds which limit and who changed it before. The witnesses are the cgroup's own files at
//! each step.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tenantry_e2e::agent::{self, TestAgent};
use tenantry_e2e::{skip_unless_possible, until};

/// The files of a container's CPU cgroup, on v1 or v2.
struct Files {
    directory: PathBuf,
    is_v1: bool,
}

impl Files {
    fn of(agent: &TestAgent, name: &str) -> Self {
        let id = agent.native(name)["id"].as_str().unwrap().to_owned();
        let group = Path::new(&agent.cgroup_parent).join(id);
        let v1 = Path::new("/sys/fs/cgroup/cpu").join(&group);
        match v1.exists() {
            true => Self { directory: v1, is_v1: true },
            false => Self { directory: Path::new("/sys/fs/cgroup").join(group), is_v1: false },
        }
    }

    /// In microseconds of 100,000; `None` is no quota.
    fn quota(&self) -> Option<u64> {
        let file = if self.is_v1 { "cpu.cfs_quota_us" } else { "cpu.max" };
        let text = std::fs::read_to_string(self.directory.join(file)).unwrap();
        text.split_whitespace().next()?.parse().ok()
    }

    /// As another party would, behind the agent's back.
    fn write_quota(&self, usec: u64) {
        let file = if self.is_v1 { "cpu.cfs_quota_us" } else { "cpu.max" };
        std::fs::write(self.directory.join(file), usec.to_string()).unwrap();
    }
}

fn limits(agent: &TestAgent) -> Value {
    agent::json(&agent.ok(&["limits", "spin", "--json"]))
}

/// What is held, without what passes.
fn held(agent: &TestAgent) -> Vec<[String; 4]> {
    let answer = limits(agent);
    let row = |row: &Value| {
        let text = |key: &str| row[key].as_str().unwrap_or("-").to_owned();
        [text("limit"), text("wish"), text("in_force"), text("holder")]
    };
    answer["held"].as_array().unwrap().iter().map(row).collect()
}

/// Each change but for its time.
fn changes(agent: &TestAgent) -> Vec<Value> {
    let mut changes = limits(agent)["changes"].take().as_array().unwrap().clone();
    changes.iter_mut().for_each(|change| {
        assert!(change.as_object_mut().unwrap().remove("time").is_some());
    });
    changes
}

fn in_audit_file(agent: &TestAgent) -> Vec<Value> {
    let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap_or_default();
    let mut lines: Vec<Value> = text.lines().map(agent::json).collect();
    lines.retain(|line| line["event"]["action"] == "limit");
    lines
}

/// `tenantry events` in a process of its own, into a file.
struct Stream {
    child: std::process::Child,
    path: PathBuf,
}

impl Stream {
    fn of(agent: &TestAgent) -> Self {
        let path = agent.scratch.join("limits.jsonl");
        let file = std::fs::File::create(&path).unwrap();
        let arguments = ["events", "--json", "--kind", "lifecycle,limit"];
        let child = agent.client(&arguments).stdout(file).spawn().unwrap();
        Self { child, path }
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.path).unwrap();
        text.lines().map(agent::json).collect()
    }

    fn limits(&self) -> Vec<Value> {
        self.lines().into_iter().filter(|line| line["event"]["action"] == "limit").collect()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn each_change_has_its_party_and_each_limit_its_holder() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let heard = Stream::of(&agent);
    let command = ["workload", "spin", "--seconds", "10000", "--threads", "1"];
    agent.run_detached("spin", &[], &command).unwrap();
    until("the stream to be open", || {
        agent.ok(&["exec", "spin", "true"]);
        !heard.lines().is_empty()
    });
    let files = Files::of(&agent, "spin");
    assert_eq!(agent.ok(&["limits", "spin"]), "nothing is limited\n");
    let change = |party: &str, kind: &str, before: &str, after: &str| json!({ "party": party, "change": kind, "limit": "cpu.max", "before": before, "after": after });
    let is_held = |row: [&str; 4]| assert_eq!(held(&agent), [row.map(str::to_owned)]);

    agent.ok(&["limit", "spin", "--cpus", "0.8"]);
    assert_eq!(files.quota(), Some(80_000));
    is_held(["cpu.max", "0.8", "0.8", "operator"]);
    let mut expected = vec![change("operator", "set", "max", "0.8")];
    assert_eq!(changes(&agent), expected);

    agent.ok(&["limit", "spin", "--for", "4s", "--cpus", "0.2", "--reason", "a demo"]);
    assert_eq!(files.quota(), Some(20_000));
    is_held(["cpu.max", "0.8", "0.2", "operator"]);
    let now = limits(&agent);
    let lease = now["held"][0]["lease_ends_in_seconds"].as_f64().unwrap();
    assert!((0.0..=4.0).contains(&lease), "{now}");
    assert_eq!(now["held"][0]["reason"], "a demo");
    let mut throttle = change("operator", "throttle", "0.8", "0.2");
    throttle["reason"] = "a demo".into();
    throttle["lease_seconds"] = 4.0.into();
    expected.push(throttle);
    assert_eq!(changes(&agent), expected);

    until("the lease to end", || files.quota() == Some(80_000));
    let mut expire = change("operator", "expire", "0.2", "0.8");
    expire["reason"] = "the lease ended".into();
    expected.push(expire);
    until("that to be told", || changes(&agent) == expected);
    is_held(["cpu.max", "0.8", "0.8", "operator"]);

    agent.ok(&["limit", "spin", "--for", "10m", "--cpus", "0.3"]);
    files.write_quota(50_000);
    is_held(["cpu.max", "0.8", "0.5", "other"]);
    agent.ok(&["limit", "spin", "--release"]);
    assert_eq!(files.quota(), Some(50_000), "left alone");
    let mut throttle = change("operator", "throttle", "0.8", "0.3");
    throttle["lease_seconds"] = 600.0.into();
    expected.push(throttle);
    let last = changes(&agent).pop().unwrap();
    assert_eq!((&last["party"], &last["change"]), (&"other".into(), &"yield".into()), "{last}");
    assert!(last["after"].as_str().unwrap().starts_with("50000"), "{last}");
    expected.push(last);
    assert_eq!(changes(&agent), expected);

    // Back in the operator's hands; then an agent that is killed while it holds.
    agent.ok(&["limit", "spin", "--cpus", "0.7"]);
    assert_eq!(files.quota(), Some(70_000));
    agent.ok(&["limit", "spin", "--for", "10m", "--cpus", "0.1"]);
    assert_eq!(files.quota(), Some(10_000));
    let counted = agent.metrics().sum("tenantry_limit_changes_total", &[("party", "operator")]);
    assert_eq!(counted, Some(6.0));
    let table = agent.ok(&["limits", "spin"]);
    assert!(table.lines().nth(1).unwrap().starts_with("cpu.max"), "{table}");
    // Whoever listens and the audit file have the same lines, in order.
    let told: Vec<Value> = in_audit_file(&agent);
    let of_all = limits(&agent)["changes"].take();
    for (line, change) in told.iter().zip(of_all.as_array().unwrap()) {
        assert_eq!(line["container"]["name"], "spin");
        let same =
            change.as_object().unwrap().iter().all(|(key, value)| line["limit"][key] == *value);
        assert!(same, "{line} is not {change}");
    }
    assert_eq!(told.len(), of_all.as_array().unwrap().len());
    until("the stream to have them", || heard.limits() == told);
    let metrics = agent.metrics();
    let sum = |name: &str| metrics.sum(name, &[]).unwrap_or(0.0);
    assert_eq!(sum("tenantry_limit_changes_total"), told.len() as f64);
    assert_eq!(sum("tenantry_audit_records_lost_total"), 0.0);
    drop(heard);
    agent.kill_nine();
    agent.spawn().unwrap();
    assert_eq!(files.quota(), Some(70_000));
    assert_eq!(held(&agent), [["cpu.max", "0.7", "0.7", "operator"].map(str::to_owned)]);
    let restored = changes(&agent);
    assert_eq!(restored.len(), 1, "{restored:?}");
    assert_eq!(restored[0]["party"], "agent");
    let said = |key: &str| restored[0][key].as_str().unwrap().to_owned();
    assert!(said("before").starts_with("10000") && said("after").starts_with("70000"));
    let all = in_audit_file(&agent);
    assert_eq!(all.len(), told.len() + 1);
    assert_eq!(all.last().unwrap()["limit"]["reason"], restored[0]["reason"]);
    agent.finish();
}
