//! Containers run, end, restart, are executed into and removed, through the
//! command line and the stock `docker` client alike.

use std::process::{Command, Stdio};

use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::{skip_unless_possible, until};

#[test]
fn a_container_runs_in_namespaces_of_its_own_and_its_output_comes_back() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let script = "echo out; echo err >&2; hostname; echo pid $$; ls /proc | grep -c '^[0-9]'; \
                  ip -o addr show eth0 | grep -c 'inet '; exit 7";
    let output = agent.output(&["run", "--hostname", "web", IMAGE, "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(7));
    let text = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..3], ["out", "web", "pid 1"], "{text}");
    assert!(lines[3].parse::<u32>().unwrap() <= 4, "sees foreign processes: {text}");
    assert_eq!(lines[4], "1", "has no address: {text}");
    assert_eq!(output.stderr, b"err\n");
    agent.finish();
}

#[test]
fn namespaces_of_every_container_are_known_by_inode() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    let view = agent.native("web");
    let pid = view["pid"].as_i64().unwrap();
    for kind in ["mnt", "pid", "net", "uts", "ipc", "cgroup", "user"] {
        let link = std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
        let expected = format!("{kind}:[{}]", view["namespaces"][kind]);
        assert_eq!(link.to_str().unwrap(), expected);
        let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
        assert_eq!(kind == "user", link == own, "{kind} is shared with the host");
    }
    let inode = view["namespaces"]["net"].to_string();
    let labels = [("name", "web"), ("type", "net"), ("inode", inode.as_str())];
    assert_eq!(agent.metrics().sum("tenantry_namespace_info", &labels), Some(1.0));
    agent.finish();
}

#[test]
fn a_user_namespace_maps_root_to_nobody_of_the_host() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("mapped", &["--userns", "private"], &["sleep", "1000"]).unwrap();
    assert_eq!(agent.ok(&["exec", "mapped", "id", "-u"]), "0\n");
    agent.ok(&["exec", "mapped", "touch", "/data/mine"]);
    assert_eq!(agent.ok(&["exec", "mapped", "stat", "-c", "%u", "/data/mine", "/bin"]), "0\n0\n");
    let pid = agent.native("mapped")["pid"].as_i64().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:\t")).unwrap();
    assert!(!uid.starts_with("0\t"), "root inside is root outside: {uid}");
    agent.finish();
}

#[test]
fn containers_with_ids_of_their_own_share_none() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let root_of = |name: &str| -> u32 {
        agent.run_detached(name, &["--userns", "auto"], &["sleep", "1000"]).unwrap();
        assert_eq!(agent.ok(&["exec", name, "stat", "-c", "%u", "/bin"]), "0\n");
        agent.ok(&["exec", name, "touch", "/data/mine"]);
        let map = std::fs::read_to_string(format!("/proc/{}/uid_map", agent.pid_of(name))).unwrap();
        let [inside, outside, size] = map.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{map}")
        };
        assert_eq!((inside, size), ("0", "65536"), "{map}");
        outside.parse().unwrap()
    };
    let [one, two] = ["one", "two"].map(root_of);
    assert!(one.abs_diff(two) >= 65_536, "{one} {two}");
    // A range goes back with its container.
    agent.ok(&["rm", "-f", "one"]);
    assert_eq!(root_of("three"), one);
    agent.finish();
}

#[test]
fn exec_joins_the_container_and_brings_back_code_and_streams() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent.run_detached("web", &["-e", "COLOUR=red"], &["sleep", "1000"]).unwrap();
    let script = "echo $COLOUR $(hostname); echo no >&2; cat; exit 5";
    let mut child = agent
        .client(&["exec", "-i", "web", "sh", "-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    use std::io::Write as _;
    child.stdin.take().unwrap().write_all(b"typed\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let id = agent.native("web")["id"].as_str().unwrap()[..12].to_owned();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("red {id}\ntyped\n"));
    assert_eq!(output.stderr, b"no\n");
    let (code, error) = agent.fails(&["exec", "web", "/no/such/program"]);
    assert!(error.contains("/no/such/program"), "{error}");
    assert!(code == 126 || code == 127 || code == 125, "{code}");
    agent.finish();
}

#[test]
fn stop_asks_first_and_kills_after_the_grace_period() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let polite = "trap 'echo bye; exit 3' TERM; while :; do sleep 0.1; done";
    agent.run_detached("polite", &[], &["sh", "-c", polite]).unwrap();
    agent.run_detached("stubborn", &[], &["workload", "sleep", "1000", "--ignore-term"]).unwrap();
    until("the trap is set", || !agent.state("polite").is_empty());
    std::thread::sleep(tenantry_e2e::patience(1) / 2);
    agent.ok(&["stop", "polite"]);
    agent.ok(&["stop", "-t", "1", "stubborn"]);
    assert_eq!(agent.inspect("polite")["State"]["ExitCode"], 3);
    assert_eq!(agent.inspect("stubborn")["State"]["ExitCode"], 137);
    assert_eq!(agent.ok(&["logs", "polite"]), "bye\n");
    agent.finish();
}

#[test]
fn a_restart_policy_counts_its_tries_and_backs_off() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    agent
        .run_detached("flaky", &["--restart", "on-failure:2"], &["sh", "-c", "echo try; exit 1"])
        .unwrap();
    until("two restarts have failed", || {
        agent.state("flaky") == "exited" && agent.native("flaky")["restarts"] == 2
    });
    assert_eq!(agent.ok(&["logs", "flaky"]), "try\ntry\ntry\n");
    agent.run_detached("fine", &["--restart", "on-failure:2"], &["true"]).unwrap();
    until("it ended", || agent.state("fine") == "exited");
    assert_eq!(agent.native("fine")["restarts"], 0);
    agent.run_detached("kept", &["--restart", "always"], &["sleep", "1000"]).unwrap();
    agent.ok(&["stop", "-t", "0", "kept"]);
    assert_eq!(agent.state("kept"), "exited");
    agent.finish();
}

#[test]
fn dockers_defaults_hold_inside() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let look = |flags: &[&str], script: &str| {
        agent.ok(&[&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat())
    };
    let status = look(&[], "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status");
    assert!(status.contains("CapEff:\t00000000a80425fb"), "{status}");
    assert!(status.contains("Seccomp:\t2") && status.contains("NoNewPrivs:\t0"), "{status}");
    let strict =
        look(&["--security-opt", "no-new-privileges"], "grep NoNewPrivs /proc/self/status");
    assert!(strict.contains("NoNewPrivs:\t1"), "{strict}");
    let tries = "cat /proc/kcore 2>/dev/null | wc -c; echo 1 > /proc/sys/kernel/panic || echo refused; \
                 mount -t tmpfs none /tmp 2>/dev/null || echo refused; unshare -r true 2>/dev/null || echo refused; \
                 for f in $(find /sys/fs/cgroup -name cgroup.procs -o -name cpu.max -o -name cpu.cfs_quota_us); do \
                   (echo 1 > $f) 2>/dev/null && echo \"wrote $f\"; done; true";
    let answer = look(&[], tries);
    assert_eq!(answer.matches("refused").count(), 3, "{answer}");
    assert!(answer.starts_with("0\n") && !answer.contains("wrote"), "{answer}");
    agent.finish();
}

#[test]
fn a_saved_image_of_each_kind_is_loaded_and_runs() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let oci = agent.scratch.join("layout");
    write_oci_layout(&agent, &oci);
    let loaded = agent.ok(&["image", "load", oci.to_str().unwrap()]);
    assert_eq!(loaded, "Loaded image: layout:latest\n");
    assert_eq!(agent.ok(&["run", "--rm", "layout", "cat", "/from"]), "layout\n");
    let images = json(&agent.ok(&["image", "ls", "--json"]));
    assert_eq!(images.as_array().unwrap().len(), 2);
    agent.ok(&["image", "rm", "layout"]);
    let (_, error) = agent.fails(&["run", "--rm", "layout", "true"]);
    assert!(error.contains("layout"), "{error}");
    agent.finish();
}

/// An OCI layout by hand: one layer of busybox, made with tools that are not ours.
fn write_oci_layout(agent: &TestAgent, directory: &std::path::Path) {
    let root = agent.scratch.join("layer");
    std::fs::create_dir_all(root.join("bin")).unwrap();
    std::fs::copy(tenantry_e2e::image::busybox().unwrap(), root.join("bin/busybox")).unwrap();
    for applet in ["cat", "sh", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    std::fs::write(root.join("from"), "layout\n").unwrap();
    let blobs = directory.join("blobs/sha256");
    std::fs::create_dir_all(&blobs).unwrap();
    let layer = agent.scratch.join("layer.tar");
    shell(&format!("busybox tar -cf {} -C {} .", layer.display(), root.display()));
    let put = |path: &std::path::Path| {
        let sum = shell(&format!("busybox sha256sum {}", path.display()));
        let digest = sum.split_whitespace().next().unwrap().to_owned();
        let size = std::fs::copy(path, blobs.join(&digest)).unwrap();
        (format!("sha256:{digest}"), size)
    };
    let put_json = |value: serde_json::Value| {
        let path = agent.scratch.join("blob.json");
        std::fs::write(&path, value.to_string()).unwrap();
        put(&path)
    };
    let (layer_digest, layer_size) = put(&layer);
    let (config, config_size) = put_json(serde_json::json!({
        "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" }, "os": "linux",
        "config": { "Env": ["PATH=/bin"] },
        "rootfs": { "type": "layers", "diff_ids": [layer_digest] },
    }));
    let (manifest, manifest_size) = put_json(serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer_size }],
    }));
    let index = serde_json::json!({
        "schemaVersion": 2, "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": manifest, "size": manifest_size,
            "annotations": { "org.opencontainers.image.ref.name": "layout:latest" },
        }],
    });
    std::fs::write(directory.join("index.json"), index.to_string()).unwrap();
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion": "1.0.0"}"#).unwrap();
}

fn shell(command: &str) -> String {
    let output = Command::new("/bin/sh").args(["-c", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
