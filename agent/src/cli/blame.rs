//! `tenantry blame`: who kept whom waiting, one matrix for each resource.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;

use super::Target;
use crate::api::native::blame::{Blame, Wait};
use crate::duration;

/// Culprits with a column of their own; the rest is one.
const COLUMNS: usize = 8;
const REST: &str = "others";

#[derive(Debug, Args)]
pub struct BlameFlags {
    /// How far back, such as 10s.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = parse_window)]
    window: Duration,
    /// Print the agent's answer as it is.
    #[arg(long)]
    json: bool,
}

fn parse_window(text: &str) -> Result<Duration, String> {
    let allowed = Duration::from_secs(1)..=Duration::from_secs(120);
    let length = duration::parse(text).filter(|length| allowed.contains(length));
    length.ok_or_else(|| "1s to 120s, such as 10s".into())
}

pub async fn blame(target: &Target, flags: BlameFlags) -> anyhow::Result<()> {
    let path = format!("/v1/blame?window={}ms", flags.window.as_millis());
    let answer: Blame = target.native().get(&path).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    // As https://no-color.org has it.
    let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    print!("{}", render(&answer, std::io::stdout().is_terminal() && !is_plain));
    Ok(())
}

fn render(answer: &Blame, colour: bool) -> String {
    let mut resources: Vec<&str> = Vec::new();
    for wait in &answer.waits {
        if !resources.contains(&wait.resource.as_str()) {
            resources.push(&wait.resource);
        }
    }
    let mut text = String::new();
    for resource in resources {
        let waits: Vec<&Wait> =
            answer.waits.iter().filter(|wait| wait.resource == resource).collect();
        text.push_str(&matrix(resource, &waits, colour));
        text.push('\n');
    }
    for one in &answer.culprits {
        text.push_str(&format!(
            "{} keeps {} waiting for {}: {} of the time\n",
            one.culprit,
            one.victim,
            one.resource,
            percent(one.ratio)
        ));
    }
    if answer.waits.is_empty() {
        text.push_str("nobody waited\n");
    }
    text.push_str(&format!("shares of the last {:.1} s\n", answer.seconds));
    text
}

/// Names with their sums, the largest first.
fn ranked<'a>(waits: &[&'a Wait], name: impl Fn(&'a Wait) -> &'a str) -> Vec<&'a str> {
    let mut sums: HashMap<&str, f64> = HashMap::new();
    for wait in waits {
        *sums.entry(name(wait)).or_default() += wait.ratio;
    }
    let mut ranked: Vec<(&str, f64)> = sums.into_iter().collect();
    ranked.sort_by(|(a, of_a), (b, of_b)| of_b.total_cmp(of_a).then(a.cmp(b)));
    ranked.into_iter().map(|(name, _)| name).collect()
}

/// Victims down, culprits across, both with the longest waits first.
fn matrix(resource: &str, waits: &[&Wait], colour: bool) -> String {
    let victims = ranked(waits, |wait| &wait.victim);
    let mut culprits = ranked(waits, |wait| &wait.culprit);
    let has_rest = culprits.len() > COLUMNS;
    culprits.truncate(COLUMNS);
    let mut cells: HashMap<(&str, &str), f64> = HashMap::new();
    for wait in waits {
        let culprit = if culprits.contains(&wait.culprit.as_str()) { &wait.culprit } else { REST };
        *cells.entry((&wait.victim, culprit)).or_default() += wait.ratio;
    }
    if has_rest {
        culprits.push(REST);
    }
    let width_of = |names: &[&str]| names.iter().map(|name| name.chars().count()).max();
    let first = width_of(&victims).unwrap_or_default().max(resource.len() + 8);
    let title = format!("{} VICTIM", resource.to_uppercase());
    let mut text = format!("{title:first$}");
    for culprit in &culprits {
        text.push_str(&format!("  {culprit:>8}"));
    }
    text.push_str("       ALL\n");
    for victim in victims {
        text.push_str(&format!("{victim:first$}"));
        let mut all = 0.0;
        for culprit in &culprits {
            let ratio = cells.get(&(victim, *culprit)).copied();
            all += ratio.unwrap_or_default();
            let width = culprit.chars().count().max(8);
            let shown = ratio.map_or_else(|| "-".into(), percent);
            text.push_str("  ");
            text.push_str(&paint(&format!("{shown:>width$}"), ratio.unwrap_or_default(), colour));
        }
        text.push_str(&format!("  {:>8}\n", percent(all)));
    }
    text
}

fn percent(ratio: f64) -> String {
    format!("{:.1} %", ratio * 100.0)
}

/// Red from a fifth of the time on, yellow from a fiftieth on, faint below a hundredth.
fn paint(cell: &str, ratio: f64, colour: bool) -> String {
    let code = match ratio {
        _ if !colour => return cell.to_owned(),
        0.2.. => "31",
        0.02.. => "33",
        0.01.. => return cell.to_owned(),
        _ => "2",
    };
    format!("\x1b[{code}m{cell}\x1b[0m")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(victim: &str, culprit: &str, ratio: f64) -> Wait {
        Wait {
            victim: victim.into(),
            culprit: culprit.into(),
            resource: "cpu".into(),
            ratio,
            ..Wait::default()
        }
    }

    #[test]
    fn the_longest_waits_stand_first_both_ways() {
        let waits =
            vec![wait("db", "host", 0.01), wait("web", "batch", 0.5), wait("web", "host", 0.02)];
        let answer = Blame { seconds: 10.0, waits, culprits: vec![] };
        let expected = "\
CPU VICTIM      batch      host       ALL
web            50.0 %     2.0 %    52.0 %
db                  -     1.0 %     1.0 %

shares of the last 10.0 s
";
        assert_eq!(render(&answer, false), expected);
    }

    #[test]
    fn colours_do_not_change_the_words() {
        let waits =
            vec![wait("web", "batch", 0.5), wait("web", "host", 0.05), wait("web", "x", 0.001)];
        let answer = Blame { seconds: 10.0, waits, culprits: vec![] };
        let painted = render(&answer, true);
        assert!(painted.contains("\x1b[31m  50.0 %\x1b[0m"), "{painted}");
        let mut plain = painted;
        for code in ["\x1b[31m", "\x1b[33m", "\x1b[2m", "\x1b[0m"] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, render(&answer, false));
    }

    #[test]
    fn many_culprits_share_a_last_column() {
        let waits: Vec<Wait> =
            (0..20).map(|n| wait("web", &format!("c{n:02}"), 0.2 - f64::from(n) / 100.0)).collect();
        let text = render(&Blame { seconds: 10.0, waits, culprits: vec![] }, false);
        let header: Vec<&str> = text.lines().next().unwrap().split_whitespace().collect();
        assert_eq!((header.len(), header[10], header[11]), (12, "others", "ALL"));
        assert!(text.lines().nth(1).unwrap().ends_with("210.0 %"), "{text}");
    }

    #[test]
    fn an_empty_answer_says_so() {
        assert!(render(&Blame::default(), true).starts_with("nobody waited\n"));
    }
}
