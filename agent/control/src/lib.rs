//! The controller's brain: finds the noisy neighbour and chooses the smallest limit that
//! helps, checks that it did, and lets go again.
//!
//! Owns the policy, [`decide`] and the log that replays to the same decisions. It does no
//! I/O, knows no clock and starts no thread: values in, values out. The agent measures
//! ([`Rates`]), calls [`decide`] once a look, executes the [`Decision`]s and keeps the
//! [`State`] until the next look.

mod actuator;
mod decide;
mod decision;
mod log;
mod policy;
mod rates;
mod sentence;
mod state;
mod types;

pub use actuator::{Actuator, ActuatorError, ActuatorKind, Device, IoKind};
pub use decide::{Blamed, Verdict, decide, triage};
pub use decision::{Decision, Evidence, Kind, Objective, Reason};
pub use log::{
    Difference, Entry, Head, LOG_FORMAT, Limited, LogError, Look, Recorder, Refused, Report,
    Simulation, replay, simulate,
};
pub use policy::{
    Act, Bounds, CLASS_LABEL, Detect, Glob, Invalid, Metric, Objectives, Policy, PolicyError, Rule,
    Standing,
};
pub use rates::{
    Blame, ContainerRates, CpuRates, DiskRates, LimitsNow, MemoryRates, NetworkRates, Pressure,
    Rates, Wish, Wishes,
};
pub use state::{Claim, CoolDown, Hold, Lease, Mark, Memory, Said, State, Victim, Watch};
pub use types::{Class, Culprit, Mode, Resource};
