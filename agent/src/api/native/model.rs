//! The native API's words: what is sent and what is answered, with units in the
//! names. Plain data; the OpenAPI document is made from it.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::audit_filter::RawAuditFilter;
use crate::origin::{Compose, Pod, Runtime};

/// A change of limits. A field that is absent stays as it is; `null` lifts it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsRequest {
    /// CPUs; 0.5 is half of one.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>)]
    pub cpus: Option<Option<f64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub memory_bytes: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub pids: Option<Option<u64>>,
    /// What the container sends.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub egress_bits_per_second: Option<Option<u64>>,
    /// What the container receives.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub ingress_bits_per_second: Option<Option<u64>>,
    /// What may pass at once after a pause; only together with the rate. A rate that comes
    /// without it has the usual burst: 50 ms of the rate, and at least one long packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IoLimit {
    /// A block device: a path such as `/dev/vda`, or `major:minor`.
    pub device: String,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub read_bytes_per_second: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub write_bytes_per_second: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub read_ops_per_second: Option<Option<u64>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub write_ops_per_second: Option<Option<u64>>,
}

/// `null` is a value here; only a missing field is absent.
fn present<'de, T, D>(deserializer: D) -> Result<Option<Option<T>>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    Option::deserialize(deserializer).map(Some)
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct LimitsAnswer {
    /// What this request wrote; empty for a question.
    pub applied: Vec<Applied>,
    /// All limits in force.
    pub limits: LimitsRequest,
}

/// Less than its limits for a while. What is absent stays as the limits say; a value that is
/// not tighter changes nothing. It replaces the throttle before it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ThrottleRequest {
    /// CPUs; 0.5 is half of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// 1 to 10000, 100 being the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// Run only where nobody else wants to.
    pub cpu_idle: bool,
    /// Above it memory is reclaimed, and nothing killed. Needs cgroup v2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bits_per_second: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bits_per_second: Option<u64>,
    /// 1 to 10000, 100 being the default: its part of a disk that others want, too. Heeded where
    /// the disk's scheduler is bfq, or iocost is enabled for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// What it sends goes last in a queue of the host's that knows classes.
    pub egress_bulk: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
    /// 1 to 86400. It ends then, also if no agent runs any more.
    pub lease_seconds: u64,
    pub reason: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct ThrottleAnswer {
    /// What this request wrote; empty for a question and for a renewal.
    pub applied: Vec<Applied>,
    /// `null` if it is not throttled.
    pub throttle: Option<Throttled>,
}

/// A throttle that lasts.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Throttled {
    /// operator or controller.
    pub owner: String,
    pub reason: String,
    /// RFC 3339.
    pub since: String,
    pub ends_in_seconds: f64,
    /// What is tighter than the operator's limits, and so in force: cpu.max, cpu.weight,
    /// cpu.idle, memory.high, io.weight, io.max, net.egress, net.ingress, net.priority.
    pub actuators: Vec<String>,
    /// What is left alone because an operator or somebody else has written it meanwhile.
    pub yielded: Vec<String>,
    pub files: Vec<ThrottledFile>,
}

#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ThrottledFile {
    pub actuator: String,
    pub path: String,
    /// What it says now.
    pub now: String,
    /// throttle, operator or other: whose value that is.
    pub holder: String,
}

/// One value in the kernel, written, read back and found equal.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Applied {
    pub resource: String,
    /// The file, or the queueing discipline and its interface.
    pub actuator: String,
    pub written: String,
    pub read_back: String,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Container {
    /// A container's id, or a systemd unit's name.
    pub id: String,
    pub name: String,
    pub image: String,
    /// Empty for another runtime's.
    pub image_id: String,
    /// Who runs it. Only a container of tenantry itself can be changed here.
    pub runtime: Runtime,
    /// Of Kubernetes' containers alone.
    pub pod: Option<Pod>,
    pub compose: Option<Compose>,
    /// Its cgroup below the hierarchy's root: the label `id` of its series.
    pub cgroup: String,
    /// created, running, restarting, exited or dead.
    pub state: String,
    /// The first process, as the host numbers it.
    pub pid: Option<i32>,
    pub exit_code: Option<i32>,
    pub oom_killed: bool,
    pub restarts: u32,
    /// RFC 3339.
    pub started_at: Option<String>,
    pub address: Option<String>,
    pub host_interface: Option<String>,
    /// The kernel meters' number for this container.
    pub slot: Option<u32>,
    pub cgroups: Option<Cgroups>,
    /// Inode by type, as `/proc/PID/ns` shows them.
    pub namespaces: BTreeMap<String, u64>,
    pub limits: LimitsRequest,
    /// Where the last start's time went, in microseconds, in order.
    pub start_steps_usec: Vec<Step>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Step {
    pub name: String,
    pub usec: u64,
}

/// Ids that the kernel's own events carry.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct Cgroups {
    /// In the v2 (unified) hierarchy.
    pub unified: u64,
    /// In the v1 blkio hierarchy, under v1-hybrid only.
    pub blkio_v1: Option<u64>,
}

#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Probe {
    pub name: String,
    pub hook: String,
    /// active, disabled, unsupported or failed.
    pub status: String,
    pub reason: Option<String>,
}

/// What one container used since it was created: raw counters, no rates.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    pub id: String,
    pub name: String,
    pub image: String,
    /// When these numbers were read, nanoseconds of the monotonic clock.
    pub monotonic_ns: u64,
    pub cpu_usage_usec: u64,
    pub cpu_throttled_usec: u64,
    pub memory_working_set_bytes: u64,
    pub memory_limit_bytes: Option<u64>,
    pub pids: u64,
    pub oom_kills: u64,
    pub network_receive_bytes: u64,
    pub network_transmit_bytes: u64,
    pub network_receive_packets: u64,
    pub network_transmit_packets: u64,
    pub disk_read_bytes: u64,
    pub disk_write_bytes: u64,
    pub run_queue_p50_ns: Option<u64>,
    pub run_queue_p99_ns: Option<u64>,
    /// By name, most frequent first; only syscalls that were used.
    pub syscalls: Vec<Syscall>,
    pub execs: EventCount,
    pub exits: EventCount,
    /// Kills for want of memory.
    #[serde(default)]
    pub ooms: EventCount,
    /// Audit events by kind, those above among them; only kinds that came up.
    #[serde(default)]
    pub audit: BTreeMap<String, EventCount>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Syscall {
    pub name: String,
    pub count: u64,
    pub errors: u64,
    /// permission, not_found, busy, exhausted, network, invalid, unsupported, io, other;
    /// only classes that came up. They add up to `errors`.
    pub errors_by_class: BTreeMap<String, u64>,
}

/// One namespace and what containers' processes did while they were in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Namespace {
    /// cgroup, ipc, mnt, net, pid, user or uts.
    #[serde(rename = "type")]
    pub kind: String,
    /// As `/proc/PID/ns` shows it.
    pub inode: u64,
    /// System calls that returned, of all containers.
    pub calls: u64,
    pub errors: u64,
    pub containers: Vec<NamespaceTenant>,
}

/// A container in a namespace, in its present run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NamespaceTenant {
    pub id: String,
    pub name: String,
    /// Whether the container's first process is in it now; if not, a process of the container
    /// entered it, or the container has ended.
    pub lives_here: bool,
    pub calls: u64,
    pub errors: u64,
}

/// A wish for a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraceRequest {
    /// What to trace: `syscalls`.
    pub kinds: Vec<String>,
    /// When it ends by itself: 1 to 3600 seconds from now.
    pub seconds: u64,
}

/// What a container was seen to ask the kernel for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ProfileAnswer {
    pub id: String,
    pub name: String,
    /// Whether calls are recorded now, or will be from its first start on.
    pub recording: bool,
    /// Recorded since before its first instruction: nothing is missing.
    pub complete: bool,
    /// What may be missing, and why.
    pub warnings: Vec<String>,
    /// What the profile allows, by name.
    pub syscalls: Vec<String>,
    /// Calls that the seccomp filter it runs under refused, by name.
    pub refused: Vec<RefusedSyscall>,
    /// A seccomp profile in Docker's format.
    #[schema(value_type = Object)]
    pub profile: serde_json::Value,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RefusedSyscall {
    pub name: String,
    pub calls: u64,
    /// What the first one was answered with, such as EPERM; `null` if that was no error.
    pub error: Option<String>,
}

/// Which audit events a container has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct AuditFilterAnswer {
    pub id: String,
    pub name: String,
    /// What was chosen for this container alone; `null`: nothing, it has what all have.
    pub own: Option<RawAuditFilter>,
    /// What the kernel goes by, all of it.
    pub filter: RawAuditFilter,
}

/// A trace and what it saw: calls that began and returned within it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TraceAnswer {
    pub id: String,
    pub name: String,
    /// syscalls.
    pub kind: String,
    /// False after its end; then it is told once.
    pub running: bool,
    /// RFC 3339.
    pub began_at: String,
    /// RFC 3339; the lease's end, or when it was ended before.
    pub ends_at: String,
    /// Longest total time first; only syscalls that were used.
    pub syscalls: Vec<TracedCall>,
}

/// Times are wall-clock from entry to return. Quantiles are the upper bounds of buckets
/// that are powers of two; `null` beyond 4.6 minutes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TracedCall {
    pub name: String,
    pub calls: u64,
    pub errors: u64,
    pub total_ns: u64,
    pub p50_ns: Option<u64>,
    pub p99_ns: Option<u64>,
    pub max_ns: Option<u64>,
}

/// produced = delivered + lost + what is on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct EventCount {
    pub produced: u64,
    pub delivered: u64,
    pub lost: u64,
    /// Left out by the audit's filter: neither produced nor lost.
    #[serde(default)]
    pub filtered: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_lifts_a_limit_and_absence_leaves_it() {
        let request: LimitsRequest = serde_json::from_str(r#"{"cpus": null, "pids": 5}"#).unwrap();
        assert_eq!(request.cpus, Some(None));
        assert_eq!(request.pids, Some(Some(5)));
        assert_eq!(request.memory_bytes, None);
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"cpus":null,"pids":5}"#);
    }

    #[test]
    fn an_unknown_limit_is_refused_by_name() {
        let error = serde_json::from_str::<LimitsRequest>(r#"{"cpu": 1}"#).unwrap_err().to_string();
        assert!(error.contains("`cpu`") && error.contains("cpus"), "{error}");
    }
}

/// One choice of the controller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    /// RFC 3339.
    pub time: String,
    /// One sentence for people.
    pub message: String,
    /// `advise`, `tighten`, `loosen`, `release`, `undo` or `yield`.
    pub kind: String,
    /// Only in mode `enforce` was it executed.
    pub mode: String,
    /// Whose limit it is: the culprit.
    pub container_id: String,
    pub container_name: String,
    /// `cpu`, `memory`, `disk` or `network`.
    pub resource: String,
    /// `cpu.weight`, `cpu.max`, `io.max 8:0 wbps` …; absent for advice where nothing could be
    /// done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub actuator: Option<String>,
    /// In the actuator's unit; absent is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<f64>,
    pub victim_id: String,
    pub victim_name: String,
    pub reason: String,
    /// The numbers at that time: what the victim was to expect and what it had, how long it
    /// waited and for whom.
    #[schema(value_type = Object)]
    pub evidence: serde_json::Value,
}

/// What the controller goes by.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PolicyAnswer {
    /// Absent: the default policy, which limits nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Every key with its value in force.
    #[schema(value_type = Object)]
    pub policy: serde_json::Value,
}
