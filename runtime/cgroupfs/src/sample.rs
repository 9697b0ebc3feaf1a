//! What the kernel said about one group at one moment, and nothing derived from it
//! but sums of a single sample.
//!
//! Owns the plain structs; must not open a file. [`crate::Group::read_sample`] fills
//! them, [`crate::delta`] subtracts them, the agent's metrics show them. A field is
//! `None` where this kernel or layout does not have the number.

use serde::{Deserialize, Serialize};

use crate::types::Max;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// Inode of the unified directory: a recreated group has another.
    pub identity: u64,
    /// `CLOCK_MONOTONIC` at the beginning of reading.
    pub monotonic_ns: u64,
    pub cpu: CpuSample,
    pub memory: MemorySample,
    pub pids: PidsSample,
    /// By device, in the kernel's order. Devices without any I/O are not there.
    pub io: Vec<IoSample>,
    pub pressure: Pressure,
}

/// Of a [`Sample`], what a controller watches once a second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strain {
    pub memory: MemorySample,
    pub pressure: Pressure,
}

/// Counters since the group was made. On a hybrid host usage comes from the unified tree;
/// v1's throttled time is in nanoseconds there, the rest below a microsecond is dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CpuSample {
    pub usage_usec: Option<u64>,
    pub user_usec: Option<u64>,
    pub system_usec: Option<u64>,
    /// Periods with a runnable task while a quota was set.
    pub nr_periods: Option<u64>,
    /// Periods in which the quota ran out.
    pub nr_throttled: Option<u64>,
    /// Summed over CPUs: it can pass faster than the clock.
    pub throttled_usec: Option<u64>,
    /// v1's scale, 1024 by default; a v2 weight as [`crate::shares_from_weight`] has it.
    pub shares: Option<u64>,
    pub nr_bursts: Option<u64>,
    pub burst_usec: Option<u64>,
}

/// Bytes unless said otherwise, nested groups included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemorySample {
    /// All that is charged: anonymous, page cache, kernel.
    pub usage_bytes: Option<u64>,
    /// The highest `usage_bytes` so far (v1 `max_usage_in_bytes`, v2 `memory.peak`, 5.19).
    pub max_usage_bytes: Option<u64>,
    pub limit_bytes: Option<Max>,
    /// Memory and swap together, as in [`crate::Resources`].
    pub memory_swap_limit_bytes: Option<Max>,
    /// What reclaim leaves alone as long as there is other memory (v1 soft limit, v2 `memory.low`).
    pub reservation_bytes: Option<Max>,
    /// In swap now.
    pub swap_bytes: Option<u64>,
    /// Times a limit was hit (v1 `memory.failcnt` and `memory.memsw.failcnt` together,
    /// v2 `memory.events` max).
    pub failcnt: Option<u64>,
    /// Times it was held back above `memory.high` (v2 `memory.events` high).
    pub over_high: Option<u64>,
    /// Processes killed because a limit was hit. On v1 not those of nested groups.
    pub oom_kills: Option<u64>,
    pub stat: MemoryStat,
}

/// Parts of `memory.stat` that both versions have; v1's `total_*` values.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemoryStat {
    /// v1 `rss`.
    pub anon_bytes: Option<u64>,
    /// Page cache with tmpfs and shared memory. v1 `cache`.
    pub file_bytes: Option<u64>,
    pub shmem_bytes: Option<u64>,
    pub mapped_bytes: Option<u64>,
    pub dirty_bytes: Option<u64>,
    pub writeback_bytes: Option<u64>,
    pub inactive_anon_bytes: Option<u64>,
    pub active_anon_bytes: Option<u64>,
    pub inactive_file_bytes: Option<u64>,
    pub active_file_bytes: Option<u64>,
    pub unevictable_bytes: Option<u64>,
    /// All kernel memory: v2 since 5.18, v1 `memory.kmem.usage_in_bytes`.
    pub kernel_bytes: Option<u64>,
    /// Buffers of sockets. On v1 those of TCP.
    pub sock_bytes: Option<u64>,
    pub slab_bytes: Option<u64>,
    /// Events, not bytes, from here on.
    pub pgfault: Option<u64>,
    pub pgmajfault: Option<u64>,
    /// Of this group without nested ones; v2 does not tell.
    pub own_pgfault: Option<u64>,
    pub own_pgmajfault: Option<u64>,
    /// Pages that reclaim looked at, and those that it took. v2 only.
    pub pgscan: Option<u64>,
    pub pgsteal: Option<u64>,
    /// Pages that came back soon after they had been reclaimed.
    pub workingset_refault_anon: Option<u64>,
    pub workingset_refault_file: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PidsSample {
    /// Tasks, that is threads, as the kernel counts them.
    pub current: Option<u64>,
    pub max: Option<Max>,
    /// Forks refused.
    pub refused: Option<u64>,
}

/// Counters of one block device.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IoSample {
    pub major: u32,
    pub minor: u32,
    pub read_bytes: u64,
    pub write_bytes: u64,
    pub read_ops: u64,
    pub write_ops: u64,
    pub discard_bytes: u64,
    pub discard_ops: u64,
}

/// Pressure stall information; a resource is `None` where PSI is off.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pressure {
    pub cpu: Option<Stall>,
    pub memory: Option<Stall>,
    pub io: Option<Stall>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// At least one task waited.
    pub some: StallTime,
    /// All tasks that were not idle waited. For CPU since 5.13.
    pub full: Option<StallTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StallTime {
    /// Per cent of the last 10 seconds, as the kernel rounds it.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total_usec: u64,
}

impl MemorySample {
    /// cAdvisor's working set: usage without inactive file pages, which the kernel takes
    /// back first. `None` if either is unknown.
    pub fn working_set_bytes(&self) -> Option<u64> {
        Some(self.usage_bytes?.saturating_sub(self.stat.inactive_file_bytes?))
    }

    /// Times that a limit of its own held it back, whichever. `None` if nothing is counted.
    pub fn limit_hits(&self) -> Option<u64> {
        let counts = self.failcnt.into_iter().chain(self.over_high);
        counts.reduce(u64::saturating_add)
    }
}
