//! What happens on a host, look after look, told as an operator would.

mod plant;

use plant::{Plant, Toy, WRITES, enforce, kinds, server_and_spinners, toy, turns};
use tenantry_control::{
    Actuator, ContainerRates, Decision, Kind, Mode, Objective, Policy, Reason, Resource, State,
    Wish, decide,
};

const HARD_CPU: &str = "[act]\nallow = [\"cpu.max\"]\n";

#[test]
fn spinners_go_idle_before_anything_hard_and_are_let_go_when_the_server_idles() {
    let mut plant = server_and_spinners(4);
    let (policy, mut state) = (enforce(""), State::default());
    assert!(plant.run_queue_p99_ms("web") > 5.0);
    let decisions = plant.looks(&policy, &mut state, 5);
    assert!(plant.run_queue_p99_ms("web") < 5.0, "{decisions:#?}");
    assert!(decisions.iter().all(|d| d.actuator == Some(Actuator::CpuIdle)), "{decisions:#?}");
    assert_eq!(decisions.len(), 4);
    // It stays so for as long as both want the CPUs.
    assert_eq!(plant.looks(&policy, &mut state, 250), []);
    plant.toy("web").cores = 0.0;
    let decisions = plant.looks(&policy, &mut state, 10);
    assert!(decisions.iter().all(|d| d.reason == Reason::VictimIdle), "{decisions:#?}");
    assert_eq!(decisions.len(), 4);
    assert_eq!(state.leases().count(), 0);
    assert!(plant.toys.iter().all(|toy| toy.in_force.is_empty()));
    plant.looks(&policy, &mut state, 2);
    assert!(state.is_quiet());
}

#[test]
fn a_victim_that_is_a_little_slow_costs_its_neighbours_their_weight_alone() {
    let mut plant = server_and_spinners(1);
    let slow = plant.run_queue_p99_ms("web") / 1.5;
    let policy =
        enforce(&format!("[protected]\nrun_queue_p99_ms = {slow:.1}\npressure_cpu = 0.9\n"));
    let decisions = plant.looks(&policy, &mut State::default(), 20);
    assert_eq!(kinds(&decisions), [(Kind::Tighten, Some(Actuator::CpuWeight))]);
}

#[test]
fn idle_follows_where_weight_is_not_enough_and_a_quota_where_idle_is_not() {
    let order = |stubborn: f64, policy: &str| -> Vec<Actuator> {
        let mut plant = Plant { stubborn, ..server_and_spinners(1) };
        let policy = enforce(&format!("{policy}[detect]\nleast_wait = 0"));
        let decisions = plant.looks(&policy, &mut State::default(), 12);
        decisions.iter().filter_map(|decision| decision.actuator).collect()
    };
    let ladder = [Actuator::CpuWeight, Actuator::CpuIdle, Actuator::CpuMax];
    let slow = order(1.0, "[protected]\nrun_queue_p99_ms = 40\npressure_cpu = 0.9\n");
    assert_eq!(slow[..3], ladder);
    // The weight of who is idle is nothing.
    let severe = order(0.0, "[protected]\nrun_queue_p99_ms = 0.12\npressure_cpu = 0.001\n");
    assert_eq!(severe[..2], ladder[1..]);
}

#[test]
fn who_is_to_keep_a_weight_does_not_go_idle() {
    let mut plant = server_and_spinners(1);
    let policy = enforce("[floors]\ncpu_weight = 20\n");
    let decisions = plant.looks(&policy, &mut State::default(), 20);
    assert_eq!(decisions[0].actuator, Some(Actuator::CpuWeight), "{decisions:#?}");
    assert!(decisions.iter().all(|one| one.actuator != Some(Actuator::CpuIdle)));
}

#[test]
fn a_quota_is_set_for_the_largest_culprit_and_who_takes_at_least_half_as_much() {
    let mut plant = server_and_spinners(2);
    plant.toys.push(Toy { cores: 0.8, ..toy("small", "best-effort") });
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    let first = (0..10).map(|_| plant.look(&policy, &mut state)).find(|taken| !taken.is_empty());
    let taken = first.expect("somebody is limited");
    let limited: Vec<&str> = taken.iter().map(|one| one.container.as_str()).collect();
    assert_eq!(limited, ["spin0", "spin1"], "{taken:#?}");
}

#[test]
fn the_quota_found_is_near_the_largest_that_helps() {
    let mut plant = server_and_spinners(1);
    let policy = enforce(HARD_CPU);
    // The best static limit, by a sweep.
    let best = (1..=200)
        .map(|hundredths| f64::from(hundredths) / 100.0)
        .filter(|limit| {
            let mut plant = plant.clone();
            plant.toy("spin0").in_force.insert(Actuator::CpuMax, *limit);
            plant.run_queue_p99_ms("web") <= 5.0
        })
        .fold(0.0, f64::max);
    assert!((0.2..1.5).contains(&best), "{best}");
    let mut state = State::default();
    let mut decisions = plant.looks(&policy, &mut state, 60);
    assert!(plant.run_queue_p99_ms("web") <= 5.0);
    decisions.extend(plant.looks(&policy, &mut state, 840));
    let mut kept = Vec::new();
    for _ in 0..600 {
        decisions.extend(plant.look(&policy, &mut state));
        kept.push(plant.toy("spin0").in_force.get(&Actuator::CpuMax).copied().unwrap_or(2.0));
    }
    let mean = kept.iter().sum::<f64>() / kept.len() as f64;
    assert!(mean >= 0.75 * best, "{mean} of {best}: {decisions:#?}");
    let turned = turns(&decisions, "spin0", Actuator::CpuMax);
    assert!(turned.len() <= 25, "{turned:?}");
}

#[test]
fn disk_network_and_memory_are_limited_where_they_hurt() {
    let check = |victim: Toy, culprit: Toy, actuator, more: &str| {
        let mut plant = Plant::of([victim, culprit]);
        let (policy, mut state) = (enforce(more), State::default());
        let decisions = plant.looks(&policy, &mut state, 30);
        assert!(!decisions.is_empty(), "{actuator}");
        assert!(decisions.iter().all(|d| d.actuator == Some(actuator)), "{decisions:#?}");
        assert!(decisions[0].kind == Kind::Tighten && decisions[0].before.is_none());
        let watch = state.victims["web"].watches[&actuator.resource()];
        assert!(watch.severity <= 1.0, "{watch:?}");
        plant.toy("web").stopped = true;
        let released = plant.look(&policy, &mut state);
        assert!(released.iter().all(|d| d.reason == Reason::VictimGone), "{released:#?}");
        assert!(state.holds.is_empty() && plant.toy("hog").in_force.is_empty());
    };
    let (web, hog) = (|| toy("web", "protected"), || toy("hog", "best-effort"));
    check(
        Toy { write_bytes_per_s: 1e6, ..web() },
        Toy { write_bytes_per_s: 190e6, ..hog() },
        WRITES,
        "",
    );
    check(
        Toy { egress_bytes_per_s: 1e6, ..web() },
        Toy { egress_bytes_per_s: 120e6, ..hog() },
        Actuator::NetEgress,
        "[protected]\nnetwork_wait = 0.2",
    );
    check(
        Toy { memory_bytes: 1e9, cores: 0.01, ..web() },
        Toy { memory_bytes: 4e9, ..hog() },
        Actuator::MemoryHigh,
        "",
    );
}

/// Looks at this for a minute and finds nothing to do or to say.
fn check_no_action(what: &str, mut plant: Plant) {
    for mode in ["enforce", "advise"] {
        let policy = Policy::parse(&format!("mode = \"{mode}\"")).unwrap();
        let decisions = plant.looks(&policy, &mut State::default(), 60);
        assert_eq!(decisions, [], "{what}, {mode}");
    }
}

#[test]
fn nobody_is_blamed_for_a_victims_own_quota_for_steal_for_itself_or_for_nothing() {
    let mut plant = server_and_spinners(2);
    plant.toy("web").quota = 0.7;
    check_no_action("quota", plant);
    let mut plant = server_and_spinners(2);
    plant.steal = 0.3;
    check_no_action("steal", plant);
    let mut plant = server_and_spinners(2);
    plant.toy("web").cores = 0.0;
    check_no_action("an idle victim", plant);
    let mut plant = server_and_spinners(4);
    plant.toys.remove(0);
    check_no_action("greed without a victim", plant);
    check_no_action("an idle host", Plant::of([toy("a", "protected"), toy("b", "best-effort")]));
}

#[test]
fn what_does_not_help_is_undone_and_tried_again_later_each_time() {
    let mut plant = server_and_spinners(1);
    // What it waits for comes whatever the spinner does, though the spinner is blamed.
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    let mut starts = Vec::new();
    for _ in 0..1400 {
        plant.now_ms += 1000;
        let mut rates = plant.rates();
        rates.containers[0].cpu.wait_p99_us = Some(50_000.0);
        rates.blame[0].seconds_per_second = 0.5;
        let (next, decisions) = decide(&policy, &state, &rates, plant.now_ms);
        state = next;
        for decision in &decisions {
            let toy = plant.toy("spin0");
            match decision.after {
                Some(value) => drop(toy.in_force.insert(Actuator::CpuMax, value)),
                None => toy.in_force.clear(),
            }
            if decision.kind == Kind::Tighten && decision.before.is_none() {
                starts.push(decision.at_ms);
            }
            let loosens = decision.kind == Kind::Undo;
            assert!(loosens || decision.kind == Kind::Tighten, "{decision:#?}");
        }
    }
    let gaps: Vec<u64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / 1000).collect();
    assert_eq!(gaps.len(), 2, "{gaps:?}");
    assert!((300..330).contains(&gaps[0]) && (600..630).contains(&gaps[1]), "{gaps:?}");
}

#[test]
fn an_operators_change_ends_the_lease_and_is_respected() {
    let mut plant = server_and_spinners(1);
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    plant.looks(&policy, &mut state, 4);
    assert_eq!(state.leases().count(), 1);
    let wish = Wish { limit: Some(1.5), guarantee: None };
    plant.toy("spin0").wishes.insert(Actuator::CpuMax, wish);
    plant.toy("spin0").in_force.insert(Actuator::CpuMax, 1.5);
    let decisions = plant.look(&policy, &mut state);
    assert_eq!(kinds(&decisions), [(Kind::Yield, Some(Actuator::CpuMax))]);
    assert_eq!((decisions[0].reason, decisions[0].after), (Reason::OperatorChanged, Some(1.5)));
    assert_eq!(plant.looks(&policy, &mut state, 590), []);
    // Afterwards it is limited again, below the wish.
    let again = plant.looks(&policy, &mut state, 20);
    assert!(again.iter().all(|decision| decision.after.unwrap() < 1.5), "{again:#?}");
    assert!(!again.is_empty());
}

#[test]
fn an_operators_change_of_another_limit_of_the_resource_ends_it_as_well() {
    let mut plant = server_and_spinners(1);
    let (policy, mut state) = (enforce(""), State::default());
    plant.looks(&policy, &mut state, 4);
    assert_eq!(state.holds[0].leases[0].actuator, Actuator::CpuIdle);
    let wish = Wish { limit: Some(1.5), guarantee: None };
    plant.toy("spin0").wishes.insert(Actuator::CpuMax, wish);
    plant.toy("spin0").in_force.insert(Actuator::CpuMax, 1.5);
    let decisions = plant.look(&policy, &mut state);
    assert_eq!(kinds(&decisions), [(Kind::Release, Some(Actuator::CpuIdle))]);
    assert_eq!((decisions[0].reason, decisions[0].after), (Reason::OperatorChanged, None));
    assert_eq!(plant.looks(&policy, &mut state, 590), []);
    // Its memory is another matter.
    let wish = Wish { limit: Some(1e9), guarantee: None };
    plant.looks(&policy, &mut state, 20);
    plant.toy("spin0").wishes.insert(Actuator::MemoryHigh, wish);
    assert_eq!(plant.look(&policy, &mut state), []);
    assert_eq!(state.leases().count(), 1);
}

#[test]
fn who_holds_what_cannot_be_reclaimed_gets_no_more_and_what_it_gives_back_by_itself_is_kept() {
    let web = Toy { memory_bytes: 1e9, cores: 0.01, ..toy("web", "protected") };
    let hog = Toy { memory_bytes: 4e9, is_locked: true, ..toy("hog", "best-effort") };
    let mut plant = Plant::of([web, hog]);
    let (policy, mut state) = (enforce(""), State::default());
    let decisions = plant.looks(&policy, &mut state, 4);
    assert_eq!(kinds(&decisions), [(Kind::Tighten, Some(Actuator::MemoryHigh))]);
    let pages = |bytes: f64| bytes / 4096.0;
    let held = |plant: &mut Plant| pages(plant.toy("hog").in_force[&Actuator::MemoryHigh]).round();
    assert_eq!(held(&mut plant), pages(4e9).round(), "no more than it has, and no less");
    // Half of it is no working set: it is not needed any more.
    plant.toy("hog").memory_bytes = 3.3e9;
    plant.looks(&policy, &mut state, 2);
    assert_eq!(held(&mut plant), pages(3.3e9).round());
}

#[test]
fn what_somebody_else_wrote_is_respected_until_it_is_taken_back() {
    let mut plant = server_and_spinners(1);
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    plant.looks(&policy, &mut state, 4);
    plant.toy("spin0").in_force.insert(Actuator::CpuMax, 1.9);
    let decisions = plant.look(&policy, &mut state);
    assert_eq!(kinds(&decisions), [(Kind::Yield, Some(Actuator::CpuMax))]);
    assert_eq!(decisions[0].reason, Reason::SomebodyElseWrote);
    assert_eq!(plant.toy("spin0").in_force[&Actuator::CpuMax], 1.9);
    assert_eq!(plant.looks(&policy, &mut state, 100), []);
    plant.toy("spin0").in_force.clear();
    assert!(!plant.looks(&policy, &mut state, 3).is_empty());
}

#[test]
fn a_culprit_of_two_victims_is_let_go_when_both_are_well() {
    let mut plant = server_and_spinners(1);
    plant.toys.push(Toy { cores: 0.3, ..toy("api", "protected") });
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    plant.looks(&policy, &mut state, 20);
    assert_eq!(state.holds[0].claims.len(), 2);
    let before = state.holds[0].leases[0].value;
    plant.toy("web").stopped = true;
    assert_eq!(plant.looks(&policy, &mut state, 5), []);
    assert_eq!((state.holds.len(), state.holds[0].leases[0].value), (1, before));
    plant.toy("api").cores = 0.0;
    let released = plant.looks(&policy, &mut state, 10);
    assert_eq!(kinds(&released), [(Kind::Release, Some(Actuator::CpuMax))]);
}

#[test]
fn advice_says_which_class_is_missing_and_does_not_repeat_itself() {
    let check = |victim, culprit, policy: Policy, reason| {
        let mut plant = server_and_spinners(1);
        plant.toy("web").class = victim;
        plant.toy("spin0").class = culprit;
        let decisions = plant.looks(&policy, &mut State::default(), 120);
        assert_eq!(decisions.len(), 1, "{decisions:#?}");
        assert_eq!((decisions[0].kind, decisions[0].reason), (Kind::Advise, reason));
        decisions[0].to_string()
    };
    let told = check("protected", "", enforce(""), Reason::CulpritNotBestEffort);
    assert!(told.contains("class the-spin0 best-effort to let me act"), "{told}");
    let strict = || Policy::parse("[normal]\npressure_cpu = 0.05").unwrap();
    let told = check("", "", strict(), Reason::VictimNotProtected);
    assert!(told.contains("class the-web protected and the-spin0 best-effort"), "{told}");
    let told = check("protected", "best-effort", Policy::default(), Reason::ObjectiveMissed);
    assert!(told.contains("In enforce mode the-spin0 would be limited: cpu.idle"), "{told}");
}

#[test]
fn the_protected_and_the_foreign_are_never_limited() {
    let mut plant = server_and_spinners(2);
    plant.toy("spin0").class = "protected";
    plant.toy("spin1").foreign = true;
    let policy = enforce("limit_normal = true");
    let decisions = plant.looks(&policy, &mut State::default(), 60);
    assert!(decisions.iter().all(|decision| decision.kind == Kind::Advise), "{decisions:#?}");
    let policy = enforce("limit_foreign = true");
    let decisions = plant.looks(&policy, &mut State::default(), 60);
    let limited = |id| decisions.iter().any(|d| d.container == id && d.kind == Kind::Tighten);
    assert!(limited("spin1") && !limited("spin0"), "{decisions:#?}");
}

#[test]
fn advice_on_a_foreign_culprit_says_which_word_is_missing() {
    let mut plant = server_and_spinners(1);
    plant.toy("spin0").foreign = true;
    let decisions = plant.looks(&enforce(""), &mut State::default(), 20);
    assert_eq!(decisions.len(), 1, "{decisions:#?}");
    assert_eq!((decisions[0].kind, decisions[0].reason), (Kind::Advise, Reason::CulpritForeign));
    let told = decisions[0].to_string();
    assert!(told.contains("the-spin0 best-effort and say limit_foreign = true"), "{told}");
}

#[test]
fn the_bandwidth_of_a_foreign_container_is_left_alone() {
    for foreign in [false, true] {
        let client = Toy { egress_bytes_per_s: 20e6, cores: 0.1, ..toy("web", "protected") };
        let upload = Toy { egress_bytes_per_s: 120e6, foreign, ..toy("upload", "best-effort") };
        let mut plant = Plant::of([client, upload]);
        let policy = enforce("limit_foreign = true\n[protected]\nnetwork_wait = 0.01\n");
        let decisions = plant.looks(&policy, &mut State::default(), 30);
        assert_eq!(decisions.is_empty(), foreign, "{decisions:#?}");
    }
}

/// The server's own word is its one objective, and whatever is taken is soon given back.
fn by_latency() -> Policy {
    enforce(
        "[detect]\nwell_looks = 1\n[act]\nremember_seconds = 1\nturn_seconds = 1\n\
         [[rule]]\nclass = \"protected\"\nname = [\"the-web\"]\n\
         [rule.objectives]\nlatency_ms = 5\n[rule.metric]\nname = \"seconds\"\nport = 9100\n",
    )
}

#[test]
fn a_latency_that_the_container_tells_itself_is_an_objective() {
    let mut plant = server_and_spinners(1);
    plant.toy("web").tells = true;
    let decisions = plant.looks(&by_latency(), &mut State::default(), 3);
    assert_eq!(kinds(&decisions), [(Kind::Tighten, Some(Actuator::CpuIdle))]);
    assert_eq!(decisions[0].evidence.objective, Some(Objective::LatencyMs));
    assert!(decisions[0].to_string().contains("has a latency of"), "{}", decisions[0]);
}

#[test]
fn a_latency_that_nobody_knows_makes_nobody_unwell() {
    let mut plant = server_and_spinners(1);
    assert_eq!(plant.looks(&by_latency(), &mut State::default(), 200), []);
}

#[test]
fn a_latency_that_is_no_longer_known_changes_nothing_for_a_minute() {
    let (policy, mut state) = (by_latency(), State::default());
    let mut plant = server_and_spinners(1);
    plant.toy("web").tells = true;
    assert_eq!(plant.looks(&policy, &mut state, 3).len(), 1);
    // The trial would end meanwhile, and so would the hold.
    plant.toy("web").tells = false;
    assert_eq!(plant.looks(&policy, &mut state, 60), []);
    assert_eq!(state.leases().count(), 1);
    let decisions = plant.looks(&policy, &mut state, 60);
    assert_eq!(kinds(&decisions), [(Kind::Release, Some(Actuator::CpuIdle))]);
    // A look without it now and then does no harm either.
    let mut taken = Vec::new();
    for look in 0..60 {
        plant.toy("web").tells = look % 3 != 0;
        taken.extend(plant.look(&policy, &mut state));
    }
    assert_eq!(taken.first().map(|taken| taken.kind), Some(Kind::Tighten), "{taken:#?}");
}

#[test]
fn a_dry_run_decides_and_leaves_everything_as_it_is() {
    let mut plant = server_and_spinners(1);
    let policy = Policy::parse("mode = \"dry-run\"").unwrap();
    let mut state = State::default();
    let decisions = plant.looks(&policy, &mut state, 30);
    assert!(decisions.iter().any(|decision| decision.kind == Kind::Tighten));
    assert!(decisions.iter().all(|decision| decision.mode == Mode::DryRun));
    assert!(plant.toy("spin0").in_force.is_empty());
    // Nothing was done, so nothing helped.
    assert!(decisions.iter().any(|decision| decision.kind == Kind::Undo), "{decisions:#?}");
}

#[test]
fn another_mode_or_class_lets_everybody_go() {
    for policy in ["mode = \"dry-run\"", "mode = \"enforce\"\ntrust_labels = false"] {
        let mut plant = server_and_spinners(2);
        let mut state = State::default();
        plant.looks(&enforce(""), &mut state, 5);
        assert_eq!(state.leases().count(), 2);
        let decisions = plant.look(&Policy::parse(policy).unwrap(), &mut state);
        let over = |d: &&Decision| d.kind == Kind::Release && d.reason == Reason::PolicyChanged;
        assert_eq!(decisions.iter().filter(over).count(), 2, "{decisions:#?}");
        assert!(plant.toys.iter().all(|toy| toy.in_force.is_empty()));
    }
}

#[test]
fn a_culprit_that_ends_or_rests_is_let_go() {
    for ends in [true, false] {
        let mut plant = server_and_spinners(1);
        let (policy, mut state) = (enforce(HARD_CPU), State::default());
        plant.looks(&policy, &mut state, 10);
        let spinner = plant.toy("spin0");
        (spinner.stopped, spinner.cores) = (ends, 0.01);
        let decisions = plant.looks(&policy, &mut state, 10);
        let reason = if ends { Reason::CulpritGone } else { Reason::CulpritIdle };
        assert_eq!(decisions.len(), 1, "{decisions:#?}");
        assert_eq!((decisions[0].kind, decisions[0].reason), (Kind::Release, reason));
    }
}

#[test]
fn a_limit_that_cannot_be_set_is_not_tried_each_second() {
    let mut plant = server_and_spinners(1);
    let wish = Wish { limit: Some(1.9), guarantee: None };
    plant.toy("spin0").wishes.insert(Actuator::CpuMax, wish);
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    plant.looks(&policy, &mut state, 4);
    plant.toy("spin0").in_force.insert(Actuator::CpuMax, 1.9);
    state.refuse("spin0", &Actuator::CpuMax, plant.now_ms + 50_000);
    assert!(state.holds.is_empty());
    assert_eq!(plant.looks(&policy, &mut state, 49), []);
    assert!(!plant.looks(&policy, &mut state, 3).is_empty());
}

#[test]
fn what_cannot_be_set_does_not_keep_the_next_step_from_being_tried() {
    let web = Toy { write_bytes_per_s: 20e6, cores: 0.01, ..toy("web", "protected") };
    let copy = Toy { write_bytes_per_s: 300e6, ..toy("copy", "best-effort") };
    let mut plant = Plant::of([web, copy]);
    plant.weighted_disk = true;
    let (policy, mut state) = (enforce(""), State::default());
    plant.looks(&policy, &mut state, 3);
    assert_eq!(state.holds[0].leases[0].actuator, Actuator::IoWeight);
    plant.toy("copy").in_force.clear();
    state.refuse("copy", &Actuator::IoWeight, plant.now_ms + 50_000);
    let decisions = plant.looks(&policy, &mut state, 2);
    assert_eq!(kinds(&decisions), [(Kind::Tighten, Some(WRITES))]);
}

#[test]
fn a_look_with_a_number_that_is_none_changes_nothing() {
    let mut plant = server_and_spinners(1);
    let (policy, mut state) = (enforce(""), State::default());
    plant.looks(&policy, &mut state, 1);
    for broken in [f64::NAN, f64::INFINITY, -1.0] {
        let mut rates = plant.rates();
        rates.containers[0].cpu.wait = broken;
        assert_eq!(decide(&policy, &state, &rates, plant.now_ms), (state.clone(), Vec::new()));
    }
}

#[test]
fn the_sentence_names_who_what_and_why() {
    let mut plant = server_and_spinners(1);
    let (policy, mut state) = (enforce(HARD_CPU), State::default());
    let decisions = plant.looks(&policy, &mut state, 3);
    assert_eq!(
        decisions[0].to_string(),
        "the-spin0 limited: cpu.max none → 0.94 CPUs, since the-web has a run-queue p99 of \
         10.5 ms (wanted 5.0) and waits for it (cpu)."
    );
    let evidence = &decisions[0].evidence;
    assert_eq!((evidence.share, evidence.used), (1.0, 2.0));
    assert_eq!(decisions[0].resource, Resource::Cpu);
}

#[test]
fn a_container_without_any_numbers_is_passed_over() {
    let nothing = ContainerRates { running: true, ..ContainerRates::default() };
    let rates = tenantry_control::Rates { containers: vec![nothing; 3], ..Default::default() };
    let (state, decisions) = decide(&enforce(""), &State::default(), &rates, 0);
    assert!(state == State::default() && decisions.is_empty());
}

#[test]
fn between_well_and_bad_nothing_is_done() {
    let mut plant = server_and_spinners(1);
    let p99 = plant.run_queue_p99_ms("web");
    let met = p99 / 0.9;
    let policy = enforce(&format!("[protected]\nrun_queue_p99_ms = {met}\npressure_cpu = 1\n"));
    assert_eq!(plant.looks(&policy, &mut State::default(), 60), []);
}

#[test]
fn what_is_given_back_comes_in_steps_and_stays_clear_of_what_was_too_loose() {
    let mut plant = server_and_spinners(1);
    // It uses a little more than the operator wants.
    let wish = Wish { limit: Some(1.95), guarantee: None };
    plant.toy("spin0").wishes.insert(Actuator::CpuMax, wish);
    // One cut, and no second one before the neighbour turns harmless.
    let policy = enforce(
        "[detect]\nwell_looks = 20\n\
         [act]\nallow = [\"cpu.max\"]\nsettle_seconds = 2\nturn_seconds = 1\n",
    );
    let mut state = State::default();
    let taken = plant.looks(&policy, &mut state, 3);
    let taken_at = taken[0].at_ms;
    plant.harmless = true;
    let decisions = plant.looks(&policy, &mut state, 600);
    assert!(decisions[0].at_ms >= taken_at + 20_000, "{:#?}", decisions[0]);
    let (last, steps) = decisions.split_last().unwrap();
    for step in steps {
        assert_eq!(step.kind, Kind::Loosen);
        let (before, after) = (step.before.unwrap(), step.after.unwrap());
        assert!(after - before <= 0.05 * 2.0 + 0.01, "{before} {after}");
        // A tenth below what it used, for five minutes; never above its wish.
        let most = if step.at_ms < taken_at + 300_000 { 1.8 } else { 1.95 };
        assert!(after <= most, "{after}");
    }
    let early = |step: &&Decision| step.at_ms < taken_at + 300_000;
    let near = steps.iter().filter(early).filter_map(|step| step.after).fold(0.0, f64::max);
    assert!((1.75..=1.8).contains(&near), "{near}");
    assert_eq!((last.kind, last.reason), (Kind::Release, Reason::VictimWell));
    assert_eq!(last.after, Some(1.95));
    assert!(last.at_ms >= taken_at + 300_000);
}
