//! `linux.resources` and `linux.cgroupsPath`, for `tenantry-cgroupfs`.
//!
//! Callers write zeros where they mean nothing; those are left alone. What is below zero
//! is no limit.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};
use tenantry_cgroupfs::{CpuMax, IoLimit, IoWeight, Max, Resources, weight_from_shares};

use crate::error::Error;

/// Of the groups whose place is ours to choose.
pub const OWN_PARENT: &str = "tenantry-runtime";

const DEFAULT_PERIOD_USEC: u64 = 100_000;

/// Below every hierarchy's root. Relative paths, and none, are below a parent of ours.
pub fn cgroup_path(path: Option<&Path>, id: &str) -> Result<String, Error> {
    let text = path.map(|path| path.to_str().unwrap_or("\0")).unwrap_or_default();
    if text.contains(".slice:") {
        return Err(Error::unsupported(
            format!("linux.cgroupsPath {text:?}"),
            "it is systemd's form; allowed is a path (cgroup manager cgroupfs)",
        ));
    }
    let path = match text.strip_prefix('/') {
        _ if text.is_empty() => format!("{OWN_PARENT}/{id}"),
        Some(absolute) => absolute.trim_end_matches('/').to_owned(),
        None => format!("{OWN_PARENT}/{}", text.trim_end_matches('/')),
    };
    let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.contains(['\0', '\n']);
    if !path.split('/').all(plain) {
        return Err(Error::invalid("linux.cgroupsPath", text, "a path without '.', '..', '//'"));
    }
    Ok(path)
}

pub fn translate(resources: &LinuxResources) -> Result<Resources, Error> {
    let mut wanted = Resources::default();
    if let Some(cpu) = resources.cpu() {
        take_cpu(&mut wanted, cpu)?;
    }
    if let Some(memory) = resources.memory() {
        take_memory(&mut wanted, memory)?;
    }
    if let Some(pids) = resources.pids() {
        wanted.pids_max = limit(Some(pids.limit()));
    }
    if let Some(io) = resources.block_io() {
        take_io(&mut wanted, io)?;
    }
    Ok(wanted)
}

/// 0 is nothing, below it is no limit.
fn limit(value: Option<i64>) -> Option<Max> {
    match value? {
        0 => None,
        value => Some(u64::try_from(value).map_or(Max::Unlimited, Max::Value)),
    }
}

fn refuse<T: PartialOrd + Default + ToString>(
    field: &str,
    value: Option<T>,
    why: &str,
) -> Result<(), Error> {
    match value {
        Some(value) if value > T::default() => {
            Err(Error::unsupported(format!("{field} ({})", value.to_string()), why))
        }
        _ => Ok(()),
    }
}

fn take_cpu(wanted: &mut Resources, cpu: &LinuxCpu) -> Result<(), Error> {
    refuse("linux.resources.cpu.burst", cpu.burst(), "quotas do not burst here")?;
    let why = "real-time scheduling is not limited here";
    refuse("linux.resources.cpu.realtimeRuntime", cpu.realtime_runtime(), why)?;
    refuse("linux.resources.cpu.realtimePeriod", cpu.realtime_period(), why)?;
    if let Some(mems) = cpu.mems().as_deref().filter(|mems| !mems.is_empty()) {
        let field = format!("linux.resources.cpu.mems ({mems})");
        return Err(Error::unsupported(field, "memory nodes are not chosen here"));
    }
    let period = cpu.period().filter(|period| *period > 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    if period.is_some() || quota.is_some() {
        wanted.cpu = Some(CpuMax {
            quota_usec: quota.and_then(|quota| u64::try_from(quota).ok()),
            period_usec: period.unwrap_or(DEFAULT_PERIOD_USEC),
        });
    }
    wanted.cpu_weight = cpu.shares().filter(|shares| *shares > 0).map(weight_from_shares);
    wanted.cpu_idle = match cpu.idle() {
        None => None,
        Some(0) => Some(false),
        Some(1) => Some(true),
        Some(other) => {
            return Err(Error::invalid("linux.resources.cpu.idle", other, "0, 1"));
        }
    };
    wanted.cpuset_cpus = cpu.cpus().clone().filter(|cpus| !cpus.is_empty());
    Ok(())
}

fn take_memory(wanted: &mut Resources, memory: &LinuxMemory) -> Result<(), Error> {
    if memory.disable_oom_killer().unwrap_or(false) {
        let field = "linux.resources.memory.disableOOMKiller";
        return Err(Error::unsupported(field, "what is out of memory is killed"));
    }
    // The kernel's default, and what callers write for "leave it".
    if let Some(swappiness) = memory.swappiness().filter(|value| *value != 60 && *value <= 200) {
        let field = format!("linux.resources.memory.swappiness ({swappiness})");
        return Err(Error::unsupported(field, "it is the host's"));
    }
    refuse("linux.resources.memory.reservation", memory.reservation(), "use memory.limit")?;
    refuse("linux.resources.memory.kernelTCP", memory.kernel_tcp(), "kernels dropped it")?;
    wanted.memory_max_bytes = limit(memory.limit());
    wanted.memory_swap_max_bytes = limit(memory.swap());
    Ok(())
}

fn take_io(wanted: &mut Resources, io: &LinuxBlockIo) -> Result<(), Error> {
    refuse("linux.resources.blockIO.leafWeight", io.leaf_weight(), "kernels dropped it")?;
    if io.weight_device().as_ref().is_some_and(|devices| !devices.is_empty()) {
        let field = "linux.resources.blockIO.weightDevice";
        return Err(Error::unsupported(field, "use blockIO.weight, which is for all devices"));
    }
    match io.weight().unwrap_or(0) {
        0 => {}
        weight @ 10..=1000 => wanted.io_weight = Some(IoWeight::of(u64::from(weight))),
        other => {
            return Err(Error::invalid("linux.resources.blockIO.weight", other, "0, 10 to 1000"));
        }
    }
    let lists = [
        io.throttle_read_bps_device(),
        io.throttle_write_bps_device(),
        io.throttle_read_iops_device(),
        io.throttle_write_iops_device(),
    ];
    for (kind, devices) in lists.into_iter().enumerate() {
        for device in devices.iter().flatten() {
            throttle(&mut wanted.io, kind, device)?;
        }
    }
    Ok(())
}

fn throttle(
    limits: &mut Vec<IoLimit>,
    kind: usize,
    device: &LinuxThrottleDevice,
) -> Result<(), Error> {
    let number = |number: i64| {
        let field = "linux.resources.blockIO.throttle*Device";
        u32::try_from(number).map_err(|_| Error::invalid(field, number, "a device's numbers"))
    };
    let (major, minor) = (number(device.major())?, number(device.minor())?);
    let known = limits.iter().position(|limit| (limit.major, limit.minor) == (major, minor));
    let mut values = known.map_or([None; 4], |at| limits[at].limits());
    // 0 takes a limit away, as the kernel's files have it.
    let rate = if device.rate() == 0 { Max::Unlimited } else { Max::Value(device.rate()) };
    values[kind] = Some(rate);
    let limit = IoLimit::with_limits(major, minor, values);
    match known {
        Some(at) => limits[at] = limit,
        None => limits.push(limit),
    }
    Ok(())
}
