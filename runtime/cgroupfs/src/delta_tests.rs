use proptest::prelude::*;

use super::*;
use crate::sample::CpuSample;

fn at(monotonic_ns: u64, usage_usec: u64) -> Sample {
    let cpu = CpuSample {
        usage_usec: Some(usage_usec),
        nr_periods: Some(usage_usec / 100),
        nr_throttled: Some(usage_usec / 200),
        ..CpuSample::default()
    };
    Sample { identity: 7, monotonic_ns, cpu, ..Sample::default() }
}

fn device(minor: u32, read_bytes: u64, write_bytes: u64) -> IoSample {
    IoSample { major: 8, minor, read_bytes, write_bytes, ..IoSample::default() }
}

#[test]
fn half_a_cpu_is_half() {
    let delta = Delta::between(&at(1_000_000_000, 1_000), &at(3_000_000_000, 1_001_000)).unwrap();
    assert_eq!(delta.cpu_ratio(), Some(0.5));
    assert_eq!(delta.throttled_ratio(), Some(0.5));
    assert_eq!(delta.oom_kills, None, "neither sample has it");
}

#[test]
fn a_recreated_group_or_a_standing_clock_gives_nothing() {
    let (prev, cur) = (at(1, 1), at(2, 2));
    assert_eq!(Delta::between(&prev, &Sample { identity: 8, ..cur.clone() }), None);
    assert_eq!(Delta::between(&prev, &prev), None);
    assert_eq!(Delta::between(&cur, &prev), None);
}

#[test]
fn a_counter_that_went_back_spoils_itself_alone() {
    let mut prev = at(1, 100);
    prev.io = vec![device(0, 10, 10), device(1, 5, 5)];
    let mut cur = at(2, 50);
    cur.cpu.nr_periods = Some(9);
    cur.io = vec![device(0, 30, 9), device(1, 6, 7), device(2, 1, 0)];
    let delta = Delta::between(&prev, &cur).unwrap();
    assert_eq!(delta.cpu_ratio(), None);
    assert_eq!(delta.nr_periods, Some(8));
    assert_eq!(delta.throttled_ratio(), Some(0.0));
    assert_eq!(delta.io, [device(1, 1, 2), device(2, 1, 0)]);
}

#[test]
fn without_quota_periods_there_is_no_throttled_ratio() {
    let delta = Delta::between(&at(1, 1), &at(2, 2)).unwrap();
    assert_eq!(delta.nr_periods, Some(0));
    assert_eq!(delta.throttled_ratio(), None);
}

proptest! {
    #[test]
    fn two_windows_add_up(a in 0..1u64 << 40, b in 0..1u64 << 40, c in 0..1u64 << 40) {
        let samples = [at(10, a), at(20, a + b), at(30, a + b + c)];
        let used = |i: usize, j: usize| {
            Delta::between(&samples[i], &samples[j]).unwrap().cpu_usage_usec.unwrap()
        };
        prop_assert_eq!(used(0, 1) + used(1, 2), used(0, 2));
    }
}
