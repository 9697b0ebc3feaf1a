//! The other runtimes and engines, each in directories of the benchmark's own: crun and runc
//! with a bundle, Podman with a root file system, Docker with a daemon of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount};
use serde_json::{Value, json};
use tenantry_e2e::image;

use super::crowd::gather;

const DOCKER_IMAGE: &str = "bench";
const PATIENCE: Duration = Duration::from_secs(60);

/// A way to run a container to its end.
#[derive(Debug)]
pub struct Arm {
    pub name: String,
    /// One after the other. `{id}` is a container's name, and another one each time.
    commands: Vec<Vec<String>>,
    pub slow: bool,
    /// Does not see cgroup v2 beside v1: crun 1.8 refuses a host that has both.
    v1_only: bool,
}

impl Arm {
    pub fn new(name: &str, commands: Vec<Vec<String>>) -> Self {
        Self { name: name.into(), commands, slow: false, v1_only: false }
    }

    /// In milliseconds.
    pub fn once(&self) -> Result<f64> {
        self.at_once(1)
    }

    /// So many side by side, until the last has ended, in milliseconds.
    pub fn at_once(&self, count: usize) -> Result<f64> {
        // A thread has a mount namespace of its own, which its children are born in.
        let work = || {
            if self.v1_only {
                hide_unified()?;
            }
            let began = Instant::now();
            // Threads take their namespaces from who makes them.
            gather(count, |_| self.sequence())?;
            Ok(began.elapsed().as_secs_f64() * 1e3)
        };
        std::thread::scope(|scope| scope.spawn(work).join().expect("no panic"))
    }

    fn sequence(&self) -> Result<()> {
        static SERIAL: AtomicUsize = AtomicUsize::new(0);
        let id = format!("tenantry-bench-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        self.commands.iter().try_for_each(|words| {
            let words: Vec<String> = words.iter().map(|word| word.replace("{id}", &id)).collect();
            call(&words)
        })
    }
}

fn hide_unified() -> Result<()> {
    let unified = "/sys/fs/cgroup/unified";
    if Path::new(unified).exists() {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        unmount(unified, UnmountFlags::DETACH)?;
    }
    Ok(())
}

/// The error goes to a file: a pipe would be held open by what stays.
fn call(words: &[String]) -> Result<()> {
    let errors = rustix::fs::memfd_create("errors", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut errors = std::fs::File::from(errors);
    let status = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(errors.try_clone()?)
        .status()
        .with_context(|| format!("{} is not installed", words[0]))?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    std::io::Seek::rewind(&mut errors)?;
    std::io::Read::read_to_string(&mut errors, &mut text)?;
    let last = text.trim().lines().last().unwrap_or_default().to_owned();
    anyhow::bail!("{}: {status}: {last}", words.join(" "))
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A root file system with `config.json`.
#[derive(Debug)]
pub struct Bundle {
    directory: PathBuf,
    pub rootfs: PathBuf,
    pub tar: PathBuf,
}

impl Bundle {
    pub fn make(directory: &Path) -> Result<Self> {
        let rootfs = directory.join("rootfs");
        std::fs::create_dir_all(&rootfs)?;
        let tar = directory.join("rootfs.tar");
        image::write_rootfs(&tar)?;
        let unpacked = Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&rootfs).status()?;
        ensure!(unpacked.success(), "tar: {unpacked}");
        let spec = Command::new("runc").arg("spec").current_dir(directory).status();
        ensure!(spec.is_ok_and(|status| status.success()), "runc spec (is runc installed?)");
        let path = directory.join("config.json");
        let mut spec: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
        spec["process"]["args"] = json!(["/bin/true"]);
        spec["process"]["terminal"] = json!(false);
        // This machine may not raise limits.
        spec["process"]["rlimits"] = json!([]);
        std::fs::write(&path, spec.to_string())?;
        Ok(Self { directory: directory.into(), rootfs, tar })
    }

    pub fn steps(&self, runtime: &str) -> Arm {
        let program = self.program(runtime);
        let bundle = self.directory.display().to_string();
        let commands = vec![
            [program.clone(), words(&["create", "--bundle", &bundle, "{id}"])].concat(),
            [program.clone(), words(&["start", "{id}"])].concat(),
            [program, words(&["delete", "--force", "{id}"])].concat(),
        ];
        Arm {
            v1_only: runtime == "crun",
            ..Arm::new(&format!("{runtime} create, start, delete; bare bundle"), commands)
        }
    }

    pub fn run(&self, runtime: &str) -> Arm {
        let bundle = self.directory.display().to_string();
        let run = words(&["run", "--bundle", &bundle, "{id}"]);
        let commands = vec![[self.program(runtime), run].concat()];
        Arm {
            v1_only: runtime == "crun",
            ..Arm::new(&format!("{runtime} run; bare bundle"), commands)
        }
    }

    /// Ours lies beside the agent.
    fn program(&self, runtime: &str) -> Vec<String> {
        let own = tenantry_e2e::programs().join(runtime);
        let program = if own.exists() { own.display().to_string() } else { runtime.to_owned() };
        vec![program, "--root".into(), self.directory.join(runtime).display().to_string()]
    }
}

/// Podman, over a root file system: no image is unpacked.
#[derive(Debug)]
pub struct Podman {
    root: PathBuf,
    rootfs: PathBuf,
}

impl Podman {
    pub fn new(root: &Path, rootfs: &Path) -> Self {
        Self { root: root.into(), rootfs: rootfs.into() }
    }

    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn own(&self, verb: &[&str]) -> Vec<String> {
        let (store, run) = (self.root.join("root"), self.root.join("run"));
        let (store, run) = (store.display().to_string(), run.display().to_string());
        // Its default, crun 1.8, refuses a host that has cgroup v2 beside v1.
        let own = ["podman", "--runtime", "runc", "--cgroup-manager", "cgroupfs"];
        let places = ["--root", &store, "--runroot", &run];
        [words(&own), words(&places), words(verb)].concat()
    }

    fn run_with(&self, flags: &[&str], command: &[&str]) -> Vec<String> {
        let rootfs = self.rootfs.display().to_string();
        let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];
        let run = [&["run", "--network", "none"][..], &limits, flags, &["--rootfs", &rootfs]];
        self.own(&[&run.concat()[..], command].concat())
    }

    pub fn run(&self) -> Arm {
        let commands = vec![self.run_with(&["--rm"], &["/bin/true"])];
        Arm { slow: true, ..Arm::new("podman (runc) run --rm --rootfs, no network", commands) }
    }

    pub fn detached(&self, name: &str) -> Result<()> {
        call(&self.run_with(&["-d", "--name", name], &["sleep", "1000"]))
    }

    pub fn clear(&self) -> Result<()> {
        call(&self.own(&["rm", "-f", "-a", "-t", "0"]))
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.clear();
        // It mounts its store upon itself and leaves it so.
        let _ = unmount(self.root.join("root/overlay"), UnmountFlags::DETACH);
    }
}

/// A `dockerd` in a network namespace of its own, with its default bridge.
#[derive(Debug)]
pub struct Docker {
    daemon: Child,
    root: PathBuf,
}

impl Docker {
    pub fn start(rootfs: &Path) -> Result<Self> {
        // Where a socket's path is short enough, on a disk that overlays can lie on.
        let root = PathBuf::from(format!("/var/tmp/tnx-bench-{}", std::process::id()));
        std::fs::create_dir_all(&root)?;
        let here = root.display();
        let script = format!(
            "mount --make-rprivate / && ip link set lo up && exec dockerd -H unix://{here}/d.sock \
             --data-root {here}/data --exec-root {here}/exec -p {here}/pid --iptables=false \
             --storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs \
             --oom-score-adjust 0"
        );
        let log = std::fs::File::create(root.join("log"))?;
        let daemon = Command::new("unshare")
            .args(["-n", "-m", "/bin/sh", "-c", &script])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut docker = Self { daemon, root };
        let began = Instant::now();
        while call(&docker.command(&["version"])).is_err() {
            let log = || std::fs::read_to_string(docker.root.join("log")).unwrap_or_default();
            let ended = docker.daemon.try_wait()?;
            ensure!(ended.is_none() && began.elapsed() < PATIENCE, "dockerd: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        call(&docker.command(&["import", &rootfs.display().to_string(), DOCKER_IMAGE]))?;
        Ok(docker)
    }

    pub fn root(&self) -> PathBuf {
        self.root.clone()
    }

    fn command(&self, verb: &[&str]) -> Vec<String> {
        let socket = format!("unix://{}", self.root.join("d.sock").display());
        let config = self.root.join("config").display().to_string();
        [words(&["docker", "--config", &config, "-H", &socket]), words(verb)].concat()
    }

    pub fn run(&self) -> Arm {
        let commands = vec![self.command(&["run", "--rm", DOCKER_IMAGE, "true"])];
        Arm { slow: true, ..Arm::new("docker run --rm, default bridge", commands) }
    }

    pub fn detached(&self, name: &str) -> Result<()> {
        call(&self.command(&["run", "-d", "--name", name, DOCKER_IMAGE, "sleep", "1000"]))
    }

    pub fn clear(&self) -> Result<()> {
        let listed = self.command(&["ps", "-aq"]);
        let listed = Command::new(&listed[0]).args(&listed[1..]).output()?;
        let ids = String::from_utf8(listed.stdout)?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        call(&self.command(&[&["rm", "-f"][..], &ids].concat()))
    }

    /// `dockerd` and its `containerd`.
    pub fn daemons(&self) -> Vec<u32> {
        let own = self.daemon.id();
        let children =
            std::fs::read_dir(format!("/proc/{own}/task")).into_iter().flatten().flatten();
        let children =
            children.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let pids = children.collect::<Vec<_>>().join(" ");
        let pids = pids.split_whitespace().filter_map(|pid| pid.parse().ok());
        pids.chain([own]).collect()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = self.clear();
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let began = Instant::now();
        while self.daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            if began.elapsed() > PATIENCE {
                let _ = self.daemon.kill();
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = std::fs::remove_dir_all(&self.root);
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            // Its parent of cgroups stays; one with somebody's containers does not go.
            let _ = std::fs::remove_dir(hierarchy.path().join("docker"));
        }
    }
}
