//! What a container may use, and how a wish for a change becomes literal values.
//!
//! Owns [`Limits`], the one typed set across cgroup and network, [`LimitsPatch`],
//! a change of it, and the pure merge with its validation. It writes nothing:
//! the engine applies the merged limits through `cgroupfs` and `network`.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tenantry_cgroupfs::{CpuMax, IoLimit, IoWeight, Max, Resources};
use tenantry_network::Bandwidth;

use crate::error::Error;

pub const CPU_PERIOD_USEC: u64 = 100_000;
/// Of CPUs and disks, on cgroup v2's scale.
pub(crate) const WEIGHTS: std::ops::RangeInclusive<u64> = 1..=10_000;
/// The kernel refuses a shorter quota.
const SHORTEST_QUOTA_USEC: u64 = 1_000;
/// Below this not even an empty container starts.
pub(crate) const LEAST_MEMORY_BYTES: u64 = 6 << 20;
/// Bounds the record and the kernel's walk over throttle rules.
const MOST_IO_DEVICES: usize = 64;

/// Absent fields are not limited.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub resources: Resources,
    pub bandwidth: Bandwidth,
}

/// One limit's new value. In JSON a number, or `"max"` for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit<T> {
    Unlimited,
    Value(T),
}

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Limit::Unlimited => serializer.serialize_str("max"),
            Limit::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a number, or \"max\" for no limit")]
        enum Raw<T> {
            Value(T),
            Word(Word),
        }
        #[derive(Deserialize)]
        enum Word {
            #[serde(rename = "max")]
            Max,
        }
        Ok(match Raw::deserialize(deserializer)? {
            Raw::Value(value) => Limit::Value(value),
            Raw::Word(Word::Max) => Limit::Unlimited,
        })
    }
}

/// A change of limits; absent fields stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsPatch {
    /// 1.0 = one CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Limit<f64>>,
    /// cgroup v2's scale, 1 to 10000, 100 being the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// A list such as `0-2,5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<Limit<u64>>,
    /// Memory and swap together, as Docker's `--memory-swap`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_bytes: Option<Limit<u64>>,
    /// So much is left to it when others want memory; 0 is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low_bytes: Option<u64>,
    /// Who is at the memory limit waits instead of being killed; cgroup v1 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill_disable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Limit<u64>>,
    /// At disks whose queue knows weights: cgroup v2's scale, 1 to 10000, 100 being the default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,
    /// Per device; devices that are not named stay as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoPatch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bits_per_s: Option<Limit<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_bits_per_s: Option<Limit<u64>>,
    /// What may pass at once after a pause. Only together with its rate; a rate without it
    /// has the usual burst again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_burst_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_burst_bytes: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IoPatch {
    pub major: u32,
    pub minor: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_s: Option<Limit<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_s: Option<Limit<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ops_per_s: Option<Limit<u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ops_per_s: Option<Limit<u64>>,
}

/// One write that took effect: in which file or on which device, and what the
/// kernel says it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    pub resource: String,
    pub actuator: String,
    pub written: String,
    pub read_back: String,
}

impl From<tenantry_cgroupfs::Applied> for Applied {
    fn from(applied: tenantry_cgroupfs::Applied) -> Self {
        let actuator = applied.actuator.display().to_string();
        let (written, read_back) = (applied.written, applied.read_back);
        Self { resource: applied.resource, actuator, written, read_back }
    }
}

impl From<tenantry_network::Applied> for Applied {
    fn from(applied: tenantry_network::Applied) -> Self {
        let tenantry_network::Applied { resource, actuator, written, read_back } = applied;
        Self { resource, actuator, written, read_back }
    }
}

impl LimitsPatch {
    pub fn is_empty(&self) -> bool {
        *self == LimitsPatch::default()
    }

    pub(crate) fn changes_bandwidth(&self) -> bool {
        self.egress_bits_per_s.is_some() || self.ingress_bits_per_s.is_some()
    }

    /// The literal values to write for this patch alone.
    ///
    /// # Errors
    /// [`Error::Invalid`] names the field, its value and what is allowed.
    pub fn validate(&self, host_cpus: usize) -> Result<Limits, Error> {
        let mut resources = Resources {
            cpu: self.cpus.map(|cpus| cpu_max(cpus, host_cpus)).transpose()?,
            cpu_weight: self.cpu_weight,
            cpuset_cpus: self.cpuset_cpus.clone(),
            memory_max_bytes: self.memory_bytes.map(memory_max).transpose()?,
            memory_swap_max_bytes: self.memory_swap_bytes.map(max_of),
            memory_low_bytes: self.memory_low_bytes,
            oom_kill_disable: self.oom_kill_disable,
            io_weight: self.io_weight.map(IoWeight::of),
            pids_max: self.pids.map(pids_max).transpose()?,
            ..Resources::default()
        };
        if let Some(weight) = self.cpu_weight
            && !WEIGHTS.contains(&weight)
        {
            return Err(Error::invalid("cpu_weight", weight, "1 to 10000"));
        }
        if let Some(weight) = self.io_weight
            && !WEIGHTS.contains(&weight)
        {
            return Err(Error::invalid("io_weight", weight, "1 to 10000"));
        }
        if let Some(list) = &self.cpuset_cpus {
            check_cpu_list(list, host_cpus)?;
        }
        if self.io.len() > MOST_IO_DEVICES {
            let allowed = format!("at most {MOST_IO_DEVICES} devices");
            return Err(Error::invalid("io", format!("{} devices", self.io.len()), allowed));
        }
        for (index, patch) in self.io.iter().enumerate() {
            let number = (patch.major, patch.minor);
            if self.io[..index].iter().any(|other| (other.major, other.minor) == number) {
                let value = format!("{}:{} twice", patch.major, patch.minor);
                return Err(Error::invalid("io", value, "each device once"));
            }
            resources.io.push(io_limit(patch)?);
        }
        let bandwidth = Bandwidth {
            egress_bits_per_s: self.egress_bits_per_s.and_then(value),
            ingress_bits_per_s: self.ingress_bits_per_s.and_then(value),
            egress_burst_bytes: self.egress_burst_bytes,
            ingress_burst_bytes: self.ingress_burst_bytes,
            // Nobody wants that for good.
            egress_bulk: false,
        };
        bandwidth.validate().map_err(invalid_bandwidth)?;
        Ok(Limits { resources, bandwidth })
    }
}

impl Limits {
    /// These limits after a patch that was validated to `change`. What the patch
    /// set to "no limit" stays written down as such, so that a restart does not
    /// bring an older limit back.
    pub fn with(&self, patch: &LimitsPatch, change: &Limits) -> Limits {
        let mut merged = self.clone();
        merge_resources(&mut merged.resources, &change.resources);
        if patch.egress_bits_per_s.is_some() {
            merged.bandwidth.egress_bits_per_s = change.bandwidth.egress_bits_per_s;
            merged.bandwidth.egress_burst_bytes = change.bandwidth.egress_burst_bytes;
        }
        if patch.ingress_bits_per_s.is_some() {
            merged.bandwidth.ingress_bits_per_s = change.bandwidth.ingress_bits_per_s;
            merged.bandwidth.ingress_burst_bytes = change.bandwidth.ingress_burst_bytes;
        }
        merged
    }
}

/// What `from` names replaces what `to` has of it.
pub(crate) fn merge_resources(to: &mut Resources, from: &Resources) {
    to.cpu = from.cpu.or(to.cpu);
    to.cpu_weight = from.cpu_weight.or(to.cpu_weight);
    to.cpu_idle = from.cpu_idle.or(to.cpu_idle);
    to.cpuset_cpus = from.cpuset_cpus.clone().or(to.cpuset_cpus.take());
    to.memory_max_bytes = from.memory_max_bytes.or(to.memory_max_bytes);
    to.memory_swap_max_bytes = from.memory_swap_max_bytes.or(to.memory_swap_max_bytes);
    to.memory_high_bytes = from.memory_high_bytes.or(to.memory_high_bytes);
    to.memory_low_bytes = from.memory_low_bytes.or(to.memory_low_bytes);
    to.oom_kill_disable = from.oom_kill_disable.or(to.oom_kill_disable);
    to.pids_max = from.pids_max.or(to.pids_max);
    to.io_weight = from.io_weight.or(to.io_weight);
    for limit in &from.io {
        match to.io.iter_mut().find(|l| (l.major, l.minor) == (limit.major, limit.minor)) {
            Some(known) => merge_io(known, limit),
            None => to.io.push(limit.clone()),
        }
    }
}

fn merge_io(known: &mut IoLimit, change: &IoLimit) {
    known.read_bytes_per_s = change.read_bytes_per_s.or(known.read_bytes_per_s);
    known.write_bytes_per_s = change.write_bytes_per_s.or(known.write_bytes_per_s);
    known.read_ops_per_s = change.read_ops_per_s.or(known.read_ops_per_s);
    known.write_ops_per_s = change.write_ops_per_s.or(known.write_ops_per_s);
}

fn cpu_max(cpus: Limit<f64>, host_cpus: usize) -> Result<CpuMax, Error> {
    let quota_usec = match cpus {
        Limit::Unlimited => None,
        Limit::Value(cpus) => {
            let quota = (cpus * CPU_PERIOD_USEC as f64).round();
            if !(quota >= SHORTEST_QUOTA_USEC as f64 && cpus <= host_cpus as f64) {
                let allowed = format!("0.01 to {host_cpus} (this host's CPUs), or max");
                return Err(Error::invalid("cpus", cpus, allowed));
            }
            Some(quota as u64)
        }
    };
    Ok(CpuMax { quota_usec, period_usec: CPU_PERIOD_USEC })
}

fn memory_max(memory: Limit<u64>) -> Result<Max, Error> {
    match memory {
        Limit::Value(bytes) if !(LEAST_MEMORY_BYTES..=i64::MAX as u64).contains(&bytes) => {
            let allowed = format!("at least {LEAST_MEMORY_BYTES} bytes (6m), or max");
            Err(Error::invalid("memory_bytes", bytes, allowed))
        }
        other => Ok(max_of(other)),
    }
}

fn pids_max(pids: Limit<u64>) -> Result<Max, Error> {
    const MOST: u64 = 4_194_304;
    match pids {
        Limit::Value(count) if !(1..=MOST).contains(&count) => {
            Err(Error::invalid("pids", count, format!("1 to {MOST}, or max")))
        }
        other => Ok(max_of(other)),
    }
}

fn io_limit(patch: &IoPatch) -> Result<IoLimit, Error> {
    let rate = |field: &str, limit: Option<Limit<u64>>| match limit {
        Some(Limit::Value(0)) => Err(Error::invalid(field, 0, "1 or more, or max")),
        other => Ok(other.map(max_of)),
    };
    let limit = IoLimit {
        major: patch.major,
        minor: patch.minor,
        read_bytes_per_s: rate("read_bytes_per_s", patch.read_bytes_per_s)?,
        write_bytes_per_s: rate("write_bytes_per_s", patch.write_bytes_per_s)?,
        read_ops_per_s: rate("read_ops_per_s", patch.read_ops_per_s)?,
        write_ops_per_s: rate("write_ops_per_s", patch.write_ops_per_s)?,
    };
    Ok(limit)
}

fn value(limit: Limit<u64>) -> Option<u64> {
    match limit {
        Limit::Unlimited => None,
        Limit::Value(value) => Some(value),
    }
}

/// The network's own words for what it refuses.
fn invalid_bandwidth(error: tenantry_network::Error) -> Error {
    match error {
        tenantry_network::Error::Invalid { field, value, allowed } => {
            Error::invalid(field, value, allowed)
        }
        other => Error::failed("check the bandwidth", other),
    }
}

fn max_of(limit: Limit<u64>) -> Max {
    match limit {
        Limit::Unlimited => Max::Unlimited,
        Limit::Value(value) => Max::Value(value),
    }
}

fn check_cpu_list(list: &str, host_cpus: usize) -> Result<(), Error> {
    let known = |text: &str| text.parse::<usize>().ok().filter(|cpu| *cpu < host_cpus);
    let range_is_right = |part: &str| match part.split_once('-') {
        Some((first, last)) => matches!((known(first), known(last)), (Some(a), Some(b)) if a <= b),
        None => known(part).is_some(),
    };
    if !list.is_empty() && list.split(',').all(range_is_right) {
        return Ok(());
    }
    let allowed = format!("a list such as 0-1,3 of CPUs 0 to {}", host_cpus.saturating_sub(1));
    Err(Error::invalid("cpuset_cpus", list, allowed))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_limit_is_a_number_or_max_in_json() {
        let text = r#"{"cpus":0.5,"memory_bytes":"max","pids":7,"io":[{"major":8,"minor":0,"read_bytes_per_s":1}]}"#;
        let patch: LimitsPatch = serde_json::from_str(text).unwrap();
        assert_eq!(patch.cpus, Some(Limit::Value(0.5)));
        assert_eq!(patch.memory_bytes, Some(Limit::Unlimited));
        assert_eq!(serde_json::to_string(&patch).unwrap(), text);
        let wrong = serde_json::from_str::<LimitsPatch>(r#"{"pids":"many"}"#).unwrap_err();
        assert!(wrong.to_string().contains("max"), "{wrong}");
        assert!(serde_json::from_str::<LimitsPatch>(r#"{"memory":1}"#).is_err());
    }

    #[test]
    fn a_wrong_limit_names_its_field_and_what_is_allowed() {
        let check = |json: &str, expected: &str| {
            let patch: LimitsPatch = serde_json::from_str(json).unwrap();
            match patch.validate(2) {
                Err(Error::Invalid { field, .. }) => assert_eq!(field, expected, "{json}"),
                other => panic!("{json}: {other:?}"),
            }
        };
        check(r#"{"cpus":0.009}"#, "cpus");
        check(r#"{"cpus":2.1}"#, "cpus");
        check(r#"{"cpus":-1}"#, "cpus");
        check(r#"{"cpu_weight":0}"#, "cpu_weight");
        check(r#"{"cpuset_cpus":"0-2"}"#, "cpuset_cpus");
        check(r#"{"cpuset_cpus":"1-0"}"#, "cpuset_cpus");
        check(r#"{"cpuset_cpus":""}"#, "cpuset_cpus");
        check(r#"{"memory_bytes":1024}"#, "memory_bytes");
        check(r#"{"pids":0}"#, "pids");
        check(r#"{"egress_bits_per_s":1}"#, "egress_bits_per_s");
        check(r#"{"egress_burst_bytes":65536}"#, "egress_burst_bytes");
        check(r#"{"egress_bits_per_s":"max","egress_burst_bytes":65536}"#, "egress_burst_bytes");
        check(r#"{"ingress_bits_per_s":9000,"ingress_burst_bytes":1}"#, "ingress_burst_bytes");
        check(r#"{"io":[{"major":8,"write_ops_per_s":0}]}"#, "write_ops_per_s");
        check(r#"{"io":[{"major":8},{"major":8}]}"#, "io");
    }

    #[test]
    fn a_patch_changes_what_it_names_and_nothing_else() {
        let apply = |limits: &Limits, json: &str| {
            let patch: LimitsPatch = serde_json::from_str(json).unwrap();
            limits.with(&patch, &patch.validate(4).unwrap())
        };
        let first = apply(
            &Limits::default(),
            r#"{"cpus":0.5,"pids":9,"egress_bits_per_s":9000,"io":[{"major":8,"read_bytes_per_s":5}]}"#,
        );
        let second = apply(
            &first,
            r#"{"pids":"max","ingress_bits_per_s":8000,"io":[{"major":8,"write_bytes_per_s":6}]}"#,
        );
        assert_eq!(second.resources.cpu.unwrap().quota_usec, Some(50_000));
        assert_eq!(second.resources.pids_max, Some(Max::Unlimited), "remembered as lifted");
        assert_eq!(second.bandwidth.egress_bits_per_s, Some(9000));
        assert_eq!(second.bandwidth.ingress_bits_per_s, Some(8000));
        let io = &second.resources.io;
        assert_eq!(io.len(), 1);
        assert_eq!(io[0].read_bytes_per_s, Some(Max::Value(5)));
        assert_eq!(io[0].write_bytes_per_s, Some(Max::Value(6)));
        let third = apply(&second, r#"{"egress_bits_per_s":20000,"egress_burst_bytes":5000}"#);
        assert_eq!(third.bandwidth.egress_burst_bytes, Some(5000));
        let fourth = apply(&third, r#"{"egress_bits_per_s":30000}"#);
        assert_eq!(fourth.bandwidth.egress_burst_bytes, None, "a burst is its rate's");
        let fifth = apply(&third, r#"{"egress_bits_per_s":"max"}"#);
        assert_eq!(fifth.bandwidth.egress_bits_per_s, None);
        assert_eq!(fifth.bandwidth.ingress_bits_per_s, Some(8000));
    }

    proptest! {
        #[test]
        fn a_patch_applied_twice_is_as_good_as_once(
            cpus in proptest::option::of(0.01f64..4.0),
            memory in proptest::option::of((6u64 << 20)..(1 << 40)),
            pids in proptest::option::of(1u64..1000),
            read in proptest::option::of(1u64..1000),
        ) {
            let limit = |value: Option<u64>| value.map(Limit::Value);
            let io = IoPatch { major: 8, read_bytes_per_s: limit(read), ..IoPatch::default() };
            let patch = LimitsPatch {
                cpus: cpus.map(Limit::Value),
                memory_bytes: limit(memory),
                pids: limit(pids),
                io: vec![io],
                ..LimitsPatch::default()
            };
            let change = patch.validate(4).unwrap();
            let once = Limits::default().with(&patch, &change);
            prop_assert_eq!(once.with(&patch, &change), once);
        }
    }
}
