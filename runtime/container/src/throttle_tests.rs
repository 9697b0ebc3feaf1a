use proptest::prelude::*;

use super::*;
use crate::limits::merge_resources;

fn operator(json: &str) -> Limits {
    let patch: LimitsPatch = serde_json::from_str(json).unwrap();
    Limits::default().with(&patch, &patch.validate(8).unwrap())
}

fn force(operator: &Limits, json: &str) -> Limits {
    let throttle: Throttle = serde_json::from_str(json).unwrap();
    tighter(operator, &throttle.validate(8).unwrap())
}

#[test]
fn only_what_is_tighter_than_the_operator_s_limit_is_throttled() {
    let check = |own: &str, wanted: &str, expected: &[&str]| {
        let found = actuators(&force(&operator(own), wanted));
        let names: Vec<&str> = found.into_iter().map(Actuator::as_str).collect();
        assert_eq!(names, expected, "{wanted} below {own}");
    };
    check("{}", r#"{"cpu_max_cores":0.5}"#, &["cpu.max"]);
    check(r#"{"cpus":0.5}"#, r#"{"cpu_max_cores":0.5}"#, &[]);
    check(r#"{"cpus":0.5}"#, r#"{"cpu_max_cores":0.4}"#, &["cpu.max"]);
    check(r#"{"cpus":"max"}"#, r#"{"cpu_max_cores":7}"#, &["cpu.max"]);
    check("{}", r#"{"cpu_weight":100}"#, &[]);
    check("{}", r#"{"cpu_weight":99}"#, &["cpu.weight"]);
    check(r#"{"cpu_weight":50}"#, r#"{"cpu_weight":60}"#, &[]);
    check("{}", r#"{"cpu_weight":5,"cpu_idle":true}"#, &["cpu.idle"]);
    check("{}", r#"{"memory_high_bytes":67108864}"#, &["memory.high"]);
    check(
        r#"{"io":[{"major":8,"read_bytes_per_s":5}]}"#,
        r#"{"io":[{"major":8,"read_bytes_per_s":5}]}"#,
        &[],
    );
    check("{}", r#"{"io":[{"major":8,"write_ops_per_s":5}]}"#, &["io.max"]);
    check("{}", r#"{"io_weight":100}"#, &[]);
    check("{}", r#"{"io_weight":99}"#, &["io.weight"]);
    let another = Limits {
        resources: Resources {
            io_weight: Some(IoWeight { cost: 100, bfq: 20 }),
            ..Resources::default()
        },
        ..Limits::default()
    };
    let held = force(&another, r#"{"io_weight":50}"#).resources.io_weight;
    assert_eq!(held, Some(IoWeight { cost: 50, bfq: 20 }));
    assert_eq!(force(&another, r#"{"io_weight":10}"#).resources.io_weight, Some(IoWeight::of(10)));
    check(
        r#"{"egress_bits_per_s":1000000}"#,
        r#"{"egress_bits_per_s":2000000,"ingress_bits_per_s":2000000}"#,
        &["net.ingress"],
    );
    check("{}", r#"{"egress_bulk":true}"#, &["net.priority"]);
}

#[test]
fn a_wrong_throttle_names_its_field() {
    let check = |json: &str, expected: &str| {
        let throttle: Throttle = serde_json::from_str(json).unwrap();
        match throttle.validate(2) {
            Err(Error::Invalid { field, .. }) => assert_eq!(field, expected, "{json}"),
            other => panic!("{json}: {other:?}"),
        }
    };
    check(r#"{"cpu_max_cores":3}"#, "cpus");
    check(r#"{"cpu_weight":0}"#, "cpu_weight");
    check(r#"{"io_weight":0}"#, "io_weight");
    check(r#"{"io_weight":10001}"#, "io_weight");
    check(r#"{"memory_high_bytes":1}"#, "memory_high_bytes");
    check(r#"{"egress_bits_per_s":1}"#, "egress_bits_per_s");
    check(r#"{"io":[{"major":8,"read_ops_per_s":0}]}"#, "read_ops_per_s");
    let lease = Lease {
        time: Duration::ZERO,
        owner: Owner::Operator,
        reason: String::new(),
        causes: BTreeMap::new(),
    };
    assert!(lease.validate().is_err());
}

#[test]
fn a_container_without_limits_gets_no_limits_back() {
    let none = Resources::default();
    let held = force(
        &Limits::default(),
        r#"{"cpu_max_cores":0.5,"cpu_idle":true,"memory_high_bytes":67108864,"io_weight":1,
            "io":[{"major":8,"read_bytes_per_s":5}]}"#,
    );
    let expected = Resources {
        cpu: Some(CpuMax { quota_usec: None, period_usec: CPU_PERIOD_USEC }),
        cpu_idle: Some(false),
        cpu_weight: Some(100),
        memory_high_bytes: Some(Max::Unlimited),
        io_weight: Some(IoWeight::of(100)),
        io: vec![IoLimit {
            major: 8,
            read_bytes_per_s: Some(Max::Unlimited),
            ..IoLimit::default()
        }],
        ..Resources::default()
    };
    assert_eq!(state_of(&none, &none, &held.resources), expected);
}

#[test]
fn a_foreign_period_is_kept() {
    let own = CpuMax { quota_usec: Some(40_000), period_usec: 20_000 };
    let wanted = CpuMax { quota_usec: Some(50_000), period_usec: 100_000 };
    let expected = CpuMax { quota_usec: Some(10_000), period_usec: 20_000 };
    assert_eq!(tighter_cpu(Some(own), wanted), Some(expected));
    let double = CpuMax { quota_usec: Some(200_000), period_usec: 100_000 };
    assert_eq!(tighter_cpu(Some(own), double), None);
}

#[test]
fn an_operator_s_change_ends_the_throttle_on_what_it_names() {
    let held = force(
        &Limits::default(),
        r#"{"cpu_max_cores":0.5,"cpu_idle":true,"memory_high_bytes":67108864,
            "io":[{"major":8,"read_bytes_per_s":5,"write_bytes_per_s":5}],
            "egress_bits_per_s":1000000,"egress_bulk":true}"#,
    );
    let check = |json: &str, expected: &[&str]| {
        let patch: LimitsPatch = serde_json::from_str(json).unwrap();
        let left = ended_by(&patch, &patch.validate(8).unwrap(), &held);
        let names: Vec<&str> = actuators(&left).into_iter().map(Actuator::as_str).collect();
        assert_eq!(names, expected, "{json}");
        left
    };
    check(
        r#"{"pids":7}"#,
        &["cpu.max", "cpu.idle", "memory.high", "io.max", "net.egress", "net.priority"],
    );
    check(
        r#"{"cpus":"max"}"#,
        &["cpu.idle", "memory.high", "io.max", "net.egress", "net.priority"],
    );
    check(
        r#"{"cpu_weight":9}"#,
        &["cpu.max", "memory.high", "io.max", "net.egress", "net.priority"],
    );
    check(
        r#"{"memory_bytes":"max"}"#,
        &["cpu.max", "cpu.idle", "io.max", "net.egress", "net.priority"],
    );
    check(r#"{"egress_bits_per_s":"max"}"#, &["cpu.max", "cpu.idle", "memory.high", "io.max"]);
    let left = check(
        r#"{"io":[{"major":8,"read_bytes_per_s":"max"}]}"#,
        &["cpu.max", "cpu.idle", "memory.high", "io.max", "net.egress", "net.priority"],
    );
    assert_eq!(left.resources.io[0].limits(), [None, Some(Max::Value(5)), None, None]);
}

#[test]
fn who_goes_last_does_so_below_any_bandwidth_of_the_operator_s() {
    let operator = operator(r#"{"egress_bits_per_s":5000000,"egress_burst_bytes":65536}"#);
    let held = force(&operator, r#"{"egress_bulk":true}"#);
    let expected = Bandwidth { egress_bulk: true, ..operator.bandwidth };
    assert_eq!(bandwidth_of(&operator.bandwidth, &held.bandwidth), expected);
    assert_eq!(bandwidth_of(&operator.bandwidth, &Bandwidth::default()), operator.bandwidth);
    let left = without(&held, &[Actuator::NetPriority].into());
    assert_eq!(left, Limits::default());
}

fn rate() -> impl Strategy<Value = Option<u64>> {
    proptest::option::of(1..9u64)
}

fn throttle() -> impl Strategy<Value = Throttle> {
    let io = proptest::collection::btree_map(0..3u32, (rate(), rate()), 0..3);
    let memory = proptest::option::of((7u64..20).prop_map(|mib| mib << 20));
    (proptest::option::of(1..8u64), (rate(), rate()), any::<bool>(), memory, io).prop_map(
        |(cores, (cpu_weight, io_weight), cpu_idle, memory_high_bytes, io)| Throttle {
            io_weight,
            cpu_max_cores: cores.map(|tenths| tenths as f64 / 10.0),
            cpu_weight,
            cpu_idle,
            memory_high_bytes,
            io: io
                .into_iter()
                .map(|(minor, (read_bytes_per_s, write_ops_per_s))| IoThrottle {
                    major: 8,
                    minor,
                    read_bytes_per_s,
                    write_ops_per_s,
                    ..IoThrottle::default()
                })
                .collect(),
            ..Throttle::default()
        },
    )
}

fn limits() -> impl Strategy<Value = Resources> {
    // What an operator can say is what can be wanted, and "no limit" in words.
    (throttle(), any::<bool>()).prop_map(|(throttle, lifted)| {
        let mut limits = Throttle { cpu_idle: false, memory_high_bytes: None, ..throttle }
            .validate(8)
            .unwrap()
            .resources;
        if lifted {
            limits.cpu = Some(CpuMax { quota_usec: None, period_usec: CPU_PERIOD_USEC });
        }
        limits
    })
}

/// A kernel that keeps what is written: whoever ceases to be idle has the default weight.
fn write(kernel: &mut Resources, change: &Resources) {
    if change.cpu_idle == Some(false) && kernel.cpu_idle == Some(true) {
        kernel.cpu_weight = Some(DEFAULT_WEIGHT);
    }
    if change.cpu_idle == Some(true) {
        kernel.cpu_weight = None;
    }
    assert!(
        change.cpu_weight.is_none() || change.cpu_idle.or(kernel.cpu_idle) != Some(true),
        "a weight for an idle group"
    );
    merge_resources(kernel, change);
}

proptest! {
    /// From set to set and back to none: always the tightest of both, at last the operator's.
    #[test]
    fn every_way_through_throttles_ends_at_the_operator_s_limits(
        own in limits(), wishes in proptest::collection::vec(throttle(), 1..5),
    ) {
        let operator = Limits { resources: own.clone(), ..Limits::default() };
        let none = Resources::default();
        // All that is ever named, as the kernel has it before.
        let mut named = Resources { cpu_idle: Some(false), ..Resources::default() };
        let forces: Vec<Resources> = wishes
            .iter()
            .map(|wish| tighter(&operator, &wish.validate(8).unwrap()).resources)
            .chain([none.clone()])
            .collect();
        forces.iter().for_each(|force| merge_resources(&mut named, force));
        let untouched = state_of(&own, &none, &named);
        let mut kernel = untouched.clone();
        let mut before = none.clone();
        for force in forces {
            write(&mut kernel, &differing(&before, &force));
            let loose = dropped(&before, &force);
            write(&mut kernel, &state_of(&own, &none, &loose));
            prop_assert_eq!(&kernel, &state_of(&own, &force, &named));
            // And a failure after the tightening can be taken back.
            let mut undone = kernel.clone();
            write(&mut undone, &state_of(&own, &before, &differing(&before, &force)));
            write(&mut undone, &state_of(&own, &before, &loose));
            prop_assert_eq!(&undone, &state_of(&own, &before, &named));
            before = force;
        }
        prop_assert_eq!(kernel, untouched);
    }

    #[test]
    fn nothing_is_ever_looser_than_the_operator_says(own in limits(), wish in throttle()) {
        let operator = Limits { resources: own.clone(), ..Limits::default() };
        let force = tighter(&operator, &wish.validate(8).unwrap()).resources;
        let now = state_of(&own, &force, &force);
        let none = Resources::default();
        let base = state_of(&own, &none, &force);
        if let (Some(now), Some(base)) = (now.cpu, base.cpu) {
            prop_assert!(now.quota_usec < base.quota_usec.or(Some(u64::MAX)));
        }
        for (now, base) in now.io.iter().zip(&base.io) {
            for (now, base) in now.limits().into_iter().zip(base.limits()) {
                prop_assert!(now.map(bytes) <= base.map(bytes));
            }
        }
    }
}
