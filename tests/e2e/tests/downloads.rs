//! Files from elsewhere: `ADD` of addresses and `docker import ADDRESS`. The server is the test's
//! own, and what comes of it is looked at in the containers.

use std::path::{Path, PathBuf};

use tenantry_e2e::agent::{IMAGE, TestAgent};
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::hostile_registry::{HostileRegistry, Reply, Request, digest};
use tenantry_e2e::{skip_without_docker, until};

#[track_caller]
fn fails(agent: &TestAgent, arguments: &[&str], expected: &str) {
    let output = docker::output(agent, arguments);
    let error = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "docker {} succeeded", arguments.join(" "));
    assert!(error.contains(expected), "`{expected}` is not in: {error}");
}

fn left(agent: &TestAgent, directory: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(agent.data_dir().join(directory)).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| !path.ends_with("cache.json")).collect()
}

const TEXT: &[u8] = b"fetched\n";
const MODIFIED: (&str, &str) = ("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT");

fn serve(request: &Request, before: usize, rootfs: &[u8]) -> Reply {
    match request.path.as_str() {
        "/text?x=/y" | "/dir/text" => Reply::status(200, &[MODIFIED], TEXT),
        "/moved" => Reply::status(302, &[("Location", "/dir/text")], b""),
        "/again" if before == 0 => Reply::status(503, &[("Retry-After", "0")], b""),
        "/again" => Reply::ok("text/plain", TEXT),
        "/rootfs.tar" => Reply::ok("application/x-tar", rootfs),
        "/cut" => Reply::Cut { promised: rootfs.len(), body: rootfs[..9].to_vec() },
        "/stalls" => Reply::Stall { promised: rootfs.len(), body: rootfs[..9].to_vec() },
        "/astray" => Reply::status(302, &[("Location", "file:///etc/passwd")], b""),
        "/circle" => Reply::status(302, &[("Location", "/circle")], b""),
        "/squeezed" => Reply::status(200, &[("Content-Encoding", "gzip")], b"x"),
        _ => Reply::status(404, &[], b""),
    }
}

fn start(rootfs: &Path) -> HostileRegistry {
    let rootfs = std::fs::read(rootfs).unwrap();
    let answer = move |request: &Request, before| serve(request, before, &rootfs);
    HostileRegistry::start("127.0.0.1", answer).unwrap()
}

fn agent() -> TestAgent {
    let config = "[registries]\npatience_s = 1\nattempts = 2\n";
    TestAgent::try_start_with(config).unwrap()
}

#[test]
fn add_fetches_what_an_address_names_and_copies_it_as_it_is() {
    skip_without_docker!();
    let agent = agent();
    let server = start(&agent.scratch.join("rootfs.tar"));
    let address = server.address;
    let context = agent.scratch.join("context");
    std::fs::create_dir(&context).unwrap();
    let build = |lines: &str| {
        let dockerfile =
            format!("FROM {IMAGE}\n{lines}\n").replace("@/", &format!("http://{address}/"));
        std::fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    };
    let arguments = ["build", "-t", "built", context.to_str().unwrap()];
    build(&format!(
        "ADD @/text?x=/y @/moved /data/\nADD --chown=1000:1000 --chmod=755 @/again /data/named\n\
         ADD @/rootfs.tar /data/\nADD --checksum={} @/dir/text /data/checked",
        digest(TEXT).unwrap()
    ));
    ok(&agent, &arguments);
    let script = "cd /data; cat text moved named checked; stat -c '%n %a %u:%g %Y' text named; \
                  head -c 0 rootfs.tar && echo whole";
    let seen = ok(&agent, &["run", "--rm", "built", "sh", "-c", script]);
    let named = seen.lines().nth(5).unwrap_or_default();
    assert!(seen.starts_with(&"fetched\n".repeat(4)), "{seen}");
    assert_eq!(seen.lines().nth(4), Some("text 600 0:0 784111777"), "{seen}");
    assert!(named.starts_with("named 755 1000:1000 "), "{seen}");
    // An archive from elsewhere is not unpacked, as Docker has it.
    assert!(seen.ends_with("whole"), "{seen}");
    // It is fetched again, and being the same, it is known.
    let before = server.requests_of("/rootfs.tar").len();
    assert_eq!(ok(&agent, &arguments).matches("Using cache").count(), 4);
    assert_eq!(server.requests_of("/rootfs.tar").len(), before + 1);

    for (lines, expected) in [
        ("ADD @/nothing /data/", "is not there"),
        ("ADD @/cut /data/", "broke off after 9 of"),
        ("ADD @/stalls /data/", "stalled"),
        ("ADD @/astray /data/", "without TLS"),
        ("ADD @/circle /data/", "redirects more than 5 times"),
        ("ADD @/squeezed /data/", "was not asked for"),
        ("ADD @/ /data/", "cannot determine filename from url"),
        ("ADD --checksum=sha256:00 @/dir/text /data/", "expected is sha256:00"),
        ("ADD @/dir/text Dockerfile /data/", "an ADD for each"),
        ("ADD http://jane:secret@host/x /data/", "without a user"),
        ("ADD git@host:repository /data/", "git repositories are not supported"),
        ("COPY @/dir/text /data/", "file not found in build context"),
    ] {
        build(lines);
        fails(&agent, &arguments, expected);
    }
    until("nothing of the builds is left", || left(&agent, "build").is_empty());
    assert_eq!(left(&agent, "images/tmp"), Vec::<PathBuf>::new());
    agent.finish();
}

#[test]
fn an_import_fetches_its_root_filesystem() {
    skip_without_docker!();
    let agent = agent();
    let server = start(&agent.scratch.join("rootfs.tar"));
    let address = |path: &str| format!("http://{}/{path}", server.address);
    let events = ["image", "ls", "-q"];
    let told = ok(&agent, &["import", "-c", "CMD echo hi", &address("rootfs.tar"), "made:v1"]);
    assert!(told.contains("sha256:"), "{told}");
    assert_eq!(ok(&agent, &["run", "--rm", "made:v1"]), "hi");
    let before = (ok(&agent, &events), left(&agent, "images/blobs/sha256"));
    for (path, expected) in [
        ("nothing", "is not there"),
        ("cut", "broke off after 9 of"),
        ("stalls", "stalled"),
        ("text?x=/y", "ends early, at byte 8"),
    ] {
        fails(&agent, &["import", &address(path), "other:v1"], expected);
    }
    assert_eq!((ok(&agent, &events), left(&agent, "images/blobs/sha256")), before);
    assert_eq!(left(&agent, "images/tmp"), Vec::<PathBuf>::new());
    agent.finish();
}
