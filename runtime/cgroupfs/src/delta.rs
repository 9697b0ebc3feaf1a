//! What happened between two samples of one group: a pure function of both.
//!
//! Owns every subtraction and rate; reads nothing. The agent's sampler and controller
//! call it. A number that would be wrong is `None`: the group was recreated (other
//! inode), the counter is missing, or it went back.

use crate::sample::{IoSample, Sample, Stall, StallTime};

/// Increases over a window. Counters as in [`Sample`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Delta {
    /// Never 0.
    pub elapsed_ns: u64,
    pub cpu_usage_usec: Option<u64>,
    pub cpu_user_usec: Option<u64>,
    pub cpu_system_usec: Option<u64>,
    pub nr_periods: Option<u64>,
    pub nr_throttled: Option<u64>,
    pub throttled_usec: Option<u64>,
    pub memory_failcnt: Option<u64>,
    pub oom_kills: Option<u64>,
    pub pgmajfault: Option<u64>,
    pub workingset_refault_anon: Option<u64>,
    pub workingset_refault_file: Option<u64>,
    pub pids_refused: Option<u64>,
    /// Devices of the later sample whose counters all went forward.
    pub io: Vec<IoSample>,
    pub cpu_stall: StallDelta,
    pub memory_stall: StallDelta,
    pub io_stall: StallDelta,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StallDelta {
    pub some_usec: Option<u64>,
    pub full_usec: Option<u64>,
}

impl Delta {
    /// `None` if the samples are of different groups (one was recreated under the same
    /// name) or no time lies between them.
    pub fn between(prev: &Sample, cur: &Sample) -> Option<Delta> {
        let elapsed_ns = cur.monotonic_ns.checked_sub(prev.monotonic_ns).filter(|ns| *ns > 0)?;
        if prev.identity != cur.identity {
            return None;
        }
        let (memory, old) = (&cur.memory, &prev.memory);
        Some(Delta {
            elapsed_ns,
            cpu_usage_usec: rise(prev.cpu.usage_usec, cur.cpu.usage_usec),
            cpu_user_usec: rise(prev.cpu.user_usec, cur.cpu.user_usec),
            cpu_system_usec: rise(prev.cpu.system_usec, cur.cpu.system_usec),
            nr_periods: rise(prev.cpu.nr_periods, cur.cpu.nr_periods),
            nr_throttled: rise(prev.cpu.nr_throttled, cur.cpu.nr_throttled),
            throttled_usec: rise(prev.cpu.throttled_usec, cur.cpu.throttled_usec),
            memory_failcnt: rise(old.failcnt, memory.failcnt),
            oom_kills: rise(old.oom_kills, memory.oom_kills),
            pgmajfault: rise(old.stat.pgmajfault, memory.stat.pgmajfault),
            workingset_refault_anon: rise(
                old.stat.workingset_refault_anon,
                memory.stat.workingset_refault_anon,
            ),
            workingset_refault_file: rise(
                old.stat.workingset_refault_file,
                memory.stat.workingset_refault_file,
            ),
            pids_refused: rise(prev.pids.refused, cur.pids.refused),
            io: cur.io.iter().filter_map(|io| io_rise(&prev.io, io)).collect(),
            cpu_stall: stall_rise(&prev.pressure.cpu, &cur.pressure.cpu),
            memory_stall: stall_rise(&prev.pressure.memory, &cur.pressure.memory),
            io_stall: stall_rise(&prev.pressure.io, &cur.pressure.io),
        })
    }

    /// CPU time used over the window, 1.0 = one CPU.
    pub fn cpu_ratio(&self) -> Option<f64> {
        self.cpu_usage_usec.map(|usec| self.per_second(usec) / 1e6)
    }

    /// Share of quota periods in which the quota ran out, 0.0 to 1.0. `None` also if no
    /// period passed: without a quota, or idle.
    pub fn throttled_ratio(&self) -> Option<f64> {
        let periods = self.nr_periods.filter(|n| *n > 0)?;
        Some(self.nr_throttled? as f64 / periods as f64)
    }

    /// Share of the window in which something stalled (`some_usec` or `full_usec` of a
    /// [`StallDelta`]), 0.0 to about 1.0: the kernel's clock is not exactly ours.
    pub fn stall_ratio(&self, stalled_usec: Option<u64>) -> Option<f64> {
        stalled_usec.map(|usec| self.per_second(usec) / 1e6)
    }

    /// A rise of this window as a rate.
    pub fn per_second(&self, rise: u64) -> f64 {
        rise as f64 * 1e9 / self.elapsed_ns as f64
    }
}

fn rise(prev: Option<u64>, cur: Option<u64>) -> Option<u64> {
    cur?.checked_sub(prev?)
}

/// A device that the earlier sample does not have was at zero: the kernel counts for a
/// group from its first I/O to a device on.
fn io_rise(prev: &[IoSample], cur: &IoSample) -> Option<IoSample> {
    let (major, minor) = (cur.major, cur.minor);
    let Some(old) = prev.iter().find(|io| (io.major, io.minor) == (major, minor)) else {
        return Some(cur.clone());
    };
    Some(IoSample {
        major,
        minor,
        read_bytes: cur.read_bytes.checked_sub(old.read_bytes)?,
        write_bytes: cur.write_bytes.checked_sub(old.write_bytes)?,
        read_ops: cur.read_ops.checked_sub(old.read_ops)?,
        write_ops: cur.write_ops.checked_sub(old.write_ops)?,
        discard_bytes: cur.discard_bytes.checked_sub(old.discard_bytes)?,
        discard_ops: cur.discard_ops.checked_sub(old.discard_ops)?,
    })
}

fn stall_rise(prev: &Option<Stall>, cur: &Option<Stall>) -> StallDelta {
    let (Some(prev), Some(cur)) = (prev, cur) else { return StallDelta::default() };
    let total = |time: StallTime| time.total_usec;
    StallDelta {
        some_usec: rise(Some(prev.some.total_usec), Some(cur.some.total_usec)),
        full_usec: rise(prev.full.map(total), cur.full.map(total)),
    }
}

#[cfg(test)]
#[path = "delta_tests.rs"]
mod tests;
