//! Did it help? At the end of its trial a limit has lowered the severity, or it is undone
//! and not tried again for a while.

use super::Round;
use super::give_up::doubled;
use crate::decision::{Kind, Reason};
use crate::state::{Claim, CoolDown, Watch, push_bounded};
use crate::types::Resource;

pub(super) fn judge(round: &mut Round) {
    let mut index = 0;
    while index < round.state.holds.len() {
        let hold = &round.state.holds[index];
        let (resource, culprit) = (hold.resource, hold.container.clone());
        let is_over = |claim: &Claim| is_over(round, resource, claim);
        let over: Vec<bool> = hold.claims.iter().map(is_over).collect();
        if !over.contains(&true) {
            index += 1;
            continue;
        }
        let claims = std::mem::take(&mut round.state.holds[index].claims);
        let mut failed = None;
        for (mut claim, over) in claims.into_iter().zip(over) {
            if over && !helped(round, resource, &claim) {
                cool_down(round, &claim, &culprit, resource);
                failed = Some(claim);
                continue;
            }
            if over {
                claim.trial_until_ms = None;
            }
            round.state.holds[index].claims.push(claim);
        }
        match failed {
            Some(claim) if round.state.holds[index].claims.is_empty() => {
                round.end_hold(index, (Kind::Undo, Reason::DidNotHelp), None, &claim);
            }
            _ => index += 1,
        }
    }
}

/// The trial's time is up, and it is known how the victim does.
fn is_over(round: &Round, resource: Resource, claim: &Claim) -> bool {
    let is_blind = || round.state.watch(&claim.victim, resource).is_some_and(Watch::is_blind);
    claim.trial_until_ms.is_some_and(|until| until <= round.look.now_ms) && !is_blind()
}

/// The victim is no longer bad, or by a good part less so.
fn helped(round: &Round, resource: Resource, claim: &Claim) -> bool {
    let Some(watch) = round.state.watch(&claim.victim, resource) else { return true };
    let wanted = claim.severity * (1.0 - round.look.policy.act.least_help);
    watch.severity <= wanted.max(1.0)
}

/// Twice as long as the last time, if that is not forgotten.
fn cool_down(round: &mut Round, claim: &Claim, culprit: &str, resource: Resource) {
    let act = &round.look.policy.act;
    let is_pair = |old: &CoolDown| {
        old.victim == claim.victim && old.culprit == culprit && old.resource == resource
    };
    let known = round.state.cooldowns.iter().find(|old| is_pair(old)).map_or(0, |old| old.times);
    round.state.cooldowns.retain(|old| !is_pair(old));
    let wait_ms = doubled(act.cooldown_ms, known).min(act.most_cooldown_ms);
    let until_ms = round.look.now_ms.saturating_add(wait_ms);
    let cooldown = CoolDown {
        victim: claim.victim.clone(),
        culprit: culprit.to_owned(),
        resource,
        until_ms,
        forget_at_ms: until_ms.saturating_add(wait_ms),
        times: known.saturating_add(1),
    };
    push_bounded(&mut round.state.cooldowns, cooldown);
}
