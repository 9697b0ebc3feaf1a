//! Each field of the specification: taken, ignored, or refused by its name.

use rustix::thread::UnshareFlags;
use serde_json::json;
use tenantry_cgroupfs::{CpuMax, Max};
use tenantry_shim::spec::V1Directory;

use super::*;

fn example() -> Value {
    serde_json::from_str(include_str!("../../example.json")).unwrap()
}

fn placement() -> CgroupPlacement {
    CgroupPlacement { unified: "/cg/unified/x".into(), v1: vec![] }
}

fn nodes() -> Vec<HostNode> {
    let node = |path: &str, minor| HostNode {
        path: path.into(),
        kind: rustix::fs::FileType::CharacterDevice,
        major: if path == "/dev/null" { 1 } else { 10 },
        minor,
    };
    vec![node("/dev/fuse", 229), node("/dev/null", 3), node("/dev/net/tun", 200)]
}

fn planned(raw: &Value) -> Result<Plan, Error> {
    let spec: Spec = serde_json::from_value(raw.clone()).unwrap();
    plan(&spec, raw, Path::new("/bundle"), &placement(), &nodes())
}

/// The example with `value` at a JSON pointer, whose parents are made.
fn with(pointer: &str, value: Value) -> Value {
    let mut raw = example();
    let mut place = &mut raw;
    for name in pointer.trim_start_matches('/').split('/') {
        place = &mut place[name];
    }
    *place = value;
    raw
}

#[track_caller]
fn check_refused(pointer: &str, value: Value, named: &str) {
    let error = planned(&with(pointer, value)).unwrap_err().to_string();
    assert!(error.contains(named), "{pointer}: {error}");
}

/// One line per step.
fn outline(plan: &Plan) -> Vec<String> {
    let flags = |attributes: &Attr| {
        let names = [
            (Attr::MOUNT_ATTR_RDONLY, "ro"),
            (Attr::MOUNT_ATTR_NOSUID, "nosuid"),
            (Attr::MOUNT_ATTR_NODEV, "nodev"),
            (Attr::MOUNT_ATTR_NOEXEC, "noexec"),
        ];
        let set = names.iter().filter(|(flag, _)| attributes.contains(*flag));
        set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
    };
    let line = |step: &Step| match step {
        Step::Filesystem { kind, target, attributes, .. } => {
            format!("{kind} {target} {}", flags(attributes))
        }
        Step::Tree { source, target, attributes, recursive, .. } => {
            let kind = if *recursive { "rbind" } else { "bind" };
            format!("{kind} {} {target} {}", source.display(), flags(attributes))
        }
        Step::Node { path, major, minor, mode, .. } => {
            format!("node {path} {major}:{minor} {mode:o}")
        }
        Step::Link { path, to } => format!("link {path} {to}"),
        Step::Ensure { path } => format!("ensure {path}"),
        Step::Write { path, text } => format!("write {path} {text}"),
        Step::Restrict { path, attributes } => format!("restrict {path} {}", flags(attributes)),
        Step::Mask { path } => format!("mask {path}"),
        Step::ReadOnly { path } => format!("read-only {path}"),
        other => format!("{other:?}"),
    };
    plan.steps.iter().map(line).collect()
}

#[test]
fn the_example_becomes_these_steps_in_this_order() {
    let lines = outline(&planned(&example()).unwrap());
    let expected = [
        "proc /proc nodev",
        "tmpfs /dev nosuid",
        "devpts /dev/pts nosuid,noexec",
        "tmpfs /dev/shm nosuid,nodev,noexec",
        "mqueue /dev/mqueue nosuid,nodev,noexec",
        "sysfs /sys ro,nosuid,nodev,noexec",
        "bind /cg/unified/x /sys/fs/cgroup ro,nosuid,nodev,noexec",
        "node /dev/null 1:3 666",
        "node /dev/zero 1:5 666",
        "node /dev/full 1:7 666",
        "node /dev/random 1:8 666",
        "node /dev/urandom 1:9 666",
        "node /dev/tty 5:0 666",
        "link /dev/fd /proc/self/fd",
        "link /dev/stdin /proc/self/fd/0",
        "link /dev/stdout /proc/self/fd/1",
        "link /dev/stderr /proc/self/fd/2",
        "link /dev/ptmx pts/ptmx",
        "link /dev/core /proc/kcore",
        "restrict /dev nodev",
        "mask /proc/acpi",
    ];
    assert_eq!(lines[..expected.len()], expected);
    assert_eq!(lines.last().unwrap(), "restrict / ro,nodev");
}

#[test]
fn the_process_is_taken_word_by_word() {
    let mut raw = example();
    raw["process"]["user"] = json!({"uid": 7, "gid": 8, "umask": 0o77, "additionalGids": [9]});
    raw["process"]["consoleSize"] = json!({"height": 24, "width": 80});
    raw["process"]["oomScoreAdj"] = json!(100);
    raw["process"]["capabilities"] = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL"], "permitted": ["CAP_KILL"],
        "effective": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"],
    });
    let plan = planned(&raw).unwrap();
    let process = &plan.process.process;
    assert_eq!((process.uid, process.gid, plan.process.umask), (7, 8, 0o77));
    assert_eq!(process.additional_gids, [9]);
    let size = process.terminal.unwrap();
    assert_eq!((size.rows, size.columns), (24, 80));
    assert_eq!(process.oom_score_adj, Some(100));
    assert!(process.no_new_privileges);
    let sets = plan.process.sets;
    assert_eq!((sets.bounding, sets.permitted, sets.ambient), (1 | 1 << 5, 1 << 5, 1 << 5));
    let limit = plan.process.rlimits[0];
    assert_eq!(
        (limit.resource, limit.soft, limit.hard),
        (rustix::process::Resource::Nofile, 1024, 1024)
    );
}

#[test]
fn without_capabilities_a_process_has_none() {
    let plan = planned(&with("/process/capabilities", Value::Null)).unwrap();
    assert_eq!(plan.process.sets, tenantry_shim::privileges::Sets::default());
}

#[test]
fn capabilities_that_nobody_knows_are_taken_out_and_named() {
    let mut process = json!({"capabilities": {
        "bounding": ["CAP_KILL", "CAP_UNKNOWN", "chown"],
        "effective": ["UNKNOWN_CAP", "CAP_UNKNOWN"],
        "ambient": null,
    }});
    assert_eq!(ignore_unknown_capabilities(&mut process), ["CAP_UNKNOWN", "UNKNOWN_CAP"]);
    let left = json!({"bounding": ["CAP_KILL", "chown"], "effective": [], "ambient": null});
    assert_eq!(process["capabilities"], left);
    assert!(ignore_unknown_capabilities(&mut process).is_empty());
    assert!(ignore_unknown_capabilities(&mut json!({"args": ["x"]})).is_empty());
}

#[test]
fn a_working_directory_is_made_before_the_root_is_read_only() {
    let mut raw = with("/process/cwd", json!("/not/there"));
    raw["root"]["readonly"] = json!(true);
    let lines = outline(&planned(&raw).unwrap());
    let at = |wanted: &str| lines.iter().position(|line| line == wanted).unwrap();
    assert!(at("ensure /not/there") < at("restrict / ro,nodev"), "{lines:?}");
}

#[test]
fn a_wrong_process_is_refused_by_its_fields() {
    check_refused("/process/args", json!([]), "process.args");
    check_refused("/process/cwd", json!("relative"), "process.cwd");
    check_refused("/process/oomScoreAdj", json!(2000), "process.oomScoreAdj");
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 2, "hard": 1});
    check_refused("/process/rlimits", json!([limit]), "process.rlimits");
    let limit = json!({"type": "RLIMIT_NOFILE", "soft": 1, "hard": 1});
    check_refused("/process/rlimits", json!([limit.clone(), limit]), "process.rlimits");
}

#[test]
fn what_is_not_to_be_had_is_refused_by_its_name() {
    for (pointer, value) in [
        ("/process/apparmorProfile", json!("docker-default")),
        ("/process/selinuxLabel", json!("system_u:x")),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 1})),
        ("/process/scheduler", json!({"policy": "SCHED_BATCH"})),
        ("/linux/mountLabel", json!("x")),
        ("/linux/resources/unified", json!({"memory.high": "1"})),
        ("/linux/resources/hugepageLimits", json!([{"pageSize": "2MB", "limit": 1}])),
        ("/linux/resources/rdma", json!({"mlx5_1": {"hcaHandles": 3}})),
    ] {
        check_refused(pointer, value, &pointer[1..].replace('/', "."));
    }
    check_refused("/linux/personality", json!({"domain": "LINUX32"}), "linux.personality.domain");
    check_refused("/ociVersion", json!("2.0.0"), "ociVersion");
    check_refused("/linux/rootfsPropagation", json!("sideways"), "linux.rootfsPropagation");
}

#[test]
fn what_says_nothing_and_what_is_unknown_are_ignored() {
    let mut raw = example();
    raw["process"]["apparmorProfile"] = json!("unconfined");
    raw["linux"]["mountLabel"] = json!("");
    raw["linux"]["resources"]["network"] = json!({});
    raw["linux"]["future"] = json!({"some": "thing"});
    raw["annotations"] = json!({"org.example": "x"});
    planned(&raw).unwrap();
}

#[test]
fn binds_come_from_the_bundle_and_open_no_devices() {
    let bind = |source: &str, options: Value| json!({"destination": "/data", "type": "bind", "source": source, "options": options});
    let mut raw = example();
    raw["mounts"] = json!([
        bind("data", json!(["rbind", "ro"])),
        bind("/dev/fuse", json!(["bind"])),
        bind("/srv", json!(["bind", "rslave", "noexec"])),
    ]);
    let plan = planned(&raw).unwrap();
    let expected = [
        "rbind /bundle/data /data ro,nodev",
        "bind /dev/fuse /data nodev",
        "bind /srv /data nodev,noexec",
    ];
    assert_eq!(outline(&plan)[..3], expected);
    let Step::Tree { propagation, .. } = &plan.steps[2] else { panic!("no tree") };
    assert_eq!(*propagation, Propagation::Slave);
    raw["mounts"][0]["source"] = json!("");
    let error = planned(&raw).unwrap_err().to_string();
    assert!(error.contains("mounts[0].source"), "{error}");
}

#[test]
fn a_privileged_container_may_open_all_devices() {
    let rules = json!([{"allow": false, "access": "rwm"}, {"allow": true, "access": "rwm"}]);
    let plan = planned(&with("/linux/resources/devices", rules)).unwrap();
    let lines = outline(&plan);
    assert_eq!(lines.last().unwrap(), "restrict / ro");
    assert!(!lines.iter().any(|line| line.starts_with("restrict /dev")), "{lines:?}");
    // One device that is allowed is not all of them.
    let rules = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rwm"}]);
    let plan = planned(&with("/linux/resources/devices", rules)).unwrap();
    assert_eq!(outline(&plan).last().unwrap(), "restrict / ro,nodev");
}

#[test]
fn of_the_hosts_devices_those_that_are_allowed_are_mounts_of_their_own() {
    let mut raw = example();
    raw["mounts"] =
        json!([{"destination": "/dev", "type": "bind", "source": "/dev", "options": ["rbind"]}]);
    raw["linux"]["resources"]["devices"] = json!([{"allow": false, "access": "rwm"},
        {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "rw"}]);
    let plan = planned(&raw).unwrap();
    let lines = outline(&plan);
    let expected =
        ["rbind /dev /dev nodev", "rbind /dev/null /dev/null ", "rbind /dev/net/tun /dev/net/tun "];
    assert_eq!(lines[..3], expected);
    assert_eq!(plan.device_rules[0].text, "a");
    raw["mounts"][0]["source"] = json!("/dev/net/tun");
    raw["mounts"][0]["destination"] = json!("/dev/tap");
    let lines = outline(&planned(&raw).unwrap());
    assert_eq!(lines[..2], ["rbind /dev/net/tun /dev/tap nodev", "rbind /dev/net/tun /dev/tap "]);
    // Where there is a controller, it decides.
    let spec: Spec = serde_json::from_value(raw.clone()).unwrap();
    let v1 = vec![V1Directory { controller: "devices".into(), path: "/cg/devices/x".into() }];
    let placement = CgroupPlacement { unified: "/cg/unified/x".into(), v1 };
    let plan = super::plan(&spec, &raw, Path::new("/bundle"), &placement, &nodes()).unwrap();
    assert_eq!(outline(&plan)[0], "rbind /dev/net/tun /dev/tap ");
    assert!(!outline(&plan)[1].starts_with("rbind"));
    raw["linux"]["resources"]["devices"] = json!([{"allow": true, "access": "rwm"}]);
    let plan = planned(&raw).unwrap();
    assert_eq!(outline(&plan)[0], "rbind /dev/net/tun /dev/tap ");
    assert!(plan.device_rules.is_empty());
}

#[test]
fn a_device_takes_the_place_of_a_default_one() {
    let device =
        json!({"path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600});
    let fuse = json!({"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229});
    let lines = outline(&planned(&with("/linux/devices", json!([device, fuse]))).unwrap());
    let of_null: Vec<_> = lines.iter().filter(|line| line.contains("/dev/null")).collect();
    assert_eq!(of_null, ["node /dev/null 1:3 600"]);
    assert!(lines.contains(&"node /dev/fuse 10:229 666".to_owned()), "{lines:?}");
}

#[test]
fn a_user_namespace_shows_the_hosts_devices_and_has_its_maps() {
    let mut raw = example();
    raw["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
    let error = planned(&raw).unwrap_err().to_string();
    assert!(error.contains("linux.uidMappings"), "{error}");
    for map in ["uidMappings", "gidMappings"] {
        raw["linux"][map] = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    }
    let plan = planned(&raw).unwrap();
    assert!(plan.namespaces.new.contains(UnshareFlags::NEWUSER));
    assert_eq!(render_map(&plan.namespaces.uid_map), "0 100000 65536\n");
    assert_eq!(plan.namespaces.host_uid(7), Some(100_007));
    assert_eq!(plan.namespaces.host_uid(65_536), None);
    assert!(outline(&plan).contains(&"bind /dev/null /dev/null nosuid,noexec".to_owned()));
}

#[test]
fn namespaces_are_made_or_joined() {
    let list = json!([{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/n"}]);
    let plan = planned(&{
        let mut raw = with("/linux/namespaces", list);
        raw["hostname"] = Value::Null;
        raw
    })
    .unwrap();
    assert_eq!(plan.namespaces.new, UnshareFlags::NEWNS | UnshareFlags::NEWPID);
    assert!(!plan.namespaces.new_cgroup);
    let (kind, path) = &plan.namespaces.joined[0];
    assert_eq!((kind.to_string().as_str(), path.as_path()), ("net", Path::new("/run/n")));
    check_refused("/linux/namespaces", json!([{"type": "pid"}]), "linux.namespaces");
    let twice = json!([{"type": "mount"}, {"type": "pid"}, {"type": "pid"}]);
    check_refused("/linux/namespaces", twice, "linux.namespaces");
    let user = json!([{"type": "mount"}, {"type": "user", "path": "/proc/1/ns/user"}]);
    check_refused("/linux/namespaces", user, "user with a path");
    // A name of one's own takes a namespace.
    check_refused("/linux/namespaces", json!([{"type": "mount"}]), "hostname");
}

#[test]
fn a_setting_belongs_to_a_namespace_of_the_containers() {
    let ping = json!({"net.ipv4.ping_group_range": "0 0", "kernel.shmmax": "1"});
    let lines = outline(&planned(&with("/linux/sysctl", ping)).unwrap());
    assert!(lines.contains(&"write /proc/sys/net/ipv4/ping_group_range 0 0".to_owned()));
    assert!(lines.contains(&"write /proc/sys/kernel/shmmax 1".to_owned()));
    for name in ["vm.overcommit_memory", "kernel.panic", "net/../kernel/panic", "kernel.hostname"] {
        check_refused("/linux/sysctl", json!({name: "1"}), name);
    }
}

#[test]
fn the_last_of_the_namespaces_that_a_setting_needs_is_missing() {
    let mut raw = with("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
    raw["linux"]["namespaces"].as_array_mut().unwrap().retain(|n| n["type"] != "network");
    let error = planned(&raw).unwrap_err().to_string();
    assert!(error.contains("net.ipv4.ip_forward"), "{error}");
}

#[test]
fn resources_are_limits_and_zeros_are_none() {
    let resources = json!({
        "cpu": {"shares": 0, "quota": 50_000, "period": 0, "cpus": ""},
        "memory": {"limit": 1 << 20, "swap": -1, "swappiness": 60, "disableOOMKiller": false},
        "pids": {"limit": -1},
        "blockIO": {"weight": 0, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 5}],
                    "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 7}]},
    });
    let wanted = planned(&with("/linux/resources", resources)).unwrap().resources;
    assert_eq!(wanted.cpu, Some(CpuMax { quota_usec: Some(50_000), period_usec: 100_000 }));
    assert_eq!((wanted.cpu_weight, &wanted.cpuset_cpus), (None, &None));
    assert_eq!(wanted.memory_max_bytes, Some(Max::Value(1 << 20)));
    assert_eq!(wanted.memory_swap_max_bytes, Some(Max::Unlimited));
    assert_eq!(wanted.pids_max, Some(Max::Unlimited));
    assert_eq!(wanted.io.len(), 1);
    let (five, seven) = (Some(Max::Value(5)), Some(Max::Value(7)));
    assert_eq!(wanted.io[0].limits(), [five, None, None, seven]);
    for (pointer, value, named) in [
        ("/linux/resources/cpu", json!({"mems": "0"}), "cpu.mems"),
        ("/linux/resources/cpu", json!({"realtimeRuntime": 5}), "cpu.realtimeRuntime"),
        ("/linux/resources/cpu", json!({"idle": 5}), "cpu.idle"),
        ("/linux/resources/memory", json!({"disableOOMKiller": true}), "memory.disableOOMKiller"),
        ("/linux/resources/memory", json!({"reservation": 5}), "memory.reservation"),
        ("/linux/resources/blockIO", json!({"weight": 5}), "blockIO.weight"),
    ] {
        check_refused(pointer, value, named);
    }
}

#[test]
fn a_cgroup_is_where_the_path_says() {
    let check = |path: Option<&str>, expected: &str| {
        assert_eq!(cgroup_path(path.map(Path::new), "id").unwrap(), expected, "{path:?}");
    };
    check(None, "tenantry-runtime/id");
    check(Some(""), "tenantry-runtime/id");
    check(Some("/libpod_parent/libpod-x"), "libpod_parent/libpod-x");
    check(Some("mine/x/"), "tenantry-runtime/mine/x");
    for wrong in ["/", "/a/../b", "a//b", "system.slice:docker:x"] {
        assert!(cgroup_path(Some(Path::new(wrong)), "id").is_err(), "{wrong}");
    }
}

#[test]
fn every_view_of_a_v1_cgroup_is_read_only() {
    let raw = example();
    let spec: Spec = serde_json::from_value(raw.clone()).unwrap();
    let cpu = V1Directory { controller: "cpu".into(), path: "/cg/cpu/x".into() };
    let placement = CgroupPlacement { v1: vec![cpu], ..placement() };
    let plan = plan(&spec, &raw, Path::new("/bundle"), &placement, &[]).unwrap();
    let lines = outline(&plan);
    let ro = "bind /cg/cpu/x /sys/fs/cgroup/cpu ro,nosuid,nodev,noexec".to_owned();
    assert!(lines.contains(&ro), "{lines:?}");
}

#[test]
fn a_root_is_shared_only_when_it_is_the_root() {
    let plan = planned(&with("/linux/rootfsPropagation", json!("rshared"))).unwrap();
    assert_eq!(plan.root_propagation, Propagation::Private);
    let shared = Step::Propagate { path: "/", propagation: libc::MS_SHARED };
    assert!(plan.steps.contains(&shared));
    let plan = planned(&with("/linux/rootfsPropagation", json!("rslave"))).unwrap();
    assert_eq!(plan.root_propagation, Propagation::Slave);
}
