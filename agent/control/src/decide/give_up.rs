//! Leases that are over: somebody else set the limit, the policy no longer wants it, or
//! there is nobody left to limit or to limit for.

use super::explain::{Change, Who};
use super::{Look, Round, ladder};
use crate::actuator::Actuator;
use crate::decision::{Kind, Reason};
use crate::policy::Policy;
use crate::rates::ContainerRates;
use crate::state::{Claim, Hold, Lease, Mark, Memory, push_bounded};
use crate::types::{Class, Mode, Resource};

/// A culprit that uses less than this part of what it used, and of what it may, wants little.
const LITTLE_OF_BEFORE: f64 = 0.1;
const LITTLE_OF_LIMIT: f64 = 0.5;
/// Who stands in a queue wants more than it gets; seconds per second.
const LITTLE_WAIT: f64 = 0.05;
/// An idle window that grows with each time is never longer.
const MOST_IDLE_MS: u64 = 60_000;
const MOST_DOUBLINGS: u32 = 5;

pub(super) fn give_up(round: &mut Round) {
    let mut index = 0;
    while index < round.state.holds.len() {
        let ended = end_of(round, index);
        match ended {
            Some((kind, reason, actuator, victim)) => {
                round.end_hold(index, (kind, reason), actuator, &victim);
            }
            None => index += 1,
        }
    }
}

type End = (Kind, Reason, Option<Actuator>, Claim);

/// Why this hold is over, if it is: for [`Kind::Yield`] with what somebody else set. Drops
/// the claims that are over.
fn end_of(round: &mut Round, index: usize) -> Option<End> {
    let look = round.look;
    let hold = &round.state.holds[index];
    let first = hold.claims.first().expect("a hold without a claim was given up").clone();
    let Some(culprit) = look.container(&hold.container) else {
        return Some((Kind::Release, Reason::CulpritGone, None, first));
    };
    if let Some((reason, actuator)) = touched(look, hold, culprit) {
        return Some((Kind::Yield, reason, Some(actuator), first));
    }
    if hold.mode != look.policy.mode || !look.policy.may_limit(culprit) || !allowed(look, hold) {
        return Some((Kind::Release, Reason::PolicyChanged, None, first));
    }
    let window = idle_window(look.policy, hold);
    let since = hold.quiet_since_ms.unwrap_or(look.now_ms);
    let quiet_since = wants_little(look, hold, culprit).then_some(since);
    let quiet = quiet_since.is_some_and(|since| look.now_ms.saturating_sub(since) >= window);
    let mut last = None;
    let ended = |claim: &Claim| {
        let resource = hold.resource;
        match look.container(&claim.victim) {
            None => Some(Reason::VictimGone),
            Some(victim) if look.policy.standing(victim).class != Class::Protected => {
                Some(Reason::PolicyChanged)
            }
            Some(_) if round.is_idle(&claim.victim, resource, window) => Some(Reason::VictimIdle),
            Some(_) => None,
        }
    };
    let reasons: Vec<Option<Reason>> = hold.claims.iter().map(ended).collect();
    let hold = &mut round.state.holds[index];
    hold.quiet_since_ms = quiet_since;
    let mut reasons = reasons.into_iter();
    hold.claims.retain(|claim| match reasons.next().flatten() {
        Some(reason) => {
            last = Some((Kind::Release, reason, None, claim.clone()));
            false
        }
        None => true,
    });
    match hold.claims.is_empty() {
        true => last,
        false => quiet.then_some((Kind::Release, Reason::CulpritIdle, None, first)),
    }
}

/// What somebody else did to this resource: a new wish of the operator, or another value in
/// the kernel than the one that was written before this look.
fn touched(look: &Look, hold: &Hold, culprit: &ContainerRates) -> Option<(Reason, Actuator)> {
    if let Some(actuator) = changed_wish(hold, culprit) {
        return Some((Reason::OperatorChanged, actuator));
    }
    // Nothing was written in a dry run.
    if hold.mode != Mode::Enforce || look.rates.at_ms <= hold.changed_at_ms {
        return None;
    }
    let is_idle = hold.lease(&Actuator::CpuIdle).is_some();
    let is_others = |lease: &&Lease| {
        // The kernel hides the weight of who is idle.
        let hidden = is_idle && lease.actuator == Actuator::CpuWeight;
        let in_force = culprit.in_force.get(&lease.actuator).copied();
        !hidden && !ladder::is_same(&lease.actuator, in_force, Some(lease.value))
    };
    let lease = hold.leases.iter().find(is_others)?;
    Some((Reason::SomebodyElseWrote, lease.actuator))
}

/// The actuator at which the operator wants something else than when the hold began. One
/// that we turn is named before one that we do not.
fn changed_wish(hold: &Hold, culprit: &ContainerRates) -> Option<Actuator> {
    let before = |actuator: &Actuator| hold.wishes.get(actuator).copied().unwrap_or_default();
    let is_changed = |actuator: &Actuator| culprit.wish(actuator) != before(actuator);
    let leased = hold.leases.iter().map(|lease| lease.actuator);
    let now = culprit.wishes_for(hold.resource).map(|(actuator, _)| actuator);
    leased.chain(hold.wishes.keys().copied()).chain(now).find(is_changed)
}

fn allowed(look: &Look, hold: &Hold) -> bool {
    hold.leases.iter().all(|lease| look.policy.act.allow.contains(&lease.actuator.kind()))
}

/// Whether the culprit would not need more if it were let go: it uses little, and not
/// because of the limit.
fn wants_little(look: &Look, hold: &Hold, culprit: &ContainerRates) -> bool {
    // Who comes last may get next to nothing of what others want; a rate's bound shows.
    let comes_last =
        [(Actuator::IoWeight, Resource::Disk), (Actuator::NetPriority, Resource::Network)];
    let is_kept_waiting = |(actuator, resource): (Actuator, Resource)| {
        hold.lease(&actuator).is_some() && look.wait(&culprit.id, resource) >= LITTLE_WAIT
    };
    culprit.cpu.wait < LITTLE_WAIT
        && !comes_last.into_iter().any(is_kept_waiting)
        && hold.leases.iter().all(|lease| {
            let used = ladder::used(culprit, &lease.actuator);
            let is_bound =
                !lease.actuator.is_work_conserving() && used >= LITTLE_OF_LIMIT * lease.value;
            used < LITTLE_OF_BEFORE * lease.used_before && !is_bound
        })
}

/// How long somebody must be without load. One that comes and goes is let go later each
/// time, so that the limit does not come and go with it.
fn idle_window(policy: &Policy, hold: &Hold) -> u64 {
    let idle_ms = policy.act.idle_ms;
    doubled(idle_ms, hold.again).min(MOST_IDLE_MS.max(idle_ms))
}

impl Round<'_> {
    /// Gives all leases of a hold up, the last taken first. With [`Kind::Yield`] the named
    /// actuator is left to who wrote it, and the resource left alone for a while.
    pub fn end_hold(
        &mut self,
        index: usize,
        why: (Kind, Reason),
        touched: Option<Actuator>,
        victim: &Claim,
    ) {
        let hold = self.state.holds[index].clone();
        let culprit = self.look.container(&hold.container);
        let victim = Who { id: &victim.victim, name: &victim.name };
        for lease in hold.leases.iter().rev() {
            let actuator = lease.actuator;
            let is_touched = touched == Some(actuator);
            let wish = culprit.map_or(lease.wish, |culprit| culprit.wish(&actuator));
            let in_force = culprit.and_then(|culprit| culprit.in_force.get(&actuator).copied());
            let by_operator = why.1 == Reason::OperatorChanged;
            let after = if is_touched && !by_operator { in_force } else { wish.limit };
            let kind = match why.0 {
                Kind::Yield if !is_touched => Kind::Release,
                kind => kind,
            };
            let change = Change { actuator: Some(actuator), before: Some(lease.value), after };
            let decision = self.explained((kind, why.1), hold.resource, hold.who(), victim, change);
            self.decisions.push(decision);
        }
        if let (Some(actuator), Some(culprit)) = (touched, culprit) {
            let mark = Mark {
                was_refused: false,
                container: hold.container.clone(),
                actuator,
                by_operator: why.1 == Reason::OperatorChanged,
                wish: culprit.wish(&actuator),
                in_force: culprit.in_force.get(&actuator).copied(),
                until_ms: self.look.now_ms.saturating_add(self.look.policy.act.respect_ms),
            };
            push_bounded(&mut self.state.marks, mark);
        }
        self.state.holds.remove(index);
        self.remember(&hold);
    }

    /// What was learnt of this hold, for the next one.
    pub fn remember(&mut self, hold: &Hold) {
        let act = &self.look.policy.act;
        let (container, resource) = (hold.container.clone(), hold.resource);
        self.state.memories.retain(|old| old.container != container || old.resource != resource);
        let times = hold.again.saturating_add(1);
        let forget_at_ms =
            self.look.now_ms.saturating_add(doubled(act.remember_ms, times).saturating_mul(2));
        let memory = Memory { container, resource, times, forget_at_ms };
        push_bounded(&mut self.state.memories, memory);
    }
}

/// `base` doubled once for each time, a bounded number of times.
pub(super) fn doubled(base_ms: u64, times: u32) -> u64 {
    base_ms.saturating_mul(1 << times.min(MOST_DOUBLINGS))
}
