//! `tenantry decisions` and `tenantry policy`: what the controller does and by which rules.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use futures_util::TryStreamExt as _;

use super::{Target, table};
use crate::api::native::model::{Decision, PolicyAnswer};
use crate::controller::read_policy;

#[derive(Debug, Args)]
pub struct DecisionsFlags {
    /// How many of the last ones.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    /// Go on with those to come.
    #[arg(long, short)]
    follow: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
pub enum PolicyVerb {
    /// Say whether a policy file is right, and if not, everything that is wrong.
    Check { file: PathBuf },
    /// Print the policy in force, defaults filled in.
    Show,
    /// Have the agent read its policy file again.
    Reload,
}

#[derive(Debug, Args)]
pub struct ReplayFlags {
    /// A decision log: `decisions.jsonl` of an agent's data directory.
    file: PathBuf,
}

#[derive(Debug, Args)]
pub struct SimulateFlags {
    /// The policy to try.
    policy: PathBuf,
    /// What was recorded under another one.
    #[arg(long)]
    log: PathBuf,
    #[arg(long)]
    json: bool,
}

/// Decides everything again and says whether it comes out the same.
pub fn replay(flags: &ReplayFlags) -> anyhow::Result<ExitCode> {
    let report = tenantry_control::replay(read(&flags.file)?.lines())?;
    let cut = if report.cut { ", the last line is cut off" } else { "" };
    println!(
        "{} looks in {} episodes, {} decisions{cut}",
        report.looks, report.episodes, report.decisions
    );
    let Some(difference) = report.difference else {
        println!("all decided the same");
        return Ok(ExitCode::SUCCESS);
    };
    println!("line {} is decided otherwise:", difference.line);
    difference.recorded.iter().for_each(|decision| println!("  recorded: {decision}"));
    difference.decided.iter().for_each(|decision| println!("  now:      {decision}"));
    Ok(ExitCode::FAILURE)
}

/// What another policy would have done with the same hosts' numbers. Its limits were not
/// there, so what it would have changed is not in the numbers that follow.
pub fn simulate(flags: &SimulateFlags) -> anyhow::Result<()> {
    let policy = read_policy(&flags.policy)?;
    let simulation = tenantry_control::simulate(&policy, read(&flags.log)?.lines())?;
    if flags.json {
        let value = serde_json::json!({
            "looks": simulation.looks,
            "kept": simulation.kept,
            "added": simulation.added,
            "removed": simulation.removed,
        });
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(());
    }
    println!("{} looks, {} decisions are the same", simulation.looks, simulation.kept);
    simulation.removed.iter().for_each(|decision| println!("- {decision}"));
    simulation.added.iter().for_each(|decision| println!("+ {decision}"));
    let rows: Vec<Vec<String>> = simulation
        .limited
        .values()
        .map(|limited| {
            let seconds = |seconds: f64| format!("{seconds:.0} s");
            vec![limited.name.clone(), seconds(limited.recorded_s), seconds(limited.simulated_s)]
        })
        .collect();
    print!("{}", table::render(&["LIMITED", "RECORDED", "SIMULATED"], &rows));
    Ok(())
}

fn read(path: &std::path::Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| path.display().to_string())
}

pub async fn decisions(target: &Target, flags: DecisionsFlags) -> anyhow::Result<()> {
    let native = target.native();
    // Before the list, so that none falls between the two.
    let events = match flags.follow {
        true => Some(native.events("/v1/decisions/events").await?),
        false => None,
    };
    let path = format!("/v1/decisions?limit={}", flags.limit);
    let last: Vec<Decision> = native.get(&path).await?;
    let Some(events) = events else {
        match flags.json {
            true => println!("{}", serde_json::to_string_pretty(&last)?),
            false => last.iter().for_each(|decision| println!("{}", line(decision))),
        }
        return Ok(());
    };
    let print = |decision: &Decision| -> anyhow::Result<()> {
        match flags.json {
            true => println!("{}", serde_json::to_string(decision)?),
            false => println!("{}", line(decision)),
        }
        Ok(())
    };
    last.iter().try_for_each(print)?;
    let mut events = Box::pin(events);
    while let Some(text) = events.try_next().await? {
        match serde_json::from_str::<Decision>(&text) {
            Ok(decision) => print(&decision)?,
            // Its only other word is how many this reader missed.
            Err(_) => eprintln!("some were missed: {text}"),
        }
    }
    Ok(())
}

fn line(decision: &Decision) -> String {
    let mode = match decision.mode.as_str() {
        "enforce" => String::new(),
        mode => format!(" ({mode})"),
    };
    format!("{} {:8}{mode} {}", decision.time, decision.kind, decision.message)
}

pub async fn policy(target: &Target, verb: PolicyVerb) -> anyhow::Result<()> {
    match verb {
        PolicyVerb::Check { file } => {
            read_policy(&file)?;
            println!("{} is right", file.display());
        }
        PolicyVerb::Show => {
            let answer: PolicyAnswer = target.native().get("/v1/policy").await?;
            println!("{}", serde_json::to_string_pretty(&answer)?);
        }
        PolicyVerb::Reload => {
            let answer: PolicyAnswer =
                target.native().post("/v1/policy/reload", &serde_json::json!({})).await?;
            println!("{}", answer.file.as_deref().unwrap_or("no policy file: the default holds"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_it_was_not_executed() {
        let decision = |mode: &str| Decision {
            time: "2026-11-21T10:00:00Z".into(),
            kind: "tighten".into(),
            mode: mode.into(),
            message: "web waits for batch".into(),
            ..Decision::default()
        };
        assert_eq!(line(&decision("enforce")), "2026-11-21T10:00:00Z tighten  web waits for batch");
        assert_eq!(
            line(&decision("dry-run")),
            "2026-11-21T10:00:00Z tighten  (dry-run) web waits for batch"
        );
    }
}
