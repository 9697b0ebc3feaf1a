//! What holds whatever happens: on inputs that no host would give, and on toy hosts of any
//! kind in which limits have effects.

mod plant;

use std::collections::BTreeMap;

use plant::{DISK, Plant, Toy, WRITES, enforce, toy, turns};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use tenantry_control::{
    Actuator, Blame, ContainerRates, CpuRates, Culprit, Decision, DiskRates, IoKind, Kind,
    MemoryRates, NetworkRates, Policy, Pressure, Rates, Resource, State, Wish, decide,
};

const POLICY: &str = "[protected]\nnetwork_wait = 0.2\n[ceilings]\ncpu_cores = 3\n";
const READS: Actuator = Actuator::IoMax { device: DISK, kind: IoKind::ReadBytes };
const TUNED: [Actuator; 9] = [
    Actuator::CpuWeight,
    Actuator::CpuMax,
    Actuator::MemoryHigh,
    Actuator::IoWeight,
    WRITES,
    READS,
    Actuator::NetEgress,
    Actuator::NetIngress,
    Actuator::NetPriority,
];
/// Ids and classes of the containers in a random look.
const HOST: [(&str, &str); 6] = [
    ("v0", "protected"),
    ("v1", "protected"),
    ("n0", "normal"),
    ("b0", "best-effort"),
    ("b1", "best-effort"),
    ("b2", "best-effort"),
];

/// Mostly plain, sometimes nothing, sometimes absurd.
fn amount(usual: f64) -> impl Strategy<Value = f64> {
    prop_oneof![6 => 0.0..usual, 2 => Just(0.0), 1 => 0.0..1e15]
}

fn wish(actuator: Actuator) -> impl Strategy<Value = (Actuator, Wish)> {
    let scale = match actuator {
        Actuator::CpuWeight | Actuator::IoWeight => 300.0,
        Actuator::CpuMax => 4.0,
        Actuator::MemoryHigh => 4e9,
        _ => 300e6,
    };
    let part = || proptest::option::weighted(0.5, 0.01..1.0f64);
    (part(), part()).prop_map(move |(limit, guarantee)| {
        // No operator guarantees more than the limit.
        let most = limit.unwrap_or(1.0);
        let wish = Wish {
            limit: limit.map(|part| part * scale),
            guarantee: guarantee.map(|part| part * most * scale),
        };
        (actuator, wish)
    })
}

fn wishes() -> impl Strategy<Value = BTreeMap<Actuator, Wish>> {
    let some = select(TUNED.to_vec()).prop_flat_map(wish);
    prop_oneof![3 => Just(BTreeMap::new()), 1 => vec(some, 1..4).prop_map(BTreeMap::from_iter)]
}

prop_compose! {
    fn container(index: usize)(
        used in amount(2.0), wait in amount(3.0), p99 in proptest::option::of(amount(60_000.0)),
        quota in prop_oneof![4 => Just(0.0), 1 => 0.0..1.0],
        disk in (amount(300e6), amount(300e6), amount(5e3), amount(5e3)),
        disk_p99 in proptest::option::of(amount(100_000.0)),
        memory in amount(4e9), network in (amount(120e6), amount(120e6)),
        pressure in (0.0..1.0, 0.0..1.0, 0.0..1.0),
        (running, weighted) in (prop::bool::weighted(0.95), any::<bool>()),
    ) -> ContainerRates {
        let (id, class) = HOST[index];
        let disk = DiskRates {
            device: DISK, read_bytes_per_s: disk.0, write_bytes_per_s: disk.1,
            read_ops_per_s: disk.2, write_ops_per_s: disk.3, p99_us: disk_p99, weighted,
        };
        ContainerRates {
            id: id.into(),
            name: id.into(),
            labels: [("tenantry.class".to_owned(), class.to_owned())].into(),
            running,
            cpu: CpuRates { used_cores: used, wait, wait_p99_us: p99, quota },
            disks: vec![disk],
            memory: MemoryRates { usage_bytes: memory, ..MemoryRates::default() },
            network: NetworkRates { egress_bytes_per_s: network.0, ingress_bytes_per_s: network.1 },
            pressure: Pressure { cpu: pressure.0, memory: pressure.1, io: pressure.2 },
            ..ContainerRates::default()
        }
    }
}

fn blame() -> impl Strategy<Value = Blame> {
    let culprit = prop_oneof![
        8 => (0..HOST.len()).prop_map(|index| Culprit::Container(HOST[index].0.into())),
        1 => select(vec![
            Culprit::Itself, Culprit::Host, Culprit::Quota, Culprit::Steal, Culprit::Unexplained,
        ]),
    ];
    (0..HOST.len(), culprit, select(Resource::ALL.to_vec()), 0.0..2.0).prop_map(
        |(victim, culprit, resource, seconds_per_second)| Blame {
            victim: HOST[victim].0.into(),
            culprit,
            resource,
            seconds_per_second,
        },
    )
}

prop_compose! {
    fn look()(
        containers in (container(0), container(1), container(2), container(3), container(4),
            container(5)),
        blame in vec(blame(), 0..24),
        steal in prop_oneof![9 => Just(0.0), 1 => 0.0..1.0],
        uplink_has_classes in any::<bool>(),
    ) -> Rates {
        let (a, b, c, d, e, f) = containers;
        Rates {
            interval_ms: 1000, cpus: 2, steal, uplink_has_classes,
            containers: vec![a, b, c, d, e, f], blame,
            ..Rates::default()
        }
    }
}

/// What a run of looks did, each with the rates it saw.
struct Trace {
    looks: Vec<(Rates, State, Vec<Decision>)>,
}

/// Runs random looks, each of which lasts a while, and in which what is decided is written.
fn run(policy: &Policy, looks: &[(Rates, usize)], wishes: &[BTreeMap<Actuator, Wish>]) -> Trace {
    let (mut state, mut now_ms) = (State::default(), 5_000);
    let mut in_force: BTreeMap<String, BTreeMap<Actuator, f64>> = BTreeMap::new();
    let mut trace = Trace { looks: Vec::new() };
    for (index, (rates, times)) in looks.iter().enumerate() {
        let mut rates = rates.clone();
        // The operators change their minds twice in a run.
        let change = index * wishes.len() / looks.len();
        rates.containers[3].wishes.clone_from(&wishes[change]);
        for _ in 0..*times {
            now_ms += 1000;
            rates.at_ms = now_ms;
            for container in &mut rates.containers {
                let written = in_force.get(&container.id);
                container.in_force = written.cloned().unwrap_or_default();
            }
            let (next, decisions) = decide(policy, &state, &rates, now_ms);
            state = next;
            for decision in &decisions {
                let Some(actuator) = decision.actuator else { continue };
                let written = in_force.entry(decision.container.clone()).or_default();
                match decision.after {
                    Some(value) => drop(written.insert(actuator, value)),
                    None => drop(written.remove(&actuator)),
                }
            }
            trace.looks.push((rates.clone(), state.clone(), decisions));
        }
    }
    trace
}

fn looks() -> impl Strategy<Value = Vec<(Rates, usize)>> {
    vec((look(), 1..30usize), 1..12)
}

fn floor(actuator: Actuator) -> f64 {
    match actuator {
        Actuator::CpuWeight | Actuator::IoWeight => 1.0,
        Actuator::CpuMax => 0.1,
        Actuator::MemoryHigh => f64::from(64 << 20),
        Actuator::IoMax { kind: IoKind::ReadBytes | IoKind::WriteBytes, .. } => 1e6,
        Actuator::IoMax { .. } => 50.0,
        Actuator::NetEgress | Actuator::NetIngress => 125_000.0,
        Actuator::CpuIdle | Actuator::NetPriority => 0.0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bounds_and_wishes_are_kept_and_only_best_effort_is_limited(
        looks in looks(), wishes in vec(wishes(), 3),
    ) {
        for (rates, state, decisions) in run(&enforce(POLICY), &looks, &wishes).looks {
            for decision in &decisions {
                if !matches!(decision.kind, Kind::Tighten | Kind::Loosen) {
                    continue;
                }
                let actuator = decision.actuator.unwrap();
                let container = rates.containers.iter().find(|c| c.id == decision.container);
                let container = container.unwrap();
                let wish = container.wishes.get(&actuator).copied().unwrap_or_default();
                let after = decision.after;
                prop_assert!(container.id.starts_with('b'), "{decision:#?}");
                prop_assert!(decision.victim.starts_with('v'), "{decision:#?}");
                prop_assert!(!actuator.is_tighter(wish.limit, after), "{decision:#?}");
                if let Some(guarantee) = wish.guarantee {
                    prop_assert!(after.unwrap() >= guarantee, "{decision:#?} {wish:?}");
                }
                prop_assert!(after.unwrap() >= floor(actuator), "{decision:#?}");
                if actuator == Actuator::CpuMax {
                    prop_assert!(after.unwrap() <= 3.0f64.max(wish.guarantee.unwrap_or(0.0)));
                }
                let tighter = actuator.is_tighter(after, decision.before);
                prop_assert_eq!(tighter, decision.kind == Kind::Tighten, "{:#?}", decision);
            }
            // One lease for each actuator, and no hold without lease or victim.
            let mut held: Vec<_> = state.leases().map(|(h, l)| (&h.container, l.actuator)).collect();
            let count = held.len();
            held.sort();
            held.dedup();
            prop_assert_eq!(held.len(), count);
            prop_assert!(state.holds.iter().all(|h| !h.leases.is_empty() && !h.claims.is_empty()));
        }
    }

    #[test]
    fn the_decisions_tell_all_that_is_in_force(looks in looks(), wishes in vec(wishes(), 3)) {
        let mut told: BTreeMap<(String, Actuator), f64> = BTreeMap::new();
        for (_, state, decisions) in run(&enforce(POLICY), &looks, &wishes).looks {
            for decision in decisions {
                let Some(actuator) = decision.actuator else { continue };
                let key = (decision.container.clone(), actuator);
                if let Some(value) = told.get(&key) {
                    prop_assert_eq!(Some(*value), decision.before, "{:#?}", decision);
                }
                match decision.kind {
                    Kind::Tighten | Kind::Loosen => drop(told.insert(key, decision.after.unwrap())),
                    _ => prop_assert!(told.remove(&key).is_some(), "{decision:#?}"),
                }
            }
            let held: BTreeMap<(String, Actuator), f64> = state
                .leases()
                .map(|(hold, lease)| ((hold.container.clone(), lease.actuator), lease.value))
                .collect();
            prop_assert_eq!(&told, &held);
        }
    }

    #[test]
    fn a_limit_turns_at_most_twice_in_two_minutes(looks in looks()) {
        let none = [BTreeMap::new()];
        let decisions: Vec<Decision> = run(&enforce(POLICY), &looks, &none)
            .looks
            .into_iter()
            .flat_map(|(_, _, decisions)| decisions)
            .filter(|decision| matches!(decision.kind, Kind::Tighten | Kind::Loosen))
            .collect();
        for actuator in TUNED {
            for container in ["b0", "b1", "b2"] {
                let turned = turns(&decisions, container, actuator);
                for three in turned.windows(3) {
                    prop_assert!(three[2] - three[0] >= 120_000, "{turned:?}");
                }
            }
        }
    }

    #[test]
    fn when_every_victim_ends_nothing_is_held_a_look_later(
        looks in looks(), wishes in vec(wishes(), 3),
    ) {
        let policy = enforce(POLICY);
        let Trace { looks } = run(&policy, &looks, &wishes);
        let (mut rates, state, _) = looks.into_iter().next_back().unwrap();
        rates.at_ms += 1000;
        for container in &mut rates.containers {
            container.running &= !container.id.starts_with('v');
        }
        let (after, _) = decide(&policy, &state, &rates, rates.at_ms);
        prop_assert!(after.holds.is_empty(), "{:#?}", after.holds);
    }

    #[test]
    fn a_worse_victim_is_never_helped_less(
        looks in looks(), wishes in vec(wishes(), 3), worse in 1.0..20.0f64,
    ) {
        let policy = enforce(POLICY);
        let Trace { looks } = run(&policy, &looks, &wishes);
        let (mut rates, state, _) = looks.into_iter().next_back().unwrap();
        rates.at_ms += 1000;
        for (id, in_force) in state.leases().map(|(h, l)| (&h.container, (l.actuator, l.value))) {
            let container = rates.containers.iter_mut().find(|c| c.id == *id).unwrap();
            container.in_force.insert(in_force.0, in_force.1);
        }
        // Of one victim and one resource, or more of another's would be a matter of taste.
        let (victim, resource) = ("v0", Resource::Cpu);
        rates.blame.retain(|blame| blame.victim == victim && blame.resource == resource);
        let mut bad = rates.clone();
        let cpu = &mut bad.containers[0].cpu;
        cpu.wait_p99_us = cpu.wait_p99_us.map(|p99| p99 * worse);
        let held = |state: State| -> BTreeMap<(String, Actuator), f64> {
            let of = |(hold, lease): (&tenantry_control::Hold, &tenantry_control::Lease)| {
                ((hold.container.clone(), lease.actuator), lease.value)
            };
            state.leases().filter(|(hold, _)| hold.resource == resource).map(of).collect()
        };
        let mild = held(decide(&policy, &state, &rates, rates.at_ms).0);
        let (severe, decisions) = decide(&policy, &state, &bad, rates.at_ms);
        let severe = held(severe);
        for (key, value) in mild {
            // At the end of its trial, the worse victim shows that it did not help.
            let is_undone =
                decisions.iter().any(|d| d.kind == Kind::Undo && d.container == key.0);
            // Who is idle has no weight.
            let is_idle = key.1 == Actuator::CpuWeight
                && severe.contains_key(&(key.0.clone(), Actuator::CpuIdle));
            if is_undone || is_idle {
                continue;
            }
            let other = severe.get(&key).copied();
            prop_assert!(!key.1.is_tighter(Some(value), other), "{key:?}: {value} {other:?}");
        }
    }
}

prop_compose! {
    /// A host whose victim has one neighbour too many, at one resource.
    fn host()(
        resource in select(Resource::ALL.to_vec()),
        weighted_disk in any::<bool>(), uplink_has_classes in any::<bool>(),
        victim in 0.1..0.9f64, culprits in vec(0.3..1.5f64, 1..4),
    ) -> (Plant, Resource) {
        let of = |id: &str, class, part: f64, whole: f64| {
            let mut toy = toy(id, class);
            match resource {
                Resource::Cpu => toy.cores = part * whole * 2.0,
                Resource::Memory => (toy.memory_bytes, toy.cores) = (part * whole * 5e9, 0.01),
                Resource::Disk => toy.write_bytes_per_s = part * whole * 200e6,
                Resource::Network => toy.egress_bytes_per_s = part * whole * 125e6,
            }
            toy
        };
        let victim = of("web", "protected", victim, 0.5);
        let culprits = culprits.into_iter().enumerate();
        let culprits = culprits.map(|(index, part)| of(&format!("b{index}"), "best-effort", part, 1.0));
        let plant = Plant::of([victim].into_iter().chain(culprits));
        (Plant { weighted_disk, uplink_has_classes, ..plant }, resource)
    }
}

fn policies() -> impl Strategy<Value = Policy> {
    select(vec!["", "[act]\nallow = [\"cpu.max\", \"memory.high\", \"io.max\", \"net.egress\"]\n"])
        .prop_map(|more| enforce(&format!("[protected]\nnetwork_wait = 0.2\n{more}")))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// A steady host: after a while nothing is changed any more until what was learnt is
    /// forgotten; then it is probed again, at most one turn a minute.
    #[test]
    fn a_steady_host_comes_to_rest((mut plant, _) in host(), policy in policies()) {
        let mut state = State::default();
        let mut decisions = plant.looks(&policy, &mut state, 240);
        let settled = plant.clone();
        decisions.extend(plant.looks(&policy, &mut state, 55));
        let late: Vec<&Decision> = decisions.iter().filter(|d| d.at_ms > settled.now_ms).collect();
        prop_assert!(late.is_empty(), "{late:#?}");
        // The fixed point is one: the same look again changes nothing.
        let again = decide(&policy, &state, &plant.rates(), plant.now_ms);
        prop_assert!(again.1.is_empty());
        prop_assert_eq!(again.0.holds, state.holds.clone());
        decisions.extend(plant.looks(&policy, &mut state, 1500));
        for toy in &plant.toys {
            for actuator in [Actuator::CpuWeight, Actuator::CpuIdle].into_iter().chain(TUNED) {
                let turned = turns(&decisions, &toy.id, actuator);
                for three in turned.windows(3) {
                    prop_assert!(three[2] - three[0] >= 120_000, "{turned:?} {decisions:#?}");
                }
            }
        }
    }

    /// Whatever can be helped is helped: the victim is well, or all that may be taken is
    /// taken, or it was tried and undone.
    #[test]
    fn the_victim_is_well_or_nothing_is_left_to_take((mut plant, resource) in host(), policy in policies()) {
        let mut state = State::default();
        let decisions = plant.looks(&policy, &mut state, 60);
        let watch = state.watch_of("web", resource);
        let tried = decisions.iter().any(|decision| decision.kind == Kind::Undo);
        let floored = state.leases().any(|(_, lease)| lease.value <= 1.05 * floor(lease.actuator))
            || resource == Resource::Memory;
        prop_assert!(watch <= 1.0 || tried || floored, "{watch} {state:#?}");
    }

    /// The cause goes: the culprit's load, the victim's load, or its being in the way.
    #[test]
    fn every_limit_is_released_once_its_cause_is_gone(
        (mut plant, _) in host(), policy in policies(), cause in 0..4, seconds in 3..600u32,
    ) {
        let mut state = State::default();
        plant.looks(&policy, &mut state, seconds);
        let within = match cause {
            0 => {
                for toy in plant.toys.iter_mut().filter(|toy| toy.class == "best-effort") {
                    rest(toy);
                }
                70
            }
            1 => {
                rest(plant.toy("web"));
                70
            }
            2 => {
                plant.toy("web").stopped = true;
                1
            }
            _ => {
                // They want as much as ever, but it hurts nobody: half an hour for the
                // longest memory, and the way up in steps.
                plant.harmless = true;
                15_000
            }
        };
        plant.looks(&policy, &mut state, within);
        prop_assert!(state.holds.is_empty(), "{:#?}", state.holds);
        prop_assert!(plant.toys.iter().all(|toy| toy.in_force.is_empty()));
    }
}

fn rest(toy: &mut Toy) {
    let kept = (toy.id.clone(), toy.class, toy.in_force.clone());
    *toy = Toy { id: kept.0, class: kept.1, in_force: kept.2, ..Toy::default() };
}

/// The severity a victim is remembered with; 0 if it is not.
trait WatchOf {
    fn watch_of(&self, victim: &str, resource: Resource) -> f64;
}

impl WatchOf for State {
    fn watch_of(&self, victim: &str, resource: Resource) -> f64 {
        let watch = self.victims.get(victim).and_then(|victim| victim.watches.get(&resource));
        watch.map_or(0.0, |watch| watch.severity)
    }
}
