//! The way back from a limit as literal writes, for whoever keeps them until a deadline.
//!
//! Owns [`Restore`]: one file, what to write, and over which values. The engine makes the list
//! before it tightens anything; the container's shim, the guard or the next agent writes it
//! when the one who tightened is gone. None of them chooses: each value of the list loosens.

use std::path::PathBuf;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{ApplyError, Error};
use crate::file::Actuator;
use crate::group::Group;
use crate::plan::{Dirs, Now, Step, plan, weight_file, weight_number};
use crate::setting::Setting;
use crate::types::{IoLimit, Max, Resources};

/// What a group has that was given no weight.
const DEFAULT_WEIGHT: u64 = 100;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restore {
    pub path: PathBuf,
    pub text: String,
    /// Written only while a line of the file has all words of one of these: any other value
    /// is somebody else's, who is left alone.
    pub only_over: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    Written,
    /// The file says this, which is not ours.
    Kept(String),
    /// The group or the device is gone, and its limit with it.
    Gone,
}

impl Restore {
    /// The file's text now. `None` if the group is gone.
    pub fn read(&self) -> Result<Option<String>, Error> {
        let text = Actuator::open(&self.path).and_then(|actuator| actuator.read());
        match text {
            Err(errno) if is_gone(errno) => Ok(None),
            text => text.map(Some).map_err(|errno| Error::io("read", &self.path, errno)),
        }
    }

    /// Whether a file with this text has a value that it may be written over.
    pub fn is_over(&self, text: &str) -> bool {
        self.only_over.iter().any(|value| has_words(text, value))
    }

    /// Whether a file with this text has the value already that this would write. Of a device
    /// without any limit the kernel shows no line.
    pub fn is_done(&self, text: &str) -> bool {
        if has_words(text, &self.text) {
            return true;
        }
        let Some((device, rest)) = self.text.split_once(' ') else { return false };
        let lifts = rest == "0" || rest.ends_with("=max");
        let line = text.lines().find(|line| line.split(' ').next() == Some(device));
        device.contains(':') && lifts && line.is_none()
    }

    /// Looks and writes.
    pub fn run(&self) -> Result<Restored, Error> {
        let done = Actuator::open(&self.path).and_then(|actuator| {
            let text = actuator.read()?;
            if !self.is_over(&text) {
                return Ok(Restored::Kept(text));
            }
            actuator.write(&self.text).map(|()| Restored::Written)
        });
        match done {
            Err(errno) if is_gone(errno) => Ok(Restored::Gone),
            done => done.map_err(|errno| Error::write(&self.path, &self.text, errno)),
        }
    }
}

fn is_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::NODEV | Errno::NXIO)
}

fn has_words(text: &str, wanted: &str) -> bool {
    let has_all = |line: &str| {
        wanted.split_ascii_whitespace().all(|word| line.split_ascii_whitespace().any(|w| w == word))
    };
    text.lines().any(has_all)
}

impl Group {
    /// The writes that bring `base` back, in order, over any of the values in `over`. Each of
    /// `over` limits some of the fields (and devices) that `base` names, with its CPU period.
    ///
    /// # Errors
    /// As [`Group::apply`] before it writes.
    pub fn restores(
        &self,
        base: &Resources,
        over: &[&Resources],
    ) -> Result<Vec<Restore>, ApplyError> {
        self.check_path("limit")?;
        restores(self, base, over, rustix::param::page_size() as u64)
    }
}

fn restores(
    dirs: &dyn Dirs,
    base: &Resources,
    over: &[&Resources],
    page_size: u64,
) -> Result<Vec<Restore>, ApplyError> {
    let steps = |resources: &Resources| {
        let period = base.cpu.or(resources.cpu).map(|cpu| cpu.period_usec);
        // What is not idle has its weight as the base will write it, so no step for that.
        let now = Now { cpu_period_usec: period, cpu_idle: resources.cpu_idle, ..Now::default() };
        Ok::<_, ApplyError>(plan(dirs, &with_each_rate_alone(resources), now)?.steps)
    };
    let values = over.iter().map(|o| steps(o)).collect::<Result<Vec<_>, _>>()?;
    let was_idle = over.iter().any(|resources| resources.cpu_idle == Some(true));
    let weight_file = weight_file(dirs.layout());
    let of_base = steps(base)?.into_iter().map(|step| {
        let same = values.iter().flatten().filter(|other| is_same_place(&step, other));
        let mut only_over: Vec<String> =
            same.map(|step| in_whole_pages(&step.setting, page_size)).collect();
        if was_idle && step.path.ends_with(weight_file) {
            only_over.push(weight_number(dirs.layout(), DEFAULT_WEIGHT).to_string());
        }
        only_over.sort_unstable();
        only_over.dedup();
        let text = in_whole_pages(&step.setting, page_size);
        // What would not change is nobody's limit.
        only_over.retain(|value| *value != text);
        Restore { text, path: step.path, only_over }
    });
    Ok(of_base.filter(|restore| !restore.only_over.is_empty()).collect())
}

/// As the kernel will show it.
fn in_whole_pages(setting: &Setting, page_size: u64) -> String {
    match setting {
        Setting::Bytes(Max::Value(bytes)) => {
            Setting::Bytes(Max::Value(bytes / page_size * page_size)).render()
        }
        other => other.render(),
    }
}

/// One entry for each rate, so that each is judged and written alone.
fn with_each_rate_alone(resources: &Resources) -> Resources {
    let mut apart = resources.clone();
    apart.io = resources.io.iter().flat_map(rates).collect();
    apart
}

fn rates(limit: &IoLimit) -> impl Iterator<Item = IoLimit> + use<> {
    let IoLimit { major, minor, .. } = *limit;
    limit.limits().into_iter().enumerate().filter(|(_, rate)| rate.is_some()).map(
        move |(at, rate)| {
            let mut one = [None; 4];
            one[at] = rate;
            IoLimit::with_limits(major, minor, one)
        },
    )
}

fn is_same_place(a: &Step, b: &Step) -> bool {
    let which =
        |limit: &IoLimit| (limit.major, limit.minor, limit.limits().map(|rate| rate.is_some()));
    a.path == b.path
        && match (&a.setting, &b.setting) {
            (Setting::IoMax(a), Setting::IoMax(b)) => which(a) == which(b),
            (
                Setting::ThrottleV1 { major, minor, .. },
                Setting::ThrottleV1 { major: other_major, minor: other_minor, .. },
            ) => (major, minor) == (other_major, other_minor),
            _ => true,
        }
}

#[cfg(test)]
#[path = "restore_tests.rs"]
mod tests;
