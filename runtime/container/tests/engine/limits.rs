//! Limits at creation, live, and after a restart.

use std::time::Duration;

use tenantry_container::{Error, Limit, LimitsPatch, NetworkMode};

use crate::house::{self, command};

fn patch() -> LimitsPatch {
    LimitsPatch {
        cpus: Some(Limit::Value(0.5)),
        memory_bytes: Some(Limit::Value(64 << 20)),
        pids: Some(Limit::Value(33)),
        egress_bits_per_s: Some(Limit::Value(20_000_000)),
        ingress_bits_per_s: Some(Limit::Value(50_000_000)),
        ..LimitsPatch::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_change_live_are_read_back_and_survive_a_restart() {
    let Some(house) = house::open().await else { return };
    let mut request = command(&["sleep", "60"]);
    request.config.network = NetworkMode::Bridge;
    let id = house.start(request).await;
    let applied = house.engine.update_limits(&id, patch()).await.unwrap();
    let resources: Vec<&str> = applied.iter().map(|a| a.resource.as_str()).collect();
    for wanted in ["cpu", "memory_max_bytes", "pids_max"] {
        assert!(resources.contains(&wanted), "{wanted} in {resources:?}");
    }
    assert!(applied.iter().all(|a| !a.actuator.is_empty()), "{applied:?}");
    assert!(applied.len() >= 5, "{applied:?}");
    let read = || {
        let group = house.engine.hierarchy().group(&group_path(&house, &id));
        group.read_resources().unwrap()
    };
    let pids = |resources: &tenantry_cgroupfs::Resources| resources.pids_max.unwrap().value();
    assert_eq!(pids(&read()), Some(33));
    assert_eq!(read().cpu.unwrap().quota_usec, Some(50_000));

    house.engine.restart(&id, Some(Duration::ZERO)).await.unwrap();
    assert_eq!(pids(&read()), Some(33));
    let lift = LimitsPatch { pids: Some(Limit::Unlimited), ..LimitsPatch::default() };
    house.engine.update_limits(&id, lift).await.unwrap();
    assert_eq!(pids(&read()), None);
    assert_eq!(read().cpu.unwrap().quota_usec, Some(50_000), "untouched");
    house.demolish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_changes_nothing() {
    let Some(house) = house::open().await else { return };
    let mut request = command(&["sleep", "60"]);
    request.limits = LimitsPatch { pids: Some(Limit::Value(20)), ..LimitsPatch::default() };
    let id = house.start(request).await;
    let before = house.engine.get(&id).unwrap().record.limits.clone();
    // A device that does not exist fails in the kernel, after pids were written.
    let io = tenantry_container::IoPatch {
        major: 4095,
        minor: 7,
        read_bytes_per_s: Some(Limit::Value(1 << 20)),
        ..Default::default()
    };
    let bad = LimitsPatch { pids: Some(Limit::Value(30)), io: vec![io], ..LimitsPatch::default() };
    let error = house.engine.update_limits(&id, bad).await.unwrap_err();
    assert!(!error.chain().is_empty());
    assert_eq!(house.engine.get(&id).unwrap().record.limits, before);
    let group = house.engine.hierarchy().group(&group_path(&house, &id));
    assert_eq!(group.read_resources().unwrap().pids_max.unwrap().value(), Some(20));
    let bandwidth =
        LimitsPatch { egress_bits_per_s: Some(Limit::Value(1_000_000)), ..LimitsPatch::default() };
    let refused = house.engine.update_limits(&id, bandwidth).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    house.demolish().await;
}

fn group_path(house: &house::House, id: &str) -> String {
    let live = house.engine.get(id).unwrap().live.clone().unwrap();
    let parent = live.cgroup_dir.parent().unwrap().file_name().unwrap();
    format!("{}/{id}", parent.to_str().unwrap())
}
