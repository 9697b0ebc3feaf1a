//! Creating, freezing, killing and removing real groups.

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Gated, Parent, Running};
use tenantry_cgroupfs::{Error, Group, ReadBuffer, Sampler};

fn dirs(group: &Group) -> Vec<PathBuf> {
    let v1 = group.v1_dirs().into_iter().map(|(_, dir)| dir);
    v1.chain([group.unified_dir().to_owned()]).collect()
}

#[test]
fn a_group_is_in_every_hierarchy_and_leaves_nothing() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("one");
    assert!(dirs(&group).iter().all(|dir| dir.is_dir()));
    let ids = group.ids().unwrap();
    assert_eq!(ids.unified, group.unified_dir().metadata().unwrap().ino());
    assert_eq!(ids.blkio_v1.is_some(), parent.hybrid());
    let child = Gated::new(&group, "spin");
    let membership = std::fs::read_to_string(format!("/proc/{}/cgroup", child.child.id())).unwrap();
    let own = format!(":/{}", group.path());
    let (joined, elsewhere): (Vec<_>, Vec<_>) =
        membership.lines().partition(|line| line.ends_with(&own));
    assert_eq!(joined.len(), dirs(&group).len(), "{membership}");
    assert!(!parent.hybrid() || elsewhere.is_empty(), "{membership}");
    let running = child.open();
    assert_eq!(group.pids().unwrap(), [running.child.id() as i32]);
    drop(running);
    group.remove().unwrap();
    assert!(dirs(&group).iter().all(|dir| !dir.exists()));
    group.remove().expect("removing what is not there is no error");
    assert!(group.read_sample().unwrap_err().is_gone());
    parent.hierarchy.remove_parent(&parent.path).unwrap();
    assert!(dirs(&parent.hierarchy.group(&parent.path)).iter().all(|dir| !dir.exists()));
    // For the drop, which expects it; and it can be made again.
    parent.hierarchy.prepare_parent(&parent.path).unwrap();
    parent.hierarchy.prepare_parent(&parent.path).unwrap();
}

#[test]
fn a_group_that_is_half_there_is_not_created_and_not_made_worse() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.hierarchy.group(&format!("{}/half", parent.path));
    let last = group.v1_dirs().pop().map_or(group.unified_dir().to_owned(), |(_, dir)| dir);
    std::fs::create_dir(&last).unwrap();
    let error = group.create().unwrap_err();
    assert_eq!(error.errno(), Some(17), "{error}");
    assert!(error.to_string().contains(last.to_str().unwrap()), "{error}");
    let left: Vec<_> = dirs(&group).into_iter().filter(|dir| dir.exists()).collect();
    assert_eq!(left, [last], "only what was there before");
    group.remove().unwrap();
    group.create().unwrap();

    let orphan = parent.hierarchy.group(&format!("{}/no/parent", parent.path));
    assert!(orphan.create().unwrap_err().is_gone());
}

#[test]
fn a_busy_group_is_not_removed_and_a_killed_one_is_with_all_nested_in_it() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("busy");
    let nested = parent.group("busy/nested");
    let mut outer = Running::start(&group, "hold 1");
    let mut inner = Running::start(&nested, "hold 1");
    let mut pids = group.pids().unwrap();
    pids.sort_unstable();
    let mut expected = [outer.child.id() as i32, inner.child.id() as i32];
    expected.sort_unstable();
    assert_eq!(pids, expected);
    match nested.remove().unwrap_err() {
        Error::Busy { pids, .. } => assert_eq!(pids, [inner.child.id() as i32]),
        other => panic!("{other:?}"),
    }
    assert!(inner.child.try_wait().unwrap().is_none(), "removing kills nothing");
    group.kill().unwrap();
    let started = Instant::now();
    // Before they are reaped: zombies are no obstacle.
    group.remove().unwrap();
    println!("removed {} after the kill", humane(started.elapsed()));
    assert!(dirs(&group).iter().all(|dir| !dir.exists()));
    for child in [&mut outer.child, &mut inner.child] {
        assert_eq!(child.wait().unwrap().signal(), Some(9));
    }
}

fn humane(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[test]
fn files_that_stay_open_tell_the_present_until_their_group_goes() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("again");
    let buffer = &mut ReadBuffer::default();
    let sampler = Sampler::open(&group).unwrap();
    let first = sampler.read(buffer).unwrap();
    assert_eq!(sampler.count_processes(buffer).unwrap(), 0);
    let spinner = Running::start(&group, "spin");
    assert!(spinner.cpu_ratio(Duration::from_millis(200)) > 0.1);
    group.freeze().unwrap();
    // Frozen, so that one look says the same as the other.
    let (held, opened) = (sampler.read(buffer).unwrap(), group.read_sample().unwrap());
    assert_eq!(held.cpu, opened.cpu);
    assert_eq!((held.identity, &held.pids), (opened.identity, &opened.pids));
    assert_eq!(held.memory.limit_bytes, opened.memory.limit_bytes);
    assert_eq!(held.pressure.cpu.is_some(), opened.pressure.cpu.is_some());
    assert!(held.cpu.usage_usec > first.cpu.usage_usec);
    assert_eq!(sampler.count_processes(buffer).unwrap(), 1);
    group.thaw().unwrap();
    let nested = parent.group("again/nested");
    let inner = Running::start(&nested, "hold 1");
    assert_eq!(sampler.count_processes(buffer).unwrap(), 2, "nested ones are its own");
    drop((spinner, inner));
    group.kill().unwrap();
    group.remove().unwrap();
    assert!(sampler.read(buffer).unwrap_err().is_gone());
    // Another group at the same path is another group.
    group.create().unwrap();
    assert!(sampler.read(buffer).unwrap_err().is_gone());
    assert!(Sampler::open(&group).unwrap().read(buffer).is_ok());
    group.remove().unwrap();
}

#[test]
fn a_frozen_group_uses_no_cpu_until_it_is_thawed() {
    let Some(parent) = Parent::new() else { return };
    let group = parent.group("ice");
    group.freeze().expect("an empty group freezes too");
    group.thaw().unwrap();
    let spinner = Running::start(&group, "spin");
    assert!(spinner.cpu_ratio(Duration::from_millis(300)) > 0.1);
    group.freeze().unwrap();
    assert_eq!(spinner.cpu_ratio(Duration::from_millis(300)), 0.0);
    group.thaw().unwrap();
    assert!(spinner.cpu_ratio(Duration::from_millis(300)) > 0.1);
    group.freeze().unwrap();
    group.kill().unwrap();
    group.remove().unwrap();
}
