//! What is remembered from one look to the next, and nothing else: with [`crate::Policy`]
//! and [`crate::Rates`] it determines the decisions. It is logged and restored whole.
//!
//! A quiet host's state is empty. All lists are bounded; the oldest entry goes first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::actuator::Actuator;
use crate::rates::{Wish, Wishes, is_default};
use crate::types::{Mode, Resource};

/// Looks in a row at which a latency that cannot be had leaves everything as it is. After
/// that it counts as no objective, so that nobody is held for ever for its sake.
const MOST_BLIND_LOOKS: u32 = 60;
/// Containers that are held at a time.
pub const MAX_HOLDS: usize = 64;
/// Cool-downs, marks, memories and advice, each.
pub const MAX_REMEMBERED: usize = 256;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct State {
    /// Containers that are not well, or lately were not, by id.
    #[serde(skip_serializing_if = "is_default")]
    pub victims: BTreeMap<String, Victim>,
    #[serde(skip_serializing_if = "is_default")]
    pub holds: Vec<Hold>,
    #[serde(skip_serializing_if = "is_default")]
    pub cooldowns: Vec<CoolDown>,
    #[serde(skip_serializing_if = "is_default")]
    pub marks: Vec<Mark>,
    #[serde(skip_serializing_if = "is_default")]
    pub memories: Vec<Memory>,
    #[serde(skip_serializing_if = "is_default")]
    pub said: Vec<Said>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Victim {
    pub watches: BTreeMap<Resource, Watch>,
    /// Others are limited for its sake; else advice is all there is.
    pub protected: bool,
    /// The one resource that is worked at.
    #[serde(skip_serializing_if = "is_default")]
    pub focus: Option<Resource>,
}

/// How a victim does at one resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Watch {
    /// Measured value by objective, the worst one, smoothed: above 1 is bad.
    pub severity: f64,
    /// Looks in a row at which it was bad.
    #[serde(skip_serializing_if = "is_default")]
    pub bad_looks: u32,
    /// Looks in a row at which it was well, or not for a neighbour's sake bad.
    #[serde(skip_serializing_if = "is_default")]
    pub calm_looks: u32,
    /// Since when it has not wanted the resource; `None` if it does.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_since_ms: Option<u64>,
    /// Looks in a row at which a latency that is an objective was not known.
    #[serde(skip_serializing_if = "is_default")]
    pub blind_looks: u32,
}

impl Watch {
    /// What is not known makes its victim neither well nor unwell.
    pub(crate) fn is_blind(&self) -> bool {
        (1..=MOST_BLIND_LOOKS).contains(&self.blind_looks)
    }
}

/// One container that is limited at one resource: by what, and for whose sake.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// The culprit's id.
    pub container: String,
    pub name: String,
    pub resource: Resource,
    /// Leases of another mode than the policy's are given up.
    pub mode: Mode,
    /// The operator's wishes for this resource when it was taken: another one now, at
    /// whichever actuator, ends the hold.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wishes: Wishes,
    /// In the order in which they were taken, the gentlest first; the last is given back
    /// first.
    pub leases: Vec<Lease>,
    /// The victims. It is given back when all are well, and at once when none is left.
    pub claims: Vec<Claim>,
    /// The last change of any of the leases.
    pub changed_at_ms: u64,
    /// Nothing is given back before, so that it changes direction at most once a minute on
    /// average.
    pub rest_until_ms: u64,
    /// The last change gave back.
    pub loosening: bool,
    /// Since when the culprit has wanted little; `None` if it does not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quiet_since_ms: Option<u64>,
    /// How often it was taken again before it was forgotten.
    #[serde(default, skip_serializing_if = "is_default")]
    pub again: u32,
}

/// One limit that is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub actuator: Actuator,
    /// The operator's wish when it was taken, which is in force again when it ends.
    #[serde(default, skip_serializing_if = "is_default")]
    pub wish: Wish,
    pub value: f64,
    /// What the container used when it was taken, in the actuator's unit. A step of giving
    /// back is a part of this.
    pub used_before: f64,
    /// A value that was not enough, see `too_loose_until_ms`. `None`: no limit was not.
    #[serde(default, skip_serializing_if = "is_default")]
    pub too_loose: Option<f64>,
    /// Until then the lease stays clear of it.
    pub too_loose_until_ms: u64,
    pub taken_at_ms: u64,
    /// How often it was tightened.
    pub step: u32,
}

/// A victim for whose sake a container is held.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    pub victim: String,
    pub name: String,
    /// When the claim was made: less by a tenth at the end of the trial, or it did not help.
    pub severity: f64,
    pub since_ms: u64,
    /// `None`: the trial is over and it helped.
    #[serde(default, skip_serializing_if = "is_default")]
    pub trial_until_ms: Option<u64>,
}

/// What did not help is not tried again for a while.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoolDown {
    pub victim: String,
    pub culprit: String,
    pub resource: Resource,
    pub until_ms: u64,
    /// Kept beyond `until_ms` for as long again, so that the next one is twice as long.
    pub forget_at_ms: u64,
    pub times: u32,
}

/// Somebody else set this, or the runtime could not: it is left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub container: String,
    pub actuator: Actuator,
    /// The mark ends when the wish is another one, or, unless it was the operator, what is
    /// in force.
    pub by_operator: bool,
    /// It says nothing of the resource's other actuators.
    #[serde(default, skip_serializing_if = "is_default")]
    pub was_refused: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub wish: Wish,
    #[serde(default, skip_serializing_if = "is_default")]
    pub in_force: Option<f64>,
    pub until_ms: u64,
}

/// What was learnt of a limit that was given back, for the next time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    pub container: String,
    pub resource: Resource,
    /// How often it was taken.
    pub times: u32,
    pub forget_at_ms: u64,
}

/// Advice that was given, and is not repeated before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    pub victim: String,
    pub culprit: String,
    pub resource: Resource,
    pub until_ms: u64,
}

impl State {
    /// Every limit that is in force because of us, with its hold. The agent renews these
    /// leases and no others.
    pub fn leases(&self) -> impl Iterator<Item = (&Hold, &Lease)> {
        self.holds.iter().flat_map(|hold| hold.leases.iter().map(move |lease| (hold, lease)))
    }

    /// Nobody is held, and nobody bad for whom somebody could be: such a look is not worth
    /// a record.
    pub fn is_quiet(&self) -> bool {
        self.holds.is_empty() && !self.victims.values().any(|victim| victim.protected)
    }

    /// The runtime could not set this limit: the lease is over, and this actuator left alone for
    /// a while, while the next one of the resource may do. An error is no reason to try again
    /// each second.
    pub fn refuse(&mut self, container: &str, actuator: &Actuator, until_ms: u64) {
        let actuator = *actuator;
        let mut wish = Wish::default();
        for hold in &mut self.holds {
            if hold.container == container {
                hold.leases.retain(|lease| {
                    let is_refused = lease.actuator == actuator;
                    if is_refused {
                        wish = lease.wish;
                    }
                    !is_refused
                });
            }
        }
        self.holds.retain(|hold| !hold.leases.is_empty());
        let container = container.to_owned();
        let mark = Mark {
            container,
            actuator,
            by_operator: true,
            was_refused: true,
            wish,
            in_force: None,
            until_ms,
        };
        push_bounded(&mut self.marks, mark);
    }

    pub(crate) fn hold(&self, container: &str, resource: Resource) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.container == container && hold.resource == resource)
    }

    pub(crate) fn is_marked(&self, container: &str, resource: Resource) -> bool {
        self.marks.iter().any(|mark| {
            mark.container == container && mark.actuator.resource() == resource && !mark.was_refused
        })
    }

    /// Whether a hold for this resource may turn it: what is another resource's may be left to
    /// somebody else, or be turned by another hold.
    pub(crate) fn is_free(&self, container: &str, resource: Resource, actuator: &Actuator) -> bool {
        let turned = |(hold, lease): (&Hold, &Lease)| {
            hold.container == container && hold.resource != resource && lease.actuator == *actuator
        };
        let is_own = actuator.resource() == resource;
        let refused = |mark: &Mark| {
            mark.was_refused && mark.container == container && mark.actuator == *actuator
        };
        !self.marks.iter().any(refused)
            && (is_own || !self.is_marked(container, actuator.resource()))
            && !self.leases().any(turned)
    }

    pub(crate) fn is_claimed(&self, victim: &str) -> bool {
        self.holds.iter().flat_map(|hold| &hold.claims).any(|claim| claim.victim == victim)
    }

    pub(crate) fn watch(&self, victim: &str, resource: Resource) -> Option<&Watch> {
        self.victims.get(victim)?.watches.get(&resource)
    }
}

/// The oldest goes when there are too many.
pub(crate) fn push_bounded<T>(list: &mut Vec<T>, item: T) {
    if list.len() >= MAX_REMEMBERED {
        list.remove(0);
    }
    list.push(item);
}
