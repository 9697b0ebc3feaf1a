//! One look at the host: what everybody used and waited for since the look before.
//!
//! Values alone; the agent fills them. Absent in JSON is what is zero, empty or unknown, so
//! that a log of looks stays small.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::actuator::{Actuator, Device};
use crate::types::{Culprit, Resource};

/// All numbers are finite and not negative; [`crate::decide`] does nothing at a look that
/// breaks this.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rates {
    /// When the interval ended, on a clock that only goes forward.
    pub at_ms: u64,
    pub interval_ms: u64,
    /// CPUs of the host.
    pub cpus: u32,
    /// Share of all CPU time that the hypervisor gave to others, 0 to 1.
    #[serde(skip_serializing_if = "is_default")]
    pub steal: f64,
    /// A queue that stands on its way out of the host, or stood lately, knows classes, so that
    /// `net.priority` does something there.
    #[serde(skip_serializing_if = "is_default")]
    pub uplink_has_classes: bool,
    pub containers: Vec<ContainerRates>,
    #[serde(skip_serializing_if = "is_default")]
    pub blame: Vec<Blame>,
}

/// For whom a container waited. The entries of one victim and resource, all culprits
/// together, are its measured wait.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blame {
    /// A container's id.
    pub victim: String,
    pub culprit: Culprit,
    pub resource: Resource,
    /// Seconds of waiting per second; above 1 where several threads wait.
    pub seconds_per_second: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContainerRates {
    pub id: String,
    pub name: String,
    #[serde(skip_serializing_if = "is_default")]
    pub image: String,
    /// Only those that begin with `tenantry.`.
    #[serde(skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// Another runtime's: limited only if the policy says `limit_foreign`.
    #[serde(skip_serializing_if = "is_default")]
    pub foreign: bool,
    /// Ours, and on no network of ours (the host's, or none): its bandwidth cannot be held.
    #[serde(skip_serializing_if = "is_default")]
    pub unshaped: bool,
    pub running: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: CpuRates,
    #[serde(skip_serializing_if = "is_default")]
    pub disks: Vec<DiskRates>,
    #[serde(skip_serializing_if = "is_default")]
    pub memory: MemoryRates,
    #[serde(skip_serializing_if = "is_default")]
    pub network: NetworkRates,
    #[serde(skip_serializing_if = "is_default")]
    pub pressure: Pressure,
    /// What the container says of itself, if the policy names a metric; milliseconds. `None`
    /// where it should say something: nobody knows, and for a while nothing changes.
    #[serde(skip_serializing_if = "is_default")]
    pub latency_ms: Option<f64>,
    /// The operator's own limits and guarantees. Absent is no wish.
    #[serde(skip_serializing_if = "is_default")]
    pub wishes: Wishes,
    /// What the kernel says is in force now, our own limits included. Absent is no limit.
    /// Only read for containers that hold a lease of ours or a [`crate::Mark`].
    #[serde(skip_serializing_if = "is_default")]
    pub in_force: LimitsNow,
}

pub type Wishes = BTreeMap<Actuator, Wish>;

/// In each actuator's unit, see [`Actuator`].
pub type LimitsNow = BTreeMap<Actuator, f64>;

/// What the operator (or who runs the container) asked for at one actuator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    /// No more than this: the controller is never looser.
    #[serde(skip_serializing_if = "is_default")]
    pub limit: Option<f64>,
    /// No less than this: the controller is never tighter.
    #[serde(skip_serializing_if = "is_default")]
    pub guarantee: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CpuRates {
    /// CPU seconds per second.
    pub used_cores: f64,
    /// Seconds per second that threads stood in the run queue.
    #[serde(skip_serializing_if = "is_default")]
    pub wait: f64,
    /// Of the waits that ended in this interval; `None` if none did.
    #[serde(skip_serializing_if = "is_default")]
    pub wait_p99_us: Option<f64>,
    /// Seconds per second that its own quota throttled it.
    #[serde(skip_serializing_if = "is_default")]
    pub quota: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskRates {
    pub device: Device,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_bytes_per_s: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_bytes_per_s: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_ops_per_s: f64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub write_ops_per_s: f64,
    /// The disk's queue heeds the weights of groups.
    #[serde(default, skip_serializing_if = "is_default")]
    pub weighted: bool,
    /// From a request's arrival at the queue to its end; `None` if none ended.
    #[serde(default, skip_serializing_if = "is_default")]
    pub p99_us: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MemoryRates {
    pub usage_bytes: f64,
    /// `None`: not limited.
    #[serde(skip_serializing_if = "is_default")]
    pub limit_bytes: Option<f64>,
    /// What reclaim cannot take: anonymous memory that finds no room in swap, and what is locked.
    #[serde(skip_serializing_if = "is_default")]
    pub unreclaimable_bytes: f64,
    /// Pages that came back soon after they were reclaimed.
    #[serde(skip_serializing_if = "is_default")]
    pub refaults_per_s: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkRates {
    /// What the container sends.
    #[serde(skip_serializing_if = "is_default")]
    pub egress_bytes_per_s: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub ingress_bytes_per_s: f64,
}

/// Share of the interval in which some thread stood still, 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pressure {
    #[serde(skip_serializing_if = "is_default")]
    pub cpu: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub memory: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub io: f64,
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Rates {
    /// Whether every number is finite and not negative.
    pub fn is_sane(&self) -> bool {
        sane(self.steal)
            && self.blame.iter().all(|blame| sane(blame.seconds_per_second))
            && self.containers.iter().all(ContainerRates::is_sane)
    }
}

impl ContainerRates {
    /// Seconds per second of waiting, share of time and so on: any of them.
    fn is_sane(&self) -> bool {
        let ContainerRates { cpu, memory, network, pressure, .. } = self;
        let plain = [
            cpu.used_cores,
            cpu.wait,
            cpu.quota,
            memory.usage_bytes,
            memory.unreclaimable_bytes,
            memory.refaults_per_s,
            network.egress_bytes_per_s,
            network.ingress_bytes_per_s,
            pressure.cpu,
            pressure.memory,
            pressure.io,
        ];
        let optional = [cpu.wait_p99_us, memory.limit_bytes, self.latency_ms];
        plain.into_iter().chain(optional.into_iter().flatten()).all(sane)
            && self.disks.iter().all(DiskRates::is_sane)
            && self.in_force.values().copied().all(sane)
            && self
                .wishes
                .values()
                .flat_map(|wish| [wish.limit, wish.guarantee])
                .flatten()
                .all(sane)
    }

    /// The operator's wishes for one resource.
    pub(crate) fn wishes_for(&self, resource: Resource) -> impl Iterator<Item = (Actuator, Wish)> {
        let all = self.wishes.iter().map(|(actuator, wish)| (*actuator, *wish));
        all.filter(move |(actuator, _)| actuator.resource() == resource)
    }

    pub(crate) fn wish(&self, actuator: &Actuator) -> Wish {
        self.wishes.get(actuator).copied().unwrap_or_default()
    }
}

impl DiskRates {
    fn is_sane(&self) -> bool {
        [
            self.read_bytes_per_s,
            self.write_bytes_per_s,
            self.read_ops_per_s,
            self.write_ops_per_s,
            self.p99_us.unwrap_or_default(),
        ]
        .into_iter()
        .all(sane)
    }
}

fn sane(number: f64) -> bool {
    number.is_finite() && number >= 0.0
}
