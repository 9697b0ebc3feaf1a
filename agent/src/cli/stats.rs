//! `tenantry stats`: one line per container, from two readings a moment apart.

use std::collections::HashMap;
use std::time::Duration;

use clap::Args;

use super::{Target, table};
use crate::api::native::model::Stats;

#[derive(Debug, Args)]
pub struct StatsFlags {
    /// Only these containers.
    names: Vec<String>,
    /// Print once instead of every second.
    #[arg(long)]
    no_stream: bool,
    /// Raw counters, once.
    #[arg(long)]
    json: bool,
}

const INTERVAL: Duration = Duration::from_secs(1);

pub async fn stats(target: &Target, flags: StatsFlags) -> anyhow::Result<()> {
    let read = async || -> anyhow::Result<Vec<Stats>> {
        let mut all: Vec<Stats> = target.native().get("/v1/stats").await?;
        for name in &flags.names {
            let known = |stats: &Stats| stats.name == *name || stats.id.starts_with(name);
            anyhow::ensure!(all.iter().any(known), "no such running container: {name}");
        }
        let wanted = |stats: &Stats| {
            let fits = |name: &String| stats.name == *name || stats.id.starts_with(name);
            flags.names.is_empty() || flags.names.iter().any(fits)
        };
        all.retain(wanted);
        Ok(all)
    };
    let mut earlier = read().await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&earlier)?);
        return Ok(());
    }
    loop {
        tokio::time::sleep(INTERVAL).await;
        let now = read().await?;
        if !flags.no_stream {
            print!("\x1b[H\x1b[2J");
        }
        print!("{}", render(&earlier, &now));
        if flags.no_stream {
            return Ok(());
        }
        earlier = now;
    }
}

fn render(earlier: &[Stats], now: &[Stats]) -> String {
    let earlier: HashMap<&str, &Stats> =
        earlier.iter().map(|stats| (stats.id.as_str(), stats)).collect();
    let rows: Vec<Vec<String>> = now
        .iter()
        .map(|now| row(earlier.get(now.id.as_str()).copied().unwrap_or(&Stats::default()), now))
        .collect();
    let header = [
        "NAME",
        "CPU",
        "MEMORY",
        "PIDS",
        "NET RX/s",
        "NET TX/s",
        "READ/s",
        "WRITE/s",
        "RUNQ P99",
        "SYSCALLS/s",
    ];
    table::render(&header, &rows)
}

fn row(earlier: &Stats, now: &Stats) -> Vec<String> {
    let seconds = now.monotonic_ns.saturating_sub(earlier.monotonic_ns) as f64 / 1e9;
    // A counter that went back belongs to a container that was started again.
    let rate = |field: fn(&Stats) -> u64| {
        let more = field(now).checked_sub(field(earlier)).filter(|_| earlier.monotonic_ns > 0);
        more.map(|more| more as f64 / seconds)
    };
    let bytes = |rate: Option<f64>| rate.map_or("-".into(), |rate| table::bytes(rate as u64));
    let syscalls: fn(&Stats) -> u64 = |stats| stats.syscalls.iter().map(|call| call.count).sum();
    let limit = now.memory_limit_bytes.map_or(String::new(), |b| format!(" / {}", table::bytes(b)));
    vec![
        now.name.clone(),
        rate(|s| s.cpu_usage_usec).map_or("-".into(), |usec| format!("{:.1} %", usec / 1e4)),
        table::bytes(now.memory_working_set_bytes) + &limit,
        now.pids.to_string(),
        bytes(rate(|s| s.network_receive_bytes)),
        bytes(rate(|s| s.network_transmit_bytes)),
        bytes(rate(|s| s.disk_read_bytes)),
        bytes(rate(|s| s.disk_write_bytes)),
        now.run_queue_p99_ns.map_or("-".into(), table::duration_ns),
        rate(syscalls).map_or("-".into(), |rate| format!("{rate:.0}")),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(seconds: u64, cpu_usage_usec: u64) -> Stats {
        Stats {
            name: "web".into(),
            monotonic_ns: seconds * 1_000_000_000,
            cpu_usage_usec,
            ..Stats::default()
        }
    }

    #[test]
    fn rates_come_from_two_readings() {
        assert_eq!(row(&stats(10, 0), &stats(12, 1_000_000))[1], "50.0 %");
    }

    #[test]
    fn no_rate_is_shown_across_a_restart_or_from_one_reading() {
        assert_eq!(row(&stats(10, 5), &stats(12, 1))[1], "-");
        assert_eq!(row(&Stats::default(), &stats(12, 1))[1], "-");
    }
}
