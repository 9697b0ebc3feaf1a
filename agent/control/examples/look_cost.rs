//! What one look costs: `cargo run --release -p tenantry-control --example look_cost`.
//!
//! Two hundred containers, half of them protected, ten rules with patterns; blame of the
//! kind that a busy host has. Quiet, with somebody bad for whom nobody may be limited, and
//! with sixteen held.

use std::hint::black_box;
use std::time::Instant;

use tenantry_control::{
    Blame, ContainerRates, CpuRates, Culprit, Policy, Pressure, Rates, Recorder, Resource, State,
    decide,
};

const CONTAINERS: usize = 200;
const LOOKS: u32 = 2000;

fn rates() -> Rates {
    let containers = (0..CONTAINERS).map(|index| ContainerRates {
        id: format!("{index:064x}"),
        name: format!("{}-{index}", if index % 2 == 0 { "web" } else { "job" }),
        image: format!("registry.example.com/team/{}/image:1.{index}", index % 7),
        running: true,
        cpu: CpuRates {
            used_cores: 0.01,
            wait: 0.001,
            wait_p99_us: Some(200.0),
            ..CpuRates::default()
        },
        pressure: Pressure { cpu: 0.01, ..Pressure::default() },
        ..ContainerRates::default()
    });
    let blame = (0..1000).map(|index| Blame {
        victim: format!("{:064x}", index % CONTAINERS),
        culprit: Culprit::Container(format!("{:064x}", (index * 7 + 1) % CONTAINERS)),
        resource: Resource::ALL[index % 4],
        seconds_per_second: 0.001,
    });
    Rates {
        at_ms: 1000,
        interval_ms: 1000,
        cpus: 2,
        containers: containers.collect(),
        blame: blame.collect(),
        ..Rates::default()
    }
}

fn policy(culprits: &str) -> Policy {
    let mut text = String::from("mode = \"enforce\"\n");
    for index in 0..8 {
        text += &format!("[[rule]]\nclass = \"normal\"\nimage = [\"*/other-{index}/*\"]\n");
    }
    text += "[[rule]]\nclass = \"protected\"\nname = [\"web-*\"]\n";
    text += &format!("[[rule]]\nclass = \"{culprits}\"\nname = [\"job-*\"]\n");
    Policy::parse(&text).unwrap()
}

/// Microseconds for one look, the median of many.
fn cost(policy: &Policy, state: &State, rates: &Rates) -> f64 {
    let mut times: Vec<f64> = (0..LOOKS)
        .map(|_| {
            let start = Instant::now();
            black_box(decide(black_box(policy), black_box(state), black_box(rates), rates.at_ms));
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() {
    let mut rates = rates();
    let state = State::default();
    println!("quiet: {:.1} µs", cost(&policy("best-effort"), &state, &rates));

    for index in 0..16 {
        let victim = format!("{:064x}", index * 2);
        let container = rates.containers.iter_mut().find(|other| other.id == victim).unwrap();
        container.cpu.wait_p99_us = Some(20_000.0);
        rates.blame.push(Blame {
            victim,
            culprit: Culprit::Container(format!("{:064x}", index * 2 + 1)),
            resource: Resource::Cpu,
            seconds_per_second: 0.5,
        });
    }
    let run = |policy: &Policy| {
        let (mut state, mut rates) = (State::default(), rates.clone());
        for _ in 0..3 {
            rates.at_ms += 1000;
            state = decide(policy, &state, &rates, rates.at_ms).0;
            for (hold, lease) in state.leases() {
                let held = rates.containers.iter_mut().find(|other| other.id == hold.container);
                held.unwrap().in_force.insert(lease.actuator, lease.value);
            }
        }
        (state, rates)
    };
    let advising = policy("normal");
    let (state, later) = run(&advising);
    println!("16 of 200 bad, advice alone: {:.1} µs", cost(&advising, &state, &later));
    let acting = policy("best-effort");
    let (state, later) = run(&acting);
    let held = state.holds.len();
    println!("16 of 200 bad, {held} held: {:.1} µs", cost(&acting, &state, &later));
    let (after, decisions) = decide(&acting, &state, &later, later.at_ms);
    let start = Instant::now();
    let line =
        Recorder::new().look(&acting, &state, &later, later.at_ms, (&after, &decisions)).unwrap();
    println!("its line: {} bytes, {:.0} µs", line.len(), start.elapsed().as_secs_f64() * 1e6);
}
