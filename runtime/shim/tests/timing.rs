//! How long a container takes from the shim's spawn to its exit. Prints least and
//! median, asserts nothing: run by hand with `--ignored --nocapture`.

mod support;

use std::time::{Duration, Instant};

use support::{Lab, skipped};
use tenantry_shim::protocol::{Reply, Request};
use tenantry_shim::spec::IdMapping;

const ROUNDS: usize = 51;

/// Other work on the machine only ever adds: the least is the truest.
fn least_and_median(mut times: Vec<Duration>) -> String {
    times.sort();
    format!("{}/{}", times[0].as_micros(), times[times.len() / 2].as_micros())
}

#[test]
#[ignore = "a measurement"]
fn time_of_true() {
    if skipped() {
        return;
    }
    for (name, user_namespace, cgroups) in
        [("bare", false, false), ("all cgroups", false, true), ("user namespace", true, true)]
    {
        let mut stages = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            let mut lab = Lab::new(&["/bin/true"]);
            if !cgroups {
                for v1 in std::mem::take(&mut lab.spec.cgroup.v1) {
                    std::fs::remove_dir(v1.path).expect("rmdir");
                }
            }
            if user_namespace {
                lab.spec.user_namespace = Some(IdMapping { host_base: 1_000_000, size: 65_536 });
            }
            let begin = Instant::now();
            let mut shim = lab.spawn();
            let mut client = shim.connect();
            client.send(&Request::Watch);
            assert!(matches!(client.receive(), Reply::Created { .. }));
            let created = begin.elapsed();
            client.send(&Request::Start);
            assert!(matches!(client.receive(), Reply::Running { .. }));
            let running = begin.elapsed();
            assert!(matches!(client.receive(), Reply::Exited(_)));
            let exited = begin.elapsed();
            shim.child.wait().expect("wait");
            let gone = begin.elapsed();
            for (stage, time) in stages.iter_mut().zip([created, running, exited, gone]) {
                stage.push(time);
            }
            lab.assert_nothing_left();
        }
        let [created, running, exited, gone] = stages.map(least_and_median);
        println!(
            "{name}: µs (least/median) created {created}, running {running}, exited {exited}, gone {gone}"
        );
    }
}
