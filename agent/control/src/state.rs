//! What is remembered from one look to the next, and nothing else: with [`crate::Policy`]
//! and [`crate::Rates`] it determines the decisions. It is logged and restored whole.
//!
//! A quiet host's state is empty. All lists are bounded; the oldest entry goes first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::actuator::Actuator;
use crate::rates::{Wish, is_default};
use crate::types::{Mode, Resource};

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
    /// Looks in a row at which it did not want the resource.
    #[serde(skip_serializing_if = "is_default")]
    pub idle_looks: u32,
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
    /// Looks in a row at which the culprit wanted little.
    #[serde(default, skip_serializing_if = "is_default")]
    pub quiet_looks: u32,
    /// How often it was taken again before it was forgotten.
    #[serde(default, skip_serializing_if = "is_default")]
    pub again: u32,
}

/// One limit that is ours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    pub actuator: Actuator,
    /// The operator's wish when it was taken: another one now ends the lease.
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

/// Somebody else set this: it is left alone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub container: String,
    pub actuator: Actuator,
    /// The mark ends when either is another one.
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
    /// See [`Hold::rest_until_ms`].
    pub rest_until_ms: u64,
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

    /// Nobody is bad and nobody is held: such a look is not worth a record.
    pub fn is_quiet(&self) -> bool {
        self.holds.is_empty() && self.victims.is_empty()
    }

    pub(crate) fn hold(&self, container: &str, resource: Resource) -> Option<&Hold> {
        self.holds.iter().find(|hold| hold.container == container && hold.resource == resource)
    }
}
