//! Reading a group: its counters as a [`Sample`], its limits as [`Resources`].
//!
//! Owns which file has which number under which layout; the formats are `parse`'s.
//! One buffer serves all files, each directory's path is walked once, and a [`Sampler`]
//! keeps what it opened: opening a file below a cgroup mount costs more than its text.

use std::cell::RefCell;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, fstat, open};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use crate::error::Error;
use crate::file::{Buffer, is_absence, open_at};
use crate::group::Group;
use crate::io_weight::{BFQ_FILE, BFQ_FILE_V1, COST_FILE, IoWeight, parse_default};
use crate::layout::Layout;
use crate::parse;
use crate::sample::{
    CpuSample, IoSample, MemorySample, PidsSample, Pressure, Sample, Stall, Strain,
};
use crate::setting::{parse_cpu_max, parse_io_max, parse_throttle_v1};
use crate::types::{CpuMax, IoLimit, Max, Resources, shares_from_weight, weight_from_shares};

/// Memory that reads can share: keep one per sampling thread.
#[derive(Debug)]
pub struct ReadBuffer(Buffer);

impl Default for ReadBuffer {
    fn default() -> ReadBuffer {
        ReadBuffer(Buffer::new())
    }
}

/// A group's directory in one hierarchy, opened: the kernel takes a lock for every
/// component of a path below a cgroup mount, which costs more than most files' text.
#[derive(Debug)]
struct Opened {
    path: PathBuf,
    fd: OwnedFd,
    /// Files that stay open, if any may.
    held: Option<RefCell<Vec<(&'static str, OwnedFd)>>>,
}

impl Opened {
    fn new(path: &Path, hold: bool) -> Result<Opened, Error> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Opened { path: path.into(), fd, held: hold.then(RefCell::default) }),
            Err(errno) => Err(Error::io("open", path, errno)),
        }
    }

    fn read<'b>(&self, buffer: &'b mut Buffer, name: &'static str) -> Result<&'b str, Errno> {
        self.with(name, buffer, |buffer, file| buffer.read_from(file))
    }

    /// Hands the file on, and keeps it open if that is this directory's way.
    fn with<'b, T>(
        &self,
        name: &'static str,
        buffer: &'b mut Buffer,
        read: impl FnOnce(&'b mut Buffer, &OwnedFd) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let Some(held) = &self.held else {
            return read(buffer, &open_at(self.fd.as_fd(), name)?);
        };
        let mut held = held.borrow_mut();
        let index = match held.iter().position(|(known, _)| *known == name) {
            Some(index) => index,
            None => {
                // A file that is not there is looked for again: a controller may come.
                held.push((name, open_at(self.fd.as_fd(), name)?));
                held.len() - 1
            }
        };
        read(buffer, &held[index].1)
    }
}

/// The directories that hold a group's numbers; `None` where the layout has no such
/// hierarchy, or the group no cgroup there: services have one for those controllers alone
/// that somebody asked for.
#[derive(Debug)]
struct Dirs {
    unified: Opened,
    cpu: Option<Opened>,
    cpuacct: Option<Opened>,
    memory: Option<Opened>,
    blkio: Option<Opened>,
    pids: Option<Opened>,
}

impl Dirs {
    fn open(group: &Group, hold: bool) -> Result<Dirs, Error> {
        let v1 = |controller| match group.layout() {
            Layout::Unified => Ok(None),
            Layout::Hybrid => {
                match group.dir(controller).map(|dir| Opened::new(dir, hold)).transpose() {
                    Err(error) if error.is_gone() => Ok(None),
                    other => other,
                }
            }
        };
        Ok(Dirs {
            unified: Opened::new(group.unified_dir(), hold)?,
            cpu: v1("cpu")?,
            cpuacct: v1("cpuacct")?,
            memory: v1("memory")?,
            blkio: v1("blkio")?,
            pids: v1("pids")?,
        })
    }
}

/// One group, with the files that hold its numbers open: for whoever reads it again and
/// again. Takes at most [`Sampler::MAX_FILES`] descriptors.
#[derive(Debug)]
pub struct Sampler {
    group: Group,
    dirs: Dirs,
}

impl Sampler {
    /// Six directories, and the files of the layout that has more of them.
    pub const MAX_FILES: usize = 32;

    /// # Errors
    /// [`Error::is_gone`] if there is no such group.
    pub fn open(group: &Group) -> Result<Sampler, Error> {
        Ok(Sampler { group: group.clone(), dirs: Dirs::open(group, true)? })
    }

    /// Whether the group has a cgroup for each kind of number. One that has not may get
    /// them later, and then needs another sampler to be seen in them.
    pub fn is_whole(&self) -> bool {
        let Dirs { unified: _, cpu, cpuacct, memory, blkio, pids } = &self.dirs;
        let v1 = [cpu, cpuacct, memory, blkio, pids];
        self.group.layout() == Layout::Unified || v1.iter().all(|dir| dir.is_some())
    }

    /// All counters now.
    ///
    /// # Errors
    /// [`Error::is_gone`] if the group was removed: another one at the same path needs
    /// another sampler.
    pub fn read(&self, buffer: &mut ReadBuffer) -> Result<Sample, Error> {
        self.dirs.sample(self.group.layout(), buffer)
    }

    /// A part of it, with half of the files.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_strain(&self, buffer: &mut ReadBuffer) -> Result<Strain, Error> {
        self.dirs.strain(self.group.layout(), buffer)
    }

    /// Processes in the group and in those nested in it.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn count_processes(&self, buffer: &mut ReadBuffer) -> Result<u64, Error> {
        let dir = &self.dirs.unified;
        let failed = |name: &str, errno| Error::io("read", &dir.path.join(name), errno);
        let stat = dir.read(&mut buffer.0, "cgroup.stat").map_err(|e| failed("cgroup.stat", e))?;
        if parse::keyed(stat, "nr_descendants") != Some(0) {
            return Ok(self.group.pids()?.len() as u64);
        }
        dir.with("cgroup.procs", &mut buffer.0, Buffer::count_lines)
            .map_err(|errno| failed("cgroup.procs", errno))
    }
}

/// `None` if the layout has no such hierarchy.
type Dir<'a> = Option<&'a Opened>;

impl ReadBuffer {
    /// The text of a file; `None` if this kernel or hierarchy has no such file.
    fn text(&mut self, dir: Dir<'_>, name: &'static str) -> Result<Option<&str>, Error> {
        let Some(dir) = dir else { return Ok(None) };
        match dir.read(&mut self.0, name) {
            Ok(text) => Ok(Some(text)),
            Err(errno) if is_absence(errno) => Ok(None),
            Err(errno) => Err(Error::io("read", &dir.path.join(name), errno)),
        }
    }

    /// The same, parsed. A text in an unknown format is an error, not a missing number.
    fn value<T>(
        &mut self,
        dir: Dir<'_>,
        name: &'static str,
        what: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let (Some(text), Some(dir)) = (self.text(dir, name)?, dir) else { return Ok(None) };
        match parse(text) {
            Some(value) => Ok(Some(value)),
            None => {
                let text = text.chars().take(200).collect();
                Err(Error::Parse { path: dir.path.join(name), what, text })
            }
        }
    }

    fn number(&mut self, dir: Dir<'_>, name: &'static str) -> Result<Option<u64>, Error> {
        self.value(dir, name, "no number", parse::number)
    }

    fn max(&mut self, dir: Dir<'_>, name: &'static str) -> Result<Option<Max>, Error> {
        self.value(dir, name, "neither max nor a number", parse::max)
    }

    fn bytes_v1(&mut self, dir: Dir<'_>, name: &'static str) -> Result<Option<Max>, Error> {
        let page_size = rustix::param::page_size() as u64;
        self.value(dir, name, "no number", |text| parse::bytes_v1(text, page_size))
    }

    fn keyed(&mut self, dir: Dir<'_>, name: &'static str, key: &str) -> Result<Option<u64>, Error> {
        Ok(self.text(dir, name)?.and_then(|text| parse::keyed(text, key)))
    }

    fn stall(&mut self, dir: Dir<'_>, name: &'static str) -> Result<Option<Stall>, Error> {
        self.value(dir, name, "no pressure", parse::pressure)
    }
}

impl Group {
    /// All counters now. For one reading; who reads again and again keeps a [`Sampler`].
    ///
    /// # Errors
    /// [`Error::is_gone`] if the group was removed, also while it was being read.
    pub fn read_sample(&self) -> Result<Sample, Error> {
        self.read_sample_with(&mut ReadBuffer::default())
    }

    /// As [`read_sample`](Self::read_sample), with memory that is there already.
    pub fn read_sample_with(&self, buffer: &mut ReadBuffer) -> Result<Sample, Error> {
        Dirs::open(self, false)?.sample(self.layout(), buffer)
    }

    /// `None` without such a hierarchy, or where the group is not in it: another runtime's
    /// need not be in all.
    fn opened(&self, controller: &str) -> Result<Option<Opened>, Error> {
        match self.dir(controller).map(|dir| Opened::new(dir, false)).transpose() {
            Err(error) if error.is_gone() => Ok(None),
            opened => opened,
        }
    }

    /// The limits in force, in the form that [`Group::apply`] takes back. `None` where
    /// there is no such file, or where a v2 group has no CPU set of its own.
    pub fn read_resources(&self) -> Result<Resources, Error> {
        let buffer = &mut ReadBuffer::default();
        let (cpu, memory) = (self.opened("cpu")?, self.opened("memory")?);
        let (cpu, memory) = (cpu.as_ref(), memory.as_ref());
        let (blkio, pids, cpuset) =
            (self.opened("blkio")?, self.opened("pids")?, self.opened("cpuset")?);
        if [cpu, memory, blkio.as_ref(), pids.as_ref(), cpuset.as_ref()].iter().all(Option::is_none)
        {
            let gone = self.dir("cpu").unwrap_or(self.unified_dir());
            return Err(Error::io("open", gone, Errno::NOENT));
        }
        let list = buffer.text(cpuset.as_ref(), "cpuset.cpus")?.map(str::trim_end);
        let cpuset_cpus = list.filter(|list| !list.is_empty()).map(str::to_owned);
        let pids_max = buffer.max(pids.as_ref(), "pids.max")?;
        let cpu_idle = buffer.number(cpu, "cpu.idle")?.map(|idle| idle == 1);
        let resources = Resources { cpuset_cpus, pids_max, cpu_idle, ..Resources::default() };
        // What the file of an idle group says is no weight that it would take back.
        let is_idle = cpu_idle == Some(true);
        Ok(match self.layout() {
            Layout::Unified => {
                let memory_max_bytes = buffer.max(memory, "memory.max")?;
                let swap = buffer.max(memory, "memory.swap.max")?;
                let io = buffer.value(memory, "io.max", "no limits", parse_io_max)?;
                Resources {
                    cpu: buffer.value(cpu, "cpu.max", "no quota and period", parse_cpu_max)?,
                    cpu_weight: buffer.number(cpu, "cpu.weight")?.filter(|_| !is_idle),
                    memory_max_bytes,
                    memory_swap_max_bytes: total(memory_max_bytes, swap),
                    memory_high_bytes: buffer.max(memory, "memory.high")?,
                    io_weight: IoWeight::of_files(
                        buffer.value(memory, COST_FILE, "no weight", parse_default)?,
                        buffer.value(memory, BFQ_FILE, "no weight", parse_default)?,
                    ),
                    io: io.unwrap_or_default(),
                    ..resources
                }
            }
            Layout::Hybrid => {
                let quota = buffer.value(cpu, "cpu.cfs_quota_us", "no quota", parse::quota_v1)?;
                let period = buffer.number(cpu, "cpu.cfs_period_us")?;
                let quota_and_period = quota.zip(period);
                Resources {
                    cpu: quota_and_period
                        .map(|(quota_usec, period_usec)| CpuMax { quota_usec, period_usec }),
                    cpu_weight: buffer
                        .number(cpu, "cpu.shares")?
                        .filter(|_| !is_idle)
                        .map(weight_from_shares),
                    memory_max_bytes: buffer.bytes_v1(memory, "memory.limit_in_bytes")?,
                    memory_swap_max_bytes: buffer
                        .bytes_v1(memory, "memory.memsw.limit_in_bytes")?,
                    io_weight: IoWeight::of_files(
                        None,
                        buffer.value(blkio.as_ref(), BFQ_FILE_V1, "no weight", parse_default)?,
                    ),
                    io: read_throttles_v1(buffer, blkio.as_ref())?,
                    ..resources
                }
            }
        })
    }
}

impl Dirs {
    fn sample(&self, layout: Layout, buffer: &mut ReadBuffer) -> Result<Sample, Error> {
        let unified = &self.unified;
        let identity = fstat(&unified.fd);
        let identity = identity.map_err(|errno| Error::io("stat", &unified.path, errno))?.st_ino;
        let now = clock_gettime(ClockId::Monotonic);
        let monotonic_ns = now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64;
        let all = Some(unified);
        let Strain { memory, pressure } = self.strain(layout, buffer)?;
        let cpu = buffer.text(all, "cpu.stat")?.map(cpu_stat).unwrap_or_default();
        let (cpu, io, pids) = match layout {
            Layout::Unified => {
                let shares = buffer.number(all, "cpu.weight")?.map(shares_from_weight);
                let cpu = CpuSample { shares, ..cpu };
                let io = buffer.text(all, "io.stat")?.map(parse::io_stat).unwrap_or_default();
                (cpu, io, pids(buffer, all)?)
            }
            Layout::Hybrid => (
                self.cpu_v1(cpu, buffer)?,
                io_v1(buffer, self.blkio.as_ref())?,
                pids(buffer, self.pids.as_ref())?,
            ),
        };
        Ok(Sample { identity, monotonic_ns, cpu, memory, pids, io, pressure })
    }

    fn strain(&self, layout: Layout, buffer: &mut ReadBuffer) -> Result<Strain, Error> {
        let all = Some(&self.unified);
        let pressure = Pressure {
            cpu: buffer.stall(all, "cpu.pressure")?,
            memory: buffer.stall(all, "memory.pressure")?,
            io: buffer.stall(all, "io.pressure")?,
        };
        let memory = match layout {
            Layout::Unified => memory_v2(buffer, all)?,
            Layout::Hybrid => memory_v1(buffer, self.memory.as_ref())?,
        };
        Ok(Strain { memory, pressure })
    }

    /// The unified tree counts usage without a controller, in one file; v1's user and
    /// system times are sampled by ticks and do not add up to its usage. Throttling is
    /// the controller's.
    fn cpu_v1(&self, unified: CpuSample, buffer: &mut ReadBuffer) -> Result<CpuSample, Error> {
        let mut cpu = unified;
        if cpu.usage_usec.is_none() {
            let ns = buffer.number(self.cpuacct.as_ref(), "cpuacct.usage")?;
            cpu.usage_usec = ns.map(|ns| ns / 1000);
        }
        cpu.shares = buffer.number(self.cpu.as_ref(), "cpu.shares")?;
        if let Some(text) = buffer.text(self.cpu.as_ref(), "cpu.stat")? {
            for (key, value) in parse::flat_keyed(text) {
                match key {
                    "nr_periods" => cpu.nr_periods = Some(value),
                    "nr_throttled" => cpu.nr_throttled = Some(value),
                    "throttled_time" => cpu.throttled_usec = Some(value / 1000),
                    "nr_bursts" => cpu.nr_bursts = Some(value),
                    "burst_time" => cpu.burst_usec = Some(value / 1000),
                    _ => {}
                }
            }
        }
        Ok(cpu)
    }
}

fn pids(buffer: &mut ReadBuffer, dir: Dir<'_>) -> Result<PidsSample, Error> {
    Ok(PidsSample {
        current: buffer.number(dir, "pids.current")?,
        max: buffer.max(dir, "pids.max")?,
        refused: buffer.keyed(dir, "pids.events", "max")?,
    })
}

fn memory_v2(buffer: &mut ReadBuffer, dir: Dir<'_>) -> Result<MemorySample, Error> {
    let (mut failcnt, mut over_high, mut oom_kills) = (None, None, None);
    if let Some(text) = buffer.text(dir, "memory.events")? {
        failcnt = parse::keyed(text, "max");
        over_high = parse::keyed(text, "high");
        oom_kills = parse::keyed(text, "oom_kill");
    }
    let limit_bytes = buffer.max(dir, "memory.max")?;
    let swap_limit = buffer.max(dir, "memory.swap.max")?;
    Ok(MemorySample {
        usage_bytes: buffer.number(dir, "memory.current")?,
        max_usage_bytes: buffer.number(dir, "memory.peak")?,
        limit_bytes,
        memory_swap_limit_bytes: total(limit_bytes, swap_limit),
        reservation_bytes: buffer.max(dir, "memory.low")?,
        swap_bytes: buffer.number(dir, "memory.swap.current")?,
        failcnt,
        over_high,
        oom_kills,
        stat: buffer.text(dir, "memory.stat")?.map(parse::memory_stat).unwrap_or_default(),
    })
}

fn memory_v1(buffer: &mut ReadBuffer, dir: Dir<'_>) -> Result<MemorySample, Error> {
    let stat = buffer.text(dir, "memory.stat")?.map(parse::memory_stat_v1);
    let (mut stat, swap_bytes) = stat.unwrap_or_default();
    stat.kernel_bytes = buffer.number(dir, "memory.kmem.usage_in_bytes")?;
    stat.sock_bytes = buffer.number(dir, "memory.kmem.tcp.usage_in_bytes")?;
    // A charge is counted at the limit that stopped it, and the one for memory and
    // swap is asked first: where both are equal, the other never counts.
    let at_memory = buffer.number(dir, "memory.failcnt")?;
    let at_total = buffer.number(dir, "memory.memsw.failcnt")?;
    Ok(MemorySample {
        usage_bytes: buffer.number(dir, "memory.usage_in_bytes")?,
        max_usage_bytes: buffer.number(dir, "memory.max_usage_in_bytes")?,
        limit_bytes: buffer.bytes_v1(dir, "memory.limit_in_bytes")?,
        memory_swap_limit_bytes: buffer.bytes_v1(dir, "memory.memsw.limit_in_bytes")?,
        reservation_bytes: buffer.bytes_v1(dir, "memory.soft_limit_in_bytes")?,
        swap_bytes,
        failcnt: at_memory.map(|hits| hits + at_total.unwrap_or(0)),
        over_high: None,
        oom_kills: buffer.keyed(dir, "memory.oom_control", "oom_kill")?,
        stat,
    })
}

fn io_v1(buffer: &mut ReadBuffer, dir: Dir<'_>) -> Result<Vec<IoSample>, Error> {
    let mut io = Vec::new();
    if let Some(text) = buffer.text(dir, "blkio.throttle.io_service_bytes_recursive")? {
        parse::add_io_v1(&mut io, text, true);
    }
    if let Some(text) = buffer.text(dir, "blkio.throttle.io_serviced_recursive")? {
        parse::add_io_v1(&mut io, text, false);
    }
    Ok(io)
}

fn read_throttles_v1(buffer: &mut ReadBuffer, dir: Dir<'_>) -> Result<Vec<IoLimit>, Error> {
    let mut limits: Vec<IoLimit> = Vec::new();
    for (at, name) in crate::plan::THROTTLE_FILES.iter().enumerate() {
        let rates = buffer.value(dir, name, "no rates", parse_throttle_v1)?;
        for ((major, minor), rate) in rates.unwrap_or_default() {
            let known = limits.iter().position(|l| (l.major, l.minor) == (major, minor));
            let index = known.unwrap_or_else(|| {
                limits.push(IoLimit::with_limits(major, minor, [Some(Max::Unlimited); 4]));
                limits.len() - 1
            });
            let mut rates = limits[index].limits();
            rates[at] = Some(Max::Value(rate));
            limits[index] = IoLimit::with_limits(major, minor, rates);
        }
    }
    Ok(limits)
}

/// Memory and swap together. Memory without a limit has none together with swap either.
fn total(memory: Option<Max>, swap: Option<Max>) -> Option<Max> {
    match (memory?, swap?) {
        (Max::Value(memory), Max::Value(swap)) => Some(Max::Value(memory.saturating_add(swap))),
        _ => Some(Max::Unlimited),
    }
}

fn cpu_stat(text: &str) -> CpuSample {
    let mut cpu = CpuSample::default();
    for (key, value) in parse::flat_keyed(text) {
        let field = match key {
            "usage_usec" => &mut cpu.usage_usec,
            "user_usec" => &mut cpu.user_usec,
            "system_usec" => &mut cpu.system_usec,
            "nr_periods" => &mut cpu.nr_periods,
            "nr_throttled" => &mut cpu.nr_throttled,
            "throttled_usec" => &mut cpu.throttled_usec,
            "nr_bursts" => &mut cpu.nr_bursts,
            "burst_usec" => &mut cpu.burst_usec,
            _ => continue,
        };
        *field = Some(value);
    }
    cpu
}
