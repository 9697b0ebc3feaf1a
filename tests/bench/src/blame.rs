//! How often blame is right: random trials of one victim, one real culprit and four others,
//! and trials in which nobody is guilty.
//!
//! Whom the agent names in its answer (`culprits` of `/v1/blame`) counts, nothing else. A
//! trial's roles and load come from a generator with a fixed seed, so that a run can be
//! repeated; `TENANTRY_BLAME_TRIALS` is how many (200).

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};

const NEIGHBOURS: usize = 5;
/// How long the load of a trial runs, and what of it is looked at.
const LOAD_S: u64 = 4;
const WINDOW: &str = "2s";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Cpu,
    Disk,
    OwnQuota,
    IdleHost,
    GreedyAlone,
}

#[derive(Debug, Default)]
struct Score {
    trials: usize,
    /// The real culprit was named, and for the right resource.
    right: usize,
    /// Somebody else was.
    wrong: usize,
}

/// Xorshift.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }
}

/// A command for each container that does something in a trial.
#[derive(Debug, PartialEq)]
struct Trial {
    kind: Kind,
    /// Index of the neighbour that is guilty.
    culprit: Option<usize>,
    victim: Option<String>,
    neighbours: Vec<Option<String>>,
}

/// Works in bursts on the CPUs of `mask`: some milliseconds of each ten.
fn bursts(mask: u32, rounds: usize) -> String {
    format!(
        "taskset {mask} timeout {LOAD_S} sh -c 'while :; do i=0; \
         while [ $i -lt {rounds} ]; do i=$((i+1)); done; sleep 0.00{}; done'",
        5
    )
}

fn spin(mask: u32, threads: usize) -> String {
    format!("taskset {mask} timeout {LOAD_S} workload spin --seconds {LOAD_S} --threads {threads}")
}

fn plan(dice: &mut Dice) -> Trial {
    let kind = match dice.below(10) {
        0..=3 => Kind::Cpu,
        4..=6 => Kind::Disk,
        7 => Kind::OwnQuota,
        8 => Kind::IdleHost,
        _ => Kind::GreedyAlone,
    };
    let mut neighbours: Vec<Option<String>> = vec![None; NEIGHBOURS];
    let (mut victim, mut culprit) = (None, None);
    let one = dice.below(NEIGHBOURS);
    match kind {
        Kind::Cpu => {
            victim = Some(bursts(1, 2000 + dice.below(8000)));
            culprit = Some(one);
            neighbours[one] = Some(spin(1, 1 + dice.below(3)));
        }
        Kind::Disk => {
            victim = Some(format!(
                "timeout {LOAD_S} sh -c 'while :; do workload directio --path /tmp/v --bytes {}; \
                 done'",
                (1 + dice.below(4)) << 20
            ));
            culprit = Some(one);
            let write = format!("workload noise --write /tmp/n --seconds {LOAD_S}");
            let more = (0..dice.below(3))
                .map(|n| format!("workload noise --write /tmp/n{n} --seconds {LOAD_S} & "));
            neighbours[one] = Some(format!("{}{write}", more.collect::<String>()));
        }
        Kind::OwnQuota => victim = Some(spin(1, 1 + dice.below(2))),
        Kind::IdleHost => return Trial { kind, culprit, victim, neighbours },
        Kind::GreedyAlone => {
            neighbours[one] = Some(spin(3, 1));
            return Trial { kind, culprit, victim, neighbours };
        }
    }
    // The others are there, and innocent: elsewhere, or now and then.
    for (n, command) in neighbours.iter_mut().enumerate() {
        if n != one || kind == Kind::OwnQuota {
            *command = match dice.below(4) {
                0 => Some(spin(2, 1)),
                1 => Some(format!("timeout {LOAD_S} sh -c 'while :; do sleep 0.05; done'")),
                _ => None,
            };
        }
    }
    Trial { kind, culprit, victim, neighbours }
}

fn name(neighbour: usize) -> String {
    format!("n{neighbour}")
}

pub fn run() -> Result<()> {
    let trials = std::env::var("TENANTRY_BLAME_TRIALS").ok();
    let trials: usize = trials.map_or(Ok(200), |text| text.parse())?;
    let agent = TestAgent::try_start()?;
    for name in std::iter::once("victim".to_owned()).chain((0..NEIGHBOURS).map(name)) {
        agent.run_detached(&name, &[], &["sleep", "100000"])?;
        agent.run(&["exec", &name, "mkdir", "-p", "/tmp"])?;
    }
    let mut dice = Dice(0x9E37_79B9_7F4A_7C15);
    let mut scores: BTreeMap<Kind, Score> = BTreeMap::new();
    for number in 0..trials {
        let trial = plan(&mut dice);
        let named = perform(&agent, &trial)?;
        let score = scores.entry(trial.kind).or_default();
        score.trials += 1;
        let (right, wrong) = judge(&trial, &named);
        score.right += usize::from(right);
        score.wrong += usize::from(wrong);
        let guilty = trial.culprit.map_or_else(|| "nobody".into(), name);
        println!("  {number:3} {:?}: {guilty} is guilty, named {named:?}", trial.kind);
    }
    agent.finish();
    report(&scores)
}

/// Runs a trial's load and asks whom the agent names: victim, culprit, resource.
fn perform(agent: &TestAgent, trial: &Trial) -> Result<Vec<[String; 3]>> {
    if trial.kind == Kind::OwnQuota {
        agent.run(&["limit", "victim", "--cpus", "0.2"])?;
    }
    let mut running: Vec<Child> = Vec::new();
    let commands = std::iter::once(("victim".to_owned(), &trial.victim))
        .chain(trial.neighbours.iter().enumerate().map(|(n, command)| (name(n), command)));
    for (container, command) in commands {
        let Some(command) = command else { continue };
        let mut client = agent.client(&["exec", &container, "sh", "-c", command]);
        running.push(client.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    }
    std::thread::sleep(Duration::from_millis(3300));
    let answer = json(&agent.run(&["blame", "--json", "--window", WINDOW])?);
    for mut client in running {
        client.wait()?;
    }
    if trial.kind == Kind::OwnQuota {
        agent.run(&["limit", "victim", "--cpus", "2"])?;
    }
    let culprits = answer["culprits"].as_array().context("culprits")?;
    ensure!(answer["seconds"].as_f64().is_some_and(|seconds| seconds > 1.0), "{answer}");
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Ok(culprits
        .iter()
        .map(|one| ["victim", "culprit", "resource"].map(|field| text(one, field)))
        .collect())
}

/// Whether the real culprit was named, and whether somebody was who is not. That the culprit
/// waits for its victim in turn is no error, nor are neighbours who load the same CPU.
fn judge(trial: &Trial, named: &[[String; 3]]) -> (bool, bool) {
    let resource = if trial.kind == Kind::Disk { "disk" } else { "cpu" };
    let Some(culprit) = trial.culprit.map(name) else {
        let spins = |who: &str| {
            let index = (0..NEIGHBOURS).find(|n| name(*n) == who);
            index.is_some_and(|n| trial.neighbours[n].is_some())
        };
        let innocent =
            |one: &[String; 3]| one[0] == "victim" || one[1] == "victim" || !spins(&one[0]);
        return (!named.iter().any(innocent), named.iter().any(innocent));
    };
    let of_victim = || named.iter().filter(|one| one[0] == "victim" && one[2] == resource);
    (of_victim().any(|one| one[1] == culprit), of_victim().any(|one| one[1] != culprit))
}

fn report(scores: &BTreeMap<Kind, Score>) -> Result<()> {
    for (kind, score) in scores {
        println!(
            "  {kind:?}: {} trials, {} right, {} wrong",
            score.trials, score.right, score.wrong
        );
    }
    let of = |guilty: bool| {
        scores.iter().filter(move |(kind, _)| (**kind <= Kind::Disk) == guilty).map(|(_, s)| s)
    };
    let share = |count: usize, all: usize| 100.0 * count as f64 / all.max(1) as f64;
    let guilty: usize = of(true).map(|score| score.trials).sum();
    let right: usize = of(true).map(|score| score.right).sum();
    let innocent: usize = of(false).map(|score| score.trials).sum();
    let wrong: usize = of(false).map(|score| score.wrong).sum();
    println!("  the right culprit named: {right} of {guilty} ({:.1} %)", share(right, guilty));
    println!(
        "  somebody named where nobody is guilty: {wrong} of {innocent} ({:.1} %)",
        share(wrong, innocent)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_plans_the_same_trials_and_each_has_one_culprit_or_none() {
        let plans = || {
            let mut dice = Dice(7);
            (0..200).map(|_| plan(&mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(plans(), plans());
        for trial in plans() {
            let guilty = matches!(trial.kind, Kind::Cpu | Kind::Disk);
            assert_eq!(trial.culprit.is_some(), guilty, "{trial:?}");
            assert!(!guilty || trial.victim.is_some(), "{trial:?}");
        }
        let kinds: std::collections::BTreeSet<Kind> = plans().iter().map(|one| one.kind).collect();
        assert_eq!(kinds.len(), 5);
    }

    #[test]
    fn only_who_is_guilty_may_be_named_for_the_victim() {
        let trial = |culprit| Trial {
            kind: if culprit == Some(2) { Kind::Cpu } else { Kind::IdleHost },
            culprit,
            victim: None,
            neighbours: vec![None; NEIGHBOURS],
        };
        let named = |victim: &str, culprit: &str| [victim, culprit, "cpu"].map(str::to_owned);
        assert_eq!(judge(&trial(Some(2)), &[named("victim", "n2")]), (true, false));
        assert_eq!(judge(&trial(Some(2)), &[named("victim", "n1")]), (false, true));
        assert_eq!(judge(&trial(Some(2)), &[named("n2", "victim")]), (false, false));
        assert_eq!(judge(&trial(None), &[named("victim", "n1")]), (false, true));
        assert_eq!(judge(&trial(None), &[]), (true, false));
    }
}
