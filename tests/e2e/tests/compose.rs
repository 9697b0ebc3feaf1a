//! An application of six services, from one Compose file: brought up, looked at, scaled, updated
//! and taken down by `tenantry compose` and by the stock docker-compose, which must find each
//! other's containers. What it does is asked from outside, over its published port.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::ok;
use tenantry_e2e::{skip_unless_possible, skip_without_docker, until};

/// Who reads the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Ours,
    DockerCompose,
}

/// A project under a test's agent.
struct Project<'a> {
    agent: &'a TestAgent,
    client: Client,
    file: PathBuf,
    edition: &'static str,
}

impl Project<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let file = self.file.to_str().unwrap();
        let mut command = match self.client {
            Client::Ours => self.agent.client(&["compose"]),
            Client::DockerCompose => {
                let mut command = Command::new("docker-compose");
                // It builds through the docker client, which hears of the agent by this alone.
                let socket = format!("unix://{}", self.agent.docker_socket().display());
                command.env("DOCKER_HOST", &socket).env("DOCKER_BUILDKIT", "0");
                command.env("DOCKER_CONFIG", self.agent.scratch.join("docker"));
                command
            }
        };
        command.args(["-f", file, "-p", "shop"]).args(arguments);
        command.env("BASE", IMAGE).env("EDITION", self.edition).stdin(Stdio::null());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the client runs")
    }

    /// A verb that must succeed; its standard output.
    #[track_caller]
    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr);
        let client = self.client;
        assert!(output.status.success(), "{client:?} {arguments:?}: {error}{}", self.agent.log());
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    }

    #[track_caller]
    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(!output.status.success(), "{:?} {arguments:?} succeeded", self.client);
        String::from_utf8_lossy(&output.stderr).trim_end().to_owned()
    }

    /// The running containers, by their services.
    fn running(&self) -> BTreeMap<String, Vec<String>> {
        let format = "{{.Label \"com.docker.compose.service\"}} {{.ID}}";
        let mut services: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in ok(self.agent, &["ps", "--no-trunc", "--format", format]).lines() {
            let (service, id) = line.split_once(' ').expect("a label and an id");
            services.entry(service.to_owned()).or_default().push(id.to_owned());
        }
        services.values_mut().for_each(|ids| ids.sort());
        services
    }

    /// What the shop says to somebody outside of all containers.
    fn asked(&self) -> String {
        let address = self.ok(&["port", "gateway", "80"]);
        let url = format!("http://{address}/cgi-bin/shop");
        let curl = Command::new("curl").args(["-s", "--max-time", "5", &url]).output();
        let answer = curl.expect("curl runs").stdout;
        String::from_utf8_lossy(&answer).trim_end().to_owned()
    }
}

fn has_docker_compose() -> bool {
    Command::new("docker-compose").arg("version").output().is_ok()
}

fn shop() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("shop/compose.yaml")
}

/// A file of a test's own, in a directory of the agent's.
fn file(agent: &TestAgent, text: &str) -> PathBuf {
    let path = agent.scratch.join("compose.yaml");
    fs::write(&path, text).unwrap();
    path
}

fn lives_as_six(client: Client) {
    let agent = TestAgent::start();
    let mut shop = Project { agent: &agent, client, file: shop(), edition: "1" };
    shop.ok(&["up", "-d"]);
    let first = shop.running();
    let names: Vec<&str> = first.keys().map(String::as_str).collect();
    // The stock was brought before the store opened, and has ended.
    assert_eq!(names, ["cart", "catalog", "gateway", "store", "worker"]);
    until("the shop is open", || shop.asked().starts_with("edition 1: apples pears, "));
    assert!(shop.ok(&["ps"]).contains("gateway"));

    // Whom one network joins, another keeps apart.
    let inside =
        |service: &str, command: &str| shop.output(&["exec", "-T", service, "sh", "-c", command]);
    assert!(inside("catalog", "fetch store 5432 /products.txt").stdout.starts_with(b"apples"));
    assert!(!inside("gateway", "nslookup store").status.success());

    // Scaled on its own.
    shop.ok(&["up", "-d", "--no-recreate", "--scale", "worker=3"]);
    let scaled = shop.running();
    assert_eq!(scaled["worker"].len(), 3);
    assert!(first["worker"].iter().all(|id| scaled["worker"].contains(id)));
    let seen = |shop: &Project<'_>| shop.ok(&["logs", "worker"]);
    until("each worker has worked", || {
        let seen = seen(&shop);
        scaled["worker"].iter().all(|id| seen.contains(&format!("{} saw edition 1", &id[..12])))
    });
    let limit = agent.native(&scaled["worker"][0])["limits"]["memory_bytes"].clone();
    assert_eq!(limit, 32 << 20);
    // Bandwidth by a label, in the kernel's words.
    let link = agent.native(&first["gateway"][0])["host_interface"].clone();
    let link = format!("ifb{}", link.as_str().expect("a link").trim_start_matches("veth"));
    let queues = Command::new("tc").args(["qdisc", "show", "dev", &link]).output().unwrap();
    let queues = String::from_utf8_lossy(&queues.stdout).into_owned();
    assert!(queues.contains("rate 100Mbit"), "{queues}");

    // Updated on its own.
    shop.edition = "2";
    shop.ok(&["up", "-d", "--no-deps", "catalog"]);
    let updated = shop.running();
    assert_ne!(updated["catalog"], first["catalog"]);
    for service in ["cart", "gateway", "store"] {
        assert_eq!(updated[service], first[service], "{service}");
    }
    assert_eq!(updated["worker"], scaled["worker"]);
    until("the new edition is out", || shop.asked().starts_with("edition 2: apples pears, "));

    // What is in a volume outlives a restart.
    let in_cart = |said: &str| -> u32 {
        let number = said.rsplit(", ").next().unwrap().split(' ').next().unwrap();
        number.parse().unwrap_or_else(|_| panic!("{said}"))
    };
    let before = in_cart(&shop.asked());
    shop.ok(&["restart", "-t", "1", "cart"]);
    until("the cart is back", || shop.asked().ends_with("in the cart"));
    assert!(in_cart(&shop.asked()) > before);

    shop.ok(&["stop", "-t", "1", "worker"]);
    assert!(!shop.running().contains_key("worker"));
    shop.ok(&["start", "worker"]);
    assert!(shop.running().contains_key("worker"));
    shop.ok(&["down", "-v", "-t", "1"]);
    assert!(ok(&agent, &["ps", "-aq"]).is_empty());
    let kept = ok(&agent, &["network", "ls", "-q", "--filter", "type=custom"]);
    assert!(kept.is_empty(), "{kept}");
    assert!(ok(&agent, &["volume", "ls", "-q"]).is_empty());
    agent.finish();
}

#[test]
fn six_services_live_from_one_file_by_our_own_client() {
    skip_without_docker!();
    lives_as_six(Client::Ours);
}

#[test]
fn six_services_live_from_one_file_by_docker_compose() {
    skip_without_docker!();
    if !has_docker_compose() {
        println!("SKIPPED: docker-compose is not installed");
        return;
    }
    lives_as_six(Client::DockerCompose);
}

#[test]
fn either_client_finds_what_the_other_made() {
    skip_without_docker!();
    if !has_docker_compose() {
        println!("SKIPPED: docker-compose is not installed");
        return;
    }
    let agent = TestAgent::start();
    let text = format!("services:\n  web: {{image: {IMAGE}, command: sleep 1000}}\n");
    let file = file(&agent, &text);
    let project = |client| Project { agent: &agent, client, file: file.clone(), edition: "" };
    let (ours, theirs) = (project(Client::Ours), project(Client::DockerCompose));
    ours.ok(&["up", "-d"]);
    assert_eq!(theirs.ok(&["ps", "-q"]), ours.running()["web"][0]);
    theirs.ok(&["down", "-t", "1"]);
    assert!(ok(&agent, &["ps", "-aq"]).is_empty());
    theirs.ok(&["up", "-d"]);
    assert_eq!(ours.ok(&["ps", "-q"]), theirs.running()["web"][0]);
    ours.ok(&["down", "-t", "1"]);
    assert!(ok(&agent, &["ps", "-aq"]).is_empty());
    agent.finish();
}

#[test]
fn profiles_one_off_programs_secrets_and_shared_namespaces() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let text = format!(
        "services:\n  \
           main:\n    image: {IMAGE}\n    command: sleep 1000\n    \
             secrets: [token]\n    configs: [{{source: motd, target: /etc/motd, mode: 0440}}]\n    \
             volumes: [/scratch]\n  \
           tool: {{image: {IMAGE}, profiles: [tools], environment: {{A: tool}}, depends_on: [main]}}\n\
         secrets: {{token: {{file: token.txt}}}}\n\
         configs: {{motd: {{content: welcome}}}}\n"
    );
    let file = file(&agent, &text);
    fs::write(agent.scratch.join("token.txt"), "secret").unwrap();
    let ours = Project { agent: &agent, client: Client::Ours, file, edition: "" };
    let said = ours.ok(&["run", "--rm", "-T", "-e", "B=own", "tool", "sh", "-c", "echo $A $B"]);
    assert_eq!(said, "tool own");
    assert_eq!(ours.running().keys().collect::<Vec<_>>(), ["main"]);
    let read = |path: &str| ours.ok(&["exec", "-T", "main", "cat", path]);
    assert_eq!(read("/run/secrets/token"), "secret");
    assert_eq!(read("/etc/motd"), "welcome");
    assert_eq!(ours.ok(&["exec", "-T", "main", "stat", "-c", "%a", "/etc/motd"]), "440");
    let code = ours.output(&["exec", "-T", "main", "sh", "-c", "exit 7"]).status.code();
    assert_eq!(code, Some(7));

    // What was in a volume without a name is the next container's as well.
    ours.ok(&["exec", "-T", "main", "touch", "/scratch/kept"]);
    let before = ours.running();
    ours.ok(&["up", "-d", "--force-recreate", "-t", "1"]);
    assert_ne!(ours.running(), before);
    ours.ok(&["exec", "-T", "main", "ls", "/scratch/kept"]);
    assert!(ours.ok(&["config", "--services"]).contains("main"));
    ours.ok(&["down", "-v", "-t", "1"]);
    agent.finish();
}

#[test]
fn who_depends_on_a_service_goes_with_it_and_one_refusal_ends_nothing_else() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let text = format!(
        "x-all: &all {{image: {IMAGE}, command: sleep 1000}}\n\
         services:\n  \
           lender: {{<<: *all, environment: [EDITION], volumes: ['kept:/kept']}}\n  \
           guest: {{<<: *all, network_mode: 'service:lender'}}\n  \
           told: {{<<: *all, depends_on: {{lender: {{condition: service_started, restart: true}}}}}}\n  \
           migrate: {{image: {IMAGE}, command: 'true'}}\n  \
           web:\n    <<: *all\n    \
             depends_on: {{migrate: {{condition: service_completed_successfully}}}}\n\
         volumes: {{kept: }}\n"
    );
    let file = file(&agent, &text);
    let mut ours = Project { agent: &agent, client: Client::Ours, file, edition: "1" };
    // What was only made has completed nothing.
    ours.ok(&["up", "--no-start"]);
    ours.ok(&["scale", "web=2"]);
    let migrated = ok(&agent, &["inspect", "-f", "{{.State.StartedAt}}", "shop-migrate-1"]);
    assert!(!migrated.starts_with("0001"), "{migrated}");
    ours.ok(&["up", "-d", "-t", "0"]);
    ours.ok(&["exec", "-T", "told", "touch", "/own"]);
    let first = ours.running();

    // A dependency that is only started again makes nobody anew.
    ours.ok(&["stop", "-t", "0"]);
    ours.ok(&["up", "-d", "-t", "0"]);
    assert_eq!(ours.running(), first);

    // A new one does: who lives in its namespaces is new, who is told to restart restarts.
    let told = agent.pid_of("shop-told-1");
    ours.edition = "2";
    ours.ok(&["up", "-d", "-t", "0"]);
    let second = ours.running();
    assert_ne!(second["lender"], first["lender"]);
    assert_ne!(second["guest"], first["guest"]);
    assert_eq!(second["told"], first["told"]);
    assert_ne!(agent.pid_of("shop-told-1"), told);
    ours.ok(&["exec", "-T", "told", "ls", "/own"]);
    let network =
        |name: &str| fs::read_link(format!("/proc/{}/ns/net", agent.pid_of(name))).unwrap();
    assert_eq!(network("shop-guest-1"), network("shop-lender-1"));

    // One that is not paused does not keep the one behind it so.
    ours.ok(&["pause", "told"]);
    ours.ok(&["unpause"]);
    assert_eq!(agent.state("shop-told-1"), "running");

    // A stranger keeps its network and nothing else.
    ok(
        &agent,
        &["run", "-d", "--name", "stranger", "--network", "shop_default", IMAGE, "sleep", "99"],
    );
    let error = ours.fails(&["down", "-v", "-t", "0"]);
    assert!(error.contains("network shop_default"), "{error}");
    assert_eq!(ok(&agent, &["ps", "-a", "--format", "{{.Names}}"]), "stranger");
    assert!(ok(&agent, &["volume", "ls", "-q"]).is_empty());
    ok(&agent, &["rm", "-f", "stranger"]);
    ours.ok(&["down"]);
    agent.finish();
}

#[test]
fn what_cannot_be_is_said_and_leaves_nothing_half_made() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let check = |text: &str, verb: &[&str], expected: &str| {
        let file = file(&agent, &text.replace("IMAGE", IMAGE));
        let ours = Project { agent: &agent, client: Client::Ours, file, edition: "" };
        let error = ours.fails(verb);
        assert!(error.contains(expected), "{text}: {error}");
    };
    let up = &["up", "-d"][..];
    check(
        "services:\n  web:\n    image: IMAGE\n    ports: ['99999:80']\n",
        &["config", "-q"],
        "compose.yaml:4: services.web.ports[0]: \"99999:80\" is not allowed",
    );
    check("services:\n  web: {image: IMAGE, colour: red}\n", up, "no field is named \"colour\"");
    check("services:\n\tweb: {}\n", up, "compose.yaml:2");
    check(
        "services: {a: {image: IMAGE, depends_on: [b]}, b: {image: IMAGE, depends_on: [a]}}",
        up,
        "a → b → a",
    );
    check(
        "services: {a: {image: no/such:image, pull_policy: never}}",
        up,
        "there is no image no/such:image",
    );
    check(
        "services: {a: {image: IMAGE}}\nnetworks: {default: {external: true, name: gone}}",
        up,
        "the external network gone is not there",
    );
    // The one that is depended on fails: what waits for it is not started.
    check(
        "services:\n  first: {image: IMAGE, command: 'false'}\n  \
         second:\n    image: IMAGE\n    depends_on: {first: {condition: service_completed_successfully}}\n",
        up,
        "exited with code 1",
    );
    let made = agent.ok(&["ps", "-a"]);
    assert!(made.contains("shop-first-1") && !made.contains("shop-second"), "{made}");
    agent.ok(&["compose", "-p", "tenantry-none", "down"]);
    let file = file(&agent, &format!("services: {{first: {{image: {IMAGE}}}}}"));
    Project { agent: &agent, client: Client::Ours, file, edition: "" }.ok(&["down"]);
    agent.finish();
}
