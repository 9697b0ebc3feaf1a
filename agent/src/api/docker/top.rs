//! `GET /containers/{id}/top`: a container's processes, as `ps -ef` on the host shows them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use procfs::process::Process;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::{Shared, is_running};
use crate::api::error::{ApiError, ApiResult};

const TITLES: [&str; 8] = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"];
/// A longer command line is cut.
const MOST_COMMAND_BYTES: usize = 4096;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct TopQuery {
    ps_args: Option<String>,
}

pub async fn top(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<TopQuery>,
) -> ApiResult<Json<Value>> {
    // Docker runs the host's ps; here nothing is run, and there is one format.
    match query.ps_args.as_deref().unwrap_or_default().trim() {
        "" | "-ef" | "ef" => {}
        other => return Err(ApiError::invalid("ps_args", other, "-ef")),
    }
    let container = app.engine.get(&id)?;
    if !is_running(&container) {
        let name = &container.record.name;
        return Err(ApiError::new(
            StatusCode::CONFLICT,
            format!("container {name} is not running"),
        ));
    }
    let path = format!("{}/{}", app.collector.cgroup_parent, container.record.id);
    let group = app.hierarchy.group(&path);
    let rows = tokio::task::spawn_blocking(move || {
        let pids = group.pids().map_err(ApiError::internal)?;
        Ok::<_, ApiError>(rows(pids))
    });
    let rows = rows.await.map_err(ApiError::internal)??;
    Ok(Json(json!({ "Titles": TITLES, "Processes": rows })))
}

fn rows(mut pids: Vec<i32>) -> Vec<Vec<String>> {
    pids.sort_unstable();
    pids.dedup();
    let now = jiff::Zoned::now();
    // One that has ended since is in no list any more.
    pids.into_iter().filter_map(|pid| row(pid, &now)).collect()
}

fn row(pid: i32, now: &jiff::Zoned) -> Option<Vec<String>> {
    let process = Process::new(pid).ok()?;
    let stat = process.stat().ok()?;
    let ticks = procfs::ticks_per_second();
    let used_s = (stat.utime + stat.stime) / ticks;
    let up_s = uptime_s().unwrap_or(0).saturating_sub(stat.starttime / ticks);
    let command = process.cmdline().ok().filter(|words| !words.is_empty());
    let command = command.map_or_else(|| format!("[{}]", stat.comm), |words| words.join(" "));
    let began = now.checked_sub(jiff::SignedDuration::from_secs(up_s as i64)).ok()?;
    Some(vec![
        process.uid().ok()?.to_string(),
        pid.to_string(),
        stat.ppid.to_string(),
        percent(used_s, up_s).to_string(),
        start(up_s, &began),
        terminal(stat.tty_nr),
        clock(used_s),
        cut(command),
    ])
}

/// Of one processor, since the process began.
fn percent(used_s: u64, up_s: u64) -> u64 {
    (used_s * 100).checked_div(up_s).unwrap_or(0).min(99)
}

/// The time of day within a day, else the date.
fn start(up_s: u64, began: &jiff::Zoned) -> String {
    let format = if up_s < 24 * 3600 { "%H:%M" } else { "%b%d" };
    began.strftime(format).to_string()
}

/// The number of a pseudo terminal in the container's own `devpts`: major 136 to 143.
fn terminal(number: i32) -> String {
    let number = number as u32;
    let (major, minor) = (number >> 8 & 0xfff, number & 0xff | number >> 12 & 0xf_ff00);
    match major {
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => "?".to_owned(),
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

fn cut(mut text: String) -> String {
    if text.len() > MOST_COMMAND_BYTES {
        let end = (0..=MOST_COMMAND_BYTES).rev().find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
    }
    text
}

fn uptime_s() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    text.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_what_ps_says() {
        assert_eq!(clock(3 * 3600 + 4 * 60 + 5), "03:04:05");
        assert_eq!((percent(5, 10), percent(1, 0), percent(900, 10)), (50, 0, 99));
        assert_eq!(terminal(0), "?");
        assert_eq!(terminal(136 << 8 | 3), "pts/3");
        assert_eq!(cut("ä".repeat(3000)).len(), 4096);
    }

    #[test]
    fn this_process_has_a_row() {
        let pid = std::process::id() as i32;
        let rows = rows(vec![pid, pid]);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].len(), rows[0][1].as_str()), (TITLES.len(), pid.to_string().as_str()));
    }
}
