//! Networks that users make, by the stock `docker` client: what is reachable from where is
//! tried from inside of containers and from the host.

use std::process::{Command, Stdio};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::{skip_without_docker, until};

const SERVE: &str = "echo here > /data/index.html; exec httpd -f -p 80 -h /data";

/// A container that serves `here` over HTTP at port 80.
#[track_caller]
fn serve(agent: &TestAgent, name: &str, flags: &[&str]) {
    ok(agent, &[&["run", "-d", "--name", name], flags, &[IMAGE, "sh", "-c", SERVE]].concat());
    until("it serves", || ok(agent, &["exec", name, "netstat", "-ltn"]).contains(":80 "));
}

/// Whether `from` gets an answer from port 80 of that address. By `nc`, as the static
/// `wget` wants the C library's modules for names.
fn reaches(agent: &TestAgent, from: &str, address: &str) -> bool {
    answers_within(agent, from, address, 3)
}

/// As [`reaches`], for where nothing is to come and each second is waited for in vain.
fn is_cut_off(agent: &TestAgent, from: &str, address: &str) -> bool {
    !answers_within(agent, from, address, 1)
}

fn answers_within(agent: &TestAgent, from: &str, address: &str, seconds: u8) -> bool {
    let get =
        format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w {seconds} {address} 80");
    docker::output(agent, &["exec", from, "sh", "-c", &get]).stdout.ends_with(b"here\n")
}

fn host_reaches(address: &str) -> bool {
    let url = format!("http://{address}/");
    let curl = Command::new("curl").args(["-s", "--max-time", "2", &url]).output();
    curl.expect("curl runs").stdout == b"here\n"
}

fn address_on(agent: &TestAgent, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    ok(agent, &["inspect", "--format", &format, container])
}

fn network(agent: &TestAgent, name: &str) -> Value {
    let text = ok(agent, &["network", "inspect", name]);
    let mut list: Value = serde_json::from_str(&text).expect("JSON");
    list[0].take()
}

fn rules() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).stdin(Stdio::null()).output();
    String::from_utf8_lossy(&output.expect("nft runs").stdout).into_owned()
}

fn links() -> String {
    let output = Command::new("ip").args(["-o", "link"]).output();
    String::from_utf8_lossy(&output.expect("ip runs").stdout).into_owned()
}

#[test]
fn a_network_is_made_listed_inspected_kept_and_removed_without_a_trace() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let names = || ok(&agent, &["network", "ls", "--format", "{{.Name}}"]);
    let mut listed: Vec<String> = names().lines().map(str::to_owned).collect();
    listed.sort();
    assert_eq!(listed, ["bridge", "host", "none"]);
    let before = rules();
    let create = ["network", "create", "--label", "tier=front", "--subnet", "10.199.7.0/24"];
    let more = ["--gateway", "10.199.7.9", "--ip-range", "10.199.7.64/26", "web"];
    let id = ok(&agent, &[&create[..], &more].concat());
    assert!(id.len() == 64 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let view = network(&agent, "web");
    assert_eq!((&view["Id"], &view["Driver"]), (&id.as_str().into(), &"bridge".into()));
    let pool = &view["IPAM"]["Config"][0];
    assert_eq!(pool["Subnet"], "10.199.7.0/24");
    assert_eq!(
        (&pool["Gateway"], &pool["IPRange"]),
        (&"10.199.7.9".into(), &"10.199.7.64/26".into())
    );
    assert_eq!(view["Labels"]["tier"], "front");
    // By the beginning of its id as well, and by its label.
    assert_eq!(network(&agent, &id[..12])["Name"], "web");
    let filtered = ["network", "ls", "-q", "--no-trunc", "--filter", "label=tier=front"];
    assert_eq!(ok(&agent, &filtered), id);
    assert_eq!(ok(&agent, &["network", "ls", "-q", "--filter", "label=tier=back"]), "");
    let bridge = format!("tn-{}", &id[..12]);
    assert!(links().contains(&bridge) && rules().contains(&bridge));

    // Addresses come from the range, and the gateway is the bridge's own.
    ok(&agent, &["run", "-d", "--name", "one", "--network", "web", IMAGE, "sleep", "1000"]);
    assert_eq!(address_on(&agent, "one", "web"), "10.199.7.64");
    let route = ok(&agent, &["exec", "one", "ip", "route"]);
    assert!(route.contains("default via 10.199.7.9 dev eth0"), "{route}");
    let refused = fails(&agent, &["network", "rm", "web"]);
    assert!(refused.contains("has active endpoints"), "{refused}");

    // Another agent knows it, and everybody on it.
    agent.kill_nine();
    agent.spawn().expect("it starts again");
    assert_eq!(network(&agent, "web")["Id"], id.as_str());
    let on_it = network(&agent, "web")["Containers"].clone();
    assert_eq!(on_it.as_object().expect("an object").len(), 1, "{on_it}");
    ok(&agent, &["run", "-d", "--name", "two", "--network", "web", IMAGE, "sleep", "1000"]);
    assert_eq!(address_on(&agent, "two", "web"), "10.199.7.65");

    ok(&agent, &["rm", "-f", "one", "two"]);
    ok(&agent, &["network", "rm", "web"]);
    assert!(!links().contains(&bridge), "{}", links());
    assert_eq!(rules(), before, "the rules are as they were");
    let unknown = fails(&agent, &["network", "inspect", "web"]);
    assert!(unknown.contains("network web not found"), "{unknown}");
    agent.finish();
}

#[test]
fn containers_of_one_network_reach_each_other_and_those_of_others_do_not() {
    skip_without_docker!();
    let agent = TestAgent::start();
    for name in ["left", "right"] {
        ok(&agent, &["network", "create", name]);
    }
    ok(&agent, &["network", "create", "--internal", "vault"]);
    serve(&agent, "server", &["--network", "left"]);
    serve(&agent, "plain", &[]);
    serve(&agent, "hidden", &["--network", "vault"]);
    let sleep = |name: &str, network: &str| {
        ok(&agent, &["run", "-d", "--name", name, "--network", network, IMAGE, "sleep", "1000"]);
    };
    sleep("near", "left");
    sleep("far", "right");
    sleep("guard", "vault");
    let server = address_on(&agent, "server", "left");
    let plain = address_on(&agent, "plain", "bridge");
    let hidden = address_on(&agent, "hidden", "vault");
    assert!(reaches(&agent, "near", &server), "{}", agent.log());
    assert!(host_reaches(&server), "the host is on every network");
    assert!(is_cut_off(&agent, "far", &server) && is_cut_off(&agent, "plain", &server));
    assert!(is_cut_off(&agent, "near", &plain), "not even into the default network");
    assert!(reaches(&agent, "guard", &hidden));
    assert!(is_cut_off(&agent, "near", &hidden) && is_cut_off(&agent, "guard", &server));
    // No way leads out of an internal network.
    assert!(!ok(&agent, &["exec", "guard", "ip", "route"]).contains("default"));

    // Connected while it runs, it reaches both; disconnected again, it does not.
    ok(&agent, &["network", "connect", "left", "far"]);
    let addresses = ok(&agent, &["exec", "far", "ip", "-o", "addr"]);
    assert!(addresses.contains("eth1"), "{addresses}");
    assert!(reaches(&agent, "far", &server));
    let again = fails(&agent, &["network", "connect", "left", "far"]);
    assert!(again.contains("already exists in network left"), "{again}");
    ok(&agent, &["network", "disconnect", "left", "far"]);
    assert!(!ok(&agent, &["exec", "far", "ip", "-o", "addr"]).contains("eth1"));
    assert!(is_cut_off(&agent, "far", &server));
    let again = fails(&agent, &["network", "disconnect", "left", "far"]);
    assert!(again.contains("is not connected to network left"), "{again}");

    // The way out moves on with the first network's end.
    ok(&agent, &["network", "connect", "left", "far"]);
    ok(&agent, &["network", "disconnect", "right", "far"]);
    let route = ok(&agent, &["exec", "far", "ip", "route"]);
    assert!(route.contains("default via") && route.contains("dev eth1"), "{route}");
    assert!(reaches(&agent, "far", &server));
    // And holds for the next start.
    ok(&agent, &["restart", "-t", "0", "far"]);
    assert!(reaches(&agent, "far", &server));

    let pruned = ok(&agent, &["network", "prune", "-f"]);
    assert!(pruned.contains("right") && !pruned.contains("left"), "{pruned}");
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "left", "vault"]);
    agent.finish();
}

#[test]
fn on_no_network_there_is_still_the_container_itself() {
    skip_without_docker!();
    let agent = TestAgent::start();
    serve(&agent, "off", &[]);
    serve(&agent, "none", &["--network", "none"]);
    ok(&agent, &["network", "disconnect", "bridge", "off"]);
    for name in ["off", "none"] {
        let addresses = ok(&agent, &["exec", name, "ip", "-o", "addr"]);
        assert!(addresses.contains("127.0.0.1/8") && !addresses.contains("eth0"), "{addresses}");
        assert!(reaches(&agent, name, "127.0.0.1"), "{name}");
    }
    ok(&agent, &["restart", "-t", "0", "off"]);
    until("it serves", || ok(&agent, &["exec", "off", "netstat", "-ltn"]).contains(":80 "));
    assert!(reaches(&agent, "off", "127.0.0.1"), "after its next start");
    agent.finish();
}

#[test]
fn a_container_has_the_network_of_another_one() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["network", "create", "front"]);
    serve(&agent, "web", &["--network", "front"]);
    let sharing = |name: &'static str, flags: &[&'static str]| {
        let run = ["run", "-d", "--name", name, "--network", "container:web"];
        [&run[..], flags, &[IMAGE, "sleep", "1000"]].concat()
    };
    ok(&agent, &sharing("side", &[]));
    assert!(reaches(&agent, "side", "127.0.0.1"), "{}", agent.log());
    let namespace = |name: &str| {
        let path = format!("/proc/{}/ns/net", agent.pid_of(name));
        std::fs::read_link(path).expect("it runs")
    };
    assert_eq!(namespace("side"), namespace("web"));
    for file in ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"] {
        let read = |name: &str| ok(&agent, &["exec", name, "cat", file]);
        assert_eq!(read("side"), read("web"), "{file}");
    }
    assert_eq!(ok(&agent, &["exec", "side", "hostname"]), ok(&agent, &["exec", "web", "hostname"]));
    let address = address_on(&agent, "web", "front");
    assert!(ok(&agent, &["exec", "side", "ip", "-o", "addr"]).contains(&address));
    let id = ok(&agent, &["inspect", "--format", "{{.Id}}", "web"]);
    let mode = ok(&agent, &["inspect", "--format", "{{.HostConfig.NetworkMode}}", "side"]);
    assert_eq!(mode, format!("container:{id}"));
    // What is borrowed is lent on.
    let third = ["run", "--rm", "--network", "container:side", IMAGE, "ip", "-o", "addr"];
    assert!(ok(&agent, &third).contains(&address));
    // The interface's bytes are shown once, at whose it is.
    let metrics = agent.metrics();
    let received =
        |name: &str| metrics.sum("container_network_receive_bytes_total", &[("name", name)]);
    assert!(received("web").is_some() && received("side").is_none());

    let check = |arguments: &[&str], words: &str| {
        let refused = fails(&agent, arguments);
        assert!(refused.contains(words), "docker {}: {refused}", arguments.join(" "));
    };
    check(&sharing("wrong", &["-p", "80"]), "ports");
    check(&sharing("wrong", &["--hostname", "own"]), "hostname");
    check(&sharing("wrong", &["--label", "tenantry.egress=1mbit"]), "bandwidth");
    check(&["network", "connect", "bridge", "side"], "cannot be connected to any other network");
    let nobody = ["create", "--network", "container:nobody", IMAGE, "true"];
    check(&nobody, "a container that exists");
    assert_eq!(ok(&agent, &["ps", "-a", "-q"]).lines().count(), 2);

    // When the lender ends, who borrowed goes on; nobody can borrow any more.
    ok(&agent, &["stop", "-t", "0", "web"]);
    assert_eq!(agent.state("side"), "running");
    check(&sharing("late", &[]), "cannot join network of a non running container");
    ok(&agent, &["start", "web"]);
    assert_ne!(namespace("side"), namespace("web"), "the former one until it starts again");
    ok(&agent, &["restart", "-t", "0", "side"]);
    ok(&agent, &["start", "late"]);
    assert_eq!(namespace("side"), namespace("web"));
    assert_eq!(namespace("late"), namespace("web"));
    ok(&agent, &["rm", "-f", "late", "side", "web"]);
    ok(&agent, &["network", "rm", "front"]);
    agent.finish();
}

#[test]
fn bandwidth_is_limited_on_a_network_that_a_user_made() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["network", "create", "slow"]);
    let label = ["--label", "tenantry.egress=8mbit"];
    let run = ["run", "-d", "--name", "box", "--network", "slow"];
    ok(&agent, &[&run[..], &label, &[IMAGE, "sleep", "1000"]].concat());
    let link = agent.native("box")["host_interface"].as_str().expect("a link").to_owned();
    let shown = Command::new("tc").args(["qdisc", "show"]).output().expect("tc runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let ifb = format!("ifb{}", link.trim_start_matches("veth"));
    let of_ifb = shown.lines().find(|line| line.contains("tbf") && line.contains(&ifb));
    assert!(of_ifb.is_some_and(|line| line.contains("rate 8Mbit")), "{shown}");
    agent.ok(&["limit", "box", "--egress", "4mbit"]);
    let shown = Command::new("tc").args(["qdisc", "show"]).output().expect("tc runs");
    assert!(String::from_utf8_lossy(&shown.stdout).contains("rate 4Mbit"));
    ok(&agent, &["rm", "-f", "box"]);
    ok(&agent, &["network", "rm", "slow"]);
    agent.finish();
}

#[test]
fn wrong_requests_are_refused_in_dockers_words_and_leave_nothing() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let check = |arguments: &[&str], words: &str| {
        let refused = fails(&agent, arguments);
        assert!(refused.contains(words), "docker {}: {refused}", arguments.join(" "));
    };
    let create = |more: &[&'static str]| [&["network", "create"][..], more].concat();
    ok(&agent, &create(&["--subnet", "10.199.8.0/30", "tiny"]));
    check(&create(&["tiny"]), "network with name tiny already exists");
    check(&create(&["--subnet", "10.199.8.0/24", "twin"]), "Pool overlaps with other one");
    check(&create(&["--subnet", "127.0.0.0/8", "twin"]), "Pool overlaps with other one");
    check(&create(&["--subnet", "10.199.9.1/24", "odd"]), "IPAM.Config.Subnet");
    check(&create(&["--driver", "overlay", "odd"]), "Driver");
    check(&create(&["--opt", "com.docker.network.driver.mtu=x", "odd"]), "driver.mtu");
    check(&create(&["--opt", "com.docker.network.driver.mtu=67", "odd"]), "mtu");
    check(&create(&["--subnet", "2001:db8:7::/64", "odd"]), "EnableIPv6");
    check(&create(&["--subnet", "10.199.9.0/24", "--gateway", "10.1.1.1", "odd"]), "gateway");
    check(&["network", "rm", "bridge"], "pre-defined network");
    check(&["network", "rm", "nobody"], "network nobody not found");
    let names = ok(&agent, &["network", "ls", "--format", "{{.Name}}"]);
    assert!(!names.contains("twin") && !names.contains("odd"), "{names}");

    // Out of addresses: the second of them does not start, and holds nothing.
    let run = |name: &'static str, more: &[&'static str]| {
        [&["run", "-d", "--name", name][..], more, &[IMAGE, "sleep", "1000"]].concat()
    };
    ok(&agent, &run("first", &["--network", "tiny"]));
    check(&run("second", &["--network", "tiny"]), "no free address in 10.199.8.0/30");
    ok(&agent, &["rm", "-f", "first"]);
    ok(&agent, &["start", "second"]);
    ok(&agent, &["rm", "-f", "second"]);

    check(
        &run("third", &["--ip", "10.0.0.9"]),
        "user specified IP address is supported on user defined",
    );
    check(&run("fourth", &["--network", "tiny", "--ip", "10.1.1.1"]), "is not one a container in");
    check(&run("fifth", &["--network", "nobody"]), "network nobody not found");
    ok(&agent, &run("sixth", &["--network", "host"]));
    check(&["network", "connect", "tiny", "sixth"], "--network host or none");

    // Removed under a container that rests: its start says so.
    ok(&agent, &["create", "--name", "late", "--network", "tiny", IMAGE, "true"]);
    ok(&agent, &["network", "rm", "tiny"]);
    check(&["start", "late"], "network tiny not found");
    // Taken off it, it starts, with nothing but itself to talk to.
    ok(&agent, &["network", "disconnect", "tiny", "late"]);
    check(&["network", "disconnect", "tiny", "late"], "network tiny not found");
    ok(&agent, &["start", "late"]);
    agent.finish();
}

#[test]
fn a_fixed_address_and_events_are_told() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let mut events = docker::command(
        &agent,
        &[
            "events",
            "--filter",
            "type=network",
            "--format",
            "{{.Action}} {{.Actor.Attributes.name}}",
        ],
    )
    .stdout(Stdio::piped())
    .spawn()
    .expect("docker runs");
    // The subscription must be there before the first thing happens.
    std::thread::sleep(std::time::Duration::from_millis(500));
    ok(&agent, &["network", "create", "--subnet", "10.199.11.0/24", "fixed"]);
    let flags = ["--network", "fixed", "--ip", "10.199.11.77", "--network-alias", "db"];
    ok(&agent, &[&["run", "-d", "--name", "box"][..], &flags, &[IMAGE, "sleep", "1000"]].concat());
    assert_eq!(address_on(&agent, "box", "fixed"), "10.199.11.77");
    let seen = ok(&agent, &["exec", "box", "ip", "-o", "addr"]);
    assert!(seen.contains("10.199.11.77/24"), "{seen}");
    let twin = ["run", "-d", "--network", "fixed", "--ip", "10.199.11.77", IMAGE, "true"];
    let refused = fails(&agent, &twin);
    assert!(refused.contains("address 10.199.11.77 is taken"), "{refused}");
    let view: Value = serde_json::from_str(&ok(&agent, &["inspect", "box"])).expect("JSON");
    let on = &view[0]["NetworkSettings"]["Networks"]["fixed"];
    assert_eq!(on["Aliases"][0], "db");
    assert_eq!(on["NetworkID"], network(&agent, "fixed")["Id"]);
    ok(&agent, &["restart", "-t", "0", "box"]);
    assert_eq!(address_on(&agent, "box", "fixed"), "10.199.11.77");
    ok(&agent, &["rm", "-f", "box"]);
    ok(&agent, &["network", "rm", "fixed"]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    events.kill().expect("it is ended");
    let told = events.wait_with_output().expect("it ends").stdout;
    let told = String::from_utf8_lossy(&told).into_owned();
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told.first(), Some(&"create fixed"), "{told:?}");
    assert_eq!(told.last(), Some(&"destroy fixed"), "{told:?}");
    assert!(told.contains(&"connect fixed") && told.contains(&"disconnect fixed"), "{told:?}");
    agent.finish();
}

#[test]
fn our_own_client_makes_networks_too() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let id = agent.ok(&["network", "create", "--subnet", "10.199.12.0/24", "own"]);
    assert_eq!(network(&agent, "own")["Id"], id.trim());
    assert!(agent.ok(&["network", "ls"]).contains("10.199.12.0/24"));
    let flags = ["--network", "own", "--ip", "10.199.12.9", "--network-alias", "a"];
    agent.run_detached("box", &flags, &["sleep", "1000"]).expect("it runs");
    assert_eq!(agent.address("box"), "10.199.12.9");
    agent.ok(&["network", "create", "more"]);
    agent.ok(&["network", "connect", "more", "box"]);
    assert!(!address_on(&agent, "box", "more").is_empty());
    agent.ok(&["network", "disconnect", "more", "box"]);
    assert!(agent.ok(&["network", "prune"]).contains("more"));
    let (_, error) = agent.fails(&["network", "rm", "own"]);
    assert!(error.contains("has active endpoints"), "{error}");
    agent.ok(&["rm", "-f", "box"]);
    let both = ["--subnet", "10.199.13.0/24", "--ipv6", "--subnet", "2001:db8:13::/64"];
    agent.ok(&[&["network", "create"], &both[..], &["six"]].concat());
    assert!(agent.ok(&["network", "ls"]).contains("10.199.13.0/24,2001:db8:13::/64"));
    let flags = ["--network", "six", "--ip6", "2001:db8:13::9", "--link", "other:mate"];
    agent.run_detached("box", &flags, &["sleep", "1000"]).expect("it runs");
    let box_on_six = &agent.inspect("box")["NetworkSettings"]["Networks"]["six"];
    assert_eq!(box_on_six["GlobalIPv6Address"], "2001:db8:13::9");
    assert_eq!(box_on_six["Links"][0], "other:mate");
    agent.ok(&["rm", "-f", "box"]);
    agent.ok(&["network", "rm", "own"]);
    agent.ok(&["network", "rm", "six"]);
    agent.finish();
}
