//! `docker build` of the stock client, through the classic builder's API, and
//! `tenantry build`. Results are looked at from outside: by running them, by the store's
//! files, and by the host's processes and directories.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tenantry_e2e::agent::{IMAGE, TestAgent, json};
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::registry::{Options, PASSWORD, TestRegistry, USER};
use tenantry_e2e::{skip_unless_possible, skip_without_docker, skip_without_registry, until};

/// A context: its files, by name.
fn context(agent: &TestAgent, name: &str, files: &[(&str, &str)]) -> PathBuf {
    let dir = agent.scratch.join(name);
    for (file, content) in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    dir
}

#[track_caller]
fn build(agent: &TestAgent, dir: &Path, flags: &[&str]) -> String {
    ok(agent, &[&["build"], flags, &[dir.to_str().unwrap()]].concat())
}

#[track_caller]
fn fails(agent: &TestAgent, dir: &Path, flags: &[&str]) -> (Option<i32>, String) {
    let arguments = [&["build"], flags, &[dir.to_str().unwrap()]].concat();
    let Output { status, stdout, stderr } = docker::command(agent, &arguments).output().unwrap();
    let text = [stdout, stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(!status.success(), "it was built: {text}");
    (status.code(), text)
}

/// The configuration of an image, as its file in the store has it.
fn config(agent: &TestAgent, name: &str) -> Value {
    let id = ok(agent, &["image", "inspect", "--format", "{{.Id}}", name]);
    let hex = id.trim().strip_prefix("sha256:").expect("an id").to_owned();
    let blob = agent.data_dir().join("images/blobs/sha256").join(hex);
    json(&fs::read_to_string(blob).expect("the image's configuration"))
}

/// What builds must not leave: directories of theirs, sessions of the store's, containers.
#[track_caller]
fn nothing_is_left(agent: &TestAgent) {
    let names = |dir: &str| -> Vec<String> {
        let entries = fs::read_dir(agent.data_dir().join(dir)).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    };
    until("the build's directory is gone", || {
        names("build").iter().all(|name| name == "cache.json")
    });
    until("the store's sessions are gone", || names("images/tmp").is_empty());
    until("containers are gone", || agent.ok(&["ps", "-a", "-q"]).is_empty());
}

const EVERYTHING: &str = r#"# escape=\
ARG BASE=demo
FROM $BASE AS tools
ARG GREETING=hello
# A comment between.
RUN mkdir /out && \
    # and one inside
    echo "$GREETING" > /out/greeting && chmod 4711 /out/greeting

FROM demo AS unused
RUN echo this must not run && false

FROM demo AS result
MAINTAINER somebody
ENV A=1 B="two words" PATH=$PATH:/opt/bin
ENV C=${A}${MISSING:-x}
ARG VERSION=9
LABEL version=$VERSION what="a \"test\""
WORKDIR /srv
WORKDIR app
COPY --from=tools /out/ ./from_tools/
COPY --chown=web:web --chmod=640 one.txt two.txt ./
COPY *.cfg conf/
COPY tree tree
COPY <<EOF /etc/motd
version $VERSION
EOF
ADD archive.tar.gz /unpacked/
RUN ["/bin/sh", "-c", "echo exec form > exec.txt"]
RUN <<EOF
echo script > script.txt
pwd >> script.txt
EOF
SHELL ["/bin/sh", "-ec"]
USER web
RUN echo I am $(id -u)
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN echo triggered > /triggered
ENTRYPOINT ["/bin/echo"]
CMD ["from", "cmd"]
"#;

fn everything(agent: &TestAgent) -> PathBuf {
    let dir = context(
        agent,
        "everything",
        &[
            ("Dockerfile", EVERYTHING),
            (".dockerignore", "**/*.log\n!tree/kept.log\n"),
            ("one.txt", "one\n"),
            ("two.txt", "two\n"),
            ("a.cfg", "a\n"),
            ("b.cfg", "b\n"),
            ("tree/inner/file", "inner\n"),
            ("tree/gone.log", "gone\n"),
            ("tree/kept.log", "kept\n"),
        ],
    );
    symlink("inner/file", dir.join("tree/link")).unwrap();
    fs::set_permissions(dir.join("tree/inner"), fs::Permissions::from_mode(0o750)).unwrap();
    let packed = Command::new("tar")
        .args(["--owner=7", "--group=8", "--numeric-owner", "-czf"])
        .arg(dir.join("archive.tar.gz"))
        .arg("-C")
        .arg(&dir)
        .arg("one.txt")
        .status();
    assert!(packed.unwrap().success());
    dir
}

#[test]
fn a_dockerfile_with_most_instructions_makes_the_image_that_it_says() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let dir = everything(&agent);
    let names = ["-t", "result:1", "-t", "again", "--compress"];
    let flags = [&names[..], &["--build-arg", "GREETING=hi", "--label", "own=x"]].concat();
    let text = build(&agent, &dir, &flags);
    assert!(text.contains("Step 1/") && text.contains("ARG BASE=demo"), "{text}");
    assert!(!text.contains("this must not run"), "an unneeded stage was built: {text}");
    assert!(text.contains("\nI am 1000\n"), "{text}");
    assert!(text.contains("Successfully built "), "{text}");
    assert!(text.contains("Successfully tagged result:1"), "{text}");
    assert!(text.contains("Successfully tagged again:latest"), "{text}");
    assert_eq!(ok(&agent, &["run", "--rm", "result:1"]), "from cmd");
    let sh = |script: &str| {
        let flags = ["run", "--rm", "--entrypoint", "/bin/sh", "--user", "0", "again"];
        ok(&agent, &[&flags[..], &["-c", script]].concat())
    };
    let check = |script: &str, expected: &str| assert_eq!(sh(script), expected, "{script}");
    check(
        "pwd; echo $A-$B-$C; echo $PATH | grep -o '[^:]*$'",
        "/srv/app\n1-two words-1x\n/opt/bin",
    );
    check("cat from_tools/greeting; stat -c %a from_tools/greeting", "hi\n4711");
    check(
        "cat one.txt two.txt; stat -c '%u:%g %a' one.txt two.txt",
        "one\ntwo\n1000:1000 640\n1000:1000 640",
    );
    check("cat conf/a.cfg conf/b.cfg; stat -c %u:%g conf/a.cfg", "a\nb\n0:0");
    check("cat tree/link; readlink tree/link; stat -c %a tree/inner", "inner\ninner/file\n750");
    check("ls tree", "inner\nkept.log\nlink");
    check(
        "cat /etc/motd /unpacked/one.txt; stat -c %u:%g /unpacked/one.txt",
        "version 9\none\n7:8",
    );
    check("cat exec.txt script.txt", "exec form\nscript\n/srv/app");
    // Mount points of the runtime's that the image lacks are no change of a step's.
    check("ls -la /etc | grep -c resolv.conf", "1");
    let document = config(&agent, "result:1");
    let config = &document["config"];
    assert_eq!(document["author"], "somebody");
    assert_eq!(config["User"], "web");
    assert_eq!(config["Labels"]["version"], "9");
    assert_eq!(config["Labels"]["what"], "a \"test\"");
    assert_eq!(config["Labels"]["own"], "x");
    assert_eq!(config["StopSignal"], "SIGINT");
    assert_eq!(config["Healthcheck"]["Test"][1], "true");
    assert_eq!(config["Healthcheck"]["Interval"], 5_000_000_000_i64);
    assert_eq!(config["OnBuild"][0], "RUN echo triggered > /triggered");
    assert_eq!(config["Shell"][1], "-ec");
    assert!(config["ExposedPorts"]["53/udp"].is_object() && config["Volumes"]["/data"].is_object());
    let layers = document["rootfs"]["diff_ids"].as_array().unwrap().len();
    let steps = document["history"].as_array().unwrap();
    let with_layer = steps.iter().filter(|step| step["empty_layer"] != true).count();
    assert_eq!(with_layer, layers, "{steps:#?}");
    assert_eq!(steps.last().unwrap()["empty_layer"], true);

    // Built upon, the trigger runs.
    let child = context(&agent, "child", &[("Dockerfile", "FROM again\nUSER 0\n")]);
    let (_, text) = fails(&agent, &child, &[]);
    assert!(text.contains("# Executing 1 build trigger"), "{text}");
    assert!(text.contains("Permission denied"), "USER web cannot write to /: {text}");
    let child = context(
        &agent,
        "fine",
        &[(
            "Dockerfile",
            "FROM demo AS a\nONBUILD RUN echo triggered > /triggered\nFROM a\nCMD [\"cat\", \"/triggered\"]\n",
        )],
    );
    build(&agent, &child, &["-t", "child"]);
    assert_eq!(ok(&agent, &["run", "--rm", "child"]), "triggered");
    nothing_is_left(&agent);
    agent.finish();
}

/// How many of its steps were taken from the cache, and the image's id.
fn cached(text: &str) -> (usize, String) {
    let id = text.lines().find_map(|line| line.strip_prefix("Successfully built "));
    (text.matches("Using cache").count(), id.expect("an id").to_owned())
}

#[test]
fn what_did_not_change_is_not_done_again() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let dockerfile = "FROM demo\nARG A\nENV E=1\nCOPY file /file\nRUN echo $A > /a\nWORKDIR /new\n\
                      RUN date +%s%N > when\nLABEL l=1\nCMD [\"cat\", \"/new/when\"]\n";
    let dir = context(&agent, "cached", &[("Dockerfile", dockerfile), ("file", "1")]);
    const STEPS: usize = 8;
    let (hits, first) = cached(&build(&agent, &dir, &["-t", "c"]));
    assert_eq!(hits, 0);
    let when = ok(&agent, &["run", "--rm", "c"]);
    let begun = std::time::Instant::now();
    let (hits, second) = cached(&build(&agent, &dir, &["-t", "c"]));
    println!("fully cached: {:?}", begun.elapsed());
    assert_eq!((hits, &second), (STEPS, &first));
    assert_eq!(ok(&agent, &["run", "--rm", "c"]), when);
    // Another time of the same file is no change; another content is, from there on.
    let file = fs::File::open(dir.join("file")).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(cached(&build(&agent, &dir, &["-t", "c"])).0, STEPS);
    fs::write(dir.join("file"), "2").unwrap();
    let (hits, third) = cached(&build(&agent, &dir, &["-t", "c"]));
    assert_eq!(hits, 2);
    assert_ne!(third, first);
    // An argument counts where a command sees it.
    let (hits, _) = cached(&build(&agent, &dir, &["--build-arg", "A=x"]));
    assert_eq!(hits, 3);
    // What stood there before is still known.
    fs::write(dir.join("file"), "1").unwrap();
    assert_eq!(cached(&build(&agent, &dir, &["-t", "c"])), (STEPS, first.clone()));
    let (hits, anew) = cached(&build(&agent, &dir, &["--no-cache"]));
    assert_eq!(hits, 0);
    assert_ne!(anew, first);
    // The cache outlives the agent, and is forgotten when it is told to.
    let mut agent = agent;
    agent.stop_agent();
    agent.spawn().unwrap();
    assert_eq!(cached(&build(&agent, &dir, &["-t", "c"])), (STEPS, anew));
    ok(&agent, &["builder", "prune", "-f"]);
    assert_eq!(cached(&build(&agent, &dir, &["-t", "c"])).0, 0);
    nothing_is_left(&agent);
    agent.finish();
}

#[test]
fn a_mistake_is_told_with_its_line_and_a_failed_command_with_its_code() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let check = |dockerfile: &str, code: i32, expected: &str| {
        let dir = context(&agent, "wrong", &[("Dockerfile", dockerfile), ("a", ""), ("b", "")]);
        let (found, text) = fails(&agent, &dir, &["-t", "wrong"]);
        assert!(text.contains(expected), "{dockerfile}: {text}");
        assert_eq!(found, Some(code), "{dockerfile}: {text}");
    };
    check("FROM demo\n\nFRM x\n", 1, "dockerfile parse error on line 3: unknown instruction: FRM");
    check("FROM demo\nCOPY a\n", 1, "on line 2: COPY requires at least two arguments");
    check("FROM demo\nRUN --mount=type=cache x\n", 1, "requires BuildKit");
    check(
        "FROM demo\n# three\nRUN exit 3\n",
        3,
        "Dockerfile:3: The command '/bin/sh -c exit 3' returned a non-zero code: 3",
    );
    check("FROM demo\nRUN [\"/no/such\"]\n", 1, "Dockerfile:2: ");
    check("FROM demo\nCOPY c /\n", 1, "Dockerfile:2: COPY failed: file not found in build context");
    check("FROM demo\nCOPY ../c /\n", 1, "forbidden path outside the build context");
    check("FROM demo\nCOPY a b /c\n", 1, "the destination must be a directory and end with a /");
    check("FROM demo\nCOPY --chown=nobody a /\n", 1, "the image has no such user");
    check("FROM demo\nEXPOSE web\n", 1, "Dockerfile:2: invalid containerPort: web");
    check("FROM demo\nADD git@example.com:x /\n", 1, "git repositories are not supported");
    check("FROM scratch\n", 1, "No image was generated");
    check("FROM --platform=linux/riscv64 demo\n", 1, "linux/riscv64");
    let dir = context(&agent, "target", &[("Dockerfile", "FROM demo AS a\nFROM demo AS b\n")]);
    let (_, text) = fails(&agent, &dir, &["--target", "x"]);
    assert!(text.contains("build target x") && text.contains("a, b"), "{text}");
    let (_, text) = fails(&agent, &dir, &["-f", dir.join("none").to_str().unwrap()]);
    assert!(text.contains("none"), "{text}");
    assert!(!ok(&agent, &["images"]).contains("wrong"), "a failed build has no name");
    nothing_is_left(&agent);
    agent.finish();
}

#[test]
fn a_copy_through_hostile_symlinks_stays_inside() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let outside = agent.scratch.join("outside");
    fs::create_dir(&outside).unwrap();
    let path = outside.to_str().unwrap();
    let up = "../".repeat(30);
    // In the image, links to places of the host's, as the base, and copies through them.
    let dockerfile = format!(
        "FROM demo AS evil\nRUN mkdir -p {path} && ln -s {path} /absolute && ln -s {up}{path} /up \
         && ln -s {path}/file /link\nFROM evil\nCOPY file /absolute/\nCOPY file /up/climbed\n\
         COPY file /link\nCOPY --from=evil /absolute /copied\nRUN cat {path}/file {path}/climbed /link\n"
    );
    let dir = context(&agent, "evil", &[("Dockerfile", &dockerfile), ("file", "content\n")]);
    let text = build(&agent, &dir, &["-t", "evil"]);
    assert!(text.contains("content\ncontent\ncontent\n"), "{text}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0, "written to the host");
    // In the context, links that lead out of it.
    let secret = outside.join("secret");
    fs::write(&secret, "secret").unwrap();
    let dir = context(&agent, "leak", &[("Dockerfile", "FROM demo\nCOPY link /\n")]);
    symlink(&secret, dir.join("link")).unwrap();
    let (_, text) = fails(&agent, &dir, &[]);
    assert!(text.contains("COPY failed") && !text.contains("content"), "{text}");
    // A Dockerfile that is one.
    let dir = context(&agent, "leak2", &[("x", "")]);
    symlink(&secret, dir.join("Dockerfile")).unwrap();
    let (_, text) = fails(&agent, &dir, &[]);
    assert!(!text.contains("secret\n"), "{text}");
    nothing_is_left(&agent);
    agent.finish();
}

#[test]
fn a_base_that_is_not_here_is_pulled_with_the_clients_credentials() {
    skip_without_registry!();
    let agent = TestAgent::start();
    let options = Options { password: true, ..Options::default() };
    let registry = TestRegistry::start(&agent.scratch.join("registry"), options).unwrap();
    let (address, name) = (registry.address.to_string(), registry.name("base:v1"));
    let rootfs = agent.scratch.join("rootfs.tar");
    agent.ok(&["image", "import", &name, rootfs.to_str().unwrap()]);
    let dockerfile =
        format!("FROM {name}\nCOPY --from={name} /etc/passwd /copied\nRUN cat /copied\n");
    let dir = context(&agent, "pulled", &[("Dockerfile", &dockerfile)]);
    ok(&agent, &["login", "-u", USER, "-p", PASSWORD, &address]);
    ok(&agent, &["push", &name]);
    ok(&agent, &["rmi", &name]);
    let text = build(&agent, &dir, &["-t", "pulled"]);
    assert!(text.contains("Pulling from base") && text.contains("root:x:0:0"), "{text}");
    let (_, second) = cached(&build(&agent, &dir, &["--pull"]));
    assert_eq!(second, cached(&text).1, "what is pulled again is the same");
    // Without them, the registry's refusal is the build's, with the line.
    ok(&agent, &["logout", &address]);
    ok(&agent, &["rmi", &name]);
    let (_, text) = fails(&agent, &dir, &["--no-cache"]);
    assert!(text.contains("Dockerfile:1: access denied for"), "{text}");
    nothing_is_left(&agent);
    drop(registry);
    agent.finish();
}

#[test]
fn a_dockerfile_alone_may_come_by_standard_input() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let mut client = docker::command(&agent, &["build", "--network", "none", "-t", "alone", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"FROM demo\nRUN ls /sys/class/net > /net\n").unwrap();
    drop(stdin);
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(ok(&agent, &["run", "--rm", "alone", "cat", "/net"]), "lo");
    // The builder's own label is nobody else's: the next agent removes what has it.
    let flags = ["create", "--label", "tenantry.build=1", IMAGE];
    let refused = docker::command(&agent, &flags).output().unwrap();
    assert!(!refused.status.success());
    nothing_is_left(&agent);
    agent.finish();
}

#[test]
fn an_agent_that_ends_takes_the_steps_with_it() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let (mut client, container) = sleeping(&agent);
    let pid = agent.pid_of(&container);
    agent.stop_agent();
    assert!(!client.wait().unwrap().success());
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "the step goes on");
    agent.spawn().unwrap();
    nothing_is_left(&agent);
    agent.finish();
}

/// A build that sleeps in its third step, and the container it does so in.
fn sleeping(agent: &TestAgent) -> (std::process::Child, String) {
    let dockerfile = "FROM demo\nRUN echo one > /one\nRUN sleep 1000\n";
    let dir = context(agent, "sleeping", &[("Dockerfile", dockerfile)]);
    let arguments = ["build", "-t", "sleeping", dir.to_str().unwrap()];
    let client =
        docker::command(agent, &arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut running = String::new();
    until("the step runs", || {
        let ps = agent.ok(&["ps", "-q"]);
        running = ps.lines().next().unwrap_or_default().to_owned();
        !running.is_empty() && {
            let listed = agent.inspect(&running);
            listed["Config"]["Cmd"].to_string().contains("sleep 1000")
        }
    });
    (client.unwrap(), running)
}

#[test]
fn a_client_that_goes_away_takes_the_step_with_it() {
    skip_without_docker!();
    let agent = TestAgent::start();
    let (mut client, container) = sleeping(&agent);
    let pid = agent.pid_of(&container);
    client.kill().unwrap();
    client.wait().unwrap();
    until("the command is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    nothing_is_left(&agent);
    assert!(!ok(&agent, &["images"]).contains("sleeping"));
    // The first step was done, and is not lost.
    let dockerfile = "FROM demo\nRUN echo one > /one\nRUN cat /one\n";
    let dir = context(&agent, "sleeping", &[("Dockerfile", dockerfile)]);
    assert_eq!(cached(&build(&agent, &dir, &[])).0, 1);
    agent.finish();
}

#[test]
fn an_agent_killed_in_the_middle_leaves_a_consistent_store_and_no_container() {
    skip_without_docker!();
    let mut agent = TestAgent::start();
    let (mut client, container) = sleeping(&agent);
    let pid = agent.pid_of(&container);
    agent.kill_nine();
    client.wait().unwrap();
    agent.spawn().unwrap();
    until("the command is gone", || !Path::new(&format!("/proc/{pid}")).exists());
    nothing_is_left(&agent);
    assert!(!ok(&agent, &["images"]).contains("sleeping"));
    // Every blob that the store names is there, and is what its name says.
    let images = json(&fs::read_to_string(agent.data_dir().join("images/images.json")).unwrap());
    for (manifest, image) in images["images"].as_object().unwrap() {
        for digest in [manifest.as_str(), image["id"].as_str().unwrap()] {
            let hex = digest.strip_prefix("sha256:").unwrap();
            let blob = agent.data_dir().join("images/blobs/sha256").join(hex);
            let sum = Command::new("sha256sum").arg(&blob).output().unwrap();
            assert!(sum.stdout.starts_with(hex.as_bytes()), "{}", blob.display());
        }
    }
    let dir = context(&agent, "after", &[("Dockerfile", "FROM demo\nRUN echo fine > /x\n")]);
    build(&agent, &dir, &["-t", "after"]);
    assert_eq!(ok(&agent, &["run", "--rm", "after", "cat", "/x"]), "fine");
    agent.finish();
}

#[test]
fn tenantry_build_does_the_same() {
    skip_unless_possible!();
    let agent = TestAgent::start();
    let dockerfile = "FROM demo\nARG A=1\nCOPY . /all/\nRUN echo $A > /a\n";
    let files =
        [("Dockerfile", dockerfile), (".dockerignore", "*.log\n"), ("x.log", ""), ("y.txt", "y\n")];
    let dir = context(&agent, "own", &files);
    let path = dir.to_str().unwrap();
    let text = agent.ok(&["build", "-t", "own:2", "--build-arg", "A=2", path]);
    assert!(text.contains("Step 4/4") && text.contains("Successfully tagged own:2"), "{text}");
    let ls = agent.ok(&["run", "--rm", "own:2", "sh", "-c", "ls /all; cat /a"]);
    assert_eq!(ls, "Dockerfile\ny.txt\n2\n");
    let id = agent.ok(&["build", "-q", "--build-arg", "A=2", path]);
    assert!(id.starts_with("sha256:") && id.lines().count() == 1, "{id}");
    fs::write(dir.join("Dockerfile"), format!("FROM {IMAGE}\nRUN exit 9\n")).unwrap();
    let (code, error) = agent.fails(&["build", path]);
    assert_eq!(code, 9);
    assert!(error.contains("Dockerfile:2: The command '/bin/sh -c exit 9'"), "{error}");
    nothing_is_left(&agent);
    agent.finish();
}
