//! Disks and uplinks whose queues know weights or classes: who is in the way gives way there
//! before a rate is set.

mod plant;

use plant::{Plant, Toy, WRITES, enforce, kinds, toy};
use tenantry_control::{Actuator, Decision, Kind, Reason, Resource, State, Wish};

fn writers(weighted_disk: bool) -> Plant {
    let web = Toy { write_bytes_per_s: 1e6, ..toy("web", "protected") };
    let hog = Toy { write_bytes_per_s: 190e6, ..toy("hog", "best-effort") };
    Plant { weighted_disk, ..Plant::of([web, hog]) }
}

#[test]
fn a_disk_with_weights_is_shared_by_weight_before_a_rate_is_set() {
    let order = |plant: Plant, policy: &str| -> Vec<Actuator> {
        let mut plant = plant;
        let decisions = plant.looks(&enforce(policy), &mut State::default(), 30);
        decisions.iter().filter_map(|decision| decision.actuator).collect()
    };
    assert_eq!(order(writers(true), ""), [Actuator::IoWeight]);
    assert_eq!(order(writers(false), "")[0], WRITES);
    // Where the weight is not enough.
    let hard = "[protected]\ndisk_p99_ms = 1.001\npressure_io = 0.9\n[detect]\nleast_wait = 0\n";
    assert_eq!(order(writers(true), hard)[..2], [Actuator::IoWeight, WRITES]);
    // Who is to keep a weight does, and an operator's own weight is lighter already.
    assert_eq!(order(writers(true), "[floors]\ndisk_weight = 100\n")[0], WRITES);
    let mut light = writers(true);
    let wish = Wish { limit: Some(1.0), guarantee: None };
    light.toy("hog").wishes.insert(Actuator::IoWeight, wish);
    assert_eq!(order(light, "")[0], WRITES);
    assert_eq!(order(writers(true), "[act]\nallow = [\"io.max\"]\n")[0], WRITES);
}

#[test]
fn who_is_kept_from_a_disk_by_its_weight_is_not_taken_for_idle() {
    let (mut plant, policy) = (writers(true), enforce(""));
    let mut state = State::default();
    let before = plant.looks(&policy, &mut state, 60);
    assert_eq!(kinds(&before), [(Kind::Tighten, Some(Actuator::IoWeight))]);
    let written = &plant.rates().containers[1].disks[0];
    assert!(written.write_bytes_per_s < 0.1 * 190e6, "the plant's own weight: {written:?}");
    // It has no load any more.
    plant.toy("hog").write_bytes_per_s = 0.0;
    let after = plant.looks(&policy, &mut state, 10);
    assert_eq!(kinds(&after), [(Kind::Release, Some(Actuator::IoWeight))]);
    assert_eq!(after[0].reason, Reason::CulpritIdle);
}

#[test]
fn who_goes_last_in_a_queue_that_others_fill_is_not_taken_for_idle() {
    let web = Toy { egress_bytes_per_s: 1e6, ..toy("web", "protected") };
    let hog = Toy { egress_bytes_per_s: 120e6, ..toy("hog", "best-effort") };
    let mut plant = Plant { uplink_has_classes: true, ..Plant::of([web, hog]) };
    let (policy, mut state) = (enforce("[protected]\nnetwork_wait = 0.2"), State::default());
    let taken = plant.looks(&policy, &mut state, 10);
    assert_eq!(kinds(&taken), [(Kind::Tighten, Some(Actuator::NetPriority))]);
    plant.toy("web").egress_bytes_per_s = 120e6;
    plant.toy("hog").egress_bytes_per_s = 1e6;
    assert_eq!(plant.looks(&policy, &mut state, 20), []);
    plant.toy("web").egress_bytes_per_s = 1e6;
    let after = plant.looks(&policy, &mut state, 10);
    assert_eq!(kinds(&after), [(Kind::Release, Some(Actuator::NetPriority))]);
    assert_eq!(after[0].reason, Reason::CulpritIdle);
}

#[test]
fn who_fills_the_uplink_goes_last_where_its_queue_knows_that_and_is_shaped_where_not() {
    let plant = || {
        let web = Toy { egress_bytes_per_s: 1e6, ..toy("web", "protected") };
        let hog = Toy { egress_bytes_per_s: 120e6, ..toy("hog", "best-effort") };
        Plant { uplink_has_classes: true, ..Plant::of([web, hog]) }
    };
    let run = |plant: &mut Plant, more: &str, looks: u32| {
        let policy = enforce(&format!("{more}\n[protected]\nnetwork_wait = 0.2\n"));
        let mut state = State::default();
        (plant.looks(&policy, &mut state, looks), state)
    };
    let taken = |decisions: &[Decision]| -> Vec<Actuator> {
        let tightened = decisions.iter().filter(|d| d.kind == Kind::Tighten);
        tightened.filter_map(|d| d.actuator).collect()
    };
    // It keeps the rate that the victim leaves.
    let mut helped = plant();
    let (decisions, state) = run(&mut helped, "", 60);
    assert_eq!(taken(&decisions), [Actuator::NetPriority], "{decisions:#?}");
    assert!(decisions[0].to_string().contains("net.priority"), "{}", decisions[0]);
    assert!(state.victims["web"].watches[&Resource::Network].severity <= 1.0);
    assert!(!helped.toy("hog").in_force.contains_key(&Actuator::NetEgress));
    // A queue that knows classes stands, but the victim waits elsewhere.
    let mut elsewhere = plant();
    elsewhere.waits_elsewhere = true;
    let (decisions, _) = run(&mut elsewhere, "", 20);
    let both = taken(&decisions);
    assert_eq!(both[..2], [Actuator::NetPriority, Actuator::NetEgress], "{decisions:#?}");
    // Not allowed, guaranteed a rate, another runtime's, and where no queue knows classes.
    let (decisions, _) = run(&mut plant(), "[act]\nallow = [\"net.egress\"]", 20);
    assert!(!taken(&decisions).contains(&Actuator::NetPriority), "{decisions:#?}");
    let mut promised = plant();
    let promise = Wish { limit: None, guarantee: Some(1e6) };
    promised.toy("hog").wishes.insert(Actuator::NetEgress, promise);
    let (decisions, _) = run(&mut promised, "", 20);
    assert_eq!(taken(&decisions)[0], Actuator::NetEgress, "{decisions:#?}");
    let mut foreign = plant();
    foreign.toy("hog").foreign = true;
    assert_eq!(taken(&run(&mut foreign, "limit_foreign = true", 20).0), []);
    let mut plain = plant();
    plain.uplink_has_classes = false;
    assert_eq!(taken(&run(&mut plain, "", 20).0)[0], Actuator::NetEgress);
}
