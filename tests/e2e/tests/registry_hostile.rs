//! Registries that lie, stall, lead astray and go away: each is a clear error with nothing left in
//! the store, or a success after another try. And an agent that is killed while it pulls.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::docker;
use tenantry_e2e::hostile_registry::{
    HostileRegistry, INDEX, MANIFEST, Parts, Reply, Request, digest, manifest,
};
use tenantry_e2e::{skip_without_docker, until};

const OCTETS: &str = "application/octet-stream";
const CONFIG: &str = "[registries]\npatience_s = 1\nattempts = 3\n";

/// Pulls what must come, and removes it again.
#[track_caller]
fn succeeds(agent: &TestAgent, name: &str) {
    let output = docker::output(agent, &["pull", name]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {error}{}", agent.log());
    assert!(docker::output(agent, &["rmi", name]).status.success());
    assert_nothing_is_left(agent);
}

/// Pulls what must not come, within a bounded time.
#[track_caller]
fn fails(agent: &TestAgent, name: &str, expected: &str) {
    let since = Instant::now();
    let output = docker::output(agent, &["pull", name]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{name} was pulled");
    assert!(error.contains(expected), "{name}: {error}");
    assert!(since.elapsed() < Duration::from_secs(20), "{name}: took {:?}", since.elapsed());
    assert_nothing_is_left(agent);
}

#[track_caller]
fn assert_nothing_is_left(agent: &TestAgent) {
    for directory in ["tmp", "layers", "blobs/sha256"] {
        assert_eq!(stored(agent, directory), Vec::<PathBuf>::new(), "{directory}");
    }
}

fn stored(agent: &TestAgent, directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(agent.data_dir().join("images").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn agent_with(config: &str) -> TestAgent {
    let mut agent = TestAgent::prepare().unwrap();
    agent.configure(config).unwrap();
    agent.spawn().unwrap();
    agent
}

/// The honest answer for an image in whatever repository.
fn honest(parts: &Parts, request: &Request) -> Reply {
    let of = |content: &[u8]| digest(content).unwrap();
    let path = &request.path;
    if path.contains("/manifests/") {
        Reply::ok(MANIFEST, &parts.manifest)
    } else if path.ends_with(&of(&parts.config)) {
        Reply::ok(OCTETS, &parts.config)
    } else if path.ends_with(&of(&parts.layer)) {
        Reply::ok(OCTETS, &parts.layer)
    } else if path == "/v2/" {
        Reply::ok("application/json", b"{}")
    } else {
        Reply::status(404, &[], b"")
    }
}

fn is_layer(parts: &Parts, request: &Request) -> bool {
    request.path.ends_with(&digest(&parts.layer).unwrap())
}

/// The repository, which says how to behave.
fn case(request: &Request) -> &str {
    request.path.split('/').nth(2).unwrap_or_default()
}

#[test]
fn what_breaks_off_is_resumed_and_what_is_refused_for_now_is_tried_again() {
    skip_without_docker!();
    let agent = agent_with(CONFIG);
    let parts = Parts::make("whole", 3 << 20).unwrap();
    let served = parts.clone();
    let registry = HostileRegistry::start("127.0.0.1", move |request, before| {
        let layer = &served.layer;
        let half = layer.len() / 2;
        let cut = || Reply::Cut { promised: layer.len(), body: layer[..half].to_vec() };
        match (case(request), is_layer(&served, request), before) {
            ("cut", true, 0) | ("no-ranges", true, 0) => cut(),
            ("cut", true, _) => {
                let from: usize = request.header("range").unwrap_or("bytes=0-")[6..]
                    .trim_end_matches('-')
                    .parse()
                    .unwrap();
                let range = format!("bytes {from}-{}/{}", layer.len() - 1, layer.len());
                Reply::status(206, &[("Content-Range", &range)], &layer[from..])
            }
            ("stalls-once", true, 0) => {
                Reply::Stall { promised: layer.len(), body: layer[..half].to_vec() }
            }
            ("hangs-up-once", _, 0) => Reply::HangUp,
            ("busy-once", _, 0) => Reply::status(429, &[("Retry-After", "1")], b""),
            ("broken-once", _, 0) => Reply::status(500, &[], b""),
            _ => honest(&served, request),
        }
    })
    .unwrap();
    succeeds(&agent, &registry.name("honest"));
    for name in ["cut", "no-ranges", "stalls-once"] {
        succeeds(&agent, &registry.name(name));
        let asked =
            registry.requests_of(&format!("/{name}/blobs/{}", digest(&parts.layer).unwrap()));
        let range = asked[1].header("range").unwrap_or_default();
        let from: usize = range["bytes=".len()..].trim_end_matches('-').parse().unwrap();
        assert!(from > 0 && from <= parts.layer.len() / 2, "{name}: {range}");
        assert_eq!(asked.len(), 2, "{name}");
    }
    let since = Instant::now();
    succeeds(&agent, &registry.name("busy-once"));
    // The manifest, the configuration and the layer are each refused once.
    assert!(since.elapsed() >= Duration::from_secs(3), "{:?}", since.elapsed());
    succeeds(&agent, &registry.name("broken-once"));
    succeeds(&agent, &registry.name("hangs-up-once"));
    agent.finish();
}

#[test]
fn two_pulls_at_once_fetch_each_layer_once() {
    skip_without_docker!();
    let agent = agent_with("");
    let parts = Parts::make("whole", 3 << 20).unwrap();
    let served = parts.clone();
    // The layer waits until both have asked for the configuration.
    let configs = std::sync::atomic::AtomicUsize::new(0);
    let registry = HostileRegistry::start("127.0.0.1", move |request, _| {
        use std::sync::atomic::Ordering;
        if request.path.ends_with(&digest(&served.config).unwrap()) {
            configs.fetch_add(1, Ordering::Relaxed);
        }
        if is_layer(&served, request) {
            until("both want it", || configs.load(Ordering::Relaxed) == 2);
            std::thread::sleep(Duration::from_millis(300));
        }
        honest(&served, request)
    })
    .unwrap();
    let names = [registry.name("one:v1"), registry.name("two:v1")];
    let told: Vec<String> = std::thread::scope(|scope| {
        let pulls =
            names.each_ref().map(|name| scope.spawn(|| docker::output(&agent, &["pull", name])));
        let told = pulls.map(|pull| pull.join().unwrap());
        told.map(|output| {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
        .into()
    });
    let requests = registry.requests();
    let layers = requests.iter().filter(|request| is_layer(&parts, request)).count();
    assert_eq!(layers, 1, "{told:?}");
    let with = |state: &str| told.iter().filter(|told| told.contains(state)).count();
    assert_eq!((with("Pull complete"), with("Waiting"), with("Already exists")), (1, 1, 1));
    for name in &names {
        assert!(docker::output(&agent, &["rmi", name]).status.success());
    }
    assert_nothing_is_left(&agent);
    agent.finish();
}

#[test]
fn lies_stalls_and_floods_end_in_clear_errors_and_leave_nothing() {
    skip_without_docker!();
    let agent = agent_with(CONFIG);
    let parts = Parts::make("whole", 3 << 20).unwrap();
    let other = Parts::make("other", 3 << 20).unwrap();
    let small = Parts::make("small", 1 << 20).unwrap();
    let nested = nested_indexes(6);
    let served = parts.clone();
    let registry = HostileRegistry::start("127.0.0.1", move |request, _| {
        let layer = &served.layer;
        let lies = |size| manifest(&served.config, &[(layer.as_slice(), size)]).unwrap();
        let is_manifest = request.path.contains("/manifests/");
        match (case(request), is_manifest, is_layer(&served, request)) {
            ("wrong-layer", _, true) => Reply::ok(OCTETS, &other.layer),
            ("short-layer", _, true) => Reply::ok(OCTETS, &small.layer),
            ("long-layer", _, true) => Reply::ok(OCTETS, &[layer.as_slice(), b"more"].concat()),
            ("endless-layer", _, true) => Reply::Endless,
            ("cut-layer", _, true) => {
                Reply::Cut { promised: layer.len(), body: layer[..9].to_vec() }
            }
            ("stalled-layer", _, true) => {
                Reply::Stall { promised: layer.len(), body: layer[..9].to_vec() }
            }
            ("wrong-config", false, false) => Reply::ok(OCTETS, &vec![b' '; served.config.len()]),
            ("size-too-small", true, _) => Reply::ok(MANIFEST, &lies(layer.len() - 1)),
            ("size-too-large", true, _) => Reply::ok(MANIFEST, &lies(layer.len() + 1)),
            ("size-absurd", true, _) => Reply::ok(MANIFEST, &lies(1 << 50)),
            ("endless-manifest", true, _) => Reply::Endless,
            ("stalled-manifest", true, _) => Reply::Stall { promised: 9, body: b"{".to_vec() },
            ("silent", true, _) => Reply::Silent,
            ("hangs-up", true, _) => Reply::HangUp,
            ("no-json", true, _) => Reply::ok(MANIFEST, b"<html>"),
            ("artifact", true, _) => Reply::ok(MANIFEST, artifact().as_bytes()),
            ("schema1", true, _) => Reply::ok(MANIFEST, br#"{"schemaVersion":1,"name":"x"}"#),
            ("deep", true, _) => {
                let asked = request.path.rsplit('/').next().unwrap_or_default();
                let found = nested.iter().find(|(digest, _)| digest == asked);
                Reply::ok(INDEX, found.map_or(nested[0].1.as_slice(), |(_, content)| content))
            }
            ("busy", true, _) => Reply::status(503, &[], b""),
            ("wait", true, _) => Reply::status(429, &[("Retry-After", "86400")], b""),
            ("redirects", true, _) => Reply::status(307, &[("Location", &request.path)], b""),
            ("nowhere", true, _) => Reply::status(307, &[("Location", "file:///etc/passwd")], b""),
            _ => honest(&served, request),
        }
    })
    .unwrap();
    for (name, expected) in [
        ("wrong-layer", "its digest is"),
        ("short-layer", "bytes, expected are"),
        ("long-layer", "bytes, expected are"),
        ("endless-layer", "longer than the"),
        ("cut-layer", "broke off after 9 of"),
        ("stalled-layer", "stalled"),
        ("wrong-config", "its digest is"),
        ("size-too-small", "bytes, expected are"),
        ("size-too-large", "bytes, expected are"),
        ("size-absurd", "bytes is 1125899906842624, allowed is"),
        ("endless-manifest", "longer than the 4194304 bytes"),
        ("stalled-manifest", "stalled"),
        ("silent", "did not answer within 1 s"),
        ("hangs-up", "broke off"),
        ("no-json", "is not valid JSON"),
        ("artifact", "so it is not an image"),
        ("schema1", "schema 1"),
        ("deep", "depth of nested indexes is 5, allowed is 4"),
        ("busy", "503"),
        ("wait", "asks to wait 86400 s, allowed are 60"),
        ("redirects", "redirects more than 5 times"),
        ("nowhere", "without TLS"),
    ] {
        fails(&agent, &registry.name(name), expected);
    }
    let lie = digest(b"something else").unwrap();
    fails(&agent, &format!("{}@{lie}", registry.name("honest")), "has digest");
    // Nothing of all that has hurt the agent.
    succeeds(&agent, &registry.name("honest"));
    agent.finish();
}

/// Indexes that each name the next one; the first is asked for by tag.
fn nested_indexes(depth: usize) -> Vec<(String, Vec<u8>)> {
    let mut inner = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [] }).to_string();
    let mut indexes = Vec::new();
    for _ in 0..depth {
        let (digest, size) = (digest(inner.as_bytes()).unwrap(), inner.len());
        indexes.insert(0, (digest.clone(), inner.into_bytes()));
        let entry = json!({ "mediaType": INDEX, "digest": digest, "size": size });
        inner = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] }).to_string();
    }
    indexes.insert(0, (String::new(), inner.into_bytes()));
    indexes
}

fn artifact() -> String {
    let config = json!({
        "mediaType": "application/vnd.cncf.helm.config.v1+json",
        "digest": digest(b"{}").unwrap(), "size": 2,
    });
    json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [] }).to_string()
}

#[test]
fn a_password_goes_to_nobody_but_its_registry() {
    skip_without_docker!();
    let agent = agent_with(CONFIG);
    let parts = Parts::make("whole", 1 << 20).unwrap();
    let (served, elsewhere) = (parts.clone(), parts.clone());
    let stranger = HostileRegistry::start("127.0.0.2", move |request, _| {
        match request.path.starts_with("/token") {
            true => Reply::ok("application/json", br#"{"token":"stranger"}"#),
            false => honest(&elsewhere, request),
        }
    })
    .unwrap();
    let strange = stranger.address;
    let registry = HostileRegistry::start("127.0.0.1", move |request, _| {
        let known = request.header("authorization").is_some();
        let bearer = |realm: &str| {
            let challenge = format!("Bearer realm=\"{realm}\",service=\"test\"");
            Reply::status(401, &[("WWW-Authenticate", &challenge)], b"")
        };
        let host = request.header("host").unwrap_or_default();
        match case(request) {
            "token" => Reply::ok("application/json", br#"{"token":"ours"}"#),
            "elsewhere" => bearer(&format!("http://{strange}/token")),
            "never" if known => Reply::status(401, &[("WWW-Authenticate", "Basic")], b""),
            "never-token" => bearer(&format!("http://{host}/v2/token/")),
            "unspoken" => Reply::status(401, &[], b""),
            "moved" if known && is_layer(&served, request) => {
                let location = format!("http://{strange}{}", request.path);
                Reply::status(307, &[("Location", &location)], b"")
            }
            _ if known => honest(&served, request),
            _ => Reply::status(401, &[("WWW-Authenticate", "Basic realm=\"test\"")], b""),
        }
    })
    .unwrap();
    let config = agent.scratch.join("docker");
    std::fs::create_dir_all(&config).unwrap();
    // jane:secret
    let auths =
        json!({ "auths": { registry.address.to_string(): { "auth": "amFuZTpzZWNyZXQ=" } } });
    std::fs::write(config.join("config.json"), auths.to_string()).unwrap();

    succeeds(&agent, &registry.name("moved"));
    assert!(!stranger.requests().is_empty(), "the layer came from there");
    fails(&agent, &registry.name("elsewhere"), "is not given its password");
    fails(&agent, &registry.name("never"), "access denied");
    fails(&agent, &registry.name("never-token"), "access denied");
    fails(&agent, &registry.name("unspoken"), "does not say what it wants");
    assert!(registry.requests_of("/never").len() < 10, "challenges were answered in a loop");
    for request in stranger.requests() {
        assert_eq!(request.header("authorization"), None, "{request:?}");
    }
    let log = agent.log();
    assert!(!log.contains("secret") && !log.contains("amFuZTpzZWNyZXQ"), "{log}");
    agent.finish();
}

/// What a registry answers that takes everything, but for what its repositories' names say.
fn taking(request: &Request, before: usize) -> Reply {
    let place = format!("/v2/{}/place", case(request));
    let location = ("Location", place.as_str());
    let is_manifest = request.path.contains("/manifests/");
    match (request.method.as_str(), case(request)) {
        ("HEAD", _) => Reply::status(404, &[], b""),
        ("POST", "chunks") => {
            Reply::status(202, &[location, ("OCI-Chunk-Min-Length", "1000000")], b"")
        }
        ("POST", "nowhere") => Reply::status(202, &[], b""),
        ("POST", "denied") => Reply::status(403, &[], br#"{"errors":[{"message":"read only"}]}"#),
        ("POST", "breaks-once") if before == 0 => Reply::HangUp,
        ("POST", "broken") => Reply::status(500, &[], b""),
        ("POST" | "PATCH", _) => Reply::status(202, &[location], b""),
        ("PUT", "too-large") if request.body.len() > 10 << 20 => Reply::status(413, &[], b""),
        ("PUT", "no-manifest") if is_manifest => {
            Reply::status(400, &[], br#"{"errors":[{"code":"MANIFEST_INVALID"}]}"#)
        }
        ("PUT", _) => Reply::status(201, &[], b""),
        _ => Reply::ok("application/json", b"{}"),
    }
}

#[test]
fn a_push_goes_in_chunks_where_asked_again_where_it_broke_and_ends_where_refused() {
    skip_without_docker!();
    let agent = agent_with(CONFIG);
    let parts = Parts::make("whole", 20 << 20).unwrap();
    let layer = digest(&parts.layer).unwrap();
    let tar = agent.scratch.join("layer.tar");
    std::fs::write(&tar, &parts.layer).unwrap();
    let start = || HostileRegistry::start("127.0.0.1", taking).unwrap();
    let push = |registry: &HostileRegistry, repository: &str| {
        let name = registry.name(&format!("{repository}:v1"));
        agent.ok(&["image", "import", &name, tar.to_str().unwrap()]);
        let output = docker::output(&agent, &["push", &name]);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), error)
    };
    let uploaded = |registry: &HostileRegistry, method: &str| -> Vec<Request> {
        let of_layer = |request: &Request| request.body.len() > 1 << 20;
        let requests = registry.requests_of("/place").into_iter();
        requests.filter(|request| request.method == method && of_layer(request)).collect()
    };

    let registry = start();
    assert_eq!(push(&registry, "chunks"), (true, String::new()));
    let chunks = uploaded(&registry, "PATCH");
    let ranges: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk.header("content-range")).collect();
    let end = parts.layer.len() - 1;
    assert_eq!(ranges, ["0-8388607", "8388608-16777215", &format!("16777216-{end}")]);
    let whole: Vec<u8> = chunks.iter().flat_map(|chunk| chunk.body.clone()).collect();
    assert_eq!(digest(&whole).unwrap(), layer);

    let registry = start();
    assert_eq!(push(&registry, "breaks-once"), (true, String::new()));
    let [put] = &uploaded(&registry, "PUT")[..] else { panic!("the layer goes once") };
    assert_eq!(digest(&put.body).unwrap(), layer);
    assert!(put.path.ends_with(&layer.replace(':', "%3A")), "{}", put.path);

    let registry = start();
    for (repository, expected) in [
        ("denied", "read only"),
        ("broken", "500"),
        ("nowhere", "does not say where the upload goes"),
        ("no-manifest", "manifest invalid"),
    ] {
        let (succeeded, error) = push(&registry, repository);
        assert!(!succeeded && error.contains(expected), "{repository}: {error}");
    }
    // What no registry took has no digest of theirs.
    let digests =
        docker::output(&agent, &["images", "--digests", "--format", "{{.Repository}} {{.Digest}}"]);
    let digests = String::from_utf8_lossy(&digests.stdout).into_owned();
    assert!(digests.lines().any(|line| line.ends_with("denied <none>")), "{digests}");
    agent.finish();
}

#[test]
fn an_agent_that_is_killed_while_it_pulls_leaves_nothing_of_it() {
    skip_without_docker!();
    let mut agent = agent_with(CONFIG);
    let parts = Parts::make("whole", 8 << 20).unwrap();
    let served = parts.clone();
    let registry = HostileRegistry::start("127.0.0.1", move |request, _| {
        match (case(request), is_layer(&served, request)) {
            // In the midst of a layer, for as long as it takes.
            ("slow", true) => Reply::Stall {
                promised: served.layer.len(),
                body: served.layer[..4 << 20].to_vec(),
            },
            _ => honest(&served, request),
        }
    })
    .unwrap();
    succeeds(&agent, &registry.name("honest"));
    for (round, wait_ms) in [0, 5, 20, 50, 100].into_iter().enumerate() {
        let name = registry.name(if round % 2 == 0 { "slow" } else { "honest" });
        let mut client = docker::command(&agent, &["pull", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let seen = registry.requests().len();
        until("something was asked for", || registry.requests().len() > seen);
        std::thread::sleep(Duration::from_millis(wait_ms));
        agent.kill_nine();
        let _ = client.wait();
        agent.spawn().unwrap();
        assert_eq!(stored(&agent, "tmp"), Vec::<PathBuf>::new(), "round {round}");
        // Whole, or not at all.
        let images = docker::output(&agent, &["images", "-q"]).stdout;
        let (blobs, layers) =
            (stored(&agent, "blobs/sha256").len(), stored(&agent, "layers").len());
        match images.is_empty() {
            true => assert_eq!((blobs, layers), (0, 0), "round {round}"),
            false => {
                assert_eq!((blobs, layers), (3, 1), "round {round}");
                assert!(docker::output(&agent, &["rmi", &name]).status.success());
            }
        }
        succeeds(&agent, &registry.name("honest"));
    }
    agent.finish();
}

#[test]
fn a_client_that_goes_away_ends_its_pull() {
    skip_without_docker!();
    let agent = agent_with("[registries]\npatience_s = 60\n");
    let parts = Parts::make("whole", 8 << 20).unwrap();
    let registry =
        HostileRegistry::start("127.0.0.1", move |request, _| match is_layer(&parts, request) {
            true => {
                Reply::Stall { promised: parts.layer.len(), body: parts.layer[..1 << 20].to_vec() }
            }
            false => honest(&parts, request),
        })
        .unwrap();
    let mut client = docker::command(&agent, &["pull", &registry.name("slow")])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("a layer is on its way", || !stored(&agent, "tmp").is_empty());
    until("a layer is asked for", || registry.requests().len() >= 3);
    client.kill().unwrap();
    client.wait().unwrap();
    until("nothing of it is left", || stored(&agent, "tmp").is_empty());
    agent.finish();
}
