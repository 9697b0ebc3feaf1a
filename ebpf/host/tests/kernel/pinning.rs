//! An agent that goes and comes back, and one that leaves for good.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use aya::programs::{ProgramInfo, loaded_programs};
use tenantry_ebpf::{Event, EventKind, LoadError, LoadOptions, Meters, ProbeStatus, Subjects};

use crate::child::{Child, End, call_often};
use crate::fixture::{Fixture, wait_until};

#[test]
fn each_tracepoint_and_cgroup_program_runs_on_this_kernel() {
    let Some(f) = Fixture::load(|_| ()) else { return };
    // Some are attached only then.
    f.meters().record(1, Subjects::Armed, true).unwrap();
    let probes = f.meters().probes();
    assert!(probes.len() >= 17, "{} programs", probes.len());
    for probe in probes {
        // Each of these two kinds, and one tracepoint that is newer than 6.1, may be missing.
        let optional = ["fentry/", "lsm/"].iter().any(|hook| probe.hook.starts_with(hook))
            || probe.hook == "tp_btf/cap_capable";
        match probe.status {
            ProbeStatus::Active => {}
            ProbeStatus::Unsupported(why) if optional => assert!(!why.is_empty()),
            other => panic!("{} at {}: {other:?}", probe.name, probe.hook),
        }
    }
}

#[test]
fn counting_goes_on_while_there_is_no_agent() {
    let Some(mut f) = Fixture::load(|_| ()) else { return };
    assert!(!f.meters().adopted());
    let container = f.container(1);
    let child = || {
        let body = || {
            call_often(1000, libc::SYS_getpid);
            let argv = [c"true".as_ptr(), std::ptr::null()];
            // SAFETY: strings with a NUL and a list that ends with null.
            unsafe { libc::execv(c"/bin/true".as_ptr(), argv.as_ptr()) };
            127
        };
        Child::gated(body).put(&container)
    };
    f.meters().arm(1).unwrap();
    assert_eq!(child().run(), End::Code(0));
    assert_eq!(f.events().len(), 2);
    let statuses = f.meters().probes();
    f.forget();
    assert_eq!(child().run(), End::Code(0));
    f.load_again();
    assert!(f.meters().adopted());
    assert_eq!(f.meters().probes(), statuses);
    let events = f.events();
    assert!(matches!(events[..], [Event::Exec(_), Event::Exit(_)]), "{events:?}");
    assert_eq!(child().run(), End::Code(0));
    f.assert_calls(1, libc::SYS_getpid, 3000);
    assert_eq!(f.read(1).events.of(EventKind::Exec).produced, 3);
    assert_eq!(f.events().len(), 2);
}

#[test]
fn other_options_or_a_missing_pin_start_anew() {
    let Some(mut f) = Fixture::load(|_| ()) else { return };
    f.forget();
    f.options.slots = 32;
    f.load_again();
    assert!(!f.meters().adopted());
    f.forget();
    f.load_again();
    assert!(f.meters().adopted());
    for pin in ["link_syscall_exit", "scheduler", "marker"] {
        f.forget();
        fs::remove_file(f.options.pin_dir.join(pin)).unwrap();
        f.load_again();
        assert!(!f.meters().adopted(), "{pin} was missing");
    }
}

#[test]
fn unpinning_leaves_nothing() {
    let Some(mut f) = Fixture::load(|_| ()) else { return };
    // Maps and links have numbers of their own, which are those of other programs.
    let pins = fs::read_dir(&f.options.pin_dir).unwrap().map(|pin| pin.unwrap());
    let pins = pins.filter(|pin| pin.file_name().as_encoded_bytes().starts_with(b"prog_"));
    let programs: HashSet<u32> =
        pins.map(|pin| ProgramInfo::from_pin(pin.path()).unwrap().id()).collect();
    assert!(programs.len() >= 15, "{programs:?}");
    f.meters().unpin().unwrap();
    assert!(!f.options.pin_dir.exists());
    // A second time finds nothing to do.
    f.meters().unpin().unwrap();
    let running = || loaded_programs().any(|p| p.is_ok_and(|p| programs.contains(&p.id())));
    wait_until("the programs to go", || !running());
    let child = Child::exec(c"/bin/true", &[c"true"]).put(&f.container(1));
    assert_eq!(child.run(), End::Code(0));
    assert_eq!(f.read(1).events.of(EventKind::Exec).produced, 0);
    assert!(f.events().is_empty());
}

#[test]
fn places_that_cannot_be_used_are_named() {
    let Some(f) = Fixture::load(|_| ()) else { return };
    let load = |change: fn(&mut LoadOptions)| {
        let mut options = f.options.clone();
        options.pin_dir = f.options.pin_dir.join("inner");
        change(&mut options);
        Meters::load(&options).map(drop).unwrap_err()
    };
    let error = load(|o| o.cgroup_dir = "/sys/fs/cgroup/missing".into());
    assert!(matches!(error, LoadError::CgroupDir { .. }), "{error}");
    let error = load(|o| o.pin_dir = "/tmp/tenantry-test-not-bpffs".into());
    assert!(matches!(error, LoadError::NotBpffs { .. }), "{error}");
    assert!(!Path::new("/tmp/tenantry-test-not-bpffs").exists());
    let error = load(|o| o.slots = 0);
    assert!(matches!(error, LoadError::Options(_)), "{error}");
}
