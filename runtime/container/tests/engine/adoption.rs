//! An engine that is let go and opened again over the same directories.

use std::time::Duration;

use tenantry_container::{NetworkMode, RestartPolicy, State, WaitCondition};

use crate::{
    house::{self, command, script},
    lifecycle::wait_for,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_container_is_adopted_with_pid_log_and_exit_status() {
    let Some(mut house) = house::open().await else { return };
    let mut request =
        script("i=0; while [ ! -e /stop ]; do i=$((i+1)); echo $i; sleep 0.02; done; exit 9");
    request.config.network = NetworkMode::Bridge;
    let id = house.start(request).await;
    wait_for(|| house.output(&id).0.lines().count() > 2).await;
    let before = house.engine.get(&id).unwrap().live.clone().unwrap();

    house.reopen().await;
    let after = house.engine.get(&id).unwrap();
    assert_eq!(after.record.state, State::Running);
    let live = after.live.as_ref().unwrap();
    assert_eq!(live.pid, before.pid);
    assert_eq!(live.cgroup, before.cgroup);
    assert_eq!(live.namespaces, before.namespaces);
    assert_eq!(
        live.endpoint.as_ref().map(|e| e.address),
        before.endpoint.as_ref().map(|e| e.address)
    );
    assert_eq!(house.registrar.registered.lock().unwrap()[&id], before.cgroup);
    let lines = house.output(&id).0.lines().count();
    wait_for(|| house.output(&id).0.lines().count() > lines + 2).await;

    std::fs::File::create(format!("/proc/{}/root/stop", live.pid)).unwrap();
    let status = house.engine.wait(&id, WaitCondition::NotRunning).await.unwrap();
    assert_eq!(status.code, 9);
    let numbers: Vec<u32> = house.output(&id).0.lines().map(|l| l.parse().unwrap()).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "no line was lost");
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_meanwhile_is_known_and_policies_apply() {
    let Some(mut house) = house::open().await else { return };
    let once = house.start(script("sleep 0.3; exit 4")).await;
    let mut request = script("sleep 0.3; exit 5");
    request.config.restart = RestartPolicy::UnlessStopped;
    let always = house.start(request).await;
    let mut request = command(&["sleep", "0.3"]);
    request.config.auto_remove = true;
    let removed = house.start(request).await;

    house.engine.close().await;
    tokio::time::sleep(Duration::from_millis(700)).await;
    house.reopen().await;
    let snapshot = house.engine.get(&once).unwrap();
    let ended = snapshot.record.ended.as_ref().unwrap();
    assert_eq!((snapshot.record.state, ended.code, &ended.error), (State::Exited, 4, &None));
    let engine = &house.engine;
    wait_for(|| engine.get(&always).unwrap().record.state == State::Running).await;
    assert_eq!(engine.get(&always).unwrap().record.restarts, 1);
    wait_for(|| engine.get(&removed).is_err()).await;
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_shim_takes_its_container_along_and_is_noticed() {
    let Some(house) = house::open().await else { return };
    let id = house.start(command(&["sleep", "60"])).await;
    let live = house.engine.get(&id).unwrap().live.clone().unwrap();
    let pid = rustix::process::Pid::from_raw(live.shim_pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    house.engine.wait(&id, WaitCondition::NotRunning).await.unwrap();
    let snapshot = house.engine.get(&id).unwrap();
    let ended = snapshot.record.ended.as_ref().unwrap();
    assert_eq!(ended.code, 255);
    assert!(ended.error.as_ref().unwrap().contains("shim"), "{ended:?}");
    house.expect_nothing_left().await;
    // Its new parent, init, reaps it in its own time.
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", live.pid)).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_record_is_set_aside_and_the_others_are_read() {
    let Some(mut house) = house::open().await else { return };
    let damaged = house.engine.create(command(&["true"])).await.unwrap();
    let sound = house.engine.create(command(&["true"])).await.unwrap();
    std::fs::write(house.container_dir(&damaged).join("container.json"), "{\"id\":").unwrap();
    house.reopen().await;
    assert!(house.engine.get(&damaged).is_err());
    assert_eq!(house.engine.get(&sound).unwrap().record.state, State::Created);
    let aside = std::fs::read_dir(house.data_dir().join("unreadable")).unwrap();
    assert_eq!(aside.count(), 1);
    house.demolish().await;
}
