//! From the file's shape to a policy: defaults, ranges, and what must fit together.

use std::ops::RangeInclusive;

use super::raw::{
    MetricUnit, RawAct, RawBounds, RawDetect, RawMetric, RawObjectives, RawPolicy, RawRule,
};
use super::{Act, Bounds, Detect, Glob, Invalid, Metric, Objectives, Policy, Rule};
use crate::actuator::ActuatorKind;
use crate::types::Class;

const MOST_RULES: usize = 256;
const MOST_PATTERNS: usize = 64;
const MOST_PATTERN_CHARS: usize = 256;

/// # Errors
/// Every value that is not allowed, in the order of the file's keys.
pub(super) fn validate(raw: RawPolicy) -> Result<Policy, Vec<Invalid>> {
    let mut check = Check(Vec::new());
    check.that(raw.rules.len() <= MOST_RULES, "rule", raw.rules.len(), || {
        format!("at most {MOST_RULES} rules")
    });
    let mut rules = Vec::new();
    for (index, rule) in raw.rules.into_iter().take(MOST_RULES).enumerate() {
        rules.push(check.rule(&format!("rule[{index}]"), rule));
    }
    let protected = check.objectives("protected", &raw.protected).or(Objectives {
        run_queue_p99_ms: Some(5.0),
        disk_p99_ms: Some(20.0),
        pressure_cpu: Some(0.1),
        pressure_memory: Some(0.05),
        pressure_io: Some(0.1),
        network_wait: None,
        latency_ms: None,
    });
    let normal = check.objectives("normal", &raw.normal).or(Objectives {
        pressure_cpu: Some(0.3),
        pressure_memory: Some(0.1),
        pressure_io: Some(0.3),
        ..Objectives::default()
    });
    for (field, given) in [("protected", &raw.protected), ("normal", &raw.normal)] {
        check.that(
            given.latency_ms.is_none(),
            &format!("{field}.latency_ms"),
            given.latency_ms.unwrap_or_default(),
            || "only in a rule that has a metric".into(),
        );
    }
    let floors = check.bounds("floors", &raw.floors).or(Bounds {
        cpu_weight: Some(1.0),
        cpu_cores: Some(0.1),
        memory_bytes: Some(f64::from(64 << 20)),
        disk_weight: Some(1.0),
        disk_bytes_per_s: Some(1e6),
        disk_ops_per_s: Some(50.0),
        network_bytes_per_s: Some(125_000.0),
    });
    let ceilings = check.bounds("ceilings", &raw.ceilings);
    check.in_order("ceilings", floors, ceilings);
    let detect = check.detect(&raw.detect);
    let act = check.act(raw.act);
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("rule[{index}].ceilings");
        check.in_order(&field, rule.floors.or(floors), rule.ceilings.or(ceilings));
    }
    let policy = Policy {
        mode: raw.mode,
        limit_normal: raw.limit_normal,
        limit_foreign: raw.limit_foreign,
        trust_labels: raw.trust_labels.unwrap_or(true),
        rules,
        protected,
        normal,
        floors,
        ceilings,
        detect,
        act,
    };
    if check.0.is_empty() { Ok(policy) } else { Err(check.0) }
}

/// Collects what is wrong, so that one run tells all of it.
struct Check(Vec<Invalid>);

impl Check {
    fn that(
        &mut self,
        holds: bool,
        field: &str,
        value: impl ToString,
        allowed: impl FnOnce() -> String,
    ) {
        if !holds {
            let (field, value) = (field.to_owned(), value.to_string());
            self.0.push(Invalid { field, value, allowed: allowed() });
        }
    }

    /// The given number if it lies in the range (not a number lies in none), else the
    /// default.
    fn number(
        &mut self,
        field: &str,
        given: Option<f64>,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let value = given.unwrap_or(default);
        let holds = range.contains(&value);
        self.that(holds, field, value, || format!("{} to {}", range.start(), range.end()));
        if holds { value } else { default }
    }

    fn optional(
        &mut self,
        field: &str,
        given: Option<f64>,
        range: RangeInclusive<f64>,
    ) -> Option<f64> {
        given.map(|value| self.number(field, Some(value), value, range))
    }

    fn millis(
        &mut self,
        field: &str,
        given: Option<f64>,
        default_s: f64,
        range: RangeInclusive<f64>,
    ) -> u64 {
        // In range, so that nothing is cut off.
        (self.number(field, given, default_s, range) * 1000.0).round() as u64
    }

    fn looks(&mut self, field: &str, given: Option<u32>, default: u32) -> u32 {
        let value = given.unwrap_or(default);
        self.that((1..=600).contains(&value), field, value, || "1 to 600".into());
        value
    }

    fn rule(&mut self, field: &str, raw: RawRule) -> Rule {
        let given = raw.name.len() + raw.image.len() + raw.label.len();
        self.that(given > 0, field, "nothing", || {
            "at least one pattern in name, image or label".into()
        });
        let objectives =
            raw.objectives.as_ref().map(|raw| self.objectives(&format!("{field}.objectives"), raw));
        self.that(
            raw.class != Class::BestEffort || objectives.is_none(),
            &format!("{field}.objectives"),
            "objectives",
            || "none for class best-effort".into(),
        );
        let latency = objectives.and_then(|objectives| objectives.latency_ms);
        self.that(
            latency.is_some() == raw.metric.is_some(),
            &format!("{field}.metric"),
            given,
            || "metric and objectives.latency_ms, both or none".into(),
        );
        Rule {
            class: raw.class,
            name: self.patterns(&format!("{field}.name"), raw.name),
            image: self.patterns(&format!("{field}.image"), raw.image),
            label: self.patterns(&format!("{field}.label"), raw.label),
            objectives,
            metric: raw.metric.map(|metric| self.metric(&format!("{field}.metric"), metric)),
            floors: self.bounds(&format!("{field}.floors"), &raw.floors),
            ceilings: self.bounds(&format!("{field}.ceilings"), &raw.ceilings),
        }
    }

    fn patterns(&mut self, field: &str, given: Vec<String>) -> Vec<Glob> {
        self.that(given.len() <= MOST_PATTERNS, field, given.len(), || {
            format!("at most {MOST_PATTERNS} patterns")
        });
        for pattern in &given {
            let length = pattern.chars().count();
            let fits = (1..=MOST_PATTERN_CHARS).contains(&length);
            self.that(fits, field, format!("{pattern:?}"), || {
                format!("patterns of 1 to {MOST_PATTERN_CHARS} characters")
            });
        }
        given.into_iter().map(Glob::new).collect()
    }

    fn metric(&mut self, field: &str, raw: RawMetric) -> Metric {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        let named = !raw.name.is_empty() && raw.name.len() <= 128 && raw.name.chars().all(is_name);
        self.that(named, &format!("{field}.name"), format!("{:?}", raw.name), || {
            "1 to 128 of letters, digits, '_' and ':'".into()
        });
        self.that(raw.port > 0, &format!("{field}.port"), raw.port, || "1 to 65535".into());
        let path = raw.path.unwrap_or_else(|| "/metrics".into());
        let plain = path.starts_with('/') && path.len() <= 256 && path.bytes().all(|b| b > b' ');
        self.that(plain, &format!("{field}.path"), format!("{path:?}"), || {
            "a path that begins with '/', without spaces, of at most 256 bytes".into()
        });
        Metric {
            name: raw.name,
            port: raw.port,
            path,
            quantile: self.number(&format!("{field}.quantile"), raw.quantile, 0.99, 0.5..=0.9999),
            unit_ms: match raw.unit.unwrap_or_default() {
                MetricUnit::Seconds => 1000.0,
                MetricUnit::Milliseconds => 1.0,
                MetricUnit::Microseconds => 0.001,
            },
        }
    }

    fn objectives(&mut self, field: &str, raw: &RawObjectives) -> Objectives {
        let Objectives { run_queue_p99_ms, disk_p99_ms, latency_ms, .. } = raw.plain();
        for (key, given) in [
            ("run_queue_p99_ms", run_queue_p99_ms),
            ("disk_p99_ms", disk_p99_ms),
            ("latency_ms", latency_ms),
        ] {
            self.optional(&format!("{field}.{key}"), given, 0.01..=60_000.0);
        }
        for (key, given) in [
            ("pressure_cpu", raw.pressure_cpu),
            ("pressure_memory", raw.pressure_memory),
            ("pressure_io", raw.pressure_io),
            ("network_wait", raw.network_wait),
        ] {
            self.optional(&format!("{field}.{key}"), given, 0.001..=1.0);
        }
        raw.plain()
    }

    fn bounds(&mut self, field: &str, raw: &RawBounds) -> Bounds {
        let mut of = |key, given, range| self.optional(&format!("{field}.{key}"), given, range);
        Bounds {
            cpu_weight: of("cpu_weight", raw.cpu_weight, 1.0..=10_000.0),
            disk_weight: of("disk_weight", raw.disk_weight, 1.0..=10_000.0),
            cpu_cores: of("cpu_cores", raw.cpu_cores, 0.01..=4096.0),
            memory_bytes: of("memory_bytes", raw.memory_bytes, 6_291_456.0..=1e15),
            disk_bytes_per_s: of("disk_bytes_per_s", raw.disk_bytes_per_s, 4096.0..=1e12),
            disk_ops_per_s: of("disk_ops_per_s", raw.disk_ops_per_s, 1.0..=1e9),
            network_bytes_per_s: of("network_bytes_per_s", raw.network_bytes_per_s, 1000.0..=1e11),
        }
    }

    /// A ceiling below its floor would leave no value at all.
    fn in_order(&mut self, field: &str, floors: Bounds, ceilings: Bounds) {
        let pairs = floors.by_name().into_iter().zip(ceilings.by_name());
        for ((key, floor), (_, ceiling)) in pairs {
            if let (Some(floor), Some(ceiling)) = (floor, ceiling) {
                self.that(ceiling >= floor, &format!("{field}.{key}"), ceiling, || {
                    format!("at least its floor, {floor}")
                });
            }
        }
    }

    fn detect(&mut self, raw: &RawDetect) -> Detect {
        Detect {
            bad_looks: self.looks("detect.bad_looks", raw.bad_looks, 2),
            well_looks: self.looks("detect.well_looks", raw.well_looks, 5),
            smoothing: self.number("detect.smoothing", raw.smoothing, 0.5, 0.05..=1.0),
            well_below: self.number("detect.well_below", raw.well_below, 0.8, 0.1..=0.95),
            least_share: self.number("detect.least_share", raw.least_share, 0.1, 0.01..=1.0),
            least_wait: self.number("detect.least_wait", raw.least_wait, 0.002, 0.0..=1.0),
            most_steal: self.number("detect.most_steal", raw.most_steal, 0.1, 0.0..=1.0),
        }
    }

    fn act(&mut self, raw: RawAct) -> Act {
        const DAY_S: f64 = 86_400.0;
        let settle_ms = self.millis("act.settle_seconds", raw.settle_seconds, 1.0, 0.1..=60.0);
        let trial_ms = self.millis("act.trial_seconds", raw.trial_seconds, 15.0, 1.0..=600.0);
        self.that(trial_ms >= 3 * settle_ms, "act.trial_seconds", trial_ms / 1000, || {
            "at least three times act.settle_seconds".into()
        });
        let cooldown_ms =
            self.millis("act.cooldown_seconds", raw.cooldown_seconds, 300.0, 1.0..=DAY_S);
        let most = raw.most_cooldown_seconds;
        let most_cooldown_ms =
            self.millis("act.most_cooldown_seconds", most, 3600.0, 1.0..=7.0 * DAY_S);
        self.that(
            most_cooldown_ms >= cooldown_ms,
            "act.most_cooldown_seconds",
            most_cooldown_ms / 1000,
            || "at least act.cooldown_seconds".into(),
        );
        let cut_most = self.number("act.cut_most", raw.cut_most, 0.25, 0.1..=0.95);
        let cut_least = self.number("act.cut_least", raw.cut_least, 0.9, 0.1..=0.95);
        self.that(cut_most <= cut_least, "act.cut_most", cut_most, || {
            "at most act.cut_least".into()
        });
        let remember = raw.remember_seconds;
        let allow = raw.allow.map_or_else(
            || ActuatorKind::ALL.into_iter().collect(),
            |given| given.into_iter().collect(),
        );
        Act {
            allow,
            settle_ms,
            trial_ms,
            least_help: self.number("act.least_help", raw.least_help, 0.1, 0.01..=0.9),
            cooldown_ms,
            most_cooldown_ms,
            cut_most,
            cut_least,
            give_back: self.number("act.give_back", raw.give_back, 0.05, 0.01..=0.5),
            give_back_ms: self.millis(
                "act.give_back_seconds",
                raw.give_back_seconds,
                5.0,
                0.1..=600.0,
            ),
            least_change: self.number("act.least_change", raw.least_change, 0.02, 0.0..=0.2),
            remember_ms: self.millis("act.remember_seconds", remember, 300.0, 1.0..=DAY_S),
            margin: self.number("act.margin", raw.margin, 0.1, 0.0..=0.5),
            turn_ms: self.millis("act.turn_seconds", raw.turn_seconds, 60.0, 1.0..=3600.0),
            idle_ms: self.millis("act.idle_seconds", raw.idle_seconds, 3.0, 0.5..=60.0),
            lease_ms: self.millis("act.lease_seconds", raw.lease_seconds, 10.0, 2.0..=600.0),
            respect_ms: self.millis("act.respect_seconds", raw.respect_seconds, 600.0, 1.0..=DAY_S),
            advice_ms: self.millis("act.advice_seconds", raw.advice_seconds, 300.0, 1.0..=DAY_S),
        }
    }
}

impl Objectives {
    /// What is given here, else the other's.
    fn or(self, other: Objectives) -> Objectives {
        Objectives {
            run_queue_p99_ms: self.run_queue_p99_ms.or(other.run_queue_p99_ms),
            disk_p99_ms: self.disk_p99_ms.or(other.disk_p99_ms),
            pressure_cpu: self.pressure_cpu.or(other.pressure_cpu),
            pressure_memory: self.pressure_memory.or(other.pressure_memory),
            pressure_io: self.pressure_io.or(other.pressure_io),
            network_wait: self.network_wait.or(other.network_wait),
            latency_ms: self.latency_ms.or(other.latency_ms),
        }
    }
}

impl Bounds {
    fn by_name(self) -> [(&'static str, Option<f64>); 7] {
        [
            ("cpu_weight", self.cpu_weight),
            ("disk_weight", self.disk_weight),
            ("cpu_cores", self.cpu_cores),
            ("memory_bytes", self.memory_bytes),
            ("disk_bytes_per_s", self.disk_bytes_per_s),
            ("disk_ops_per_s", self.disk_ops_per_s),
            ("network_bytes_per_s", self.network_bytes_per_s),
        ]
    }
}
