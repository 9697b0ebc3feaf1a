//! Other runtimes' containers held below their own limits for a while.
//!
//! The one place that writes to a cgroup that is not ours, through `cgroupfs`, and only
//! tighter; the guard keeps the way back. "The operator's limits" are what the files said
//! before the first throttle: what the other runtime writes later is noticed and respected.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tenantry_cgroupfs::{Group, Hierarchy, Resources};
use tenantry_container::held::{Change, actuators_of, read_in_force, read_others, restore_all};
use tenantry_container::limit_changes::{self, Act, Subject};
use tenantry_container::{
    Actuator, Applied, Error, HeldLimit, InForce, Lease, LimitHistory, Limits, Owner, Throttle,
    Throttled, throttle,
};

use super::Entry;
use crate::guard::client::Guard;
use crate::guard::keeper::Request;

/// By cgroup, as [`super::Entry`] names it.
#[derive(Debug)]
pub struct Throttles {
    hierarchy: Hierarchy,
    guard: Guard,
    host_cpus: usize,
    history: Arc<LimitHistory>,
    /// Held while one is changed: a few writes.
    held: Mutex<HashMap<String, Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    container: Subject,
    /// What was there before.
    operator: Limits,
    throttled: Throttled,
}

impl Throttles {
    /// Restores first what an earlier agent left. Blocks.
    pub fn open(hierarchy: Hierarchy, guard: Guard, history: Arc<LimitHistory>) -> Arc<Self> {
        let host_cpus = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self { hierarchy, guard, host_cpus, history, held: Mutex::default() })
    }

    /// As `Engine::throttle`, for CPU, memory and disk. Blocks.
    ///
    /// # Errors
    /// As there; [`Error::Unsupported`] for bandwidth, and where the agent itself would be held.
    pub fn set(
        &self,
        entry: &Entry,
        wanted: Throttle,
        lease: Lease,
    ) -> Result<Vec<Applied>, Error> {
        let cgroup = entry.subject.cgroup.as_str();
        let literal = wanted.validate(self.host_cpus)?;
        if literal.bandwidth != tenantry_network::Bandwidth::default() {
            let what = "throttling the bandwidth of another runtime's container".to_owned();
            return Err(Error::Unsupported { what, why: "its interfaces are not ours".to_owned() });
        }
        if entry.holds_agent && !wanted.is_empty() {
            let what = format!("throttling {cgroup}");
            return Err(Error::Unsupported { what, why: "this agent runs in it".to_owned() });
        }
        let mut all = self.lock();
        self.forget_lapsed(&mut all);
        let known = all.get(cgroup).cloned();
        if let Some(known) = &known
            && (known.throttled.owner, lease.owner) == (Owner::Operator, Owner::Controller)
        {
            let reason = &known.throttled.reason;
            return Err(Error::Conflict(format!("an operator holds {cgroup}: {reason}")));
        }
        if wanted.is_empty() {
            all.remove(cgroup);
            let act = Act::release(&lease);
            return Ok(known.map(|known| self.release(cgroup, &known, act)).unwrap_or_default());
        }
        lease.validate()?;
        let group = self.group(cgroup);
        let known = match known {
            Some(known) => known,
            None => Held {
                container: subject(entry),
                operator: self.read(&group)?,
                throttled: nothing(&wanted, &lease),
            },
        };
        let (next, applied) = self.take(cgroup, &group, &known, wanted, &literal, lease)?;
        all.insert(cgroup.to_owned(), next);
        Ok(applied)
    }

    /// The throttle that lasts, and what its files say now.
    pub fn read_state(&self, cgroup: &str) -> Result<Option<(Throttled, Vec<InForce>)>, Error> {
        let mut all = self.lock();
        self.forget_lapsed(&mut all);
        let Some(Held { throttled, .. }) = all.get(cgroup).cloned() else { return Ok(None) };
        drop(all);
        let files = read_in_force(&throttled.force.resources, &throttled.restores)?;
        Ok(Some((throttled, files)))
    }

    /// Each limit that somebody set, with who holds it now. Nobody told us what its own
    /// runtime wants: what was there before is the operator's.
    pub fn read_held(&self, cgroup: &str) -> Result<Vec<HeldLimit>, Error> {
        let mut all = self.lock();
        self.forget_lapsed(&mut all);
        let known = all.get(cgroup).cloned();
        drop(all);
        let now = self.read(&self.group(cgroup))?;
        let operator = known.as_ref().map_or(&now, |known| &known.operator);
        let throttled = known.as_ref().map(|known| &known.throttled);
        Ok(limit_changes::held(operator, throttled, Some(&now)))
    }

    /// What the other runtime wants for it now: what its files say, and of what is throttled
    /// here what they said before, unless somebody has written there since. Blocks.
    ///
    /// # Errors
    /// The cgroup is gone or its files cannot be read.
    pub fn operator_limits(&self, cgroup: &str) -> Result<Limits, Error> {
        let known = self.lock().get(cgroup).cloned();
        let mut now = self.read(&self.group(cgroup))?;
        if let Some(Held { operator, throttled, .. }) = known {
            let others = read_others(&throttled.force.resources, &throttled.restores)?;
            let held = throttle::actuators(&throttled.force);
            let ours = held.difference(&actuators_of(&others)).copied().collect();
            now.resources = beside(&operator.resources, now.resources, &ours);
        }
        Ok(now)
    }

    /// For an agent that ends: nothing stays held.
    pub fn end_all(&self) {
        let mut all = self.lock();
        for (cgroup, held) in all.drain() {
            self.release(&cgroup, &held, Act::AGENT_ENDS);
        }
        self.guard.end();
    }

    fn take(
        &self,
        cgroup: &str,
        group: &Group,
        known: &Held,
        wanted: Throttle,
        literal: &Limits,
        lease: Lease,
    ) -> Result<(Held, Vec<Applied>), Error> {
        let own = &known.operator.resources;
        let all = throttle::tighter(&known.operator, literal);
        let mut yielded = known.throttled.yielded.clone();
        yielded.retain(|actuator| throttle::actuators(&all).contains(actuator));
        let mut before = known.throttled.force.clone();
        let files = read_others(&before.resources, &known.throttled.restores)?;
        let others = actuators_of(&files);
        if !others.is_empty() {
            tracing::info!(cgroup, ?others, "written by another, left alone");
            self.record(&known.container, Act::FOUND, limit_changes::found(&before, &files));
            before = throttle::without(&before, &others);
            yielded.extend(others);
        }
        let after = throttle::without(&all, &yielded);
        let change = Change::plan(group, own, &before.resources, &after.resources)?;
        let hold = |restore: &Vec<_>, time: Duration| {
            let restore = restore.clone();
            let lease_ms = time.as_millis() as u64;
            let request = Request::Hold { cgroup: cgroup.to_owned(), lease_ms, restore };
            let kept = self.guard.hold(&request);
            kept.map_err(|error| Error::Failed {
                step: "ask the guard to keep the way back".to_owned(),
                source: error.into(),
            })
        };
        hold(&change.both, lease.time)?;
        let mut applied = change.tighten().inspect_err(|_| {
            // The way back from before is held again; if not, from a set that is not in force.
            let left = known.throttled.deadline.saturating_duration_since(Instant::now());
            match known.throttled.restores.is_empty() {
                true => drop(self.guard.let_go(cgroup)),
                false => drop(hold(&known.throttled.restores, left)),
            }
        })?;
        applied.extend(change.loosen(cgroup).0);
        if change.both != change.at_last {
            hold(&change.at_last, lease.time)?;
        }
        let changed = limit_changes::forced(&known.operator, &before, &after);
        self.record(&known.container, Act::throttle(&lease), changed);
        let throttled = Throttled {
            wanted,
            owner: lease.owner,
            reason: lease.reason,
            deadline: Instant::now() + lease.time,
            force: after,
            yielded,
            restores: change.at_last.clone(),
            causes: lease.causes,
            ..known.throttled.clone()
        };
        if !applied.is_empty() {
            let actuators = throttle::actuators(&throttled.force);
            tracing::info!(cgroup, ?actuators, reason = throttled.reason, "throttled");
        }
        Ok((Held { throttled, ..known.clone() }, applied))
    }

    fn release(&self, cgroup: &str, held: &Held, act: Act) -> Vec<Applied> {
        let (force, restores) = (&held.throttled.force, &held.throttled.restores);
        // What cannot be read now is told as if nobody else had written it.
        let others = read_others(&force.resources, restores).unwrap_or_default();
        self.record(&held.container, Act::FOUND, limit_changes::found(force, &others));
        let ours = throttle::without(force, &actuators_of(&others));
        let changed = limit_changes::forced(&held.operator, &ours, &Limits::default());
        self.record(&held.container, act, changed);
        let (applied, failed) = restore_all(cgroup, &held.throttled.restores);
        tracing::info!(cgroup, failed, "no longer throttled");
        if failed == 0 {
            self.guard.let_go(cgroup);
        }
        applied
    }

    /// What the guard has ended at its time; once more does no harm.
    fn forget_lapsed(&self, all: &mut HashMap<String, Held>) {
        let now = Instant::now();
        all.retain(|cgroup, held| {
            let lasts = held.throttled.deadline > now;
            if !lasts {
                self.release(cgroup, held, Act::expired(held.throttled.owner));
            }
            lasts
        });
    }

    fn record(&self, of: &Subject, act: Act, differences: Vec<limit_changes::Difference>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix_ns = now.as_nanos() as u64;
        self.history.record(limit_changes::changes(unix_ns, of, act, differences));
    }

    fn group(&self, cgroup: &str) -> Group {
        self.hierarchy.group(cgroup.trim_start_matches('/'))
    }

    fn read(&self, group: &Group) -> Result<Limits, Error> {
        let resources: Resources = group.read_resources().map_err(|error| Error::Failed {
            step: "read the present limits".to_owned(),
            source: Box::new(error),
        })?;
        Ok(Limits { resources, ..Limits::default() })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        // Each change is whole before a panic could come.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `now` with the fields that `ours` turn as they were before.
fn beside(before: &Resources, now: Resources, ours: &BTreeSet<Actuator>) -> Resources {
    let is_ours = |actuator| ours.contains(&actuator);
    // The kernel forgets the weight of an idle group, so both come and go together.
    let is_share = is_ours(Actuator::CpuWeight) || is_ours(Actuator::CpuIdle);
    let share = if is_share { before } else { &now };
    Resources {
        cpu_weight: share.cpu_weight,
        cpu_idle: share.cpu_idle,
        cpu: if is_ours(Actuator::CpuMax) { before.cpu } else { now.cpu },
        memory_high_bytes: match is_ours(Actuator::MemoryHigh) {
            true => before.memory_high_bytes,
            false => now.memory_high_bytes,
        },
        io_weight: if is_ours(Actuator::IoWeight) { before.io_weight } else { now.io_weight },
        io: if is_ours(Actuator::IoMax) { before.io.clone() } else { now.io.clone() },
        ..now
    }
}

fn nothing(wanted: &Throttle, lease: &Lease) -> Throttled {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Throttled {
        wanted: wanted.clone(),
        owner: lease.owner,
        reason: lease.reason.clone(),
        since_unix_ns: since.as_nanos() as u64,
        deadline: Instant::now(),
        force: Limits::default(),
        yielded: BTreeSet::new(),
        restores: Vec::new(),
        causes: BTreeMap::new(),
    }
}

fn subject(entry: &Entry) -> Subject {
    Subject { id: entry.subject.id.clone(), name: entry.name.clone(), image: entry.image.clone() }
}

#[cfg(test)]
mod tests {
    use tenantry_cgroupfs::CpuMax;

    use super::*;

    #[test]
    fn what_we_turn_is_wanted_as_before_and_the_rest_as_it_is_now() {
        let quota =
            |quota_usec| Some(CpuMax { quota_usec: Some(quota_usec), period_usec: 100_000 });
        let resources = |weight, idle, quota| Resources {
            cpu_weight: weight,
            cpu_idle: Some(idle),
            cpu: quota,
            ..Resources::default()
        };
        let before = resources(Some(200), false, quota(90_000));
        let check = |ours: &[Actuator], now: Resources, expected: Resources| {
            let found = beside(&before, now, &ours.iter().copied().collect());
            assert_eq!(found, expected, "{ours:?}");
        };
        let changed = resources(Some(1), false, quota(30_000));
        check(&[], changed.clone(), changed.clone());
        check(&[Actuator::CpuWeight], changed.clone(), resources(Some(200), false, quota(30_000)));
        check(&[Actuator::CpuMax], changed, resources(Some(1), false, quota(90_000)));
        let idle = resources(None, true, quota(10_000));
        check(&[Actuator::CpuIdle, Actuator::CpuMax], idle, before.clone());
    }
}
