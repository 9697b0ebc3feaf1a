//! What the operator wants: who is protected and how well, who may be limited and how far,
//! and how patiently.
//!
//! [`Policy::parse`] reads TOML, whole: it names everything that is wrong, with what is
//! allowed. Without a file [`Policy::default`] holds: everybody is normal, so nobody is
//! limited, and advice is given. `examples/policy.toml` explains each key.

mod glob;
mod raw;
mod validate;

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

pub use self::glob::Glob;
use crate::actuator::ActuatorKind;
use crate::rates::ContainerRates;
use crate::types::{Class, Mode};

/// The label with which a container states its own class.
pub const CLASS_LABEL: &str = "tenantry.class";

/// A policy that was found right. Serialised, it is the head of a log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    pub mode: Mode,
    /// Containers that the policy does not call best-effort may be limited, too.
    pub limit_normal: bool,
    /// Containers of other runtimes may be limited, too, where a rule or their label says
    /// best-effort: `limit_normal` does not mean them, or it would mean each service as well.
    pub limit_foreign: bool,
    /// A container that no rule matches is what its label says.
    pub trust_labels: bool,
    /// In order; the first that matches decides.
    pub rules: Vec<Rule>,
    /// Of the protected whose rule has none.
    pub protected: Objectives,
    /// Of normal containers: they are missed for advice alone.
    pub normal: Objectives,
    pub floors: Bounds,
    pub ceilings: Bounds,
    pub detect: Detect,
    pub act: Act,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    pub class: Class,
    /// Patterns; a rule matches when each list that is not empty has one that does.
    pub name: Vec<Glob>,
    pub image: Vec<Glob>,
    /// Values of the label `tenantry.class`.
    pub label: Vec<Glob>,
    /// `None`: those of its class.
    pub objectives: Option<Objectives>,
    pub metric: Option<Metric>,
    /// What is given here goes before the policy's own.
    pub floors: Bounds,
    pub ceilings: Bounds,
}

/// What a victim may expect; `None` is no objective.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Objectives {
    pub run_queue_p99_ms: Option<f64>,
    pub disk_p99_ms: Option<f64>,
    /// Share of the time, 0 to 1.
    pub pressure_cpu: Option<f64>,
    pub pressure_memory: Option<f64>,
    pub pressure_io: Option<f64>,
    /// Seconds of waiting for the network per second.
    pub network_wait: Option<f64>,
    /// What [`Rule::metric`] tells.
    pub latency_ms: Option<f64>,
}

/// A latency on the container's own `/metrics`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Of a histogram, a summary or a gauge.
    pub name: String,
    pub port: u16,
    pub path: String,
    /// Of a histogram or a summary.
    pub quantile: f64,
    /// Milliseconds in one unit of the metric: 1000 for seconds.
    pub unit_ms: f64,
}

/// How little a culprit may be left (floors), or the most it may have while it is limited
/// (ceilings).
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    pub cpu_weight: Option<f64>,
    pub cpu_cores: Option<f64>,
    pub memory_bytes: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_weight: Option<f64>,
    pub disk_bytes_per_s: Option<f64>,
    pub disk_ops_per_s: Option<f64>,
    pub network_bytes_per_s: Option<f64>,
}

/// When somebody is a victim, and of whom.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Detect {
    /// Looks in a row that must be bad before anything is done.
    pub bad_looks: u32,
    /// Looks in a row that must be well before anything is given back.
    pub well_looks: u32,
    /// Weight of the new look in the severity, above 0 to 1.
    pub smoothing: f64,
    /// Well is a severity below this; from here to 1 nothing is changed.
    pub well_below: f64,
    /// Part of the victim's wait that makes a neighbour a culprit, 0 to 1.
    pub least_share: f64,
    /// A victim that waits less is not hurt; seconds per second.
    pub least_wait: f64,
    /// Above this share of stolen CPU time nobody is blamed for CPU.
    pub most_steal: f64,
}

/// How limits are taken and given back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Act {
    pub allow: BTreeSet<ActuatorKind>,
    /// From one step to the next, so that its effect is seen.
    pub settle_ms: u64,
    /// What did not help by then is undone.
    pub trial_ms: u64,
    /// Part by which the severity must fall in that time.
    pub least_help: f64,
    /// What did not help is not tried again before; doubles.
    pub cooldown_ms: u64,
    pub most_cooldown_ms: u64,
    /// The deepest and the slightest single cut, as the part that is left.
    pub cut_most: f64,
    pub cut_least: f64,
    /// Part of the culprit's former use that is given back at a time.
    pub give_back: f64,
    pub give_back_ms: u64,
    /// Changes by a smaller part are skipped.
    pub least_change: f64,
    /// How long a value that was too loose is avoided; doubles.
    pub remember_ms: u64,
    /// Part by which it is avoided.
    pub margin: f64,
    /// One change of direction in this time, on average.
    pub turn_ms: u64,
    /// A victim or culprit without load for so long has none.
    pub idle_ms: u64,
    /// Without a renewal the runtime restores the operator's limits.
    pub lease_ms: u64,
    /// How long somebody else's change is left alone.
    pub respect_ms: u64,
    /// Advice is not repeated before.
    pub advice_ms: u64,
}

/// All that is wrong with a policy file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// The parser's message holds key, line and column.
    #[error("{0}")]
    Syntax(String),
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Invalid>),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} = {value} is not allowed: {allowed}")]
pub struct Invalid {
    pub field: String,
    pub value: String,
    pub allowed: String,
}

/// What a policy says of one container.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Standing<'p> {
    pub class: Class,
    /// Best-effort containers have none.
    pub objectives: Option<&'p Objectives>,
    pub rule: Option<&'p Rule>,
}

impl Default for Policy {
    fn default() -> Self {
        Policy::parse("").expect("an empty policy is right, as a test shows")
    }
}

impl Policy {
    /// # Errors
    /// [`PolicyError::Syntax`] for what is no TOML or no key of ours, else
    /// [`PolicyError::Invalid`] with every wrong value.
    pub fn parse(text: &str) -> Result<Policy, PolicyError> {
        let raw: raw::RawPolicy =
            toml::from_str(text).map_err(|error| PolicyError::Syntax(error.to_string()))?;
        validate::validate(raw).map_err(PolicyError::Invalid)
    }

    /// The first rule that matches, else the container's own label, else normal.
    pub fn standing(&self, container: &ContainerRates) -> Standing<'_> {
        let label = container.labels.get(CLASS_LABEL).map(String::as_str);
        let rule = self.rules.iter().find(|rule| rule.matches(container, label));
        let class = match (rule, label) {
            (Some(rule), _) => rule.class,
            (None, Some("protected")) if self.trust_labels => Class::Protected,
            (None, Some("best-effort")) if self.trust_labels => Class::BestEffort,
            _ => Class::Normal,
        };
        let own = rule.and_then(|rule| rule.objectives.as_ref());
        let objectives = match class {
            Class::Protected => Some(own.unwrap_or(&self.protected)),
            Class::Normal => Some(own.unwrap_or(&self.normal)),
            Class::BestEffort => None,
        };
        Standing { class, objectives, rule }
    }

    /// Whether this container may be limited for somebody else's sake.
    pub fn may_limit(&self, container: &ContainerRates) -> bool {
        match self.standing(container).class {
            Class::Protected => false,
            Class::Normal => self.limit_normal && !container.foreign,
            Class::BestEffort => self.limit_foreign || !container.foreign,
        }
    }

    /// Of each objective the smallest that anybody has.
    pub(crate) fn tightest(&self) -> Objectives {
        let rules = self.rules.iter().filter_map(|rule| rule.objectives.as_ref());
        rules.fold(self.protected.tighter(&self.normal), |all, own| all.tighter(own))
    }

    /// Floors and ceilings for this container.
    pub(crate) fn bounds(&self, container: &ContainerRates) -> (Bounds, Bounds) {
        match self.standing(container).rule {
            Some(rule) => (rule.floors.or(self.floors), rule.ceilings.or(self.ceilings)),
            None => (self.floors, self.ceilings),
        }
    }
}

impl Rule {
    fn matches(&self, container: &ContainerRates, label: Option<&str>) -> bool {
        let fits = |patterns: &[Glob], text: &str| {
            patterns.is_empty() || patterns.iter().any(|pattern| pattern.matches(text))
        };
        fits(&self.name, &container.name)
            && fits(&self.image, &container.image)
            && (self.label.is_empty() || label.is_some_and(|label| fits(&self.label, label)))
    }
}

impl Objectives {
    /// The smaller of both, each.
    fn tighter(&self, other: &Objectives) -> Objectives {
        let least = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, none) => one.or(none),
        };
        Objectives {
            run_queue_p99_ms: least(self.run_queue_p99_ms, other.run_queue_p99_ms),
            disk_p99_ms: least(self.disk_p99_ms, other.disk_p99_ms),
            pressure_cpu: least(self.pressure_cpu, other.pressure_cpu),
            pressure_memory: least(self.pressure_memory, other.pressure_memory),
            pressure_io: least(self.pressure_io, other.pressure_io),
            network_wait: least(self.network_wait, other.network_wait),
            latency_ms: least(self.latency_ms, other.latency_ms),
        }
    }
}

impl Bounds {
    fn or(self, other: Bounds) -> Bounds {
        Bounds {
            cpu_weight: self.cpu_weight.or(other.cpu_weight),
            disk_weight: self.disk_weight.or(other.disk_weight),
            cpu_cores: self.cpu_cores.or(other.cpu_cores),
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            disk_bytes_per_s: self.disk_bytes_per_s.or(other.disk_bytes_per_s),
            disk_ops_per_s: self.disk_ops_per_s.or(other.disk_ops_per_s),
            network_bytes_per_s: self.network_bytes_per_s.or(other.network_bytes_per_s),
        }
    }
}
