//! `GET /v1/probes/cost`: what the kernel meters cost, measured on request.
//!
//! The kernel times every run of every program while somebody measures, and not a moment
//! longer: the window is as long as the caller asks, and nothing stays switched on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::{Query, State};
use serde::{Deserialize, Serialize};
use tenantry_ebpf::{Cost, CostError, Meters, Timing};
use utoipa::ToSchema;

use super::Shared;
use crate::api::error::{ApiError, ApiResult, chain};

/// Longer measurements are made of several.
const MAX_SECONDS: f64 = 60.0;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CostQuery {
    seconds: Option<f64>,
}

/// What the kernel programs did within one window, and the memory that they hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProbesCost {
    /// The window's length.
    pub seconds: f64,
    /// CPUs of the host: a share of 1 is one of them.
    pub cpus: u32,
    /// Share of one CPU that all programs together took within the window.
    pub cpu_ratio: f64,
    /// Kernel memory of all maps.
    pub map_bytes: u64,
    /// Kernel memory of all programs.
    pub program_bytes: u64,
    pub programs: Vec<ProgramCost>,
    /// Largest first.
    pub maps: Vec<MapCost>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ProgramCost {
    pub name: String,
    pub hook: String,
    /// Within the window.
    pub runs: u64,
    /// Within the window; holds about one of the two clock reads that measuring adds to
    /// each run.
    pub run_ns: u64,
    /// Mean of the window; absent without a run.
    pub ns_per_run: Option<f64>,
    /// Share of one CPU within the window.
    pub cpu_ratio: f64,
    pub memory_bytes: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct MapCost {
    pub name: String,
    /// As the kernel accounts it: exact from Linux 6.4 on, keys and values alone before.
    pub memory_bytes: u64,
}

/// What the kernel probes cost: measured now, for as long as asked.
#[utoipa::path(
    get,
    path = "/v1/probes/cost",
    params(("seconds" = Option<f64>, Query, description = "length of the window, 0.1 to 60; 1 if absent")),
    responses((status = 200, body = ProbesCost), (status = 400, body = ApiError))
)]
pub async fn cost(
    State(app): State<Shared>,
    Query(query): Query<CostQuery>,
) -> ApiResult<Json<ProbesCost>> {
    let seconds = query.seconds.unwrap_or(1.0);
    if !(0.1..=MAX_SECONDS).contains(&seconds) {
        return Err(ApiError::invalid("seconds", seconds, "0.1 to 60"));
    }
    let timing = Timing::begin().map_err(unavailable)?;
    let (before, began) = (read(&app.meters).await?, Instant::now());
    tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
    let (after, took) = (read(&app.meters).await?, began.elapsed());
    drop(timing);
    let cpus = std::thread::available_parallelism().map_or(1, |n| n.get() as u32);
    Ok(Json(describe(&after.since(&before), took, cpus)))
}

/// Some tens of system calls: not on a thread that serves others.
async fn read(meters: &Arc<Meters>) -> ApiResult<Cost> {
    let meters = Arc::clone(meters);
    let read = tokio::task::spawn_blocking(move || meters.cost()).await;
    read.map_err(ApiError::internal)?.map_err(unavailable)
}

fn unavailable(error: CostError) -> ApiError {
    ApiError::internal(chain(&error))
}

fn describe(window: &Cost, took: Duration, cpus: u32) -> ProbesCost {
    let share = |run_ns: u64| run_ns as f64 / 1e9 / took.as_secs_f64();
    ProbesCost {
        seconds: took.as_secs_f64(),
        cpus,
        cpu_ratio: share(window.run_ns()),
        map_bytes: window.map_bytes(),
        program_bytes: window.program_bytes(),
        programs: window
            .programs
            .iter()
            .map(|program| ProgramCost {
                name: program.name.clone(),
                hook: program.hook.clone(),
                runs: program.runs,
                run_ns: program.run_ns,
                ns_per_run: (program.runs > 0).then(|| program.run_ns as f64 / program.runs as f64),
                cpu_ratio: share(program.run_ns),
                memory_bytes: program.memory_bytes,
            })
            .collect(),
        maps: window
            .maps
            .iter()
            .map(|map| MapCost { name: map.name.clone(), memory_bytes: map.memory_bytes })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_one_cpu_and_means_need_a_run() {
        let program = |name: &str, runs, run_ns| tenantry_ebpf::ProgramCost {
            name: name.into(),
            runs,
            run_ns,
            memory_bytes: 4096,
            ..Default::default()
        };
        let map = tenantry_ebpf::MapCost { name: "syscalls".into(), memory_bytes: 1 << 20 };
        let window = Cost {
            programs: vec![program("busy", 1000, 50_000_000), program("quiet", 0, 0)],
            maps: vec![map],
        };
        let cost = describe(&window, Duration::from_secs(2), 2);
        assert_eq!(cost.cpu_ratio, 0.025);
        assert_eq!((cost.map_bytes, cost.program_bytes), (1 << 20, 8192));
        assert_eq!(cost.programs[0].ns_per_run, Some(50_000.0));
        assert_eq!(cost.programs[1].ns_per_run, None);
    }
}
