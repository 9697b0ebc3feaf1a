//! From a wish to writes: which files, which texts, in which order.
//!
//! Owns that choice, purely: what it must know of the present comes in as [`Now`].
//! `apply` looks, calls it and executes the steps.

use std::path::{Path, PathBuf};

use crate::error::ApplyError;
use crate::io_weight::{BFQ_FILE, BFQ_FILE_V1, COST_FILE, bfq_from_weight};
use crate::layout::Layout;
use crate::setting::{CpuList, Setting};
use crate::types::{Applied, CpuMax, IoLimit, Max, Resources, shares_from_weight};
use crate::validate::invalid;

/// One write. Steps are undone in reverse order, and each order here is as right
/// backwards as forwards.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Step {
    pub(crate) resource: &'static str,
    pub(crate) path: PathBuf,
    pub(crate) setting: Setting,
}

/// What a plan depends on, read only where the wish makes it matter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// v1, with a wish for CPU.
    pub(crate) cpu_period_usec: Option<u64>,
    /// With a wish for idle or a weight. `None` if the kernel knows no idle groups.
    pub(crate) cpu_idle: Option<bool>,
    /// With a wish to be idle: the number in the weight's file.
    pub(crate) cpu_weight: Option<u64>,
    /// With a wish for swap but none for memory.
    pub(crate) memory_max: Option<Max>,
    /// v1 memsw limit or v2 swap limit, with a wish for either. `None` if the kernel does
    /// not account swap.
    pub(crate) swap: Option<Max>,
    /// With a wish for a weight in disk queues: which of its files are not there.
    pub(crate) lacks_cost_weight: bool,
    pub(crate) lacks_bfq_weight: bool,
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan {
    pub(crate) steps: Vec<Step>,
    pub(crate) skipped: Vec<Applied>,
}

/// Where each controller's files are.
pub(crate) trait Dirs {
    fn layout(&self) -> Layout;
    fn dir(&self, controller: &str) -> Option<&Path>;
}

/// The steps for a valid wish: what is most likely to be refused comes last, so that
/// little has to be undone.
///
/// # Errors
/// [`ApplyError::Unsupported`] where v1 has no such hierarchy, [`ApplyError::Invalid`]
/// where swap and memory contradict each other.
pub(crate) fn plan(dirs: &dyn Dirs, wanted: &Resources, now: Now) -> Result<Plan, ApplyError> {
    let mut plan = Plan::default();
    let v1 = dirs.layout() == Layout::Hybrid;
    if let Some(max) = wanted.pids_max {
        plan.add("pids_max", file(dirs, "pids_max", "pids", "pids.max")?, Setting::Count(max));
    }
    plan_cpu_share(&mut plan, dirs, wanted, now)?;
    match wanted.cpu {
        Some(cpu) if v1 => plan_cpu_v1(&mut plan, dirs, cpu, now)?,
        Some(cpu) => {
            plan.add("cpu", file(dirs, "cpu", "cpu", "cpu.max")?, Setting::CpuMax(cpu));
        }
        None => {}
    }
    plan_memory_high(&mut plan, dirs, wanted)?;
    plan_memory_low(&mut plan, dirs, wanted)?;
    plan_oom_control(&mut plan, dirs, wanted)?;
    if v1 {
        plan_memory_v1(&mut plan, dirs, wanted, now)?;
    } else {
        plan_memory_v2(&mut plan, dirs, wanted, now)?;
    }
    plan_io_weight(&mut plan, dirs, wanted, now)?;
    for limit in &wanted.io {
        if v1 {
            plan_io_v1(&mut plan, dirs, limit)?;
        } else if limit.limits().iter().any(Option::is_some) {
            plan.add("io", file(dirs, "io", "io", "io.max")?, Setting::IoMax(limit.clone()));
        }
    }
    if let Some(list) = wanted.cpuset_cpus.as_deref().and_then(CpuList::parse) {
        let path = file(dirs, "cpuset_cpus", "cpuset", "cpuset.cpus")?;
        plan.add("cpuset_cpus", path, Setting::Cpus(list));
    }
    Ok(plan)
}

impl Plan {
    fn add(&mut self, resource: &'static str, path: PathBuf, setting: Setting) {
        self.steps.push(Step { resource, path, setting });
    }

    fn skip_swap(&mut self, path: PathBuf) {
        self.skipped.push(Applied {
            resource: "memory_swap_max_bytes".to_owned(),
            actuator: path,
            written: String::new(),
            read_back: "skipped: this kernel does not account swap (CONFIG_SWAP, swapaccount=1)"
                .to_owned(),
        });
    }
}

/// The kernel takes no weight for an idle group, and one that ceases to be idle has the default
/// weight, whatever it had before. So what becomes idle has its weight written first, maybe as
/// it is: undone in reverse, it gets that weight back.
fn plan_cpu_share(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
    now: Now,
) -> Result<(), ApplyError> {
    let is_idle = now.cpu_idle == Some(true);
    let weight = wanted.cpu_weight.map(|weight| weight_number(dirs.layout(), weight));
    if let (Some(weight), None, true) = (wanted.cpu_weight, wanted.cpu_idle, is_idle) {
        let allowed = "nothing while the group is idle, unless with cpu_idle = false";
        return Err(invalid("cpu_weight", weight, allowed));
    }
    let idle = |idle| {
        let path = file(dirs, "cpu_idle", "cpu", "cpu.idle")?;
        Ok::<_, ApplyError>(("cpu_idle", path, Setting::Number(idle)))
    };
    let weight_step = |weight| {
        let path = file(dirs, "cpu_weight", "cpu", weight_file(dirs.layout()))?;
        Ok::<_, ApplyError>(("cpu_weight", path, Setting::Number(weight)))
    };
    let mut steps = Vec::with_capacity(2);
    match wanted.cpu_idle {
        Some(true) if is_idle => steps.push(idle(1)?),
        Some(true) => {
            steps.extend(weight.or(now.cpu_weight).map(weight_step).transpose()?);
            steps.push(idle(1)?);
        }
        Some(false) => {
            steps.push(idle(0)?);
            steps.extend(weight.map(weight_step).transpose()?);
        }
        None => steps.extend(weight.map(weight_step).transpose()?),
    }
    for (resource, path, setting) in steps {
        plan.add(resource, path, setting);
    }
    Ok(())
}

pub(crate) fn weight_file(layout: Layout) -> &'static str {
    match layout {
        Layout::Hybrid => "cpu.shares",
        Layout::Unified => "cpu.weight",
    }
}

/// A weight as its file has it.
pub(crate) fn weight_number(layout: Layout, weight: u64) -> u64 {
    match layout {
        Layout::Hybrid => shares_from_weight(weight),
        Layout::Unified => weight,
    }
}

/// The quota's file and the period's are two: between the writes the group must never
/// have more than both the old and the new limit give.
fn plan_cpu_v1(plan: &mut Plan, dirs: &dyn Dirs, cpu: CpuMax, now: Now) -> Result<(), ApplyError> {
    let quota = file(dirs, "cpu", "cpu", "cpu.cfs_quota_us")?;
    let period = file(dirs, "cpu", "cpu", "cpu.cfs_period_us")?;
    let quota_setting = Setting::QuotaV1(cpu.quota_usec);
    let period_setting = Setting::Number(cpu.period_usec);
    match now.cpu_period_usec {
        Some(old) if old == cpu.period_usec => plan.add("cpu", quota, quota_setting),
        Some(old) if old > cpu.period_usec => {
            plan.add("cpu", quota, quota_setting);
            plan.add("cpu", period, period_setting);
        }
        _ => {
            plan.add("cpu", period, period_setting);
            plan.add("cpu", quota, quota_setting);
        }
    }
    Ok(())
}

/// v1 has nothing that bites: its soft limit is looked at when the whole host runs out of
/// memory, and never when the group or one above it does.
fn plan_memory_high(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
) -> Result<(), ApplyError> {
    let Some(max) = wanted.memory_high_bytes else { return Ok(()) };
    if dirs.layout() == Layout::Hybrid {
        let why = "cgroup v1 has no memory.high, and its soft limit is kept only while the \
                   whole host is out of memory";
        let resource = "memory_high_bytes".to_owned();
        return Err(ApplyError::Unsupported { resource, why: why.to_owned() });
    }
    let path = file(dirs, "memory_high_bytes", "memory", "memory.high")?;
    plan.add("memory_high_bytes", path, Setting::Bytes(max));
    Ok(())
}

fn plan_memory_low(plan: &mut Plan, dirs: &dyn Dirs, wanted: &Resources) -> Result<(), ApplyError> {
    let Some(bytes) = wanted.memory_low_bytes else { return Ok(()) };
    let (name, setting) = match dirs.layout() {
        Layout::Unified => ("memory.low", Setting::Bytes(Max::Value(bytes))),
        // There a limit of nothing would be the tightest one.
        Layout::Hybrid if bytes == 0 => {
            ("memory.soft_limit_in_bytes", Setting::BytesV1(Max::Unlimited))
        }
        Layout::Hybrid => ("memory.soft_limit_in_bytes", Setting::BytesV1(Max::Value(bytes))),
    };
    plan.add("memory_low_bytes", file(dirs, "memory_low_bytes", "memory", name)?, setting);
    Ok(())
}

fn plan_oom_control(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
) -> Result<(), ApplyError> {
    let Some(disabled) = wanted.oom_kill_disable else { return Ok(()) };
    if dirs.layout() == Layout::Unified {
        let resource = "oom_kill_disable".to_owned();
        let why = "cgroup v2 has no means to keep the kernel from killing".to_owned();
        return Err(ApplyError::Unsupported { resource, why });
    }
    let path = file(dirs, "oom_kill_disable", "memory", "memory.oom_control")?;
    plan.add("oom_kill_disable", path, Setting::OomControlV1(disabled));
    Ok(())
}

/// v1's memsw limit is for memory and swap together and must never be below the memory
/// limit: raised before it, lowered after it.
fn plan_memory_v1(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
    now: Now,
) -> Result<(), ApplyError> {
    let Some((memory, total)) = memory_and_total(wanted, now)? else { return Ok(()) };
    let limit = file(dirs, "memory_max_bytes", "memory", "memory.limit_in_bytes")?;
    let memsw = file(dirs, "memory_swap_max_bytes", "memory", "memory.memsw.limit_in_bytes")?;
    let memory = memory.map(|max| Step {
        resource: "memory_max_bytes",
        path: limit,
        setting: Setting::BytesV1(max),
    });
    let Some(old_total) = now.swap else {
        plan.steps.extend(memory);
        plan.skip_swap(memsw);
        return Ok(());
    };
    let total_step =
        Step { resource: "memory_swap_max_bytes", path: memsw, setting: Setting::BytesV1(total) };
    if bytes(total) >= bytes(old_total) {
        plan.steps.push(total_step);
        plan.steps.extend(memory);
    } else {
        plan.steps.extend(memory);
        plan.steps.push(total_step);
    }
    Ok(())
}

/// v2's swap limit is for swap alone. It comes first, so that memory given up to a lower
/// memory limit does not go where it may not be.
fn plan_memory_v2(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
    now: Now,
) -> Result<(), ApplyError> {
    let Some((memory, total)) = memory_and_total(wanted, now)? else { return Ok(()) };
    let path = file(dirs, "memory_swap_max_bytes", "memory", "memory.swap.max")?;
    let base = memory.or(now.memory_max).unwrap_or(Max::Unlimited);
    let swap = match (total, base) {
        (Max::Value(total), Max::Value(base)) => Max::Value(total.saturating_sub(base)),
        _ => Max::Unlimited,
    };
    if now.swap.is_some() {
        plan.add("memory_swap_max_bytes", path, Setting::Bytes(swap));
    } else {
        plan.skip_swap(path);
    }
    if let Some(max) = memory {
        let path = file(dirs, "memory_max_bytes", "memory", "memory.max")?;
        plan.add("memory_max_bytes", path, Setting::Bytes(max));
    }
    Ok(())
}

/// The memory limit to write, if any, and the limit for memory and swap together, which
/// without a wish is the same: no swap beyond. `None` without a wish for either.
fn memory_and_total(
    wanted: &Resources,
    now: Now,
) -> Result<Option<(Option<Max>, Max)>, ApplyError> {
    let (memory, total) = match (wanted.memory_max_bytes, wanted.memory_swap_max_bytes) {
        (None, None) => return Ok(None),
        (Some(memory), total) => (Some(memory), total.unwrap_or(memory)),
        (None, Some(total)) => (None, total),
    };
    let base = memory.or(now.memory_max).unwrap_or(Max::Unlimited);
    if bytes(total) < bytes(base) {
        let allowed = match base {
            Max::Unlimited => "a memory limit (memory_max_bytes) with it, or max".to_owned(),
            Max::Value(base) => format!("memory and swap together, so at least {base}, or max"),
        };
        return Err(invalid("memory_swap_max_bytes", total, allowed));
    }
    Ok(Some((memory, total)))
}

fn bytes(max: Max) -> u64 {
    max.value().unwrap_or(u64::MAX)
}

pub(crate) const THROTTLE_FILES: [&str; 4] = [
    "blkio.throttle.read_bps_device",
    "blkio.throttle.write_bps_device",
    "blkio.throttle.read_iops_device",
    "blkio.throttle.write_iops_device",
];

/// Each file that is there: which of them a disk heeds is a matter of its queue, which may
/// become another one meanwhile.
fn plan_io_weight(
    plan: &mut Plan,
    dirs: &dyn Dirs,
    wanted: &Resources,
    now: Now,
) -> Result<(), ApplyError> {
    let Some(weight) = wanted.io_weight else { return Ok(()) };
    let bfq = bfq_from_weight(weight.bfq);
    let v1 = dirs.layout() == Layout::Hybrid;
    let known = plan.steps.len();
    if v1 && !now.lacks_bfq_weight {
        let path = file(dirs, "io_weight", "blkio", BFQ_FILE_V1)?;
        plan.add("io_weight", path, Setting::Number(bfq));
    }
    if !v1 && !now.lacks_cost_weight {
        let path = file(dirs, "io_weight", "io", COST_FILE)?;
        plan.add("io_weight", path, Setting::DefaultWeight(weight.cost));
    }
    if !v1 && !now.lacks_bfq_weight {
        let path = file(dirs, "io_weight", "io", BFQ_FILE)?;
        plan.add("io_weight", path, Setting::DefaultWeight(bfq));
    }
    if plan.steps.len() > known {
        return Ok(());
    }
    let files = if v1 { BFQ_FILE_V1.to_owned() } else { format!("{COST_FILE} or {BFQ_FILE}") };
    Err(ApplyError::Unsupported {
        resource: "io_weight".to_owned(),
        why: format!("the group has no {files}: this kernel has no disk queue with weights"),
    })
}

fn plan_io_v1(plan: &mut Plan, dirs: &dyn Dirs, limit: &IoLimit) -> Result<(), ApplyError> {
    let IoLimit { major, minor, .. } = *limit;
    for (name, rate) in THROTTLE_FILES.iter().zip(limit.limits()) {
        if let Some(rate) = rate {
            let path = file(dirs, "io", "blkio", name)?;
            plan.add("io", path, Setting::ThrottleV1 { major, minor, rate });
        }
    }
    Ok(())
}

fn file(
    dirs: &dyn Dirs,
    resource: &'static str,
    controller: &str,
    name: &str,
) -> Result<PathBuf, ApplyError> {
    dirs.dir(controller).map(|dir| dir.join(name)).ok_or_else(|| ApplyError::Unsupported {
        resource: resource.to_owned(),
        why: format!("this host has no v1 {controller} hierarchy"),
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
