//! A decision with the numbers of its look, so that a person can follow it.

use super::{Round, ladder};
use crate::actuator::Actuator;
use crate::decision::{Decision, Evidence, Kind, Reason};
use crate::state::Hold;
use crate::types::{Culprit, Resource};

/// A container by id and name.
#[derive(Clone, Copy)]
pub(super) struct Who<'a> {
    pub id: &'a str,
    pub name: &'a str,
}

/// What changes: `None` is no limit.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub actuator: Option<Actuator>,
    pub before: Option<f64>,
    pub after: Option<f64>,
}

impl Round<'_> {
    pub fn explained(
        &self,
        (kind, reason): (Kind, Reason),
        resource: Resource,
        culprit: Who,
        victim: Who,
        change: Change,
    ) -> Decision {
        let hold = self.state.hold(culprit.id, resource);
        Decision {
            at_ms: self.look.now_ms,
            kind,
            mode: hold.map_or(self.look.policy.mode, |hold| hold.mode),
            container: culprit.id.to_owned(),
            name: culprit.name.to_owned(),
            resource,
            actuator: change.actuator,
            before: change.before,
            after: change.after,
            victim: victim.id.to_owned(),
            victim_name: victim.name.to_owned(),
            culprit: Culprit::Container(culprit.id.to_owned()),
            reason,
            evidence: self.evidence(resource, culprit.id, victim.id, hold, change.actuator),
        }
    }

    fn evidence(
        &self,
        resource: Resource,
        culprit: &str,
        victim: &str,
        hold: Option<&Hold>,
        actuator: Option<Actuator>,
    ) -> Evidence {
        let mut evidence = Evidence::default();
        if let Some(at) = self.seen(victim).and_then(|seen| seen.at(resource)) {
            evidence.objective = Some(at.measure.objective);
            evidence.wanted = at.measure.wanted;
            evidence.measured = at.measure.measured;
            if let Some(blamed) = &at.blamed {
                evidence.wait = blamed.wait;
                evidence.share = blamed.share(culprit);
            }
        }
        let watch = self.state.watch(victim, resource);
        evidence.severity = watch.map_or(0.0, |watch| watch.severity);
        if let (Some(actuator), Some(container)) = (actuator, self.look.container(culprit)) {
            evidence.used = ladder::used(container, &actuator);
        }
        if let Some(hold) = hold {
            evidence.tried = hold.leases.iter().map(|lease| lease.actuator).collect();
        }
        evidence
    }
}

impl Hold {
    pub(super) fn who(&self) -> Who<'_> {
        Who { id: &self.container, name: &self.name }
    }
}
