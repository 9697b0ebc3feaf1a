//! `tenantry rules`: check, show and reload the rules over audit events.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{Target, table};
use crate::api::native::rules::{RuleAnswer, RulesAnswer};
use crate::rules::{RuleSettings, read_rules};

#[derive(Debug, Subcommand)]
pub enum RulesVerb {
    /// Say whether rule files are right, and if not, everything that is wrong.
    Check(CheckFlags),
    /// Show the rules in force and what they matched.
    Show(ShowFlags),
    /// Have the agent read its rule files again.
    Reload,
}

#[derive(Debug, Args)]
pub struct CheckFlags {
    /// In the order of the agent's configuration.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Without the default set before them.
    #[arg(long)]
    no_default: bool,
}

#[derive(Debug, Args)]
pub struct ShowFlags {
    /// One rule, whole.
    name: Option<String>,
    #[arg(long)]
    json: bool,
}

pub async fn rules(target: &Target, verb: RulesVerb) -> anyhow::Result<()> {
    match verb {
        RulesVerb::Check(flags) => check(flags),
        RulesVerb::Show(flags) => show(target, flags).await,
        RulesVerb::Reload => {
            let answer: RulesAnswer =
                target.native().post("/v1/rules/reload", &serde_json::json!({})).await?;
            println!("{}", summary(&answer));
            Ok(())
        }
    }
}

fn check(flags: CheckFlags) -> anyhow::Result<()> {
    let settings = RuleSettings { default: !flags.no_default, files: flags.files };
    let set = read_rules(&settings)?;
    let enabled = set.rules().iter().filter(|rule| rule.enabled).count();
    println!("{enabled} rules are right");
    Ok(())
}

async fn show(target: &Target, flags: ShowFlags) -> anyhow::Result<()> {
    let mut answer: RulesAnswer = target.native().get("/v1/rules").await?;
    if let Some(name) = &flags.name {
        answer.rules.retain(|rule| rule.name == *name);
        anyhow::ensure!(!answer.rules.is_empty(), "no rule {name}");
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    if let (Some(_), [rule]) = (&flags.name, answer.rules.as_slice()) {
        print!("{}", whole(rule));
        return Ok(());
    }
    let rows: Vec<Vec<String>> = answer.rules.iter().map(row).collect();
    let heads = ["RULE", "SEVERITY", "KINDS", "RATE", "MATCHES", "SUPPRESSED", "FILE"];
    print!("{}", table::render(&heads, &rows));
    Ok(())
}

fn summary(answer: &RulesAnswer) -> String {
    let enabled = answer.rules.iter().filter(|rule| rule.enabled).count();
    let default = answer.default.then(|| "the default set".to_owned());
    let from: Vec<String> = default.into_iter().chain(answer.files.iter().cloned()).collect();
    format!("{enabled} rules of {}", from.join(", "))
}

fn row(rule: &RuleAnswer) -> Vec<String> {
    let severity = if rule.enabled { rule.severity.clone() } else { "off".into() };
    vec![
        rule.name.clone(),
        severity,
        rule.kinds.join(","),
        rate(rule),
        rule.matches.to_string(),
        rule.suppressed.to_string(),
        rule.file.clone(),
    ]
}

fn rate(rule: &RuleAnswer) -> String {
    let (Some(rate), Some(window_s)) = (rule.rate, rule.rate_window_seconds) else {
        return "-".into();
    };
    let window = match window_s {
        1 => "s".into(),
        60 => "min".into(),
        3600 => "h".into(),
        86_400 => "d".into(),
        other => format!("{other}s"),
    };
    format!("{rate}/{window}")
}

fn whole(rule: &RuleAnswer) -> String {
    let off = if rule.enabled { "" } else { " (off)" };
    format!(
        "{}{off}: {}\n{} for {}, {}, from {}\n{}\n{} matches, {} suppressed\n",
        rule.name,
        rule.description,
        rule.severity,
        rule.kinds.join(", "),
        rate(rule),
        rule.file,
        rule.condition,
        rule.matches,
        rule.suppressed,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_shown_with_its_rate_and_its_counts() {
        let rule = RuleAnswer {
            name: "x".into(),
            description: "An x".into(),
            severity: "warning".into(),
            kinds: vec!["exec".into(), "open".into()],
            condition: "process.pid = 1".into(),
            rate: Some(10),
            rate_window_seconds: Some(60),
            enabled: true,
            file: "own.toml".into(),
            matches: 12,
            suppressed: 2,
            ..RuleAnswer::default()
        };
        assert_eq!(row(&rule).join(" "), "x warning exec,open 10/min 12 2 own.toml");
        assert_eq!(
            whole(&rule),
            "x: An x\nwarning for exec, open, 10/min, from own.toml\nprocess.pid = 1\n12 matches, 2 suppressed\n"
        );
        assert_eq!(row(&RuleAnswer::default())[1], "off");
    }
}
