//! What another policy would have done with the recorded looks.
//!
//! The looks are as they were: a limit that only the other policy sets has no effect in
//! them, and one that only it leaves out has. So it tells which decisions would have been
//! made first, not how the host would have gone on. Quiet looks, and the small waits of those
//! who were well, are not in the log.

use std::collections::BTreeMap;

use super::replay::Player;
use super::{LogError, entries};
use crate::decide::decide;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::rates::Rates;
use crate::state::State;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Simulation {
    pub looks: usize,
    /// The last line was cut off and left out.
    pub cut: bool,
    /// Only the other policy decides so, in the order of time.
    pub added: Vec<Decision>,
    /// Only the recorded one did.
    pub removed: Vec<Decision>,
    /// Decided by both.
    pub kept: usize,
    /// By container id.
    pub limited: BTreeMap<String, Limited>,
}

/// How long a container was under a limit of the controller's.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limited {
    pub name: String,
    pub recorded_s: f64,
    pub simulated_s: f64,
}

/// Runs `policy` over a log. Each episode begins with the recorded state.
///
/// # Errors
/// For a line that is none of a log.
pub fn simulate<T: AsRef<str>>(
    policy: &Policy,
    lines: impl IntoIterator<Item = T>,
) -> Result<Simulation, LogError> {
    let mut simulation = Simulation::default();
    let mut cut = false;
    let (mut player, mut state) = (Player::default(), State::default());
    for entry in entries(lines, &mut cut) {
        let (line, entry) = entry?;
        let Some(played) = player.play(line, entry)? else { continue };
        if played.begins {
            state = played.before.clone();
        }
        simulation.looks += 1;
        let interval_s = played.rates.interval_ms as f64 / 1000.0;
        simulation.add_time(&played.before, |limited| limited.recorded_s += interval_s);
        simulation.add_time(&state, |limited| limited.simulated_s += interval_s);
        let mut rates = played.rates;
        pretend_in_force(&mut rates, &state);
        let (next, decisions) = decide(policy, &state, &rates, played.now_ms);
        state = next;
        simulation.compare(played.recorded, decisions);
    }
    simulation.cut = cut;
    Ok(simulation)
}

/// The simulated leases were written, or the other policy would see somebody else's hand in
/// the recorded one's.
fn pretend_in_force(rates: &mut Rates, state: &State) {
    for (hold, lease) in state.leases() {
        let container = rates.containers.iter_mut().find(|other| other.id == hold.container);
        if let Some(container) = container {
            container.in_force.insert(lease.actuator, lease.value);
        }
    }
}

impl Simulation {
    fn add_time(&mut self, state: &State, add: impl Fn(&mut Limited)) {
        // One that is limited at two resources is so at one time.
        let held: BTreeMap<&str, &str> =
            state.holds.iter().map(|hold| (&*hold.container, &*hold.name)).collect();
        for (id, name) in held {
            let limited = self.limited.entry(id.to_owned()).or_default();
            limited.name = name.to_owned();
            add(limited);
        }
    }

    /// Two decisions are one if they do the same to the same at the same time.
    fn compare(&mut self, recorded: Vec<Decision>, mut simulated: Vec<Decision>) {
        let key = |d: &Decision| {
            (d.kind, d.container.clone(), d.resource, d.actuator, d.after, d.victim.clone())
        };
        for decision in recorded {
            match simulated.iter().position(|other| key(other) == key(&decision)) {
                Some(index) => {
                    simulated.remove(index);
                    self.kept += 1;
                }
                None => self.removed.push(decision),
            }
        }
        self.added.append(&mut simulated);
    }
}
