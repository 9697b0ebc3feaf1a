//! A disk that is full, a clock that is wrong, a proxy on the way: clear errors, nothing half made
//! left, and the next try goes well. The witnesses are the file system, the registry's own log and
//! the proxy's.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tenantry_e2e::agent::TestAgent;
use tenantry_e2e::docker::{self, ok};
use tenantry_e2e::hostile_registry::{HostileRegistry, MANIFEST, Parts, Reply, Request, digest};
use tenantry_e2e::registry::{self, Options, TestRegistry, write_archive};
use tenantry_e2e::small_disk::SmallDisk;
use tenantry_e2e::{image, skip_without_docker, skip_without_registry, until};

#[track_caller]
fn fails(agent: &TestAgent, arguments: &[&str], expected: &[&str]) {
    let output = docker::output(agent, arguments);
    let error = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "docker {} succeeded", arguments.join(" "));
    for part in expected {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

/// Everything that the store has below these directories, and builds beside it.
fn stored(agent: &TestAgent) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for directory in ["images/tmp", "images/layers", "images/blobs/sha256", "build"] {
        let entries = std::fs::read_dir(agent.data_dir().join(directory));
        let entries = entries.into_iter().flatten().map(|entry| entry.unwrap().path());
        found.extend(entries.filter(|path| !path.ends_with("cache.json")));
    }
    found
}

fn serve(parts: &Parts, request: &Request) -> Reply {
    let blobs = [&parts.config, &parts.layer];
    let of = |content: &&&Vec<u8>| request.path.ends_with(&digest(content).unwrap());
    match blobs.iter().find(of) {
        _ if request.path.contains("/manifests/") => Reply::ok(MANIFEST, &parts.manifest),
        Some(blob) => Reply::ok("application/octet-stream", blob),
        None if request.path == "/v2/" => Reply::ok("application/json", b"{}"),
        None => Reply::status(404, &[], b""),
    }
}

#[test]
fn a_full_disk_ends_pulls_and_builds_and_leaves_room_for_the_next() {
    skip_without_docker!();
    let mut agent = TestAgent::prepare().unwrap();
    let disk = SmallDisk::mounted_at(agent.data_dir(), "20m");
    agent.configure("").unwrap();
    agent.spawn().unwrap();
    let parts = Parts::make("whole", 12 << 20).unwrap();
    let context = agent.scratch.join("context");
    std::fs::create_dir(&context).unwrap();
    std::fs::write(context.join("Dockerfile"), "FROM scratch\nCOPY layer /layer\n").unwrap();
    std::fs::write(context.join("layer"), &parts.layer).unwrap();
    let context = context.to_str().unwrap().to_owned();
    let registry =
        HostileRegistry::start("127.0.0.1", move |request, _| serve(&parts, request)).unwrap();
    let name = registry.name("big:v1");
    let full = "No space left on device";

    // The blob and its files are 24 MB.
    fails(&agent, &["pull", &name], &[full]);
    assert_eq!(stored(&agent), Vec::<PathBuf>::new());
    fails(&agent, &["build", "-t", "built", &context], &[full]);
    until("nothing of the build is left", || stored(&agent).is_empty());
    assert_eq!(ok(&agent, &["images", "-q", "-a"]), "");

    disk.resize("100m");
    ok(&agent, &["pull", &name]);
    ok(&agent, &["build", "-t", "built", &context]);
    // On a disk that is full to the last byte something can be removed, and then there is room.
    let filler = disk.fill();
    fails(&agent, &["tag", &name, "again"], &[full]);
    ok(&agent, &["rmi", &name]);
    ok(&agent, &["tag", "built", "again"]);
    std::fs::remove_file(filler).unwrap();
    ok(&agent, &["rmi", "built", "again"]);
    assert_eq!(stored(&agent), Vec::<PathBuf>::new());
    ok(&agent, &["pull", &name]);
    ok(&agent, &["rmi", &name]);

    agent.stop_agent();
    drop(disk);
    agent.spawn().unwrap();
    agent.finish();
}

#[test]
fn a_certificate_out_of_time_is_named_with_its_date_and_the_clock() {
    skip_without_registry!();
    for (validity, expected) in [
        (("20200101000000Z", "20210101000000Z"), "was valid until 2021-01-01T00:00:00Z"),
        (("20980101000000Z", "20990101000000Z"), "is valid from 2098-01-01T00:00:00Z"),
    ] {
        let mut agent = TestAgent::prepare().unwrap();
        let certs = agent.scratch.join("certs.d");
        let config = format!("[registries]\ncerts_dir = \"{}\"\n", certs.display());
        agent.configure(&config).unwrap();
        agent.spawn().unwrap();
        let options = Options { tls: true, validity: Some(validity), ..Options::default() };
        let registry = TestRegistry::start(&agent.scratch.join("registry"), options).unwrap();
        let directory = certs.join(registry.address.to_string());
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::copy(registry.authority(), directory.join("ca.crt")).unwrap();
        let address = format!("https://{}/", registry.address);
        let clock = "by this host's clock it is 20";
        let expected = [address.as_str(), "is not trusted", expected, clock];
        fails(&agent, &["pull", &registry.name("demo:v1")], &expected);
        // Nothing was said in the clear instead.
        assert_eq!(registry.requests("GET "), 0);
        assert_eq!(stored(&agent), Vec::<PathBuf>::new());
        drop(registry);
        agent.finish();
    }
}

/// A proxy that makes tunnels to one address, whatever it is asked for, and keeps the requests.
fn start_proxy(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&heads);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let log = Arc::clone(&log);
            std::thread::spawn(move || {
                // Who hangs up has its reasons.
                let _ = tunnel(client, to, &log);
            });
        }
    });
    (address, heads)
}

fn tunnel(mut client: TcpStream, to: SocketAddr, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while reader.read_line(&mut head)? > 2 {}
    log.lock().unwrap().push(head.clone());
    if !head.contains("Proxy-Authorization: Basic amFuZTpzZWNyZXQ=") {
        return client.write_all(b"HTTP/1.1 407 Who\r\n\r\n");
    }
    let mut server = TcpStream::connect(to)?;
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut back, mut forth) = (server.try_clone()?, client.try_clone()?);
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut back, &mut forth);
        let _ = forth.shutdown(std::net::Shutdown::Both);
    });
    std::io::copy(&mut reader, &mut server).map(drop)
}

#[test]
fn registries_are_reached_through_the_proxy_of_the_environment() {
    skip_without_registry!();
    let mut agent = TestAgent::prepare().unwrap();
    let options = Options { tls: true, ..Options::default() };
    let registry = TestRegistry::start(&agent.scratch.join("registry"), options).unwrap();
    let (proxy, heads) = start_proxy(registry.address);
    let port = registry.address.port();
    // Only the proxy knows where that is.
    let host = format!("{}:{port}", registry::NAME);
    let certs = agent.scratch.join("certs.d");
    for directory in [host.clone(), registry.address.to_string()] {
        std::fs::create_dir_all(certs.join(&directory)).unwrap();
        std::fs::copy(registry.authority(), certs.join(directory).join("ca.crt")).unwrap();
    }
    let (archive, rootfs) = (agent.scratch.join("image.tar"), agent.scratch.join("rootfs.tar"));
    image::write_rootfs(&rootfs).unwrap();
    write_archive(&archive, &rootfs, &[]).unwrap();
    registry.skopeo_push(&archive, "demo:v1").unwrap();
    let config = format!("[registries]\ncerts_dir = \"{}\"\n", certs.display());
    agent.configure(&config).unwrap();
    let name = format!("{host}/demo:v1");

    agent.spawn_with(&[("HTTPS_PROXY", &format!("http://jane:secret@{proxy}"))]).unwrap();
    ok(&agent, &["pull", &name]);
    assert_eq!(ok(&agent, &["run", "--rm", &name, "echo", "hi"]), "hi");
    ok(&agent, &["tag", &name, &format!("{host}/other:v1")]);
    ok(&agent, &["push", &format!("{host}/other:v1")]);
    let seen = heads.lock().unwrap().len();
    assert!(seen > 0);
    for head in heads.lock().unwrap().iter() {
        assert!(head.starts_with(&format!("CONNECT {host} HTTP/1.1\r\n")), "{head}");
    }
    // This host's own registries are not looked for elsewhere.
    ok(&agent, &["pull", &registry.name("demo:v1")]);
    assert_eq!(heads.lock().unwrap().len(), seen);
    agent.stop_agent();

    agent.spawn_with(&[("https_proxy", &format!("http://jane:wrong@{proxy}"))]).unwrap();
    let through = format!("through the proxy {proxy}");
    fails(&agent, &["pull", &name], &["cannot be reached", &through, "proxy authorization"]);
    assert!(!agent.log().contains("secret") && !agent.log().contains("wrong"), "{}", agent.log());
    agent.stop_agent();

    let proxies = [("HTTPS_PROXY", &*format!("http://{proxy}")), ("NO_PROXY", registry::NAME)];
    agent.spawn_with(&proxies).unwrap();
    let seen = heads.lock().unwrap().len();
    fails(&agent, &["pull", &name], &["cannot be reached"]);
    assert_eq!(heads.lock().unwrap().len(), seen);
    drop(registry);
    agent.finish();
}
