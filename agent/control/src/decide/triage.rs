//! Is it a neighbour at all? Before anybody is blamed: the victim's own quota, its own
//! threads, the hypervisor, the host, or nothing.

use crate::policy::Policy;
use crate::rates::{Blame, ContainerRates, Rates};
use crate::types::{Culprit, Resource};

/// Whose doing a victim's wait for a resource is.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict<'a> {
    /// It does not wait.
    NoWait,
    /// The hypervisor's. With so much of it, what neighbours are blamed for is its doing,
    /// too: they held the CPU while they did not run.
    Steal,
    /// Its own quota's.
    Quota,
    /// Its own threads'.
    Itself,
    /// That of what runs in no container.
    Host,
    Unexplained,
    /// Its neighbours'.
    Neighbours(Blamed<'a>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Blamed<'a> {
    /// The victim's wait, all culprits together; seconds per second.
    pub wait: f64,
    /// By id, with seconds per second, the largest first.
    pub neighbours: Vec<(&'a str, f64)>,
}

impl Blamed<'_> {
    /// Part of the victim's wait, 0 to 1.
    pub fn share(&self, culprit: &str) -> f64 {
        let of = self.neighbours.iter().find(|(id, _)| *id == culprit);
        of.map_or(0.0, |(_, seconds)| seconds / self.wait)
    }

    /// What all neighbours together are blamed for; seconds per second.
    pub fn seconds(&self) -> f64 {
        self.neighbours.iter().map(|(_, seconds)| seconds).sum()
    }
}

/// Looks at what one victim waited for. Neighbours are guilty only if no other single cause
/// is larger than they are together, and the largest has the least share that the policy
/// asks for.
pub fn triage<'a>(
    policy: &Policy,
    rates: &'a Rates,
    victim: &ContainerRates,
    resource: Resource,
) -> Verdict<'a> {
    let of_victim = |blame: &&Blame| blame.resource == resource && blame.victim == victim.id;
    let (mut wait, mut others) = (0.0, [0.0; 5]);
    let mut neighbours: Vec<(&str, f64)> = Vec::new();
    for blame in rates.blame.iter().filter(of_victim) {
        let seconds = blame.seconds_per_second;
        wait += seconds;
        match &blame.culprit {
            Culprit::Container(id) => match neighbours.iter_mut().find(|(known, _)| known == id) {
                Some((_, sum)) => *sum += seconds,
                None => neighbours.push((id, seconds)),
            },
            Culprit::Quota => others[0] += seconds,
            Culprit::Steal => others[1] += seconds,
            Culprit::Itself => others[2] += seconds,
            Culprit::Host => others[3] += seconds,
            Culprit::Unexplained => others[4] += seconds,
        }
    }
    if resource == Resource::Cpu {
        if rates.steal >= policy.detect.most_steal && rates.steal > 0.0 {
            return Verdict::Steal;
        }
        // Time that its quota took may be in no wait at all: the kernel keeps throttled
        // threads off the queue.
        others[0] = others[0].max(victim.cpu.quota);
    }
    let verdicts =
        [Verdict::Quota, Verdict::Steal, Verdict::Itself, Verdict::Host, Verdict::Unexplained];
    neighbours.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(b.0)));
    let blamed = Blamed { wait, neighbours };
    let (other, most) = verdicts
        .into_iter()
        .zip(others)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .expect("there are five of them");
    let largest = blamed.neighbours.first().map_or(0.0, |(_, seconds)| *seconds);
    if wait.max(most) <= policy.detect.least_wait {
        Verdict::NoWait
    } else if most > blamed.seconds() {
        other
    } else if largest < policy.detect.least_share * wait {
        Verdict::Unexplained
    } else {
        Verdict::Neighbours(blamed)
    }
}
