//! Captured trees, read by the same readers as the host's own.

use std::path::{Path, PathBuf};

use tenantry_cgroupfs::sample::{
    CpuSample, IoSample, MemorySample, MemoryStat, PidsSample, Pressure, Sample, Stall, StallTime,
};
use tenantry_cgroupfs::{
    CpuMax, Delta, Group, Hierarchy, IoLimit, IoWeight, Layout, Max, Resources,
};

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn demo(name: &str, layout: Layout) -> Group {
    let hierarchy = Hierarchy::detect_at(&root(name)).unwrap();
    assert_eq!(hierarchy.layout(), layout);
    hierarchy.group("tenantry/demo")
}

/// Without what differs in every checkout.
fn sample(group: &Group) -> Sample {
    let sample = group.read_sample().unwrap();
    assert_eq!(sample.identity, group.ids().unwrap().unified);
    assert_ne!(sample.monotonic_ns, 0);
    Sample { identity: 0, monotonic_ns: 0, ..sample }
}

fn stall([avg10, avg60, avg300]: [f64; 3], some: u64, full_avg: [f64; 3], full: u64) -> Stall {
    let [full10, full60, full300] = full_avg;
    Stall {
        some: StallTime { avg10, avg60, avg300, total_usec: some },
        full: Some(StallTime { avg10: full10, avg60: full60, avg300: full300, total_usec: full }),
    }
}

#[test]
fn the_hybrid_tree_is_read_whole() {
    let group = demo("hybrid-6.18", Layout::Hybrid);
    let memory = MemorySample {
        usage_bytes: Some(8_503_296),
        max_usage_bytes: Some(67_108_864),
        limit_bytes: Some(Max::Value(67_108_864)),
        memory_swap_limit_bytes: Some(Max::Value(67_108_864)),
        reservation_bytes: Some(Max::Unlimited),
        swap_bytes: Some(0),
        failcnt: Some(0),
        over_high: None,
        oom_kills: Some(1),
        stat: MemoryStat {
            anon_bytes: Some(4_702_208),
            file_bytes: Some(3_166_208),
            shmem_bytes: Some(0),
            mapped_bytes: Some(151_552),
            dirty_bytes: Some(4096),
            writeback_bytes: Some(0),
            inactive_anon_bytes: Some(4_689_920),
            active_anon_bytes: Some(12_288),
            inactive_file_bytes: Some(3_162_112),
            active_file_bytes: Some(4096),
            unevictable_bytes: Some(0),
            kernel_bytes: Some(364_544),
            sock_bytes: Some(0),
            slab_bytes: None,
            pgfault: Some(19_865),
            pgmajfault: Some(3),
            own_pgfault: Some(19_865),
            own_pgmajfault: Some(3),
            pgscan: None,
            pgsteal: None,
            workingset_refault_anon: Some(0),
            workingset_refault_file: Some(64),
        },
    };
    assert_eq!(memory.working_set_bytes(), Some(8_503_296 - 3_162_112));
    let io = IoSample {
        major: 7,
        minor: 0,
        read_bytes: 2_097_152,
        write_bytes: 4_194_304,
        read_ops: 32,
        write_ops: 64,
        ..IoSample::default()
    };
    let expected = Sample {
        identity: 0,
        monotonic_ns: 0,
        cpu: CpuSample {
            usage_usec: Some(1_023_447),
            user_usec: Some(783_751),
            system_usec: Some(239_696),
            nr_periods: Some(31),
            nr_throttled: Some(18),
            shares: Some(512),
            throttled_usec: Some(576_191),
            nr_bursts: Some(0),
            burst_usec: Some(0),
        },
        memory,
        pids: PidsSample { current: Some(3), max: Some(Max::Value(32)), refused: Some(1) },
        io: vec![io],
        pressure: Pressure {
            cpu: Some(stall([3.52, 0.83, 0.18], 581_429, [3.52, 0.83, 0.18], 574_756)),
            memory: Some(stall([0.0; 3], 1416, [0.0; 3], 1416)),
            io: Some(stall([7.58, 1.69, 0.36], 1_109_512, [7.58, 1.69, 0.36], 1_109_512)),
        },
    };
    assert_eq!(sample(&group), expected);
    let limits = Resources {
        cpu: Some(CpuMax { quota_usec: Some(50_000), period_usec: 100_000 }),
        cpu_weight: Some(50),
        cpu_idle: Some(false),
        cpuset_cpus: Some("0-1".to_owned()),
        memory_max_bytes: Some(Max::Value(67_108_864)),
        memory_swap_max_bytes: Some(Max::Value(67_108_864)),
        memory_high_bytes: None,
        pids_max: Some(Max::Value(32)),
        memory_low_bytes: None,
        oom_kill_disable: None,
        io_weight: Some(IoWeight::of(100)),
        io: vec![IoLimit {
            major: 7,
            minor: 0,
            read_bytes_per_s: Some(Max::Unlimited),
            write_bytes_per_s: Some(Max::Value(4_194_304)),
            read_ops_per_s: Some(Max::Value(100)),
            write_ops_per_s: Some(Max::Unlimited),
        }],
    };
    assert_eq!(group.read_resources().unwrap(), limits);
    assert_eq!(group.pids().unwrap(), [1542, 1545, 1546]);
}

#[test]
fn every_hybrid_hierarchy_is_joined() {
    let group = demo("hybrid-6.18", Layout::Hybrid);
    let names: Vec<_> = group.v1_dirs().into_iter().map(|(name, _)| name).collect();
    let all = ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids"];
    assert_eq!(names[..8], all);
    assert_eq!(names[8], "name=systemd");
    for (_, dir) in group.v1_dirs() {
        assert!(dir.is_dir(), "{}", dir.display());
    }
    assert_eq!(group.procs_files_v1().len(), 9);
    assert!(group.procs_files_v1()[3].ends_with("memory/tenantry/demo/cgroup.procs"));
    assert!(group.unified_dir().ends_with("sys/fs/cgroup/unified/tenantry/demo"));
    let ids = group.ids().unwrap();
    assert!(ids.blkio_v1.is_some() && ids.memory_v1.is_some());
}

#[test]
fn the_unified_tree_is_read_whole() {
    let group = demo("unified-6.1", Layout::Unified);
    let memory = MemorySample {
        usage_bytes: Some(9_666_560),
        max_usage_bytes: Some(67_108_864),
        limit_bytes: Some(Max::Value(67_108_864)),
        memory_swap_limit_bytes: Some(Max::Value(67_108_864 + 33_554_432)),
        reservation_bytes: Some(Max::Value(0)),
        swap_bytes: Some(0),
        failcnt: Some(60),
        over_high: Some(0),
        oom_kills: Some(1),
        stat: MemoryStat {
            anon_bytes: Some(4_366_336),
            file_bytes: Some(3_018_752),
            shmem_bytes: Some(0),
            mapped_bytes: Some(0),
            dirty_bytes: Some(0),
            writeback_bytes: Some(0),
            inactive_anon_bytes: Some(6_443_008),
            active_anon_bytes: Some(4096),
            inactive_file_bytes: Some(3_018_752),
            active_file_bytes: Some(0),
            unevictable_bytes: Some(0),
            kernel_bytes: Some(200_704),
            sock_bytes: Some(0),
            slab_bytes: Some(121_472),
            pgfault: Some(7551),
            pgmajfault: Some(0),
            own_pgfault: None,
            own_pgmajfault: None,
            pgscan: Some(3864),
            pgsteal: Some(1020),
            workingset_refault_anon: Some(0),
            workingset_refault_file: Some(0),
        },
    };
    let disk = IoSample {
        major: 7,
        minor: 0,
        read_bytes: 2_097_152,
        write_bytes: 4_194_304,
        read_ops: 32,
        write_ops: 64,
        discard_bytes: 0,
        discard_ops: 0,
    };
    let expected = Sample {
        identity: 0,
        monotonic_ns: 0,
        cpu: CpuSample {
            usage_usec: Some(2_270_515),
            user_usec: Some(758_370),
            system_usec: Some(1_512_145),
            nr_periods: Some(60),
            nr_throttled: Some(38),
            shares: Some(512),
            throttled_usec: Some(1_825_673),
            nr_bursts: Some(0),
            burst_usec: Some(0),
        },
        memory,
        pids: PidsSample { current: Some(2), max: Some(Max::Value(32)), refused: Some(1) },
        io: vec![disk],
        pressure: Pressure {
            cpu: Some(stall([8.93, 2.35, 0.52], 1_580_867, [8.70, 2.29, 0.51], 1_556_606)),
            memory: Some(stall([0.29, 0.08, 0.01], 72_613, [0.29, 0.08, 0.01], 72_613)),
            io: Some(stall([2.19, 0.72, 0.16], 527_447, [2.19, 0.72, 0.16], 527_447)),
        },
    };
    assert_eq!(sample(&group), expected);
    let limits = Resources {
        cpu: Some(CpuMax { quota_usec: Some(50_000), period_usec: 100_000 }),
        cpu_weight: Some(50),
        cpu_idle: Some(false),
        memory_high_bytes: Some(Max::Unlimited),
        cpuset_cpus: Some("0-1".to_owned()),
        memory_max_bytes: Some(Max::Value(67_108_864)),
        memory_swap_max_bytes: Some(Max::Value(67_108_864 + 33_554_432)),
        pids_max: Some(Max::Value(32)),
        memory_low_bytes: None,
        oom_kill_disable: None,
        io_weight: Some(IoWeight::of(100)),
        io: vec![IoLimit {
            major: 7,
            minor: 0,
            read_bytes_per_s: Some(Max::Unlimited),
            write_bytes_per_s: Some(Max::Value(4_194_304)),
            read_ops_per_s: Some(Max::Value(100)),
            write_ops_per_s: Some(Max::Unlimited),
        }],
    };
    assert_eq!(group.read_resources().unwrap(), limits);
    assert_eq!(group.pids().unwrap(), [157, 159]);
    assert!(group.v1_dirs().is_empty() && group.procs_files_v1().is_empty());
    assert_eq!(group.ids().unwrap().blkio_v1, None);
}

/// An older or smaller kernel lacks files, and has PSI off: those numbers are unknown,
/// the rest is read, and a text in no known format is an error that names the file.
#[test]
fn missing_files_are_unknown_numbers_and_garbage_is_an_error() {
    let temporary = tempfile::tempdir().unwrap();
    let group_dir = temporary.path().join("sys/fs/cgroup/tenantry/demo");
    std::fs::create_dir_all(&group_dir).unwrap();
    std::fs::create_dir_all(temporary.path().join("proc/self")).unwrap();
    let mountinfo = std::fs::read(root("unified-6.1").join("proc/self/mountinfo")).unwrap();
    std::fs::write(temporary.path().join("proc/self/mountinfo"), mountinfo).unwrap();
    std::fs::write(group_dir.join("cpu.stat"), "usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
        .unwrap();
    let group = Hierarchy::detect_at(temporary.path()).unwrap().group("tenantry/demo");
    let cpu = CpuSample {
        usage_usec: Some(5),
        user_usec: Some(3),
        system_usec: Some(2),
        ..CpuSample::default()
    };
    assert_eq!(sample(&group), Sample { cpu, ..Sample::default() });
    assert_eq!(group.read_resources().unwrap(), Resources::default());

    std::fs::write(group_dir.join("pids.current"), "many\n").unwrap();
    let error = group.read_sample().unwrap_err().to_string();
    assert!(error.contains("pids.current: no number in \"many\\n\""), "{error}");

    let gone = Hierarchy::detect_at(temporary.path()).unwrap().group("tenantry/other");
    assert!(gone.read_sample().unwrap_err().is_gone());
}

#[test]
fn a_limit_without_its_file_is_unsupported_and_without_its_device_invalid() {
    let group = demo("unified-6.1", Layout::Unified);
    let io = IoLimit { major: 8, read_bytes_per_s: Some(Max::Value(1)), ..IoLimit::default() };
    let wanted = Resources { io: vec![io], ..Resources::default() };
    assert_eq!(
        group.apply(&wanted).unwrap_err().to_string(),
        "io: 8:0 is not allowed, allowed is the number of a block device of this host"
    );
    let below = Resources { memory_max_bytes: Some(Max::Value(5 << 20)), ..Resources::default() };
    assert_eq!(
        group.apply(&below).unwrap_err().to_string(),
        "memory_max_bytes: 5242880 is below the 6647808 bytes in use \
         (working set: usage without inactive file pages)"
    );
    let temporary = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(temporary.path().join("proc/self")).unwrap();
    std::fs::create_dir_all(temporary.path().join("cg/tenantry/demo")).unwrap();
    let mountinfo = "1 0 0:1 / /cg rw - cgroup2 none rw\n";
    std::fs::write(temporary.path().join("proc/self/mountinfo"), mountinfo).unwrap();
    let group = Hierarchy::detect_at(temporary.path()).unwrap().group("tenantry/demo");
    let wanted = Resources { pids_max: Some(Max::Value(5)), ..Resources::default() };
    let message = group.apply(&wanted).unwrap_err().to_string();
    assert!(message.starts_with("pids_max cannot be limited here: "), "{message}");
    assert!(message.contains("pids.max is not there"), "{message}");
}

#[test]
fn a_path_that_leads_elsewhere_is_refused_by_what_changes_something() {
    let hierarchy = Hierarchy::detect_at(&root("unified-6.1")).unwrap();
    for path in ["", "/", "..", "a/../b", "/abs", "a//b", "a/"] {
        let group = hierarchy.group(path);
        for outcome in [group.create(), group.remove(), group.kill(), group.freeze()] {
            let message = outcome.unwrap_err().to_string();
            assert!(message.contains("a group's path is relative"), "{path:?}: {message}");
        }
        assert!(group.apply(&Resources::default()).is_err(), "{path:?}");
        assert!(hierarchy.prepare_parent(path).is_err() && hierarchy.remove_parent(path).is_err());
    }
}

#[test]
fn the_same_fixture_twice_is_a_delta_of_nothing() {
    let group = demo("hybrid-6.18", Layout::Hybrid);
    let (prev, cur) = (group.read_sample().unwrap(), group.read_sample().unwrap());
    let delta = Delta::between(&prev, &cur).unwrap();
    assert_eq!((delta.cpu_ratio(), delta.oom_kills, delta.io.len()), (Some(0.0), Some(0), 1));
}
