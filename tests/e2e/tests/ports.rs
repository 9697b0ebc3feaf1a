//! Published ports, by the stock `docker` client: reached from the host by each of its
//! addresses, from other containers, from the container itself and from another machine.

use std::net::{TcpListener, UdpSocket};
use std::process::{Command, Stdio};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::uplink::Uplink;
use tenantry_e2e::{skip_without_docker, until};

const SERVE: &str = "echo here > /data/index.html; exec httpd -f -p 80 -h /data";

#[track_caller]
fn serve(agent: &TestAgent, name: &str, flags: &[&str]) {
    ok(agent, &[&["run", "-d", "--name", name], flags, &[IMAGE, "sh", "-c", SERVE]].concat());
    listens(agent, name);
}

fn listens(agent: &TestAgent, name: &str) {
    until("it serves", || ok(agent, &["exec", name, "netstat", "-ltn"]).contains(":80 "));
}

fn is_here(mut command: Command) -> bool {
    command.stdin(Stdio::null()).output().expect("it runs").stdout == b"here\n"
}

fn host_gets(address: &str) -> bool {
    let mut curl = Command::new("curl");
    curl.args(["-s", "--max-time", "3", &format!("http://{address}/")]);
    is_here(curl)
}

/// By `nc`, as the static `wget` wants the C library's modules for names.
fn container_gets(agent: &TestAgent, from: &str, address: &str) -> bool {
    let address = address.replace(':', " ");
    let get = format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address}");
    docker::output(agent, &["exec", from, "sh", "-c", &get]).stdout.ends_with(b"here\n")
}

/// A port of the host that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

fn rules() -> String {
    let output = Command::new("nft").args(["list", "ruleset"]).output().expect("nft runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_published_port_is_reached_from_everywhere_and_gone_after_the_stop() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["network", "create", "front"]);
    ok(&agent, &["network", "create", "back"]);
    let port = free_port();
    let publish = format!("{port}:80");
    serve(&agent, "web", &["--network", "front", "-p", &publish]);
    let run = |name: &str, network: &str| {
        ok(&agent, &["run", "-d", "--name", name, "--network", network, IMAGE, "sleep", "1000"]);
    };
    run("near", "front");
    run("far", "back");
    run("plain", "bridge");
    let uplink = Uplink::create("tbf rate 100mbit burst 64kb latency 50ms");
    let home = "10.78.0.1";
    assert_eq!(ok(&agent, &["port", "web"]), format!("80/tcp -> 0.0.0.0:{port}"));
    let shown = ok(&agent, &["ps", "--format", "{{.Names}} {{.Ports}}", "--filter", "name=web"]);
    assert_eq!(shown, format!("web 0.0.0.0:{port}->80/tcp"));

    assert!(host_gets(&format!("127.0.0.1:{port}")), "{}\n{}", rules(), agent.log());
    assert!(host_gets(&format!("{home}:{port}")), "by another address of the host");
    for from in ["near", "far", "plain", "web"] {
        assert!(container_gets(&agent, from, &format!("{home}:{port}")), "from {from}");
    }
    let mut outside = Command::new("nsenter");
    let pid = uplink.pid().to_string();
    let url = format!("http://{home}:{port}/");
    outside.args(["-t", &pid, "-n", "curl", "-s", "--max-time", "3", &url]);
    assert!(is_here(outside), "from another machine");
    ok(&agent, &["stop", "-t", "0", "web"]);
    assert!(!host_gets(&format!("127.0.0.1:{port}")));
    assert!(!rules().contains(&format!(". {port} :")), "{}", rules());
    // What the agent starts at that moment may hold a copy of its socket until it executes.
    until("the port is free", || TcpListener::bind(("0.0.0.0", port)).is_ok());
    ok(&agent, &["start", "web"]);
    listens(&agent, "web");
    assert!(host_gets(&format!("127.0.0.1:{port}")));
    drop(uplink);
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front", "back"]);
    agent.finish();
}

#[test]
fn every_form_of_publishing_works() {
    skip_without_docker!();
    let agent = TestAgent::start();
    // On the default network, at one address of the host.
    let port = free_port();
    serve(&agent, "local", &["-p", &format!("127.0.0.1:{port}:80")]);
    assert!(host_gets(&format!("127.0.0.1:{port}")));
    assert!(!host_gets(&format!("{}:{port}", agent.gateway_of("local"))));
    assert_eq!(ok(&agent, &["port", "local", "80"]), format!("127.0.0.1:{port}"));

    // Any port of the host; all that is exposed; the image's own ports, too.
    ok(&agent, &["commit", "--change", "EXPOSE 80", "local", "exposing"]);
    serve(&agent, "any", &["-p", "80"]);
    let any = ok(&agent, &["port", "any", "80"]);
    assert!(host_gets(&any.replace("0.0.0.0", "127.0.0.1")), "{any}");
    let run = ["run", "-d", "--name", "all", "-P", "--expose", "99/udp", "exposing", "sh", "-c"];
    ok(&agent, &[&run[..], &[SERVE]].concat());
    listens(&agent, "all");
    let all = ok(&agent, &["port", "all"]);
    assert!(all.contains("80/tcp -> ") && all.contains("99/udp -> "), "{all}");
    let tcp = ok(&agent, &["port", "all", "80"]);
    assert!(host_gets(&tcp.replace("0.0.0.0", "127.0.0.1")), "{tcp}");

    // A range of the host's ports for one of the container's: the first that is free.
    let first = (free_port() / 2).max(20_000);
    let taken = TcpListener::bind(("0.0.0.0", first)).expect("a port is free");
    serve(&agent, "range", &["-p", &format!("{first}-{}:80", first + 20)]);
    let chosen = ok(&agent, &["port", "range", "80"]);
    let number: u16 = chosen.rsplit(':').next().expect("a port").parse().expect("a number");
    assert!(number > first && number <= first + 20, "{chosen}");
    assert!(host_gets(&format!("127.0.0.1:{number}")));
    drop(taken);

    // Datagrams.
    let sink = ["-p", "127.0.0.1::9000/udp", IMAGE, "workload", "sink", "9000", "--count", "3"];
    ok(&agent, &[&["run", "-d", "--name", "sink"][..], &sink].concat());
    until("it listens", || ok(&agent, &["logs", "sink"]).contains("listening"));
    let to = ok(&agent, &["port", "sink", "9000/udp"]);
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    for _ in 0..3 {
        socket.send_to(b"hello", &to).expect("sent");
    }
    until("they arrived", || ok(&agent, &["logs", "sink"]).contains("\"received_datagrams\":3"));
    // Our own client.
    agent.run_detached("own", &["-p", "80"], &["sleep", "1000"]).expect("it runs");
    assert!(ok(&agent, &["port", "own"]).contains("80/tcp -> 0.0.0.0:"));
    agent.finish();
}

#[test]
fn a_port_that_is_taken_is_said_so_and_nothing_is_half_made() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let stranger = TcpListener::bind("0.0.0.0:0").expect("a port is free");
    let port = stranger.local_addr().expect("it is bound").port();
    let (free, publish) = (free_port(), format!("{port}:80"));
    let both = ["run", "-d", "--name", "late", "-p", &format!("{free}:81"), "-p", &publish];
    let refused = fails(&agent, &[&both[..], &[IMAGE, "sleep", "1000"]].concat());
    assert!(refused.contains("address already in use"), "{refused}");
    assert!(!rules().contains(&format!(". {free} :")), "{}", rules());
    TcpListener::bind(("0.0.0.0", free)).expect("the other port is free again");
    assert_eq!(agent.state("late"), "created");
    drop(stranger);
    ok(&agent, &["start", "late"]);

    let twin = ["run", "-d", "-p", &publish, IMAGE, "sleep", "1000"];
    let refused = fails(&agent, &twin);
    let words = format!("Bind for 0.0.0.0:{port} failed: port is already allocated");
    assert!(refused.contains(&words), "{refused}");
    let narrow = ["run", "-d", "-p", &format!("127.0.0.1:{port}:80"), IMAGE, "sleep", "1000"];
    assert!(fails(&agent, &narrow).contains("port is already allocated"));
    let nowhere = ["run", "-d", "-p", "192.0.2.1:8080:80", IMAGE, "true"];
    let refused = fails(&agent, &nowhere);
    assert!(refused.contains("this host has no such address"), "{refused}");
    agent.finish();
}

#[test]
fn the_next_agent_goes_on_and_a_container_that_changes_networks_keeps_its_ports() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    ok(&agent, &["network", "create", "one"]);
    ok(&agent, &["network", "create", "two"]);
    let port = free_port();
    serve(&agent, "web", &["--network", "one", "-p", &format!("{port}:80")]);
    agent.kill_nine();
    assert!(host_gets(&format!("127.0.0.1:{port}")), "without an agent");
    agent.spawn().expect("it starts again");
    assert!(host_gets(&format!("127.0.0.1:{port}")), "with the next");
    TcpListener::bind(("0.0.0.0", port)).expect_err("it is held again");
    let twin = ["run", "-d", "-p", &format!("{port}:80"), IMAGE, "true"];
    assert!(fails(&agent, &twin).contains("port is already allocated"));

    ok(&agent, &["network", "connect", "two", "web"]);
    ok(&agent, &["network", "disconnect", "one", "web"]);
    assert!(host_gets(&format!("127.0.0.1:{port}")), "over the other network");
    ok(&agent, &["rm", "-f", "web"]);
    TcpListener::bind(("0.0.0.0", port)).expect("the port is free again");
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "one", "two"]);
    agent.finish();
}

#[test]
fn ports_that_lead_nowhere_are_warned_of_and_not_taken() {
    skip_without_docker!();
    let agent = TestAgent::start();
    ok(&agent, &["network", "create", "--internal", "vault"]);
    let port = free_port();
    let publish = format!("{port}:80");
    let run = ["run", "-d", "--name", "box", "--network", "vault", "-p", &publish];
    let output = docker::output(&agent, &[&run[..], &[IMAGE, "sleep", "1000"]].concat());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("WARNING: Published ports"), "{said}");
    TcpListener::bind(("0.0.0.0", port)).expect("the port is free");
    // Another network leads out: from then on the port leads in.
    ok(&agent, &["network", "create", "front"]);
    ok(&agent, &["network", "connect", "front", "box"]);
    TcpListener::bind(("0.0.0.0", port)).expect_err("the port is the container's");
    let own = ["run", "--rm", "--network", "host", "-p", &publish, IMAGE, "true"];
    let output = agent.output(&own);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("WARNING: Published ports are discarded when using host"), "{said}");
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "vault", "front"]);
    agent.finish();
}

#[test]
fn a_stream_of_datagrams_finds_the_container_that_has_the_port_now() {
    skip_without_docker!();
    let agent = TestAgent::start();
    // One socket, so one stream to the kernel, which says something all the time.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = free_port();
    let to = format!("127.0.0.1:{port}");
    let arrives = |name: &str| {
        // Nobody may be there: the host says so by an error of the next sending.
        let _ = socket.send_to(b"hello", &to);
        ok(&agent, &["logs", name]).contains("\"received_datagrams\":3")
    };
    let _ = socket.send_to(b"nobody is there yet", &to);
    let publish = format!("{port}:9000/udp");
    let sink = ["-p", &publish, IMAGE, "workload", "sink", "9000", "--count", "3"];
    ok(&agent, &[&["run", "-d", "--name", "first"][..], &sink].concat());
    until("they arrive", || arrives("first"));
    ok(&agent, &["wait", "first"]);
    // The next one has another address; the stream goes on as before.
    let other = agent.run_detached("beside", &[], &["sleep", "1000"]);
    other.expect("it takes the next address");
    let _ = socket.send_to(b"nobody is there now", &to);
    ok(&agent, &[&["run", "-d", "--name", "second"][..], &sink].concat());
    until("they arrive", || arrives("second"));
    agent.finish();
}

#[test]
fn with_ipv6_a_container_has_addresses_names_and_ports_of_both_families() {
    skip_without_docker!();
    let agent = TestAgent::start();
    // Of the documentation's space, so that no host has it.
    let six = ["--ipv6", "--subnet", "2001:db8:77::/64"];
    ok(&agent, &[&["network", "create"], &six[..], &["front"]].concat());
    ok(&agent, &["network", "create", "--ipv6", "drawn"]);
    let show = |format: &str, name: &str| ok(&agent, &["network", "inspect", "-f", format, name]);
    let pools = show("{{.EnableIPv6}} {{(index .IPAM.Config 1).Subnet}}", "front");
    assert_eq!(pools, "true 2001:db8:77::/64");
    assert!(show("{{(index .IPAM.Config 1).Subnet}}", "drawn").starts_with("fd"));
    let port = free_port();
    let publish = format!("{port}:80");
    serve(&agent, "web", &["--network", "front", "--ip6", "2001:db8:77::80", "-p", &publish]);
    let run = |name: &str, network: &str| {
        ok(&agent, &["run", "-d", "--name", name, "--network", network, IMAGE, "sleep", "1000"]);
    };
    run("near", "front");
    run("far", "drawn");
    let format = "{{.NetworkSettings.Networks.front.GlobalIPv6Address}}";
    assert_eq!(ok(&agent, &["inspect", "-f", format, "web"]), "2001:db8:77::80");
    let ports = ok(&agent, &["port", "web"]);
    assert_eq!(ports, format!("80/tcp -> 0.0.0.0:{port}\n80/tcp -> [::]:{port}"));
    let shown = ok(&agent, &["ps", "--format", "{{.Ports}}", "--filter", "name=web"]);
    assert!(shown.contains(&format!("[::]:{port}->80/tcp")), "{shown}");

    let gets = |from: &str, address: &str, port: u16| {
        let get =
            format!("printf 'GET /index.html HTTP/1.0\\r\\n\\r\\n' | nc -w 2 {address} {port}");
        docker::output(&agent, &["exec", from, "sh", "-c", &get]).stdout.ends_with(b"here\n")
    };
    let home = "2001:db8:77::1";
    assert!(gets("near", "2001:db8:77::80", 80), "{}", agent.log());
    assert!(!gets("far", "2001:db8:77::80", 80), "networks are apart");
    for from in ["near", "far", "web"] {
        assert!(gets(from, home, port), "from {from}: {}", rules());
    }
    let mut curl = Command::new("curl");
    curl.args(["-s", "-g", "--max-time", "3", &format!("http://[{home}]:{port}/")]);
    assert!(is_here(curl), "{}", rules());
    assert!(
        host_gets(&format!("localhost:{port}")),
        "::1 refuses at once, 127.0.0.1 is asked then"
    );
    let found = ok(&agent, &["exec", "near", "nslookup", "web"]);
    assert!(found.contains("2001:db8:77::80"), "{found}");
    let hosts = ok(&agent, &["exec", "web", "cat", "/etc/hosts"]);
    assert!(hosts.contains("2001:db8:77::80\t"), "{hosts}");

    // What cannot be had is said in one sentence, and nothing is left.
    let run = |flags: &[&str]| fails(&agent, &[&["run", "-d"], flags, &[IMAGE, "true"]].concat());
    let taken = run(&["--network", "front", "--ip6", "2001:db8:77::80"]);
    assert!(taken.contains("address 2001:db8:77::80 is taken"), "{taken}");
    let loopback = run(&["--network", "front", "-p", "[::1]:80:80"]);
    assert!(loopback.contains("HostIp") && loopback.contains("127.0.0.1"), "{loopback}");
    let none = run(&["-p", "[::]:80:80"]);
    assert!(none.contains("network bridge has no IPv6"), "{none}");
    let overlap = fails(&agent, &[&["network", "create"], &six[..], &["twice"]].concat());
    assert!(overlap.contains("Pool overlaps"), "{overlap}");
    ok(&agent, &["rm", "-f", "web"]);
    TcpListener::bind(("::", port)).expect("the port is free again");
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front", "drawn"]);
    assert!(!rules().contains("2001:db8:77::"), "{}", rules());
    agent.finish();
}
