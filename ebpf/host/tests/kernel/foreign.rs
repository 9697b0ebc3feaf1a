//! Containers of other runtimes get their slots from the kernel.

use tenantry_ebpf::{CgroupEvent, CgroupIds, CgroupReader, EventKind, ForeignOptions, Slot, Tree};

use crate::child::{Child, End, call_often};
use crate::fixture::Fixture;
use crate::groups::Container;

const FIRST: Slot = 8;

fn load() -> Option<(Fixture, CgroupReader)> {
    let foreign = ForeignOptions { first_slot: FIRST, services: true };
    let f = Fixture::load(|options| options.foreign = Some(foreign))?;
    let reader = f.meters().cgroup_events().expect("the ring is pinned");
    Some((f, reader))
}

fn id(fill: char) -> String {
    String::from(fill).repeat(64)
}

/// News of cgroups below `top` alone: others come and go on this host meanwhile.
fn news(reader: &mut CgroupReader, top: &Container) -> Vec<CgroupEvent> {
    let top = top.unified.file_name().unwrap().to_str().unwrap();
    let mine = |event: &CgroupEvent| match event {
        CgroupEvent::Born { path, .. } => path.contains(top),
        CgroupEvent::Gone { .. } => true,
    };
    in_order(reader.read(usize::MAX).into_iter().filter(mine))
}

/// Which hierarchy a runtime begins with is its own choice.
fn in_order(events: impl Iterator<Item = CgroupEvent>) -> Vec<CgroupEvent> {
    let mut events: Vec<CgroupEvent> = events.collect();
    events.sort_by_key(|event| match event {
        CgroupEvent::Born { tree, slot, .. } => (slot.unwrap_or(0), *tree),
        CgroupEvent::Gone { tree, slot, .. } => (*slot, *tree),
    });
    events
}

fn thousand_getpids() -> Child {
    Child::gated(|| {
        call_often(1000, libc::SYS_getpid);
        0
    })
}

#[test]
fn a_docker_container_has_a_slot_of_its_own_before_a_process_is_in_it() {
    let Some((f, mut reader)) = load() else { return };
    for slot in [9, 10] {
        assert!(f.meters().offer(slot).unwrap());
    }
    let top = f.stranger(1);
    let docker = top.nested("docker");
    let (a, b) = (docker.nested(&id('a')), docker.nested(&id('b')));
    // Not armed: what a runtime does before the program is executed counts for nobody.
    assert_eq!(thousand_getpids().put(&a).run(), End::Code(0));
    assert_eq!(f.read(9).syscalls, []);
    assert_eq!(Child::exec(c"/bin/true", &[c"true"]).put(&a).run(), End::Code(0));
    assert_eq!(f.read(9).events.of(EventKind::Exec).produced, 1);
    let before = f.syscall(9, libc::SYS_getpid).count;
    assert_eq!(thousand_getpids().put(&a.nested("deeper")).run(), End::Code(0));
    assert_eq!(f.syscall(9, libc::SYS_getpid).count - before, 1000);
    assert_eq!(f.read(10).syscalls, []);

    let born = |container: &Container, slot| {
        let ids = container.ids();
        let path = container.unified.to_str().unwrap();
        let path = path[path.find("/tenantry-test").unwrap()..].to_owned();
        let event = |tree, id, path: &str| CgroupEvent::Born {
            tree,
            id,
            slot: Some(slot),
            path: path.into(),
        };
        let unified = event(Tree::Unified, ids.unified, &path);
        [Some(unified), ids.blkio.map(|id| event(Tree::Blkio, id, &path))].into_iter().flatten()
    };
    let expected: Vec<CgroupEvent> = born(&a, 9).chain(born(&b, 10)).collect();
    assert_eq!(news(&mut reader, &top), expected);
    let known = f.meters().foreign_cgroups().unwrap();
    assert_eq!(known.len(), expected.len(), "{known:?}");

    let ids = a.ids();
    a.remove();
    let gone = |tree, id| CgroupEvent::Gone { tree, id, slot: 9 };
    let blkio = ids.blkio.map(|id| gone(Tree::Blkio, id));
    let expected: Vec<_> = [gone(Tree::Unified, ids.unified)].into_iter().chain(blkio).collect();
    assert_eq!(news(&mut reader, &top), expected);
    assert_eq!(f.meters().lost().unwrap(), Default::default());
}

#[test]
fn the_kernel_knows_these_names_and_no_others() {
    let Some((f, mut reader)) = load() else { return };
    let top = f.stranger(2);
    let long = format!("{}.service", "s".repeat(230));
    let table = [
        (true, "docker", id('0')),
        (true, "system.slice", format!("docker-{}.scope", id('1'))),
        (true, "machine.slice", format!("libpod-{}.scope", id('2'))),
        (true, "libpod_parent", format!("libpod-{}", id('3'))),
        (true, "kubepods-pod1.slice", format!("cri-containerd-{}.scope", id('4'))),
        (true, "kubepods-pod1.slice", format!("crio-{}.scope", id('5'))),
        (true, "pod0f3e-11", id('6')),
        (true, "default", id('7')),
        (true, "user.slice", format!("nerdctl-{}.scope", id('8'))),
        (true, "system.slice", "cron.service".to_owned()),
        (true, "system-getty.slice", "getty@tty1.service".to_owned()),
        (true, "system.slice", "a.service".to_owned()),
        (true, "system.slice", long),
        (false, "system.slice", ".service".to_owned()),
        (false, "user-1000.slice", "user@1000.service".to_owned()),
        (false, "machine.slice", format!("libpod-conmon-{}.scope", id('9'))),
        (false, "kubepods-pod1.slice", format!("crio-conmon-{}.scope", id('a'))),
        (false, "libpod_parent", id('3')),
        (false, "tenantry", id('b')),
        (false, "podium", id('c')),
        (false, "docker", id('d')[1..].to_owned()),
        (false, "docker", format!("{}g", &id('e')[1..])),
        (false, "docker", format!("{}.scope", id('f'))),
        (false, "user-0.slice", "session-3.scope".to_owned()),
        (false, "system.slice", "kubepods.slice".to_owned()),
        (false, "machine.slice", format!("qemu-{}.scope", id('1'))),
    ];
    let mut parents: Vec<(&str, Container)> = Vec::new();
    for (expected, parent, name) in &table {
        if parents.iter().all(|(known, _)| known != parent) {
            parents.push((parent, top.nested(parent)));
        }
        let parent = &parents.iter().find(|(known, _)| known == parent).unwrap().1;
        // The pool is empty: the news alone tells.
        let made = parent.nested(name);
        let news = news(&mut reader, &top);
        let known = news.iter().any(|event| {
            matches!(event, CgroupEvent::Born { path, slot: None, .. } if path.ends_with(name))
        });
        assert_eq!(known, *expected, "{name}: {news:?}");
        made.remove();
    }
}

#[test]
fn a_service_counts_from_the_first_process_that_is_moved_in() {
    let Some((f, mut reader)) = load() else { return };
    f.meters().offer(11).unwrap();
    let top = f.stranger(3);
    let service = top.nested("system.slice").nested("web.service");
    // A container that the service starts below itself is the service's.
    let inner = service.nested("docker").nested(&id('c'));
    assert_eq!(thousand_getpids().put(&service).run(), End::Code(0));
    assert_eq!(thousand_getpids().put(&inner).run(), End::Code(0));
    f.assert_calls(11, libc::SYS_getpid, 2000);
    let trees = if service.blkio.is_some() { 2 } else { 1 };
    assert_eq!(news(&mut reader, &top).len(), trees);
}

#[test]
fn a_container_that_found_the_pool_empty_is_registered_late_with_all_below_it() {
    let Some((f, mut reader)) = load() else { return };
    let top = f.stranger(4);
    let container = top.nested("docker").nested(&id('d'));
    let nested = container.nested("below");
    assert_eq!(thousand_getpids().put(&nested).run(), End::Code(0));
    let [CgroupEvent::Born { slot: None, .. }, ..] = &news(&mut reader, &top)[..] else {
        panic!("no slot was in the pool");
    };
    assert!(f.meters().lost().unwrap().pool > 0);
    f.meters().register_foreign(12, &container.ids(), &[nested.ids()]).unwrap();
    f.meters().arm(12).unwrap();
    assert_eq!(thousand_getpids().put(&nested).run(), End::Code(0));
    assert_eq!(thousand_getpids().put(&container).run(), End::Code(0));
    f.assert_calls(12, libc::SYS_getpid, 2000);
    // As after the container's end: nothing finds the slot any more.
    f.meters().reset(12).unwrap();
    assert_eq!(f.meters().foreign_cgroups().unwrap(), []);
    f.meters().register_foreign(12, &CgroupIds { unified: 0, blkio: None }, &[]).unwrap();
    assert_eq!(f.meters().foreign_cgroups().unwrap(), []);
}

#[test]
fn slots_in_the_pool_can_be_taken_back_and_survive_a_restart() {
    let Some((mut f, _)) = load() else { return };
    assert_eq!(f.meters().take_back().unwrap(), []);
    for slot in [13, 14, 15] {
        assert!(f.meters().offer(slot).unwrap());
    }
    f.forget();
    f.load_again();
    assert!(f.meters().adopted());
    assert_eq!(f.meters().take_back().unwrap(), [13, 14, 15]);
    assert!(f.meters().offer(16).is_err());
    for _ in 0..tenantry_ebpf::POOL_SLOTS {
        assert!(f.meters().offer(9).unwrap());
    }
    assert!(!f.meters().offer(9).unwrap());
}
