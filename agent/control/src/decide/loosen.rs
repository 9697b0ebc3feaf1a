//! Giving back, a little at a time, while every victim stays well. The last taken goes first.

use super::explain::{Change, Who};
use super::{Round, ladder};
use crate::decision::{Kind, Reason};
use crate::state::{Hold, Lease};

pub(super) fn loosen(round: &mut Round) {
    let mut index = 0;
    while index < round.state.holds.len() {
        if may_loosen(round, &round.state.holds[index]) {
            give_back(round, index);
        }
        match round.state.holds[index].leases.is_empty() {
            true => {
                let hold = round.state.holds.remove(index);
                round.remember(&hold);
            }
            false => index += 1,
        }
    }
}

/// All victims have been well for long enough and none is worked at elsewhere, the last
/// change had time to show, and it did not turn a moment ago.
fn may_loosen(round: &Round, hold: &Hold) -> bool {
    let look = round.look;
    let act = &look.policy.act;
    look.now_ms >= hold.rest_until_ms
        && look.now_ms.saturating_sub(hold.changed_at_ms) >= act.give_back_ms
        && hold.claims.iter().all(|claim| {
            let victim = round.state.victims.get(&claim.victim);
            victim.is_none_or(|victim| {
                let watch = victim.watches.get(&hold.resource);
                watch.is_none_or(|watch| watch.calm_looks >= look.policy.detect.well_looks)
                    && victim.focus.is_none_or(|focus| focus == hold.resource)
            })
        })
}

fn give_back(round: &mut Round, index: usize) {
    let look = round.look;
    let hold = &round.state.holds[index];
    let Some(lease) = hold.leases.last() else { return };
    let Some(to) = next_value(round, hold, lease) else { return };
    let (kind, after) = match to {
        Next::Value(value) => (Kind::Loosen, Some(value)),
        Next::Released => (Kind::Release, lease.wish.limit),
    };
    let change = Change { actuator: Some(lease.actuator), before: Some(lease.value), after };
    let claim = hold.claims.first().expect("a hold without a claim was given up");
    let victim = Who { id: &claim.victim, name: &claim.name };
    let why = (kind, Reason::VictimWell);
    let decision = round.explained(why, hold.resource, hold.who(), victim, change);
    round.decisions.push(decision);
    let hold = &mut round.state.holds[index];
    hold.loosening = true;
    hold.changed_at_ms = look.now_ms;
    match (to, hold.leases.last_mut()) {
        (Next::Value(value), Some(lease)) => lease.value = value,
        _ => drop(hold.leases.pop()),
    }
}

enum Next {
    Value(f64),
    Released,
}

/// One step looser; `None` while that would come near a value that was too loose.
fn next_value(round: &Round, hold: &Hold, lease: &Lease) -> Option<Next> {
    let look = round.look;
    let act = &look.policy.act;
    let remembered = look.now_ms < lease.too_loose_until_ms;
    if lease.actuator.is_work_conserving() {
        // It costs the culprit nothing but what the victim takes, so there is nothing to
        // gain by probing.
        return (!remembered).then_some(Next::Released);
    }
    let culprit = look.container(&hold.container)?;
    let (_, ceilings) = look.policy.bounds(culprit);
    let ceiling = ladder::bound(&ceilings, &lease.actuator).unwrap_or(f64::INFINITY);
    let wish = lease.wish.limit.unwrap_or(f64::INFINITY);
    let step = (act.give_back * lease.used_before).max(act.least_change * lease.value);
    let wanted = ladder::round_up(&lease.actuator, lease.value + step);
    if !remembered && wanted >= lease.used_before.min(ceiling).min(wish) {
        return Some(Next::Released);
    }
    if !remembered {
        return Some(Next::Value(wanted));
    }
    let too_loose = lease.too_loose.unwrap_or(lease.used_before);
    let value = wanted.min(ceiling).min(wish).min(too_loose * (1.0 - act.margin));
    (value >= lease.value * (1.0 + act.least_change)).then_some(Next::Value(value))
}
