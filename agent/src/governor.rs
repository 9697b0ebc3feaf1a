//! Keeps the meters within their budget: a meter must not be the noisy neighbour.
//!
//! Once a minute the kernel times its programs for a second; with the agent's own time
//! that is the overhead, as a share of all CPUs. Above the budget, detail goes: latency
//! sampling first, then whatever else can be switched, the costliest first. Counting and
//! audit events are never among it. What went comes back when it would fit again.
//!
//! [`decide`] chooses and is pure; [`Governor::run`] measures and executes. The daemon
//! starts it, the collector and the event stream read it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use tenantry_ebpf::{Cost, Meters, ProbeStatus, SYSCALL_LATENCY_PROBE, Timing};
use tokio::sync::broadcast;

/// Measurements in a row that must say the same before anything is changed.
const CONFIRM: u32 = 2;
/// What comes back must fit below this part of the budget.
const RESTORE_BELOW: f64 = 0.8;
/// Events that one slow listener may fall behind.
const BACKLOG: usize = 64;

/// What the configuration says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rules {
    /// Share of all CPUs that programs and agent may take together; 0 switches the
    /// governor off.
    pub budget_ratio: f64,
    /// Between two measurements.
    pub interval: Duration,
    /// What went stays away for at least this long.
    pub hold: Duration,
}

impl Rules {
    /// How long the kernel times its programs: a sixtieth of the time, or less.
    fn window(&self) -> Duration {
        (self.interval / 60).clamp(Duration::from_millis(100), Duration::from_secs(1))
    }
}

/// One look at what everything costs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measurement {
    /// When, on a clock that only goes forward.
    pub at: Duration,
    /// Share of all CPUs: programs and agent.
    pub overhead_ratio: f64,
    /// Of that, the details that are on and can be switched off.
    pub details: Vec<Detail>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Detail {
    pub probe: String,
    pub overhead_ratio: f64,
}

/// What is remembered from one measurement to the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// Measurements in a row above the budget.
    over: u32,
    /// Measurements in a row at which the detail that went last would have fitted.
    fits: u32,
    /// The last to go is the last here, and the first to come back.
    shed: Vec<Shed>,
}

#[derive(Clone, Debug, PartialEq)]
struct Shed {
    probe: String,
    since: Duration,
    /// Its cost in relation to all the rest when it went: what it would cost again grows
    /// and shrinks with the rest.
    per_rest: f64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    Shed(String),
    Restore(String),
}

/// What to do now: at most one thing, so that the next measurement shows its effect.
pub fn decide(rules: &Rules, state: &State, now: &Measurement) -> (State, Option<Action>) {
    let mut next = state.clone();
    if now.overhead_ratio > rules.budget_ratio {
        (next.over, next.fits) = (state.over.saturating_add(1), 0);
        if next.over < CONFIRM {
            return (next, None);
        }
        // One that went may run for somebody else's sake: it has gone all the same.
        let gone = |detail: &&Detail| state.shed.iter().any(|shed| shed.probe == detail.probe);
        let left: Vec<&Detail> = now.details.iter().filter(|detail| !gone(detail)).collect();
        let Some(detail) = first_to_go(&left) else { return (next, None) };
        let rest = (now.overhead_ratio - detail.overhead_ratio).max(f64::MIN_POSITIVE);
        let per_rest = detail.overhead_ratio / rest;
        next.over = 0;
        next.shed.push(Shed { probe: detail.probe.clone(), since: now.at, per_rest });
        return (next, Some(Action::Shed(detail.probe.clone())));
    }
    next.over = 0;
    let Some(last) = state.shed.last() else {
        next.fits = 0;
        return (next, None);
    };
    let expected = now.overhead_ratio * (1.0 + last.per_rest);
    let fits = expected <= rules.budget_ratio * RESTORE_BELOW;
    next.fits = if fits { state.fits.saturating_add(1) } else { 0 };
    if next.fits < CONFIRM || now.at.saturating_sub(last.since) < rules.hold {
        return (next, None);
    }
    let probe = last.probe.clone();
    next.shed.pop();
    next.fits = 0;
    (next, Some(Action::Restore(probe)))
}

/// Latency sampling, which costs most and is missed least; else the costliest. What costs
/// nothing stays.
fn first_to_go<'d>(details: &[&'d Detail]) -> Option<&'d Detail> {
    let costs = || details.iter().copied().filter(|detail| detail.overhead_ratio > 0.0);
    costs()
        .find(|detail| detail.probe == SYSCALL_LATENCY_PROBE)
        .or_else(|| costs().max_by(|a, b| a.overhead_ratio.total_cmp(&b.overhead_ratio)))
}

/// For `/metrics`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GovernorReport {
    pub budget_ratio: f64,
    /// `None` until the first measurement.
    pub overhead_ratio: Option<f64>,
    /// What can be shed, and whether it is.
    pub shed: Vec<(String, bool)>,
}

/// For `/v1/events`.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct GovernorEvent {
    /// shed or restored.
    pub action: &'static str,
    pub probe: String,
    /// Share of all CPUs that led to it.
    pub overhead_ratio: f64,
    pub budget_ratio: f64,
}

#[derive(Debug)]
pub struct Governor {
    rules: Rules,
    meters: Arc<Meters>,
    events: broadcast::Sender<GovernorEvent>,
    seen: Mutex<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    state: State,
    overhead_ratio: Option<f64>,
}

impl Governor {
    pub fn new(rules: Rules, meters: Arc<Meters>) -> Self {
        let events = broadcast::channel(BACKLOG).0;
        Self { rules, meters, events, seen: Mutex::default() }
    }

    pub fn subscribe(&self) -> broadcast::Receiver<GovernorEvent> {
        self.events.subscribe()
    }

    /// `None` if it is switched off.
    pub fn report(&self) -> Option<GovernorReport> {
        if self.rules.budget_ratio <= 0.0 {
            return None;
        }
        let seen = self.seen();
        let is_shed = |probe: &str| seen.state.shed.iter().any(|shed| shed.probe == probe);
        Some(GovernorReport {
            budget_ratio: self.rules.budget_ratio,
            overhead_ratio: seen.overhead_ratio,
            shed: self
                .meters
                .switchable()
                .into_iter()
                .map(|(probe, _)| (probe.to_owned(), is_shed(probe)))
                .collect(),
        })
    }

    /// Measures and acts until the agent ends. One look a minute and a second's
    /// statistics are all that an idle host pays.
    pub async fn run(&self) {
        if self.rules.budget_ratio <= 0.0 {
            return;
        }
        let began = Instant::now();
        let mut agent = AgentTime::now();
        loop {
            tokio::time::sleep(self.rules.interval).await;
            let programs = match self.measure().await {
                Ok(programs) => programs,
                Err(error) => {
                    tracing::warn!(%error, "overhead not measured: nothing is governed");
                    return;
                }
            };
            let before = std::mem::replace(&mut agent, AgentTime::now());
            let measurement = self.put_together(&programs, agent.share_since(&before), began);
            self.act(&measurement);
        }
    }

    async fn measure(&self) -> Result<Window, tenantry_ebpf::CostError> {
        let timing = Timing::begin()?;
        let (before, began) = (self.meters.run_cost()?, Instant::now());
        tokio::time::sleep(self.rules.window()).await;
        let (after, took) = (self.meters.run_cost()?, began.elapsed());
        drop(timing);
        Ok(Window { cost: after.since(&before), took })
    }

    fn put_together(&self, window: &Window, agent: f64, began: Instant) -> Measurement {
        let share = |run_ns: u64| run_ns as f64 / 1e9 / window.took.as_secs_f64() / cpus();
        let switchable = self.meters.switchable();
        let is_on = |name: &str| {
            switchable.iter().any(|(probe, s)| *probe == name && *s == ProbeStatus::Active)
        };
        let details = window.cost.programs.iter().filter(|program| is_on(&program.name));
        Measurement {
            at: began.elapsed(),
            overhead_ratio: share(window.cost.run_ns()) + agent / cpus(),
            details: details
                .map(|program| Detail {
                    probe: program.name.clone(),
                    overhead_ratio: share(program.run_ns),
                })
                .collect(),
        }
    }

    fn act(&self, measurement: &Measurement) {
        let mut seen = self.seen();
        seen.overhead_ratio = Some(measurement.overhead_ratio);
        let (next, action) = decide(&self.rules, &seen.state, measurement);
        let Some(action) = action else {
            seen.state = next;
            return;
        };
        let (probe, on, word) = match &action {
            Action::Shed(probe) => (probe, false, "shed"),
            Action::Restore(probe) => (probe, true, "restored"),
        };
        if let Err(error) = self.meters.switch(probe, on) {
            // The state stays as it was: the next measurement tries again.
            tracing::warn!(probe, on, %error, "the governor could not switch");
            return;
        }
        let (overhead_ratio, budget_ratio) = (measurement.overhead_ratio, self.rules.budget_ratio);
        tracing::info!(probe, action = word, overhead_ratio, budget_ratio, "governor");
        seen.state = next;
        // Nobody listens: fine.
        let _ = self.events.send(GovernorEvent {
            action: word,
            probe: probe.clone(),
            overhead_ratio,
            budget_ratio,
        });
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        // A panic while it was held left it whole: changes are single assignments.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the programs did while the kernel timed them.
#[derive(Debug)]
struct Window {
    cost: Cost,
    took: Duration,
}

fn cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |n| n.get() as f64)
}

/// The agent's own processor time at one moment.
#[derive(Debug)]
struct AgentTime {
    cpu: Duration,
    at: Instant,
}

impl AgentTime {
    fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        Self { cpu: Duration::new(time.tv_sec as u64, time.tv_nsec as u32), at: Instant::now() }
    }

    /// Share of one CPU.
    fn share_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64().max(1e-9);
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64() / wall
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        budget_ratio: 0.02,
        interval: Duration::from_secs(60),
        hold: Duration::from_secs(600),
    };

    /// A host whose load makes the rest cost `load`, and each detail that is on a part of it.
    struct Host {
        state: State,
        on: Vec<(&'static str, f64, bool)>,
        at: Duration,
        done: Vec<(Duration, Action)>,
    }

    impl Host {
        fn new(details: &[(&'static str, f64)]) -> Self {
            let on = details.iter().map(|(probe, part)| (*probe, *part, true)).collect();
            Self { state: State::default(), on, at: Duration::ZERO, done: Vec::new() }
        }

        fn minute(&mut self, load: f64) {
            self.at += RULES.interval;
            let on = self.on.iter().filter(|(_, _, on)| *on);
            let details: Vec<Detail> = on
                .map(|(probe, part, _)| Detail {
                    probe: (*probe).into(),
                    overhead_ratio: part * load,
                })
                .collect();
            let sum: f64 = details.iter().map(|detail| detail.overhead_ratio).sum();
            let now = Measurement { at: self.at, overhead_ratio: load + sum, details };
            let (state, action) = decide(&RULES, &self.state, &now);
            self.state = state;
            let Some(action) = action else { return };
            let (probe, wanted) = match &action {
                Action::Shed(probe) => (probe, false),
                Action::Restore(probe) => (probe, true),
            };
            let detail = self.on.iter_mut().find(|(name, ..)| name == probe).expect("known");
            assert_ne!(detail.2, wanted, "{probe} is so already");
            detail.2 = wanted;
            self.done.push((self.at, action));
        }
    }

    #[test]
    fn latency_goes_first_then_the_costliest_and_they_come_back_in_reverse() {
        let mut host = Host::new(&[("cheap", 0.1), (SYSCALL_LATENCY_PROBE, 0.5), ("dear", 0.9)]);
        (0..8).for_each(|_| host.minute(0.03));
        (0..60).for_each(|_| host.minute(0.001));
        let actions: Vec<Action> = host.done.iter().map(|(_, action)| action.clone()).collect();
        let names = [SYSCALL_LATENCY_PROBE, "dear", "cheap"];
        let shed = names.iter().map(|probe| Action::Shed((*probe).into()));
        let back = names.iter().rev().map(|probe| Action::Restore((*probe).into()));
        assert_eq!(actions, shed.chain(back).collect::<Vec<_>>());
    }

    #[test]
    fn one_busy_minute_changes_nothing() {
        let mut host = Host::new(&[(SYSCALL_LATENCY_PROBE, 1.0)]);
        for _ in 0..20 {
            host.minute(0.05);
            host.minute(0.001);
        }
        assert_eq!(host.done, []);
    }

    #[test]
    fn what_would_not_fit_again_stays_away() {
        let mut host = Host::new(&[(SYSCALL_LATENCY_PROBE, 1.0)]);
        (0..3).for_each(|_| host.minute(0.015));
        assert_eq!(host.done.len(), 1, "0.03 is above the budget");
        (0..200).for_each(|_| host.minute(0.015));
        assert_eq!(host.done.len(), 1, "0.015 fits, 0.03 would not");
    }

    #[test]
    fn with_nothing_left_to_shed_nothing_is_done() {
        let mut host = Host::new(&[]);
        (0..50).for_each(|_| host.minute(0.5));
        assert_eq!(host.done, []);
    }

    #[test]
    fn a_window_is_a_sixtieth_of_the_time() {
        let window = |seconds| {
            Rules { interval: Duration::from_secs(seconds), ..RULES }.window().as_millis()
        };
        assert_eq!((window(60), window(600), window(1)), (1000, 1000, 100));
    }

    proptest! {
        #[test]
        fn it_never_swings_faster_than_the_hold_time(
            loads in proptest::collection::vec(0.0..0.1_f64, 1..400),
            parts in proptest::collection::vec(0.0..3.0_f64, 0..4),
        ) {
            let names = ["a", "b", SYSCALL_LATENCY_PROBE, "d"];
            let details: Vec<_> = names.into_iter().zip(parts).collect();
            let mut host = Host::new(&details);
            loads.iter().for_each(|load| host.minute(*load));
            for probe in names {
                let own: Vec<_> = host.done.iter().filter(|(_, action)| match action {
                    Action::Shed(name) | Action::Restore(name) => name == probe,
                }).collect();
                for pair in own.windows(2) {
                    let between = pair[1].0 - pair[0].0;
                    match (&pair[0].1, &pair[1].1) {
                        (Action::Shed(_), Action::Restore(_)) => {
                            prop_assert!(between >= RULES.hold, "{between:?}");
                        }
                        (Action::Restore(_), Action::Shed(_)) => {
                            prop_assert!(between >= RULES.interval * CONFIRM, "{between:?}");
                        }
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
            }
        }

        #[test]
        fn an_idle_host_gets_everything_back(
            loads in proptest::collection::vec(0.0..1.0_f64, 0..100),
            parts in proptest::collection::vec(0.0..3.0_f64, 0..4),
        ) {
            let details: Vec<_> = ["a", "b", SYSCALL_LATENCY_PROBE, "d"].into_iter().zip(parts).collect();
            let mut host = Host::new(&details);
            loads.iter().for_each(|load| host.minute(*load));
            // Each comes back after its hold time, and two measurements apart.
            (0..40).for_each(|_| host.minute(0.0));
            prop_assert!(host.on.iter().all(|(_, _, on)| *on), "{:?}", host.on);
        }
    }
}
