//! One cgroup on its way from one throttle to the next: the writes, and the ways back.
//!
//! Owns the plan of such a step ([`Change`]), best-effort restoring, and the look at what is in
//! force. Who keeps the way back meanwhile is the caller's matter: a shim for the engine's
//! containers, a guard for others'. Everything here blocks.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use serde::Serialize;
use tenantry_cgroupfs::{Group, Resources, Restore, Restored};

use crate::{
    engine::refused,
    error::Error,
    limits::{Applied, merge_resources},
    throttle::{self, Actuator},
};

/// From one set to the next, in this order: whoever keeps the way back is told of `both`,
/// then [`Change::tighten`], [`Change::loosen`], and the keeper is told of `at_last`.
#[derive(Clone, Debug)]
pub struct Change {
    /// The way back from either set.
    pub both: Vec<Restore>,
    /// The way back from the new one.
    pub at_last: Vec<Restore>,
    group: Group,
    change: Resources,
    way_back: Resources,
    loose: Vec<Restore>,
}

impl Change {
    /// # Errors
    /// [`Error::Unsupported`] where the group has no such limit.
    pub fn plan(
        group: &Group,
        operator: &Resources,
        before: &Resources,
        after: &Resources,
    ) -> Result<Change, Error> {
        let none = Resources::default();
        let restores = |over: &[&Resources]| {
            let mut named = none.clone();
            over.iter().for_each(|set| merge_resources(&mut named, set));
            let base = throttle::state_of(operator, &none, &named);
            group.restores(&base, over).map_err(refused)
        };
        let change = throttle::differing(before, after);
        Ok(Change {
            both: restores(&[before, after])?,
            at_last: restores(&[after])?,
            loose: restores(&[&throttle::dropped(before, after)])?,
            way_back: throttle::state_of(operator, before, &change),
            change,
            group: group.clone(),
        })
    }

    /// All of it or, with an error, none.
    pub fn tighten(&self) -> Result<Vec<Applied>, Error> {
        apply(&self.group, &self.change)
    }

    /// Takes back what [`Change::tighten`] did.
    pub fn take_back(&self) -> Result<(), Error> {
        apply(&self.group, &self.way_back).map(drop)
    }

    /// Gives back what the new set does not hold, best effort.
    pub fn loosen(&self, id: &str) -> (Vec<Applied>, usize) {
        restore_all(id, &self.loose)
    }
}

fn apply(group: &Group, change: &Resources) -> Result<Vec<Applied>, Error> {
    if *change == Resources::default() {
        return Ok(vec![]);
    }
    Ok(group.apply(change).map_err(refused)?.into_iter().map(Applied::from).collect())
}

/// In order; what fails is logged and counted, and does not keep the rest from being done.
pub fn restore_all(id: &str, restores: &[Restore]) -> (Vec<Applied>, usize) {
    let (mut applied, mut failed) = (vec![], 0);
    for restore in restores {
        match restore.run() {
            Ok(Restored::Written) => applied.push(Applied {
                resource: actuator_of(&restore.path).map_or("", Actuator::as_str).to_owned(),
                actuator: restore.path.display().to_string(),
                written: restore.text.clone(),
                read_back: restore.read().ok().flatten().unwrap_or_default(),
            }),
            Ok(Restored::Kept(now)) => {
                let path = restore.path.display();
                tracing::debug!(container_id = id, %path, now, "not ours, left alone");
            }
            Ok(Restored::Gone) => {}
            Err(error) => {
                tracing::error!(container_id = id, %error, "limit not restored");
                failed += 1;
            }
        }
    }
    (applied, failed)
}

/// One file that a throttle has changed, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    pub actuator: Actuator,
    pub path: PathBuf,
    /// The whole file.
    pub now: String,
    pub holder: Holder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Holder {
    /// What the throttle wrote.
    Throttle,
    /// The operator's value: it was restored behind our back, as a lease's end does it.
    Operator,
    /// Another value: somebody else wrote it.
    Other,
}

/// Each file once. `force` is what the way back leads from.
pub fn read_in_force(force: &Resources, restores: &[Restore]) -> Result<Vec<InForce>, Error> {
    let mut files: Vec<InForce> = vec![];
    let is_idle = force.cpu_idle == Some(true);
    for restore in restores {
        let Some(actuator) = actuator_of(&restore.path) else { continue };
        // An idle group has no weight that could be anybody's.
        if is_idle && actuator == Actuator::CpuWeight {
            continue;
        }
        let known = files.iter().position(|file| file.path == restore.path);
        let now = match known {
            Some(at) => files[at].now.clone(),
            None => match restore.read().map_err(|e| Error::failed("read a limit", e))? {
                Some(text) => text,
                None => continue,
            },
        };
        let holder = match () {
            () if restore.is_over(&now) => Holder::Throttle,
            () if restore.is_done(&now) => Holder::Operator,
            () => Holder::Other,
        };
        match known {
            // Of several rates in one file the strangest counts.
            Some(at) if holder == Holder::Throttle || files[at].holder == Holder::Other => {}
            Some(at) => files[at].holder = holder,
            None => files.push(InForce { actuator, path: restore.path.clone(), now, holder }),
        }
    }
    Ok(files)
}

/// Of these files those that somebody else has written over what a throttle wrote.
pub fn read_others(force: &Resources, restores: &[Restore]) -> Result<Vec<InForce>, Error> {
    let mut files = read_in_force(force, restores)?;
    files.retain(|file| file.holder == Holder::Other);
    Ok(files)
}

pub fn actuators_of(files: &[InForce]) -> BTreeSet<Actuator> {
    files.iter().map(|file| file.actuator).collect()
}

pub(crate) fn actuator_of(path: &Path) -> Option<Actuator> {
    Actuator::of_file(path.file_name()?.to_str()?)
}
