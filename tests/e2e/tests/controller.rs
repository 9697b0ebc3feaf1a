//! The controller, from the policy file to the kernel's files and back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::cgroup::{Cgroup, Held, root};
use tenantry_e2e::host::cpu_ticks;
use tenantry_e2e::scrape::{self, Metrics};
use tenantry_e2e::{in_virtual_machine, patience, programs, skip_unless_possible, until};

const POLICY: &str = r#"
mode = "enforce"
[[rule]]
class = "protected"
name = ["victim"]
[rule.objectives]
pressure_cpu = 0.2
[[rule]]
class = "best-effort"
name = ["culprit"]
"#;

fn start(policy: &str) -> TestAgent {
    TestAgent::try_start_with_policy(policy, "").expect("the agent starts")
}

fn spin(agent: &TestAgent, name: &str, flags: &[&str], threads: &str) {
    let command = ["workload", "spin", "--seconds", "600", "--threads", threads];
    agent.run_detached(name, flags, &command).unwrap();
}

/// A file of a container's CPU cgroup: on v1 in the first place, else on v2.
fn cpu_path(agent: &TestAgent, name: &str, v1: &str, v2: &str) -> PathBuf {
    let id = agent.native(name)["id"].as_str().unwrap().to_owned();
    let group = Path::new(&agent.cgroup_parent).join(id);
    let old = Path::new("/sys/fs/cgroup/cpu").join(&group).join(v1);
    match old.exists() {
        true => old,
        false => Path::new("/sys/fs/cgroup").join(&group).join(v2),
    }
}

fn cpu_file(agent: &TestAgent, name: &str, v1: &str, v2: &str) -> String {
    let path = cpu_path(agent, name, v1, v2);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// What the culprit may take by the kernel's own files: weight, idle, quota.
fn culprits_files(agent: &TestAgent) -> [String; 3] {
    let quota = cpu_file(agent, "culprit", "cpu.cfs_quota_us", "cpu.max");
    [
        cpu_file(agent, "culprit", "cpu.shares", "cpu.weight"),
        cpu_file(agent, "culprit", "cpu.idle", "cpu.idle"),
        quota.split_whitespace().next().unwrap_or_default().to_owned(),
    ]
}

fn decisions(agent: &TestAgent) -> Vec<Value> {
    json(&agent.ok(&["decisions", "--json"])).as_array().cloned().unwrap_or_default()
}

fn decided(agent: &TestAgent, kind: &str) -> Option<Value> {
    decisions(agent).into_iter().find(|decision| decision["kind"] == kind)
}

/// CPU time that a container's first process got in two seconds.
fn cores(agent: &TestAgent, name: &str) -> f64 {
    let pid = agent.pid_of(name);
    let before = cpu_ticks(pid).expect("it runs");
    std::thread::sleep(Duration::from_secs(2));
    (cpu_ticks(pid).expect("it runs") - before) as f64 / 200.0
}

#[test]
fn a_neighbour_is_limited_for_a_protected_containers_sake_and_let_go_when_that_ends() {
    skip_unless_possible!();
    let agent = start(POLICY);
    spin(&agent, "victim", &[], "2");
    spin(&agent, "culprit", &[], "4");
    let untouched = culprits_files(&agent);
    let beside = cores(&agent, "victim");
    until("the culprit to be limited", || decided(&agent, "tighten").is_some());
    let decision = decided(&agent, "tighten").unwrap();
    println!("{}", decision["message"]);
    assert_eq!(decision["container_name"], "culprit");
    assert_eq!(decision["victim_name"], "victim");
    assert_eq!((&decision["resource"], &decision["mode"]), (&"cpu".into(), &"enforce".into()));
    until("the kernel's files to say so", || culprits_files(&agent) != untouched);
    // It works on what others leave, where it had two thirds of everything.
    until("the victim to have what it wants", || cores(&agent, "victim") > 1.2 * beside);
    let leases = || agent.metrics().sum("tenantry_controller_leases", &[("resource", "cpu")]);
    assert!(leases() > Some(0.0));
    let limits = || json(&agent.ok(&["limits", "culprit", "--json"]));
    let now = limits();
    let held = now["held"].as_array().unwrap();
    let held: Vec<&Value> = held.iter().filter(|row| row["holder"] == "controller").collect();
    assert!(!held.is_empty() && held.iter().all(|row| row["reason"] != ""), "{now}");
    let first = &now["changes"][0];
    assert_eq!((&first["party"], &first["change"]), (&"controller".into(), &"throttle".into()));
    assert_eq!(first["victim_name"], "victim", "{first}");
    assert_eq!(
        (&first["reason"], &first["evidence"]),
        (&decision["message"], &decision["evidence"])
    );
    agent.ok(&["rm", "-f", "victim"]);
    until("the culprit to be let go", || culprits_files(&agent) == untouched);
    until("no lease to be left", || leases().unwrap_or(0.0) == 0.0);
    assert!(decided(&agent, "release").is_some());
    let now = limits();
    assert_eq!(now["held"], Value::Array(vec![]), "{now}");
    let last = now["changes"].as_array().unwrap().last().unwrap();
    assert_eq!((&last["party"], &last["change"]), (&"controller".into(), &"release".into()));
    let counted = agent.metrics().sum("tenantry_controller_decisions_total", &[]);
    assert!(counted >= Some(2.0), "{counted:?}");
    agent.finish();
}

#[test]
fn an_agent_that_ends_gives_everything_back() {
    skip_unless_possible!();
    let mut agent = start(POLICY);
    spin(&agent, "victim", &[], "2");
    spin(&agent, "culprit", &[], "4");
    let untouched = culprits_files(&agent);
    until("the culprit to be limited", || culprits_files(&agent) != untouched);
    let id = agent.native("culprit")["id"].as_str().unwrap().to_owned();
    agent.stop_agent();
    let shares = |version: &str| Path::new(version).join(&agent.cgroup_parent).join(&id);
    let (old, new) = (shares("/sys/fs/cgroup/cpu"), shares("/sys/fs/cgroup"));
    let now = std::fs::read_to_string(old.join("cpu.shares"))
        .or_else(|_| std::fs::read_to_string(new.join("cpu.weight")));
    assert_eq!(now.unwrap(), untouched[0]);
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn who_is_held_back_by_its_own_limit_blames_nobody() {
    skip_unless_possible!();
    let agent = start(POLICY);
    spin(&agent, "culprit", &["--cpus", "0.1"], "1");
    spin(&agent, "victim", &["--cpus", "0.2"], "2");
    std::thread::sleep(patience(8));
    let acted: Vec<Value> =
        decisions(&agent).into_iter().filter(|d| d["kind"] != "advise").collect();
    assert_eq!(acted, Vec::<Value>::new());
    agent.finish();
}

#[test]
fn without_a_policy_there_is_advice_and_nothing_is_touched() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    spin(&agent, "victim", &[], "2");
    spin(&agent, "culprit", &[], "4");
    // Who gets as much as others has no reason to complain: the victim gets a fifth.
    let weight = cpu_path(&agent, "victim", "cpu.shares", "cpu.weight");
    let fifth = if weight.ends_with("cpu.shares") { "256" } else { "25" };
    std::fs::write(weight, fifth).unwrap();
    let untouched = culprits_files(&agent);
    until("advice", || decided(&agent, "advise").is_some());
    println!("{}", decided(&agent, "advise").unwrap()["message"]);
    assert_eq!(culprits_files(&agent), untouched);
    assert!(decisions(&agent).iter().all(|decision| decision["kind"] == "advise"));
    agent.finish();
}

#[test]
fn a_wrong_policy_is_refused_whole_and_the_old_one_stays() {
    skip_unless_possible!();
    let agent = start(POLICY);
    let mode = || json(&agent.ok(&["policy", "show"]))["policy"]["mode"].clone();
    assert_eq!(mode(), "enforce");
    let file = agent.policy_file();
    let path = file.to_str().unwrap();
    assert!(agent.ok(&["policy", "check", path]).contains("is right"));
    std::fs::write(&file, "mode = \"advise\"\n[detect]\nsmoothing = 7\n").unwrap();
    for verb in [&["policy", "check", path][..], &["policy", "reload"]] {
        let (_, error) = agent.fails(verb);
        assert!(error.contains("smoothing") && error.contains('7'), "{error}");
    }
    let pid = rustix::process::Pid::from_raw(agent.pid() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the agent to say so", || agent.log().contains("the old policy stays"));
    assert_eq!(mode(), "enforce");
    std::fs::write(&file, "mode = \"dry-run\"\n").unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    until("the new policy", || mode() == "dry-run");
    agent.finish();
}

/// A container of another runtime, found by its cgroup alone, is limited only where the policy
/// says so. Its limits are its own again when the agent ends, when it is killed, and when its
/// runtime writes them.
#[test]
fn another_runtimes_container_is_limited_where_the_policy_says_so_and_given_back_always() {
    skip_unless_possible!();
    if !root("cpu").join("cpu.shares").exists() {
        println!("SKIPPED: the files that are looked at here are v1's");
        return;
    }
    let policy = |more: &str| {
        let rules = POLICY.replace("mode =", &format!("{more}\nmode ="));
        rules.replace("\"culprit\"", "\"f00dfeed*\"") + "[act]\nlease_seconds = 2\n"
    };
    let mut agent = start(&policy(""));
    let id = "f00dfeed".repeat(8);
    let slice = format!("/{}.slice", agent.cgroup_parent);
    let path = format!("{slice}/default/{id}");
    let foreign = Cgroup::make_in(&path, &["unified", "cpu", "blkio", "memory"]);
    let command =
        format!("{}/tenantry-workload spin --threads 4 --seconds 1000", programs().display());
    let spinner = Held(foreign.command(&command).spawn().unwrap());
    spin(&agent, "victim", &[], "2");
    let quota = root("cpu").join(&path[1..]).join("cpu.cfs_quota_us");
    // Most of the machine is the culprit's and what it leaves the victim's, whatever else runs.
    for (group, shares) in [(&slice[1..], "65536"), (&agent.cgroup_parent, "8192")] {
        std::fs::write(root("cpu").join(group).join("cpu.shares"), shares).unwrap();
    }
    let before = foreign.limits();
    assert_eq!(before[&quota], "-1\n");

    until("advice", || decided(&agent, "advise").is_some());
    let advice = decided(&agent, "advise").unwrap();
    println!("{}", advice["message"]);
    assert_eq!(advice["reason"], "culprit_foreign");
    assert_eq!((foreign.limits(), decided(&agent, "tighten")), (before.clone(), None));

    std::fs::write(agent.policy_file(), policy("limit_foreign = true")).unwrap();
    agent.ok(&["policy", "reload"]);
    // Its neighbours are below another parent: neither weight nor idle helps the victim.
    let is_cut = || !std::fs::read_to_string(&quota).unwrap().starts_with("-1");
    until("its quota to be cut", is_cut);
    let decision = decided(&agent, "tighten").unwrap();
    println!("{}", decision["message"]);
    assert_eq!(
        (&decision["container_id"], &decision["victim_name"]),
        (&id.into(), &"victim".into())
    );
    let ticks = || cpu_ticks(spinner.0.id()).unwrap();
    until("it gets less than half a CPU", || {
        let used = ticks();
        std::thread::sleep(Duration::from_secs(2));
        ticks() - used < 100
    });
    agent.stop_agent();
    assert_eq!(foreign.limits(), before, "an agent that ends gives it back");

    agent.spawn().unwrap();
    until("it is limited again", || foreign.limits() != before);
    agent.kill_nine();
    let killed = Instant::now();
    until("the guard restores", || foreign.limits() == before);
    println!("restored {:?} after the kill, the lease being 2 s", killed.elapsed());
    assert!(killed.elapsed() < patience(12));

    agent.spawn().unwrap();
    until("its quota to be cut", is_cut);
    std::fs::write(&quota, "170000").unwrap();
    until("the controller to yield", || decided(&agent, "yield").is_some());
    println!("{}", decided(&agent, "yield").unwrap()["message"]);
    let mut expected = before;
    expected.insert(quota, "170000\n".into());
    until("the rest to be given back", || foreign.limits() == expected);
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(foreign.limits(), expected, "what its runtime wrote is left alone");
    drop(spinner);
    drop(foreign);
    agent.finish();
}

/// The agent in a service that a rule calls best-effort, as one of all services would.
#[test]
fn the_agents_own_service_is_never_limited_whatever_the_rules_say() {
    skip_unless_possible!();
    if !root("cpu").join("cpu.shares").exists() {
        println!("SKIPPED: the files that are looked at here are v1's");
        return;
    }
    let policy = POLICY.replace("mode =", "limit_foreign = true\nmode =");
    let policy = policy.replace("\"culprit\"", "\"mine-*.service\"");
    let mut agent = start(&policy);
    agent.stop_agent();
    let slice = format!("{}.slice", agent.cgroup_parent);
    let make = |name: &str| {
        let hierarchies = ["unified", "cpu", "blkio", "memory"];
        Cgroup::make_in(&format!("/{slice}/mine-{name}.service"), &hierarchies)
    };
    let (own, other) = (make("agent"), make("other"));
    agent.spawn_in(&own).unwrap();
    let spinner = |cgroup: &Cgroup| {
        let program = format!("{}/tenantry-workload", programs().display());
        Held(cgroup.command(&format!("{program} spin --threads 4 --seconds 1000")).spawn().unwrap())
    };
    let untouched = own.limits();
    let beside_agent = spinner(&own);
    spin(&agent, "victim", &[], "2");
    for (group, shares) in [(&slice, "65536"), (&agent.cgroup_parent, "8192")] {
        std::fs::write(root("cpu").join(group).join("cpu.shares"), shares).unwrap();
    }
    let blamed = |kind: &str| {
        let answer = json(&agent.ok(&["blame", "--json", "--window", "5s"]));
        let waits = answer["waits"].as_array().unwrap().iter();
        let of_kind = waits.filter(|w| w["victim"] == "victim" && w["culprit_kind"] == kind);
        of_kind.map(|wait| wait["ratio"].as_f64().unwrap()).sum::<f64>()
    };
    until("the host to be blamed", || blamed("host") > 0.5);
    std::thread::sleep(patience(8));
    assert_eq!((decisions(&agent), own.limits()), (vec![], untouched.clone()));
    assert!(blamed("container") < 0.1 * blamed("host"), "{}", agent.ok(&["blame"]));
    // Metered it is, like any service.
    let labels = [("name", "mine-agent.service")];
    assert!(agent.metrics().sum("tenantry_run_queue_seconds_count", &labels) > Some(0.0));
    // Nor may somebody ask for it by hand.
    let hold = ["limit", "mine-agent.service", "--for", "1h", "--cpus", "0.2"];
    let (_, error) = agent.fails(&hold);
    assert!(error.contains("this agent runs in it"), "{error}");
    drop(beside_agent);

    let beside = spinner(&other);
    until("the other service to be limited", || decided(&agent, "tighten").is_some());
    println!("{}", decided(&agent, "tighten").unwrap()["message"]);
    assert!(decisions(&agent).iter().all(|d| d["container_name"] == "mine-other.service"));
    assert_eq!(own.limits(), untouched);
    drop(beside);
    // Its shims are in its service, too.
    agent.clear().unwrap();
    agent.stop_agent();
    drop((other, own));
    agent.spawn().unwrap();
    agent.finish();
}

/// Protected by its own word: `pulse` says on its `/metrics` how late its work was done.
#[test]
fn a_container_is_protected_by_the_latency_that_it_tells_itself() {
    skip_unless_possible!();
    if in_virtual_machine() {
        println!(
            "SKIPPED: what an emulated processor's threads wait is not their neighbours' doing"
        );
        return;
    }
    let policy = |metric: &str| {
        let own = format!("latency_ms = 30\n[rule.metric]\nname = \"{metric}\"\nport = 9100");
        POLICY.replace("pressure_cpu = 0.2", &own)
    };
    let agent = start(&policy("no_such_seconds"));
    let command = ["workload", "pulse", "9100", "--threads", "2", "--work", "2000000"];
    agent.run_detached("victim", &[], &command).unwrap();
    // Whatever else runs on the host gets little.
    let weight = cpu_path(&agent, "victim", "cpu.shares", "cpu.weight");
    let is_v1 = weight.ends_with("cpu.shares");
    let all = weight.parent().unwrap().with_file_name(weight.file_name().unwrap());
    std::fs::write(all, if is_v1 { "65536" } else { "6400" }).unwrap();
    let address = format!("{}:9100", agent.address("victim")).parse().unwrap();
    let done = |bound: &str| {
        let page = Metrics::parse(&scrape::get(address, "/metrics").unwrap());
        page.sum("pulse_seconds_bucket", &[("le", bound)]).unwrap()
    };
    // Of what was done in two seconds.
    let in_time = || {
        let (early, all) = (done("0.032"), done("+Inf"));
        std::thread::sleep(Duration::from_secs(2));
        (done("0.032") - early) / (done("+Inf") - all)
    };
    until("it is in time alone", || in_time() > 0.95);
    spin(&agent, "culprit", &[], "4");
    // A ninth is less than it needs.
    std::fs::write(weight, if is_v1 { "128" } else { "12" }).unwrap();
    let untouched = culprits_files(&agent);
    until("it is late beside the culprit", || in_time() < 0.5);
    let absent = || {
        let labels = [("reason", "absent")];
        agent.metrics().sum("tenantry_controller_scrape_failures_total", &labels)
    };
    assert!(absent() >= Some(2.0), "{:?}", absent());
    assert!(agent.log().contains("its latency is not known"));
    assert_eq!(decisions(&agent), Vec::<Value>::new(), "what nobody knows is no reason");

    std::fs::write(agent.policy_file(), policy("pulse_seconds")).unwrap();
    agent.ok(&["policy", "reload"]);
    until("the culprit to be limited", || decided(&agent, "tighten").is_some());
    let decision = decided(&agent, "tighten").unwrap();
    println!("{}", decision["message"]);
    let evidence = &decision["evidence"];
    assert_eq!((&evidence["objective"], &evidence["wanted"]), (&"latency_ms".into(), &30.0.into()));
    assert!(evidence["measured"].as_f64() > Some(30.0), "{evidence}");
    until("it is in time again", || in_time() > 0.95);
    assert!(agent.metrics().sum("tenantry_controller_scrapes_total", &[]) > Some(2.0));
    agent.ok(&["rm", "-f", "victim"]);
    until("the culprit to be let go", || culprits_files(&agent) == untouched);
    agent.finish();
}
