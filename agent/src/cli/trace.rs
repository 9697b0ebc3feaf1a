//! `tenantry trace`: every system call of one container, timed for a while.

use std::io::IsTerminal as _;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{Target, table};
use crate::api::native::model::{TraceAnswer, TraceRequest};

#[derive(Debug, Subcommand)]
pub enum TraceVerb {
    /// Time every system call: calls, errors, latency, sorted by total time.
    Syscalls(SyscallsFlags),
}

#[derive(Debug, Args)]
pub struct SyscallsFlags {
    name: String,
    /// How long: seconds, or with a unit such as 30s, 5m, 1h. Ctrl-C ends it earlier.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = parse_seconds)]
    time: u64,
    /// The outcome as JSON.
    #[arg(long)]
    json: bool,
}

const INTERVAL: Duration = Duration::from_secs(1);

pub async fn trace(target: &Target, verb: TraceVerb) -> anyhow::Result<()> {
    let TraceVerb::Syscalls(flags) = verb;
    let path = format!("/v1/containers/{}/trace", flags.name);
    let client = target.native();
    let request = TraceRequest { kinds: vec!["syscalls".into()], seconds: flags.time };
    let mut answer: TraceAnswer = client.post(&path, &request).await?;
    let live = std::io::stdout().is_terminal() && !flags.json;
    let begun = tokio::time::Instant::now();
    let end = begun + Duration::from_secs(flags.time);
    while answer.running {
        // At the end a little later, so that the agent has seen the end too.
        let next = (tokio::time::Instant::now() + INTERVAL).min(end + INTERVAL / 10);
        let next = next.max(tokio::time::Instant::now() + INTERVAL / 20);
        answer = tokio::select! {
            () = tokio::time::sleep_until(next) => client.get(&path).await?,
            _ = tokio::signal::ctrl_c() => client.delete(&path).await?,
        };
        if live && answer.running {
            print!("\x1b[H\x1b[2J{}", render(&answer));
        }
    }
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&answer)?);
        return Ok(());
    }
    if live {
        print!("\x1b[H\x1b[2J");
    }
    print!("{}", render(&answer));
    Ok(())
}

/// Quantiles are the upper bounds of their buckets, which are powers of two.
fn render(answer: &TraceAnswer) -> String {
    let bound =
        |ns: Option<u64>| ns.map_or("-".into(), |ns| format!("≤ {}", table::duration_ns(ns)));
    let row = |call: &crate::api::native::model::TracedCall| {
        vec![
            call.name.clone(),
            call.calls.to_string(),
            call.errors.to_string(),
            bound(call.p50_ns),
            bound(call.p99_ns),
            bound(call.max_ns),
            table::duration_ns(call.total_ns),
        ]
    };
    let rows: Vec<Vec<String>> = answer.syscalls.iter().map(row).collect();
    table::render(&["SYSCALL", "CALLS", "ERRORS", "P50", "P99", "MAX", "TOTAL"], &rows)
}

pub(super) fn parse_seconds(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3600),
        _ => (text, 1),
    };
    let seconds = number.parse::<u64>().ok().and_then(|n| n.checked_mul(factor));
    seconds.ok_or_else(|| "a number of seconds, or one with s, m or h".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::native::model::TracedCall;

    #[test]
    fn times_have_units() {
        let check = |text, expected| assert_eq!(parse_seconds(text).ok(), expected, "{text}");
        check("30s", Some(30));
        check("30", Some(30));
        check("5m", Some(300));
        check("1h", Some(3600));
        check("", None);
        check("m", None);
        check("-1s", None);
        check("1d", None);
        check("99999999999999999999h", None);
    }

    #[test]
    fn a_trace_is_a_table() {
        let call = TracedCall {
            name: "read".into(),
            calls: 12,
            errors: 3,
            total_ns: 1_500_000,
            p50_ns: Some(512),
            p99_ns: Some(1 << 20),
            max_ns: None,
        };
        let answer = TraceAnswer { syscalls: vec![call], ..TraceAnswer::default() };
        let expected = "SYSCALL   CALLS   ERRORS   P50        P99        MAX   TOTAL\n\
                        read      12      3        ≤ 512 ns   ≤ 1.0 ms   -     1.5 ms\n";
        assert_eq!(render(&answer), expected);
    }
}
