//! What `docker run` says of a program's surroundings, seen from inside and from the host: by
//! the stock client.

use std::fs;

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{fails, ok, output};
use tenantry_e2e::loop_device::LoopDevice;
use tenantry_e2e::{skip_without_docker, until};

/// What a container prints that runs this script and ends.
#[track_caller]
fn prints(agent: &TestAgent, flags: &[&str], script: &str) -> String {
    let run = [&["run", "--rm"], flags, &[IMAGE, "sh", "-c", script]].concat();
    ok(agent, &run)
}

fn inode(pid: u32, namespace: &str) -> String {
    let link = fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
    link.to_string_lossy().into_owned()
}

#[test]
fn limits_of_processes_and_kernel_settings_are_the_containers_own() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let limits = prints(
        &agent,
        &["--ulimit", "nofile=100:200", "--ulimit", "core=0"],
        "ulimit -Sn; ulimit -Hn; ulimit -Hc",
    );
    assert_eq!(limits, "100\n200\n0");
    // Of an exec, too.
    ok(&agent, &["run", "-d", "--name", "web", "--ulimit", "nofile=77", IMAGE, "sleep", "1000"]);
    assert_eq!(ok(&agent, &["exec", "web", "sh", "-c", "ulimit -n"]), "77");
    let limits = fs::read_to_string(format!("/proc/{}/limits", agent.pid_of("web"))).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(files.split_whitespace().filter(|word| *word == "77").count() == 2, "{files}");

    let before = fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
    let own = prints(
        &agent,
        &["--sysctl", "net.core.somaxconn=321", "--sysctl", "kernel.shmmni=99"],
        "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/shmmni",
    );
    assert_eq!(own, "321\n99");
    assert_eq!(fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap(), before);
    // The client itself knows those that are never a container's own.
    let of_host = ["run", "--rm", "--network", "host", "--sysctl", "net.core.somaxconn=321"];
    let refused = fails(&agent, &[&of_host[..], &[IMAGE, "true"]].concat());
    assert!(refused.contains("sysctls") && refused.contains("net.core.somaxconn"), "{refused}");
    let refused = fails(&agent, &["run", "--rm", "--ulimit", "nofile=9:8", IMAGE, "true"]);
    assert!(refused.contains("ulimit"), "{refused}");
    agent.finish();
}

#[test]
fn an_init_reaps_passes_signals_on_and_ends_as_its_program() {
    skip_without_docker!();
    let agent = TestAgent::start();
    // An orphan that ends: somebody must take its end.
    let script = "(sleep 0.1 &) ; sleep 0.6; ps -o pid,stat,comm";
    let with = prints(&agent, &["--init"], script);
    assert!(!with.contains('Z'), "{with}");
    let first = |line: &str| line.trim().starts_with("1 ") && line.trim().ends_with("init");
    assert!(with.lines().any(first), "{with}");
    assert!(prints(&agent, &["--init"], "echo $PPID").trim() == "1");
    let ended = output(&agent, &["run", "--rm", "--init", IMAGE, "sh", "-c", "exit 7"]);
    assert_eq!(ended.status.code(), Some(7));
    let ended = output(&agent, &["run", "--rm", "--init", IMAGE, "sh", "-c", "kill -9 $$"]);
    assert_eq!(ended.status.code(), Some(137));
    let missing = output(&agent, &["run", "--rm", "--init", IMAGE, "/there/is/none"]);
    assert_eq!(missing.status.code(), Some(127));
    // Without a handler the first process of a container is deaf to SIGTERM; not so here.
    ok(&agent, &["run", "-d", "--name", "web", "--init", IMAGE, "sleep", "1000"]);
    let began = std::time::Instant::now();
    ok(&agent, &["stop", "-t", "60", "web"]);
    assert!(began.elapsed().as_secs() < 30, "SIGTERM did not come through");
    assert_eq!(agent.inspect("web")["State"]["ExitCode"], 143);
    ok(&agent, &["run", "-d", "--name", "slow", "--init", "-t", IMAGE, "sleep", "1000"]);
    ok(&agent, &["kill", "slow"]);
    agent.finish();
}

#[test]
fn hosts_and_name_servers_are_what_was_said() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let shown = prints(
        &agent,
        &[
            "--add-host",
            "db:10.9.8.7",
            "--add-host",
            "up:host-gateway",
            "--dns",
            "9.9.9.9",
            "--dns-search",
            "a.example",
            "--dns-option",
            "ndots:3",
            "--group-add",
            "web",
            "--group-add",
            "4321",
            "--shm-size",
            "8m",
            "--hostname",
            "flat",
        ],
        "cat /etc/hosts /etc/resolv.conf; hostname; id -G; df -k /dev/shm",
    );
    assert!(shown.contains("10.9.8.7\tdb\n"), "{shown}");
    let up = shown.lines().find(|line| line.ends_with("\tup")).unwrap();
    assert!(up.split('.').count() == 4, "{up}");
    assert!(shown.contains("nameserver 9.9.9.9\n") && shown.contains("search a.example\n"));
    assert_eq!(shown.matches("nameserver").count(), 1, "{shown}");
    assert!(shown.contains("options ndots:3\n") && shown.contains("\nflat\n"), "{shown}");
    assert!(shown.contains("\n0 1000 4321\n"), "{shown}");
    assert!(shown.contains(" 8192 "), "{shown}");
    agent.finish();
}

#[test]
fn devices_are_there_when_asked_for_and_everything_is_with_privileged() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let script = "head -c 3 /dev/nothing | od -An -tx1; ls -l /dev/nothing";
    let shown = prints(&agent, &["--device", "/dev/zero:/dev/nothing"], script);
    assert!(shown.contains("00 00 00") && shown.contains("1,   5"), "{shown}");
    let without = output(&agent, &["run", "--rm", IMAGE, "sh", "-c", "ls /dev/nothing"]);
    assert!(!without.status.success());
    let less = fails(&agent, &["run", "--rm", "--device", "/dev/zero:/dev/x:r", IMAGE, "true"]);
    assert!(less.contains("rwm"), "{less}");
    let none = fails(&agent, &["run", "--rm", "--device", "/dev/there/is/none", IMAGE, "true"]);
    assert!(none.contains("/dev/there/is/none"), "{none}");

    let status = "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status";
    let script = format!("{status}; mkdir /tmp/x && mount -t tmpfs x /tmp/x && echo mounted");
    let everything = prints(&agent, &["--privileged"], &script);
    let bounding = fs::read_to_string("/proc/self/status").unwrap();
    let bounding = bounding.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert!(everything.contains(bounding) && everything.contains("mounted"), "{everything}");
    assert!(everything.contains("Seccomp:\t0"), "{everything}");
    let usual = prints(&agent, &[], &format!("{script} || echo refused"));
    assert!(usual.contains("refused") && !usual.contains(bounding), "{usual}");
    agent.finish();
}

#[test]
fn namespaces_are_the_hosts_or_anothers() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let own = std::process::id();
    let run = |name: &str, flags: &[&str]| {
        let run = [&["run", "-d", "--name", name], flags, &[IMAGE, "sleep", "1000"]].concat();
        ok(&agent, &run);
        agent.pid_of(name)
    };
    let host = run("host", &["--pid", "host", "--ipc", "host", "--uts", "host"]);
    for namespace in ["pid", "ipc", "uts"] {
        assert_eq!(inode(host, namespace), inode(own, namespace), "{namespace}");
    }
    assert_ne!(inode(host, "mnt"), inode(own, "mnt"));
    // It sees this very test, by the number that the host has for it.
    ok(&agent, &["exec", "host", "ls", &format!("/proc/{own}/status")]);

    let first = run("first", &["--ipc", "shareable"]);
    let second = run("second", &["--pid", "container:first", "--ipc", "container:first"]);
    for namespace in ["pid", "ipc"] {
        assert_eq!(inode(first, namespace), inode(second, namespace), "{namespace}");
    }
    assert_ne!(inode(first, "uts"), inode(second, "uts"));
    ok(&agent, &["exec", "first", "sh", "-c", "echo word > /dev/shm/letter"]);
    assert_eq!(ok(&agent, &["exec", "second", "cat", "/dev/shm/letter"]), "word");
    let seen = ok(&agent, &["exec", "second", "ps", "-o", "pid,args"]);
    assert_eq!(seen.matches("sleep 1000").count(), 2, "{seen}");

    // The stock client knows no container here, only `host`.
    let joined = ["run", "-d", "--name", "third", "--uts", "container:first", IMAGE];
    agent.run(&[&joined[..], &["sleep", "1000"]].concat()).unwrap();
    assert_eq!(inode(agent.pid_of("third"), "uts"), inode(first, "uts"));
    let name = ok(&agent, &["exec", "first", "hostname"]);
    assert_eq!(ok(&agent, &["exec", "third", "hostname"]), name);
    assert_eq!(ok(&agent, &["exec", "third", "cat", "/etc/hostname"]), name);
    let id = ok(&agent, &["inspect", "--format", "{{.Id}}", "first"]);
    let mode = ok(&agent, &["inspect", "--format", "{{.HostConfig.UTSMode}}", "third"]);
    assert_eq!(mode, format!("container:{id}"));
    ok(&agent, &["rm", "-f", "third"]);
    let both = [&joined[..5], &["container:first", "--hostname", "x", IMAGE]].concat();
    let (_, refused) = agent.fails(&both);
    assert!(refused.contains("hostname"), "{refused}");

    let private = run("private", &[]);
    assert_ne!(inode(private, "ipc"), inode(first, "ipc"));
    let arguments = ["run", "--rm", "--ipc", "container:private", IMAGE, "true"];
    let refused = fails(&agent, &arguments);
    assert!(refused.contains("shareable"), "{refused}");
    let refused = fails(&agent, &["run", "--rm", "--pid", "container:nobody", IMAGE, "true"]);
    assert!(refused.contains("nobody"), "{refused}");

    // Who is without a pid namespace of its own leaves nobody behind when it ends.
    ok(&agent, &["exec", "-d", "host", "sleep", "4242"]);
    let sleeping = || {
        fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            line == b"sleep\x004242\x00"
        })
    };
    until("the exec runs", sleeping);
    ok(&agent, &["kill", "host"]);
    until("nobody is left", || !sleeping());
    ok(&agent, &["rm", "-f", "first", "second", "private", "host"]);
    agent.finish();
}

#[test]
fn limits_of_memory_disks_and_processors_are_in_the_cgroups_files() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let flags = [
        "run",
        "-d",
        "--name",
        "web",
        "--memory",
        "64m",
        "--memory-reservation",
        "32m",
        "--memory-swap",
        "96m",
        "--pids-limit",
        "50",
        "--cpuset-cpus",
        "0",
        "--cpu-shares",
        "512",
        "--oom-score-adj",
        "321",
        IMAGE,
        "sleep",
        "1000",
    ];
    ok(&agent, &flags);
    let pid = agent.pid_of("web");
    let score = fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap();
    assert_eq!(score.trim(), "321");
    let allowed = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(allowed.contains("Cpus_allowed_list:\t0\n"), "{allowed}");
    let container: Value = agent.inspect("web");
    assert_eq!(container["HostConfig"]["MemoryReservation"], 32 << 20);
    assert_eq!(container["HostConfig"]["MemorySwap"], 96 << 20);
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let memory = cgroups.lines().find_map(|line| {
        let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
        controllers.split(',').any(|name| name == "memory").then(|| path.to_owned())
    });
    let (file, expected) = match memory {
        Some(path) => (format!("/sys/fs/cgroup/memory{path}/memory.soft_limit_in_bytes"), 32 << 20),
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
            (format!("/sys/fs/cgroup{path}/memory.low"), 32 << 20)
        }
    };
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.trim(), expected.to_string(), "{file}");
    ok(&agent, &["update", "--restart", "on-failure:3", "--pids-limit", "60", "web"]);
    let container = agent.inspect("web");
    assert_eq!(container["HostConfig"]["RestartPolicy"]["MaximumRetryCount"], 3);
    assert_eq!(container["HostConfig"]["PidsLimit"], 60);
    ok(&agent, &["rm", "-f", "web"]);
    agent.finish();
}

#[test]
fn limits_of_a_disk_are_in_the_cgroups_files_and_told_back() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let Some(disk) = LoopDevice::attach(&agent) else {
        println!("SKIPPED: no loop device can be had");
        return;
    };
    let device = disk.device.as_str();
    let rate = |amount: &str| format!("{device}:{amount}");
    let (read, write) = (rate("1mb"), rate("2mb"));
    let (reads, writes) = (rate("300"), rate("400"));
    let run = ["run", "-d", "--name", "web"];
    let flags = [
        ["--device-read-bps", &read],
        ["--device-write-bps", &write],
        ["--device-read-iops", &reads],
        ["--device-write-iops", &writes],
    ];
    ok(&agent, &[&run[..], flags.as_flattened(), &[IMAGE, "sleep", "1000"]].concat());
    let cgroups = fs::read_to_string(format!("/proc/{}/cgroup", agent.pid_of("web"))).unwrap();
    let of_blkio = cgroups.lines().find_map(|line| line.split_once(":blkio:"));
    let stat = rustix::fs::stat(device).unwrap();
    let number = format!("{}:{}", rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    match of_blkio {
        Some((_, path)) => {
            for (file, expected) in [
                ("read_bps", 1 << 20),
                ("write_bps", 2 << 20),
                ("read_iops", 300),
                ("write_iops", 400),
            ] {
                let file = format!("/sys/fs/cgroup/blkio{path}/blkio.throttle.{file}_device");
                let text = fs::read_to_string(&file).unwrap();
                assert_eq!(text.trim(), format!("{number} {expected}"), "{file}");
            }
        }
        None => {
            let path = cgroups.lines().find_map(|line| line.strip_prefix("0::")).unwrap();
            let text = fs::read_to_string(format!("/sys/fs/cgroup{path}/io.max")).unwrap();
            let expected = format!("{number} rbps=1048576 wbps=2097152 riops=300 wiops=400");
            assert_eq!(text.trim(), expected);
        }
    }
    let host = &agent.inspect("web")["HostConfig"];
    for (field, rate) in [
        ("BlkioDeviceReadBps", 1 << 20),
        ("BlkioDeviceWriteBps", 2 << 20),
        ("BlkioDeviceReadIOps", 300),
        ("BlkioDeviceWriteIOps", 400),
    ] {
        assert_eq!(host[field], serde_json::json!([{ "Path": device, "Rate": rate }]), "{field}");
    }
    for (flag, value, words) in [
        ("--blkio-weight-device", rate("300"), ["BlkioWeightDevice", "all of them"]),
        ("--device-read-bps", "/dev/null:1mb".to_owned(), ["BlkioDeviceReadBps", "block device"]),
        ("--device-write-iops", "/dev/none:9".to_owned(), ["BlkioDeviceWriteIOps", "/dev/none"]),
    ] {
        let refused = fails(&agent, &["create", flag, &value, IMAGE, "true"]);
        assert!(words.iter().all(|word| refused.contains(word)), "{refused}");
    }
    ok(&agent, &["rm", "-f", "web"]);
    drop(disk);
    agent.finish();
}

#[test]
fn a_container_is_paused_renamed_listed_and_compared() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let count = "i=0; while true; do i=$((i+1)); echo $i > /count; sleep 0.05; done";
    ok(&agent, &["run", "-d", "--name", "web", IMAGE, "sh", "-c", count]);
    let counted = |agent: &TestAgent| {
        let pid = agent.pid_of("web");
        fs::read_to_string(format!("/proc/{pid}/root/count")).unwrap_or_default()
    };
    until("it counts", || !counted(&agent).is_empty());
    ok(&agent, &["pause", "web"]);
    assert_eq!(agent.state("web"), "paused");
    let stands = counted(&agent);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(counted(&agent), stands);
    assert!(ok(&agent, &["ps"]).contains("(Paused)"));
    let refused = fails(&agent, &["exec", "web", "true"]);
    assert!(refused.contains("paused"), "{refused}");
    assert!(fails(&agent, &["pause", "web"]).contains("already paused"));
    // The next agent finds it as it is.
    agent.kill_nine();
    agent.spawn().unwrap();
    assert_eq!(agent.state("web"), "paused");
    assert_eq!(counted(&agent), stands);
    ok(&agent, &["unpause", "web"]);
    until("it goes on", || counted(&agent) != stands);
    assert!(fails(&agent, &["unpause", "web"]).contains("not paused"));
    // One that stands still ends all the same.
    ok(&agent, &["pause", "web"]);
    ok(&agent, &["stop", "-t", "1", "web"]);
    assert_eq!(agent.state("web"), "exited");

    ok(&agent, &["start", "web"]);
    ok(&agent, &["rename", "web", "site"]);
    assert_eq!(agent.state("site"), "running");
    assert!(fails(&agent, &["inspect", "web"]).to_lowercase().contains("no such"));
    agent.run_detached("web", &[], &["sleep", "1000"]).unwrap();
    assert!(fails(&agent, &["rename", "web", "site"]).contains("in use"));

    let top = ok(&agent, &["top", "web"]);
    assert!(top.lines().next().unwrap().starts_with("UID"), "{top}");
    assert!(top.contains("sleep 1000") && top.contains(&agent.pid_of("web").to_string()), "{top}");
    assert!(fails(&agent, &["top", "web", "-o", "pid"]).contains("ps_args"));

    let change = "echo x > /data/new; rm /etc/group; echo y >> /etc/passwd";
    ok(&agent, &["exec", "web", "sh", "-c", change]);
    let told = ok(&agent, &["diff", "web"]);
    let mut changes: Vec<&str> = told.lines().collect();
    changes.sort_unstable();
    let expected = ["A /data/new", "C /data", "C /etc", "C /etc/passwd", "D /etc/group"];
    assert_eq!(changes, expected);

    let format = "{{.Name}} {{.PIDs}} {{.MemUsage}}";
    let shown = ok(&agent, &["stats", "--no-stream", "--format", format, "web"]);
    assert!(shown.starts_with("web 1 "), "{shown}");
    ok(&agent, &["rm", "-f", "web", "site"]);
    agent.finish();
}

#[test]
fn what_is_not_served_is_refused_by_name() {
    skip_without_docker!();
    let agent = TestAgent::start();
    for (flags, field) in [
        (["--cpuset-mems", "0"], "CpusetMems"),
        (["--device-cgroup-rule", "c 1:3 rwm"], "DeviceCgroupRules"),
        (["--cgroup-parent", "/x"], "CgroupParent"),
        (["--runtime", "runc"], "Runtime"),
        (["--domainname", "example"], "Domainname"),
    ] {
        let arguments = [&["run", "--rm"], &flags[..], &[IMAGE, "true"]].concat();
        let refused = fails(&agent, &arguments);
        assert!(refused.contains(field), "{field}: {refused}");
    }
    // Nothing is half made.
    assert_eq!(ok(&agent, &["ps", "-aq"]), "");
    agent.finish();
}
