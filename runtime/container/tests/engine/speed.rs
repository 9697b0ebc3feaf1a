//! Forty short runs, each whole, and where their time goes: printed, since how long it takes
//! is the machine's matter.

use std::time::{Duration, Instant};

use tenantry_container::{Limit, NetworkMode, WaitCondition};

use crate::house::{self, command};

#[tokio::test(flavor = "multi_thread")]
async fn forty_short_runs_are_whole_and_timed_step_by_step() {
    let Some(house) = house::open().await else { return };
    let mut steps: Vec<(String, Vec<u64>)> = vec![];
    for _ in 0..40 {
        let mut request = command(&["/bin/true"]);
        request.config.auto_remove = true;
        request.config.network = NetworkMode::Bridge;
        request.limits.cpus = Some(Limit::Value(1.0));
        request.limits.memory_bytes = Some(Limit::Value(64 << 20));
        request.limits.pids = Some(Limit::Value(100));
        let begun = Instant::now();
        let id = house.engine.create(request).await.unwrap();
        note(&mut steps, "create", begun.elapsed());
        let (exit, removed) = {
            let wait = |condition| {
                let (engine, id) = (house.engine.clone(), id.clone());
                tokio::spawn(async move {
                    let status = engine.wait(&id, condition).await;
                    (status, Instant::now())
                })
            };
            (wait(WaitCondition::NextExit), wait(WaitCondition::Removed))
        };
        tokio::task::yield_now().await;
        house.engine.start(&id).await.unwrap();
        note(&mut steps, "create to started", begun.elapsed());
        let timings = house.engine.get(&id).map(|s| s.start_timings.clone());
        let (status, at) = exit.await.unwrap();
        assert_eq!(status.unwrap().code, 0);
        note(&mut steps, "create to exit", at - begun);
        let (_, at) = removed.await.unwrap();
        note(&mut steps, "create to removed", at - begun);
        for (step, micros) in timings.into_iter().flatten() {
            note(&mut steps, &step, Duration::from_micros(micros));
        }
    }
    for (step, times) in &mut steps {
        times.sort_unstable();
        let (least, middle) = (times[0], times[times.len() / 2]);
        println!("{step:>20}: median {middle:>6} us, least {least:>6} us");
    }
    assert!(steps.iter().all(|(_, times)| times.len() == 40), "each run took each step");
    house.expect_nothing_left().await;
    house.demolish().await;
}

fn note(steps: &mut Vec<(String, Vec<u64>)>, step: &str, took: Duration) {
    let micros = took.as_micros() as u64;
    match steps.iter_mut().find(|(known, _)| known == step) {
        Some((_, times)) => times.push(micros),
        None => steps.push((step.to_owned(), vec![micros])),
    }
}
