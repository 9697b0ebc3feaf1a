//! Putting limits into force: look, plan, then write, read back, compare, or undo.
//!
//! Owns the execution; what to write and in which order is `plan`'s choice. The engine
//! calls it when a container starts and whenever an operator or the controller changes
//! a limit.

use std::path::Path;

use rustix::fs::stat;
use rustix::io::Errno;

use crate::error::{ApplyError, Error, NotRestored};
use crate::file::{Actuator, Buffer};
use crate::group::Group;
use crate::io_weight::{BFQ_FILE, BFQ_FILE_V1, COST_FILE};
use crate::layout::Layout;
use crate::parse;
use crate::plan::{Dirs, Now, Step, plan, weight_file};
use crate::types::{Applied, IoLimit, Max, Resources};
use crate::validate::{invalid, validate};

impl Dirs for Group {
    fn layout(&self) -> Layout {
        Group::layout(self)
    }

    fn dir(&self, controller: &str) -> Option<&Path> {
        Group::dir(self, controller)
    }
}

impl Group {
    /// Puts `wanted` into force; what it leaves out stays. Everything is checked before
    /// the first write, each write is read back and compared, and a failure puts back
    /// what was written, in reverse order.
    ///
    /// Returns one entry per file, in the order written. Without swap accounting the swap
    /// half of a memory limit is left out and its entry says so ([`Applied::skipped`]).
    ///
    /// # Errors
    /// See [`ApplyError`]: `Invalid` and `MemoryBelowUse` are the caller's to change,
    /// `Unsupported` is this kernel's, the rest are surprises.
    pub fn apply(&self, wanted: &Resources) -> Result<Vec<Applied>, ApplyError> {
        self.check_path("limit")?;
        validate(wanted)?;
        let now = self.look(wanted)?;
        let plan = plan(self, wanted, now)?;
        let mut applied = execute(&plan.steps)?;
        applied.extend(plan.skipped);
        Ok(applied)
    }

    /// Reads what the plan depends on, and refuses what the kernel would refuse too late
    /// or not at all.
    fn look(&self, wanted: &Resources) -> Result<Now, ApplyError> {
        let mut now = Now::default();
        let buffer = &mut Buffer::new();
        let v1 = self.layout() == Layout::Hybrid;
        if wanted.cpu.is_some()
            && v1
            && let Some(dir) = self.dir("cpu")
        {
            let path = dir.join("cpu.cfs_period_us");
            now.cpu_period_usec = present(&path, "cpu", buffer)?.and_then(parse::number);
        }
        if (wanted.cpu_idle.is_some() || wanted.cpu_weight.is_some())
            && let Some(dir) = self.dir("cpu")
        {
            let idle = buffer.read_if_there(&dir.join("cpu.idle"))?;
            now.cpu_idle = idle.and_then(parse::number).map(|idle| idle == 1);
            if wanted.cpu_idle == Some(true) {
                let path = dir.join(weight_file(self.layout()));
                now.cpu_weight = buffer.read_if_there(&path)?.and_then(parse::number);
            }
        }
        if wanted.memory_max_bytes.is_some() || wanted.memory_swap_max_bytes.is_some() {
            self.look_at_memory(wanted, v1, &mut now, buffer)?;
        }
        if wanted.io_weight.is_some()
            && let Some(dir) = self.dir(if v1 { "blkio" } else { "io" })
        {
            let mut lacks = |name| Ok::<_, Error>(buffer.read_if_there(&dir.join(name))?.is_none());
            now.lacks_cost_weight = v1 || lacks(COST_FILE)?;
            now.lacks_bfq_weight = lacks(if v1 { BFQ_FILE_V1 } else { BFQ_FILE })?;
        }
        for limit in &wanted.io {
            self.check_device(limit)?;
        }
        Ok(now)
    }

    fn look_at_memory(
        &self,
        wanted: &Resources,
        v1: bool,
        now: &mut Now,
        buffer: &mut Buffer,
    ) -> Result<(), ApplyError> {
        let Some(dir) = self.dir("memory") else { return Ok(()) };
        let [limit, swap, usage] = if v1 {
            ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes"]
        } else {
            ["memory.max", "memory.swap.max", "memory.current"]
        };
        let page_size = rustix::param::page_size() as u64;
        let bytes =
            |text: &str| if v1 { parse::bytes_v1(text, page_size) } else { parse::max(text) };
        now.swap = buffer.read_if_there(&dir.join(swap))?.and_then(bytes);
        match wanted.memory_max_bytes {
            None => {
                let text = present(&dir.join(limit), "memory_swap_max_bytes", buffer)?;
                now.memory_max = text.and_then(bytes);
            }
            Some(Max::Unlimited) => {}
            Some(Max::Value(wanted_bytes)) => {
                let usage = present(&dir.join(usage), "memory_max_bytes", buffer)?;
                let usage = usage.and_then(parse::number).unwrap_or(0);
                // The detailed numbers cost more and are rarely needed.
                if usage > wanted_bytes {
                    let used_bytes = working_set(dir, usage, v1, buffer)?;
                    if used_bytes > wanted_bytes {
                        return Err(ApplyError::MemoryBelowUse { wanted_bytes, used_bytes });
                    }
                }
            }
        }
        Ok(())
    }

    /// The kernel's own answer would be a bare `ENODEV`.
    fn check_device(&self, limit: &IoLimit) -> Result<(), ApplyError> {
        let device = format!("{}:{}", limit.major, limit.minor);
        let entry = self.sys_dev_block().join(&device);
        if stat(&entry).is_err() {
            return Err(invalid("io", device, "the number of a block device of this host"));
        }
        if stat(entry.join("partition")).is_ok() {
            let allowed = "a whole disk: the kernel does not limit partitions";
            return Err(invalid("io", device, allowed));
        }
        Ok(())
    }
}

fn working_set(dir: &Path, usage: u64, v1: bool, buffer: &mut Buffer) -> Result<u64, ApplyError> {
    let text = buffer.read(&dir.join("memory.stat"))?;
    let stat = if v1 { parse::memory_stat_v1(text).0 } else { parse::memory_stat(text) };
    Ok(usage.saturating_sub(stat.inactive_file_bytes.unwrap_or(0)))
}

/// A file that is not there means a missing actuator, unless the whole group is not there.
fn present<'b>(
    path: &Path,
    resource: &'static str,
    buffer: &'b mut Buffer,
) -> Result<Option<&'b str>, ApplyError> {
    match buffer.read_if_there(path)? {
        Some(text) => Ok(Some(text)),
        None => Err(missing(path, resource)),
    }
}

fn missing(path: &Path, resource: &str) -> ApplyError {
    match path.parent().filter(|dir| stat(*dir).is_ok()) {
        Some(_) => ApplyError::Unsupported {
            resource: resource.to_owned(),
            why: format!(
                "{} is not there: the kernel lacks it, or the controller is not enabled",
                path.display()
            ),
        },
        None => Error::io("open", path, Errno::NOENT).into(),
    }
}

/// A step that took effect, with what undoes it.
struct Done<'s> {
    step: &'s Step,
    actuator: Actuator,
    undo: String,
}

/// Writes step by step; returns with all of them in force, or (but for what the error
/// lists) none.
pub(crate) fn execute(steps: &[Step]) -> Result<Vec<Applied>, ApplyError> {
    let mut done = Vec::with_capacity(steps.len());
    let mut applied = Vec::with_capacity(steps.len());
    for step in steps {
        if let Err(failure) = execute_one(step, &mut done, &mut applied) {
            return Err(failure.into_error(step, restore(done)));
        }
    }
    Ok(applied)
}

enum Failure {
    Open(Errno),
    Write(Errno),
    ReadBack(String),
}

fn execute_one<'s>(
    step: &'s Step,
    done: &mut Vec<Done<'s>>,
    applied: &mut Vec<Applied>,
) -> Result<(), Failure> {
    let actuator = Actuator::open(&step.path).map_err(Failure::Open)?;
    let before = actuator.read().map_err(Failure::Open)?;
    let value = step.setting.render();
    actuator.write(&value).map_err(Failure::Write)?;
    let after = actuator.read();
    // Written is written: what follows may fail, and this step is undone then too.
    done.push(Done { step, actuator, undo: step.setting.undo(&before) });
    let after = after.map_err(Failure::Write)?;
    let read_back = step.setting.excerpt(&after);
    if !step.setting.is_in(&after, rustix::param::page_size() as u64) {
        return Err(Failure::ReadBack(read_back));
    }
    applied.push(Applied {
        resource: step.resource.to_owned(),
        actuator: step.path.clone(),
        written: value,
        read_back,
    });
    Ok(())
}

fn restore(done: Vec<Done<'_>>) -> Vec<NotRestored> {
    let undone = done.into_iter().rev().filter_map(|Done { step, actuator, undo }| {
        let errno = actuator.write(&undo).err()?.raw_os_error();
        Some(NotRestored { path: step.path.clone(), value: undo, errno })
    });
    undone.collect()
}

impl Failure {
    fn into_error(self, step: &Step, not_restored: Vec<NotRestored>) -> ApplyError {
        let (resource, path) = (step.resource.to_owned(), step.path.clone());
        let value = step.setting.render();
        match self {
            Failure::Open(Errno::NOENT) if not_restored.is_empty() => missing(&path, step.resource),
            Failure::Write(Errno::OPNOTSUPP) if not_restored.is_empty() => {
                let why = format!("{} does not take {value:?} on this kernel", path.display());
                ApplyError::Unsupported { resource, why }
            }
            Failure::Open(errno) | Failure::Write(errno) => {
                ApplyError::Write { resource, path, value, source: errno.into(), not_restored }
            }
            Failure::ReadBack(read_back) => {
                ApplyError::ReadBack { resource, path, value, read_back, not_restored }
            }
        }
    }
}
