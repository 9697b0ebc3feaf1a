//! A start as data: steps in stages, each with its undo.
//!
//! Owns the pure [`plan`] and [`execute`], which makes no choices: steps of one
//! stage run at the same time, stages one after the other; when a step fails, the
//! rest of its stage ends first and then everything that was begun is undone, the
//! last stage first. What a step does is the [`World`]'s matter (the engine's, or
//! a test's).
//!
//! The order, and why:
//! 1. `PrepareRootfs` ∥ `CreateCgroup`: both need nothing but the record.
//! 2. `RegisterIdentity`: before a process exists in the cgroup, so that no event
//!    is ever an unknown container's.
//! 3. `SpawnShim` ∥ `WriteLimits`: the shim answers as soon as the namespaces
//!    exist and goes on with the mounts; limits are only needed before the gate.
//! 4. `SetupNetwork`: needs the pid; runs while the shim mounts.
//! 5. `PersistState`: an agent that dies from here on finds the container again.
//! 6. `OpenGate`: the program's first instruction.

use std::{future::Future, time::Instant};

use serde::{Deserialize, Serialize};
use tracing::debug;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    PrepareRootfs,
    CreateCgroup,
    RegisterIdentity,
    SpawnShim,
    WriteLimits,
    SetupNetwork,
    PersistState,
    OpenGate,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Step::PrepareRootfs => "prepare_rootfs",
            Step::CreateCgroup => "create_cgroup",
            Step::RegisterIdentity => "register_identity",
            Step::SpawnShim => "spawn_shim",
            Step::WriteLimits => "write_limits",
            Step::SetupNetwork => "setup_network",
            Step::PersistState => "persist_state",
            Step::OpenGate => "open_gate",
        }
    }
}

/// What the order depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartFacts {
    /// Whether the container has a network namespace of its own, which is empty at first.
    pub own_network: bool,
    /// Whether any cgroup limit is set.
    pub limited: bool,
}

pub type Stage = Vec<Step>;

pub fn plan(facts: StartFacts) -> Vec<Stage> {
    let mut spawn = vec![Step::SpawnShim];
    if facts.limited {
        spawn.push(Step::WriteLimits);
    }
    let mut stages =
        vec![vec![Step::PrepareRootfs, Step::CreateCgroup], vec![Step::RegisterIdentity], spawn];
    if facts.own_network {
        stages.push(vec![Step::SetupNetwork]);
    }
    stages.push(vec![Step::PersistState]);
    stages.push(vec![Step::OpenGate]);
    stages
}

/// Where steps happen. `undo` is called for every step that was begun, also for
/// the one that failed half-way, and must cope with both.
pub trait World: Sync {
    type Error: Send;

    fn apply(&self, step: Step) -> impl Future<Output = Result<(), Self::Error>> + Send;
    fn undo(&self, step: Step) -> impl Future<Output = ()> + Send;
}

/// How long each step took, in microseconds, in the order of their ends.
pub type Timings = Vec<(String, u64)>;

/// # Errors
/// The first step that failed and why; everything begun has been undone.
pub async fn execute<W: World>(stages: &[Stage], world: &W) -> Result<Timings, (Step, W::Error)> {
    let mut timings = Timings::new();
    for (index, stage) in stages.iter().enumerate() {
        let results = futures_util::future::join_all(stage.iter().map(|step| async move {
            let begun = Instant::now();
            let result = world.apply(*step).await;
            (*step, begun.elapsed().as_micros() as u64, result)
        }));
        let mut failure = None;
        for (step, micros, result) in results.await {
            debug!(step = step.as_str(), micros, failed = result.is_err(), "start step");
            timings.push((step.as_str().to_owned(), micros));
            if let Err(error) = result {
                failure.get_or_insert((step, error));
            }
        }
        if let Some(failure) = failure {
            for begun in stages[..=index].iter().rev() {
                for step in begun.iter().rev() {
                    world.undo(*step).await;
                }
            }
            return Err(failure);
        }
    }
    Ok(timings)
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        sync::{Mutex, MutexGuard},
    };

    use proptest::prelude::*;

    use super::*;

    /// Things on a host that a start makes, each by one step.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
    enum Thing {
        EtcFiles,
        Cgroup,
        Identity,
        Process,
        Socket,
        LimitsWritten,
        Veth,
        RunFile,
    }

    fn made_by(step: Step) -> &'static [Thing] {
        match step {
            Step::PrepareRootfs => &[Thing::EtcFiles],
            Step::CreateCgroup => &[Thing::Cgroup],
            Step::RegisterIdentity => &[Thing::Identity],
            Step::SpawnShim => &[Thing::Socket, Thing::Process],
            Step::WriteLimits => &[Thing::LimitsWritten],
            Step::SetupNetwork => &[Thing::Veth],
            Step::PersistState => &[Thing::RunFile],
            Step::OpenGate => &[],
        }
    }

    fn needed_by(step: Step) -> &'static [Thing] {
        match step {
            Step::PrepareRootfs | Step::CreateCgroup => &[],
            Step::RegisterIdentity | Step::WriteLimits => &[Thing::Cgroup],
            Step::SpawnShim => &[Thing::EtcFiles, Thing::Cgroup, Thing::Identity],
            Step::SetupNetwork => &[Thing::Process],
            Step::PersistState => &[Thing::Process],
            Step::OpenGate => &[Thing::Process, Thing::RunFile],
        }
    }

    #[derive(Debug, Default)]
    struct Fake {
        things: Mutex<BTreeSet<Thing>>,
        fails: Option<Step>,
        /// How many of its things the failing step makes before it fails.
        half: usize,
    }

    impl Fake {
        fn things(&self) -> MutexGuard<'_, BTreeSet<Thing>> {
            self.things.lock().unwrap()
        }
    }

    impl World for Fake {
        type Error = &'static str;

        async fn apply(&self, step: Step) -> Result<(), &'static str> {
            let mut things = self.things();
            assert!(needed_by(step).iter().all(|t| things.contains(t)), "{step:?} too early");
            let fails = self.fails == Some(step);
            let made = made_by(step);
            things.extend(&made[..if fails { self.half.min(made.len()) } else { made.len() }]);
            if fails { Err("as told") } else { Ok(()) }
        }

        async fn undo(&self, step: Step) {
            let mut things = self.things();
            for thing in made_by(step) {
                if *thing == Thing::Cgroup {
                    assert!(!things.contains(&Thing::Process), "a cgroup is removed empty");
                    // The kernel takes a cgroup's limits with it.
                    things.remove(&Thing::LimitsWritten);
                }
                things.remove(thing);
            }
        }
    }

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    proptest! {
        #[test]
        fn whichever_step_fails_the_world_is_as_before(
            own_network: bool, limited: bool, index in 0usize..8, half in 0usize..3,
        ) {
            let stages = plan(StartFacts { own_network, limited });
            let steps: Vec<Step> = stages.iter().flatten().copied().collect();
            let fails = steps[index % steps.len()];
            let world = Fake { fails: Some(fails), half, ..Fake::default() };
            let (step, _) = block_on(execute(&stages, &world)).unwrap_err();
            prop_assert_eq!(step, fails);
            prop_assert!(world.things().is_empty(), "left: {:?}", world.things());
        }
    }

    #[test]
    fn a_whole_plan_makes_everything_and_times_each_step() {
        let stages = plan(StartFacts { own_network: true, limited: true });
        let world = Fake::default();
        let timings = block_on(execute(&stages, &world)).unwrap();
        assert_eq!(world.things().len(), 8);
        assert_eq!(timings.len(), 8);
    }

    #[test]
    fn a_plan_has_only_the_steps_that_are_needed() {
        let stages = plan(StartFacts { own_network: false, limited: false });
        let steps: Vec<Step> = stages.into_iter().flatten().collect();
        assert!(!steps.contains(&Step::SetupNetwork) && !steps.contains(&Step::WriteLimits));
        assert_eq!(steps.last(), Some(&Step::OpenGate));
    }
}
