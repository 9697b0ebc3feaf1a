//! Tokens: a token service asked with a password, with an identity token, and with what a
//! credential helper says. The registry's own record of its requests is the witness.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::docker;
use tenantry_e2e::hostile_registry::{HostileRegistry, MANIFEST, Parts, Reply, Request, digest};
use tenantry_e2e::skip_without_docker;

/// The registry and its token service, which knows jane by `secret` and her `identity`.
fn start(parts: Parts) -> HostileRegistry {
    HostileRegistry::start("127.0.0.1", move |request, _| answer(&parts, request)).unwrap()
}

fn answer(parts: &Parts, request: &Request) -> Reply {
    let host = request.header("host").unwrap_or_default();
    let header = request.header("authorization").unwrap_or_default();
    if request.path.starts_with("/v2/token/") {
        let body = String::from_utf8_lossy(&request.body);
        let token = match (request.method.as_str(), header) {
            // jane:secret
            ("GET", "Basic amFuZTpzZWNyZXQ=") => json!({ "token": "of-password" }),
            ("POST", _) if body.contains("refresh_token=identity") => {
                json!({ "access_token": "of-identity", "refresh_token": "another" })
            }
            _ => return Reply::status(401, &[], br#"{"details":"who are you?"}"#),
        };
        return Reply::ok("application/json", token.to_string().as_bytes());
    }
    if !["Bearer of-password", "Bearer of-identity"].contains(&header) {
        let challenge = format!("Bearer realm=\"http://{host}/v2/token/\",service=\"the test\"");
        return Reply::status(401, &[("WWW-Authenticate", &challenge)], b"");
    }
    let of = |content: &[u8]| request.path.ends_with(&digest(content).unwrap());
    match request.method.as_str() {
        "HEAD" => Reply::status(404, &[], b""),
        "POST" => Reply::status(202, &[("Location", "/v2/demo/place")], b""),
        "PUT" => Reply::status(201, &[], b""),
        _ if request.path.contains("/manifests/") => Reply::ok(MANIFEST, &parts.manifest),
        _ if of(&parts.config) => Reply::ok("application/octet-stream", &parts.config),
        _ if of(&parts.layer) => Reply::ok("application/octet-stream", &parts.layer),
        _ => Reply::ok("application/json", b"{}"),
    }
}

/// Docker's client and ours, with a configuration of the test's own.
struct Clients<'a>(&'a TestAgent);

impl Clients<'_> {
    fn configure(&self, config: &Value) {
        let directory = self.0.scratch.join("docker");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("config.json"), config.to_string()).unwrap();
    }

    fn run(&self, mut command: Command, input: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let helpers = self.0.scratch.join("helpers");
        command
            .env("DOCKER_CONFIG", self.0.scratch.join("docker"))
            .env("PATH", format!("{}:{path}", helpers.display()));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn docker(&self, arguments: &[&str], input: &str) -> Output {
        self.run(docker::command(self.0, arguments), input)
    }

    fn ours(&self, arguments: &[&str]) -> Output {
        self.run(self.0.client(arguments), "")
    }
}

#[track_caller]
fn succeeded(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn failed(output: &Output, expected: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(expected), "{error}");
}

/// What the token service was asked since, each once.
fn tokens(registry: &HostileRegistry, since: usize) -> Vec<Request> {
    let requests = registry.requests().into_iter().skip(since);
    requests.filter(|request| request.path.starts_with("/v2/token/")).collect()
}

#[test]
fn a_token_service_is_asked_with_a_password_for_what_is_done_and_no_more() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let registry = start(Parts::make("whole", 100_000).unwrap());
    let (address, name) = (registry.address.to_string(), registry.name("demo:v1"));
    let clients = Clients(&agent);
    clients.configure(&json!({}));
    failed(&clients.docker(&["pull", &name], ""), "access denied");
    let login = ["login", "-u", "jane", "--password-stdin", &address];
    failed(&clients.docker(&login, "wrong"), "who are you?");
    succeeded(&clients.docker(&login, "secret"));

    let seen = registry.requests().len();
    succeeded(&clients.docker(&["pull", &name], ""));
    let asked = tokens(&registry, seen);
    assert!(
        asked.iter().all(|request| request.path.contains("scope=repository%3Ademo%3Apull&")
            && request.path.contains("service=the+test&")),
        "{asked:?}"
    );
    assert_eq!(asked.len(), 1, "{asked:?}");
    let seen = registry.requests().len();
    succeeded(&clients.docker(&["push", &name], ""));
    let asked = tokens(&registry, seen);
    let scope = "scope=repository%3Ademo%3Apull%2Cpush&";
    assert!(asked.iter().all(|request| request.path.contains(scope)), "{asked:?}");
    // Blobs go side by side: each may ask before the first is answered.
    assert!((1..=4).contains(&asked.len()), "{asked:?}");
    // The password is for the token service alone.
    for request in registry.requests() {
        let is_password = request.header("authorization").is_some_and(|h| h.starts_with("Basic"));
        assert!(!is_password || request.path.starts_with("/v2/token/"), "{request:?}");
    }
    succeeded(&clients.docker(&["logout", &address], ""));
    agent.finish();
}

#[test]
fn an_identity_token_and_a_credential_helper_stand_for_a_password() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let registry = start(Parts::make("whole", 100_000).unwrap());
    let (address, name) = (registry.address.to_string(), registry.name("demo:v1"));
    let clients = Clients(&agent);
    let by_identity = |since| {
        let asked = tokens(&registry, since);
        assert!(!asked.is_empty());
        for request in &asked {
            assert_eq!((request.method.as_str(), request.header("authorization")), ("POST", None));
            let form = String::from_utf8_lossy(&request.body);
            for part in [
                "grant_type=refresh_token",
                "refresh_token=identity",
                "service=the+test",
                "scope=repository%3Ademo%3Apull",
            ] {
                assert!(form.contains(part), "{form}");
            }
        }
    };

    // "jane:" in base64, as Docker's client keeps it beside an identity token.
    let auth = json!({ "auth": "amFuZTo=", "identitytoken": "identity" });
    clients.configure(&json!({ "auths": { &address: auth } }));
    for pull in [clients.docker(&["pull", &name], ""), clients.ours(&["image", "pull", &name])] {
        succeeded(&pull);
    }
    by_identity(0);
    let auth = json!({ "auth": "amFuZTo=", "identitytoken": "expired" });
    clients.configure(&json!({ "auths": { &address: auth } }));
    failed(&clients.docker(&["pull", &name], ""), "access denied");

    let helpers = agent.scratch.join("helpers");
    std::fs::create_dir(&helpers).unwrap();
    let helper = |name: &str, user: &str, secret: &str| {
        let path = helpers.join(format!("docker-credential-{name}"));
        let answer = json!({ "ServerURL": address, "Username": user, "Secret": secret });
        let script = format!("#!/bin/sh\n[ \"$1\" = get ] && echo '{answer}'\n");
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    helper("password", "jane", "secret");
    helper("identity", "<token>", "identity");
    for (kind, is_identity) in [("password", false), ("identity", true)] {
        clients.configure(&json!({ "credHelpers": { &address: kind } }));
        let seen = registry.requests().len();
        succeeded(&clients.docker(&["pull", &name], ""));
        succeeded(&clients.ours(&["image", "pull", &name]));
        match is_identity {
            true => by_identity(seen),
            false => {
                let asked = tokens(&registry, seen);
                assert_eq!(asked.len(), 2, "{asked:?}");
                assert!(asked.iter().all(|request| request.header("authorization").is_some()));
            }
        }
    }
    let log = agent.log();
    assert!(!log.contains("secret") && !log.contains("identity"), "{log}");
    agent.finish();
}
