//! Limits and identities as values.
//!
//! Owns the vocabulary that callers keep in records and send over APIs; must not
//! open a file. Everybody calls it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::io_weight::IoWeight;

/// A limit that can be lifted. In JSON a number, or `"max"` as the kernel writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MaxText", into = "MaxText")]
pub enum Max {
    Unlimited,
    Value(u64),
}

impl Max {
    /// `None` if unlimited.
    pub fn value(self) -> Option<u64> {
        match self {
            Max::Unlimited => None,
            Max::Value(value) => Some(value),
        }
    }
}

impl std::fmt::Display for Max {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Max::Unlimited => f.write_str("max"),
            Max::Value(value) => value.fmt(f),
        }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged, expecting = "a number, or \"max\" for no limit")]
enum MaxText {
    Value(u64),
    Word(MaxWord),
}

#[derive(Serialize, Deserialize)]
enum MaxWord {
    #[serde(rename = "max")]
    Max,
}

impl From<MaxText> for Max {
    fn from(text: MaxText) -> Max {
        match text {
            MaxText::Value(value) => Max::Value(value),
            MaxText::Word(MaxWord::Max) => Max::Unlimited,
        }
    }
}

impl From<Max> for MaxText {
    fn from(max: Max) -> MaxText {
        match max {
            Max::Unlimited => MaxText::Word(MaxWord::Max),
            Max::Value(value) => MaxText::Value(value),
        }
    }
}

/// CPU time per period, as in v2's `cpu.max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuMax {
    /// `None` is no quota. Otherwise at least 1,000; more than `period_usec` is more
    /// than one CPU.
    pub quota_usec: Option<u64>,
    /// 1,000 to 1,000,000; the kernel's default is 100,000.
    pub period_usec: u64,
}

/// Limits of one block device, both ways. `None` leaves that limit alone,
/// [`Max::Unlimited`] lifts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoLimit {
    pub major: u32,
    pub minor: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_bytes_per_s: Option<Max>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_bytes_per_s: Option<Max>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ops_per_s: Option<Max>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ops_per_s: Option<Max>,
}

impl IoLimit {
    /// The four limits in the order read bytes, write bytes, read operations, write
    /// operations.
    pub fn limits(&self) -> [Option<Max>; 4] {
        [self.read_bytes_per_s, self.write_bytes_per_s, self.read_ops_per_s, self.write_ops_per_s]
    }

    /// The inverse of [`IoLimit::limits`].
    pub fn with_limits(major: u32, minor: u32, limits: [Option<Max>; 4]) -> IoLimit {
        let [read_bytes_per_s, write_bytes_per_s, read_ops_per_s, write_ops_per_s] = limits;
        IoLimit {
            major,
            minor,
            read_bytes_per_s,
            write_bytes_per_s,
            read_ops_per_s,
            write_ops_per_s,
        }
    }
}

/// What a group may use. `None` (and a device that is not named) leaves alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resources {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuMax>,
    /// v2's scale, 1 to 10,000, 100 being the default. On v1 written as
    /// [`shares_from_weight`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,
    /// `true`: the group runs where nobody else wants to (5.15). The kernel forgets the weight
    /// of an idle group: `false` leaves the default one unless `cpu_weight` stands beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_idle: Option<bool>,
    /// A list such as `0-2,5`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_cpus: Option<String>,
    /// The kernel rounds down to whole pages. A limit below the present working set is
    /// refused. Without `memory_swap_max_bytes` it also bounds memory and swap together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_max_bytes: Option<Max>,
    /// Memory and swap **together**, as Docker's `--memory-swap`: equal to
    /// `memory_max_bytes` is no swap at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_swap_max_bytes: Option<Max>,
    /// Above it the group's memory is reclaimed and its tasks wait for that; nothing is
    /// killed. v2 alone, in whole pages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high_bytes: Option<Max>,
    /// So much is left to the group when others want memory; 0 is none. v1 has a soft limit for
    /// it: what the group has beyond is taken first when the whole host runs out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_low_bytes: Option<u64>,
    /// `true`: who is at the memory limit waits instead of being killed. v1 alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill_disable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids_max: Option<Max>,
    /// What part the group gets of a disk that others want, too, where the disk's queue knows
    /// weights; it takes nothing while nobody else wants the disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<IoWeight>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io: Vec<IoLimit>,
}

/// One write that took effect: in which file, and what the kernel says it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// A field of [`Resources`].
    pub resource: String,
    pub actuator: PathBuf,
    /// Empty if nothing could be written and `read_back` says why: see
    /// [`Applied::skipped`].
    pub written: String,
    pub read_back: String,
}

impl Applied {
    /// The kernel lacks this actuator and the rest could be applied without it. Only
    /// the swap half of a memory limit is skipped, where the kernel does not account swap.
    pub fn skipped(&self) -> bool {
        self.written.is_empty()
    }
}

/// The ids by which kernel programs know a group: inode numbers of its directories.
/// Ids of different hierarchies overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct CgroupIds {
    pub unified: u64,
    /// `None` on pure v2, where block I/O carries the unified id.
    pub blkio_v1: Option<u64>,
    /// `None` on pure v2.
    pub memory_v1: Option<u64>,
}

const WEIGHT_DEFAULT: u64 = 100;
const SHARES_DEFAULT: u64 = 1024;

/// v1 `cpu.shares` with the same scheduler weight as a v2 `cpu.weight`: the kernel's
/// own formula (`sched_weight_from_cgroup`), so 100 is 1024.
pub fn shares_from_weight(weight: u64) -> u64 {
    (weight * SHARES_DEFAULT + WEIGHT_DEFAULT / 2) / WEIGHT_DEFAULT
}

/// The v2 `cpu.weight` nearest to v1 `cpu.shares` (Docker's `--cpu-shares`), by the
/// kernel's own formula (`sched_weight_to_cgroup`), within 1 to 10,000.
pub fn weight_from_shares(shares: u64) -> u64 {
    // Above v1's own maximum (2^18) all are the heaviest; this also keeps the product small.
    let shares = shares.min(1 << 18);
    ((shares * WEIGHT_DEFAULT + SHARES_DEFAULT / 2) / SHARES_DEFAULT).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_survives_the_way_through_shares() {
        for weight in 1..=10_000 {
            assert_eq!(weight_from_shares(shares_from_weight(weight)), weight);
        }
        assert_eq!(shares_from_weight(100), 1024);
        assert_eq!((weight_from_shares(2), weight_from_shares(u64::MAX)), (1, 10_000));
    }

    #[test]
    fn resources_are_json_with_max_as_a_word() {
        let wanted = Resources {
            memory_max_bytes: Some(Max::Value(64)),
            pids_max: Some(Max::Unlimited),
            ..Resources::default()
        };
        let text = serde_json::to_string(&wanted).unwrap();
        assert_eq!(text, r#"{"memory_max_bytes":64,"pids_max":"max"}"#);
        assert_eq!(serde_json::from_str::<Resources>(&text).unwrap(), wanted);
        assert!(serde_json::from_str::<Max>("\"lots\"").is_err());
    }
}
