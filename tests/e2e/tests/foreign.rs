//! Containers of other runtimes are metered, named and given back.

mod engines;

use std::process::Command;

use serde_json::Value;
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::cgroup::{Cgroup, Held, root};
use tenantry_e2e::host::namespace_counters;
use tenantry_e2e::scrape::destination;
use tenantry_e2e::{netns, patience, programs, skip_unless_possible, until};

use engines::{Docker, Engine, Podman};

fn workload(getpids: u32) -> String {
    format!("{}/tenantry-workload syscalls --getpid {getpids}", programs().display())
}

fn getpids(agent: &TestAgent, name: &str) -> f64 {
    let labels = [("name", name), ("syscall", "getpid")];
    agent.metrics().sum("tenantry_syscalls_total", &labels).unwrap_or(0.0)
}

fn view(agent: &TestAgent, name: &str) -> Option<Value> {
    let output = agent.output(&["inspect", "--native", name]);
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| serde_json::from_str::<Value>(&text).unwrap()[0].take())
}

#[test]
fn a_service_and_a_container_are_known_by_their_cgroups_alone() {
    skip_unless_possible!();
    let mut agent = TestAgent::start();
    let top = format!("{}.slice", agent.cgroup_parent);
    let (id, unit) = ("c0ffee00".repeat(8), "tenantry\\x2dtest@1.service");
    let service = Cgroup::make(&format!("/{top}/{unit}"));
    let container = Cgroup::make(&format!("/{top}/default/{id}"));
    // Nobody would tell more about them: the unit's name, and the beginning of the id.
    let (unit, short) = ("tenantry-test@1.service", &id[..12]);
    service.run(&workload(0));
    container.run(&workload(0));
    until("both are listed", || view(&agent, unit).is_some() && view(&agent, short).is_some());
    until("the unit is called as a person writes it", || {
        view(&agent, unit).is_some_and(|view| view["name"] == unit)
    });
    let base = (getpids(&agent, unit), getpids(&agent, short));
    service.run(&workload(5000));
    container.run(&workload(7000));
    assert_eq!(getpids(&agent, unit) - base.0, 5000.0);
    assert_eq!(getpids(&agent, short) - base.1, 7000.0);

    let shown = view(&agent, short).unwrap();
    assert_eq!((&shown["runtime"], &shown["id"]), (&"containerd".into(), &id.as_str().into()));
    assert_eq!(shown["cgroup"], container.path);
    assert_eq!(view(&agent, unit).unwrap()["runtime"], "systemd");
    let table = agent.ok(&["ps"]);
    assert!(table.contains(unit) && table.contains("systemd"), "{table}");
    let info = [("id", container.path.as_str()), ("runtime", "containerd")];
    assert_eq!(agent.metrics().sum("tenantry_container_info", &info), Some(1.0));

    // They are not ours to change, and whoever tries is told whose they are.
    for verb in [&["stop", short][..], &["rm", short], &["limit", short, "--pids", "9"]] {
        let (_, error) = agent.fails(verb);
        assert!(error.contains("run by containerd"), "{verb:?}: {error}");
    }

    // An agent that died left the counting to the kernel.
    let before = (getpids(&agent, unit), getpids(&agent, short));
    agent.kill_nine();
    container.run(&workload(1000));
    agent.spawn().unwrap();
    assert_eq!(getpids(&agent, short), before.1 + 1000.0 + base.1);
    until("the unit has its name again", || view(&agent, unit).is_some());
    assert_eq!(getpids(&agent, unit), before.0);

    drop((container, service));
    until("their series end with them", || {
        view(&agent, unit).is_none() && getpids(&agent, short) == 0.0
    });
    let lost = agent.metrics().sum("tenantry_table_full_total", &[("table", "cgroup_events")]);
    assert_eq!(lost, Some(0.0));
    agent.finish();
}

/// The guard of this agent, if one lives: its pid and its private memory in KiB.
fn guard(agent: &TestAgent) -> Option<(u32, u64)> {
    let run_dir = agent.run_dir();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let found = pids.into_iter().find(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains("guard keep") && line.contains(run_dir.to_str().unwrap())
    })?;
    let rollup = std::fs::read_to_string(format!("/proc/{found}/smaps_rollup")).ok()?;
    let private =
        |line: &str| line.strip_prefix("Private_")?.split_whitespace().nth(1)?.parse::<u64>().ok();
    Some((found, rollup.lines().filter_map(private).sum()))
}

#[test]
fn another_runtimes_container_is_held_and_given_back_also_when_the_agent_is_killed() {
    skip_unless_possible!();
    if !std::path::Path::new("/sys/fs/cgroup/cpu/cpu.shares").exists() {
        println!("SKIPPED: the files that are looked at here are v1's");
        return;
    }
    let mut agent = TestAgent::start();
    let top = format!("{}.slice", agent.cgroup_parent);
    let id = "beefcafe".repeat(8);
    let hierarchies = ["unified", "cpu", "blkio", "memory"];
    let container = Cgroup::make_in(&format!("/{top}/default/{id}"), &hierarchies);
    let spin = format!("{}/tenantry-workload spin --seconds 1000", programs().display());
    let spinner = Held(container.command(&spin).spawn().unwrap());
    let name = &id[..12];
    until("it is known", || view(&agent, name).is_some());
    // What its own runtime gave it, with a period of its own.
    let weight = root("cpu").join(format!("{top}/default/{id}/cpu.shares"));
    std::fs::write(&weight, "2048").unwrap();
    std::fs::write(weight.with_file_name("cpu.cfs_period_us"), "50000").unwrap();
    std::fs::write(weight.with_file_name("cpu.cfs_quota_us"), "45000").unwrap();
    let before = container.limits();
    assert!(guard(&agent).is_none(), "nothing is held yet");

    let hold = |agent: &TestAgent, time: &str| {
        agent.ok(&["limit", name, "--for", time, "--cpus", "0.2", "--cpu-idle"]);
        let now = container.limits();
        assert_eq!(now[&weight.with_file_name("cpu.cfs_quota_us")], "10000\n");
        assert_eq!(now[&weight.with_file_name("cpu.idle")], "1\n");
    };
    hold(&agent, "1h");
    let ticks = || tenantry_e2e::host::cpu_ticks(spinner.0.id()).unwrap();
    let used = ticks();
    std::thread::sleep(std::time::Duration::from_secs(2));
    assert!(ticks() - used <= 60, "0.2 CPUs for 2 s are 40 ticks, not {}", ticks() - used);
    let (pid, private_kib) = guard(&agent).expect("a guard");
    println!("the guard's private memory: {private_kib} KiB");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Threads:\t1\n"), "{status}");
    agent.ok(&["limit", name, "--release"]);
    assert_eq!(container.limits(), before);
    until("the guard ends with what it held", || guard(&agent).is_none());

    // Bandwidth has no way back through a file.
    let (_, error) = agent.fails(&["limit", name, "--for", "1h", "--egress", "5mbit"]);
    assert!(error.contains("not supported"), "{error}");
    // The guard alone.
    hold(&agent, "2s");
    agent.kill_nine();
    let killed = std::time::Instant::now();
    until("the guard restores", || container.limits() == before);
    println!("restored {:?} after the kill, the lease being 2 s", killed.elapsed());
    assert!(killed.elapsed() < patience(12));
    until("and ends", || guard(&agent).is_none());
    assert!(!agent.run_dir().join("guard.json").exists());
    // The next agent, with the guard and with its note alone.
    agent.spawn().unwrap();
    for kill_guard in [false, true] {
        until("it is known again", || view(&agent, name).is_some());
        hold(&agent, "1h");
        agent.kill_nine();
        let (pid, _) = guard(&agent).expect("it outlives the agent");
        if kill_guard {
            let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        }
        agent.spawn().unwrap();
        assert_eq!(container.limits(), before, "guard killed: {kill_guard}");
        until("nobody guards nothing", || guard(&agent).is_none());
    }
    // What its own runtime writes meanwhile stays.
    until("it is known again", || view(&agent, name).is_some());
    hold(&agent, "1h");
    std::fs::write(weight.with_file_name("cpu.cfs_quota_us"), "30000").unwrap();
    agent.ok(&["limit", name, "--release"]);
    let mut expected = before;
    expected.insert(weight.with_file_name("cpu.cfs_quota_us"), "30000\n".into());
    assert_eq!(container.limits(), expected);
    drop(spinner);
    drop(container);
    agent.finish();
}

#[test]
fn more_containers_than_there_is_room_for_are_counted_and_the_next_ones_find_it_again() {
    skip_unless_possible!();
    let agent = TestAgent::try_start_with("[foreign]\nmax = 3\nsystemd = false\n").unwrap();
    let top = format!("/{}.slice/default", agent.cgroup_parent);
    let make = |n: u32| Cgroup::make(&format!("{top}/{}", format!("{n:08x}").repeat(8)));
    let refused = || agent.metrics().sum("tenantry_foreign_refused_total", &[]).unwrap();
    let _service = Cgroup::make(&format!("{top}/no.service"));
    let first: Vec<Cgroup> = (0..5).map(make).collect();
    until("two found no room", || refused() >= 2.0);
    let known = |n: u32| view(&agent, &format!("{n:08x}").repeat(8)).is_some();
    assert_eq!((0..5).filter(|n| known(*n)).count(), 3);
    assert!(view(&agent, "no.service").is_none(), "services were not wanted");
    drop(first);
    until("all are gone", || (0..5).all(|n| !known(n)));
    // The kernel has slots in reserve again: a new one counts from its first program on.
    let slots = || agent.metrics().sum("tenantry_slots", &[("state", "used")]);
    until("their slots are free", || slots() == Some(0.0));
    let next = make(9);
    next.run(&workload(500));
    until("it is listed", || known(9));
    assert!(getpids(&agent, "000000090000") >= 500.0);
    drop(next);
    drop(_service);
    agent.finish();
}

/// A number in a file of a cgroup, after `key` where the file has several.
fn number(hierarchy: &str, cgroup: &str, file: &str, key: &str) -> f64 {
    let path = root(hierarchy).join(cgroup.trim_start_matches('/')).join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    let after = text.split_once(key).unwrap_or_else(|| panic!("{key} in {text}")).1;
    after.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_pod_and_slices_are_shown_as_the_sums_that_their_files_hold() {
    skip_unless_possible!();
    let bundles = tempfile::tempdir().unwrap();
    let (web, sandbox) = ("ab12cd34".repeat(8), "12ab34cd".repeat(8));
    for (id, kind) in [(&web, "container"), (&sandbox, "sandbox")] {
        let dir = bundles.path().join("k8s.io").join(id);
        std::fs::create_dir_all(&dir).unwrap();
        let notes = serde_json::json!({"annotations": {
            "io.kubernetes.cri.container-type": kind,
            "io.kubernetes.cri.container-name": if kind == "container" { "web" } else { "" },
            "io.kubernetes.cri.sandbox-name": "web-0",
            "io.kubernetes.cri.sandbox-namespace": "shop",
        }});
        std::fs::write(dir.join("config.json"), notes.to_string()).unwrap();
    }
    let config = format!("[foreign]\ncontainerd_state = \"{}\"\n", bundles.path().display());
    let agent = TestAgent::try_start_with(&config).unwrap();
    let slice = format!("/{}.slice", agent.cgroup_parent);
    let level = format!("{slice}/kubepods/burstable");
    let pod = format!("{level}/pod2c48913c-b29f-11e7-9350-020968147796");
    let trees = ["unified", "blkio", "memory", "pids"];
    let service = Cgroup::make_in(&format!("{slice}/beside.service"), &trees);
    // Of its own, so that it goes after those in it.
    let around = Cgroup::make_in(&pod, &trees);
    let paths = [&web, &sandbox].map(|id| format!("{pod}/{id}"));
    let containers = paths.clone().map(|path| Cgroup::make_in(&path, &trees));
    let held = [&service, &containers[0], &containers[1]].map(Cgroup::hold);
    containers[0].run(&format!("{}/tenantry-workload spin --seconds 1", programs().display()));
    containers[1].run(&workload(100_000));

    let named = [("id", pod.as_str()), ("namespace", "shop"), ("pod", "web-0"), ("name", "")];
    let usage = "container_cpu_usage_seconds_total";
    until("the pod has its name", || agent.metrics().sum(usage, &named).is_some());
    // Whoever sleeps uses nothing: the files stand still.
    let metrics = agent.metrics();
    let of = |series: &str, id: &str| metrics.sum(series, &[("id", id)]);
    let cpu = |cgroup: &str| number("unified", cgroup, "cpu.stat", "usage_usec") / 1e6;
    let parts: f64 = paths.iter().map(|path| of(usage, path).unwrap()).sum();
    let whole = of(usage, &pod).unwrap();
    println!("CPU seconds: {parts} in two containers, {whole} in their pod");
    // The kernel rounds each to microseconds.
    assert!(whole > 0.02 && (whole - parts).abs() < 5e-6);
    assert_eq!(whole, cpu(&pod));
    assert!(of(usage, &slice).unwrap() > whole);
    for (cgroup, processes) in [(&pod, 2.0), (&level, 2.0), (&slice, 3.0)] {
        assert_eq!(of(usage, cgroup), Some(cpu(cgroup)), "{cgroup}");
        let stalled = number("unified", cgroup, "cpu.pressure", "total=") / 1e6;
        assert_eq!(of("container_pressure_cpu_waiting_seconds_total", cgroup), Some(stalled));
        if root("pids").join(&cgroup[1..]).join("pids.current").exists() {
            assert_eq!(number("pids", cgroup, "pids.current", ""), processes);
            assert_eq!(of("container_threads", cgroup), Some(processes), "{cgroup}");
        }
        let file = match root("memory") == root("unified") {
            true => "memory.current",
            false => "memory.usage_in_bytes",
        };
        if root("memory").join(&cgroup[1..]).join(file).exists() {
            let witness = number("memory", cgroup, file, "");
            // The kernel moves charges between processors' stocks and the group.
            let shown = of("container_memory_usage_bytes", cgroup).unwrap();
            println!("{cgroup}: {shown} bytes, {witness} in its file");
            assert!(witness > 0.0 && (shown - witness).abs() <= f64::from(1 << 20));
        }
        // No kernel slot, so no series of what programs count, and no container's life.
        for series in ["tenantry_syscalls_total", "container_last_seen"] {
            assert_eq!(of(series, cgroup), None, "{series} {cgroup}");
        }
    }
    let text = tenantry_e2e::scrape::get(agent.listen, "/metrics").unwrap();
    let line =
        format!("{usage}{{id=\"{pod}\",image=\"\",name=\"\",namespace=\"shop\",pod=\"web-0\",");
    assert!(text.contains(&line), "{line}");
    assert_eq!(metrics.sum("tenantry_slices_left_out", &[]), Some(0.0));

    drop(held);
    drop((containers, around, service));
    until("their series end with them", || {
        let metrics = agent.metrics();
        [&pod, &slice].iter().all(|cgroup| metrics.sum(usage, &[("id", cgroup)]).is_none())
    });
    agent.finish();
}

#[test]
fn a_docker_container_is_metered_before_and_after_an_agents_death() {
    skip_unless_possible!();
    let docker = match Docker::start() {
        Ok(docker) => docker,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    // Each waits until its pipe is written to: no polling that would count.
    let wait = "mkfifo /go; read x < /go; ";
    let none = format!("{wait} workload syscalls; sleep 1000");
    let work = format!("{wait} workload syscalls --getpid 5000; sleep 1000");
    docker.run_detached("old-none", &[], &none);
    docker.run_detached("old-work", &["--label", "com.docker.compose.project=shop"], &work);
    let config = format!("[foreign]\ndocker_socket = \"{}\"\n", docker.socket().display());
    let mut agent = TestAgent::try_start_with(&config).unwrap();
    docker.run_detached("new-none", &[], &none);
    docker.run_detached("new-work", &[], &work);
    let disk = "workload directio --path /data/file --bytes 8m; sleep 1000";
    docker.run_detached("disk", &[], disk);
    let names = ["old-none", "old-work", "new-none", "new-work", "disk"];
    let is_named = |agent: &TestAgent, name: &str| {
        let image = engines::IMAGE;
        let labels = [("name", name), ("image", image), ("runtime", "docker")];
        agent.metrics().sum("tenantry_container_info", &labels) == Some(1.0)
    };
    until("all have their names", || names.iter().all(|name| is_named(&agent, name)));
    let info = [("name", "old-work"), ("compose_project", "shop")];
    assert_eq!(agent.metrics().sum("tenantry_container_info", &info), Some(1.0));
    for name in &names[..4] {
        docker.go(name);
    }
    let settled = |agent: &TestAgent, name: &str| {
        // The program's end is an event, and its calls are older. New ones made a pipe before.
        let exits = if name.starts_with("new") { 2 } else { 1 };
        let produced = || agent.stats(name)["exits"]["produced"].as_u64();
        until("the work is done", || produced() >= Some(exits));
        std::thread::sleep(patience(1) / 4);
        getpids(agent, name)
    };
    let of = |kind: &str| {
        settled(&agent, &format!("{kind}-work")) - settled(&agent, &format!("{kind}-none"))
    };
    assert_eq!((of("old"), of("new")), (5000.0, 5000.0));
    settled(&agent, "disk");
    let written = [("name", "disk"), ("op", "write")];
    let bytes = || agent.metrics().sum("tenantry_disk_bytes_total", &written);
    until("the disk's bytes are all there", || bytes() == Some(f64::from(8 << 20)));

    let before: Vec<f64> = names.iter().map(|name| getpids(&agent, name)).collect();
    agent.kill_nine();
    agent.spawn().unwrap();
    until("names are back", || names.iter().all(|name| is_named(&agent, name)));
    let after: Vec<f64> = names.iter().map(|name| getpids(&agent, name)).collect();
    assert_eq!(after, before);
    let stats = agent.stats("new-work");
    for kind in ["execs", "exits"] {
        let count = |field: &str| stats[kind][field].as_u64().unwrap();
        assert_eq!(count("produced"), count("delivered") + count("lost"), "{kind}: {stats}");
    }
    docker.remove("new-work");
    until("its series end", || {
        agent.metrics().sum("container_last_seen", &[("name", "new-work")]).is_none()
    });
    drop(docker);
    agent.finish();
}

#[test]
fn a_podman_container_is_metered_under_its_name_and_image() {
    skip_unless_possible!();
    let podman = match Podman::prepare() {
        Ok(podman) => podman,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    let config = format!("[foreign]\nstorages = [\"{}\"]\n", podman.storage().display());
    let agent = TestAgent::try_start_with(&config).unwrap();
    podman.run_detached("none", "workload syscalls; sleep 1000");
    podman.run_detached("work", "workload syscalls --getpid 5000; sleep 1000");
    let image = format!("localhost/{}:latest", engines::IMAGE);
    for name in ["none", "work"] {
        let labels = [("name", name), ("image", image.as_str()), ("runtime", "podman")];
        until("it has its name", || {
            agent.metrics().sum("tenantry_container_info", &labels) == Some(1.0)
        });
        until("the work is done", || agent.stats(name)["exits"]["produced"].as_u64() >= Some(1));
    }
    std::thread::sleep(patience(1) / 4);
    assert_eq!(getpids(&agent, "work") - getpids(&agent, "none"), 5000.0);
    podman.remove("work");
    until("its series end", || view(&agent, "work").is_none());
    drop(podman);
    agent.finish();
}

/// Two containers of another engine, `server` and `client`: 20 connections from one to the
/// other, then 8 MiB written to the client's writable layer.
const SERVER: &str = "workload accept 9000 --count 20 --bytes 500; sleep 1000";
const CLIENT: &str = "mkfifo /go; read x < /go; \
                      workload connections --to 10.77.0.1:9000 --count 20 --bytes 3000; \
                      workload directio --path /data/file --bytes 8m; sleep 1000";

/// What is shown of them is what their namespaces' own counters say, and `du` of the layer.
fn check_network_and_layer(agent: &TestAgent, engine: &dyn Engine) {
    let pids = ["server", "client"].map(|name| (name, engine.pid(name)));
    let [(_, server), (_, client)] = pids;
    netns::connect([(server, "10.77.0.1/24"), (client, "10.77.0.2/24")]);
    until("both have their names", || {
        let info = |name| agent.metrics().sum("tenantry_container_info", &[("name", name)]);
        pids.iter().all(|(name, _)| info(name) == Some(1.0))
    });
    until("the server listens", || netns::listens(server, 9000));
    engine.go("client");
    let value = |series: &str, labels: &[(&str, &str)]| agent.metrics().sum(series, labels);
    until("all were opened and are closed", || {
        let begun = value("tenantry_tcp_connects_begun_total", &[("name", "client")]);
        let open = value("tenantry_tcp_connections", &[]);
        begun == Some(20.0) && open == Some(0.0)
    });
    for (name, pid) in pids {
        let (tcp, ip) = (namespace_counters(pid, "Tcp"), namespace_counters(pid, "IpExt"));
        for (series, witness, expected) in [
            ("connects_begun", "ActiveOpens", if name == "client" { 20.0 } else { 0.0 }),
            ("accepts", "PassiveOpens", if name == "client" { 0.0 } else { 20.0 }),
            ("retransmits", "RetransSegs", tcp["RetransSegs"]),
        ] {
            let shown = value(&format!("tenantry_tcp_{series}_total"), &[("name", name)]);
            assert_eq!((shown, tcp[witness]), (Some(expected), expected), "{name} {series}");
        }
        // Nothing else goes over that cable by now, but a neighbour may be asked for.
        until("the interface's counters are the namespace's", || {
            let families =
                ["receive_bytes", "receive_packets", "transmit_bytes", "transmit_packets"];
            let shown = families.map(|family| {
                let labels = [("name", name), ("interface", "eth0")];
                value(&format!("container_network_{family}_total"), &labels)
            });
            shown == netns::interface(pid, "eth0").map(Some)
        });
        // What reaches sockets: all but what the kernel answers without one, of which each
        // connection has at most its last two acknowledgements.
        for (direction, witness) in [("receive", "InOctets"), ("transmit", "OutOctets")] {
            let series = format!("tenantry_network_{direction}_bytes_total");
            let shown = value(&series, &[("name", name), ("interface", "external")]).unwrap();
            println!("{name} {direction}: {shown} of {} IP bytes", ip[witness]);
            let by_no_socket = ip[witness] - shown;
            assert!((0.0..=20.0 * 2.0 * 52.0).contains(&by_no_socket), "{name} {direction}");
        }
    }
    let metrics = agent.metrics();
    let to_server = [("destination", "10.77.0.1"), ("port", "9000"), ("direction", "outgoing")];
    assert_eq!(destination(&metrics, "client", &to_server), [20.0, 0.0, 60_000.0, 10_000.0]);
    let clients = [("destination", "10.77.0.0/24"), ("port", "9000"), ("direction", "incoming")];
    assert_eq!(destination(&metrics, "server", &clients), [20.0, 0.0, 10_000.0, 60_000.0]);
    let shown = agent.ok(&["connections", "client"]);
    let row = shown.lines().find(|line| line.contains("10.77.0.1")).expect("a row");
    println!("{shown}");
    let cells: Vec<&str> = row.split_whitespace().take(5).collect();
    assert_eq!(cells, ["outgoing", "10.77.0.1", "9000", "20", "0"]);

    let upper = engine.upper("client");
    let du = || {
        let output = Command::new("du").args(["-s", "--block-size=1"]).arg(&upper).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.split_whitespace().next().and_then(|bytes| bytes.parse::<f64>().ok()).unwrap()
    };
    until("the layer is as large as du says", || {
        let shown = value("container_fs_usage_bytes", &[("name", "client")]);
        shown == Some(du()) && du() >= f64::from(8 << 20)
    });
}

/// Walks often, so that a test need not wait for a minute.
const OFTEN: &str = "[meters]\nfs_usage_interval_s = 1\n";

#[test]
fn docker_containers_network_and_writable_layer_are_shown() {
    skip_unless_possible!();
    let docker = match Docker::start() {
        Ok(docker) => docker,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    let socket = docker.socket();
    let config = format!("[foreign]\ndocker_socket = \"{}\"\n{OFTEN}", socket.display());
    let agent = TestAgent::try_start_with(&config).unwrap();
    docker.run_detached("server", &[], SERVER);
    docker.run_detached("client", &[], CLIENT);
    check_network_and_layer(&agent, &docker);
    drop(docker);
    agent.finish();
}

#[test]
fn podman_containers_network_and_writable_layer_are_shown() {
    skip_unless_possible!();
    let podman = match Podman::prepare() {
        Ok(podman) => podman,
        Err(why) => {
            println!("SKIPPED: {why}");
            return;
        }
    };
    let storage = podman.storage();
    let config = format!("[foreign]\nstorages = [\"{}\"]\n{OFTEN}", storage.display());
    let agent = TestAgent::try_start_with(&config).unwrap();
    podman.run_detached("server", SERVER);
    podman.run_detached("client", CLIENT);
    check_network_and_layer(&agent, &podman);
    drop(podman);
    agent.finish();
}
