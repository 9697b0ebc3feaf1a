//! What an LSM program counts, where the kernel takes it.

use tenantry_ebpf::ProbeStatus;

use crate::child::{Child, End};
use crate::fixture::Fixture;

fn active(f: &Fixture, name: &str) -> bool {
    let probes = f.meters().probes();
    let probe = probes.into_iter().find(|probe| probe.name == name).unwrap();
    match probe.status {
        ProbeStatus::Active => return true,
        ProbeStatus::Unsupported(why) => println!("SKIPPED: {}: {why}", probe.hook),
        other => panic!("{}: {other:?}", probe.hook),
    }
    false
}

#[test]
fn exec_attempts_are_counted_by_the_lsm() {
    let Some(f) = Fixture::share() else { return };
    if !active(&f, "exec_attempted") {
        return assert_eq!(f.read(1).exec_attempts, None);
    }
    let container = f.container(1);
    for _ in 0..5 {
        let child = Child::exec(c"/bin/true", &[c"true"]).put(&container);
        assert_eq!(child.run(), End::Code(0));
    }
    assert_eq!(f.read(1).exec_attempts, Some(5));
}
