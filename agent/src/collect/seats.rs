//! What lasts from one collection to the next: who has series of his own, and counts that
//! must not go back.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::{Collector, counted};
use crate::destinations::Seated;
use crate::domains::Domains;
use crate::report::ContainerReport;

impl Collector {
    /// Chooses the destinations that have series of their own. Without both of the kernel's
    /// tables nothing is shown: half of a counter would be one that falls.
    pub(super) fn seat(&self, containers: &mut [ContainerReport]) {
        let Some(mut all) = counted(self.meters.read_destinations(), &self.errors.maps) else {
            return;
        };
        kept(&self.seats, containers, |seats, container| {
            let tcp = container.counters.as_ref().and_then(|counters| counters.tcp.as_ref());
            let (Some(slot), Some(tcp)) = (container.slot, tcp) else { return };
            let named = all.remove(&slot).unwrap_or_default();
            let seated = seats.assign(self.destinations, &named, tcp.other);
            container.destinations = Some(seated).filter(|seated| *seated != Seated::default());
        });
    }

    /// The same for the domains that are asked for.
    pub(super) fn seat_domains(&self, containers: &mut [ContainerReport]) {
        let Some(mut all) = counted(self.meters.read_dns(), &self.errors.maps) else { return };
        kept(&self.domain_seats, containers, |seats, container| {
            let (Some(slot), Some(counters)) = (container.slot, &container.counters) else {
                return;
            };
            let questions = all.remove(&slot).unwrap_or_default();
            let shown = seats.assign(self.domains, questions, &counters.dns_other);
            container.domains = Some(shown).filter(|shown| *shown != Domains::default());
        });
    }

    /// A counter does not go back because a container was removed.
    pub(super) fn keep_ooms(&self, containers: &mut [ContainerReport]) {
        let mut shown = self.oom_shown.lock().unwrap_or_else(PoisonError::into_inner);
        let now = containers.iter_mut().map(|container| {
            if container.removed {
                let before = shown.get(&container.id).copied().unwrap_or(0);
                container.oom_kills = container.oom_kills.max(before);
            }
            (container.id.clone(), container.oom_kills)
        });
        *shown = now.filter(|(_, kills)| *kills > 0).collect();
    }
}

/// Gives each container what was kept for it, and forgets what was kept for others.
fn kept<T: Default>(
    all: &Mutex<HashMap<String, T>>,
    containers: &mut [ContainerReport],
    mut f: impl FnMut(&mut T, &mut ContainerReport),
) {
    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
    let mut before = std::mem::take(&mut *all);
    for container in containers {
        let (id, mut of_it) = before
            .remove_entry(&container.id)
            .unwrap_or_else(|| (container.id.clone(), T::default()));
        f(&mut of_it, container);
        all.insert(id, of_it);
    }
}
