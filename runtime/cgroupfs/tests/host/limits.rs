//! Limits bite on a real kernel, seen by witnesses other than this crate.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::{Parent, Running, WRITTEN};
use tenantry_cgroupfs::{ApplyError, CpuMax, Delta, IoLimit, IoWeight, Max, Resources, Restored};

const MIB: u64 = 1 << 20;

fn cpu(quota_usec: Option<u64>) -> Resources {
    let cpu = Some(CpuMax { quota_usec, period_usec: 100_000 });
    Resources { cpu, ..Resources::default() }
}

fn memory(mib: u64) -> Resources {
    Resources { memory_max_bytes: Some(Max::Value(mib * MIB)), ..Resources::default() }
}

#[test]
fn half_a_cpu_is_half_by_the_process_s_own_account() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("cpu");
    let applied = group.apply(&cpu(Some(50_000))).unwrap();
    assert!(!applied.is_empty() && applied.iter().all(|a| !a.skipped()), "{applied:?}");
    let spinner = Running::start(&group, "spin");
    // The first period may begin anywhere.
    std::thread::sleep(Duration::from_millis(300));
    let before = group.read_sample().unwrap();
    let ratio = spinner.cpu_ratio(Duration::from_secs(2));
    let after = group.read_sample().unwrap();
    let delta = Delta::between(&before, &after).unwrap();
    println!("/proc: {ratio:.3}, cgroup: {:.3}", delta.cpu_ratio().unwrap());
    assert!((0.4..0.58).contains(&ratio), "{ratio}");
    assert!((0.4..0.58).contains(&delta.cpu_ratio().unwrap()), "{delta:?}");
    assert!(delta.nr_throttled.unwrap() > 5, "{delta:?}");
    assert!(delta.throttled_usec.unwrap() > 100_000, "{delta:?}");

    group.apply(&cpu(None)).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    let before = group.read_sample().unwrap();
    let ratio = spinner.cpu_ratio(Duration::from_secs(1));
    let delta = Delta::between(&before, &group.read_sample().unwrap()).unwrap();
    assert!(ratio > 0.6, "lifted, but {ratio}");
    assert_eq!(delta.nr_throttled, Some(0));
}

#[test]
fn memory_beyond_the_limit_kills_and_is_counted() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("memory");
    group.apply(&memory(48)).unwrap();
    let mut hog = Running::start(&group, "hold 200");
    let status = hog.child.wait().unwrap();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    let sample = group.read_sample().unwrap().memory;
    assert_eq!(sample.oom_kills, Some(1));
    assert_eq!(sample.limit_bytes, Some(Max::Value(48 * MIB)));
    assert!(sample.max_usage_bytes.is_none_or(|most| most <= 48 * MIB), "{sample:?}");
}

#[test]
fn memory_moves_in_both_directions_but_not_below_use() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("moves");
    group.apply(&memory(64)).unwrap();
    let mut holder = Running::start(&group, "hold 40");
    assert_eq!(holder.says(), (40 * MIB / 4096).to_string());
    let before = group.read_resources().unwrap();
    let error = group.apply(&Resources { pids_max: Some(Max::Value(50)), ..memory(16) });
    match error.unwrap_err() {
        ApplyError::MemoryBelowUse { wanted_bytes, used_bytes } => {
            assert_eq!(wanted_bytes, 16 * MIB);
            assert!((40 * MIB..64 * MIB).contains(&used_bytes), "{used_bytes}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(group.read_resources().unwrap(), before, "nothing was written");
    for mib in [128, 100, 300, 60] {
        group.apply(&memory(mib)).unwrap();
        assert_eq!(group.read_resources().unwrap().memory_max_bytes, Some(Max::Value(mib * MIB)));
    }
    let with_swap = Resources { memory_swap_max_bytes: Some(Max::Value(90 * MIB)), ..memory(70) };
    let applied = group.apply(&with_swap).unwrap();
    if !applied.iter().any(|a| a.skipped()) {
        let resources = group.read_resources().unwrap();
        assert_eq!(resources.memory_swap_max_bytes, Some(Max::Value(90 * MIB)));
    }
    let unlimited = Resources { memory_max_bytes: Some(Max::Unlimited), ..Resources::default() };
    group.apply(&unlimited).unwrap();
    let resources = group.read_resources().unwrap();
    assert_eq!(resources.memory_max_bytes, Some(Max::Unlimited));
    assert!(resources.memory_swap_max_bytes.is_none_or(|max| max == Max::Unlimited));
    assert!(holder.child.try_wait().unwrap().is_none(), "the holder was killed");
    assert_eq!(group.read_sample().unwrap().memory.oom_kills, Some(0));
}

#[test]
fn tasks_beyond_pids_max_are_refused() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("pids");
    group.apply(&Resources { pids_max: Some(Max::Value(12)), ..Resources::default() }).unwrap();
    let mut forker = Running::start(&group, "fork 30");
    let said = forker.says();
    let (threads, process) = said.split_once(' ').unwrap();
    assert!((1..12).contains(&threads.parse::<u32>().unwrap()), "{said}");
    assert_eq!(process, "false", "a process was started beyond the limit");
    let pids = group.read_sample().unwrap().pids;
    assert_eq!((pids.current, pids.max), (Some(12), Some(Max::Value(12))));
    assert!(pids.refused.unwrap() >= 1, "{pids:?}");
}

/// A loop device over a file of its own.
struct Loop {
    device: String,
    _file: tempfile::NamedTempFile,
}

impl Loop {
    fn new() -> Result<Loop, String> {
        let file = tempfile::NamedTempFile::new().map_err(|e| e.to_string())?;
        file.as_file().set_len(16 * MIB).map_err(|e| e.to_string())?;
        // In two steps, as busybox's losetup has it too; between them another may be quicker.
        for _ in 0..5 {
            let device = losetup(&["-f".as_ref()])?;
            match losetup(&[device.as_ref(), file.path()]) {
                Ok(_) => return Ok(Loop { device, _file: file }),
                Err(why) if why.contains("busy") => continue,
                Err(why) => return Err(why),
            }
        }
        Err("others are always quicker".to_owned())
    }

    fn number(&self) -> (u32, u32) {
        let name = Path::new(&self.device).file_name().unwrap();
        let dev = PathBuf::from("/sys/block").join(name).join("dev");
        let text = std::fs::read_to_string(dev).unwrap();
        let (major, minor) = text.trim().split_once(':').unwrap();
        (major.parse().unwrap(), minor.parse().unwrap())
    }
}

fn losetup(args: &[&Path]) -> Result<String, String> {
    let output = Command::new("losetup").args(args).output();
    let output = output.map_err(|e| format!("losetup: {e}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("-d").arg(&self.device).status();
    }
}

#[test]
fn writes_to_a_device_take_the_time_the_limit_says() {
    let Some(parent) = Parent::new() else { return };
    let disk = match Loop::new() {
        Ok(disk) => disk,
        Err(why) => return println!("SKIPPED: no loop device: {why}"),
    };
    let group = parent.group("io");
    let (major, minor) = disk.number();
    let limit = IoLimit {
        major,
        minor,
        write_bytes_per_s: Some(Max::Value(MIB)),
        read_ops_per_s: Some(Max::Value(100)),
        ..IoLimit::default()
    };
    let applied = match group.apply(&Resources { io: vec![limit], ..Resources::default() }) {
        Err(ApplyError::Unsupported { why, .. }) => return println!("SKIPPED: {why}"),
        other => other.unwrap(),
    };
    assert_eq!(applied.len(), if parent.hybrid() { 2 } else { 1 });
    let found = group.read_resources().unwrap().io;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].write_bytes_per_s, Some(Max::Value(MIB)));
    assert_eq!(found[0].read_ops_per_s, Some(Max::Value(100)));
    assert_eq!(found[0].read_bytes_per_s, Some(Max::Unlimited));

    let started = Instant::now();
    let mut writer = Running::start(&group, &format!("write {}", disk.device));
    let took_ms: u64 = writer.says().parse().unwrap();
    println!("2 MiB at 1 MiB/s: {took_ms} ms");
    assert!(took_ms > 1500, "{took_ms} ms");
    assert!(started.elapsed() < Duration::from_secs(30));
    let io = group.read_sample().unwrap().io;
    let io = io.iter().find(|io| (io.major, io.minor) == (major, minor)).unwrap();
    assert_eq!((io.write_bytes, io.write_ops > 0), (WRITTEN as u64, true));

    let lift = IoLimit::with_limits(major, minor, [Some(Max::Unlimited); 4]);
    group.apply(&Resources { io: vec![lift], ..Resources::default() }).unwrap();
    assert_eq!(group.read_resources().unwrap().io, []);
}

#[test]
fn a_device_that_is_not_there_is_refused_before_anything_is_written() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("nodevice");
    let before = group.read_resources().unwrap();
    let limit = IoLimit {
        major: 4095,
        minor: 77,
        read_bytes_per_s: Some(Max::Value(1)),
        ..IoLimit::default()
    };
    let error = group.apply(&Resources { io: vec![limit], ..cpu(Some(20_000)) }).unwrap_err();
    assert_eq!(
        error.to_string(),
        "io: 4095:77 is not allowed, allowed is the number of a block device of this host"
    );
    assert_eq!(group.read_resources().unwrap(), before);
}

/// The kernel refuses the last step (a CPU that no machine of ours has): the earlier
/// ones must be as they were.
#[test]
fn a_failure_in_the_middle_puts_everything_back() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("restore");
    let first = Resources {
        cpu_weight: Some(200),
        pids_max: Some(Max::Value(77)),
        memory_max_bytes: Some(Max::Value(64 * MIB)),
        ..cpu(Some(30_000))
    };
    group.apply(&first).unwrap();
    let before = group.read_resources().unwrap();
    for mib in [32, 128] {
        let wanted = Resources {
            cpu: Some(CpuMax { quota_usec: Some(10_000), period_usec: 50_000 }),
            cpu_weight: Some(300),
            cpuset_cpus: Some("8000".to_owned()),
            pids_max: Some(Max::Unlimited),
            memory_max_bytes: Some(Max::Value(mib * MIB)),
            ..Resources::default()
        };
        match group.apply(&wanted).unwrap_err() {
            ApplyError::Write { resource, path, value, source, not_restored } => {
                assert_eq!((resource.as_str(), value.as_str()), ("cpuset_cpus", "8000"));
                assert!(path.ends_with("cpuset.cpus") && source.raw_os_error().is_some());
                assert_eq!(not_restored, []);
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(group.read_resources().unwrap(), before);
    }
    // What is read can be written again.
    group.apply(&before).unwrap();
    assert_eq!(group.read_resources().unwrap(), before);
}

#[test]
fn an_idle_group_gets_what_nobody_wants_and_then_its_weight_back() {
    let Some(parent) = Parent::new() else { return };
    let one_cpu = |cpu_weight, cpu_idle| Resources {
        cpuset_cpus: Some("0".to_owned()),
        cpu_weight,
        cpu_idle,
        ..Resources::default()
    };
    let (idle, other) = (parent.group("idle"), parent.group("other"));
    idle.apply(&one_cpu(Some(300), None)).unwrap();
    other.apply(&one_cpu(Some(300), None)).unwrap();
    let before = idle.read_resources().unwrap();
    if before.cpu_idle.is_none() {
        return println!("SKIPPED: this kernel has no cpu.idle");
    }
    let wish = Resources { cpu_idle: Some(true), ..Resources::default() };
    let applied = idle.apply(&wish).unwrap();
    assert!(applied.iter().any(|a| a.actuator.ends_with("cpu.idle")), "{applied:?}");
    let now = idle.read_resources().unwrap();
    assert_eq!((now.cpu_idle, now.cpu_weight), (Some(true), None), "it has no weight meanwhile");
    let refused = idle.apply(&Resources { cpu_weight: Some(7), ..Resources::default() });
    assert!(matches!(refused, Err(ApplyError::Invalid { field: "cpu_weight", .. })));
    let (loser, winner) = (Running::start(&idle, "spin"), Running::start(&other, "spin"));
    std::thread::sleep(Duration::from_millis(200));
    let lost = loser.cpu_ratio(Duration::from_secs(2));
    let won = winner.cpu_ratio(Duration::from_secs(2));
    println!("idle: {lost:.3}, beside it: {won:.3}");
    assert!(lost < won / 5.0, "{lost} of {won}");
    // A failure after it was made idle undoes that, and the weight with it.
    idle.apply(&one_cpu(Some(300), Some(false))).unwrap();
    let bad = Resources { cpuset_cpus: Some("8000".to_owned()), ..wish.clone() };
    idle.apply(&bad).unwrap_err();
    assert_eq!(idle.read_resources().unwrap(), before);
    // The same by literal writes, as a shim does it.
    let base = Resources { cpu_weight: Some(300), cpu_idle: Some(false), ..Resources::default() };
    let restores = idle.restores(&base, &[&wish]).unwrap();
    idle.apply(&wish).unwrap();
    for restore in &restores {
        assert_eq!(restore.run().unwrap(), Restored::Written, "{restore:?}");
    }
    assert_eq!(idle.read_resources().unwrap(), before);
    for restore in &restores {
        assert!(matches!(restore.run().unwrap(), Restored::Kept(_)), "{restore:?}");
        assert!(restore.is_done(&restore.read().unwrap().unwrap()), "{restore:?}");
    }
    drop((loser, winner));
}

#[test]
fn a_weight_of_disks_is_lowered_and_brought_back_where_the_kernel_has_one() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("io-weight");
    let weight = |of| Resources { io_weight: Some(IoWeight::of(of)), ..Resources::default() };
    let before = group.read_resources().unwrap();
    let applied = match (before.io_weight, group.apply(&weight(1))) {
        (None, Err(ApplyError::Unsupported { resource, .. })) => {
            assert_eq!(resource, "io_weight");
            return println!("SKIPPED: this kernel has no queue with weights");
        }
        (known, applied) => {
            assert_eq!(known, Some(IoWeight::default()));
            applied.unwrap()
        }
    };
    for file in &applied {
        let text = std::fs::read_to_string(&file.actuator).unwrap();
        println!("{}: {text:?}", file.actuator.display());
        assert!(text == "1\n" || text == "default 1\n", "{text:?}");
    }
    assert_eq!(group.read_resources().unwrap().io_weight, Some(IoWeight::of(1)));
    // What would be refused later does not stay.
    let bad = Resources { cpuset_cpus: Some("8000".to_owned()), ..weight(5) };
    group.apply(&bad).unwrap_err();
    assert_eq!(group.read_resources().unwrap().io_weight, Some(IoWeight::of(1)));
    let restores = group.restores(&weight(100), &[&weight(1)]).unwrap();
    let written = restores.iter().filter(|one| one.run().unwrap() == Restored::Written).count();
    assert_eq!(written, applied.len());
    assert_eq!(group.read_resources().unwrap(), before);
}

#[test]
fn memory_above_high_is_reclaimed_and_nothing_is_killed() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("high");
    let high =
        |mib| Resources { memory_high_bytes: Some(Max::Value(mib * MIB)), ..Resources::default() };
    if parent.hybrid() {
        let refused = group.apply(&high(32));
        let unsupported = matches!(refused, Err(ApplyError::Unsupported { .. }));
        assert!(unsupported, "v1 has no such limit: {refused:?}");
        return;
    }
    group.apply(&high(32)).unwrap();
    // Without swap there is nothing to take: it waits more and more, and lives.
    let mut hog = Running::start(&group, "hold 40");
    let deadline = Instant::now() + Duration::from_secs(120);
    let events = || {
        let text = std::fs::read_to_string(group.unified_dir().join("memory.events")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("high ")?.parse::<u64>().ok());
        line.unwrap()
    };
    while events() == 0 {
        assert!(Instant::now() < deadline, "never above memory.high");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(hog.child.try_wait().unwrap().is_none(), "it was killed");
    let base = Resources { memory_high_bytes: Some(Max::Unlimited), ..Resources::default() };
    for restore in group.restores(&base, &[&high(32)]).unwrap() {
        assert_eq!(restore.run().unwrap(), Restored::Written);
    }
    assert_eq!(group.read_resources().unwrap().memory_high_bytes, Some(Max::Unlimited));
    assert_eq!(hog.says(), (40 * MIB / 4096).to_string());
    let memory = group.read_sample().unwrap().memory;
    assert_eq!((memory.oom_kills, memory.failcnt), (Some(0), Some(0)));
    assert_eq!((memory.over_high, memory.limit_hits()), (Some(events()), Some(events())));
}

#[test]
fn cgroups_rs_reads_the_same_values() {
    use cgroups_rs::fs::{Cgroup, cpu::CpuController, hierarchies};
    use cgroups_rs::fs::{MaxValue, memory::MemController, pid::PidController};
    let Some(parent) = Parent::new() else { return };
    if !parent.hybrid() {
        return println!("SKIPPED: cgroups-rs is the witness for v1");
    }
    let group = parent.group("witness");
    let wanted = Resources {
        cpu_weight: Some(50),
        pids_max: Some(Max::Value(33)),
        memory_max_bytes: Some(Max::Value(64 * MIB)),
        memory_swap_max_bytes: Some(Max::Value(96 * MIB)),
        ..cpu(Some(25_000))
    };
    let applied = group.apply(&wanted).unwrap();
    let witness = Cgroup::load(hierarchies::auto(), group.path());
    let cpu: &CpuController = witness.controller_of().unwrap();
    assert_eq!(cpu.cfs_quota().unwrap(), 25_000);
    assert_eq!(cpu.cfs_period().unwrap(), 100_000);
    assert_eq!(cpu.shares().unwrap(), 512);
    let memory: &MemController = witness.controller_of().unwrap();
    assert_eq!(memory.memory_stat().limit_in_bytes, 64 << 20);
    if !applied.iter().any(|a| a.skipped()) {
        assert_eq!(memory.memswap().limit_in_bytes, 96 << 20);
    }
    let pids: &PidController = witness.controller_of().unwrap();
    assert_eq!(pids.get_pid_max().unwrap(), MaxValue::Value(33));
    // And the other way round.
    pids.set_pid_max(MaxValue::Max).unwrap();
    cpu.set_cfs_quota(-1).unwrap();
    let found = group.read_resources().unwrap();
    assert_eq!(found.pids_max, Some(Max::Unlimited));
    assert_eq!(found.cpu, Some(CpuMax { quota_usec: None, period_usec: 100_000 }));
}
