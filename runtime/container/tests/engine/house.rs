//! One engine with everything around it, for one test, gone at its end.
//!
//! Owns set-up (own directories, cgroup parent and bridge: nothing is shared with
//! another test or with the machine's own containers) and the look for left-overs.

use std::{
    collections::HashMap,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use tenantry_cgroupfs::CgroupIds;
use tenantry_container::{
    ContainerConfig, CreateRequest, Engine, EngineConfig, ExecStdio, Identity, LimitsPatch,
    LogConfig, NetworkMode,
};
use tenantry_image::{ImportOptions, Store};
use tenantry_network::{NetworkConfig, Networks, NetworksConfig, Shape};
use tenantry_shim::log::{HEADER_BYTES, Header, Stream};

/// For what happens nearly at once, on a machine that has other things to do, too.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The part of the kernel registry: remembers who is registered.
#[derive(Debug, Default)]
pub struct Registrar {
    pub registered: Mutex<HashMap<String, CgroupIds>>,
    pub forgotten: Mutex<Vec<String>>,
    /// Fails the next registration, once.
    pub refuse: Mutex<bool>,
}

impl Identity for Registrar {
    fn register(&self, id: &str, cgroup: &CgroupIds) -> Result<(), String> {
        if std::mem::take(&mut *self.refuse.lock().unwrap()) {
            return Err("no slot is free".to_owned());
        }
        self.registered.lock().unwrap().insert(id.to_owned(), *cgroup);
        Ok(())
    }

    fn unregister(&self, id: &str, cgroup: &CgroupIds) {
        let removed = self.registered.lock().unwrap().remove(id);
        assert!(removed.is_none_or(|ids| ids == *cgroup), "another cgroup's ids");
    }

    fn forget(&self, id: &str) {
        self.forgotten.lock().unwrap().push(id.to_owned());
    }
}

pub struct House {
    pub engine: Engine,
    pub registrar: Arc<Registrar>,
    pub images: Arc<Store>,
    config: EngineConfig,
    network_config: NetworkConfig,
    dir: tempfile::TempDir,
    demolished: bool,
}

/// A test that fails leaves nothing behind either.
impl Drop for House {
    fn drop(&mut self) {
        if self.demolished {
            return;
        }
        let (engine, parent) = (self.engine.clone(), self.config.cgroup_parent.clone());
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            let clean = async {
                for snapshot in engine.list() {
                    let _ = engine.remove(&snapshot.record.id, true).await;
                }
                let _ = engine.networks().close().await;
            };
            let _ = runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(20), clean).await });
            let _ = engine.hierarchy().remove_parent(&parent);
        });
        let _ = cleaning.join();
    }
}

static HOUSES: AtomicU32 = AtomicU32::new(0);

fn shim_path() -> Result<PathBuf, String> {
    // target/TRIPLE/release/deps/engine-HASH
    let own = std::env::current_exe().map_err(|e| e.to_string())?;
    let beside = own.ancestors().nth(2).unwrap_or(Path::new("/")).to_path_buf();
    let directory = std::env::var_os("TENANTRY_BIN_DIR").map_or(beside, PathBuf::from);
    let built = directory.join("tenantry-shim");
    if built.exists() { Ok(built) } else { Err(format!("{} is not built", built.display())) }
}

/// `None` and a line that says why, where this machine cannot run containers.
pub async fn open() -> Option<House> {
    open_with_run_dir("run").await
}

/// As [`open`], with this path of the run directory.
pub async fn open_with_run_dir(run_dir: &str) -> Option<House> {
    match try_open(run_dir).await {
        Ok(house) => Some(house),
        Err(why) => {
            println!("SKIPPED: {why}");
            None
        }
    }
}

async fn try_open(run_dir: &str) -> Result<House, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("needs root".to_owned());
    }
    let busybox = Path::new("/bin/busybox");
    if !busybox.exists() {
        return Err("needs /bin/busybox (Debian package busybox-static)".to_owned());
    }
    let shim_path = shim_path()?;
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_test_writer()
        .try_init();
    let dir =
        tempfile::Builder::new().prefix("tenantry-engine-test-").tempdir().expect("a directory");
    let images = Arc::new(Store::open(&dir.path().join("images")).expect("an image store"));
    let options = ImportOptions { cmd: vec!["/bin/sh".into()], ..ImportOptions::default() };
    images.import("busybox", rootfs(busybox).as_slice(), options).expect("the image");
    let number = HOUSES.fetch_add(1, Ordering::Relaxed);
    let tag = format!("{:x}{number:x}", std::process::id());
    let config = EngineConfig {
        data_dir: dir.path().join("data"),
        run_dir: dir.path().join(run_dir),
        cgroup_parent: format!("tenantry-engine-test-{tag}"),
        shim_path,
        max_containers: 100,
        user_namespace_base: EngineConfig::DEFAULT_USER_NAMESPACE_BASE,
        restore_bandwidth: vec!["/bin/true".to_owned()],
        log: LogConfig::DEFAULT,
        limit_history: Arc::default(),
    };
    let network_config = network_config(&tag, number);
    let registrar = Arc::new(Registrar::default());
    let network = Networks::open(networks_config(&network_config, dir.path())).await;
    let network = network.map_err(|e| format!("no network can be made: {e}"))?;
    let engine = Engine::open(config.clone(), network, images.clone(), registrar.clone());
    let engine = engine.await.expect("the engine opens");
    let demolished = false;
    Ok(House { engine, registrar, images, config, network_config, dir, demolished })
}

fn network_config(tag: &str, number: u32) -> NetworkConfig {
    let second = 128 + std::process::id() % 96;
    NetworkConfig {
        bridge: format!("tt{tag}"),
        subnet: format!("10.{second}.{}.0/24", number % 256).parse().expect("a subnet"),
        table: format!("tenantry-engine-test-{tag}"),
        shape: Shape::default(),
    }
}

fn networks_config(default: &NetworkConfig, dir: &Path) -> NetworksConfig {
    let dir = dir.join("networks");
    let (default, max) = (default.clone(), NetworksConfig::DEFAULT_MAX);
    NetworksConfig { default, dir, max, name_servers: vec![] }
}

/// busybox under its usual names, a user, a group.
fn rootfs(busybox: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(vec![]);
    let mut directory = |path: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        tar.append_data(&mut header, path, std::io::empty()).unwrap();
    };
    for path in ["bin", "etc", "proc", "sys", "dev", "srv"] {
        directory(path, 0o755);
    }
    directory("tmp", 0o1777);
    let mut file = |path: &str, mode, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content).unwrap();
    };
    file("bin/busybox", 0o755, &fs::read(busybox).unwrap());
    file("bin/not-executable", 0o644, b"#!/bin/sh\n");
    file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/srv:/bin/sh\n");
    file("etc/group", 0o644, b"root:x:0:\napp:x:1000:\nlog:x:4:app\n");
    for name in [
        "sh", "true", "false", "sleep", "cat", "echo", "id", "pwd", "hostname", "head", "tail",
        "kill", "ls", "dd", "env", "ping", "wget", "grep", "touch", "mount", "wc",
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{name}"), "busybox").unwrap();
    }
    tar.into_inner().unwrap()
}

/// A request for `sh -c SCRIPT` without a network.
pub fn script(text: &str) -> CreateRequest {
    command(&["sh", "-c", text])
}

pub fn command(args: &[&str]) -> CreateRequest {
    CreateRequest {
        name: None,
        image: "busybox".into(),
        config: ContainerConfig {
            command: Some(args.iter().map(ToString::to_string).collect()),
            network: NetworkMode::None,
            ..ContainerConfig::default()
        },
        limits: LimitsPatch::default(),
    }
}

impl House {
    pub async fn start(&self, request: CreateRequest) -> String {
        let id = self.engine.create(request).await.expect("created");
        self.engine.start(&id).await.unwrap_or_else(|error| panic!("{}", error.chain()));
        id
    }

    /// Lets this engine go and opens another over the same directories, as an
    /// agent does that was killed and started again.
    pub async fn reopen(&mut self) {
        self.engine.close().await;
        self.registrar.registered.lock().unwrap().clear();
        let network = Networks::open(networks_config(&self.network_config, self.dir.path()))
            .await
            .expect("adopted");
        let (config, images) = (self.config.clone(), self.images.clone());
        let engine = Engine::open(config, network, images, self.registrar.clone()).await;
        self.engine = engine.expect("the engine opens again");
    }

    /// What the program wrote, by stream.
    pub fn output(&self, id: &str) -> (String, String) {
        let log = self.engine.log_path(id).expect("a log");
        read_log(&log)
    }

    pub fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.config.data_dir.join("containers").join(id)
    }

    pub fn bridge(&self) -> &str {
        &self.network_config.bridge
    }

    /// Everything that exists on this host because of this house's containers.
    pub fn left_overs(&self) -> Vec<String> {
        let mut found = vec![];
        let entries = |dir: &Path| -> Vec<String> {
            let list = fs::read_dir(dir).into_iter().flatten().flatten();
            list.map(|e| e.path().display().to_string()).collect()
        };
        found.extend(entries(&self.config.run_dir.join("shims")));
        let parent = self.engine.hierarchy().group(&self.config.cgroup_parent);
        let v1 = parent.v1_dirs().into_iter().map(|(_, dir)| dir);
        for dir in std::iter::once(parent.unified_dir().to_owned()).chain(v1) {
            found.extend(entries(&dir).into_iter().filter(|path| Path::new(path).is_dir()));
        }
        let ports = PathBuf::from(format!("/sys/class/net/{}/brif", self.bridge()));
        found.extend(entries(&ports));
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.dir.path().display().to_string();
        found.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        found.extend(self.registrar.registered.lock().unwrap().keys().cloned());
        found.extend(shims_of_this_process());
        found
    }

    /// The above must become empty.
    pub async fn expect_nothing_left(&self) {
        let patience = Instant::now() + PATIENCE;
        loop {
            let found = self.left_overs_but_living();
            if found.is_empty() {
                return;
            }
            assert!(Instant::now() < patience, "left over: {found:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Shims of other tests in this process are not this house's matter.
    fn left_overs_but_living(&self) -> Vec<String> {
        let own: Vec<_> = self.engine.list().iter().map(|s| s.record.id[..12].to_owned()).collect();
        let ours = |found: &String| {
            !found.starts_with("shim ") || own.iter().any(|short| found.contains(short.as_str()))
        };
        self.left_overs().into_iter().filter(ours).collect()
    }

    /// Removes all containers, the cgroup parent and the network.
    pub async fn demolish(mut self) {
        for snapshot in self.engine.list() {
            let _ = self.engine.remove(&snapshot.record.id, true).await;
        }
        self.expect_nothing_left().await;
        let containers = fs::read_dir(self.config.data_dir.join("containers")).unwrap();
        assert_eq!(containers.count(), 0, "directories of removed containers");
        self.engine.close().await;
        let removed = self.engine.hierarchy().remove_parent(&self.config.cgroup_parent);
        removed.expect("the cgroup parent is empty");
        self.engine.networks().close().await.expect("the network is removed");
        self.demolished = true;
    }
}

fn shims_of_this_process() -> Vec<String> {
    let mut found = vec![];
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        if !stat.contains("(tenantry-shim)") {
            continue;
        }
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        if parent == Some(&std::process::id().to_string()) {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            found.push(format!("shim {} {}", stat.trim(), line.replace('\0', " ")));
        }
    }
    found
}

pub fn read_log(path: &Path) -> (String, String) {
    let bytes = fs::read(path).unwrap_or_default();
    let (mut stdout, mut stderr) = (vec![], vec![]);
    let mut rest = bytes.as_slice();
    while let Some((header, tail)) = rest.split_first_chunk::<HEADER_BYTES>() {
        let header = Header::parse(header).expect("a frame");
        let (payload, tail) = tail.split_at(header.payload_bytes as usize);
        match header.stream {
            Stream::Stdout => stdout.extend_from_slice(payload),
            Stream::Stderr => stderr.extend_from_slice(payload),
        }
        rest = tail;
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (text(stdout), text(stderr))
}

/// `/dev/null`, and files for what an exec writes.
pub fn exec_stdio(dir: &Path) -> ExecStdio {
    let file = |name: &str| -> OwnedFd { fs::File::create(dir.join(name)).unwrap().into() };
    let stdin = fs::File::open("/dev/null").unwrap().into();
    ExecStdio::Pipes { stdin, stdout: file("out"), stderr: file("err") }
}
