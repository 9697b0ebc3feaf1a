//! Restart policies on real endings.

use std::time::Duration;

use tenantry_container::{Action, Limit, RestartPolicy, State, WaitCondition};

use crate::{
    house::{self, command, script},
    lifecycle::wait_for,
};

#[tokio::test(flavor = "multi_thread")]
async fn on_failure_tries_as_often_as_it_says_and_then_rests() {
    let Some(house) = house::open().await else { return };
    let mut request = script("echo run; exit 3");
    request.config.restart = RestartPolicy::OnFailure { max_restarts: Some(2) };
    let id = house.start(request).await;
    let status = house.engine.wait(&id, WaitCondition::NotRunning).await.unwrap();
    assert_eq!(status.code, 3);
    let snapshot = house.engine.get(&id).unwrap();
    assert_eq!((snapshot.record.state, snapshot.record.restarts), (State::Exited, 2));
    assert_eq!(snapshot.endings, 3);
    assert_eq!(house.output(&id).0, "run\nrun\nrun\n");
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_an_always_even_during_its_back_off() {
    let Some(house) = house::open().await else { return };
    let mut request = command(&["true"]);
    request.config.restart = RestartPolicy::Always;
    let id = house.start(request).await;
    wait_for(|| house.engine.get(&id).unwrap().record.restarts >= 2).await;
    let engine = &house.engine;
    wait_for(|| engine.get(&id).unwrap().record.state == State::Restarting).await;
    engine.stop(&id, None).await.unwrap();
    let endings = engine.get(&id).unwrap().endings;
    assert_eq!(engine.get(&id).unwrap().record.state, State::Exited);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.get(&id).unwrap().endings, endings);
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oom_kill_is_told_and_restarted_as_a_failure() {
    let Some(house) = house::open().await else { return };
    // tail keeps its input in memory; the shell survives it and exits with 0.
    let mut request = script("tail /dev/zero; exit 0");
    request.limits.memory_bytes = Some(Limit::Value(16 << 20));
    request.limits.memory_swap_bytes = Some(Limit::Value(16 << 20));
    request.config.restart = RestartPolicy::OnFailure { max_restarts: Some(1) };
    let mut events = house.engine.subscribe();
    let id = house.start(request).await;
    house.engine.wait(&id, WaitCondition::NotRunning).await.unwrap();
    let snapshot = house.engine.get(&id).unwrap();
    let ended = snapshot.record.ended.as_ref().unwrap();
    assert!(ended.oom_killed, "{ended:?}");
    assert_eq!((ended.code, snapshot.record.restarts), (0, 1));
    // The events of an end follow its publication.
    for _ in 0..2 {
        let oom = async { while events.recv().await.unwrap().action != Action::Oom {} };
        tokio::time::timeout(house::PATIENCE, oom).await.expect("an oom event");
    }
    house.demolish().await;
}
