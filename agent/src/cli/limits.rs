//! `tenantry limits`: who holds which of a container's limits, and who changed it before.

use std::borrow::Cow;

use clap::Args;

use super::{Target, table};
use crate::api::native::limit_history::{HeldLimit, LimitsHistory};
use crate::limit_line::LimitLine;

#[derive(Debug, Args)]
pub struct LimitsFlags {
    name: String,
    /// Print the agent's answer as it is.
    #[arg(long)]
    json: bool,
}

pub async fn limits(target: &Target, flags: LimitsFlags) -> anyhow::Result<()> {
    let path = format!("/v1/containers/{}/limits/history", flags.name);
    let answer: LimitsHistory = target.native().get(&path).await?;
    match flags.json {
        true => println!("{}", serde_json::to_string_pretty(&answer)?),
        false => print!("{}", render(&answer)),
    }
    Ok(())
}

fn render(answer: &LimitsHistory) -> String {
    let mut text = match answer.held.is_empty() {
        true => "nothing is limited\n".to_owned(),
        false => {
            let rows: Vec<_> = answer.held.iter().map(held).collect();
            table::render(&["LIMIT", "WISH", "IN FORCE", "HOLDER", "LEASE", "REASON"], &rows)
        }
    };
    if !answer.changes.is_empty() {
        text.push('\n');
        let rows: Vec<_> = answer.changes.iter().rev().map(changed).collect();
        text += &table::render(&["TIME", "WHO", "WHAT", "LIMIT", "CHANGE", "REASON"], &rows);
    }
    text
}

fn held(row: &HeldLimit) -> Vec<String> {
    let in_force = row.in_force.as_deref().map_or("-".into(), |now| number(&row.limit, now));
    let lease = row.lease_ends_in_seconds.map(|left| format!("{left:.0} s"));
    vec![
        row.limit.clone(),
        number(&row.limit, &row.wish).into_owned(),
        in_force.into_owned(),
        row.holder.clone(),
        lease.unwrap_or_else(|| "-".to_owned()),
        row.reason.clone(),
    ]
}

fn changed(row: &LimitLine) -> Vec<String> {
    let value = |value: &str| number(&row.limit, value).into_owned();
    vec![
        row.time.clone(),
        row.party.clone(),
        match row.lease_seconds {
            Some(seconds) => format!("{} ({seconds:.0} s)", row.change),
            None => row.change.clone(),
        },
        row.limit.clone(),
        format!("{} → {}", value(&row.before), value(&row.after)),
        row.reason.clone(),
    ]
}

/// Bytes as people read them; what else there is, and what a file said, as it is.
fn number<'a>(limit: &str, value: &'a str) -> Cow<'a, str> {
    let is_bytes =
        limit.starts_with("memory.") || limit.ends_with("rbps") || limit.ends_with("wbps");
    match value.parse() {
        Ok(bytes) if is_bytes => table::bytes(bytes).into(),
        _ => value.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_holds_what_comes_first_and_then_the_newest_change() {
        let held = |limit: &str, in_force: Option<&str>, holder: &str| HeldLimit {
            limit: limit.into(),
            wish: "max".into(),
            in_force: in_force.map(str::to_owned),
            holder: holder.into(),
            ..HeldLimit::default()
        };
        let change = |time: &str, after: &str| LimitLine {
            time: time.into(),
            party: "operator".into(),
            change: "set".into(),
            limit: "memory.max".into(),
            before: "max".into(),
            after: after.into(),
            ..LimitLine::default()
        };
        let mut answer = LimitsHistory {
            held: vec![
                HeldLimit {
                    lease_ends_in_seconds: Some(4.6),
                    reason: "cpu for web".into(),
                    ..held("cpu.max", Some("0.2"), "controller")
                },
                held("io.max 8:0 wbps", None, "operator"),
            ],
            changes: vec![change("10:00", "67108864"), change("11:00", "max")],
            ..LimitsHistory::default()
        };
        let expected = "\
LIMIT             WISH   IN FORCE   HOLDER       LEASE   REASON
cpu.max           max    0.2        controller   5 s     cpu for web
io.max 8:0 wbps   max    -          operator     -

TIME    WHO        WHAT   LIMIT        CHANGE           REASON
11:00   operator   set    memory.max   max → max
10:00   operator   set    memory.max   max → 64.0 MiB
";
        assert_eq!(render(&answer), expected);
        answer = LimitsHistory::default();
        assert_eq!(render(&answer), "nothing is limited\n");
    }
}
