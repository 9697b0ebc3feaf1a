//! Rules over audit events, in the agent: their files, their alerts, their counts.
//!
//! `tenantry-rules` is the language; this module reads the files, shows it the events
//! ([`event`]) and makes an alert of what matches. Files that are wrong change nothing: the
//! rules before stay in force.

mod event;
mod file;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tenantry_rules::{Limiter, Rule, RuleSet, Severity, Verdict};

pub use self::file::{RuleFilesError, RuleSettings, read_rules};
use crate::audit::{AuditEvent, AuditKind, MatchedRule, Nature};
use event::Judged;

/// The rules in force.
#[derive(Debug)]
pub struct Rules {
    settings: RuleSettings,
    force: RwLock<Arc<Force>>,
}

/// One set of rules, from one reading of the files to the next.
#[derive(Debug)]
struct Force {
    set: RuleSet,
    /// By a rule's place in the set.
    counts: Vec<Arc<Counts>>,
    limiter: Mutex<Limiter>,
}

#[derive(Debug, Default)]
struct Counts {
    matches: AtomicU64,
    suppressed: AtomicU64,
}

/// What one rule did since the agent started, or since it came.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleCount {
    pub rule: String,
    pub severity: &'static str,
    pub matches: u64,
    /// Matches without an alert, for its rate.
    pub suppressed: u64,
}

impl Rules {
    /// # Errors
    /// A file that cannot be read, or everything that is wrong in the files.
    pub fn open(settings: RuleSettings) -> Result<Self, RuleFilesError> {
        let set = read_rules(&settings)?;
        Ok(Self { settings, force: RwLock::new(Arc::new(Force::new(set, None))) })
    }

    /// Reads the files again; on an error the rules before stay.
    pub fn reload(&self) -> Result<(), RuleFilesError> {
        let set = read_rules(&self.settings)?;
        let mut force = self.force.write().unwrap_or_else(PoisonError::into_inner);
        *force = Arc::new(Force::new(set, Some(&force)));
        Ok(())
    }

    pub fn settings(&self) -> &RuleSettings {
        &self.settings
    }

    /// An alert for each rule that the event matches, but for those that a rate holds back.
    pub fn judge(&self, event: &AuditEvent) -> Vec<AuditEvent> {
        let Some(judged) = Judged::new(event) else { return Vec::new() };
        let force = self.force();
        let matches = force.set.matches(&judged);
        matches.filter_map(|place| force.alert(place, event)).collect()
    }

    /// Each rule with its counts, in the order of the files.
    pub fn list(&self) -> Vec<(Rule, RuleCount)> {
        let force = self.force();
        force.set.rules().iter().cloned().zip(force.report()).collect()
    }

    /// Of the enabled rules, those without a match too: an alert on an increase needs the zero.
    pub fn report(&self) -> Vec<RuleCount> {
        let force = self.force();
        let rules = force.set.rules().iter().zip(force.report());
        rules.filter(|(rule, _)| rule.enabled).map(|(_, count)| count).collect()
    }

    fn force(&self) -> Arc<Force> {
        Arc::clone(&self.force.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Force {
    /// A rule that was there before, with the same severity, goes on counting.
    fn new(set: RuleSet, before: Option<&Self>) -> Self {
        let known = |rule: &Rule| {
            let before = before?;
            let same = |old: &Rule| (&old.name, old.severity) == (&rule.name, rule.severity);
            let place = before.set.rules().iter().position(same)?;
            Some(Arc::clone(&before.counts[place]))
        };
        let counts = set.rules().iter().map(|rule| known(rule).unwrap_or_default()).collect();
        Self { set, counts, limiter: Mutex::default() }
    }

    /// `None`: held back, and counted.
    fn alert(&self, place: usize, event: &AuditEvent) -> Option<AuditEvent> {
        let (rule, counts) = (&self.set.rules()[place], &self.counts[place]);
        counts.matches.fetch_add(1, Ordering::Relaxed);
        let mut suppressed = 0;
        if let Some(rate) = rule.rate {
            let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
            let now_ns = event.monotonic_ns.unwrap_or_default();
            match limiter.admit(place, rate, &event.container.id, now_ns) {
                Verdict::Tell { held_back } => suppressed = held_back,
                Verdict::HoldBack => {
                    counts.suppressed.fetch_add(1, Ordering::Relaxed);
                    return None;
                }
            }
        }
        Some(AuditEvent {
            event: Nature { action: AuditKind::Alert, ..event.event },
            rule: Some(MatchedRule {
                name: rule.name.clone(),
                description: rule.description.clone(),
                severity: rule.severity.as_str(),
                action: event.event.action,
                suppressed: (suppressed > 0).then_some(suppressed),
            }),
            ..event.clone()
        })
    }

    fn report(&self) -> Vec<RuleCount> {
        let count = |(rule, counts): (&Rule, &Arc<Counts>)| RuleCount {
            rule: rule.name.clone(),
            severity: Severity::as_str(rule.severity),
            matches: counts.matches.load(Ordering::Relaxed),
            suppressed: counts.suppressed.load(Ordering::Relaxed),
        };
        self.set.rules().iter().zip(&self.counts).map(count).collect()
    }
}

#[cfg(test)]
mod tests;
