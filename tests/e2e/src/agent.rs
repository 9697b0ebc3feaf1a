//! An agent of the test's own: its own directories, cgroup parent, bridge and
//! port, so that several can run side by side and beside a real one.

use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::host::HostState;
use crate::{cgroup, image, patience, programs, scrape};

#[derive(Debug)]
pub struct TestAgent {
    pub scratch: PathBuf,
    pub cgroup_parent: String,
    pub bridge: String,
    pub listen: SocketAddr,
    child: Option<Child>,
    before: HostState,
    kept: bool,
}

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// The image that [`TestAgent::start`] imports: busybox and the workload.
pub const IMAGE: &str = "demo";

impl TestAgent {
    /// A running agent with [`IMAGE`] in its store.
    pub fn start() -> Self {
        Self::try_start().expect("the agent starts")
    }

    pub fn try_start() -> Result<Self> {
        Self::try_start_with("")
    }

    /// With this text as its configuration file.
    pub fn try_start_with(config: &str) -> Result<Self> {
        let mut agent = Self::prepare()?;
        agent.configure(config)?;
        agent.spawn_with_image()?;
        Ok(agent)
    }

    /// As [`Self::spawn`], and imports [`IMAGE`].
    pub fn spawn_with_image(&mut self) -> Result<()> {
        self.spawn()?;
        self.import_image()
    }

    /// Into an agent that runs.
    pub fn import_image(&self) -> Result<()> {
        let rootfs = self.scratch.join("rootfs.tar");
        image::write_rootfs(&rootfs)?;
        self.run(&["image", "import", IMAGE, path(&rootfs)]).map(drop)
    }

    /// Writes its configuration file, which it reads when it is spawned.
    pub fn configure(&self, config: &str) -> Result<()> {
        let network = format!("[network]\nbridge = \"{}\"\n", self.bridge);
        // Its keys without a section stand before any section.
        Ok(std::fs::write(self.scratch.join("agent.toml"), format!("{config}\n{network}"))?)
    }

    /// With this policy for its controller, and `config` for the rest.
    pub fn try_start_with_policy(policy: &str, config: &str) -> Result<Self> {
        let mut agent = Self::prepare()?;
        let path = agent.policy_file();
        std::fs::write(&path, policy)?;
        agent.configure(&format!("{config}\n[control]\npolicy = \"{}\"\n", path.display()))?;
        agent.spawn_with_image()?;
        Ok(agent)
    }

    /// Where [`try_start_with_policy`](Self::try_start_with_policy) puts it.
    pub fn policy_file(&self) -> PathBuf {
        self.scratch.join("policy.toml")
    }

    /// Directories and a free port, but no agent yet.
    pub fn prepare() -> Result<Self> {
        let before = HostState::take();
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("tenantry-t{}-{serial}", std::process::id());
        let scratch = scratch_root().join(&name);
        std::fs::create_dir_all(&scratch)?;
        let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let bridge = format!("tn{}x{serial}", std::process::id());
        Ok(Self { scratch, cgroup_parent: name, bridge, listen, child: None, before, kept: false })
    }

    pub fn run_dir(&self) -> PathBuf {
        // Short, because socket paths are.
        Path::new("/run").join(&self.cgroup_parent)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.scratch.join("data")
    }

    pub fn docker_socket(&self) -> PathBuf {
        self.run_dir().join("docker.sock")
    }

    /// Starts, or starts again, the agent and waits until it is ready.
    pub fn spawn(&mut self) -> Result<()> {
        self.spawn_as(self.configured_command())
    }

    /// The same, with these variables in its environment.
    pub fn spawn_with(&mut self, variables: &[(&str, &str)]) -> Result<()> {
        let mut command = self.configured_command();
        command.envs(variables.iter().copied());
        self.spawn_as(command)
    }

    /// The same, in a cgroup that is somebody else's.
    pub fn spawn_in(&mut self, cgroup: &Cgroup) -> Result<()> {
        let command = self.configured_command();
        let words = std::iter::once(command.get_program()).chain(command.get_args());
        let words: Vec<&str> = words.filter_map(|word| word.to_str()).collect();
        self.spawn_as(cgroup.command(&words.join(" ")))
    }

    /// The same, in a mount namespace of its own, where nothing is shared with the host's.
    pub fn spawn_with_own_mounts(&mut self) -> Result<()> {
        let command = self.configured_command();
        let mut unshared = Command::new("unshare");
        unshared.args(["--mount", "--propagation", "private"]);
        unshared.arg(command.get_program()).args(command.get_args());
        self.spawn_as(unshared)
    }

    fn spawn_as(&mut self, mut command: Command) -> Result<()> {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.scratch.join("agent.log"))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // An interrupt at the terminal is for the test, which then ends the agent.
            .process_group(0)
            .spawn()
            .with_context(|| format!("{}/tenantry", programs().display()))?;
        let deadline = std::time::Instant::now() + patience(20);
        while scrape::get(self.listen, "/ready").is_err() {
            if let Some(status) = child.try_wait()? {
                anyhow::bail!("the agent ended with {status}:\n{}", self.log());
            }
            ensure!(
                std::time::Instant::now() < deadline,
                "the agent is not ready:\n{}",
                self.log()
            );
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.child = Some(child);
        Ok(())
    }

    fn configured_command(&self) -> Command {
        let mut command = self.agent_command();
        command.arg("--config").arg(self.scratch.join("agent.toml"));
        command
    }

    /// `tenantry agent` with this agent's directories, not started.
    pub fn agent_command(&self) -> Command {
        let mut command = Command::new(programs().join("tenantry"));
        command
            .arg("agent")
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .args(["--listen", &self.listen.to_string()])
            .args(["--cgroup-parent", &self.cgroup_parent]);
        command
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("agent.log")).unwrap_or_default()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the agent runs").id()
    }

    /// A client verb, ready to run.
    pub fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(programs().join("tenantry"));
        command.env("TENANTRY_RUN_DIR", self.run_dir()).args(arguments);
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.client(arguments).stdin(Stdio::null()).output().expect("the client runs")
    }

    /// A client verb that must succeed; its standard output.
    pub fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.output(arguments);
        ensure!(
            output.status.success(),
            "tenantry {}: {}\n{}\nagent's log:\n{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// As [`Self::run`], for tests.
    #[track_caller]
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// A client verb that must fail; its code and standard error.
    #[track_caller]
    pub fn fails(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.output(arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "tenantry {} succeeded", arguments.join(" "));
        (output.status.code().unwrap_or(-1), error)
    }

    /// A container that runs [`IMAGE`] in the background.
    pub fn run_detached(&self, name: &str, flags: &[&str], command: &[&str]) -> Result<()> {
        let arguments = [&["run", "-d", "--name", name], flags, &[IMAGE], command].concat();
        self.run(&arguments).map(drop)
    }

    /// `inspect`, Docker's view.
    pub fn inspect(&self, name: &str) -> Value {
        json(&self.ok(&["inspect", name]))[0].take()
    }

    /// `inspect --native`.
    pub fn native(&self, name: &str) -> Value {
        json(&self.ok(&["inspect", "--native", name]))[0].take()
    }

    /// `stats --json` of one running container.
    pub fn stats(&self, name: &str) -> Value {
        json(&self.ok(&["stats", "--json", name]))[0].take()
    }

    pub fn address(&self, name: &str) -> String {
        self.native(name)["address"].as_str().unwrap_or_default().to_owned()
    }

    /// The host's own address on the bridge of a running container.
    pub fn gateway_of(&self, name: &str) -> String {
        let address = self.address(name);
        let (network, _) = address.rsplit_once('.').expect("an IPv4 address");
        format!("{network}.1")
    }

    /// Of a running container's first process, as the host sees it.
    pub fn pid_of(&self, name: &str) -> u32 {
        let pid = self.native(name)["pid"].as_u64().expect("it runs");
        u32::try_from(pid).expect("process ids are small")
    }

    pub fn state(&self, name: &str) -> String {
        self.native(name)["state"].as_str().unwrap_or_default().to_owned()
    }

    pub fn metrics(&self) -> scrape::Metrics {
        scrape::Metrics::parse(&scrape::get(self.listen, "/metrics").expect("/metrics answers"))
    }

    /// What all its containers may have together.
    pub fn limit_memory(&self, bytes: u64) -> Result<()> {
        let group = cgroup::root("memory").join(&self.cgroup_parent);
        let v1 = group.join("memory.limit_in_bytes");
        let file = if v1.exists() { v1 } else { group.join("memory.max") };
        std::fs::write(&file, bytes.to_string()).with_context(|| file.display().to_string())
    }

    /// SIGKILL: the agent has no chance to say goodbye.
    pub fn kill_nine(&mut self) {
        let mut child = self.child.take().expect("the agent runs");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    fn terminate(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let deadline = std::time::Instant::now() + patience(20);
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the agent ended with {status}:\n{}", self.log());
                return Ok(());
            }
            ensure!(std::time::Instant::now() < deadline, "the agent does not end");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// SIGTERM while containers run: they go on.
    pub fn stop_agent(&mut self) {
        self.terminate().unwrap_or_else(|error| panic!("{error:#}"));
    }

    /// Removes all containers.
    pub fn clear(&self) -> Result<()> {
        let ids = self.run(&["ps", "-a", "-q"])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if !ids.is_empty() {
            self.run(&[&["rm", "-f"][..], &ids].concat())?;
        }
        Ok(())
    }

    /// Removes the containers, ends the agent, and sees that the host is as it was.
    pub fn finish(mut self) {
        self.clear().unwrap_or_else(|error| panic!("{error:#}"));
        self.terminate().unwrap_or_else(|error| panic!("{error:#}"));
        std::fs::remove_dir_all(&self.scratch).expect("the scratch directory goes");
        std::fs::remove_dir_all(self.run_dir()).expect("the run directory goes");
        let traces = [self.cgroup_parent.as_str(), self.bridge.as_str()];
        let deadline = std::time::Instant::now() + patience(20);
        loop {
            // Network namespaces are taken down by the kernel's own worker.
            let left = self.before.left_since(&traces);
            if left.is_empty() {
                return;
            }
            assert!(std::time::Instant::now() < deadline, "left on the host: {left:#?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// Leaves the agent and its containers running after this program.
    pub fn keep(&mut self) {
        self.kept = true;
    }
}

impl Drop for TestAgent {
    /// After a failed test: end what was started, quietly, and keep the log.
    fn drop(&mut self) {
        if self.kept || self.child.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("agent's log:\n{}", self.log());
        }
        let _ = self.clear();
        let _ = self.terminate();
        let _ = std::fs::remove_dir_all(&self.scratch);
        let _ = std::fs::remove_dir_all(self.run_dir());
    }
}

/// A real disk, because O_DIRECT and overlayfs want one.
fn scratch_root() -> PathBuf {
    match crate::in_virtual_machine() {
        true => "/scratch".into(),
        false => "/var/tmp".into(),
    }
}

pub fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a scratch path is UTF-8")
}
