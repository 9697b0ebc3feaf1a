use proptest::prelude::*;

use super::*;
use crate::io_weight::IoWeight;

struct Host {
    layout: Layout,
    without: &'static str,
}

impl Dirs for Host {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn dir(&self, controller: &str) -> Option<&Path> {
        (controller != self.without).then_some(Path::new("/cg"))
    }
}

const V1: Host = Host { layout: Layout::Hybrid, without: "" };
const V2: Host = Host { layout: Layout::Unified, without: "" };

fn check(host: &Host, wanted: Resources, now: Now, writes: &[&str]) {
    let plan = plan(host, &wanted, now).unwrap();
    let skipped = plan.skipped.iter().map(|a| (a.actuator.clone(), "skipped".to_owned()));
    let steps = plan.steps.iter().map(|s| (s.path.clone(), s.setting.render()));
    let got: Vec<String> = steps
        .chain(skipped)
        .map(|(path, value)| {
            format!("{} {value}", path.strip_prefix("/cg").unwrap().to_str().unwrap())
        })
        .collect();
    assert_eq!(got, writes);
}

fn memory(max: Option<u64>, swap: Option<u64>) -> Resources {
    Resources {
        memory_max_bytes: max.map(Max::Value),
        memory_swap_max_bytes: swap.map(Max::Value),
        ..Resources::default()
    }
}

fn swap_now(max: Max) -> Now {
    Now { swap: Some(max), ..Now::default() }
}

#[test]
fn all_resources_at_once() {
    let io = IoLimit {
        major: 8,
        read_bytes_per_s: Some(Max::Value(9)),
        write_ops_per_s: Some(Max::Unlimited),
        ..IoLimit::default()
    };
    let wanted = Resources {
        cpu: Some(CpuMax { quota_usec: Some(50_000), period_usec: 100_000 }),
        cpu_weight: Some(50),
        cpuset_cpus: Some("1,0".to_owned()),
        pids_max: Some(Max::Value(10)),
        io: vec![io],
        ..memory(Some(8192), Some(8192))
    };
    let v1 = [
        "pids.max 10",
        "cpu.shares 512",
        "cpu.cfs_quota_us 50000",
        "memory.limit_in_bytes 8192",
        "memory.memsw.limit_in_bytes 8192",
        "blkio.throttle.read_bps_device 8:0 9",
        "blkio.throttle.write_iops_device 8:0 0",
        "cpuset.cpus 0-1",
    ];
    let now = Now { cpu_period_usec: Some(100_000), ..swap_now(Max::Unlimited) };
    check(&V1, wanted.clone(), now, &v1);
    let v2 = [
        "pids.max 10",
        "cpu.weight 50",
        "cpu.max 50000 100000",
        "memory.swap.max 0",
        "memory.max 8192",
        "io.max 8:0 rbps=9 wiops=max",
        "cpuset.cpus 0-1",
    ];
    check(&V2, wanted, swap_now(Max::Unlimited), &v2);
    check(&V2, Resources::default(), Now::default(), &[]);
}

#[test]
fn memory_alone_means_no_swap_beyond_it() {
    let v2 = ["memory.swap.max 0", "memory.max 8192"];
    check(&V2, memory(Some(8192), None), swap_now(Max::Value(1)), &v2);
    let raised = ["memory.memsw.limit_in_bytes 8192", "memory.limit_in_bytes 8192"];
    check(&V1, memory(Some(8192), None), swap_now(Max::Value(4096)), &raised);
    let unlimited = Resources { memory_max_bytes: Some(Max::Unlimited), ..Resources::default() };
    check(
        &V1,
        unlimited.clone(),
        swap_now(Max::Value(4096)),
        &["memory.memsw.limit_in_bytes -1", "memory.limit_in_bytes -1"],
    );
    check(&V2, unlimited, swap_now(Max::Value(0)), &["memory.swap.max max", "memory.max max"]);
}

#[test]
fn swap_is_docker_s_total_of_memory_and_swap() {
    let v2 = ["memory.swap.max 4096", "memory.max 8192"];
    check(&V2, memory(Some(8192), Some(12_288)), swap_now(Max::Unlimited), &v2);
    let now = Now { memory_max: Some(Max::Value(8192)), ..swap_now(Max::Unlimited) };
    check(&V2, memory(None, Some(12_288)), now, &["memory.swap.max 4096"]);
    check(&V1, memory(None, Some(12_288)), now, &["memory.memsw.limit_in_bytes 12288"]);
}

#[test]
fn without_swap_accounting_the_rest_is_applied_and_the_answer_says_so() {
    let wanted = memory(Some(8192), Some(8192));
    let v1 = ["memory.limit_in_bytes 8192", "memory.memsw.limit_in_bytes skipped"];
    check(&V1, wanted.clone(), Now::default(), &v1);
    let v2 = ["memory.max 8192", "memory.swap.max skipped"];
    check(&V2, wanted, Now::default(), &v2);
}

#[test]
fn less_together_than_memory_alone_is_refused() {
    let message = |wanted, memory_max| {
        let now = Now { memory_max, ..swap_now(Max::Unlimited) };
        plan(&V2, &wanted, now).unwrap_err().to_string()
    };
    assert_eq!(
        message(memory(Some(8192), Some(4096)), None),
        "memory_swap_max_bytes: 4096 is not allowed, \
         allowed is memory and swap together, so at least 8192, or max"
    );
    assert_eq!(
        message(memory(None, Some(4096)), Some(Max::Unlimited)),
        "memory_swap_max_bytes: 4096 is not allowed, \
         allowed is a memory limit (memory_max_bytes) with it, or max"
    );
}

#[test]
fn a_missing_v1_hierarchy_is_unsupported() {
    let host = Host { layout: Layout::Hybrid, without: "pids" };
    let wanted = Resources { pids_max: Some(Max::Unlimited), ..Resources::default() };
    assert_eq!(
        plan(&host, &wanted, Now::default()).unwrap_err().to_string(),
        "pids_max cannot be limited here: this host has no v1 pids hierarchy"
    );
}

#[test]
fn what_becomes_idle_can_have_its_weight_back_and_what_ceases_to_be_gets_one() {
    let share = |cpu_weight, cpu_idle| Resources { cpu_weight, cpu_idle, ..Resources::default() };
    let not_idle = Now { cpu_idle: Some(false), cpu_weight: Some(512), ..Now::default() };
    let is_idle = Now { cpu_idle: Some(true), ..Now::default() };
    check(&V1, share(None, Some(true)), not_idle, &["cpu.shares 512", "cpu.idle 1"]);
    check(&V2, share(Some(7), Some(true)), not_idle, &["cpu.weight 7", "cpu.idle 1"]);
    check(&V2, share(Some(7), Some(true)), is_idle, &["cpu.idle 1"]);
    check(&V2, share(Some(7), Some(false)), is_idle, &["cpu.idle 0", "cpu.weight 7"]);
    check(&V1, share(None, Some(false)), is_idle, &["cpu.idle 0"]);
    check(&V2, share(Some(7), None), not_idle, &["cpu.weight 7"]);
    let refused = plan(&V2, &share(Some(7), None), is_idle).unwrap_err();
    assert!(refused.to_string().starts_with("cpu_weight: 7 is not allowed"), "{refused}");
}

#[test]
fn a_weight_of_disks_is_written_to_each_file_that_is_there() {
    let weight =
        |cost, bfq| Resources { io_weight: Some(IoWeight { cost, bfq }), ..Resources::default() };
    let lacks = |lacks_cost_weight, lacks_bfq_weight| Now {
        lacks_cost_weight,
        lacks_bfq_weight,
        ..Now::default()
    };
    check(&V1, weight(7, 7), lacks(true, false), &["blkio.bfq.weight 7"]);
    let both = ["io.weight default 200", "io.bfq.weight default 1000"];
    check(&V2, weight(200, 10_000), lacks(false, false), &both);
    check(&V2, weight(200, 10_000), lacks(false, true), &both[..1]);
    check(&V2, weight(200, 10_000), lacks(true, false), &both[1..]);
    for host in [&V1, &V2] {
        let refused = plan(host, &weight(7, 7), lacks(true, true)).unwrap_err().to_string();
        assert!(refused.starts_with("io_weight cannot be limited here"), "{refused}");
    }
}

#[test]
fn memory_high_is_v2_s_alone() {
    let high =
        Resources { memory_high_bytes: Some(Max::Value(8192)), ..memory(Some(16_384), None) };
    let now = swap_now(Max::Unlimited);
    let expected = ["memory.high 8192", "memory.swap.max 0", "memory.max 16384"];
    check(&V2, high.clone(), now, &expected);
    match plan(&V1, &high, now).unwrap_err() {
        ApplyError::Unsupported { resource, why } => {
            assert_eq!(resource, "memory_high_bytes");
            assert!(why.contains("soft limit"), "{why}");
        }
        other => panic!("{other}"),
    }
}

/// The kernel's rule for a v1 memory group, as mm/memcontrol-v1.c has it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct V1Memory {
    limit: u64,
    memsw: u64,
}

impl V1Memory {
    fn write(&mut self, path: &Path, value: u64) {
        match path.file_name().unwrap().to_str().unwrap() {
            "memory.limit_in_bytes" => self.limit = value,
            _ => self.memsw = value,
        }
        assert!(self.limit <= self.memsw, "the kernel says EINVAL: {self:?}");
    }

    fn read(&self, path: &Path) -> u64 {
        if path.ends_with("memory.limit_in_bytes") { self.limit } else { self.memsw }
    }
}

fn quantity() -> impl Strategy<Value = u64> {
    prop_oneof![Just(u64::MAX), 1..40u64]
}

fn as_max(value: u64) -> Max {
    if value == u64::MAX { Max::Unlimited } else { Max::Value(value) }
}

proptest! {
    /// From any state to any wish, forwards and back from any point, no write breaks
    /// the kernel's rule.
    #[test]
    fn v1_memory_writes_are_legal_in_both_directions(
        (a, b) in (quantity(), quantity()),
        wanted_memory in proptest::option::of(quantity()),
        wanted_total in proptest::option::of(quantity()),
        fail_after in 0..4usize,
    ) {
        let before = V1Memory { limit: a.min(b), memsw: a.max(b) };
        let wanted = Resources {
            memory_max_bytes: wanted_memory.map(as_max),
            memory_swap_max_bytes: wanted_total.map(as_max),
            ..Resources::default()
        };
        let now = Now {
            memory_max: wanted_memory.is_none().then_some(as_max(before.limit)),
            ..swap_now(as_max(before.memsw))
        };
        let Ok(plan) = plan(&V1, &wanted, now) else {
            let base = wanted_memory.unwrap_or(before.limit);
            prop_assert!(wanted_total.is_some_and(|total| total < base));
            return Ok(());
        };
        let mut state = before;
        let mut undo = Vec::new();
        for step in plan.steps.iter().take(fail_after) {
            let Setting::BytesV1(max) = step.setting else { unreachable!() };
            undo.push((&step.path, state.read(&step.path)));
            state.write(&step.path, bytes(max));
        }
        if fail_after >= plan.steps.len() {
            let limit = wanted_memory.unwrap_or(before.limit);
            prop_assert_eq!(state.limit, limit);
            let total = wanted_total.or(wanted_memory).unwrap_or(before.memsw);
            prop_assert_eq!(state.memsw, total);
        }
        for (path, value) in undo.into_iter().rev() {
            state.write(path, value);
        }
        prop_assert_eq!(state, before);
    }

    #[test]
    fn v1_cpu_never_has_more_than_the_old_and_the_new_limit(
        (old_quota, old_period) in (1000..1_000_000u64, 1000..1_000_000u64),
        (quota, period) in (1000..1_000_000u64, 1000..1_000_000u64),
    ) {
        let cpu = Some(CpuMax { quota_usec: Some(quota), period_usec: period });
        let wanted = Resources { cpu, ..Resources::default() };
        let now = Now { cpu_period_usec: Some(old_period), ..Now::default() };
        let ratio = |(quota, period): (u64, u64)| quota as f64 / period as f64;
        let most = ratio((old_quota, old_period)).max(ratio((quota, period)));
        let mut state = (old_quota, old_period);
        for step in plan(&V1, &wanted, now).unwrap().steps {
            match step.setting {
                Setting::QuotaV1(Some(quota)) => state.0 = quota,
                Setting::Number(period) => state.1 = period,
                other => panic!("{other:?}"),
            }
            prop_assert!(ratio(state) <= most, "{state:?}");
        }
        prop_assert_eq!(state, (quota, period));
    }
}

#[test]
fn a_reservation_is_low_on_v2_and_a_soft_limit_on_v1() {
    let low = |bytes| Resources { memory_low_bytes: Some(bytes), ..Resources::default() };
    check(&V2, low(8192), Now::default(), &["memory.low 8192"]);
    check(&V2, low(0), Now::default(), &["memory.low 0"]);
    check(&V1, low(8192), Now::default(), &["memory.soft_limit_in_bytes 8192"]);
    check(&V1, low(0), Now::default(), &["memory.soft_limit_in_bytes -1"]);
}

#[test]
fn only_v1_can_keep_the_kernel_from_killing() {
    let wanted = Resources { oom_kill_disable: Some(true), ..Resources::default() };
    check(&V1, wanted.clone(), Now::default(), &["memory.oom_control 1"]);
    let error = plan(&V2, &wanted, Now::default()).unwrap_err();
    assert!(error.to_string().contains("oom_kill_disable"), "{error}");
}
