//! What is taken away from a container for a while, below the operator's limits.
//!
//! Owns [`Throttle`], the whole of what one owner wants at a time, and the pure steps from it
//! to values: what of it is tighter than the operator's limits ([`tighter`]), what a step from
//! one set to the next writes ([`differing`], [`dropped`]) and what the operator's values of
//! the same fields are ([`state_of`]). Sparse [`Limits`] are sets of fields here: what is
//! `None` is not throttled. The engine and the agent's care for foreign containers execute.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tenantry_cgroupfs::{CpuMax, IoLimit, IoWeight, Max, Resources};
use tenantry_network::Bandwidth;

use crate::{
    error::Error,
    limit_changes::Cause,
    limits::{CPU_PERIOD_USEC, IoPatch, LEAST_MEMORY_BYTES, Limit, Limits, LimitsPatch, WEIGHTS},
};

/// The kernel's, for a group that was given none.
const DEFAULT_WEIGHT: u64 = 100;
const SHORTEST_LEASE: Duration = Duration::from_secs(1);
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 3600);
const LONGEST_REASON: usize = 1024;

/// All that is wanted at once; what is absent is as the operator's limits say. Empty releases.
/// A value that is not tighter than the operator's changes nothing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Throttle {
    /// 1.0 = one CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_max_cores: Option<f64>,
    /// cgroup v2's scale, 1 to 10000, 100 being the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// Runs only where nobody else wants to; wins over a weight.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cpu_idle: bool,
    /// v2 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<u64>,
    /// 1 to 10000, 100 being the default; heeded by disks whose queue knows weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoThrottle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bits_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bits_per_s: Option<u64>,
    /// What it sends goes last in a queue of the host's that knows classes.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub egress_bulk: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoThrottle {
    pub major: u32,
    pub minor: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ops_per_s: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ops_per_s: Option<u64>,
}

/// Who wants it, why, and until when unless it is renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// 1 s to 24 h.
    pub time: Duration,
    pub owner: Owner,
    pub reason: String,
    /// The decision behind each limit, by the limit's name, where there is one.
    pub causes: BTreeMap<String, Cause>,
}

/// An operator's throttle takes a controller's place; the other way round is a conflict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    Operator,
    Controller,
}

/// What is turned. One word for a file and its v1 counterparts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Actuator {
    #[serde(rename = "cpu.max")]
    CpuMax,
    #[serde(rename = "cpu.weight")]
    CpuWeight,
    #[serde(rename = "cpu.idle")]
    CpuIdle,
    #[serde(rename = "memory.high")]
    MemoryHigh,
    #[serde(rename = "io.weight")]
    IoWeight,
    #[serde(rename = "io.max")]
    IoMax,
    #[serde(rename = "net.egress")]
    NetEgress,
    #[serde(rename = "net.ingress")]
    NetIngress,
    #[serde(rename = "net.priority")]
    NetPriority,
}

impl Actuator {
    pub fn as_str(self) -> &'static str {
        match self {
            Actuator::CpuMax => "cpu.max",
            Actuator::CpuWeight => "cpu.weight",
            Actuator::CpuIdle => "cpu.idle",
            Actuator::MemoryHigh => "memory.high",
            Actuator::IoWeight => "io.weight",
            Actuator::IoMax => "io.max",
            Actuator::NetEgress => "net.egress",
            Actuator::NetIngress => "net.ingress",
            Actuator::NetPriority => "net.priority",
        }
    }

    /// Of a cgroup file that is named after it, on v2 or v1.
    pub fn of_file(name: &str) -> Option<Actuator> {
        Some(match name {
            "cpu.max" | "cpu.cfs_quota_us" => Actuator::CpuMax,
            "cpu.weight" | "cpu.shares" => Actuator::CpuWeight,
            "cpu.idle" => Actuator::CpuIdle,
            "memory.high" => Actuator::MemoryHigh,
            "io.weight" | "io.bfq.weight" | "blkio.bfq.weight" => Actuator::IoWeight,
            "io.max" => Actuator::IoMax,
            v1 if v1.starts_with("blkio.throttle.") => Actuator::IoMax,
            _ => return None,
        })
    }
}

impl fmt::Display for Actuator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Lease {
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn validate(&self) -> Result<(), Error> {
        if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&self.time) {
            let allowed = format!("1 to {} seconds", LONGEST_LEASE.as_secs());
            return Err(Error::invalid("lease_seconds", self.time.as_secs(), allowed));
        }
        if self.reason.len() > LONGEST_REASON {
            let value = format!("{} bytes", self.reason.len());
            let allowed = format!("at most {LONGEST_REASON} bytes");
            return Err(Error::invalid("reason", value, allowed));
        }
        Ok(())
    }
}

impl Throttle {
    pub fn is_empty(&self) -> bool {
        *self == Throttle::default()
    }

    /// Literal values, with the rules that limits have.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field, its value and what is allowed.
    pub fn validate(&self, host_cpus: usize) -> Result<Limits, Error> {
        let value = |value: Option<u64>| value.map(Limit::Value);
        let patch = LimitsPatch {
            cpus: self.cpu_max_cores.map(Limit::Value),
            cpu_weight: self.cpu_weight,
            io: self
                .io
                .iter()
                .map(|io| IoPatch {
                    major: io.major,
                    minor: io.minor,
                    read_bytes_per_s: value(io.read_bytes_per_s),
                    write_bytes_per_s: value(io.write_bytes_per_s),
                    read_ops_per_s: value(io.read_ops_per_s),
                    write_ops_per_s: value(io.write_ops_per_s),
                })
                .collect(),
            egress_bits_per_s: value(self.egress_bits_per_s),
            ingress_bits_per_s: value(self.ingress_bits_per_s),
            ..LimitsPatch::default()
        };
        let mut limits = patch.validate(host_cpus)?;
        limits.bandwidth.egress_bulk = self.egress_bulk;
        if self.cpu_idle {
            limits.resources.cpu_idle = Some(true);
            limits.resources.cpu_weight = None;
        }
        if let Some(weight) = self.io_weight {
            if !WEIGHTS.contains(&weight) {
                return Err(Error::invalid("io_weight", weight, "1 to 10000"));
            }
            limits.resources.io_weight = Some(IoWeight::of(weight));
        }
        if let Some(bytes) = self.memory_high_bytes {
            if !(LEAST_MEMORY_BYTES..=i64::MAX as u64).contains(&bytes) {
                let allowed = format!("at least {LEAST_MEMORY_BYTES} bytes (6m)");
                return Err(Error::invalid("memory_high_bytes", bytes, allowed));
            }
            // The kernel counts pages; a value that it keeps as it is can be recognised.
            let page = rustix::param::page_size() as u64;
            limits.resources.memory_high_bytes = Some(Max::Value(bytes / page * page));
        }
        Ok(limits)
    }
}

/// Of `wanted` what is tighter than the operator's limits, and no more.
pub fn tighter(operator: &Limits, wanted: &Limits) -> Limits {
    let (of, to) = (&operator.resources, &wanted.resources);
    let is_idle = of.cpu_idle == Some(true);
    let weight = of.cpu_weight.unwrap_or(DEFAULT_WEIGHT);
    let io = to.io.iter().filter_map(|limit| {
        let own = rates_of(of, limit.major, limit.minor);
        let rates = zip(limit.limits(), own, |wanted, own| {
            wanted.filter(|wanted| bytes(*wanted) < own.map_or(u64::MAX, bytes))
        });
        limited(limit.major, limit.minor, rates)
    });
    let lower = |wanted: Option<u64>, own: Option<u64>| {
        wanted.filter(|wanted| own.is_none_or(|own| *wanted < own))
    };
    Limits {
        resources: Resources {
            cpu: to.cpu.and_then(|wanted| tighter_cpu(of.cpu, wanted)),
            cpu_weight: to.cpu_weight.filter(|wanted| *wanted < weight && !is_idle),
            cpu_idle: to.cpu_idle.filter(|wanted| *wanted && !is_idle),
            memory_high_bytes: to
                .memory_high_bytes
                .filter(|wanted| bytes(*wanted) < of.memory_high_bytes.map_or(u64::MAX, bytes)),
            io_weight: to
                .io_weight
                .and_then(|wanted| of.io_weight.unwrap_or_default().tighter(wanted)),
            io: io.collect(),
            ..Resources::default()
        },
        bandwidth: Bandwidth {
            egress_bits_per_s: lower(
                wanted.bandwidth.egress_bits_per_s,
                operator.bandwidth.egress_bits_per_s,
            ),
            ingress_bits_per_s: lower(
                wanted.bandwidth.ingress_bits_per_s,
                operator.bandwidth.ingress_bits_per_s,
            ),
            egress_bulk: wanted.bandwidth.egress_bulk && !operator.bandwidth.egress_bulk,
            ..Bandwidth::default()
        },
    }
}

/// In the operator's period, so that a change is one write on v1, too.
fn tighter_cpu(own: Option<CpuMax>, wanted: CpuMax) -> Option<CpuMax> {
    const SHORTEST_QUOTA_USEC: u64 = 1_000;
    let period_usec = own.map_or(CPU_PERIOD_USEC, |cpu| cpu.period_usec);
    let quota = wanted.quota_usec? * period_usec / wanted.period_usec.max(1);
    let quota = quota.max(SHORTEST_QUOTA_USEC);
    let is_tighter = own.and_then(|cpu| cpu.quota_usec).is_none_or(|own| quota < own);
    is_tighter.then_some(CpuMax { quota_usec: Some(quota), period_usec })
}

/// The values of the fields that `like` names while `force` is in force: what it holds of
/// them, else the operator's, else none.
pub fn state_of(operator: &Resources, force: &Resources, like: &Resources) -> Resources {
    let names_share = like.cpu_idle.is_some() || like.cpu_weight.is_some();
    let is_idle = force.cpu_idle == Some(true);
    let own_weight = force.cpu_weight.or(operator.cpu_weight).unwrap_or(DEFAULT_WEIGHT);
    let io = like.io.iter().filter_map(|limit| {
        let (major, minor) = (limit.major, limit.minor);
        let forced = rates_of(force, major, minor);
        let own = rates_of(operator, major, minor);
        let values = zip(forced, own, |forced, own| forced.or(own).or(Some(Max::Unlimited)));
        limited(major, minor, zip(limit.limits(), values, |named, value| named.and(value)))
    });
    Resources {
        cpu: like.cpu.map(|named| {
            let none = CpuMax { quota_usec: None, period_usec: named.period_usec };
            force.cpu.or(operator.cpu).unwrap_or(none)
        }),
        cpu_idle: (names_share && (is_idle || like.cpu_idle.is_some())).then_some(is_idle),
        cpu_weight: (names_share && !is_idle).then_some(own_weight),
        memory_high_bytes: like
            .memory_high_bytes
            .and(force.memory_high_bytes.or(operator.memory_high_bytes).or(Some(Max::Unlimited))),
        io_weight: like
            .io_weight
            .map(|_| force.io_weight.or(operator.io_weight).unwrap_or_default()),
        io: io.collect(),
        ..Resources::default()
    }
}

/// What is to be written on the way from `before` to `after` for the fields of `after`.
pub fn differing(before: &Resources, after: &Resources) -> Resources {
    let io = after.io.iter().filter_map(|limit| {
        let known = rates_of(before, limit.major, limit.minor);
        let rates = zip(limit.limits(), known, |wanted, known| wanted.filter(|_| wanted != known));
        limited(limit.major, limit.minor, rates)
    });
    let ceases = before.cpu_idle == Some(true) && after.cpu_weight.is_some();
    Resources {
        cpu: after.cpu.filter(|cpu| before.cpu != Some(*cpu)),
        cpu_weight: after.cpu_weight.filter(|weight| before.cpu_weight != Some(*weight)),
        cpu_idle: after
            .cpu_idle
            .filter(|idle| before.cpu_idle != Some(*idle))
            .or(ceases.then_some(false)),
        memory_high_bytes: after
            .memory_high_bytes
            .filter(|max| before.memory_high_bytes != Some(*max)),
        io_weight: after.io_weight.filter(|weight| before.io_weight != Some(*weight)),
        io: io.collect(),
        ..Resources::default()
    }
}

/// What `before` holds and `after` does not.
pub fn dropped(before: &Resources, after: &Resources) -> Resources {
    let has_share = after.cpu_idle.is_some() || after.cpu_weight.is_some();
    let io = before.io.iter().filter_map(|limit| {
        let kept = rates_of(after, limit.major, limit.minor);
        let rates = zip(limit.limits(), kept, |held, kept| held.filter(|_| kept.is_none()));
        limited(limit.major, limit.minor, rates)
    });
    Resources {
        cpu: before.cpu.filter(|_| after.cpu.is_none()),
        cpu_weight: before.cpu_weight.filter(|_| !has_share),
        cpu_idle: before.cpu_idle.filter(|_| !has_share),
        memory_high_bytes: before.memory_high_bytes.filter(|_| after.memory_high_bytes.is_none()),
        io_weight: before.io_weight.filter(|_| after.io_weight.is_none()),
        io: io.collect(),
        ..Resources::default()
    }
}

/// Which actuators a set turns.
pub fn actuators(limits: &Limits) -> BTreeSet<Actuator> {
    let (resources, bandwidth) = (&limits.resources, &limits.bandwidth);
    let turned = [
        (Actuator::CpuMax, resources.cpu.is_some()),
        (Actuator::CpuWeight, resources.cpu_weight.is_some()),
        (Actuator::CpuIdle, resources.cpu_idle.is_some()),
        (Actuator::MemoryHigh, resources.memory_high_bytes.is_some()),
        (Actuator::IoWeight, resources.io_weight.is_some()),
        (Actuator::IoMax, !resources.io.is_empty()),
        (Actuator::NetEgress, bandwidth.egress_bits_per_s.is_some()),
        (Actuator::NetIngress, bandwidth.ingress_bits_per_s.is_some()),
        (Actuator::NetPriority, bandwidth.egress_bulk),
    ];
    turned.into_iter().filter(|(_, is)| *is).map(|(actuator, _)| actuator).collect()
}

/// The set without what these actuators turn.
pub fn without(limits: &Limits, actuators: &BTreeSet<Actuator>) -> Limits {
    let mut left = limits.clone();
    for actuator in actuators {
        match actuator {
            Actuator::CpuMax => left.resources.cpu = None,
            Actuator::CpuWeight => left.resources.cpu_weight = None,
            Actuator::CpuIdle => left.resources.cpu_idle = None,
            Actuator::MemoryHigh => left.resources.memory_high_bytes = None,
            Actuator::IoWeight => left.resources.io_weight = None,
            Actuator::IoMax => left.resources.io.clear(),
            Actuator::NetEgress => left.bandwidth.egress_bits_per_s = None,
            Actuator::NetIngress => left.bandwidth.ingress_bits_per_s = None,
            Actuator::NetPriority => left.bandwidth.egress_bulk = false,
        }
    }
    left
}

/// What an operator's change takes out of a controller's hands. Rates of one device end
/// alone; a new memory limit ends `memory.high`, which means the same resource.
pub fn ended_by(patch: &LimitsPatch, change: &Limits, force: &Limits) -> Limits {
    let resources = &change.resources;
    let mut ended = BTreeSet::new();
    let mut end = |actuator, is_changed: bool| {
        if is_changed {
            ended.insert(actuator);
        }
    };
    end(Actuator::CpuMax, resources.cpu.is_some());
    end(Actuator::CpuWeight, resources.cpu_weight.is_some());
    end(Actuator::CpuIdle, resources.cpu_weight.is_some());
    let memory = resources.memory_max_bytes.or(resources.memory_swap_max_bytes);
    end(Actuator::MemoryHigh, memory.is_some());
    end(Actuator::IoWeight, resources.io_weight.is_some());
    end(Actuator::NetEgress, patch.egress_bits_per_s.is_some());
    end(Actuator::NetPriority, patch.egress_bits_per_s.is_some());
    end(Actuator::NetIngress, patch.ingress_bits_per_s.is_some());
    let mut left = without(force, &ended);
    left.resources.io = left
        .resources
        .io
        .iter()
        .filter_map(|limit| {
            let changed = rates_of(resources, limit.major, limit.minor);
            let rates =
                zip(limit.limits(), changed, |held, changed| held.filter(|_| changed.is_none()));
            limited(limit.major, limit.minor, rates)
        })
        .collect();
    left
}

/// The operator's bandwidth where nothing is forced. A forced rate has the usual burst: the
/// operator's may be seconds of it.
pub fn bandwidth_of(operator: &Bandwidth, force: &Bandwidth) -> Bandwidth {
    let choose = |forced: Option<u64>, own: (Option<u64>, Option<u64>)| match forced {
        Some(_) => (forced, None),
        None => own,
    };
    let own = operator;
    let egress = choose(force.egress_bits_per_s, (own.egress_bits_per_s, own.egress_burst_bytes));
    let ingress =
        choose(force.ingress_bits_per_s, (own.ingress_bits_per_s, own.ingress_burst_bytes));
    Bandwidth {
        egress_bits_per_s: egress.0,
        ingress_bits_per_s: ingress.0,
        egress_burst_bytes: egress.1,
        ingress_burst_bytes: ingress.1,
        egress_bulk: force.egress_bulk || own.egress_bulk,
    }
}

type Rates = [Option<Max>; 4];

fn rates_of(resources: &Resources, major: u32, minor: u32) -> Rates {
    let found = resources.io.iter().find(|limit| (limit.major, limit.minor) == (major, minor));
    found.map_or([None; 4], IoLimit::limits)
}

fn zip(a: Rates, b: Rates, f: impl Fn(Option<Max>, Option<Max>) -> Option<Max>) -> Rates {
    std::array::from_fn(|at| f(a[at], b[at]))
}

/// `None` for a device without any.
fn limited(major: u32, minor: u32, rates: Rates) -> Option<IoLimit> {
    rates.iter().any(Option::is_some).then(|| IoLimit::with_limits(major, minor, rates))
}

fn bytes(max: Max) -> u64 {
    max.value().unwrap_or(u64::MAX)
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
