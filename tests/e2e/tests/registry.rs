//! The stock `docker` client pulls through us from the real registry; skopeo and the registry's
//! own log are the witnesses.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::docker::{self, fails, ok};
use tenantry_e2e::registry::{self, Options, PASSWORD, TestRegistry, USER, write_archive};
use tenantry_e2e::{image, skip_without_registry, until};

fn with_input(mut command: Command, input: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it runs");
    // Who does not read its input may end before it is written.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    child.wait_with_output().expect("it ends")
}

fn agent_with(config: &str) -> TestAgent {
    let mut agent = TestAgent::prepare().unwrap();
    agent.configure(config).unwrap();
    agent.spawn().unwrap();
    agent
}

/// An image of the test's root filesystem under this name; the layer is the same each time.
#[track_caller]
fn import(agent: &TestAgent, name: &str) {
    let rootfs = agent.scratch.join("rootfs.tar");
    agent.ok(&["image", "import", name, rootfs.to_str().unwrap()]);
}

/// What the store has in this directory.
fn stored(agent: &TestAgent, directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(agent.data_dir().join("images").join(directory)).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// Ten layers: the root filesystem, eight that two images share, and one of each image's own.
fn layers(last: &str) -> Vec<(String, Vec<u8>)> {
    let shared = (1..9).map(|number| (format!("shared{number}"), vec![number as u8; 300_000]));
    shared.chain([("last".to_owned(), last.as_bytes().to_vec())]).collect()
}

fn push_ten_layers(registry: &TestRegistry, agent: &TestAgent, last: &str, name: &str) {
    let layers = layers(last);
    let layers: Vec<(&str, &[u8])> =
        layers.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
    let (archive, rootfs) = (agent.scratch.join("image.tar"), agent.scratch.join("rootfs.tar"));
    // Made once: it holds times.
    if !rootfs.exists() {
        image::write_rootfs(&rootfs).unwrap();
    }
    write_archive(&archive, &rootfs, &layers).unwrap();
    registry.skopeo_push(&archive, name).unwrap();
    std::fs::remove_file(&archive).unwrap();
}

#[test]
fn docker_pull_brings_an_image_once_and_shared_layers_never_again() {
    skip_without_registry!();
    let agent = agent_with("");
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    push_ten_layers(&registry, &agent, "one", "demo:v1");
    push_ten_layers(&registry, &agent, "two", "demo:v2");
    let (v1, v2) = (registry.name("demo:v1"), registry.name("demo:v2"));

    let told = ok(&agent, &["pull", &v1]);
    assert!(told.contains(&format!("Downloaded newer image for {v1}")), "{told}");
    assert_eq!(told.matches("Pull complete").count(), 10, "{told}");
    let digest = registry.skopeo_inspect("demo:v1", &[]).unwrap()["Digest"].clone();
    let digest = digest.as_str().unwrap();
    assert!(told.contains(&format!("Digest: {digest}")), "{told}");
    let known = ok(&agent, &["inspect", "--format", "{{index .RepoDigests 0}}", &v1]);
    assert_eq!(known.trim(), registry.name(&format!("demo@{digest}")));
    assert!(ok(&agent, &["images", "--digests"]).contains(digest));
    assert_eq!(ok(&agent, &["run", "--rm", &v1, "cat", "/layers/last"]), "one");

    let before = registry.requests("GET /v2/demo/blobs/");
    assert!(ok(&agent, &["pull", &v1]).contains("Image is up to date"));
    let told = ok(&agent, &["pull", &v2]);
    assert_eq!(told.matches("Already exists").count(), 9, "{told}");
    assert_eq!(told.matches("Pull complete").count(), 1, "{told}");
    // By the registry's own log: each pull's configuration, and one layer.
    assert_eq!(registry.requests("GET /v2/demo/blobs/") - before, 3);
    assert_eq!(ok(&agent, &["run", "--rm", &v2, "cat", "/layers/last"]), "two");
    assert_eq!(stored(&agent, "layers").len(), 11);
    assert_eq!(stored(&agent, "tmp"), Vec::<PathBuf>::new());

    // The last tag goes, and with it what only that image had.
    ok(&agent, &["rmi", &v1]);
    assert_eq!(stored(&agent, "layers").len(), 10);
    assert_eq!(ok(&agent, &["run", "--rm", &v2, "cat", "/layers/last"]), "two");
    drop(registry);
    agent.finish();
}

#[test]
fn docker_pull_takes_a_digest_and_run_pulls_what_is_missing() {
    skip_without_registry!();
    let agent = agent_with("");
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    push_ten_layers(&registry, &agent, "one", "some/demo:v1");
    let digest = registry.skopeo_inspect("some/demo:v1", &[]).unwrap()["Digest"].clone();
    let by_digest = registry.name(&format!("some/demo@{}", digest.as_str().unwrap()));

    ok(&agent, &["pull", &by_digest]);
    let row =
        ok(&agent, &["images", "--format", "{{.Repository}} {{.Tag}} {{.Digest}}", "--digests"]);
    let expected = format!("{} <none> {}", registry.name("some/demo"), digest.as_str().unwrap());
    assert_eq!(row.trim(), expected);
    assert_eq!(ok(&agent, &["run", "--rm", &by_digest, "cat", "/layers/last"]), "one");
    ok(&agent, &["rmi", &by_digest]);
    assert_eq!(ok(&agent, &["images", "-q"]), "");
    assert_eq!(stored(&agent, "layers"), Vec::<PathBuf>::new());
    assert_eq!(stored(&agent, "blobs/sha256"), Vec::<PathBuf>::new());

    let name = registry.name("some/demo:v1");
    assert_eq!(ok(&agent, &["run", "--rm", &name, "cat", "/layers/last"]), "one");
    let error = fails(&agent, &["pull", &registry.name("some/demo:v9")]);
    assert!(error.contains("some/demo:v9 is not there: manifest unknown"), "{error}");
    let error = fails(&agent, &["run", "--rm", &registry.name("nothing:v1"), "true"]);
    assert!(error.contains("nothing:v1 is not there"), "{error}");
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = fails(&agent, &["pull", &format!("{free}/demo")]);
    assert!(error.contains("cannot be reached"), "{error}");
    drop(registry);
    agent.finish();
}

#[test]
fn docker_pull_a_brings_every_tag() {
    skip_without_registry!();
    let agent = agent_with("");
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    for (last, tag) in [("one", "v1"), ("two", "v2"), ("one", "also")] {
        push_ten_layers(&registry, &agent, last, &format!("demo:{tag}"));
    }
    let name = registry.name("demo");
    let told = ok(&agent, &["pull", "-a", &name]);
    for tag in ["v1", "v2", "also"] {
        assert!(told.contains(&format!("{tag}: Pulling from demo")), "{told}");
    }
    let mut tags: Vec<String> =
        ok(&agent, &["images", "--format", "{{.Tag}}"]).lines().map(str::to_owned).collect();
    tags.sort();
    assert_eq!(tags, ["also", "v1", "v2"]);
    // Eleven layers, and a configuration for each tag.
    assert_eq!(registry.requests("GET /v2/demo/blobs/"), 11 + 3);
    assert!(ok(&agent, &["pull", "-a", &name]).contains("Image is up to date"));
    let error = fails(&agent, &["pull", "-a", &registry.name("nothing")]);
    assert!(error.contains("nothing is not there"), "{error}");
    let error = fails(&agent, &["push", "-a", &name]);
    assert!(error.contains("pushing all tags"), "{error}");
    drop(registry);
    agent.finish();
}

#[test]
fn events_and_metrics_tell_of_pulls_pushes_and_commits() {
    skip_without_registry!();
    let agent = TestAgent::start();
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    let name = registry.name("demo:v1");
    import(&agent, &name);
    agent.run_detached("cc", &[], &["sleep", "1000"]).unwrap();
    let format = "{{.Type}} {{.Action}} {{.Actor.ID}} {{json .Actor.Attributes}}";
    let mut child = docker::command(&agent, &["events", "--filter", "event=tag"])
        .args(["--filter", "event=pull"])
        .args(["--filter", "event=push", "--filter", "event=commit", "--format", format])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (heard, hear) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        while let Some(Ok(line)) = lines.next() {
            if heard.send(line).is_err() {
                return;
            }
        }
    });
    // The client subscribes when it likes: the first event is repeated until it is heard.
    until("the client hears", || {
        ok(&agent, &["tag", &name, "heard"]);
        hear.recv_timeout(Duration::from_millis(200)).is_ok()
    });
    while hear.recv_timeout(Duration::from_millis(300)).is_ok() {}
    ok(&agent, &["push", &name]);
    ok(&agent, &["rmi", &name]);
    ok(&agent, &["pull", &name]);
    ok(&agent, &["pull", &name]);
    fails(&agent, &["pull", &registry.name("demo:v2")]);
    let image = ok(&agent, &["commit", "-m", "mine", "cc", "mine:v1"]);
    let mut told = Vec::new();
    while told.len() < 4 {
        let line = hear.recv_timeout(Duration::from_secs(10));
        told.push(line.unwrap_or_else(|_| panic!("only {told:?}")));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap();
    let actor = format!("{name} {{\"name\":\"{}\"}}", registry.name("demo"));
    let pulled = format!("image pull {actor}");
    assert_eq!(told[..3], [format!("image push {actor}"), pulled.clone(), pulled]);
    let commit = &told[3];
    assert!(commit.starts_with("container commit "), "{commit}");
    for part in [
        "\"comment\":\"mine\"".to_owned(),
        format!("\"imageID\":\"{}\"", image.trim()),
        "\"imageRef\":\"mine:v1\"".to_owned(),
        "\"name\":\"cc\"".to_owned(),
    ] {
        assert!(commit.contains(&part), "{part} is not in {commit}");
    }

    let metrics = agent.metrics();
    let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels);
    let pulls = |outcome| count("tenantry_image_pulls_total", &[("outcome", outcome)]);
    assert_eq!((pulls("done"), pulls("same"), pulls("failed")), (Some(1.0), Some(1.0), Some(1.0)));
    assert_eq!(count("tenantry_image_pushes_total", &[("outcome", "done")]), Some(1.0));
    // It is here under another name: nothing of it had to come.
    assert_eq!(count("tenantry_image_pulled_layers_total", &[("found", "there")]), Some(2.0));
    assert_eq!(count("tenantry_image_pulled_layers_total", &[("found", "fetched")]), Some(0.0));
    assert_eq!(count("tenantry_image_request_retries_total", &[]), Some(0.0));
    assert_eq!(count("tenantry_image_limits_reached_total", &[]), Some(0.0));
    let layer = std::fs::metadata(agent.scratch.join("rootfs.tar")).unwrap().len() as f64;
    let sent = count("tenantry_image_sent_bytes_total", &[]).unwrap();
    assert!(sent >= layer && sent < layer + 10_000.0, "{sent} of {layer}");
    let fetched = count("tenantry_image_fetched_bytes_total", &[]).unwrap();
    assert!(fetched > 100.0 && fetched < 100_000.0, "{fetched}");
    drop(registry);
    agent.finish();
}

#[test]
fn docker_push_gives_the_registry_what_skopeo_finds_there() {
    skip_without_registry!();
    let agent = TestAgent::start();
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    let (pushed, twin) = (registry.name("made/demo:v1"), registry.name("other/demo:v2"));
    import(&agent, &pushed);
    import(&agent, &twin);

    let told = ok(&agent, &["push", &pushed]);
    assert!(told.contains("v1: digest: sha256:") && told.contains("Pushed"), "{told}");
    let found = registry.skopeo_inspect("made/demo:v1", &[]).unwrap();
    let digest = found["Digest"].as_str().unwrap();
    assert!(told.contains(digest), "{told}");
    let known = ok(&agent, &["inspect", "--format", "{{index .RepoDigests 0}}", &pushed]);
    assert_eq!(known.trim(), registry.name(&format!("made/demo@{digest}")));
    // Every byte of it, by skopeo's own checks.
    registry.skopeo_pull("made/demo:v1", &agent.scratch.join("copy")).unwrap();

    assert!(ok(&agent, &["push", &pushed]).contains("Layer already exists"));
    let uploads = registry.requests("PUT /v2/");
    let told = ok(&agent, &["push", &twin]);
    assert!(told.contains("Mounted from made/demo"), "{told}");
    // The manifest, and the configuration, which no repository is known to have.
    assert_eq!(registry.requests("PUT /v2/") - uploads, 2);

    for name in [&pushed, &twin] {
        ok(&agent, &["rmi", name]);
    }
    ok(&agent, &["pull", &twin]);
    assert_eq!(ok(&agent, &["run", "--rm", &twin, "echo", "hi"]), "hi");
    let error = fails(&agent, &["push", &registry.name("made/demo:nothing")]);
    assert!(error.contains("No such image"), "{error}");
    drop(registry);
    agent.finish();
}

#[test]
fn docker_login_pull_and_push_work_over_tls_with_a_password() {
    skip_without_registry!();
    let scratch = TestAgent::prepare().unwrap();
    let certs = scratch.scratch.join("certs.d");
    let mut agent = scratch;
    agent.configure(&format!("[registries]\ncerts_dir = \"{}\"\n", certs.display())).unwrap();
    agent.spawn_with_image().unwrap();
    let options = Options { tls: true, password: true, ..Options::default() };
    let registry = TestRegistry::start(&agent.scratch.join("registry"), options).unwrap();
    let (address, name) = (registry.address.to_string(), registry.name("private:v1"));
    import(&agent, &name);
    let login = |password: &str| {
        let arguments = ["login", "-u", USER, "--password-stdin", &address];
        with_input(docker::command(&agent, &arguments), password)
    };

    // A certificate of an authority that nobody knows, also on loopback.
    let output = login(PASSWORD);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("is not trusted"), "{error}");
    let error = fails(&agent, &["pull", &name]);
    assert!(error.contains("is not trusted"), "{error}");

    let directory = certs.join(&address);
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::copy(registry.authority(), directory.join("ca.crt")).unwrap();
    let output = login("wrong");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("authentication required"), "{error}");
    let error = fails(&agent, &["push", &name]);
    assert!(error.contains("docker login"), "{error}");
    let output = login(PASSWORD);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}{}", agent.log());

    ok(&agent, &["push", &name]);
    let known = format!("{USER}:{PASSWORD}");
    let found = registry.skopeo_inspect("private:v1", &["--creds", &known]).unwrap();
    ok(&agent, &["rmi", &name]);
    let told = ok(&agent, &["pull", &name]);
    assert!(told.contains(found["Digest"].as_str().unwrap()), "{told}");
    assert_eq!(ok(&agent, &["run", "--rm", &name, "echo", "hi"]), "hi");

    ok(&agent, &["logout", &address]);
    let error = fails(&agent, &["pull", &name]);
    assert!(error.contains("access denied") && error.contains("docker login"), "{error}");
    assert!(!agent.log().contains(PASSWORD));
    drop(registry);
    agent.finish();
}

#[test]
fn our_own_verbs_log_in_push_pull_and_run_what_is_missing() {
    skip_without_registry!();
    let agent = TestAgent::start();
    let options = Options { password: true, ..Options::default() };
    let registry = TestRegistry::start(&agent.scratch.join("registry"), options).unwrap();
    let (address, name) = (registry.address.to_string(), registry.name("demo:v1"));
    import(&agent, &name);
    let tenantry = |arguments: &[&str], input: &str| {
        let mut command = agent.client(arguments);
        command.env("DOCKER_CONFIG", agent.scratch.join("docker"));
        with_input(command, input)
    };
    #[track_caller]
    fn said(output: &Output) -> String {
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
    let output = tenantry(&["image", "push", &name], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("access denied"), "{output:?}");
    let login = ["login", "-u", USER, "--password-stdin", &address];
    assert!(!tenantry(&login, "wrong\n").status.success());
    assert_eq!(said(&tenantry(&login, &format!("{PASSWORD}\n"))), "Login Succeeded\n");
    assert!(said(&tenantry(&["image", "push", &name], "")).contains("v1: digest: sha256:"));
    // Docker's client reads what ours wrote.
    ok(&agent, &["pull", &name]);
    ok(&agent, &["rmi", &name]);
    let run = ["run", "--rm", &name, "echo", "hi"];
    let never = ["run", "--pull", "never", "--rm", &name, "echo", "hi"];
    assert!(!tenantry(&never, "").status.success());
    assert_eq!(said(&tenantry(&run, "")), "hi\n");
    assert!(said(&tenantry(&["image", "pull", &name], "")).contains("Image is up to date"));
    said(&tenantry(&["logout", &address], ""));
    let output = tenantry(&["image", "pull", &name], "");
    assert!(String::from_utf8_lossy(&output.stderr).contains("access denied"), "{output:?}");
    drop(registry);
    agent.finish();
}

#[test]
fn an_index_gives_the_platform_that_is_asked_for() {
    skip_without_registry!();
    let agent = agent_with("");
    let registry =
        TestRegistry::start(&agent.scratch.join("registry"), Options::default()).unwrap();
    let layout = agent.scratch.join("layout");
    let digest = registry::write_index_layout(&layout, &["amd64", "arm64"]).unwrap();
    registry.skopeo_push_all(&layout, "multi:v1").unwrap();
    let name = registry.name("multi:v1");

    let told = ok(&agent, &["pull", &name]);
    assert!(told.contains(&format!("Digest: {digest}")), "{told}");
    let env =
        |agent: &TestAgent| ok(agent, &["inspect", "--format", "{{index .Config.Env 0}}", &name]);
    assert_eq!(env(&agent).trim(), "FOR=amd64");
    // The index's digest is a name, as Docker has it.
    ok(&agent, &["inspect", &registry.name(&format!("multi@{digest}"))]);
    ok(&agent, &["pull", "--platform", "linux/arm64", &name]);
    assert_eq!(env(&agent).trim(), "FOR=arm64");
    let error = fails(&agent, &["pull", "--platform", "linux/s390x", &name]);
    assert!(error.contains("linux/s390x; it has linux/amd64, linux/arm64"), "{error}");
    let found = docker::output(&agent, &["manifest", "inspect", "--insecure", &name]);
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    drop(registry);
    agent.finish();
}
