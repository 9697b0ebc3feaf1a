//! The values that limit files take: rendering, parsing back, comparing.
//!
//! Owns the texts of every file this crate writes a limit to; opens none. `plan`
//! makes settings, `apply` writes them, `read` parses with the same functions.

use crate::io_weight::parse_default;
use crate::parse;
use crate::types::{CpuMax, IoLimit, Max};

/// A value for one file, in that file's own format.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    /// v2 `cpu.max`.
    CpuMax(CpuMax),
    /// v1 `cpu.cfs_quota_us`.
    QuotaV1(Option<u64>),
    Number(u64),
    /// `pids.max`.
    Count(Max),
    /// v2 `memory.max`, `memory.swap.max`.
    Bytes(Max),
    /// v1 `memory.limit_in_bytes`, `memory.memsw.limit_in_bytes`.
    BytesV1(Max),
    /// v1 `memory.oom_control`: whether nobody is killed.
    OomControlV1(bool),
    Cpus(CpuList),
    /// v2 `io.weight`, `io.bfq.weight`: what devices have that are not named there.
    DefaultWeight(u64),
    /// v2 `io.max`, one device's line.
    IoMax(IoLimit),
    /// v1 `blkio.throttle.*_device`, one device's line.
    ThrottleV1 {
        major: u32,
        minor: u32,
        rate: Max,
    },
}

impl Setting {
    pub(crate) fn render(&self) -> String {
        match self {
            Setting::CpuMax(CpuMax { quota_usec: Some(quota), period_usec }) => {
                format!("{quota} {period_usec}")
            }
            Setting::CpuMax(CpuMax { quota_usec: None, period_usec }) => {
                format!("max {period_usec}")
            }
            Setting::QuotaV1(Some(quota)) => quota.to_string(),
            Setting::QuotaV1(None) | Setting::BytesV1(Max::Unlimited) => "-1".to_owned(),
            Setting::Number(value) => value.to_string(),
            Setting::Count(max) | Setting::Bytes(max) | Setting::BytesV1(max) => max.to_string(),
            Setting::OomControlV1(disabled) => u8::from(*disabled).to_string(),
            Setting::Cpus(list) => list.render(),
            Setting::DefaultWeight(weight) => format!("default {weight}"),
            Setting::IoMax(limit) => render_io_max(limit),
            Setting::ThrottleV1 { major, minor, rate } => {
                format!("{major}:{minor} {}", rate.value().unwrap_or(0))
            }
        }
    }

    /// Whether a file with this text has this setting. The kernel keeps memory in whole
    /// pages and writes lists its own way; of an I/O line only what was set counts.
    pub(crate) fn is_in(&self, text: &str, page_size: u64) -> bool {
        let whole_pages = |max: Max| match max {
            Max::Value(bytes) => Max::Value(bytes / page_size * page_size),
            Max::Unlimited => Max::Unlimited,
        };
        match self {
            Setting::CpuMax(wanted) => parse_cpu_max(text) == Some(*wanted),
            Setting::QuotaV1(wanted) => parse::quota_v1(text) == Some(*wanted),
            Setting::Number(wanted) => parse::number(text) == Some(*wanted),
            Setting::Count(wanted) => parse::max(text) == Some(*wanted),
            Setting::Bytes(wanted) => parse::max(text) == Some(whole_pages(*wanted)),
            Setting::BytesV1(wanted) => {
                parse::bytes_v1(text, page_size) == Some(whole_pages(*wanted))
            }
            Setting::OomControlV1(wanted) => oom_control_of(text) == Some(*wanted),
            Setting::Cpus(wanted) => CpuList::parse(text).as_ref() == Some(wanted),
            Setting::DefaultWeight(wanted) => parse_default(text) == Some(*wanted),
            Setting::IoMax(wanted) => {
                let found = io_max_of(text, wanted.major, wanted.minor);
                let mut pairs = wanted.limits().into_iter().zip(found.limits());
                pairs.all(|(wanted, found)| wanted.is_none() || wanted == found)
            }
            Setting::ThrottleV1 { major, minor, rate } => {
                throttle_v1_of(text, *major, *minor) == *rate
            }
        }
    }

    /// What puts a file with this text back after the setting was written. A device's
    /// line may be gone, which is no limit; other files take their own text.
    pub(crate) fn undo(&self, text: &str) -> String {
        match self {
            Setting::IoMax(IoLimit { major, minor, .. }) => {
                render_io_max(&io_max_of(text, *major, *minor))
            }
            Setting::ThrottleV1 { major, minor, .. } => {
                let (major, minor) = (*major, *minor);
                let rate = throttle_v1_of(text, major, minor);
                Setting::ThrottleV1 { major, minor, rate }.render()
            }
            // The file tells more than it takes.
            Setting::OomControlV1(_) => {
                Setting::OomControlV1(oom_control_of(text).unwrap_or(false)).render()
            }
            // What single devices have was not touched.
            Setting::DefaultWeight(wanted) => {
                Setting::DefaultWeight(parse_default(text).unwrap_or(*wanted)).render()
            }
            _ => text.to_owned(),
        }
    }

    /// The part of a file's text that is about this setting.
    pub(crate) fn excerpt(&self, text: &str) -> String {
        let device = match self {
            Setting::IoMax(IoLimit { major, minor, .. })
            | Setting::ThrottleV1 { major, minor, .. } => (*major, *minor),
            _ => return text.to_owned(),
        };
        let line =
            text.lines().find(|l| l.split(' ').next().and_then(parse::device) == Some(device));
        line.map_or_else(|| format!("{}:{} has no limit", device.0, device.1), str::to_owned)
    }
}

/// v1 `memory.oom_control`: `oom_kill_disable 0` and two more lines.
fn oom_control_of(text: &str) -> Option<bool> {
    parse::keyed(text, "oom_kill_disable").map(|disabled| disabled == 1)
}

/// v2 `cpu.max`: `50000 100000` or `max 100000`.
pub(crate) fn parse_cpu_max(text: &str) -> Option<CpuMax> {
    let (quota, period) = text.trim_end().split_once(' ')?;
    let quota_usec = parse::max(quota)?.value();
    Some(CpuMax { quota_usec, period_usec: period.parse().ok()? })
}

const IO_KEYS: [&str; 4] = ["rbps", "wbps", "riops", "wiops"];

fn render_io_max(limit: &IoLimit) -> String {
    let mut line = format!("{}:{}", limit.major, limit.minor);
    for (key, max) in IO_KEYS.iter().zip(limit.limits()) {
        if let Some(max) = max {
            line.push_str(&format!(" {key}={max}"));
        }
    }
    line
}

/// v2 `io.max`: only devices that have a limit have a line.
pub(crate) fn parse_io_max(text: &str) -> Option<Vec<IoLimit>> {
    text.lines().map(parse_io_max_line).collect()
}

fn parse_io_max_line(line: &str) -> Option<IoLimit> {
    let mut words = line.split_ascii_whitespace();
    let (major, minor) = parse::device(words.next()?)?;
    let mut limits = [None; 4];
    for word in words {
        let (key, value) = word.split_once('=')?;
        if let Some(at) = IO_KEYS.iter().position(|k| *k == key) {
            limits[at] = Some(parse::max(value)?);
        }
    }
    Some(IoLimit::with_limits(major, minor, limits))
}

fn io_max_of(text: &str, major: u32, minor: u32) -> IoLimit {
    let line = text.lines().filter_map(parse_io_max_line);
    let found = line.into_iter().find(|l| (l.major, l.minor) == (major, minor));
    found.unwrap_or_else(|| IoLimit::with_limits(major, minor, [Some(Max::Unlimited); 4]))
}

/// v1 `blkio.throttle.*_device`: lines `8:0 4194304`.
pub(crate) fn parse_throttle_v1(text: &str) -> Option<Vec<((u32, u32), u64)>> {
    text.lines()
        .map(|line| {
            let (device, rate) = line.split_once(' ')?;
            Some((parse::device(device)?, parse::number(rate)?))
        })
        .collect()
}

fn throttle_v1_of(text: &str, major: u32, minor: u32) -> Max {
    let all = parse_throttle_v1(text).unwrap_or_default();
    let found = all.into_iter().find(|(device, _)| *device == (major, minor));
    found.map_or(Max::Unlimited, |(_, rate)| Max::Value(rate))
}

/// A set of CPUs as ranges, sorted, disjoint and not adjacent: two lists of the same
/// CPUs are equal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CpuList(Vec<(u32, u32)>);

/// The most CPUs Linux can be built for.
const CPUS: u32 = 8192;

impl CpuList {
    /// `0-2,5`; the empty text is the empty set. `None` if it is no such list.
    pub(crate) fn parse(text: &str) -> Option<CpuList> {
        let text = text.trim_end();
        let mut ranges = Vec::new();
        for part in text.split(',').filter(|_| !text.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (cpu(first)?, cpu(last)?);
            if first > last {
                return None;
            }
            ranges.push((first, last));
        }
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Some(CpuList(merged))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn render(&self) -> String {
        let range = |(first, last): &(u32, u32)| {
            if first == last { first.to_string() } else { format!("{first}-{last}") }
        };
        self.0.iter().map(range).collect::<Vec<_>>().join(",")
    }
}

fn cpu(text: &str) -> Option<u32> {
    // `parse` would take a sign.
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|cpu| digits && *cpu < CPUS)
}

#[cfg(test)]
#[path = "setting_tests.rs"]
mod tests;
