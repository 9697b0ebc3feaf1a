//! The file's shape. All keys may be absent; `validate.rs` has what then holds.

use serde::Deserialize;

use super::Objectives;
use crate::actuator::ActuatorKind;
use crate::types::{Class, Mode};

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawPolicy {
    pub mode: Mode,
    pub limit_normal: bool,
    pub limit_foreign: bool,
    pub trust_labels: Option<bool>,
    #[serde(rename = "rule")]
    pub rules: Vec<RawRule>,
    pub protected: RawObjectives,
    pub normal: RawObjectives,
    pub floors: RawBounds,
    pub ceilings: RawBounds,
    pub detect: RawDetect,
    pub act: RawAct,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    pub class: Class,
    #[serde(default)]
    pub name: Vec<String>,
    #[serde(default)]
    pub image: Vec<String>,
    #[serde(default)]
    pub label: Vec<String>,
    pub objectives: Option<RawObjectives>,
    pub metric: Option<RawMetric>,
    #[serde(default)]
    pub floors: RawBounds,
    #[serde(default)]
    pub ceilings: RawBounds,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawObjectives {
    pub run_queue_p99_ms: Option<f64>,
    pub disk_p99_ms: Option<f64>,
    pub pressure_cpu: Option<f64>,
    pub pressure_memory: Option<f64>,
    pub pressure_io: Option<f64>,
    pub network_wait: Option<f64>,
    pub latency_ms: Option<f64>,
}

impl RawObjectives {
    pub fn plain(&self) -> Objectives {
        Objectives {
            run_queue_p99_ms: self.run_queue_p99_ms,
            disk_p99_ms: self.disk_p99_ms,
            pressure_cpu: self.pressure_cpu,
            pressure_memory: self.pressure_memory,
            pressure_io: self.pressure_io,
            network_wait: self.network_wait,
            latency_ms: self.latency_ms,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMetric {
    pub name: String,
    pub port: u16,
    pub path: Option<String>,
    pub quantile: Option<f64>,
    pub unit: Option<MetricUnit>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum MetricUnit {
    #[default]
    Seconds,
    Milliseconds,
    Microseconds,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBounds {
    pub cpu_weight: Option<f64>,
    pub cpu_cores: Option<f64>,
    pub memory_bytes: Option<f64>,
    pub disk_weight: Option<f64>,
    pub disk_bytes_per_s: Option<f64>,
    pub disk_ops_per_s: Option<f64>,
    pub network_bytes_per_s: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDetect {
    pub bad_looks: Option<u32>,
    pub well_looks: Option<u32>,
    pub smoothing: Option<f64>,
    pub well_below: Option<f64>,
    pub least_share: Option<f64>,
    pub least_wait: Option<f64>,
    pub most_steal: Option<f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawAct {
    pub allow: Option<Vec<ActuatorKind>>,
    pub settle_seconds: Option<f64>,
    pub trial_seconds: Option<f64>,
    pub least_help: Option<f64>,
    pub cooldown_seconds: Option<f64>,
    pub most_cooldown_seconds: Option<f64>,
    pub cut_most: Option<f64>,
    pub cut_least: Option<f64>,
    pub give_back: Option<f64>,
    pub give_back_seconds: Option<f64>,
    pub least_change: Option<f64>,
    pub remember_seconds: Option<f64>,
    pub margin: Option<f64>,
    pub turn_seconds: Option<f64>,
    pub idle_seconds: Option<f64>,
    pub lease_seconds: Option<f64>,
    pub respect_seconds: Option<f64>,
    pub advice_seconds: Option<f64>,
}
