//! `throttle`: less than the operator's limits for a while, and surely back.
//!
//! Owns the order that makes it safe. Before the first tightening write the run file says so
//! (the next agent restores first thing) and the shim holds the operator's values with a
//! deadline (it restores when nobody renews). Both know every value that may be in force at
//! each moment: before a change the old and the new ones. Then: tighten, loosen, tell the shim
//! what is left. The record, which is the operator's wish, is never touched.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use tenantry_cgroupfs::{Resources, Restore};
use tenantry_network::Bandwidth;
use tenantry_shim::protocol::{Hold, Lapse, Request};

use super::{
    Engine, Shared, blocking,
    cell::{Cell, Running},
    detached, unix_ns,
    way_back::{note, persist, run_all, set_bandwidth, tell},
};
use crate::{
    config::NetworkMode,
    error::Error,
    events::Action,
    held::{self, Change, InForce},
    limit_changes::{self, Act, Cause, ChangeKind, Party},
    limits::{Applied, Limits, LimitsPatch},
    record::ThrottleNote,
    throttle::{self, Actuator, Lease, Owner, Throttle},
    units,
};

/// How much later than the agent the shim acts: an agent that lives does it in order.
const SHIM_GRACE: Duration = Duration::from_secs(2);

/// What is held below the operator's limits now.
#[derive(Clone, Debug, PartialEq)]
pub struct Throttled {
    /// As it was asked for.
    pub wanted: Throttle,
    pub owner: Owner,
    pub reason: String,
    pub since_unix_ns: u64,
    pub deadline: Instant,
    /// What of it is tighter than the operator's limits, and so in force.
    pub force: Limits,
    /// Where somebody else has written; left alone until the throttle no longer names it.
    pub yielded: BTreeSet<Actuator>,
    /// The way back.
    pub restores: Vec<Restore>,
    /// The decision behind each limit, by the limit's name, where there is one.
    pub causes: BTreeMap<String, Cause>,
}

impl Engine {
    /// Holds a container below its limits until the lease ends: of each field the tighter of
    /// the operator's limit and `throttle`. It replaces the set before it; the same set again
    /// renews the lease and writes nothing; an empty one releases. All of it or none.
    ///
    /// Returns what was written. Fields that somebody else has written meanwhile are left
    /// alone and told by an `unthrottle` event.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Unsupported`] (this kernel has no such limit, or the shim
    /// is an older version's); [`Error::Conflict`] if it does not run, or for a controller
    /// while an operator's own throttle lasts.
    pub async fn throttle(
        &self,
        reference: &str,
        throttle: Throttle,
        lease: Lease,
    ) -> Result<Vec<Applied>, Error> {
        let (shared, cell) = self.target(reference)?;
        detached(async move { set(&shared, &cell, throttle, lease).await }).await
    }

    /// The throttle that lasts, if one does.
    pub fn throttle_of(&self, reference: &str) -> Result<Option<Throttled>, Error> {
        let cell = self.shared.find(reference)?;
        let inner = cell.lock();
        Ok(inner.running.as_ref().and_then(|running| running.throttled.as_deref().cloned()))
    }

    /// What the files that a throttle has changed say now; empty without one. A read of each
    /// such file and nothing else. Bandwidth has no file and is not looked at.
    pub async fn in_force(&self, reference: &str) -> Result<Vec<InForce>, Error> {
        let Some(throttled) = self.throttle_of(reference)? else { return Ok(vec![]) };
        blocking("read limits in force", move || in_force(&throttled)).await
    }

    /// Whether a queue that stands now knows classes, so that [`Throttle::egress_bulk`] does
    /// something. `None` if none stands, or it cannot be read. Blocks for up to a millisecond.
    pub fn standing_queue_knows_classes(&self) -> Option<bool> {
        let looked = self.shared.networks.standing_queue_knows_classes();
        looked.inspect_err(|error| tracing::debug!(%error, "queues not read")).ok().flatten()
    }
}

fn in_force(throttled: &Throttled) -> Result<Vec<InForce>, Error> {
    held::read_in_force(&throttled.force.resources, &throttled.restores)
}

async fn set(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    wanted: Throttle,
    lease: Lease,
) -> Result<Vec<Applied>, Error> {
    let literal = wanted.validate(shared.host_cpus)?;
    if !wanted.is_empty() {
        lease.validate()?;
    }
    let _op = cell.op.lock().await;
    let (record, running) = {
        let inner = cell.lock();
        (inner.record.clone(), inner.running.clone())
    };
    let Some(running) = running else {
        if wanted.is_empty() {
            return Ok(vec![]);
        }
        let state = record.state.as_str();
        return Err(Error::Conflict(format!("container {} is {state}", record.name)));
    };
    let known = running.throttled.clone();
    if let Some(known) = &known
        && (known.owner, lease.owner) == (Owner::Operator, Owner::Controller)
    {
        let name = &record.name;
        return Err(Error::Conflict(format!("an operator holds {name}: {}", known.reason)));
    }
    if wanted.is_empty() {
        return release(shared, cell, &running, Act::release(&lease)).await;
    }
    if literal.bandwidth != Bandwidth::default() {
        if record.config.network != NetworkMode::Bridge {
            let allowed = "bandwidth limits on network bridge only";
            return Err(Error::invalid("throttle", "a bandwidth limit", allowed));
        }
        if shared.config.restore_bandwidth.is_empty() {
            let why = "this engine was given no program to take it back with".to_owned();
            return Err(Error::Unsupported { what: "throttling bandwidth".to_owned(), why });
        }
    }
    let step = Step { shared, cell, running: &running, operator: &record.limits };
    step.take(wanted, &literal, lease, known).await
}

/// From one set to the next.
struct Step<'a> {
    shared: &'a Arc<Shared>,
    cell: &'a Arc<Cell>,
    running: &'a Running,
    operator: &'a Limits,
}

impl Step<'_> {
    async fn take(
        &self,
        wanted: Throttle,
        literal: &Limits,
        lease: Lease,
        known: Option<Arc<Throttled>>,
    ) -> Result<Vec<Applied>, Error> {
        let all = throttle::tighter(self.operator, literal);
        let mut before = known.as_ref().map(|known| known.force.clone()).unwrap_or_default();
        let mut yielded = known.as_ref().map(|known| known.yielded.clone()).unwrap_or_default();
        yielded.retain(|actuator| throttle::actuators(&all).contains(actuator));
        let mut after = throttle::without(&all, &yielded);
        let is_renewal = after == before && known.is_some();
        if let Some(known) = &known
            && is_renewal
        {
            let hold = self.hold(&known.restores, &after, lease.time);
            if self.tell(hold).await?.is_none() {
                self.keep(wanted, lease, after, yielded, known.restores.clone(), Some(known));
                return Ok(vec![]);
            }
            // The lease had lapsed: the shim has put the operator's values back.
            self.record_lapse(&before);
            before = Limits::default();
        } else if let Some(known) = &known {
            let files = written_by_others(known).await?;
            let others = held::actuators_of(&files);
            if !others.is_empty() {
                self.tell_yield(&others);
                self.shared.record(self.cell, Act::FOUND, limit_changes::found(&before, &files));
                before = throttle::without(&before, &others);
                yielded.extend(others);
                after = throttle::without(&all, &yielded);
            }
        }
        let own = &self.operator.resources;
        let group = &self.running.group;
        let change = Change::plan(group, own, &before.resources, &after.resources)?;
        let (both, at_last) = (change.both.clone(), change.at_last.clone());
        let mut widest = before.clone();
        widest.bandwidth = throttle::bandwidth_of(&before.bandwidth, &after.bandwidth);
        let first_note = note(&both, &widest);
        self.persist(Some(first_note)).await?;
        let told = self.tell(self.hold(&both, &widest, lease.time)).await;
        let written = match told {
            Ok(None) => self.write(change, &before, &after).await,
            // What was in force is no more, and the shim holds the new set's way back.
            Ok(Some(_)) => {
                self.record_lapse(&before);
                before = Limits::default();
                match Change::plan(group, own, &Resources::default(), &after.resources) {
                    Ok(change) => self.write(change, &before, &after).await,
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        let applied = match written {
            Ok(applied) => applied,
            Err(error) => {
                self.go_back(known.as_deref()).await;
                return Err(error);
            }
        };
        if both != at_last || widest != after {
            let told = self.tell(self.hold(&at_last, &after, lease.time)).await;
            let told = told.and(self.persist(Some(note(&at_last, &after))).await);
            // What is held longer than needed does no harm; what is missing would.
            told.unwrap_or_else(|error| self.warn_of_wide_hold(&error));
        }
        let attributes = [
            ("throttle", serde_json::to_string(&wanted).unwrap_or_default()),
            ("owner", serde_json::to_string(&lease.owner).unwrap_or_default().replace('"', "")),
            ("reason", lease.reason.clone()),
            ("leaseSeconds", lease.time.as_secs().to_string()),
        ];
        let changed = limit_changes::forced(self.operator, &before, &after);
        self.shared.record(self.cell, Act::throttle(&lease), changed);
        self.keep(wanted, lease, after, yielded, at_last, known.as_ref());
        self.shared.tell(self.cell, Action::Throttle, &attributes);
        Ok(applied)
    }

    /// Tightens, all or nothing; then gives back what is no longer held.
    async fn write(
        &self,
        change: Change,
        before: &Limits,
        after: &Limits,
    ) -> Result<Vec<Applied>, Error> {
        let change = Arc::new(change);
        let first = change.clone();
        let mut applied = blocking("tighten limits", move || first.tighten()).await?;
        let from = throttle::bandwidth_of(&self.operator.bandwidth, &before.bandwidth);
        let to = throttle::bandwidth_of(&self.operator.bandwidth, &after.bandwidth);
        if from != to {
            match self.set_bandwidth(&to).await {
                Ok(written) => applied.extend(written),
                Err(error) => {
                    let undo = blocking("take limits back", move || change.take_back()).await;
                    if let Err(undo) = undo {
                        let error = undo.chain();
                        tracing::error!(container_id = self.cell.id, error, "not taken back");
                    }
                    return Err(error);
                }
            }
        }
        let id = self.cell.id.clone();
        let loosened = blocking("loosen limits", move || Ok(change.loosen(&id))).await?;
        applied.extend(loosened.0);
        Ok(applied)
    }

    async fn set_bandwidth(&self, wanted: &Bandwidth) -> Result<Vec<Applied>, Error> {
        let Some(endpoint) = &self.running.live.endpoint else { return Ok(vec![]) };
        set_bandwidth(self.shared, endpoint, wanted).await
    }

    fn hold(&self, restores: &[Restore], force: &Limits, lease: Duration) -> Request {
        let is_held = force.bandwidth != Bandwidth::default();
        let endpoint = self.running.live.endpoint.as_ref().filter(|_| is_held);
        let command = endpoint.and_then(|endpoint| {
            let own = &self.operator.bandwidth;
            let network = self.shared.networks.of(endpoint).ok()?;
            let bridge = network.config().bridge.clone();
            let mut command = self.shared.config.restore_bandwidth.clone();
            command.extend([bridge, endpoint.host_interface.clone()]);
            command.push(units::render_bandwidth(own.egress_bits_per_s, own.egress_burst_bytes));
            command.push(units::render_bandwidth(own.ingress_bits_per_s, own.ingress_burst_bytes));
            if force.bandwidth.egress_bulk {
                let table = network.config().table.clone();
                command.extend([table, endpoint.address.to_string()]);
            }
            Some(command)
        });
        let lease_ms = (lease + SHIM_GRACE).as_millis() as u64;
        Request::Hold(Hold { lease_ms, restore: restores.to_vec(), command })
    }

    async fn tell(&self, request: Request) -> Result<Option<Lapse>, Error> {
        tell(self.shared, self.cell, &request).await
    }

    async fn persist(&self, note: Option<ThrottleNote>) -> Result<(), Error> {
        persist(self.shared, self.cell, note).await
    }

    /// The shim gave the container back what was held.
    fn record_lapse(&self, held: &Limits) {
        let changed = limit_changes::forced(self.operator, held, &Limits::default());
        self.shared.record(self.cell, Act::LAPSED, changed);
    }

    fn tell_yield(&self, others: &BTreeSet<Actuator>) {
        let attributes = [("why", "another writer".to_owned()), ("actuators", listed(others))];
        self.shared.tell(self.cell, Action::Unthrottle, &attributes);
    }

    /// After a failure: the shim and the run file say again what is in force.
    async fn go_back(&self, known: Option<&Throttled>) {
        let told = match known {
            Some(known) => {
                let left = known.deadline.saturating_duration_since(Instant::now());
                let told = self.tell(self.hold(&known.restores, &known.force, left)).await;
                told.and(self.persist(Some(note(&known.restores, &known.force))).await)
            }
            None => {
                let told = self.tell(Request::LetGo).await;
                told.and(self.persist(None).await)
            }
        };
        told.unwrap_or_else(|error| self.warn_of_wide_hold(&error));
    }

    /// The shim will restore, at its time, what needs no restoring.
    fn warn_of_wide_hold(&self, error: &Error) {
        tracing::warn!(container_id = self.cell.id, error = error.chain(), "hold is too wide");
    }

    fn keep(
        &self,
        wanted: Throttle,
        lease: Lease,
        force: Limits,
        yielded: BTreeSet<Actuator>,
        restores: Vec<Restore>,
        known: Option<&Arc<Throttled>>,
    ) {
        let throttled = Throttled {
            wanted,
            owner: lease.owner,
            reason: lease.reason,
            since_unix_ns: known.map_or_else(unix_ns, |known| known.since_unix_ns),
            deadline: Instant::now() + lease.time,
            force,
            yielded,
            restores,
            causes: lease.causes,
        };
        self.cell.update(|inner| {
            if let Some(running) = &mut inner.running {
                running.throttled = Some(Arc::new(throttled));
            }
        });
        if known.is_none() {
            tokio::spawn(watch_lease(self.shared.clone(), self.cell.clone()));
        }
    }
}

async fn written_by_others(known: &Arc<Throttled>) -> Result<Vec<InForce>, Error> {
    let known = known.clone();
    let read = move || held::read_others(&known.force.resources, &known.restores);
    blocking("read limits in force", read).await
}

/// Releases when the lease ends; one task for as long as a throttle lasts.
async fn watch_lease(shared: Arc<Shared>, cell: Arc<Cell>) {
    let deadline = |cell: &Cell| {
        let inner = cell.lock();
        Some(inner.running.as_ref()?.throttled.as_ref()?.deadline)
    };
    let mut closing = shared.closing.subscribe();
    while let Some(at) = deadline(&cell) {
        tokio::select! {
            () = tokio::time::sleep_until(at.into()) => {}
            _ = closing.wait_for(|closing| *closing) => return,
        }
        let _op = cell.op.lock().await;
        if deadline(&cell).is_some_and(|deadline| deadline <= Instant::now()) {
            let running = cell.lock().running.clone();
            let Some(running) = running else { return };
            let Some(owner) = running.throttled.as_ref().map(|held| held.owner) else { return };
            let act = Act::expired(owner);
            if let Err(error) = release(&shared, &cell, &running, act).await {
                tracing::error!(container_id = cell.id, error = error.chain(), "not released");
            }
            return;
        }
    }
}

/// Back to the operator's limits, each file that still has our value. The caller holds `op`.
pub(super) async fn release(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    running: &Running,
    act: Act<'_>,
) -> Result<Vec<Applied>, Error> {
    let Some(throttled) = running.throttled.clone() else { return Ok(vec![]) };
    // What cannot be read now is told as if nobody else had written it.
    let others = written_by_others(&throttled).await.unwrap_or_default();
    let (mut applied, mut failed) = run_all(&cell.id, throttled.restores.clone()).await;
    if throttled.force.bandwidth != Bandwidth::default()
        && let Some(endpoint) = &running.live.endpoint
    {
        let operator = cell.lock().record.limits.bandwidth;
        match set_bandwidth(shared, endpoint, &operator).await {
            Ok(written) => applied.extend(written),
            Err(error) => {
                tracing::error!(container_id = cell.id, error = error.chain(), "not restored");
                failed += 1;
            }
        }
    }
    cell.update(|inner| {
        if let Some(running) = &mut inner.running {
            running.throttled = None;
        }
    });
    shared.record(cell, Act::FOUND, limit_changes::found(&throttled.force, &others));
    let ours = throttle::without(&throttled.force, &held::actuators_of(&others));
    let operator = cell.lock().record.limits.clone();
    shared.record(cell, act, limit_changes::forced(&operator, &ours, &Limits::default()));
    let why = match (act.party, act.kind) {
        (Party::Agent, _) => "agent ends",
        (_, ChangeKind::Expire) => "expired",
        _ => "released",
    };
    let attributes = [
        ("why", why.to_owned()),
        ("actuators", listed(&throttle::actuators(&throttled.force))),
        ("failed", failed.to_string()),
    ];
    shared.tell(cell, Action::Unthrottle, &attributes);
    if failed > 0 {
        // The shim tries again at its time, and the next agent by the run file.
        let what = format!("{failed} of its limits could not be restored yet");
        return Err(Error::failed("release the container", what));
    }
    tell(shared, cell, &Request::LetGo).await?;
    persist(shared, cell, None).await?;
    Ok(applied)
}

/// What an operator's change leaves of a throttle. The caller holds `op`, has written the
/// operator's values and recorded them.
pub(super) async fn yield_to_operator(
    shared: &Arc<Shared>,
    cell: &Arc<Cell>,
    patch: &LimitsPatch,
    change: &Limits,
) -> BTreeSet<Actuator> {
    let running = cell.lock().running.clone();
    let Some(running) = running else { return BTreeSet::new() };
    let Some(known) = running.throttled.clone() else { return BTreeSet::new() };
    let left = throttle::ended_by(patch, change, &known.force);
    let is_held = left.bandwidth != Bandwidth::default();
    // What the shim would run has the operator's bandwidth in both directions.
    if left == known.force && !(patch.changes_bandwidth() && is_held) {
        return BTreeSet::new();
    }
    let held = throttle::actuators(&left);
    let ended: BTreeSet<Actuator> =
        throttle::actuators(&known.force).difference(&held).copied().collect();
    let operator = cell.lock().record.limits.clone();
    let step = Step { shared, cell, running: &running, operator: &operator };
    let none = Resources::default();
    // `memory.high` ends with a memory limit that does not write it.
    let gone = throttle::dropped(&known.force.resources, &left.resources);
    let base_of = |like: &Resources| throttle::state_of(&operator.resources, &none, like);
    let restores = |like: &Resources| running.group.restores(&base_of(like), &[like]);
    match (restores(&gone), restores(&left.resources)) {
        (Ok(gone), Ok(rest)) => {
            run_all(&cell.id, gone).await;
            let time = known.deadline.saturating_duration_since(Instant::now());
            let told = match left == Limits::default() {
                true => step.tell(Request::LetGo).await.and(step.persist(None).await),
                false => {
                    let told = step.tell(step.hold(&rest, &left, time)).await;
                    told.and(step.persist(Some(note(&rest, &left))).await)
                }
            };
            told.unwrap_or_else(|error| step.warn_of_wide_hold(&error));
            cell.update(|inner| {
                if let Some(running) = &mut inner.running {
                    let mut yielded = known.yielded.clone();
                    yielded.extend(&ended);
                    let next =
                        Throttled { force: left, restores: rest, yielded, ..(*known).clone() };
                    running.throttled = Some(Arc::new(next));
                }
            });
        }
        (Err(error), _) | (_, Err(error)) => {
            tracing::error!(container_id = cell.id, %error, "throttle not ended");
        }
    }
    if ended.is_empty() {
        return ended;
    }
    let why = [("why", "operator".to_owned()), ("actuators", listed(&ended))];
    shared.tell(cell, Action::Unthrottle, &why);
    ended
}

fn listed(actuators: &BTreeSet<Actuator>) -> String {
    actuators.iter().map(|a| a.as_str()).collect::<Vec<_>>().join(",")
}
