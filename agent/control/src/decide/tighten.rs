//! For each victim that is bad: one resource, its culprits, one step.

use super::explain::{Change, Who};
use super::give_up::doubled;
use super::observe::{Seen, SeenAt};
use super::{Round, ladder};
use crate::actuator::Actuator;
use crate::decision::{Kind, Reason};
use crate::rates::{ContainerRates, Wish};
use crate::state::{Claim, Hold, Lease, MAX_HOLDS, Said, push_bounded};
use crate::types::{Mode, Resource};

/// A neighbour of somebody who is not protected must take so many times as much as it.
const MUCH_MORE: f64 = 2.0;
/// Who is blamed for so much of what the largest is blamed for is as guilty.
const AS_GUILTY: f64 = 0.5;

pub(super) fn tighten(round: &mut Round) {
    let seen = round.seen;
    let mut bad: Vec<&Seen> =
        seen.iter().filter(|seen| !at_fault(round, seen).is_empty()).collect();
    let severity = |seen: &Seen| seen.at.iter().map(|at| at.severity).fold(0.0, f64::max);
    bad.sort_by(|a, b| {
        severity(b).total_cmp(&severity(a)).then_with(|| a.container.id.cmp(&b.container.id))
    });
    for victim in bad {
        let acts = victim.protected && round.look.policy.mode != Mode::Advise;
        let mut focus = None;
        for at in at_fault(round, victim) {
            advise(round, victim, at);
            if acts && work_at(round, victim, at) {
                focus = Some(at.resource);
                break;
            }
        }
        if let Some(state) = round.state.victims.get_mut(&victim.container.id) {
            state.focus = focus;
        }
    }
}

/// The resources at which a neighbour has hurt this victim for long enough: the one that is
/// worked at first, then by what the neighbours are blamed for.
fn at_fault<'s>(round: &Round, victim: &'s Seen<'s>) -> Vec<&'s SeenAt<'s>> {
    let Some(state) = round.state.victims.get(&victim.container.id) else { return Vec::new() };
    let is_bad = |at: &&SeenAt| {
        let looks = state.watches.get(&at.resource).map_or(0, |watch| watch.bad_looks);
        looks >= round.look.policy.detect.bad_looks
    };
    let mut bad: Vec<&SeenAt> = victim.at.iter().filter(is_bad).collect();
    let seconds = |at: &SeenAt| at.blamed.as_ref().map_or(0.0, |blamed| blamed.seconds());
    bad.sort_by(|a, b| {
        let focused = |at: &SeenAt| state.focus == Some(at.resource);
        focused(b).cmp(&focused(a)).then(seconds(b).total_cmp(&seconds(a)))
    });
    bad
}

/// One step against the culprits. What takes only what others want goes to all of them at
/// once; what takes more, to the largest and who is as guilty. `false`: nothing is left to do
/// and nothing is under way, so another resource may be worked at.
fn work_at(round: &mut Round, victim: &Seen, at: &SeenAt) -> bool {
    let Some(blamed) = &at.blamed else { return false };
    let (look, resource) = (round.look, at.resource);
    let (mut busy, mut hard) = (false, None);
    for (id, seconds) in &blamed.neighbours {
        let Some(culprit) = look.container(id) else { continue };
        let guilty = *seconds >= look.policy.detect.least_share * blamed.wait;
        if !guilty || !may_try(round, victim, culprit, resource) {
            continue;
        }
        if let Some(hold) = round.claimed(victim, at, id) {
            let settling =
                look.now_ms.saturating_sub(hold.changed_at_ms) < look.policy.act.settle_ms;
            let on_trial = |claim: &Claim| {
                claim.victim == victim.container.id && claim.trial_until_ms.is_some()
            };
            busy |= settling || hold.claims.iter().any(on_trial);
            let is_hard = |lease: &Lease| !lease.actuator.is_work_conserving();
            if settling {
                if hold.leases.last().is_some_and(is_hard) {
                    hard.get_or_insert(*seconds);
                }
                continue;
            }
        }
        let hold = round.state.hold(id, resource);
        let severity = round.severity(victim, at);
        let is_free = |actuator: &Actuator| round.state.is_free(id, resource, actuator);
        let step =
            ladder::next_step(look, hold, culprit, victim.container, resource, severity, is_free);
        let Some((actuator, value)) = step else { continue };
        // The largest comes first.
        if !actuator.is_work_conserving() && *seconds < AS_GUILTY * *hard.get_or_insert(*seconds) {
            continue;
        }
        busy |= take(round, victim, at, culprit, actuator, value);
    }
    busy
}

/// Whether this container may be limited for this victim now.
fn may_try(round: &Round, victim: &Seen, culprit: &ContainerRates, resource: Resource) -> bool {
    let (id, now_ms) = (&culprit.id, round.look.now_ms);
    round.look.policy.may_limit(culprit)
        && !round.state.is_marked(id, resource)
        && !round.state.cooldowns.iter().any(|cooldown| {
            cooldown.victim == victim.container.id
                && cooldown.culprit == *id
                && cooldown.resource == resource
                && cooldown.until_ms > now_ms
        })
}

/// Takes or tightens a lease. `false` if there are too many.
fn take(
    round: &mut Round,
    victim: &Seen,
    at: &SeenAt,
    culprit: &ContainerRates,
    actuator: Actuator,
    value: f64,
) -> bool {
    let (now_ms, resource) = (round.look.now_ms, at.resource);
    if round.state.hold(&culprit.id, resource).is_none() {
        if round.state.holds.len() >= MAX_HOLDS {
            return false;
        }
        let hold = round.new_hold(culprit, resource);
        round.state.holds.push(hold);
        round.claimed(victim, at, &culprit.id);
    }
    let lease = round.state.hold(&culprit.id, resource).and_then(|hold| hold.lease(&actuator));
    let before = match lease {
        Some(lease) => Some(lease.value),
        None => culprit.wish(&actuator).limit,
    };
    let change = Change { actuator: Some(actuator), before, after: Some(value) };
    let who = Who { id: &culprit.id, name: &culprit.name };
    let decision = round.explained(
        (Kind::Tighten, Reason::ObjectiveMissed),
        resource,
        who,
        victim.who(),
        change,
    );
    round.decisions.push(decision);
    let act = &round.look.policy.act;
    let is_it = |hold: &&mut Hold| hold.container == culprit.id && hold.resource == resource;
    let hold = round.state.holds.iter_mut().find(is_it).expect("it was there or was made");
    if hold.loosening {
        // It turned twice: not again before two such times are over.
        hold.loosening = false;
        hold.again = hold.again.saturating_add(1);
        hold.rest_until_ms = now_ms.saturating_add(2 * act.turn_ms);
    }
    hold.changed_at_ms = now_ms;
    hold.quiet_since_ms = None;
    let too_loose_until_ms = now_ms.saturating_add(doubled(act.remember_ms, hold.again));
    match hold.leases.iter_mut().find(|lease| lease.actuator == actuator) {
        Some(lease) => {
            lease.too_loose = Some(lease.value);
            lease.too_loose_until_ms = too_loose_until_ms;
            lease.value = value;
            lease.step += 1;
        }
        None => {
            let wish = culprit.wish(&actuator);
            // Bandwidth may be held for the CPU's sake.
            hold.wishes.extend((wish != Wish::default()).then_some((actuator, wish)));
            hold.leases.push(Lease {
                actuator,
                wish,
                value,
                used_before: ladder::used(culprit, &actuator),
                too_loose: None,
                too_loose_until_ms,
                taken_at_ms: now_ms,
                step: 1,
            })
        }
    }
    true
}

/// Says what would help: what would be done in another mode, or which class is missing.
fn advise(round: &mut Round, victim: &Seen, at: &SeenAt) {
    let (look, resource) = (round.look, at.resource);
    let Some(blamed) = &at.blamed else { return };
    let Some((id, _)) = blamed.neighbours.first() else { return };
    let Some(culprit) = look.container(id) else { return };
    let reason = if !victim.protected {
        // Who takes as much is no victim but a competitor.
        let [taken, own] = [culprit, victim.container].map(|c| ladder::taken(c, resource));
        if taken < MUCH_MORE * own {
            return;
        }
        Reason::VictimNotProtected
    } else if culprit.foreign && !look.policy.limit_foreign {
        Reason::CulpritForeign
    } else if !look.policy.may_limit(culprit) {
        Reason::CulpritNotBestEffort
    } else if look.policy.mode == Mode::Advise {
        Reason::ObjectiveMissed
    } else {
        return;
    };
    let is_pair = |said: &Said| {
        said.victim == victim.container.id && said.culprit == *id && said.resource == resource
    };
    if round.state.said.iter().any(is_pair) {
        return;
    }
    let mut change = Change::default();
    if reason == Reason::ObjectiveMissed {
        let severity = round.severity(victim, at);
        let is_free = |actuator: &Actuator| round.state.is_free(id, resource, actuator);
        let step =
            ladder::next_step(look, None, culprit, victim.container, resource, severity, is_free);
        let Some((actuator, value)) = step else { return };
        change = Change {
            actuator: Some(actuator),
            before: culprit.wish(&actuator).limit,
            after: Some(value),
        };
    }
    let who = Who { id: &culprit.id, name: &culprit.name };
    let decision = round.explained((Kind::Advise, reason), resource, who, victim.who(), change);
    round.decisions.push(decision);
    let said = Said {
        victim: victim.container.id.clone(),
        culprit: culprit.id.clone(),
        resource,
        until_ms: look.now_ms.saturating_add(look.policy.act.advice_ms),
    };
    push_bounded(&mut round.state.said, said);
}

impl Round<'_> {
    /// How bad it is for the next cut: the last look counts where it is the better one, or a
    /// cut that helped would be followed by another before it shows in the mean.
    fn severity(&self, victim: &Seen, at: &SeenAt) -> f64 {
        let watch = self.state.watch(&victim.container.id, at.resource);
        watch.map_or(at.severity, |watch| watch.severity.min(at.severity))
    }

    /// The culprit's hold, if it has one, now also for this victim's sake.
    fn claimed(&mut self, victim: &Seen, at: &SeenAt, culprit: &str) -> Option<&Hold> {
        let id = &victim.container.id;
        let severity = self.state.watch(id, at.resource).map_or(0.0, |watch| watch.severity);
        let claim = Claim {
            victim: id.clone(),
            name: victim.container.name.clone(),
            severity,
            since_ms: self.look.now_ms,
            trial_until_ms: Some(self.look.now_ms.saturating_add(self.look.policy.act.trial_ms)),
        };
        let holds = self.state.holds.iter_mut();
        let hold = holds
            .filter(|hold| hold.resource == at.resource)
            .find(|hold| hold.container == culprit)?;
        if !hold.claims.iter().any(|known| known.victim == *id) {
            hold.claims.push(claim);
        }
        Some(hold)
    }

    fn new_hold(&self, culprit: &ContainerRates, resource: Resource) -> Hold {
        let known = self
            .state
            .memories
            .iter()
            .find(|memory| memory.container == culprit.id && memory.resource == resource);
        let again = known.map_or(0, |memory| memory.times);
        let turns = if again > 0 { 2 } else { 1 };
        Hold {
            container: culprit.id.clone(),
            name: culprit.name.clone(),
            resource,
            mode: self.look.policy.mode,
            wishes: culprit.wishes_for(resource).collect(),
            leases: Vec::new(),
            claims: Vec::new(),
            changed_at_ms: self.look.now_ms,
            rest_until_ms: self.look.now_ms.saturating_add(turns * self.look.policy.act.turn_ms),
            loosening: false,
            quiet_since_ms: None,
            again,
        }
    }
}

impl Seen<'_> {
    fn who(&self) -> Who<'_> {
        Who { id: &self.container.id, name: &self.container.name }
    }
}
