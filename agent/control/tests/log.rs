//! What is recorded replays to the same decisions, and another policy can be run over it.
//!
//! `tests/logs/synthetic-*.jsonl` are recorded on the toy host of `tests/plant`, not on a
//! kernel. `UPDATE_GOLDEN=1 cargo test -p tenantry-control --test log` rewrites them. The others
//! are from runs on a host (6.18, two CPUs); `cargo xtask bench record` says what happens in
//! each, and makes them anew.

mod plant;

use std::path::Path;

use plant::{Plant, Toy, enforce, server_and_spinners, toy};
use tenantry_control::{
    Actuator, Decision, Entry, Kind, LogError, Policy, Reason, Recorder, State, Wish, decide,
    replay, simulate,
};

/// A host that is recorded while it runs.
struct Recorded {
    plant: Plant,
    policy: Policy,
    state: State,
    recorder: Recorder,
    text: String,
    looks: usize,
}

impl Recorded {
    fn new(plant: Plant, policy: Policy) -> Recorded {
        let (state, recorder) = (State::default(), Recorder::new());
        Recorded { plant, policy, state, recorder, text: String::new(), looks: 0 }
    }

    fn looks(&mut self, count: usize) {
        for _ in 0..count {
            let before = self.state.clone();
            let mut seen = self.plant.clone();
            seen.now_ms += 1000;
            let decisions = self.plant.look(&self.policy, &mut self.state);
            let line = self.recorder.look(
                &self.policy,
                &before,
                &seen.rates(),
                seen.now_ms,
                (&self.state, &decisions),
            );
            self.looks += usize::from(line.is_some());
            self.text.extend(line);
        }
    }
}

/// Two episodes: the server is hurt, idles, and is hurt again.
fn two_episodes() -> Recorded {
    let mut recorded = Recorded::new(server_and_spinners(2), enforce(""));
    for _ in 0..2 {
        recorded.plant.toy("web").cores = 0.3;
        recorded.looks(20);
        recorded.plant.toy("web").cores = 0.0;
        recorded.looks(30);
    }
    recorded
}

#[test]
fn a_log_replays_to_the_same_decisions_and_quiet_looks_have_no_line() {
    let recorded = two_episodes();
    assert!((40..80).contains(&recorded.looks), "{}", recorded.looks);
    let report = replay(recorded.text.lines()).unwrap();
    assert_eq!((report.looks, report.episodes), (recorded.looks, 2));
    assert_eq!(report.decisions, 8, "each of two is limited and let go, twice");
    assert_eq!((report.difference, report.cut), (None, false));
}

#[test]
fn a_quiet_host_records_nothing() {
    let plant = Plant::of((0..50).map(|index| toy(&format!("c{index}"), "protected")));
    let mut recorded = Recorded::new(plant, enforce(""));
    recorded.looks(100);
    assert_eq!(recorded.text, "");
}

#[test]
fn the_first_difference_is_named_with_its_line() {
    let recorded = two_episodes();
    let lines: Vec<&str> = recorded.text.lines().collect();
    let at = lines.iter().position(|line| line.contains("\"after\":1.0")).unwrap();
    let changed = lines[at].replacen("\"after\":1.0", "\"after\":2.0", 1);
    let mut other = lines.clone();
    other[at] = &changed;
    let difference = replay(&other).unwrap().difference.unwrap();
    assert_eq!((difference.line, difference.index), (at + 1, 0));
    assert_eq!(difference.recorded.unwrap().after, Some(2.0));
    assert_eq!(difference.decided.unwrap().after, Some(1.0));
    // A decision that was left out differs as well.
    let start = lines[at].find(",\"decisions\"").unwrap();
    let without = format!("{}}}}}", &lines[at][..start]);
    other[at] = &without;
    let difference = replay(&other).unwrap().difference.unwrap();
    assert!(difference.recorded.is_none() && difference.decided.is_some());
}

#[test]
fn a_new_file_in_the_midst_of_an_episode_replays_alone() {
    let mut recorded =
        Recorded::new(server_and_spinners(1), enforce("[act]\nallow = [\"cpu.max\"]"));
    recorded.looks(10);
    recorded.recorder.restart();
    let first = std::mem::take(&mut recorded.text);
    recorded.looks(20);
    recorded.plant.toy("web").cores = 0.0;
    recorded.looks(10);
    for text in [&first, &recorded.text] {
        let report = replay(text.lines()).unwrap();
        assert_eq!(report.difference, None);
        assert!(report.decisions > 0);
    }
}

#[test]
fn another_policy_and_a_refusal_are_part_of_the_log() {
    let mut recorded = Recorded::new(server_and_spinners(1), enforce(""));
    recorded.looks(6);
    recorded.policy = enforce("[act]\nallow = [\"cpu.max\"]");
    recorded.looks(6);
    let until_ms = recorded.plant.now_ms + 10_000;
    recorded.state.refuse("spin0", &Actuator::CpuMax, until_ms);
    let line = recorded.recorder.refused("spin0", &Actuator::CpuMax, until_ms);
    recorded.text.extend(line);
    recorded.plant.toy("spin0").in_force.clear();
    recorded.looks(30);
    assert_eq!(recorded.text.matches("{\"head\"").count(), 2);
    assert_eq!(recorded.text.matches("{\"refused\"").count(), 1);
    assert_eq!(replay(recorded.text.lines()).unwrap().difference, None);
    let without = recorded.text.lines().filter(|line| !line.starts_with("{\"refused\""));
    assert!(replay(without).unwrap().difference.is_some());
}

#[test]
fn a_last_line_that_was_cut_is_left_out() {
    let recorded = two_episodes();
    let cut = &recorded.text[..recorded.text.len() - 100];
    let report = replay(cut.lines()).unwrap();
    assert_eq!((report.cut, report.looks, report.difference), (true, recorded.looks - 1, None));
}

#[test]
fn what_is_no_log_is_refused_with_its_line() {
    let recorded = two_episodes();
    let lines: Vec<&str> = recorded.text.lines().collect();
    assert_eq!(replay(lines[1..].iter()), Err(LogError::NoHead { line: 1 }));
    let without = [lines[0], lines[2]];
    assert_eq!(replay(without), Err(LogError::NoState { line: 2 }));
    let future = lines[0].replacen("\"format\":1", "\"format\":2", 1);
    assert_eq!(replay([future]), Err(LogError::Format { line: 1, found: 2 }));
    let error = replay(["hello", lines[0]]).unwrap_err().to_string();
    assert!(error.starts_with("line 1 is no line of a decision log"), "{error}");
}

#[test]
fn any_number_comes_back_to_the_last_bit() {
    let mut recorded = Recorded::new(server_and_spinners(1), enforce(""));
    for step in 0..200 {
        recorded.plant.toy("web").cores = 0.2 + f64::from(step) / 700.0;
        recorded.plant.toy("spin0").cores = 2.0 + f64::from(step).sqrt();
        recorded.looks(1);
    }
    assert_eq!(replay(recorded.text.lines()).unwrap().difference, None);
}

#[test]
fn the_same_policy_simulates_to_what_was_recorded() {
    let recorded = two_episodes();
    let simulation = simulate(&recorded.policy, recorded.text.lines()).unwrap();
    assert_eq!((simulation.looks, simulation.kept), (recorded.looks, 8));
    assert_eq!((&simulation.added, &simulation.removed), (&vec![], &vec![]));
    for limited in simulation.limited.values() {
        assert!(limited.recorded_s > 30.0 && limited.recorded_s == limited.simulated_s);
    }
}

#[test]
fn another_policy_shows_what_it_would_do_otherwise() {
    let recorded = two_episodes();
    let harder = simulate(&enforce("[act]\nallow = [\"cpu.max\"]"), recorded.text.lines()).unwrap();
    let all = |decisions: &[Decision], actuator| {
        decisions.iter().all(|decision| decision.actuator == Some(actuator))
    };
    assert!(all(&harder.added, Actuator::CpuMax) && !harder.added.is_empty());
    assert!(all(&harder.removed, Actuator::CpuIdle) && harder.removed.len() == 8);
    // Nobody touched its limits behind its back: the recorded ones are not its own.
    assert!(harder.added.iter().all(|decision| decision.kind != Kind::Yield));
    let advising = simulate(&Policy::default(), recorded.text.lines()).unwrap();
    assert!(advising.limited.values().all(|limited| limited.simulated_s == 0.0));
    assert!(advising.added.iter().all(|decision| decision.kind == Kind::Advise));
}

/// A server against spinners until an operator steps in.
fn synthetic_cpu() -> Recorded {
    let policy = enforce(
        "[protected]\nrun_queue_p99_ms = 0.3\npressure_cpu = 0.002\n\
         [act]\nallow = [\"cpu.weight\"]\n",
    );
    let mut recorded = Recorded::new(server_and_spinners(2), policy);
    recorded.looks(12);
    let wish = Wish { limit: Some(50.0), guarantee: None };
    let spinner = recorded.plant.toy("spin0");
    spinner.wishes.insert(Actuator::CpuWeight, wish);
    spinner.in_force.insert(Actuator::CpuWeight, 50.0);
    recorded.looks(10);
    recorded.plant.toy("web").stopped = true;
    recorded.looks(3);
    recorded
}

/// A database beside a backup, whose limit is found, given back in part, and lifted.
fn synthetic_disk() -> Recorded {
    let db = Toy { write_bytes_per_s: 2e6, cores: 0.2, ..toy("db", "protected") };
    let backup = Toy { write_bytes_per_s: 195e6, ..toy("backup", "best-effort") };
    let policy = enforce(
        "[protected]\npressure_io = 0.5\n[act]\ngive_back_seconds = 2\nturn_seconds = 10\n",
    );
    let mut recorded = Recorded::new(Plant::of([db, backup]), policy);
    recorded.looks(30);
    recorded.plant.toy("backup").write_bytes_per_s = 0.0;
    recorded.looks(8);
    recorded
}

#[test]
fn the_logs_in_the_repository_replay() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/logs");
    for (name, recorded) in [("cpu", synthetic_cpu()), ("disk", synthetic_disk())] {
        let path = folder.join(format!("synthetic-{name}.jsonl"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &recorded.text).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let report = replay(text.lines()).unwrap();
        assert_eq!(report.difference, None, "{name}");
        assert!(text == recorded.text, "{name} changed: look at it, then run with UPDATE_GOLDEN=1");
    }
}

/// What each run on a host is for: how it ends.
const REAL: [(&str, Kind, Reason); 5] = [
    ("cpu", Kind::Release, Reason::CulpritGone),
    ("disk", Kind::Release, Reason::CulpritGone),
    ("network", Kind::Release, Reason::CulpritGone),
    ("operator", Kind::Yield, Reason::OperatorChanged),
    ("victim-gone", Kind::Release, Reason::VictimGone),
];

fn real(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/logs/{name}.jsonl"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn decisions(text: &str) -> Vec<Decision> {
    let entries = text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap());
    let looks = entries.filter_map(|entry| match entry {
        Entry::Look(look) => Some(look.decisions.into_owned()),
        _ => None,
    });
    looks.flatten().collect()
}

#[test]
fn what_was_recorded_on_a_host_replays_to_the_same_decisions() {
    for (name, kind, reason) in REAL {
        let text = real(name);
        let report = replay(text.lines()).unwrap();
        assert_eq!((report.difference, report.cut), (None, false), "{name}");
        let decisions = decisions(&text);
        assert_eq!(report.decisions, decisions.len(), "{name}");
        assert!(decisions.iter().any(|one| one.kind == Kind::Tighten), "{name}");
        let is_end = |one: &Decision| (one.kind, one.reason) == (kind, reason);
        assert!(decisions.iter().any(is_end), "{name}: {decisions:#?}");
    }
}

#[test]
fn a_decision_that_was_changed_in_a_recorded_log_is_found() {
    for (name, _, _) in REAL {
        let text = real(name);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|line| line.contains("\"kind\":\"tighten\"")).unwrap();
        let changed = lines[at].replacen("\"kind\":\"tighten\"", "\"kind\":\"loosen\"", 1);
        let mut other = lines.clone();
        other[at] = &changed;
        let difference = replay(&other).unwrap().difference.unwrap();
        assert_eq!(difference.line, at + 1, "{name}");
        assert_eq!(difference.decided.unwrap().kind, Kind::Tighten, "{name}");
    }
}

#[test]
fn the_synthetic_logs_hold_what_they_are_for() {
    let kinds = |recorded: Recorded| {
        let (mut state, mut kinds) = (State::default(), Vec::new());
        for line in recorded.text.lines() {
            if let Entry::Look(look) = serde_json::from_str(line).unwrap() {
                let (next, decisions) = decide(&recorded.policy, &state, &look.rates, look.now_ms);
                state = next;
                kinds.extend(decisions.into_iter().map(|decision| decision.kind));
            }
        }
        kinds
    };
    let cpu = kinds(synthetic_cpu());
    assert!([Kind::Tighten, Kind::Yield, Kind::Release].iter().all(|kind| cpu.contains(kind)));
    let disk = kinds(synthetic_disk());
    assert!([Kind::Tighten, Kind::Loosen, Kind::Release].iter().all(|kind| disk.contains(kind)));
}
