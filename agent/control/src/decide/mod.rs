//! One look: who is hurt, by whom, and what is the smallest thing to do.
//!
//! ```text
//! forget what is over
//!   └▶ observe: severity of each victim ─▶ triage: is it a neighbour at all?
//!        └▶ give up what somebody else changed, or nobody needs any more
//!             └▶ judge trials: what did not help is undone
//!                  └▶ tighten for who is bad ─▶ loosen where all are well
//! ```
//!
//! A quiet look passes over the containers once, copies an empty state and returns.

mod explain;
mod give_up;
mod ladder;
mod loosen;
mod observe;
mod tighten;
mod triage;
mod trial;

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};

use self::observe::Seen;
pub use self::triage::{Blamed, Verdict, triage};
use crate::decision::Decision;
use crate::policy::Policy;
use crate::rates::{ContainerRates, Rates};
use crate::state::{Mark, State};
use crate::types::Resource;

/// What is to be done now, and what to remember until the next look.
///
/// `now_ms` is on the clock of [`Rates::at_ms`]. A look with a number that is none (see
/// [`Rates`]) is no look: nothing changes. In [`crate::Mode::Enforce`] the caller executes
/// the decisions in order, and renews the leases of [`State::leases`]; in other modes it
/// shows them.
pub fn decide(
    policy: &Policy,
    state: &State,
    rates: &Rates,
    now_ms: u64,
) -> (State, Vec<Decision>) {
    let mut next = state.clone();
    if !rates.is_sane() {
        return (next, Vec::new());
    }
    let look = Look { policy, rates, now_ms, by_id: OnceCell::new(), waits: OnceCell::new() };
    forget(&look, &mut next);
    let seen = observe::observe(&look, &mut next);
    if seen.is_empty() && next.holds.is_empty() {
        return (next, Vec::new());
    }
    let mut round = Round { look: &look, seen: &seen, state: next, decisions: Vec::new() };
    give_up::give_up(&mut round);
    trial::judge(&mut round);
    tighten::tighten(&mut round);
    loosen::loosen(&mut round);
    observe::forget_the_well(&look, &mut round.state);
    (round.state, round.decisions)
}

/// What is given.
struct Look<'a> {
    policy: &'a Policy,
    rates: &'a Rates,
    now_ms: u64,
    by_id: OnceCell<HashMap<&'a str, &'a ContainerRates>>,
    waits: OnceCell<BTreeMap<Resource, HashMap<&'a str, f64>>>,
}

/// What is in the making.
struct Round<'a> {
    look: &'a Look<'a>,
    seen: &'a [Seen<'a>],
    state: State,
    decisions: Vec<Decision>,
}

impl<'a> Look<'a> {
    /// A running container. The index is made when it is first needed: never at a quiet
    /// look.
    fn container(&self, id: &str) -> Option<&'a ContainerRates> {
        let index = self.by_id.get_or_init(|| {
            let running = self.rates.containers.iter().filter(|container| container.running);
            running.map(|container| (container.id.as_str(), container)).collect()
        });
        index.get(id).copied()
    }

    /// How long it waited for a resource, seconds per second. Summed up once for all, when
    /// it is first asked for.
    fn wait(&self, id: &str, resource: Resource) -> f64 {
        let waits = self.waits.get_or_init(|| {
            let mut waits: BTreeMap<Resource, HashMap<&str, f64>> = BTreeMap::new();
            for blame in &self.rates.blame {
                let of = waits.entry(blame.resource).or_default();
                *of.entry(blame.victim.as_str()).or_default() += blame.seconds_per_second;
            }
            waits
        });
        waits.get(&resource).and_then(|of| of.get(id)).copied().unwrap_or_default()
    }
}

impl<'a> Round<'a> {
    fn seen(&self, victim: &str) -> Option<&'a Seen<'a>> {
        self.seen.iter().find(|seen| seen.container.id == victim)
    }
}

fn forget(look: &Look, state: &mut State) {
    let now_ms = look.now_ms;
    // There are none; but a state may come from a file.
    state.holds.retain(|hold| !hold.claims.is_empty() && !hold.leases.is_empty());
    state.cooldowns.retain(|cooldown| cooldown.forget_at_ms > now_ms);
    state.memories.retain(|memory| memory.forget_at_ms > now_ms);
    state.said.retain(|said| said.until_ms > now_ms);
    state.marks.retain(|mark| mark.until_ms > now_ms && still_stands(look, mark));
}

/// Whether what somebody else set is still as it was.
fn still_stands(look: &Look, mark: &Mark) -> bool {
    look.container(&mark.container).is_some_and(|container| {
        let in_force = container.in_force.get(&mark.actuator).copied();
        container.wish(&mark.actuator) == mark.wish
            && (mark.by_operator || ladder::is_same(&mark.actuator, in_force, mark.in_force))
    })
}
