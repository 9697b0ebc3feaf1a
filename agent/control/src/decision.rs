//! What was decided, with everything that an operator wants explained.

use serde::{Deserialize, Serialize};

use crate::actuator::Actuator;
use crate::rates::is_default;
use crate::types::{Culprit, Mode, Resource};

/// One choice. Its text (`Display`) is one plain sentence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decision {
    /// `now` of the look.
    pub at_ms: u64,
    pub kind: Kind,
    /// In [`Mode::Enforce`] alone it is to be executed.
    pub mode: Mode,
    /// Whose limit it is, by id: the culprit.
    pub container: String,
    pub name: String,
    pub resource: Resource,
    /// `None` for advice where nothing could be done.
    #[serde(default, skip_serializing_if = "is_default")]
    pub actuator: Option<Actuator>,
    /// `None` is no limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub before: Option<f64>,
    /// What is in force afterwards. For [`Kind::Release`] and [`Kind::Undo`] the operator's
    /// wish, for [`Kind::Yield`] what somebody else set.
    #[serde(default, skip_serializing_if = "is_default")]
    pub after: Option<f64>,
    /// A container's id.
    pub victim: String,
    pub victim_name: String,
    pub culprit: Culprit,
    pub reason: Reason,
    pub evidence: Evidence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Nothing is written.
    Advise,
    /// Take a lease, or make ours tighter: write `after`.
    Tighten,
    /// Write `after`, which is looser.
    Loosen,
    /// Give the lease up: the operator's wish is in force again.
    Release,
    /// The same, since it did not help.
    Undo,
    /// Give the lease up and leave the actuator to who wrote it.
    Yield,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The victim's objective is not met, and the culprit is the neighbour it waits for.
    ObjectiveMissed,
    /// So it would be, but nobody may be limited for it.
    CulpritNotBestEffort,
    /// So it would be, but another runtime's containers are not to be limited.
    CulpritForeign,
    /// So it would be, but the victim is not protected.
    VictimNotProtected,
    /// The victim's objective is met with room to spare.
    VictimWell,
    /// The victim ended.
    VictimGone,
    /// The victim asks for nothing.
    VictimIdle,
    /// The culprit ended.
    CulpritGone,
    /// The culprit asks for little.
    CulpritIdle,
    /// The victim was no better after the trial.
    DidNotHelp,
    OperatorChanged,
    SomebodyElseWrote,
    /// By the present policy it is not done.
    PolicyChanged,
}

/// Which of a victim's objectives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    RunQueueP99Ms,
    DiskP99Ms,
    PressureCpu,
    PressureMemory,
    PressureIo,
    NetworkWait,
    LatencyMs,
}

/// The numbers at the time of the decision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Evidence {
    /// The objective that is missed most, or met least.
    #[serde(skip_serializing_if = "is_default")]
    pub objective: Option<Objective>,
    /// In its unit.
    #[serde(skip_serializing_if = "is_default")]
    pub wanted: f64,
    #[serde(skip_serializing_if = "is_default")]
    pub measured: f64,
    /// Measured by wanted, smoothed.
    #[serde(skip_serializing_if = "is_default")]
    pub severity: f64,
    /// The victim's wait for this resource, all culprits together; seconds per second.
    #[serde(skip_serializing_if = "is_default")]
    pub wait: f64,
    /// Of that, for this culprit, 0 to 1.
    #[serde(skip_serializing_if = "is_default")]
    pub share: f64,
    /// What the culprit uses, in the actuator's unit.
    #[serde(skip_serializing_if = "is_default")]
    pub used: f64,
    /// What is already in force against the culprit.
    #[serde(skip_serializing_if = "is_default")]
    pub tried: Vec<Actuator>,
}
