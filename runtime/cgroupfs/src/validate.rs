//! Whether a wish makes sense, before anything is touched.
//!
//! Owns the kernel's bounds on each field; opens no file. `plan` calls it. What only
//! the kernel can know (is that CPU there?) is left to the write, which is undone.

use crate::error::ApplyError;
use crate::setting::CpuList;
use crate::types::{CpuMax, IoLimit, Max, Resources};

/// kernel/sched/core.c: `min_cfs_quota_period`, `max_cfs_quota_period`, `max_cfs_runtime`.
const QUOTA_USEC: std::ops::RangeInclusive<u64> = 1_000..=(1 << 44) - 1;
const PERIOD_USEC: std::ops::RangeInclusive<u64> = 1_000..=1_000_000;
const WEIGHT: std::ops::RangeInclusive<u64> = 1..=10_000;
/// `PID_MAX_LIMIT`; 0 would be allowed and stop every fork, but is rather someone's "none".
const PIDS: std::ops::RangeInclusive<u64> = 1..=4_194_304;
/// The kernel keeps bytes in 64 bits and operations in 32, all ones being no limit.
const IO_BYTES: std::ops::RangeInclusive<u64> = 1..=u64::MAX - 1;
const IO_OPS: std::ops::RangeInclusive<u64> = 1..=u32::MAX as u64 - 1;

pub(crate) fn validate(wanted: &Resources) -> Result<(), ApplyError> {
    if let Some(CpuMax { quota_usec, period_usec }) = wanted.cpu {
        within("cpu.period_usec", period_usec, &PERIOD_USEC)?;
        if let Some(quota) = quota_usec {
            within("cpu.quota_usec", quota, &QUOTA_USEC)?;
        }
    }
    if let Some(weight) = wanted.cpu_weight {
        within("cpu_weight", weight, &WEIGHT)?;
    }
    if let Some(weight) = wanted.io_weight {
        within("io_weight", weight.cost, &WEIGHT)?;
        within("io_weight", weight.bfq, &WEIGHT)?;
    }
    if let Some(list) = &wanted.cpuset_cpus
        && CpuList::parse(list).is_none_or(|list| list.is_empty())
    {
        return Err(invalid("cpuset_cpus", format!("{list:?}"), "a list of CPUs such as 0-2,5"));
    }
    if let Some(Max::Value(pids)) = wanted.pids_max {
        within("pids_max", pids, &PIDS)?;
    }
    let most = i64::MAX as u64;
    for (field, max) in [
        ("memory_max_bytes", wanted.memory_max_bytes),
        ("memory_swap_max_bytes", wanted.memory_swap_max_bytes),
        ("memory_high_bytes", wanted.memory_high_bytes),
    ] {
        if let Some(Max::Value(bytes)) = max
            && bytes > most
        {
            return Err(invalid(field, bytes, format!("0 to {most} bytes, or max")));
        }
    }
    if let Some(bytes) = wanted.memory_low_bytes
        && bytes > most
    {
        return Err(invalid("memory_low_bytes", bytes, format!("0 to {most} bytes")));
    }
    for (at, limit) in wanted.io.iter().enumerate() {
        validate_io(limit)?;
        let device = |l: &IoLimit| (l.major, l.minor);
        if wanted.io[..at].iter().any(|other| device(other) == device(limit)) {
            let value = format!("{}:{} twice", limit.major, limit.minor);
            return Err(invalid("io", value, "each device once"));
        }
    }
    Ok(())
}

fn validate_io(limit: &IoLimit) -> Result<(), ApplyError> {
    for (field, max, range) in [
        ("io.read_bytes_per_s", limit.read_bytes_per_s, &IO_BYTES),
        ("io.write_bytes_per_s", limit.write_bytes_per_s, &IO_BYTES),
        ("io.read_ops_per_s", limit.read_ops_per_s, &IO_OPS),
        ("io.write_ops_per_s", limit.write_ops_per_s, &IO_OPS),
    ] {
        if let Some(Max::Value(rate)) = max {
            within(field, rate, range)?;
        }
    }
    Ok(())
}

fn within(
    field: &'static str,
    value: u64,
    range: &std::ops::RangeInclusive<u64>,
) -> Result<(), ApplyError> {
    if range.contains(&value) {
        return Ok(());
    }
    let has_no_max = matches!(field, "cpu.period_usec" | "cpu_weight" | "io_weight");
    let or_max = if has_no_max { "" } else { ", or max" };
    Err(invalid(field, value, format!("{} to {}{or_max}", range.start(), range.end())))
}

pub(crate) fn invalid(
    field: &'static str,
    value: impl ToString,
    allowed: impl Into<String>,
) -> ApplyError {
    ApplyError::Invalid { field, value: value.to_string(), allowed: allowed.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io_weight::IoWeight;

    fn check(wanted: Resources, complaint: &str) {
        assert_eq!(validate(&wanted).unwrap_err().to_string(), complaint);
    }

    fn cpu(quota: u64, period_usec: u64) -> Resources {
        let cpu = Some(CpuMax { quota_usec: Some(quota), period_usec });
        Resources { cpu, ..Resources::default() }
    }

    fn io(limit: IoLimit) -> Resources {
        Resources { io: vec![limit], ..Resources::default() }
    }

    #[test]
    fn a_value_outside_is_named_with_its_field_and_what_is_allowed() {
        check(
            cpu(999, 100_000),
            "cpu.quota_usec: 999 is not allowed, allowed is 1000 to 17592186044415, or max",
        );
        check(
            cpu(1000, 2_000_000),
            "cpu.period_usec: 2000000 is not allowed, allowed is 1000 to 1000000",
        );
        check(
            Resources { cpu_weight: Some(0), ..Resources::default() },
            "cpu_weight: 0 is not allowed, allowed is 1 to 10000",
        );
        check(
            Resources { io_weight: Some(IoWeight::of(10_001)), ..Resources::default() },
            "io_weight: 10001 is not allowed, allowed is 1 to 10000",
        );
        check(
            Resources { pids_max: Some(Max::Value(0)), ..Resources::default() },
            "pids_max: 0 is not allowed, allowed is 1 to 4194304, or max",
        );
        for list in ["", "a", "3-1", "0,,1", "+1", "0-99999"] {
            check(
                Resources { cpuset_cpus: Some(list.to_owned()), ..Resources::default() },
                &format!(
                    "cpuset_cpus: {list:?} is not allowed, allowed is a list of CPUs such as 0-2,5"
                ),
            );
        }
        check(
            io(IoLimit { read_ops_per_s: Some(Max::Value(1 << 32)), ..IoLimit::default() }),
            "io.read_ops_per_s: 4294967296 is not allowed, allowed is 1 to 4294967294, or max",
        );
        check(
            io(IoLimit { write_bytes_per_s: Some(Max::Value(0)), ..IoLimit::default() }),
            "io.write_bytes_per_s: 0 is not allowed, allowed is 1 to 18446744073709551614, or max",
        );
        let twice = vec![IoLimit::default(), IoLimit::default()];
        check(
            Resources { io: twice, ..Resources::default() },
            "io: 0:0 twice is not allowed, allowed is each device once",
        );
        let beyond =
            Resources { memory_max_bytes: Some(Max::Value(u64::MAX)), ..Resources::default() };
        check(
            beyond,
            "memory_max_bytes: 18446744073709551615 is not allowed, \
             allowed is 0 to 9223372036854775807 bytes, or max",
        );
    }

    #[test]
    fn the_bounds_themselves_are_allowed() {
        for good in [cpu(1000, 1000), cpu((1 << 44) - 1, 1_000_000), Resources::default()] {
            assert!(validate(&good).is_ok(), "{good:?}");
        }
    }
}
