use std::path::Path;

use super::*;
use crate::io_weight::IoWeight;
use crate::layout::Layout;
use crate::types::CpuMax;

struct Host(Layout);

impl Dirs for Host {
    fn layout(&self) -> Layout {
        self.0
    }

    fn dir(&self, _: &str) -> Option<&Path> {
        Some(Path::new("/cg"))
    }
}

#[track_caller]
fn check(layout: Layout, base: &Resources, over: &[&Resources], expected: &[&str]) {
    let all = restores(&Host(layout), base, over, 4096).unwrap();
    let shown: Vec<String> = all
        .iter()
        .map(|restore| {
            let file = restore.path.strip_prefix("/cg").unwrap().display();
            format!("{file} {} over {}", restore.text, restore.only_over.join(" or "))
        })
        .collect();
    assert_eq!(shown, expected);
}

fn cpu(quota_usec: Option<u64>) -> Resources {
    let cpu = Some(CpuMax { quota_usec, period_usec: 100_000 });
    Resources { cpu, ..Resources::default() }
}

#[test]
fn a_quota_goes_back_to_none_over_each_value_that_it_may_have() {
    let (half, tenth) = (cpu(Some(50_000)), cpu(Some(10_000)));
    let expected = ["cpu.max max 100000 over 10000 100000 or 50000 100000"];
    check(Layout::Unified, &cpu(None), &[&half, &tenth], &expected);
    let expected = ["cpu.cfs_quota_us -1 over 10000 or 50000"];
    check(Layout::Hybrid, &cpu(None), &[&half, &tenth, &half], &expected);
}

#[test]
fn what_was_idle_gets_its_weight_over_the_default_one() {
    let base = |weight| Resources {
        cpu_idle: Some(false),
        cpu_weight: Some(weight),
        ..Resources::default()
    };
    let idle = Resources { cpu_idle: Some(true), ..Resources::default() };
    let expected = ["cpu.idle 0 over 1", "cpu.weight 300 over 100"];
    check(Layout::Unified, &base(300), &[&idle], &expected);
    let expected = ["cpu.idle 0 over 1", "cpu.shares 3072 over 1024"];
    check(Layout::Hybrid, &base(300), &[&idle], &expected);
    check(Layout::Unified, &base(100), &[&idle], &["cpu.idle 0 over 1"]);
    // From a low weight to idle: it may be either for a moment.
    let light = Resources { cpu_weight: Some(5), ..Resources::default() };
    let expected = ["cpu.idle 0 over 1", "cpu.weight 300 over 100 or 5"];
    check(Layout::Unified, &base(300), &[&light, &idle], &expected);
}

#[test]
fn each_rate_of_a_device_goes_back_alone() {
    let io =
        |limits| Resources { io: vec![IoLimit::with_limits(8, 0, limits)], ..Resources::default() };
    let base = io([Some(Max::Unlimited), Some(Max::Value(9)), None, None]);
    let over = io([Some(Max::Value(5)), Some(Max::Value(5)), None, None]);
    let expected = ["io.max 8:0 rbps=max over 8:0 rbps=5", "io.max 8:0 wbps=9 over 8:0 wbps=5"];
    check(Layout::Unified, &base, &[&over], &expected);
    let expected = [
        "blkio.throttle.read_bps_device 8:0 0 over 8:0 5",
        "blkio.throttle.write_bps_device 8:0 9 over 8:0 5",
    ];
    check(Layout::Hybrid, &base, &[&over], &expected);
}

#[test]
fn memory_high_goes_back_over_whole_pages_and_is_unknown_to_v1() {
    let high = |max| Resources { memory_high_bytes: Some(max), ..Resources::default() };
    let (base, over) = (high(Max::Unlimited), high(Max::Value(10_000)));
    check(Layout::Unified, &base, &[&over], &["memory.high max over 8192"]);
    let refused = restores(&Host(Layout::Hybrid), &base, &[&over], 4096).unwrap_err();
    assert!(matches!(refused, ApplyError::Unsupported { .. }), "{refused}");
}

#[test]
fn a_weight_of_disks_goes_back_in_the_file_where_it_was_lowered() {
    let weight =
        |cost, bfq| Resources { io_weight: Some(IoWeight { cost, bfq }), ..Resources::default() };
    let (base, over) = (weight(100, 100), weight(1, 1));
    let expected =
        ["io.weight default 100 over default 1", "io.bfq.weight default 100 over default 1"];
    check(Layout::Unified, &base, &[&over], &expected);
    check(Layout::Hybrid, &base, &[&over], &["blkio.bfq.weight 100 over 1"]);
    // Another runtime had it lower in one file already.
    let (base, over) = (weight(100, 5), weight(9, 5));
    check(Layout::Unified, &base, &[&over], &["io.weight default 100 over default 9"]);
    let restore = Restore {
        path: "/cg/io.weight".into(),
        text: "default 100".to_owned(),
        only_over: vec!["default 1".to_owned()],
    };
    assert!(restore.is_over("default 1\n8:0 100\n") && !restore.is_over("default 100\n8:0 1\n"));
    assert!(restore.is_done("default 100\n8:0 1\n"));
}

#[test]
fn a_value_is_ours_if_one_line_has_all_its_words() {
    let restore = |text: &str, over: &str| Restore {
        path: "/cg/x".into(),
        text: text.to_owned(),
        only_over: vec![over.to_owned()],
    };
    let io = restore("8:0 rbps=max", "8:0 rbps=5");
    assert!(io.is_over("7:0 rbps=1 wbps=max\n8:0 rbps=5 wbps=max riops=max wiops=max\n"));
    assert!(!io.is_over("8:0 rbps=50 wbps=5\n7:0 rbps=5"));
    assert!(io.is_done("") && io.is_done("7:0 rbps=1") && io.is_done("8:0 rbps=max wbps=5"));
    assert!(!io.is_done("8:0 rbps=5 wbps=max"));
    let v1 = restore("8:0 0", "8:0 5");
    assert!(v1.is_over("8:16 9\n8:0 5") && !v1.is_over("8:0 55"));
    assert!(v1.is_done("8:16 9") && !v1.is_done("8:0 6"));
    let cpu = restore("max 100000", "50000 100000");
    assert!(cpu.is_over("50000 100000") && !cpu.is_over("max 100000"));
    assert!(cpu.is_done("max 100000") && !cpu.is_done("60000 100000") && !cpu.is_done(""));
}

#[test]
fn a_write_is_made_over_our_own_value_and_over_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cpu.max");
    let restore = Restore {
        path: path.clone(),
        text: "max 100000".to_owned(),
        only_over: vec!["50000 100000".to_owned()],
    };
    assert_eq!(restore.run().unwrap(), Restored::Gone);
    std::fs::write(&path, "60000 100000\n").unwrap();
    assert_eq!(restore.run().unwrap(), Restored::Kept("60000 100000".to_owned()));
    std::fs::write(&path, "50000 100000\n").unwrap();
    assert_eq!(restore.run().unwrap(), Restored::Written);
    assert!(std::fs::read_to_string(&path).unwrap().contains("max 100000"));
}
