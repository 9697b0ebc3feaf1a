//! The kernel's texts as values: cgroup v2 formats and their v1 counterparts.
//!
//! Owns the formats of files that are only read (those that are written are in
//! `setting`); opens none. Follows Documentation/admin-guide/cgroup-v2.rst,
//! cgroup-v1/*.rst and accounting/psi.rst. `None` is a text in another format;
//! unknown keys are other kernels' and are passed over.

use crate::sample::{IoSample, MemoryStat, Stall, StallTime};
use crate::types::Max;

pub(crate) fn number(text: &str) -> Option<u64> {
    text.trim_end().parse().ok()
}

/// `max` or a number.
pub(crate) fn max(text: &str) -> Option<Max> {
    match text.trim_end() {
        "max" => Some(Max::Unlimited),
        other => other.parse().ok().map(Max::Value),
    }
}

/// v1 has no word for unlimited: it says the most whole pages that fit a signed number.
pub(crate) fn bytes_v1(text: &str, page_size: u64) -> Option<Max> {
    let most = i64::MAX as u64 / page_size * page_size;
    let value = number(text)?;
    Some(if value >= most { Max::Unlimited } else { Max::Value(value) })
}

/// v1's quota: -1 is none.
pub(crate) fn quota_v1(text: &str) -> Option<Option<u64>> {
    match text.trim_end().parse::<i64>().ok()? {
        -1 => Some(None),
        quota => u64::try_from(quota).ok().map(Some),
    }
}

/// Lines `key value`; others are passed over.
pub(crate) fn flat_keyed(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = line.split_once(' ')?;
        Some((key, value.parse().ok()?))
    })
}

/// One value of a flat keyed file.
pub(crate) fn keyed(text: &str, wanted: &str) -> Option<u64> {
    flat_keyed(text).find(|(key, _)| *key == wanted).map(|(_, value)| value)
}

pub(crate) fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// v2 `memory.stat`.
pub(crate) fn memory_stat(text: &str) -> MemoryStat {
    let mut stat = MemoryStat::default();
    for (key, value) in flat_keyed(text) {
        let field = match key {
            "anon" => &mut stat.anon_bytes,
            "file" => &mut stat.file_bytes,
            "shmem" => &mut stat.shmem_bytes,
            "file_mapped" => &mut stat.mapped_bytes,
            "file_dirty" => &mut stat.dirty_bytes,
            "file_writeback" => &mut stat.writeback_bytes,
            "inactive_anon" => &mut stat.inactive_anon_bytes,
            "active_anon" => &mut stat.active_anon_bytes,
            "inactive_file" => &mut stat.inactive_file_bytes,
            "active_file" => &mut stat.active_file_bytes,
            "unevictable" => &mut stat.unevictable_bytes,
            "kernel" => &mut stat.kernel_bytes,
            "slab" => &mut stat.slab_bytes,
            "sock" => &mut stat.sock_bytes,
            "pgscan" => &mut stat.pgscan,
            "pgsteal" => &mut stat.pgsteal,
            "pgfault" => &mut stat.pgfault,
            "pgmajfault" => &mut stat.pgmajfault,
            "workingset_refault_anon" => &mut stat.workingset_refault_anon,
            "workingset_refault_file" => &mut stat.workingset_refault_file,
            _ => continue,
        };
        *field = Some(value);
    }
    stat
}

/// v1 `memory.stat`: the hierarchical (`total_*`) values, the group's own faults, and bytes
/// in swap.
pub(crate) fn memory_stat_v1(text: &str) -> (MemoryStat, Option<u64>) {
    let (mut stat, mut swap) = (MemoryStat::default(), None);
    for (key, value) in flat_keyed(text) {
        let Some(key) = key.strip_prefix("total_") else {
            match key {
                "pgfault" => stat.own_pgfault = Some(value),
                "pgmajfault" => stat.own_pgmajfault = Some(value),
                _ => {}
            }
            continue;
        };
        let field = match key {
            "rss" => &mut stat.anon_bytes,
            "cache" => &mut stat.file_bytes,
            "shmem" => &mut stat.shmem_bytes,
            "mapped_file" => &mut stat.mapped_bytes,
            "dirty" => &mut stat.dirty_bytes,
            "writeback" => &mut stat.writeback_bytes,
            "inactive_anon" => &mut stat.inactive_anon_bytes,
            "active_anon" => &mut stat.active_anon_bytes,
            "inactive_file" => &mut stat.inactive_file_bytes,
            "active_file" => &mut stat.active_file_bytes,
            "unevictable" => &mut stat.unevictable_bytes,
            "pgfault" => &mut stat.pgfault,
            "pgmajfault" => &mut stat.pgmajfault,
            "workingset_refault_anon" => &mut stat.workingset_refault_anon,
            "workingset_refault_file" => &mut stat.workingset_refault_file,
            "swap" => &mut swap,
            _ => continue,
        };
        *field = Some(value);
    }
    (stat, swap)
}

/// v2 `io.stat`: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`. Some kernels
/// before 6.0 leave out the newline after a device without numbers, so a device may
/// begin anywhere.
pub(crate) fn io_stat(text: &str) -> Vec<IoSample> {
    let mut all: Vec<IoSample> = Vec::new();
    for token in text.split_ascii_whitespace() {
        if let Some((major, minor)) = device(token) {
            all.push(IoSample { major, minor, ..IoSample::default() });
        } else if let (Some(io), Some((key, value))) = (all.last_mut(), token.split_once('='))
            && let Ok(value) = value.parse()
        {
            match key {
                "rbytes" => io.read_bytes = value,
                "wbytes" => io.write_bytes = value,
                "rios" => io.read_ops = value,
                "wios" => io.write_ops = value,
                "dbytes" => io.discard_bytes = value,
                "dios" => io.discard_ops = value,
                _ => {}
            }
        }
    }
    all.retain(|io| *io != IoSample { major: io.major, minor: io.minor, ..IoSample::default() });
    all
}

/// v1 `blkio.throttle.io_service_bytes_recursive` (`bytes`) or `io_serviced_recursive`:
/// lines `8:0 Read 1`, then a total.
pub(crate) fn add_io_v1(all: &mut Vec<IoSample>, text: &str, bytes: bool) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some(device), Some(kind), Some(value)) =
            (words.next().and_then(device), words.next(), words.next().and_then(number))
        else {
            continue;
        };
        if value == 0 {
            continue;
        }
        let io = of_device(all, device);
        match (kind, bytes) {
            ("Read", true) => io.read_bytes = value,
            ("Write", true) => io.write_bytes = value,
            ("Discard", true) => io.discard_bytes = value,
            ("Read", false) => io.read_ops = value,
            ("Write", false) => io.write_ops = value,
            ("Discard", false) => io.discard_ops = value,
            _ => {}
        }
    }
}

fn of_device(all: &mut Vec<IoSample>, (major, minor): (u32, u32)) -> &mut IoSample {
    let at = all.iter().position(|io| (io.major, io.minor) == (major, minor));
    let at = at.unwrap_or_else(|| {
        all.push(IoSample { major, minor, ..IoSample::default() });
        all.len() - 1
    });
    &mut all[at]
}

/// A `*.pressure` file: `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, then maybe `full`.
pub fn pressure(text: &str) -> Option<Stall> {
    let (mut some, mut full) = (None, None);
    for line in text.lines() {
        let (kind, rest) = line.split_once(' ')?;
        match kind {
            "some" => some = Some(stall_time(rest)?),
            "full" => full = Some(stall_time(rest)?),
            _ => {}
        }
    }
    Some(Stall { some: some?, full })
}

fn stall_time(text: &str) -> Option<StallTime> {
    let mut time = StallTime::default();
    for field in text.split(' ') {
        let (key, value) = field.split_once('=')?;
        match key {
            "avg10" => time.avg10 = value.parse().ok()?,
            "avg60" => time.avg60 = value.parse().ok()?,
            "avg300" => time.avg300 = value.parse().ok()?,
            "total" => time.total_usec = value.parse().ok()?,
            _ => {}
        }
    }
    Some(time)
}

/// Process ids, one a line. A process of an outer pid namespace reads as 0 and is
/// left out.
pub(crate) fn pids(text: &str) -> Vec<i32> {
    text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect()
}
