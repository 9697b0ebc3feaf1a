//! From the leases that the controller holds to what is written for each container. Pure.

use std::collections::BTreeMap;

use tenantry_container::{Cause, Holder, InForce, IoThrottle, Throttle};
use tenantry_control::{Actuator, Decision, IoKind, Kind, Lease, LimitsNow, Mode, State};

/// The whole throttle of each container that one of our leases is on.
pub fn throttles(state: &State) -> BTreeMap<String, Throttle> {
    let mut wanted: BTreeMap<String, Throttle> = BTreeMap::new();
    for (hold, lease) in state.leases() {
        put(wanted.entry(hold.container.clone()).or_default(), lease);
    }
    wanted
}

fn put(throttle: &mut Throttle, lease: &Lease) {
    // Weights, bytes and operations are whole; what is left is at least one of them.
    let whole = || lease.value.round().max(1.0) as u64;
    match lease.actuator {
        Actuator::CpuWeight => throttle.cpu_weight = Some(whole()),
        Actuator::CpuIdle => throttle.cpu_idle = lease.value >= 0.5,
        Actuator::CpuMax => throttle.cpu_max_cores = Some(lease.value),
        Actuator::MemoryHigh => throttle.memory_high_bytes = Some(whole()),
        Actuator::IoWeight => throttle.io_weight = Some(whole()),
        Actuator::NetEgress => throttle.egress_bits_per_s = Some(whole() * 8),
        Actuator::NetPriority => throttle.egress_bulk = lease.value >= 0.5,
        Actuator::NetIngress => throttle.ingress_bits_per_s = Some(whole() * 8),
        Actuator::IoMax { device, kind } => {
            let (major, minor) = (device.major, device.minor);
            let of = |io: &IoThrottle| (io.major, io.minor) == (major, minor);
            let at = throttle.io.iter().position(of).unwrap_or_else(|| {
                throttle.io.push(IoThrottle { major, minor, ..IoThrottle::default() });
                throttle.io.len() - 1
            });
            let io = &mut throttle.io[at];
            let field = match kind {
                IoKind::ReadBytes => &mut io.read_bytes_per_s,
                IoKind::WriteBytes => &mut io.write_bytes_per_s,
                IoKind::ReadOps => &mut io.read_ops_per_s,
                IoKind::WriteOps => &mut io.write_ops_per_s,
            };
            *field = Some(whole());
        }
    }
}

/// Which leases end where a container's throttle could not be written: those that are new at
/// this look, for what was written before can be written again; else all.
pub fn refused(state: &State, container: &str, now_ms: u64) -> Vec<Actuator> {
    let ours = state.leases().filter(|(hold, _)| hold.container == container);
    let (new, old): (Vec<_>, Vec<_>) =
        ours.map(|(_, lease)| lease).partition(|lease| lease.taken_at_ms == now_ms);
    let ends = if new.is_empty() { old } else { new };
    ends.into_iter().map(|lease| lease.actuator).collect()
}

/// Each lease's value if the kernel still says so, else what it says. Bandwidth has no file:
/// it is as it was written. What was left to somebody else is as it was then.
pub fn in_force(
    state: &State,
    files: &BTreeMap<String, Vec<InForce>>,
) -> BTreeMap<String, LimitsNow> {
    let mut now: BTreeMap<String, LimitsNow> = BTreeMap::new();
    for (hold, lease) in state.leases() {
        let of_lease = |file: &&InForce| {
            lease.actuator.to_string().starts_with(file.actuator.as_str())
                && file.holder != Holder::Throttle
        };
        let files = files.get(&hold.container).map(Vec::as_slice).unwrap_or_default();
        let value = files.iter().find(of_lease).map_or(lease.value, |file| number(&file.now));
        now.entry(hold.container.clone()).or_default().insert(lease.actuator, value);
    }
    for mark in &state.marks {
        if let Some(value) = mark.in_force {
            now.entry(mark.container.clone()).or_default().entry(mark.actuator).or_insert(value);
        }
    }
    now
}

/// The first number in a limit file; 0 for no limit (`max`, -1) and for what has none: no lease
/// has that.
fn number(text: &str) -> f64 {
    let first = text.split_ascii_whitespace().find_map(|word| word.parse().ok());
    first.map_or(0.0, |number: f64| number.max(0.0))
}

/// Which limit a decision changes, and what is kept beside the change. `None` for what is not
/// executed.
pub fn cause(decision: &Decision, message: &str) -> Option<(String, Cause)> {
    let is_executed = decision.mode == Mode::Enforce && decision.kind != Kind::Advise;
    let actuator = decision.actuator.filter(|_| is_executed)?;
    let cause = Cause {
        victim_id: decision.victim.clone(),
        victim_name: decision.victim_name.clone(),
        message: message.to_owned(),
        evidence: serde_json::to_value(&decision.evidence).unwrap_or_default(),
    };
    Some((actuator.to_string(), cause))
}

/// What the operator is told of a throttle: for whose sake each lease was taken.
pub fn reason(state: &State, container: &str) -> String {
    let holds = state.holds.iter().filter(|hold| hold.container == container);
    let claims = holds.flat_map(|hold| {
        hold.claims.iter().map(move |claim| format!("{} for {}", hold.resource, claim.name))
    });
    claims.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use tenantry_control::{Claim, Device, Hold, Resource, Wish, Wishes};

    use super::*;

    fn lease(actuator: Actuator, value: f64) -> Lease {
        Lease {
            actuator,
            wish: Wish::default(),
            value,
            used_before: 0.0,
            too_loose: None,
            too_loose_until_ms: 0,
            taken_at_ms: 0,
            step: 0,
        }
    }

    fn hold(container: &str, resource: Resource, leases: Vec<Lease>) -> Hold {
        let claim = Claim {
            victim: "0a1f".into(),
            name: "web".into(),
            severity: 2.0,
            since_ms: 0,
            trial_until_ms: None,
        };
        Hold {
            container: container.into(),
            name: container.into(),
            resource,
            mode: Mode::Enforce,
            leases,
            claims: vec![claim],
            changed_at_ms: 0,
            rest_until_ms: 0,
            loosening: false,
            quiet_since_ms: None,
            wishes: Wishes::new(),
            again: 0,
        }
    }

    #[test]
    fn of_a_throttle_that_could_not_be_written_the_new_leases_end() {
        let mut new = lease(Actuator::IoWeight, 1.0);
        new.taken_at_ms = 5_000;
        let mut state = State::default();
        let old = hold("batch", Resource::Cpu, vec![lease(Actuator::CpuMax, 0.25)]);
        state.holds = vec![old, hold("batch", Resource::Disk, vec![new])];
        assert_eq!(refused(&state, "batch", 5_000), [Actuator::IoWeight]);
        assert_eq!(refused(&state, "batch", 6_000), [Actuator::CpuMax, Actuator::IoWeight]);
        assert_eq!(refused(&state, "copy", 5_000), []);
    }

    #[test]
    fn the_leases_of_a_container_are_one_throttle() {
        let io = |kind| Actuator::IoMax { device: Device { major: 8, minor: 0 }, kind };
        let cpu = vec![lease(Actuator::CpuWeight, 1.0), lease(Actuator::CpuMax, 0.25)];
        let disk = vec![
            lease(Actuator::IoWeight, 1.0),
            lease(io(IoKind::WriteBytes), 1e6),
            lease(io(IoKind::ReadOps), 0.2),
        ];
        let state = State {
            holds: vec![
                hold("batch", Resource::Cpu, cpu),
                hold("batch", Resource::Disk, disk),
                hold(
                    "copy",
                    Resource::Network,
                    vec![lease(Actuator::NetPriority, 1.0), lease(Actuator::NetEgress, 1000.4)],
                ),
                hold("spin", Resource::Cpu, vec![lease(Actuator::CpuIdle, 1.0)]),
            ],
            ..State::default()
        };
        let throttles = throttles(&state);
        let batch = Throttle {
            cpu_weight: Some(1),
            cpu_max_cores: Some(0.25),
            io_weight: Some(1),
            io: vec![IoThrottle {
                major: 8,
                minor: 0,
                write_bytes_per_s: Some(1_000_000),
                read_ops_per_s: Some(1),
                ..IoThrottle::default()
            }],
            ..Throttle::default()
        };
        assert_eq!(throttles["batch"], batch);
        assert_eq!(throttles["copy"].egress_bits_per_s, Some(8000));
        assert!(throttles["copy"].egress_bulk && !throttles["spin"].egress_bulk);
        assert!(throttles["spin"].cpu_idle);
        assert_eq!(reason(&state, "batch"), "cpu for web, disk for web");
    }
}
