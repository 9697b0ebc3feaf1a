use std::{collections::BTreeSet, time::Instant};

use tenantry_cgroupfs::{IoLimit, Resources};
use tenantry_network::Bandwidth;

use super::*;
use crate::throttle::Throttle;

fn limits(cpu_quota: Option<u64>, weight: Option<u64>, egress: Option<u64>) -> Limits {
    let cpu = cpu_quota.map(|quota| CpuMax { quota_usec: Some(quota), period_usec: 100_000 });
    Limits {
        resources: Resources { cpu, cpu_weight: weight, ..Resources::default() },
        bandwidth: Bandwidth { egress_bits_per_s: egress, ..Bandwidth::default() },
    }
}

fn writes(bytes: u64) -> Limits {
    let rates = [None, Some(Max::Value(bytes)), None, None];
    let io = vec![IoLimit::with_limits(8, 0, rates)];
    Limits { resources: Resources { io, ..Resources::default() }, ..Limits::default() }
}

fn throttled(owner: Owner, force: Limits) -> Throttled {
    Throttled {
        wanted: Throttle::default(),
        owner,
        reason: "for web".into(),
        since_unix_ns: 0,
        deadline: Instant::now(),
        force,
        yielded: BTreeSet::new(),
        restores: vec![],
        causes: BTreeMap::new(),
    }
}

#[test]
fn a_difference_has_the_limit_s_name_and_both_values() {
    let check = |before: &Limits, after: &Limits, expected: &[[&str; 3]]| {
        let found = differences(before, after);
        let found: Vec<[&str; 3]> = found
            .iter()
            .map(|row| [row.limit.as_str(), row.before.as_str(), row.after.as_str()])
            .collect();
        assert_eq!(found, expected);
    };
    let none = Limits::default();
    let own = limits(Some(90_000), None, Some(50_000_000));
    check(&none, &none, &[]);
    check(&own, &own, &[]);
    check(&none, &own, &[["cpu.max", "max", "0.9"], ["net.egress", "max", "50000000"]]);
    check(&own, &none, &[["cpu.max", "0.9", "max"], ["net.egress", "50000000", "max"]]);
    let burst = |bytes| {
        let bandwidth = Bandwidth { egress_burst_bytes: bytes, ..own.bandwidth };
        Limits { bandwidth, ..own.clone() }
    };
    let [usual, chosen] = ["50000000", "50000000:65536"];
    check(&own, &burst(Some(65_536)), &[["net.egress", usual, chosen]]);
    check(&burst(Some(65_536)), &own, &[["net.egress", chosen, usual]]);
    check(&none, &writes(1_000_000), &[["io.max 8:0 wbps", "max", "1000000"]]);
    // To name what is so anyway changes nothing.
    check(&none, &limits(None, Some(100), None), &[]);
    let idle = Resources { cpu_idle: Some(true), ..Resources::default() };
    check(&none, &Limits { resources: idle, ..Limits::default() }, &[["cpu.idle", "0", "1"]]);
    let last = Bandwidth { egress_bulk: true, ..Bandwidth::default() };
    check(&none, &Limits { bandwidth: last, ..none.clone() }, &[["net.priority", "0", "1"]]);
    let force = limits(Some(20_000), Some(10), None);
    check(
        &own,
        &effective(&own, &force),
        &[["cpu.max", "0.9", "0.2"], ["cpu.weight", "100", "10"]],
    );
}

#[test]
fn each_limit_has_one_holder() {
    let check = |operator: &Limits, force: Option<&Throttled>, now: &Limits, expected: &str| {
        let rows = held(operator, force, Some(now));
        let found: Vec<String> = rows
            .iter()
            .map(|row| {
                let (now, holder) = (row.in_force.as_deref().unwrap_or("-"), row.holder.as_str());
                format!("{} {} {now} {holder} {}", row.limit, row.wish, row.throttled)
            })
            .collect();
        assert_eq!(found.join("; "), expected);
    };
    let none = Limits::default();
    let own = limits(Some(90_000), None, Some(50_000_000));
    check(&none, None, &none, "");
    // The kernel tells of every file, also where nobody set anything.
    let mut quiet = limits(None, Some(100), None);
    quiet.resources.cpuset_cpus = Some("0-1".into());
    quiet.resources.pids_max = Some(Max::Unlimited);
    check(&none, None, &quiet, "");
    check(
        &own,
        None,
        &own,
        "cpu.max 0.9 0.9 operator false; net.egress 50000000 50000000 operator false",
    );
    let last = Bandwidth { egress_bulk: true, ..Bandwidth::default() };
    let force = throttled(Owner::Controller, Limits { bandwidth: last, ..none.clone() });
    check(&none, Some(&force), &none, "net.priority 0 1 controller true");
    let force = throttled(Owner::Controller, limits(Some(20_000), Some(10), Some(5_000_000)));
    check(
        &own,
        Some(&force),
        &limits(Some(20_000), Some(333), None),
        "cpu.max 0.9 0.2 controller true; cpu.weight 100 333 other false; \
         net.egress 50000000 5000000 controller true",
    );
    // The shim has restored, and nobody was told yet.
    let force = throttled(Owner::Operator, limits(Some(20_000), None, None));
    let own = limits(Some(90_000), None, None);
    check(&own, Some(&force), &own, "cpu.max 0.9 0.9 operator false");
    // Behind our back, with nothing named.
    check(&none, None, &writes(7), "io.max 8:0 wbps max 7 other false");
    let mut wish = none.clone();
    wish.resources.memory_max_bytes = Some(Max::Value((64 << 20) + 7));
    let mut pages = none.clone();
    pages.resources.memory_max_bytes = Some(Max::Value(64 << 20));
    check(&wish, None, &pages, "memory.max 67108871 67108864 operator false");
}

#[test]
fn of_a_container_that_does_not_run_the_wishes_are_known_alone() {
    let rows = held(&limits(Some(50_000), None, None), None, None);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].wish.as_str(), rows[0].in_force.as_deref()), ("0.5", None));
    assert_eq!(rows[0].holder, Party::Operator);
}
