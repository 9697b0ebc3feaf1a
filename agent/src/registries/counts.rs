//! What pulls and pushes came to, in numbers since the agent started.

use std::sync::atomic::{AtomicU64, Ordering};

use tenantry_image::{LayerState, Store};

use super::Registries;

/// How a pull or a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The image came, or went.
    Done,
    /// Of a pull: it was here as the registry has it.
    Same,
    Failed,
    /// Whoever asked for it had gone.
    Abandoned,
}

impl Outcome {
    pub const ALL: [Outcome; 4] =
        [Outcome::Done, Outcome::Same, Outcome::Failed, Outcome::Abandoned];

    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Same => "same",
            Outcome::Failed => "failed",
            Outcome::Abandoned => "abandoned",
        }
    }
}

/// Where a pull's layer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    Fetched,
    There,
}

#[derive(Debug, Default)]
pub struct Counters {
    pulls: [AtomicU64; Outcome::ALL.len()],
    pushes: [AtomicU64; Outcome::ALL.len()],
    layers: [AtomicU64; 2],
}

impl Counters {
    pub fn pulled(&self, outcome: Outcome) {
        self.pulls[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn pushed(&self, outcome: Outcome) {
        self.pushes[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn layer(&self, state: LayerState) {
        let layer = match state {
            LayerState::There => Layer::There,
            LayerState::Unpacked => Layer::Fetched,
            LayerState::Wanted | LayerState::Awaited | LayerState::Fetched => return,
        };
        self.layers[layer as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// For a scrape.
#[derive(Clone, Debug, Default)]
pub struct ImagesReport {
    /// By outcome.
    pub pulls: Vec<(&'static str, u64)>,
    pub pushes: Vec<(&'static str, u64)>,
    pub layers_fetched: u64,
    pub layers_there: u64,
    pub fetched_bytes: u64,
    pub sent_bytes: u64,
    pub retries: u64,
    /// How often each bound on registries, archives and images was reached.
    pub limits: Vec<(&'static str, u64)>,
}

impl Registries {
    pub fn report(&self, store: &Store) -> ImagesReport {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let by_outcome = |counters: &[AtomicU64]| -> Vec<(&'static str, u64)> {
            let outcomes = Outcome::ALL.iter().zip(counters);
            outcomes.map(|(outcome, counter)| (outcome.as_str(), load(counter))).collect()
        };
        let requests = self.client.counts();
        let counters = &self.counters;
        ImagesReport {
            pulls: by_outcome(&counters.pulls),
            pushes: by_outcome(&counters.pushes),
            layers_fetched: load(&counters.layers[Layer::Fetched as usize]),
            layers_there: load(&counters.layers[Layer::There as usize]),
            fetched_bytes: requests.fetched_bytes,
            sent_bytes: requests.sent_bytes,
            retries: requests.retries,
            limits: requests.limits.into_iter().chain(store.limits_reached()).collect(),
        }
    }
}
