//! The fixed report: one container that has everything, one that has stopped.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tenantry_cgroupfs::Max;
use tenantry_cgroupfs::sample::{
    CpuSample, IoSample, MemorySample, MemoryStat, PidsSample, Pressure, Sample, Stall, StallTime,
};
use tenantry_container::{ChangeKind, LimitCounts, Party as LimitParty};
use tenantry_control::Mode;
use tenantry_ebpf::{
    Destination, DestinationCounters, Direction, DiskCounters, DiskOp, DnsCounters, ErrorClass,
    EventCounters, EventKind, Histogram, NamespaceCounts, Namespaces, NetworkCounters, OffCpu,
    Probe, ProbeStatus, SchedulerCounters, SlotCounters, SlotEvents, SyscallClass, SyscallCount,
    SyscallErrors, TcpCounters, TcpError, UdpCounters, UdpDrops,
};
use tenantry_network::LinkCounters;

use crate::blame::{Party, Resource, SeriesRow, Shown, Who};
use crate::controller::{ControllerReport, ScrapeFailure};
use crate::delivered::Delivered;
use crate::destinations::{Seat, Seated};
use crate::devices::Device;
use crate::domains::Domains;
use crate::fs_usage::Totals;
use crate::governor::GovernorReport;
use crate::host::HostSample;
use crate::origin::{Origin, Pod, Runtime};
use crate::otlp::OtlpReport;
use crate::registries::counts::ImagesReport;
use crate::report::{
    AgentReport, ContainerReport, DiskReport, FileSystemReport, HostReport, IoLimitReport,
    LimitsReport, Machine,
};
use crate::rules::RuleCount;

pub fn report() -> HostReport {
    HostReport {
        time_unix_s: 1_760_000_000.25,
        machine: Machine { cpu_cores: 2, memory_bytes: 25_769_803_776 },
        host: host(),
        agent: agent(),
        probes: probes(),
        unattributed: unattributed(),
        walks: Totals { walks: 12, entries: 40_960, errors: 0 },
        blame: blame(),
        containers: vec![stopped(), pod(), web()],
        wholes: vec![
            whole("/kubepods.slice", None),
            whole("/kubepods.slice/kubepods-pod1.slice", Some("")),
        ],
    }
}

fn blame() -> Shown {
    let party = |name: &str| Arc::new(Party { id: format!("{name}0123"), name: name.to_owned() });
    let row = |pair, resource, seconds| SeriesRow { pair, resource, seconds };
    let batch = Who::Container(party("batch"));
    Shown {
        rows: vec![
            row(Some((party("web"), batch)), Resource::Cpu, 12.5),
            row(Some((party("web"), Who::Quota)), Resource::Cpu, 0.25),
            row(None, Resource::Disk, 3.0),
        ],
    }
}

fn host() -> HostSample {
    let pressure = Pressure {
        cpu: stall(9_000_000, 0),
        memory: stall(500_000, 200_000),
        io: stall(4_000_000, 3_000_000),
    };
    HostSample { steal_seconds: Some(12.25), pressure }
}

fn agent() -> AgentReport {
    AgentReport {
        controller: Some(ControllerReport {
            mode: Mode::Enforce,
            looks: 3600,
            seconds: 1.25,
            decisions: BTreeMap::from([
                (("release", Resource::Cpu, "enforce"), 1),
                (("tighten", Resource::Cpu, "enforce"), 2),
            ]),
            leases: BTreeMap::from([(Resource::Disk, 1)]),
            victims: 1,
            failures: 0,
            scrapes: 3500,
            scrape_failures: HashMap::from([(ScrapeFailure::Timeout, 2)]),
            journal_lost: 0,
        }),
        limit_changes: LimitCounts {
            changes: BTreeMap::from([
                ((LimitParty::Operator, ChangeKind::Set), 4),
                ((LimitParty::Controller, ChangeKind::Throttle), 2),
            ]),
            forgotten: 0,
        },
        version: "0.1.0".to_owned(),
        started_unix_s: 1_759_990_000.5,
        rss_bytes: 20_971_520,
        cpu_seconds: 12.5,
        open_fds: 31,
        max_fds: 1024,
        slots_used: 2,
        slots_max: 255,
        foreign_refused: Some(0),
        wholes_left_out: Some(0),
        audit_written: 4100,
        audit_lost: 0,
        audit_full_batches: 3,
        audit_unhashed: 2,
        otlp: Some(OtlpReport { exported: 900, refused: 5, lost: 40, retries: 7, behind: 12 }),
        images: ImagesReport {
            pulls: vec![("done", 3), ("same", 1), ("failed", 2), ("abandoned", 0)],
            pushes: vec![("done", 1), ("same", 0), ("failed", 0), ("abandoned", 1)],
            layers_fetched: 12,
            layers_there: 9,
            fetched_bytes: 73_400_320,
            sent_bytes: 1_048_576,
            retries: 4,
            limits: vec![("redirects", 1), ("entries", 0)],
        },
        rules: vec![
            RuleCount {
                rule: "memfd_exec".into(),
                severity: "critical",
                matches: 1,
                suppressed: 0,
            },
            RuleCount {
                rule: "shell_in_container".into(),
                severity: "notice",
                matches: 12,
                suppressed: 2,
            },
        ],
        stream_lost: 0,
        collect_seconds: vec![("links", 0.0005), ("maps", 0.0021), ("cgroups", 0.0012)],
        name_queries: vec![("answered", 31), ("forwarded", 7), ("failed", 1)],
        collect_errors: vec![("cgroups", 0), ("maps", 0), ("links", 1)],
        governor: Some(GovernorReport {
            budget_ratio: 0.02,
            overhead_ratio: Some(0.0125),
            shed: vec![("syscall_enter".into(), true)],
        }),
        kernel_memory: vec![("maps", 9_000_000), ("programs", 120_000)],
        unseen_completions: Some(2),
        unseen_packets: Some(3),
        table_full: vec![
            ("cgroup_slots", 0),
            ("disks", 3),
            ("requests", 0),
            ("tasks", 0),
            ("tcp_sockets", 0),
            ("destinations", 0),
        ],
    }
}

fn probes() -> Vec<Probe> {
    let probe = |name: &str, hook: &str, status, runs, run_ns| Probe {
        name: name.into(),
        hook: hook.into(),
        status,
        runs,
        run_ns,
        misses: runs.map(|_| 0),
    };
    vec![
        probe(
            "sys_exit",
            "tp_btf/sys_exit",
            ProbeStatus::Active,
            Some(1_000_000),
            Some(22_000_000),
        ),
        probe("run_queue_switch", "tp_btf/sched_switch", ProbeStatus::Active, None, None),
        probe("disk_complete", "tp_btf/block_rq_complete", failed(), None, None),
        probe("exec_attempted", "lsm/bprm_check_security", unsupported(), None, None),
    ]
}

fn failed() -> ProbeStatus {
    ProbeStatus::Failed("the verifier said no".into())
}

fn unsupported() -> ProbeStatus {
    ProbeStatus::Unsupported("trampolines are refused".into())
}

/// `counts` are `(bucket, observations)`.
fn histogram(counts: &[(usize, u64)], sum_ns: u64) -> Histogram {
    let mut histogram = Histogram::default();
    histogram.buckets.resize(40, 0);
    for &(bucket, observations) in counts {
        histogram.buckets[bucket] = observations;
        histogram.count += observations;
    }
    histogram.sum_ns = sum_ns;
    histogram
}

fn stall(some_usec: u64, full_usec: u64) -> Option<Stall> {
    let time = |total_usec| StallTime { total_usec, ..StallTime::default() };
    Some(Stall { some: time(some_usec), full: Some(time(full_usec)) })
}

fn sample() -> Sample {
    Sample {
        identity: 4711,
        monotonic_ns: 1,
        cpu: CpuSample {
            usage_usec: Some(90_500_000),
            user_usec: Some(60_250_000),
            system_usec: Some(30_250_000),
            nr_periods: Some(1200),
            nr_throttled: Some(300),
            throttled_usec: Some(15_000_000),
            shares: Some(512),
            ..CpuSample::default()
        },
        memory: MemorySample {
            usage_bytes: Some(100_000_000),
            max_usage_bytes: Some(120_000_000),
            limit_bytes: Some(Max::Value(268_435_456)),
            memory_swap_limit_bytes: Some(Max::Unlimited),
            reservation_bytes: Some(Max::Value(0)),
            swap_bytes: Some(0),
            failcnt: Some(7),
            over_high: Some(2),
            oom_kills: Some(1),
            stat: MemoryStat {
                anon_bytes: Some(50_000_000),
                file_bytes: Some(45_000_000),
                mapped_bytes: Some(5_000_000),
                dirty_bytes: Some(1_228_800),
                writeback_bytes: Some(4096),
                inactive_file_bytes: Some(30_000_000),
                active_file_bytes: Some(15_000_000),
                kernel_bytes: Some(2_000_000),
                sock_bytes: Some(4096),
                own_pgfault: Some(120_000),
                own_pgmajfault: Some(11),
                pgscan: Some(3864),
                pgsteal: Some(1020),
                pgfault: Some(123_456),
                pgmajfault: Some(12),
                workingset_refault_anon: Some(0),
                workingset_refault_file: Some(34),
                ..MemoryStat::default()
            },
        },
        pids: PidsSample { current: Some(9), max: Some(Max::Value(100)), refused: Some(0) },
        pressure: Pressure {
            cpu: stall(4_000_000, 1_500_000),
            memory: stall(250_000, 125_000),
            io: stall(2_000_000, 1_000_000),
        },
        ..Sample::default()
    }
}

fn counters() -> SlotCounters {
    let traffic = |rx_bytes, rx_packets, tx_bytes, tx_packets| NetworkCounters {
        rx_bytes,
        rx_packets,
        tx_bytes,
        tx_packets,
    };
    SlotCounters {
        syscalls: vec![
            SyscallCount { nr: 0, count: 48_211, errors: 17 },
            SyscallCount { nr: 39, count: 5000, errors: 0 },
            SyscallCount { nr: 257, count: 300, errors: 300 },
            SyscallCount { nr: 509, count: 1, errors: 1 },
        ],
        syscall_errors: vec![
            SyscallErrors { nr: 0, class: ErrorClass::Busy, count: 16 },
            SyscallErrors { nr: 0, class: ErrorClass::Io, count: 1 },
            SyscallErrors { nr: 257, class: ErrorClass::NotFound, count: 300 },
            SyscallErrors { nr: 509, class: ErrorClass::Unsupported, count: 1 },
        ],
        latency: vec![
            (SyscallClass::Io, histogram(&[(7, 10), (9, 2500), (20, 3), (39, 1)], 7_000_000_000)),
            (SyscallClass::File, histogram(&[(11, 18)], 30_000)),
            (SyscallClass::Network, histogram(&[], 0)),
        ],
        namespaces: vec![
            in_namespaces(4_026_532_303, 53_500, 317),
            in_namespaces(4_026_532_400, 12, 1),
        ],
        sync_latency: histogram(&[(21, 7), (25, 1)], 30_000_000),
        external: traffic(1_048_576, 900, 102_400, 100),
        loopback: traffic(2048, 4, 2048, 4),
        udp: UdpCounters {
            external: traffic(4096, 16, 640, 8),
            loopback: traffic(128, 2, 128, 2),
            drops: Some(UdpDrops { buffer: 3, memory: 0 }),
        },
        run_queue: histogram(&[(5, 100), (12, 40), (17, 8), (24, 1)], 13_000_000),
        scheduler: SchedulerCounters {
            on_cpu_ns: 2_500_000_000,
            off_cpu: OffCpu {
                interruptible_ns: 90_000_000_000,
                uninterruptible_ns: 1_500_000,
                stopped_ns: 0,
                preempted_ns: 5_000_000,
                woken_ns: 8_000_000,
            },
            voluntary_switches: 120,
            involuntary_switches: 29,
            migrations: 7,
        },
        events: events([1000, 998, 1], 3, 40),
        tcp: Some(TcpCounters {
            connects_begun: 42,
            connects_established: 38,
            connects_failed: 3,
            accepts: 10,
            closed: 46,
            resets_received: 2,
            resets_sent: 1,
            retransmits: 5,
            listen_overflows: 4,
            failures: vec![(TcpError::Abandoned, 1), (TcpError::Refused, 2)],
            duration: histogram(&[(15, 6), (21, 30), (39, 10)], 5_000_000_000_000),
            rtt_external: histogram(&[(20, 50), (22, 4)], 60_000_000),
            rtt_loopback: histogram(&[], 0),
            other: [DestinationCounters::default(); 2],
        }),
        dns_other: DnsCounters::default(),
        exec_attempts: Some(1003),
    }
}

/// All of them the container's own but for the network's.
fn in_namespaces(net: u32, calls: u64, errors: u64) -> NamespaceCounts {
    let namespaces = Namespaces {
        cgroup: 4_026_532_300,
        ipc: 4_026_532_301,
        mnt: 4_026_532_302,
        net,
        pid: 4_026_532_304,
        user: 4_026_532_305,
        uts: 4_026_532_306,
    };
    NamespaceCounts { namespaces, calls, errors }
}

fn disk() -> Vec<DiskReport> {
    let entry = |device: &str, op, operations, bytes, latency| DiskReport {
        device: Device { name: device.to_owned(), stacked: device.starts_with("/dev/loop") },
        op,
        counters: DiskCounters { operations, bytes, latency, ..DiskCounters::default() },
    };
    let latency = histogram(&[(21, 15), (27, 1)], 150_000_000);
    let mut write = entry("/dev/vda", DiskOp::Write, 16, 8_392_704, latency);
    write.counters.errors = 1;
    write.counters.requeues = 2;
    write.counters.merges = 40;
    write.counters.in_flight = 3;
    write.counters.queue = histogram(&[(9, 14), (20, 5)], 9_000_000);
    vec![
        entry("/dev/vda", DiskOp::Read, 8, 8_388_608, histogram(&[(20, 6), (22, 2)], 12_000_000)),
        write,
        entry("/dev/vda", DiskOp::Flush, 2, 0, histogram(&[(19, 2)], 800_000)),
        entry("/dev/loop0", DiskOp::Read, 1, 4096, histogram(&[(18, 1)], 200_000)),
    ]
}

fn domains() -> Domains {
    let asked = |a, aaaa, answers, unanswered, latency| DnsCounters {
        a,
        aaaa,
        answers,
        unanswered,
        latency,
        ..DnsCounters::default()
    };
    let quick = histogram(&[(15, 4), (21, 10)], 20_000_000);
    let late = histogram(&[(33, 1)], 6_000_000_000);
    Domains {
        seated: vec![("example.com".into(), asked(8, 8, [10, 4, 0, 0, 0], 2, quick))],
        other: Some(DnsCounters { other_types: 1, ..asked(0, 0, [0, 0, 0, 1, 0], 0, late) }),
    }
}

fn destinations() -> Seated {
    let counters = |connections, failures, sent_bytes, received_bytes| DestinationCounters {
        connections,
        failures,
        sent_bytes,
        received_bytes,
    };
    let seat = |direction, address: &str, port, counters| Seat {
        destination: Destination { direction, address: address.parse().expect("an address"), port },
        counters,
    };
    Seated {
        seats: vec![
            seat(Direction::Outgoing, "10.0.0.5", 5432, counters(30, 0, 65_536, 1_000_000)),
            seat(Direction::Incoming, "2001:db8::", 80, counters(10, 1, 4096, 512)),
        ],
        other: [Some(counters(8, 3, 1024, 100)), None],
    }
}

/// The journal's commits and what was written back for nobody known.
fn unattributed() -> Vec<DiskReport> {
    let entry = |op, operations, bytes| DiskReport {
        device: Device { name: "/dev/vda".to_owned(), stacked: false },
        op,
        counters: DiskCounters { operations, bytes, ..DiskCounters::default() },
    };
    vec![entry(DiskOp::Write, 70, 4_718_592), entry(DiskOp::Flush, 9, 0)]
}

fn cgroup_io() -> Vec<(String, IoSample)> {
    let io = IoSample {
        major: 254,
        minor: 0,
        read_bytes: 8_388_608,
        write_bytes: 8_392_704,
        read_ops: 8,
        write_ops: 56,
        ..IoSample::default()
    };
    vec![("/dev/vda".to_owned(), io)]
}

fn web() -> ContainerReport {
    ContainerReport {
        id: "a1".to_owned(),
        origin: Origin::default(),
        cgroup: "/tenantry/a1".to_owned(),
        name: "web".to_owned(),
        image: "demo:latest".to_owned(),
        slot: Some(1),
        running: true,
        removed: false,
        ended_unix_s: None,
        restarts: Some(1),
        started_unix_s: Some(1_759_999_000.0),
        namespaces: ["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]
            .into_iter()
            .zip(4_026_532_300..)
            .map(|(kind, inode)| (kind.to_owned(), inode))
            .collect(),
        processes: Some(3),
        oom_kills: 1,
        sample: Some(sample()),
        counters: Some(counters()),
        delivered: delivered([997, 998, 1], 17),
        disk: disk(),
        destinations: Some(destinations()),
        domains: Some(domains()),
        file_system: Some(FileSystemReport {
            device: "/dev/vda".to_owned(),
            usage_bytes: 9_437_184,
            limit_bytes: 270_582_939_648,
            inodes: 320,
            skipped_directories: 1,
            age_seconds: 12.5,
        }),
        cgroup_io: cgroup_io(),
        links: vec![(
            "eth0".to_owned(),
            LinkCounters {
                rx_bytes: 1_061_176,
                rx_packets: 900,
                rx_errors: 0,
                rx_dropped: 5,
                tx_bytes: 103_800,
                tx_packets: 100,
                tx_errors: 0,
                tx_dropped: 2,
            },
        )],
        labels: Default::default(),
        limits: LimitsReport {
            cpus: Some(0.5),
            memory_bytes: Some(268_435_456),
            pids: Some(100),
            egress_bits_per_s: Some(20_000_000),
            ingress_bits_per_s: Some(50_000_000),
            io: vec![IoLimitReport {
                device: "/dev/vda".to_owned(),
                read_bytes_per_s: Some(10_485_760),
                write_bytes_per_s: Some(5_242_880),
                read_ops_per_s: Some(1000),
                write_ops_per_s: None,
            }],
        },
    }
}

fn stopped() -> ContainerReport {
    ContainerReport {
        id: "b0".to_owned(),
        cgroup: "/tenantry/b0".to_owned(),
        name: "batch".to_owned(),
        image: "batch:1".to_owned(),
        restarts: Some(3),
        oom_kills: 2,
        counters: Some(SlotCounters {
            syscalls: vec![SyscallCount { nr: 59, count: 4, errors: 0 }],
            events: events([4, 4, 0], 0, 0),
            ..SlotCounters::default()
        }),
        delivered: delivered([4, 4, 0], 0),
        ..ContainerReport::default()
    }
}

/// Another runtime's: no restarts, no limits of ours, no interface that we made.
fn pod() -> ContainerReport {
    ContainerReport {
        id: "c3".to_owned(),
        origin: Origin { runtime: Runtime::Containerd, pod: Some(in_pod("cart")), compose: None },
        cgroup: "/kubepods.slice/kubepods-pod1.slice/cri-containerd-c3.scope".to_owned(),
        name: "cart".to_owned(),
        image: "registry.example/cart:2".to_owned(),
        running: true,
        processes: Some(1),
        counters: Some(SlotCounters {
            syscalls: vec![SyscallCount { nr: 0, count: 7, errors: 0 }],
            ..SlotCounters::default()
        }),
        ..ContainerReport::default()
    }
}

fn in_pod(container: &str) -> Pod {
    Pod { namespace: "shop".to_owned(), pod: "cart-7d9f".to_owned(), container: container.into() }
}

/// A slice or a pod: what its cgroup's files say, under no name.
fn whole(cgroup: &str, container: Option<&str>) -> ContainerReport {
    let mut sample = Sample::default();
    sample.cpu.usage_usec = Some(7_250_000);
    sample.memory.usage_bytes = Some(4_194_304);
    sample.pids.current = Some(3);
    sample.pressure.cpu = stall(2_000_000, 0);
    ContainerReport {
        origin: Origin { pod: container.map(in_pod), ..Origin::default() },
        cgroup: cgroup.to_owned(),
        running: true,
        sample: Some(sample),
        ..ContainerReport::default()
    }
}

/// Of exec, exit and OOM, and how many execs were lost; beside them opens that were filtered,
/// and as many less 23 that were not.
fn events(produced: [u64; 3], lost: u64, filtered: u64) -> SlotEvents {
    let mut events = SlotEvents::default();
    for (counted, produced) in events.by_kind.iter_mut().zip(produced) {
        counted.produced = produced;
    }
    events.by_kind[EventKind::Exec as usize].lost = lost;
    let opens = &mut events.by_kind[EventKind::Open as usize];
    *opens = EventCounters { produced: filtered.saturating_sub(23), lost: 0, filtered };
    events
}

fn delivered([exec, exit, oom]: [u64; 3], opens: u64) -> Delivered {
    let mut delivered = Delivered::default();
    let all = [EventKind::Exec, EventKind::Exit, EventKind::Oom, EventKind::Open];
    for (kind, events) in all.into_iter().zip([exec, exit, oom, opens]) {
        delivered.set(kind, events);
    }
    delivered
}
