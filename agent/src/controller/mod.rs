//! The controller's loop: looks at everybody once a second, lets `tenantry-control` decide,
//! executes, tells.
//!
//! Owns the present policy and the controller's state. What is wanted is decided there, not
//! here: this code measures ([`look`]), writes what the leases say ([`act`]) and keeps what
//! was decided for whoever asks. An agent that ends gives everything back; one that is
//! killed leaves that to the shims, and for other runtimes' containers to the guard.

mod act;
mod exposed;
mod identity;
mod journal;
mod look;
mod memory;
mod queues;
mod reach;
mod sample;
mod scrape;
mod taken;
mod uplink;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenantry_container::{Cause, Lease, Owner, Throttle};
use tenantry_control::{Decision, Kind, LimitsNow, Mode, Policy, Rates, Resource, State, decide};
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;

use self::journal::Journal;
pub use self::look::Looker;
use self::memory::Shortage;
pub use self::queues::Queues;
pub use self::reach::Reach;
use self::sample::{Sample, rates};
pub use self::scrape::Failure as ScrapeFailure;
use self::scrape::{Scraper, targets};
use self::uplink::Uplink;

/// Decisions that are kept for whoever asks later.
const REMEMBERED: usize = 1024;
const BACKLOG: usize = 256;

#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two looks; zero: there is no controller.
    pub interval: Duration,
    /// `None`: the default policy, which limits nobody.
    pub policy: Option<PathBuf>,
    /// The decision log.
    pub journal: PathBuf,
}

/// A decision and when it was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Told {
    pub time: String,
    /// One sentence.
    pub message: String,
    #[serde(flatten)]
    pub decision: Decision,
}

/// What the scrape shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ControllerReport {
    pub mode: Mode,
    pub looks: u64,
    /// Spent on looks, decisions and writes.
    pub seconds: f64,
    pub decisions: BTreeMap<(&'static str, Resource, &'static str), u64>,
    /// Limits that are in force because of the controller, by resource.
    pub leases: BTreeMap<Resource, u64>,
    /// Containers that are not well, or lately were not.
    pub victims: u64,
    /// Throttles that the runtime refused.
    pub failures: u64,
    /// Pages of containers that told their latency.
    pub scrapes: u64,
    pub scrape_failures: HashMap<ScrapeFailure, u64>,
    /// Looks that the decision log lacks.
    pub journal_lost: u64,
}

#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    looker: Looker,
    policy: Mutex<Arc<Policy>>,
    seen: Mutex<Seen>,
    journal: Mutex<Journal>,
    /// What was written last, by container; held while it is written.
    throttled: tokio::sync::Mutex<Throttled>,
    events: broadcast::Sender<Told>,
}

/// `None`: this agent is about to end, nothing is written any more.
type Throttled = Option<BTreeMap<String, Throttle>>;

#[derive(Debug, Default)]
struct Seen {
    /// Of the last look.
    now_ms: u64,
    state: State,
    /// The decision behind each limit of a container that is, or until this look was,
    /// throttled, by the limit's name.
    causes: BTreeMap<String, BTreeMap<String, Cause>>,
    decisions: VecDeque<Told>,
    report: ControllerReport,
}

/// A policy file that cannot be used, and why.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    #[error("cannot read {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Wrong { path: PathBuf, source: tenantry_control::PolicyError },
}

/// Reads and checks a policy, whole.
pub fn read_policy(path: &Path) -> Result<Policy, PolicyFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| PolicyFileError::Unreadable { path: path.to_owned(), source })?;
    Policy::parse(&text).map_err(|source| PolicyFileError::Wrong { path: path.to_owned(), source })
}

impl Controller {
    /// `policy`: what the settings' file says.
    pub fn new(settings: Settings, policy: Policy, looker: Looker) -> Self {
        Self {
            journal: Mutex::new(Journal::new(settings.journal.clone())),
            settings,
            looker,
            policy: Mutex::new(Arc::new(policy)),
            seen: Mutex::default(),
            throttled: tokio::sync::Mutex::new(Some(BTreeMap::new())),
            events: broadcast::channel(BACKLOG).0,
        }
    }

    pub fn policy(&self) -> Arc<Policy> {
        Arc::clone(&self.policy.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn policy_file(&self) -> Option<&Path> {
        self.settings.policy.as_deref()
    }

    /// Reads the policy file again. A wrong one changes nothing.
    pub fn reload(&self) -> Result<Arc<Policy>, PolicyFileError> {
        if let Some(path) = &self.settings.policy {
            let policy = Arc::new(read_policy(path)?);
            *self.policy.lock().unwrap_or_else(PoisonError::into_inner) = policy;
        }
        Ok(self.policy())
    }

    pub fn subscribe(&self) -> broadcast::Receiver<Told> {
        self.events.subscribe()
    }

    /// The last `limit` decisions, the oldest first.
    pub fn decisions(&self, limit: usize) -> Vec<Told> {
        let seen = self.seen();
        let skipped = seen.decisions.len().saturating_sub(limit);
        seen.decisions.iter().skip(skipped).cloned().collect()
    }

    pub fn state(&self) -> State {
        self.seen().state.clone()
    }

    /// `None` if there is no controller.
    pub fn report(&self) -> Option<ControllerReport> {
        (!self.settings.interval.is_zero()).then(|| self.seen().report.clone())
    }

    /// Looks and acts until the agent ends.
    pub async fn run(&self) {
        if self.settings.interval.is_zero() {
            return;
        }
        let began = Instant::now();
        let mut ticks = tokio::time::interval(self.settings.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: Option<Sample> = None;
        let mut parties = HashSet::new();
        let mut shortage = Shortage::default();
        let mut scraper = Scraper::default();
        let mut uplink = Uplink::default();
        loop {
            ticks.tick().await;
            let look_began = Instant::now();
            let policy = self.policy();
            let in_force = self.in_force().await;
            let mut now = tokio::task::block_in_place(|| {
                let at = began.elapsed();
                let is_short = shortage.is_there(at, crate::host::read_memory_stall_usec());
                self.looker.look(at, &policy, &parties, is_short)
            });
            for (id, limits) in in_force {
                if let Some(container) = now.container_mut(&id) {
                    container.in_force = limits;
                }
            }
            for (id, latency_ms) in scraper.take() {
                if let Some(container) = now.container_mut(&id) {
                    container.latency_ms = Some(latency_ms);
                }
            }
            if let Some(before) = &before {
                now.follow(before);
            }
            scraper.ask(targets(&now), self.settings.interval);
            let rates = before.as_ref().map(|before| rates(before, &now));
            before = Some(now);
            if let Some(mut rates) = rates {
                rates.uplink_has_classes = uplink.has_classes(&rates, || {
                    tokio::task::block_in_place(|| {
                        self.looker.engine.standing_queue_knows_classes()
                    })
                });
                parties = concerned(&policy, &rates);
                // Waits for memory are not in the kernel's table.
                self.looker.blames.add(memory::parts(&rates));
                self.decide(&policy, &rates);
                parties.extend(self.followed());
                self.act(&policy).await;
            }
            let mut seen = self.seen();
            seen.report.looks += 1;
            seen.report.scrapes = scraper.answers;
            seen.report.scrape_failures.clone_from(&scraper.failures);
            seen.report.seconds += look_began.elapsed().as_secs_f64();
        }
    }

    /// Who is held, and for whom; who was not well.
    fn followed(&self) -> Vec<String> {
        let state = &self.seen().state;
        let held = state.holds.iter().map(|hold| &hold.container);
        held.chain(state.victims.keys()).cloned().collect()
    }

    /// What the kernel says of the limits that the controller holds, and of those that it
    /// left to somebody else.
    async fn in_force(&self) -> BTreeMap<String, LimitsNow> {
        let state = self.state();
        let mut files = BTreeMap::new();
        for (hold, _) in state.leases() {
            if !files.contains_key(&hold.container) {
                let read = self.looker.reach.in_force(&hold.container).await;
                files.insert(hold.container.clone(), read);
            }
        }
        act::in_force(&state, &files)
    }

    fn decide(&self, policy: &Policy, rates: &Rates) {
        let mut seen = self.seen();
        let (state, decisions) = decide(policy, &seen.state, rates, rates.at_ms);
        let mut journal = self.journal();
        journal.look(policy, &seen.state, rates, (&state, &decisions));
        seen.report.journal_lost = journal.lost;
        drop(journal);
        seen.report.mode = policy.mode;
        seen.report.victims = state.victims.len() as u64;
        seen.report.leases.clear();
        if policy.mode == Mode::Enforce {
            for (hold, _) in state.leases() {
                *seen.report.leases.entry(hold.resource).or_default() += 1;
            }
        }
        seen.state = state;
        seen.now_ms = rates.at_ms;
        for decision in decisions {
            let kind = (word(decision.kind), decision.resource, decision.mode.as_str());
            *seen.report.decisions.entry(kind).or_default() += 1;
            let message = decision.to_string();
            tracing::info!(kind = ?decision.kind, mode = %decision.mode, "{message}");
            if let Some((limit, cause)) = act::cause(&decision, &message) {
                let causes = seen.causes.entry(decision.container.clone()).or_default();
                causes.insert(limit, cause);
            }
            let told = Told { time: jiff::Timestamp::now().to_string(), message, decision };
            if seen.decisions.len() == REMEMBERED {
                seen.decisions.pop_front();
            }
            seen.decisions.push_back(told.clone());
            let _ = self.events.send(told);
        }
    }

    /// Writes what the leases say, and renews them.
    async fn act(&self, policy: &Policy) {
        let wanted = match policy.mode {
            Mode::Enforce => act::throttles(&self.seen().state),
            Mode::Advise | Mode::DryRun => BTreeMap::new(),
        };
        let mut throttled = self.throttled.lock().await;
        let Some(before) = &mut *throttled else { return };
        for id in before.keys().filter(|id| !wanted.contains_key(*id)) {
            self.throttle(id, &Throttle::default(), policy).await;
        }
        for (id, throttle) in &wanted {
            self.throttle(id, throttle, policy).await;
        }
        self.seen().causes.retain(|id, _| wanted.contains_key(id));
        *before = wanted;
    }

    /// Gives everything back, for an agent that ends.
    pub async fn let_go(&self) {
        let policy = self.policy();
        let throttled = self.throttled.lock().await.take();
        for id in throttled.unwrap_or_default().keys() {
            self.throttle(id, &Throttle::default(), &policy).await;
        }
    }

    /// An empty throttle releases.
    async fn throttle(&self, id: &str, throttle: &Throttle, policy: &Policy) {
        let lease = self.lease(id, policy);
        let written = self.looker.reach.throttle(id, throttle.clone(), lease).await;
        let Err(error) = written else { return };
        if throttle.is_empty() {
            // It ended, or an operator holds it: there is nothing of ours to release.
            return;
        }
        tracing::warn!(container_id = id, %error, "not throttled as decided");
        let mut seen = self.seen();
        seen.report.failures += 1;
        let until_ms = seen.now_ms + policy.act.cooldown_ms;
        for actuator in act::refused(&seen.state, id, seen.now_ms) {
            seen.state.refuse(id, &actuator, until_ms);
            self.journal().refused(id, &actuator, until_ms);
        }
    }

    fn lease(&self, id: &str, policy: &Policy) -> Lease {
        let seen = self.seen();
        Lease {
            time: Duration::from_millis(policy.act.lease_ms),
            owner: Owner::Controller,
            reason: act::reason(&seen.state, id),
            causes: seen.causes.get(id).cloned().unwrap_or_default(),
        }
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whom some neighbour keeps waiting so long that it is worth a closer look, and who that is.
fn concerned(policy: &Policy, rates: &Rates) -> HashSet<String> {
    let mut parties = HashSet::new();
    for blame in &rates.blame {
        if let Some(culprit) = blame.culprit.container()
            && blame.seconds_per_second >= policy.detect.least_wait
        {
            parties.extend([blame.victim.clone(), culprit.to_owned()]);
        }
    }
    parties
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Advise => "advise",
        Kind::Tighten => "tighten",
        Kind::Loosen => "loosen",
        Kind::Release => "release",
        Kind::Undo => "undo",
        Kind::Yield => "yield",
    }
}
