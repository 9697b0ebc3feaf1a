//! `GET /containers/{id}/stats`: what a container uses, once or each second, in Docker's shape.
//!
//! Each answer carries the reading before it, of which clients make rates.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use procfs::Current as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tenantry_cgroupfs::{Max, Sample};
use tenantry_container::Snapshot;
use tenantry_network::LinkCounters;
use tokio::time::sleep;

use super::super::{Shared, is_running};
use super::attach::is_true;
use crate::api::error::{ApiError, ApiResult};
use crate::api::logs::rfc3339;

const INTERVAL: Duration = Duration::from_secs(1);
/// What Docker writes for a reading that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StatsQuery {
    /// Without a word: on.
    stream: Option<String>,
    /// One reading alone, at once.
    #[serde(rename = "one-shot")]
    one_shot: Option<String>,
}

/// What follows from one reading for the next answer.
#[derive(Clone, Debug)]
struct Earlier {
    cpu: Value,
    read: String,
}

pub async fn stats(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<StatsQuery>,
) -> ApiResult<Response> {
    let id = app.engine.get(&id)?.record.id.clone();
    let streams = query.stream.is_none() || is_true(query.stream.as_deref());
    let json = [("content-type", "application/json")];
    if !streams {
        let (first, earlier) = read(&app, &id, None).await?;
        if is_true(query.one_shot.as_deref()) || earlier.is_none() {
            return Ok((json, first.to_string() + "\n").into_response());
        }
        sleep(INTERVAL).await;
        let (answer, _) = read(&app, &id, earlier.as_ref()).await?;
        return Ok((json, answer.to_string() + "\n").into_response());
    }
    // `None` before the first; then what the last one leaves to the next.
    let begin = Some(None::<Earlier>);
    let lines = futures_util::stream::unfold(begin, move |state| {
        let (app, id) = (app.clone(), id.clone());
        async move {
            let earlier = state?;
            if earlier.is_some() {
                sleep(INTERVAL).await;
            }
            let (answer, now) = read(&app, &id, earlier.as_ref()).await.ok()?;
            let line = Bytes::from(answer.to_string() + "\n");
            // Of one that does not run there is one answer, which says nothing.
            Some((Ok::<_, std::io::Error>(line), now.map(Some)))
        }
    });
    Ok((json, Body::from_stream(lines)).into_response())
}

/// An answer, and what the next one needs of it; nothing if the container does not run.
async fn read(
    app: &Shared,
    id: &str,
    earlier: Option<&Earlier>,
) -> ApiResult<(Value, Option<Earlier>)> {
    let container = app.engine.get(id)?;
    let name = format!("/{}", container.record.name);
    let empty = || {
        json!({
            "id": container.record.id, "name": name, "read": NEVER, "preread": NEVER,
            "pids_stats": {}, "blkio_stats": {}, "cpu_stats": {}, "precpu_stats": {},
            "memory_stats": {}, "networks": {},
        })
    };
    if !is_running(&container) {
        return Ok((empty(), None));
    }
    let group = app.hierarchy.group(&format!("{}/{id}", app.collector.cgroup_parent));
    let sample = tokio::task::spawn_blocking(move || (group.read_sample(), system_usage_ns()));
    let (sample, system_ns) = sample.await.map_err(ApiError::internal)?;
    // It may have ended since it was looked at.
    let Ok(sample) = sample else { return Ok((empty(), None)) };
    let links = app.engine.networks().counters().await.unwrap_or_default();
    let read = jiff::Timestamp::now().as_nanosecond();
    let read = rfc3339(u64::try_from(read).unwrap_or(0));
    let cpu = cpu(&sample, system_ns);
    let answer = json!({
        "id": container.record.id,
        "name": name,
        "read": read,
        "preread": earlier.map_or(NEVER, |earlier| earlier.read.as_str()),
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": pids(&sample),
        "blkio_stats": blkio(&sample),
        "cpu_stats": cpu,
        "precpu_stats": earlier.map_or_else(|| json!({}), |earlier| earlier.cpu.clone()),
        "memory_stats": memory(&sample),
        "networks": networks(&container, &links),
    });
    Ok((answer, Some(Earlier { cpu, read })))
}

fn cpu(sample: &Sample, system_ns: Option<u64>) -> Value {
    let ns = |usec: Option<u64>| usec.unwrap_or(0).saturating_mul(1000);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    json!({
        "cpu_usage": {
            "total_usage": ns(sample.cpu.usage_usec),
            "usage_in_usermode": ns(sample.cpu.user_usec),
            "usage_in_kernelmode": ns(sample.cpu.system_usec),
        },
        "system_cpu_usage": system_ns.unwrap_or(0),
        "online_cpus": cpus,
        "throttling_data": {
            "periods": sample.cpu.nr_periods.unwrap_or(0),
            "throttled_periods": sample.cpu.nr_throttled.unwrap_or(0),
            "throttled_time": ns(sample.cpu.throttled_usec),
        },
    })
}

fn memory(sample: &Sample) -> Value {
    let host = || procfs::Meminfo::current().map_or(0, |memory| memory.mem_total);
    let limit = match sample.memory.limit_bytes {
        Some(Max::Value(bytes)) => bytes,
        Some(Max::Unlimited) | None => host(),
    };
    let stat = &sample.memory.stat;
    json!({
        "usage": sample.memory.usage_bytes.unwrap_or(0),
        "limit": limit,
        "stats": {
            "anon": stat.anon_bytes.unwrap_or(0),
            "file": stat.file_bytes.unwrap_or(0),
            // Clients take it off the usage.
            "inactive_file": stat.inactive_file_bytes.unwrap_or(0),
            "active_file": stat.active_file_bytes.unwrap_or(0),
            "shmem": stat.shmem_bytes.unwrap_or(0),
            "pgfault": stat.pgfault.unwrap_or(0),
            "pgmajfault": stat.pgmajfault.unwrap_or(0),
        },
    })
}

fn pids(sample: &Sample) -> Value {
    let limit = sample.pids.max.and_then(Max::value);
    json!({ "current": sample.pids.current.unwrap_or(0), "limit": limit.unwrap_or(0) })
}

fn blkio(sample: &Sample) -> Value {
    let entry = |major: u32, minor: u32, op: &str, value: u64| json!({ "major": major, "minor": minor, "op": op, "value": value });
    let bytes = sample.io.iter().flat_map(|io| {
        [
            entry(io.major, io.minor, "read", io.read_bytes),
            entry(io.major, io.minor, "write", io.write_bytes),
        ]
    });
    let operations = sample.io.iter().flat_map(|io| {
        [
            entry(io.major, io.minor, "read", io.read_ops),
            entry(io.major, io.minor, "write", io.write_ops),
        ]
    });
    json!({
        "io_service_bytes_recursive": bytes.collect::<Vec<_>>(),
        "io_serviced_recursive": operations.collect::<Vec<_>>(),
    })
}

/// By the names that its interfaces have inside: `eth0` is that of its first network.
fn networks(
    container: &Snapshot,
    links: &std::collections::HashMap<String, LinkCounters>,
) -> Value {
    let endpoints = container.live.iter().flat_map(|live| live.endpoints());
    let counted = endpoints.enumerate().filter_map(|(index, endpoint)| {
        let link = links.get(&endpoint.host_interface)?;
        let view = json!({
            "rx_bytes": link.rx_bytes, "rx_packets": link.rx_packets,
            "rx_errors": link.rx_errors, "rx_dropped": link.rx_dropped,
            "tx_bytes": link.tx_bytes, "tx_packets": link.tx_packets,
            "tx_errors": link.tx_errors, "tx_dropped": link.tx_dropped,
        });
        Some((format!("eth{index}"), view))
    });
    json!(counted.collect::<BTreeMap<String, Value>>())
}

/// Time of all processors of the host, idle time included.
fn system_usage_ns() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    Some(parse_system_ticks(&text)? * (1_000_000_000 / procfs::ticks_per_second()))
}

/// User, nice, system, idle, iowait, irq and softirq, as Docker adds them up.
fn parse_system_ticks(stat: &str) -> Option<u64> {
    let mut words = stat.lines().next()?.split_ascii_whitespace();
    if words.next()? != "cpu" {
        return None;
    }
    let ticks: Vec<u64> = words.take(7).map_while(|word| word.parse().ok()).collect();
    (ticks.len() == 7).then(|| ticks.iter().sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_time_is_the_sum_of_seven_columns() {
        let stat = "cpu  1 2 3 4 5 6 7 80 90 100\ncpu0 1 1 1 1 1 1 1\n";
        assert_eq!(parse_system_ticks(stat), Some(28));
        assert_eq!(parse_system_ticks("cpu 1 2\n"), None);
        assert_eq!(parse_system_ticks("intr 1\n"), None);
    }

    #[test]
    fn a_reading_has_the_shape_that_clients_make_rates_of() {
        let mut sample = Sample::default();
        sample.cpu.usage_usec = Some(5);
        sample.memory.limit_bytes = Some(Max::Value(4096));
        sample.memory.usage_bytes = Some(100);
        sample.pids.max = Some(Max::Unlimited);
        let view = cpu(&sample, Some(7));
        assert_eq!(view["cpu_usage"]["total_usage"], 5000);
        assert_eq!(view["system_cpu_usage"], 7);
        assert_eq!(memory(&sample)["limit"], 4096);
        assert_eq!(pids(&sample)["limit"], 0);
    }
}
