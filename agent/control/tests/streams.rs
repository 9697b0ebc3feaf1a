//! Who takes the CPU for a stream is held by the stream's bandwidth.

mod plant;

use plant::{Plant, Toy, enforce, toy};
use tenantry_control::{Actuator, Decision, Kind, Reason, State, Wish};

const POLICY: &str = "[protected]\nrun_queue_p99_ms = 1.0\n";

fn server_and_stream() -> Plant {
    let stream =
        Toy { cores: 2.0, egress_bytes_per_s: 2e9, streams: true, ..toy("stream", "best-effort") };
    Plant::of([Toy { cores: 0.5, ..toy("web", "protected") }, stream])
}

fn turned(decisions: &[Decision]) -> Vec<Actuator> {
    let mut turned: Vec<Actuator> = decisions.iter().filter_map(|d| d.actuator).collect();
    turned.dedup();
    turned
}

#[test]
fn bandwidth_is_cut_instead_of_the_quota_and_given_back() {
    let mut plant = server_and_stream();
    // Nothing gentle is left to try.
    let policy = enforce(&format!("{POLICY}[act]\nallow = [\"cpu.max\", \"net.egress\"]"));
    let mut state = State::default();
    let decisions = plant.looks(&policy, &mut state, 30);
    assert_eq!(turned(&decisions), [Actuator::NetEgress], "{decisions:#?}");
    assert!(plant.run_queue_p99_ms("web") <= 1.0);
    plant.toy("web").stopped = true;
    let released = plant.look(&policy, &mut state);
    assert!(released.iter().all(|d| d.reason == Reason::VictimGone), "{released:#?}");
    assert!(state.holds.is_empty() && plant.toy("stream").in_force.is_empty());
}

#[test]
fn an_operators_bandwidth_stays_the_operators() {
    let mut plant = server_and_stream();
    let policy = enforce(&format!("{POLICY}[act]\nallow = [\"cpu.max\", \"net.egress\"]"));
    let mut state = State::default();
    let wish = |limit| Wish { limit: Some(limit), guarantee: None };
    plant.toy("stream").wishes.insert(Actuator::NetEgress, wish(1.5e9));
    plant.toy("stream").in_force.insert(Actuator::NetEgress, 1.5e9);
    let first = plant.looks(&policy, &mut state, 4);
    assert_eq!(turned(&first), [Actuator::NetEgress], "a wish of old ends nothing: {first:#?}");
    assert!(first.iter().all(|d| d.after.unwrap() < 1.5e9), "{first:#?}");

    plant.toy("stream").wishes.insert(Actuator::NetEgress, wish(1.9e9));
    plant.toy("stream").in_force.insert(Actuator::NetEgress, 1.9e9);
    let yielded = plant.look(&policy, &mut state);
    assert_eq!((yielded[0].kind, yielded[0].reason), (Kind::Yield, Reason::OperatorChanged));
    // What is the operator's own now is left alone, for the CPU's sake, too.
    let later = plant.looks(&policy, &mut state, 30);
    assert_eq!(turned(&later), [Actuator::CpuMax], "{later:#?}");
}

#[test]
fn where_bandwidth_cannot_be_held_the_quota_is() {
    let mut plant = server_and_stream();
    plant.toy("stream").unshaped = true;
    let policy = enforce(&format!("{POLICY}[act]\nallow = [\"cpu.max\", \"net.egress\"]"));
    let decisions = plant.looks(&policy, &mut State::default(), 30);
    assert_eq!(turned(&decisions), [Actuator::CpuMax], "{decisions:#?}");
}
