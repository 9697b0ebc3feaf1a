//! Names of containers on networks that users make: asked by busybox's `nslookup` inside, and
//! by a plain socket in the container's namespace; what is not ours goes to a name server of
//! the test's own.

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::name_server::NameServer;
use tenantry_e2e::{skip_without_docker, until};

/// What one container asks instead of that.
const OWN_UPSTREAM: &str = "127.0.0.78";
/// The forwarder's own address: of the host's loopback, which no container reaches.
const UPSTREAM: &str = "127.0.0.77";

fn start() -> TestAgent {
    let mut agent = TestAgent::prepare().expect("a directory");
    let network = format!("[network]\nbridge = \"{}\"\ndns = [\"{UPSTREAM}\"]\n", agent.bridge);
    std::fs::write(agent.scratch.join("agent.toml"), network).expect("written");
    agent.spawn_with_image().expect("the agent starts");
    agent
}

fn run(agent: &TestAgent, name: &str, flags: &[&str]) {
    let all = [&["run", "-d", "--name", name], flags, &[IMAGE, "sleep", "1000"]].concat();
    ok(agent, &all);
}

/// What `nslookup` prints, whether or not it finds something.
fn lookup(agent: &TestAgent, from: &str, words: &[&str]) -> String {
    let output = docker::output(agent, &[&["exec", from, "nslookup"], words].concat());
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn address_on(agent: &TestAgent, container: &str, network: &str) -> String {
    let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
    ok(agent, &["inspect", "--format", &format, container])
}

/// A plain question for an address, over TCP, from within the container's namespace.
fn over_tcp(agent: &TestAgent, from: &str, name: &str) -> Vec<u8> {
    let mut question = vec![0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(label.len() as u8);
        question.extend(label.bytes());
    }
    question.extend([0, 0, 1, 0, 1]);
    let pid = agent.pid_of(from).to_string();
    let mut nc = Command::new("nsenter")
        .args(["-t", &pid, "-n", "busybox", "nc", "-w", "5", "127.0.0.11", "53"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs");
    let mut stdin = nc.stdin.take().expect("a pipe");
    stdin.write_all(&(question.len() as u16).to_be_bytes()).expect("asked");
    stdin.write_all(&question).expect("asked");
    let mut stdout = nc.stdout.take().expect("a pipe");
    let mut length = [0; 2];
    stdout.read_exact(&mut length).expect("answered");
    let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
    stdout.read_exact(&mut answer).expect("answered");
    let _ = nc.kill();
    let _ = nc.wait();
    answer
}

#[test]
fn containers_find_each_other_by_name_alias_and_id_on_their_networks() {
    skip_without_docker!();
    let mut agent = start();
    let _upstream = NameServer::start(UPSTREAM).expect("port 53 of that address is free");
    ok(&agent, &["network", "create", "front"]);
    ok(&agent, &["network", "create", "back"]);
    run(&agent, "web", &["--network", "front", "--network-alias", "www", "--network-alias", "all"]);
    run(&agent, "api", &["--network", "front", "--network-alias", "all"]);
    run(&agent, "db", &["--network", "back"]);
    run(&agent, "linked", &["--network", "front", "--link", "web:site"]);
    run(&agent, "plain", &[]);
    let resolv = ok(&agent, &["exec", "api", "cat", "/etc/resolv.conf"]);
    assert!(resolv.starts_with("nameserver 127.0.0.11\n"), "{resolv}");
    let web = address_on(&agent, "web", "front");
    let api = address_on(&agent, "api", "front");
    let id = ok(&agent, &["inspect", "--format", "{{.Id}}", "web"]);
    for name in ["web", "WEB", "www", "web.front", &id[..12]] {
        let found = lookup(&agent, "api", &[name]);
        assert!(found.contains(&web), "{name}: {found}{}", agent.log());
    }
    assert!(lookup(&agent, "linked", &["site"]).contains(&web), "{}", agent.log());
    assert!(!lookup(&agent, "api", &["site"]).contains(&web), "a link is one container's own");
    let both = lookup(&agent, "api", &["all"]);
    assert!(both.contains(&web) && both.contains(&api), "{both}");
    let pointer = lookup(&agent, "api", &[&web]);
    assert!(pointer.contains("web.front"), "{pointer}");
    let answer = over_tcp(&agent, "api", "web");
    let octets = web.parse::<std::net::Ipv4Addr>().expect("an address").octets();
    assert!(answer.windows(4).any(|window| window == octets), "{answer:?}");

    // Nobody of another network, nor of the default one, is known, nor knows.
    let db = address_on(&agent, "db", "back");
    assert!(!lookup(&agent, "api", &["db"]).contains(&db));
    let resolv = ok(&agent, &["exec", "plain", "cat", "/etc/resolv.conf"]);
    assert!(!resolv.contains("127.0.0.11"), "{resolv}");

    // As it comes and goes.
    ok(&agent, &["network", "connect", "--alias", "store", "front", "db"]);
    let db = address_on(&agent, "db", "front");
    assert!(lookup(&agent, "api", &["store"]).contains(&db));
    assert!(lookup(&agent, "db", &["web"]).contains(&web));
    ok(&agent, &["network", "disconnect", "front", "db"]);
    assert!(!lookup(&agent, "api", &["store"]).contains(&db));
    assert!(!lookup(&agent, "db", &["web"]).contains(&web));
    ok(&agent, &["network", "connect", "front", "plain"]);
    assert!(lookup(&agent, "plain", &["web"]).contains(&web), "from the default network, too");
    ok(&agent, &["network", "disconnect", "front", "plain"]);
    assert_eq!(ok(&agent, &["exec", "plain", "cat", "/etc/resolv.conf"]), resolv);
    // Called otherwise, it is found so at once, and no longer as before.
    ok(&agent, &["rename", "web", "site"]);
    assert!(lookup(&agent, "api", &["site"]).contains(&web));
    assert!(!lookup(&agent, "api", &["web"]).contains(&web));
    ok(&agent, &["rename", "site", "web"]);
    ok(&agent, &["stop", "-t", "0", "web"]);
    assert!(!lookup(&agent, "api", &["web"]).contains(&web));
    ok(&agent, &["start", "web"]);
    let web = address_on(&agent, "web", "front");
    assert!(lookup(&agent, "api", &["web"]).contains(&web));

    // The next agent answers as well.
    agent.kill_nine();
    agent.spawn().expect("it starts again");
    assert!(lookup(&agent, "api", &["www"]).contains(&web), "{}", agent.log());
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front", "back"]);
    agent.finish();
}

#[test]
fn other_names_are_asked_of_the_hosts_name_servers_and_counted() {
    skip_without_docker!();
    let agent = start();
    ok(&agent, &["network", "create", "front"]);
    run(&agent, "api", &["--network", "front"]);
    let upstream = NameServer::start(UPSTREAM).expect("port 53 of that address is free");
    let missing = lookup(&agent, "api", &["missing.example.com"]);
    assert!(missing.contains("NXDOMAIN"), "{missing}");
    let asked = |name: &str| upstream.received().keys().any(|(asked, _)| asked == name);
    assert!(asked("missing.example.com"));
    // Who names servers of its own has others asked, and finds its neighbours all the same.
    let own_upstream = NameServer::start(OWN_UPSTREAM).expect("port 53 of that address is free");
    run(&agent, "own", &["--network", "front", "--dns", OWN_UPSTREAM, "--dns-search", "a.example"]);
    let resolv = ok(&agent, &["exec", "own", "cat", "/etc/resolv.conf"]);
    assert!(resolv.starts_with("nameserver 127.0.0.11\n"), "{resolv}");
    assert!(resolv.contains("search a.example") && !resolv.contains(OWN_UPSTREAM), "{resolv}");
    lookup(&agent, "own", &["own.example.com."]);
    let asked_own = |name: &str| own_upstream.received().keys().any(|(asked, _)| asked == name);
    assert!(asked_own("own.example.com") && !asked("own.example.com"));
    assert!(lookup(&agent, "own", &["api."]).contains(&address_on(&agent, "api", "front")));
    drop(own_upstream);
    ok(&agent, &["rm", "-f", "own"]);
    let broken = lookup(&agent, "api", &["broken.example.com"]);
    assert!(broken.contains("SERVFAIL"), "{broken}");
    // Not one question for a container's name leaves the agent.
    lookup(&agent, "api", &["api"]);
    assert!(!asked("api"), "{:?}", upstream.received());
    let count = |outcome: &str| {
        let labels = [("outcome", outcome)];
        agent.metrics().sum("tenantry_name_server_queries_total", &labels).unwrap_or(0.0)
    };
    let received = upstream.received().values().sum::<u64>() as f64;
    assert!(count("forwarded") >= received, "{} of {received}", count("forwarded"));
    assert!(count("answered") >= 1.0);
    // The meters see them as questions of the container, as before.
    let of_container = || {
        let labels = [("name", "api"), ("domain", "example.com")];
        agent.metrics().sum("tenantry_dns_queries_total", &labels).unwrap_or(0.0)
    };
    until("they are metered", || of_container() >= received);
    // From a network without a way out nobody outside is asked, and neighbours are found.
    ok(&agent, &["network", "create", "--internal", "vault"]);
    run(&agent, "inner", &["--network", "vault"]);
    let secret = lookup(&agent, "inner", &["secret.example.com"]);
    assert!(secret.contains("SERVFAIL") && !asked("secret.example.com"), "{secret}");
    assert!(count("withheld") >= 1.0);
    let own = address_on(&agent, "inner", "vault");
    assert!(lookup(&agent, "inner", &["inner"]).contains(&own));
    // A way out by another network is one.
    ok(&agent, &["network", "connect", "front", "inner"]);
    lookup(&agent, "inner", &["secret.example.com"]);
    assert!(asked("secret.example.com"), "{:?}", upstream.received());
    drop(upstream);
    // Nobody answers: that is said, and not waited for without end.
    let begun = std::time::Instant::now();
    let silent = lookup(&agent, "api", &["gone.example.com"]);
    assert!(!silent.contains("Address: 1"), "{silent}");
    assert!(begun.elapsed() < tenantry_e2e::patience(30));
    until("it is counted", || count("failed") >= 1.0);
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front", "vault"]);
    agent.finish();
}

#[test]
fn a_name_server_in_a_container_has_its_port_to_itself() {
    skip_without_docker!();
    let agent = start();
    ok(&agent, &["network", "create", "front"]);
    run(&agent, "dns", &["--network", "front", "--expose", "53/udp"]);
    run(&agent, "app", &["--network", "front"]);
    let listening = |name: &str| ok(&agent, &["exec", name, "netstat", "-lnu"]);
    assert!(listening("app").contains("127.0.0.11:53"), "{}", listening("app"));
    assert!(!listening("dns").contains(":53"), "{}", listening("dns"));
    let resolv = ok(&agent, &["exec", "dns", "cat", "/etc/resolv.conf"]);
    assert!(!resolv.contains("127.0.0.11"), "{resolv}");
    // Others find it by its name as everybody.
    let address = address_on(&agent, "dns", "front");
    assert!(lookup(&agent, "app", &["dns"]).contains(&address));
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front"]);
    agent.finish();
}

#[test]
fn a_container_that_floods_its_name_server_waits_and_others_do_not() {
    skip_without_docker!();
    let agent = start();
    ok(&agent, &["network", "create", "front"]);
    run(&agent, "loud", &["--network", "front"]);
    run(&agent, "calm", &["--network", "front"]);
    let loud = address_on(&agent, "loud", "front");
    let count = |outcome: &str| {
        let labels = [("outcome", outcome)];
        agent.metrics().sum("tenantry_name_server_queries_total", &labels).unwrap_or(0.0)
    };
    // No questions, but each costs the agent as much: as quick as one process can send them.
    let begun = std::time::Instant::now();
    let flood = ["exec", "loud", "workload", "datagrams", "--to", "127.0.0.11:53"];
    ok(&agent, &[&flood[..], &["--count", "100000", "--bytes", "40"]].concat());
    for _ in 0..5 {
        assert!(lookup(&agent, "calm", &["loud"]).contains(&loud));
    }
    // What still lies in the socket is read in the second after.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let read = count("malformed");
    let most = 5_001.0 * (begun.elapsed().as_secs_f64() + 1.0);
    assert!((1.0..=most).contains(&read), "{read} of at most {most}");
    assert!(count("too_many") >= 1.0, "{read} were read");
    agent.clear().expect("containers go");
    ok(&agent, &["network", "rm", "front"]);
    agent.finish();
}
