//! The hash of what was executed, where it is asked for. The witness is `sha256sum`.

use std::process::Command;

use serde_json::Value;
use tenantry_e2e::agent::{self, TestAgent};
use tenantry_e2e::{image, programs, skip_unless_possible, until};

fn sha256sum(path: &std::path::Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap().split(' ').next().unwrap().to_owned()
}

#[test]
fn each_exec_has_the_hash_of_what_ran_though_it_ran_for_a_millisecond() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with("[audit]\nexec_hash = true\n").unwrap();
    // The shell stays: through its root the others are found when they are gone. Commands by their
    // paths: without one busybox does some of them itself.
    let script = "i=0; while [ $i -lt 50 ]; do /bin/true; /bin/workload exit 0; i=$((i+1)); done; \
                  /bin/cp /bin/workload /tmp/gone; /tmp/gone exit 0; /bin/rm /tmp/gone; exec /bin/sleep 1000";
    agent.run_detached("web", &[], &["sh", "-c", script]).unwrap();
    let execs = || -> Vec<Value> {
        let text = std::fs::read_to_string(agent.data_dir().join("audit.jsonl")).unwrap();
        let lines = text.lines().map(agent::json);
        lines.filter(|line| line["event"]["action"] == "exec").collect()
    };
    until("all have run", || execs().len() == 1 + 100 + 3 + 1);
    let busybox = sha256sum(&image::busybox().unwrap());
    let workload = sha256sum(&programs().join("tenantry-workload"));
    let mut without = 0;
    for exec in execs() {
        let path = exec["file"]["path"].as_str().unwrap();
        let expected =
            if path.contains("workload") || path == "/tmp/gone" { &workload } else { &busybox };
        match exec["file"]["hash"]["sha256"].as_str() {
            Some(hash) => assert_eq!(hash, expected, "{exec}"),
            None => {
                assert_eq!(path, "/tmp/gone", "{exec}");
                without += 1;
            }
        }
    }
    let counted = agent.metrics().sum("tenantry_audit_unhashed_execs_total", &[]);
    assert_eq!(counted, Some(f64::from(without)));
    agent.ok(&["rm", "-f", "web"]);
    agent.finish();
}
