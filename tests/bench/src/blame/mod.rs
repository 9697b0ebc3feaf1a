//! How often blame is right: random trials of one victim, one real culprit and four others,
//! and trials in which nobody is guilty.
//!
//! Whom the agent names in its answer (`culprits` of `/v1/blame`) counts, nothing else. The
//! generator's seed is fixed, so that a run can be repeated; `TENANTRY_TRIALS` is how many
//! (60), `TENANTRY_KIND` what kind alone (`memory`, `own-quota`; else all). All containers
//! together have little memory, and a link of 20 Mbit/s that they share.

mod trial;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tenantry_e2e::agent::{TestAgent, json};
use tenantry_e2e::uplink::{FAR, Uplink};

use self::trial::{Dice, Kind, NEIGHBOURS, Named, Trial, judge, name, plan};

const TRIALS: usize = 60;
const SEED: u64 = 0x9E37_79B9_7F4A_7C15;
const WINDOW: &str = "2s";
/// So long before the load's end the agent is asked.
const BEFORE_END: Duration = Duration::from_millis(300);
/// With a cached file of 200 MiB and a neighbour that grows, it is short.
const MEMORY_BYTES: u64 = 256 << 20;

#[derive(Debug, Default)]
struct Score {
    trials: usize,
    /// The real culprit was named, and for the right resource.
    right: usize,
    /// Somebody else was.
    wrong: usize,
}

pub fn run() -> Result<()> {
    let trials = match std::env::var("TENANTRY_TRIALS") {
        Ok(text) => text.parse().with_context(|| format!("TENANTRY_TRIALS: {text:?}"))?,
        Err(_) => TRIALS,
    };
    let wanted = std::env::var("TENANTRY_KIND").ok();
    let wanted = wanted
        .map(|text| Kind::named(&text).with_context(|| format!("TENANTRY_KIND: {text:?}")))
        .transpose()?;
    let agent = TestAgent::try_start()?;
    let mut uplink = Uplink::create("tbf rate 20mbit burst 8000 limit 300000");
    for port in [9001, 9002, 9003] {
        uplink.serve(port, &format!("accept {port} --count 1000000 --bytes 1"));
    }
    for name in std::iter::once("victim".to_owned()).chain((0..NEIGHBOURS).map(name)) {
        agent.run_detached(&name, &[], &["sleep", "100000"])?;
        agent.run(&["exec", &name, "mkdir", "-p", "/tmp"])?;
    }
    agent.limit_memory(MEMORY_BYTES)?;
    let mut dice = Dice(SEED);
    let mut scores: BTreeMap<Kind, Score> = BTreeMap::new();
    for number in 0..trials {
        let mut trials = std::iter::repeat_with(|| plan(&mut dice, FAR));
        let trial = trials.find(|trial| wanted.is_none_or(|kind| kind == trial.kind));
        let trial = trial.context("dice without end")?;
        let named = perform(&agent, &trial)?;
        let score = scores.entry(trial.kind).or_default();
        score.trials += 1;
        let (right, wrong) = judge(&trial, &named);
        score.right += usize::from(right);
        score.wrong += usize::from(wrong);
        let guilty = trial.culprit.map_or_else(|| "nobody".into(), name);
        println!("  {number:3} {:?}: {guilty} is guilty, named {named:?}", trial.kind);
    }
    drop(uplink);
    agent.finish();
    report(&scores);
    Ok(())
}

/// Runs a trial's load and asks whom the agent names.
fn perform(agent: &TestAgent, trial: &Trial) -> Result<Vec<Named>> {
    if trial.kind == Kind::OwnQuota {
        agent.run(&["limit", "victim", "--cpus", "0.2"])?;
    }
    let mut running: Vec<Child> = Vec::new();
    let commands = std::iter::once(("victim".to_owned(), &trial.victim))
        .chain(trial.neighbours.iter().enumerate().map(|(n, command)| (name(n), command)));
    for (container, command) in commands {
        let Some(command) = command else { continue };
        let mut client = agent.client(&["exec", &container, "sh", "-c", command]);
        let word = trial.kind.ready_word().filter(|_| container == "victim");
        let output = if word.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut client = client.stdout(output).stderr(Stdio::null()).spawn()?;
        if let Some(word) = word {
            let mut line = String::new();
            // What it says at its end stays in the pipe: it is short.
            BufReader::new(client.stdout.as_mut().context("its output")?).read_line(&mut line)?;
            ensure!(line.contains(word), "{container} said {line:?}");
        }
        running.push(client);
    }
    std::thread::sleep(Duration::from_secs(trial.kind.load_s()).saturating_sub(BEFORE_END));
    let answer = json(&agent.run(&["blame", "--json", "--window", WINDOW])?);
    for mut client in running {
        client.wait()?;
    }
    if trial.kind == Kind::OwnQuota {
        agent.run(&["limit", "victim", "--cpus", "max"])?;
    }
    let culprits = answer["culprits"].as_array().context("culprits")?;
    ensure!(answer["seconds"].as_f64().is_some_and(|seconds| seconds > 1.0), "{answer}");
    let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
    Ok(culprits
        .iter()
        .map(|one| ["victim", "culprit", "resource"].map(|field| text(one, field)))
        .collect())
}

fn report(scores: &BTreeMap<Kind, Score>) {
    for (kind, Score { trials, right, wrong }) in scores {
        println!("  {kind:?}: {trials} trials, {right} right, {wrong} wrong");
    }
    let sum = |guilty: bool, of: fn(&Score) -> usize| -> usize {
        let chosen = scores.iter().filter(|(kind, _)| kind.resource().is_some() == guilty);
        chosen.map(|(_, score)| of(score)).sum()
    };
    let share = |count: usize, all: usize| 100.0 * count as f64 / all.max(1) as f64;
    let (guilty, right) = (sum(true, |score| score.trials), sum(true, |score| score.right));
    println!("  the right culprit named: {right} of {guilty} ({:.1} %)", share(right, guilty));
    let (none, wrong) = (sum(false, |score| score.trials), sum(false, |score| score.wrong));
    println!(
        "  somebody named where nobody is guilty: {wrong} of {none} ({:.1} %)",
        share(wrong, none)
    );
}
