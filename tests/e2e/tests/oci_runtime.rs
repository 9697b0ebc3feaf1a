//! `tenantry-runtime` as others use it: bundles of their making, their command lines, and
//! Podman itself. What it does is looked at in `/proc` and in cgroups.

#[expect(dead_code, reason = "the engines' other test uses more of them")]
mod engines;
mod oci;

use std::path::Path;
use std::process::Command;

use serde_json::json;
use tenantry_e2e::{skip_unless_possible, until};

use engines::Engine as _;
use oci::{Bundle, output_of};

#[test]
fn a_bundle_of_runcs_is_created_started_and_deleted() {
    skip_unless_possible!();
    let Some(bundle) = Bundle::of_runc("steps") else {
        println!("SKIPPED: runc is not installed");
        return;
    };
    bundle.change(|config| {
        config["process"]["args"] = json!(["sh", "-c", "hostname > /data/said; sleep 1000"]);
        config["hostname"] = json!("ours");
    });
    let pid_file = bundle.directory.join("pid");
    bundle.ok(&["create", "--pid-file", pid_file.to_str().unwrap(), "steps"]);
    let state = bundle.state("steps");
    assert_eq!((state["status"].as_str(), state["id"].as_str()), (Some("created"), Some("steps")));
    let pid = state["pid"].as_u64().unwrap();
    assert_eq!(std::fs::read_to_string(&pid_file).unwrap(), pid.to_string());
    // It is somewhere else already, and its program has not begun.
    for kind in ["pid", "net", "ipc", "uts", "mnt"] {
        let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        assert_ne!(of(&pid.to_string()), of("self"), "{kind}");
    }
    let said = bundle.rootfs().join("data/said");
    assert!(!said.exists());
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let unified = cgroups.lines().find(|line| line.starts_with("0::")).unwrap();
    assert!(unified.ends_with("/steps"), "{cgroups}");
    bundle.ok(&["start", "steps"]);
    until("it says its name", || std::fs::read_to_string(&said).is_ok_and(|text| text == "ours\n"));
    assert_eq!(bundle.state("steps")["status"], "running");
    let error = bundle.fails(&["start", "steps"]);
    assert!(error.contains("cannot start") && error.contains("allowed: created"), "{error}");
    let error = bundle.fails(&["delete", "steps"]);
    assert!(error.contains("cannot delete") && error.contains("running"), "{error}");
    let error = bundle.fails(&["create", "steps"]);
    assert!(error.contains("exists already"), "{error}");
    bundle.ok(&["kill", "steps", "KILL"]);
    until("it has stopped", || bundle.state("steps")["status"] == "stopped");
    let error = bundle.fails(&["kill", "steps", "TERM"]);
    assert!(error.contains("container not running"), "{error}");
    bundle.ok(&["delete", "steps"]);
    assert!(bundle.fails(&["state", "steps"]).contains("does not exist"));
    bundle.finish();
}

#[test]
fn run_in_front_gives_output_and_exit_code() {
    skip_unless_possible!();
    let bundle = Bundle::own("front");
    bundle.change(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo out; echo err >&2; exit 7"]);
    });
    let output = bundle.command(&["run", "front"]).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "err\n");
    assert_eq!(bundle.ok(&["list", "--format", "json"]), "[]\n");
    bundle.finish();
}

#[test]
fn who_creates_hears_of_a_missing_program_and_nothing_is_left() {
    skip_unless_possible!();
    let bundle = Bundle::own("missing");
    bundle.change(|config| config["process"]["args"] = json!(["no-such-program"]));
    let log = bundle.directory.join("log");
    let arguments = ["--log", log.to_str().unwrap(), "--log-format", "json", "create", "missing"];
    let error = bundle.fails(&arguments);
    assert!(error.contains("no-such-program") && error.contains("no such file"), "{error}");
    let line = std::fs::read_to_string(&log).unwrap();
    let line: serde_json::Value = serde_json::from_str(line.trim()).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("no such file"), "{line}");
    assert!(bundle.fails(&["state", "missing"]).contains("does not exist"));
    bundle.finish();
}

#[test]
fn a_wrong_bundle_is_refused_by_its_field() {
    skip_unless_possible!();
    let bundle = Bundle::own("wrong");
    for (change, named) in [
        (json!({"linux": {"resources": {"unified": {"memory.high": "1"}}}}), "unified"),
        (json!({"process": {"cwd": "here"}}), "process.cwd"),
        (json!({"root": {"path": "nowhere"}}), "nowhere"),
    ] {
        bundle.reset();
        bundle.change(|config| oci::merge(config, &change));
        let error = bundle.fails(&["create", "wrong"]);
        assert!(error.contains(named), "{error}");
        assert_eq!(bundle.ok(&["list", "-q"]), "");
    }
    std::fs::write(bundle.directory.join("config.json"), "{\"process\": 3}").unwrap();
    let error = bundle.fails(&["create", "wrong"]);
    assert!(error.contains("config.json") && error.contains("line 1"), "{error}");
    bundle.finish();
}

#[test]
fn a_further_process_is_where_the_first_one_is() {
    skip_unless_possible!();
    let bundle = Bundle::own("further");
    bundle.change(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["hostname"] = json!("inside");
    });
    bundle.ok(&["run", "--detach", "further"]);
    assert_eq!(bundle.ok(&["exec", "further", "hostname"]), "inside\n");
    let ours = bundle.ok(&["exec", "further", "readlink", "/proc/self/ns/pid"]);
    let first = bundle.state("further")["pid"].as_u64().unwrap();
    let its = std::fs::read_link(format!("/proc/{first}/ns/pid")).unwrap();
    assert_eq!(ours.trim(), its.to_str().unwrap());
    let status = bundle.ok(&["exec", "--user", "1000:1000", "further", "cat", "/proc/self/status"]);
    assert!(status.contains("Uid:\t1000\t1000") && status.contains("CapEff:\t0000000000000000"));
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let output = bundle.command(&["exec", "further", "sh", "-c", "exit 9"]).output().unwrap();
    assert_eq!(output.status.code(), Some(9));
    let error = bundle.fails(&["exec", "further", "no-such-program"]);
    assert!(error.contains("no such file"), "{error}");
    bundle.ok(&["delete", "--force", "further"]);
    bundle.finish();
}

#[test]
fn what_a_bundle_leaves_open_is_as_with_other_runtimes() {
    skip_unless_possible!();
    let bundle = Bundle::own("open");
    let log = bundle.directory.join("log");
    std::fs::write(bundle.rootfs().join("etc/passwd"), "u:x:1000:1000::/var/empty:/bin/sh\n")
        .unwrap();
    let kept = |name: &str, status: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        line.split_whitespace().last().unwrap().to_owned()
    };
    bundle.change(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["process"]["cwd"] = json!("/not/there/yet");
        config["process"]["user"] = json!({"uid": 1000, "gid": 1000});
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["process"]["noNewPrivileges"] = json!(false);
        config["process"]["capabilities"] = json!({
            "bounding": ["CAP_SYS_ADMIN", "CAP_UNKNOWN"],
            "inheritable": ["CAP_SYS_ADMIN"],
        });
        config["root"]["readonly"] = json!(true);
    });
    bundle.ok(&["--log", log.to_str().unwrap(), "run", "--detach", "open"]);
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.contains("level=warning") && said.contains("CAP_UNKNOWN"), "{said}");
    let pid = bundle.state("open")["pid"].as_u64().unwrap();
    let of_first = |file: &str| std::fs::read(format!("/proc/{pid}/{file}")).unwrap();
    let environment = of_first("environ");
    assert!(String::from_utf8_lossy(&environment).contains("HOME=/var/empty\0"));
    let place = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
    assert_eq!(place, Path::new("/not/there/yet"));
    let status = String::from_utf8(of_first("status")).unwrap();
    assert_eq!(kept("CapInh", &status), "0000000000200000");
    assert_eq!(kept("CapPrm", &status), "0000000000000000");
    // Further processes: one capability more, and a home of their own.
    let root = ["exec", "--user", "0:0", "--cap", "CAP_KILL", "open", "cat", "/proc/self/status"];
    let status = bundle.ok(&root);
    assert_eq!(kept("CapBnd", &status), "0000000000200020", "{status}");
    // Root has what is inheritable as well, once it executes.
    assert_eq!(kept("CapEff", &status), "0000000000200020", "{status}");
    assert_eq!(kept("CapAmb", &status), "0000000000000000", "{status}");
    let status = bundle.ok(&["exec", "--user", "0:0", "open", "cat", "/proc/self/status"]);
    assert_eq!(kept("CapEff", &status), "0000000000200000", "{status}");
    assert_eq!(bundle.ok(&["exec", "open", "sh", "-c", "echo $HOME"]), "/var/empty\n");
    assert_eq!(bundle.ok(&["exec", "-e", "HOME=/x", "open", "sh", "-c", "echo $HOME"]), "/x\n");
    bundle.ok(&["delete", "--force", "open"]);
    bundle.finish();
}

#[test]
fn of_the_hosts_devices_only_those_that_are_allowed_can_be_opened() {
    skip_unless_possible!();
    let bundle = Bundle::own("nodes");
    bundle.change(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(
            json!({"destination": "/host", "type": "bind", "source": "/dev", "options": ["rbind"]}),
        );
        config["linux"]["resources"]["devices"] = json!([
            {"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 237, "access": "rw"},
        ]);
    });
    bundle.ok(&["run", "--detach", "nodes"]);
    let open = |path: &str| {
        let script = format!("exec 3< {path}");
        let mut command = bundle.command(&["exec", "nodes", "sh", "-c", &script]);
        command.output().unwrap().status.success()
    };
    for (path, expected) in [
        ("/host/loop-control", true),
        ("/host/null", true),
        ("/host/loop0", false),
        ("/dev/null", true),
    ] {
        let there = Path::new("/dev").join(path.rsplit('/').next().unwrap()).exists();
        assert_eq!(open(path), expected && there, "{path}");
    }
    // What one makes for oneself is no way around.
    let script = "mknod /data/loop b 7 0 && ! (exec 3< /data/loop)";
    bundle.ok(&["exec", "--cap", "CAP_MKNOD", "nodes", "sh", "-c", script]);
    bundle.ok(&["delete", "--force", "nodes"]);
    bundle.finish();
}

#[test]
fn limits_reach_the_kernel_and_a_pause_stops_everything() {
    skip_unless_possible!();
    let bundle = Bundle::own("limits");
    bundle.change(|config| {
        config["process"]["args"] = json!(["sleep", "1000"]);
        config["linux"]["resources"] =
            json!({"pids": {"limit": 17}, "memory": {"limit": 67_108_864}});
    });
    bundle.ok(&["run", "--detach", "limits"]);
    let pid = bundle.state("limits")["pid"].as_u64().unwrap();
    assert_eq!(oci::cgroup_file(pid, "pids", "pids.max").unwrap(), "17");
    let memory = oci::cgroup_file(pid, "memory", "memory.max")
        .or_else(|| oci::cgroup_file(pid, "memory", "memory.limit_in_bytes"));
    assert_eq!(memory.unwrap(), "67108864");
    let changed = bundle.directory.join("resources.json");
    std::fs::write(&changed, "{\"pids\": {\"limit\": 19}}").unwrap();
    bundle.ok(&["update", "--resources", changed.to_str().unwrap(), "limits"]);
    assert_eq!(oci::cgroup_file(pid, "pids", "pids.max").unwrap(), "19");
    bundle.ok(&["pause", "limits"]);
    assert_eq!(bundle.state("limits")["status"], "paused");
    assert!(oci::cgroup_file(pid, "", "cgroup.events").unwrap().contains("frozen 1"));
    bundle.ok(&["resume", "limits"]);
    assert!(oci::cgroup_file(pid, "", "cgroup.events").unwrap().contains("frozen 0"));
    assert_eq!(bundle.ok(&["ps", "--format", "json", "limits"]), format!("[{pid}]\n"));
    bundle.ok(&["delete", "-f", "limits"]);
    bundle.finish();
}

#[test]
fn hooks_run_once_each_in_their_order() {
    skip_unless_possible!();
    let bundle = Bundle::own("hooks");
    let outside = bundle.directory.join("order");
    let hook = |script: String| json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let note = |name: &str| hook(format!("cat > /dev/null; echo {name} >> {}", outside.display()));
    bundle.change(|config| {
        config["process"]["args"] = json!(["sh", "-c", "echo program >> /data/order"]);
        config["process"]["env"] = json!(["PATH=/bin:/its/own"]);
        config["hooks"] = json!({
            "prestart": note("prestart"),
            "createRuntime": note("createRuntime $PATH"),
            "createContainer": note("createContainer"),
            "startContainer": hook("echo startContainer $PATH >> /data/order".to_owned()),
            "poststart": note("poststart"),
            "poststop": note("poststop"),
        });
    });
    // One that names no environment has that of who runs it: the caller, or the container.
    let path = std::env::var("PATH").unwrap();
    let order = || std::fs::read_to_string(&outside).unwrap_or_default().replace('\n', " ");
    bundle.ok(&["create", "hooks"]);
    assert_eq!(order(), format!("prestart createRuntime {path} createContainer "));
    bundle.ok(&["start", "hooks"]);
    until("it has stopped", || bundle.state("hooks")["status"] == "stopped");
    let inside = std::fs::read_to_string(bundle.rootfs().join("data/order")).unwrap();
    assert_eq!(inside, "startContainer /bin:/its/own\nprogram\n");
    bundle.ok(&["delete", "hooks"]);
    assert_eq!(
        order(),
        format!("prestart createRuntime {path} createContainer poststart poststop ")
    );
    // One that fails undoes the creation.
    bundle.change(|config| config["hooks"]["createRuntime"] = hook("exit 3".to_owned()));
    let error = bundle.fails(&["create", "hooks"]);
    assert!(error.contains("hook /bin/sh") && error.contains('3'), "{error}");
    bundle.finish();
}

#[test]
fn a_terminal_is_sent_to_who_waits_at_the_socket() {
    skip_unless_possible!();
    let bundle = Bundle::own("terminal");
    bundle.change(|config| {
        config["process"]["terminal"] = json!(true);
        config["process"]["consoleSize"] = json!({"height": 33, "width": 77});
        config["process"]["args"] = json!(["sh", "-c", "tty; stty size; sleep 1000"]);
    });
    let error = bundle.fails(&["create", "terminal"]);
    assert!(error.contains("--console-socket"), "{error}");
    let socket = bundle.directory.join("console");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    bundle.ok(&["create", "--console-socket", socket.to_str().unwrap(), "terminal"]);
    let master = oci::receive_descriptor(&listener);
    bundle.ok(&["start", "terminal"]);
    let mut seen = String::new();
    until("the terminal says its name and size", || {
        oci::read_more(&master, &mut seen);
        seen.contains("/dev/pts/0") && seen.contains("33 77")
    });
    bundle.ok(&["delete", "--force", "terminal"]);
    bundle.finish();
}

#[test]
fn a_bundle_that_umoci_unpacked_runs() {
    skip_unless_possible!();
    let Some(bundle) = Bundle::of_umoci("umoci") else {
        println!("SKIPPED: umoci is not installed");
        return;
    };
    let output = bundle.command(&["run", "umoci"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "from umoci\n", "{error}");
    bundle.finish();
}

#[test]
fn podman_runs_executes_kills_and_removes_with_it() {
    skip_unless_possible!();
    let podman = match oci::Podman::prepare() {
        Ok(podman) => podman,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let network = ["--network", "none"];
    let run = |more: &[&str]| podman.ok(&[&["run"][..], &network, more].concat());
    assert_eq!(run(&["--rm", oci::IMAGE, "echo", "hello"]), "hello\n");
    let code =
        podman.command(&["run", "--rm", "--network", "none", oci::IMAGE, "sh", "-c", "exit 6"]);
    assert_eq!(output_of(code).status.code(), Some(6));
    let missing =
        podman.command(&["run", "--rm", "--network", "none", oci::IMAGE, "no-such-program"]);
    assert_eq!(output_of(missing).status.code(), Some(127));
    run(&[
        "-d",
        "--name",
        "work",
        "--pids-limit",
        "50",
        "--tmpfs",
        "/scratch",
        oci::IMAGE,
        "sleep",
        "1000",
    ]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.OCIRuntime}}", "work"]).trim(), podman.runtime());
    let pid = podman.ok(&["inspect", "-f", "{{.State.Pid}}", "work"]).trim().parse().unwrap();
    assert_eq!(oci::cgroup_file(pid, "pids", "pids.max").unwrap(), "50");
    // Its parent is Podman's monitor: no process of ours stays.
    let parent = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let parent = parent.lines().find_map(|line| line.strip_prefix("PPid:\t")).unwrap();
    let name = std::fs::read_to_string(format!("/proc/{parent}/comm")).unwrap();
    assert_eq!(name, "conmon\n");
    assert_eq!(podman.ok(&["exec", "work", "sh", "-c", "echo $((6 * 7))"]), "42\n");
    podman.ok(&["pause", "work"]);
    podman.ok(&["unpause", "work"]);
    podman.ok(&["kill", "work"]);
    podman.ok(&["wait", "work"]);
    assert_eq!(podman.ok(&["inspect", "-f", "{{.State.ExitCode}}", "work"]).trim(), "137");
    podman.ok(&["rm", "work"]);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    drop(podman);
}

#[test]
fn docker_runs_executes_pauses_updates_and_removes_with_it() {
    skip_unless_possible!();
    let program = oci::program();
    let runtime = format!("tenantry={}", program.display());
    let docker = match engines::Docker::start_with(&["--add-runtime", &runtime]) {
        Ok(docker) => docker,
        Err(why) => return println!("SKIPPED: {why}"),
    };
    let run = |flags: &[&str], command: &[&str]| {
        let run = ["run", "--runtime", "tenantry", "--network", "none"];
        docker.command(&[&run[..], flags, &[engines::IMAGE], command].concat())
    };
    let said = output_of(run(&["--rm", "--init"], &["echo", "hello"]));
    assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\n", "{said:?}");
    for (program, code) in [("no-such-program", 127), ("/bin", 126)] {
        let output = output_of(run(&["--rm"], &[program]));
        assert_eq!(output.status.code(), Some(code), "{output:?}");
    }
    let flags = ["-d", "--name", "work", "--pids-limit", "50", "--memory", "64m"];
    let started = output_of(run(&flags, &["sleep", "1000"]));
    assert!(started.status.success(), "{started:?}");
    let pid = u64::from(docker.pid("work"));
    assert_eq!(oci::cgroup_file(pid, "pids", "pids.max").unwrap(), "50");
    let memory = || {
        oci::cgroup_file(pid, "memory", "memory.max")
            .or_else(|| oci::cgroup_file(pid, "memory", "memory.limit_in_bytes"))
    };
    assert_eq!(memory().unwrap(), "67108864");
    docker.ok(&["update", "--memory", "96m", "--memory-swap", "96m", "work"]);
    assert_eq!(memory().unwrap(), "100663296");
    assert_eq!(docker.ok(&["exec", "work", "sh", "-c", "echo $((6 * 7))"]), "42\n");
    docker.ok(&["pause", "work"]);
    assert!(oci::cgroup_file(pid, "", "cgroup.events").unwrap().contains("frozen 1"));
    docker.ok(&["unpause", "work"]);
    docker.ok(&["kill", "work"]);
    assert_eq!(docker.ok(&["wait", "work"]), "137\n");
    docker.ok(&["start", "work"]);
    docker.remove("work");
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[test]
fn features_and_version_are_told_without_being_root_of_anything() {
    skip_unless_possible!();
    let program = oci::program();
    let features = output_of({
        let mut command = Command::new(&program);
        command.arg("features");
        command
    });
    let features: serde_json::Value = serde_json::from_slice(&features.stdout).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    let mut version = Command::new(&program);
    version.arg("--version");
    let version = String::from_utf8(output_of(version).stdout).unwrap();
    assert!(version.starts_with("tenantry-runtime version "), "{version}");
    assert!(version.contains("spec: 1.2.0"), "{version}");
}
