//! The stock `docker` client against our socket.

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::{skip_without_docker, until};

#[test]
fn docker_run_ps_logs_exec_stop_rm_work() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let output = docker::output(
        &agent,
        &["run", "--rm", IMAGE, "sh", "-c", "echo out; echo err >&2; exit 4"],
    );
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{error}{}", agent.log());
    assert_eq!((output.stdout.as_slice(), error.as_str()), (&b"out\n"[..], "err\n"));
    let output = docker::output(&agent, &["run", "--rm", IMAGE, "/no/such"]);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(127), "{error}");
    assert!(error.contains("/no/such"), "{error}");
    let id =
        ok(&agent, &["run", "-d", "--name", "web", IMAGE, "sh", "-c", "echo hello; sleep 1000"]);
    assert_eq!(id.trim().len(), 64);
    let table = ok(&agent, &["ps"]);
    assert!(table.contains("web") && table.contains(&id[..12]) && table.contains("Up"), "{table}");
    until("the line is logged", || ok(&agent, &["logs", "web"]) == "hello");
    assert_eq!(ok(&agent, &["exec", "web", "cat", "/etc/hostname"]).as_str(), &id[..12]);
    let format = ["inspect", "--format", "{{.State.Status}} {{.HostConfig.Memory}}", "web"];
    assert_eq!(ok(&agent, &format), "running 0");
    ok(&agent, &["stop", "-t", "0", "web"]);
    assert!(ok(&agent, &["ps", "-a"]).contains("Exited"));
    ok(&agent, &["rm", "web"]);
    assert_eq!(ok(&agent, &["ps", "-a", "-q"]), "");
    agent.finish();
}

#[test]
fn docker_images_load_import_and_rmi_work() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let rootfs = agent.scratch.join("again.tar");
    tenantry_e2e::image::write_rootfs(&rootfs).unwrap();
    ok(&agent, &["import", rootfs.to_str().unwrap(), "twin:v1"]);
    let table = ok(&agent, &["images"]);
    assert!(table.contains("twin") && table.contains("v1"), "{table}");
    assert_eq!(ok(&agent, &["run", "--rm", "twin:v1", "echo", "hi"]), "hi");
    ok(&agent, &["rmi", "twin:v1"]);
    assert!(!ok(&agent, &["images"]).contains("twin"));
    agent.finish();
}

#[test]
fn docker_run_limits_are_ours() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let flags =
        ["run", "-d", "--name", "small", "--cpus", "0.5", "--memory", "64m", "--pids-limit", "50"];
    ok(&agent, &[&flags[..], &[IMAGE, "sleep", "1000"]].concat());
    let limits = &agent.native("small")["limits"];
    assert_eq!(limits["cpus"], 0.5);
    assert_eq!(limits["memory_bytes"], 64 << 20);
    assert_eq!(limits["pids"], 50);
    let output = docker::output(&agent, &["run", "--rm", "--cpuset-mems", "0", IMAGE, "true"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("CpusetMems"), "{error}");
    agent.finish();
}
