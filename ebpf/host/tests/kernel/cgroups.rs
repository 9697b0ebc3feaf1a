//! Which process belongs to whom.

use tenantry_ebpf::EventKind;

use crate::child::{Child, End, call_often};
use crate::fixture::Fixture;

fn thousand_getpids() -> Child {
    Child::gated(|| {
        call_often(1000, libc::SYS_getpid);
        0
    })
}

#[test]
fn a_nested_cgroup_belongs_to_its_parents_slot() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(2);
    f.meters().arm(2).unwrap();
    let deep = container.nested("child").nested("grandchild");
    assert_eq!(thousand_getpids().put(&deep).run(), End::Code(0));
    f.assert_calls(2, libc::SYS_getpid, 1000);
    assert_eq!(f.meters().lost().unwrap(), Default::default());
}

#[test]
fn neighbours_and_strangers_are_not_counted() {
    let Some(f) = Fixture::share() else { return };
    let (one, two) = (f.container(1), f.container(2));
    let stranger = f.stranger(1);
    f.meters().arm(1).unwrap();
    f.meters().arm(2).unwrap();
    // The stranger comes first, so that the cache knows it for nobody's.
    assert_eq!(thousand_getpids().put(&stranger).run(), End::Code(0));
    assert_eq!(thousand_getpids().put(&one).run(), End::Code(0));
    assert_eq!(thousand_getpids().run(), End::Code(0));
    f.assert_calls(1, libc::SYS_getpid, 1000);
    assert_eq!(f.read(2).syscalls, []);
    assert_eq!(thousand_getpids().put(&two).run(), End::Code(0));
    f.assert_calls(2, libc::SYS_getpid, 1000);
}

#[test]
fn a_cgroup_that_was_nobodys_counts_once_it_is_registered() {
    let Some(f) = Fixture::share() else { return };
    let stranger = f.stranger(1);
    assert_eq!(thousand_getpids().put(&stranger).run(), End::Code(0));
    f.meters().register(3, &stranger.ids()).unwrap();
    f.meters().arm(3).unwrap();
    assert_eq!(thousand_getpids().put(&stranger).run(), End::Code(0));
    f.assert_calls(3, libc::SYS_getpid, 1000);
    f.meters().unregister(&stranger.ids()).unwrap();
    assert_eq!(thousand_getpids().put(&stranger).run(), End::Code(0));
    f.assert_calls(3, libc::SYS_getpid, 1000);
}

#[test]
fn a_reset_slot_is_empty_and_owns_no_cgroup() {
    let Some(f) = Fixture::share() else { return };
    let container = f.container(4);
    let nested = container.nested("left-over");
    let child = Child::exec(c"/bin/true", &[c"true"]).put(&container);
    assert_eq!(child.run(), End::Code(0));
    assert!(f.read(4).events.of(EventKind::Exec).produced > 0);
    f.meters().reset(4).unwrap();
    let fresh = f.read(4);
    assert_eq!(fresh.events, Default::default());
    assert_eq!((fresh.run_queue.count, fresh.syscalls.len(), fresh.latency.len()), (0, 0, 0));
    f.meters().arm(4).unwrap();
    assert_eq!(thousand_getpids().put(&nested).run(), End::Code(0));
    assert_eq!(f.read(4).syscalls, []);
}

#[test]
fn a_removed_cgroup_is_forgotten_by_the_kernel_itself() {
    let Some(f) = Fixture::share() else { return };
    // More cgroups than the table has entries, one after the other.
    let container = f.container(5);
    for _ in 0..9000 {
        let path = container.unified.join("brief");
        std::fs::create_dir(&path).unwrap();
        std::fs::remove_dir(&path).unwrap();
    }
    assert_eq!(f.meters().lost().unwrap().cgroups, 0);
    container.remove();
    f.meters().unregister(&tenantry_ebpf::CgroupIds { unified: 1, blkio: Some(1) }).unwrap();
}

#[test]
fn slots_that_do_not_exist_are_refused() {
    let Some(f) = Fixture::share() else { return };
    let ids = f.stranger(1).ids();
    for slot in [0, 16, u32::MAX] {
        let error = f.meters().register(slot, &ids).unwrap_err().to_string();
        assert!(error.contains("1 to 15"), "{error}");
        f.meters().read(slot).unwrap_err();
    }
}
