//! Real engines of others, started by the test in directories of its own and gone after
//! it: Docker with its own network namespace and cgroupfs, Podman without a daemon.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Instant;

use tenantry_e2e::{image, patience};

pub const IMAGE: &str = "tenantry-test";

/// What both engines tell of a container that runs.
pub trait Engine {
    fn inspect(&self, name: &str, field: &str) -> String;

    fn pid(&self, name: &str) -> u32 {
        self.inspect(name, "State.Pid").parse().expect("a number")
    }

    /// Where its writable layer is.
    fn upper(&self, name: &str) -> PathBuf {
        self.inspect(name, "GraphDriver.Data.UpperDir").into()
    }

    /// Writes to the pipe `/go` in a container.
    fn go(&self, name: &str) {
        let pipe = format!("/proc/{}/root/go", self.pid(name));
        let deadline = Instant::now() + patience(20);
        while !Path::new(&pipe).exists() && Instant::now() < deadline {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        std::fs::write(&pipe, "go\n").expect("the container waits at its pipe");
    }
}

impl Engine for Docker {
    fn inspect(&self, name: &str, field: &str) -> String {
        self.ok(&["inspect", "-f", &format!("{{{{.{field}}}}}"), name]).trim().to_owned()
    }
}

impl Engine for Podman {
    fn inspect(&self, name: &str, field: &str) -> String {
        self.ok(&["inspect", "-f", &format!("{{{{.{field}}}}}"), name]).trim().to_owned()
    }
}

/// Directories on a real disk, and the cgroups that an engine leaves behind.
struct Place {
    root: PathBuf,
    parents: Vec<PathBuf>,
}

impl Place {
    fn make(kind: &str, cgroups: &[&str]) -> Result<Self, String> {
        if tenantry_e2e::in_virtual_machine() {
            return Err(format!("{kind} is not in the virtual machine"));
        }
        let root = PathBuf::from(format!("/var/tmp/tnx-{kind}-{}", std::process::id()));
        std::fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let mut parents = Vec::new();
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            parents.extend(cgroups.iter().map(|name| hierarchy.path().join(name)));
        }
        parents.extend(cgroups.iter().map(|name| Path::new("/sys/fs/cgroup").join(name)));
        parents.retain(|parent| !parent.exists());
        Ok(Self { root, parents })
    }

    fn rootfs(&self) -> PathBuf {
        let tar = self.root.join("rootfs.tar");
        image::write_rootfs(&tar).expect("the image is written");
        tar
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        tenantry_e2e::host::unmount_below(&self.root);
        let _ = std::fs::remove_dir_all(&self.root);
        for parent in &self.parents {
            let _ = std::fs::remove_dir(parent);
        }
    }
}

fn ok(what: &str, output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {}\n{error}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn is_installed(program: &str) -> bool {
    Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok()
}

/// A `dockerd` and what runs under it.
pub struct Docker {
    daemon: Child,
    place: Place,
}

impl Docker {
    /// Says why there is none.
    pub fn start() -> Result<Self, String> {
        Self::start_with(&[])
    }

    /// With these options of the daemon's.
    pub fn start_with(options: &[&str]) -> Result<Self, String> {
        for program in ["dockerd", "docker"] {
            if !is_installed(program) {
                return Err(format!("{program} is not installed (Debian: docker.io, docker-cli)"));
            }
        }
        let place = Place::make("docker", &["docker"])?;
        let root = place.root.display();
        let daemon = format!(
            "mount --make-rprivate / && ip link set lo up && exec dockerd -H unix://{root}/d.sock \
             --data-root {root}/data --exec-root {root}/exec -p {root}/pid --bridge none \
             --iptables=false --storage-driver overlay2 --exec-opt native.cgroupdriver=cgroupfs \
             --oom-score-adjust 0 \"$@\""
        );
        let log = std::fs::File::create(place.root.join("log")).map_err(|e| e.to_string())?;
        let daemon = Command::new("unshare")
            .args(["-n", "-m", "/bin/sh", "-c", &daemon, "dockerd"])
            .args(options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(|e| e.to_string())?)
            .stderr(log)
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let mut docker = Self { daemon, place };
        let deadline = Instant::now() + patience(60);
        while !docker.command(&["version"]).output().is_ok_and(|output| output.status.success()) {
            let ended = docker.daemon.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log =
                    std::fs::read_to_string(docker.place.root.join("log")).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default().to_owned();
                return Err(format!("dockerd does not run here: {last}"));
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let rootfs = docker.place.rootfs();
        docker.ok(&["import", rootfs.to_str().expect("UTF-8"), IMAGE]);
        Ok(docker)
    }

    pub fn socket(&self) -> PathBuf {
        self.place.root.join("d.sock")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
            .args(arguments)
            .env("DOCKER_CONFIG", self.place.root.join("config"))
            .stdin(Stdio::null());
        command
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        ok(&arguments.join(" "), self.command(arguments).output().expect("docker runs"))
    }

    pub fn run_detached(&self, name: &str, flags: &[&str], script: &str) {
        let run = ["run", "-d", "--network", "none", "--name", name];
        self.ok(&[&run[..], flags, &[IMAGE, "sh", "-c", script]].concat());
    }

    pub fn remove(&self, name: &str) {
        self.ok(&["rm", "-f", name]);
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let ids = self.command(&["ps", "-aq"]).output();
        let ids = ids.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for id in ids.unwrap_or_default().split_whitespace() {
            let _ = self.command(&["rm", "-f", id]).output();
        }
        let pid = rustix::process::Pid::from_child(&self.daemon);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let deadline = Instant::now() + patience(20);
        while Instant::now() < deadline {
            if self.daemon.try_wait().ok().flatten().is_some() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Podman with a storage of its own.
pub struct Podman {
    place: Place,
}

impl Podman {
    /// Says why there is none.
    pub fn prepare() -> Result<Self, String> {
        for program in ["podman", "runc", "conmon"] {
            if !is_installed(program) {
                return Err(format!("{program} is not installed (Debian: podman, runc)"));
            }
        }
        let place = Place::make("podman", &["libpod_parent/conmon", "libpod_parent"])?;
        // crun refuses the v1-hybrid layout; some machines may raise no limits.
        let config = "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
                      runtime = \"runc\"\n[containers]\n\
                      default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n";
        std::fs::write(place.root.join("containers.conf"), config).map_err(|e| e.to_string())?;
        let podman = Self { place };
        let rootfs = podman.place.rootfs();
        let output = podman.command(&["import", rootfs.to_str().expect("UTF-8"), IMAGE]).output();
        match output {
            Ok(output) if output.status.success() => Ok(podman),
            Ok(output) => Err(format!(
                "podman does not run here: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            )),
            Err(error) => Err(format!("podman: {error}")),
        }
    }

    pub fn storage(&self) -> PathBuf {
        self.place.root.join("storage")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-n", "podman"]);
        for (flag, dir) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.place.root.join(dir));
        }
        command
            .args(["--storage-driver", "overlay"])
            .args(arguments)
            .env("CONTAINERS_CONF", self.place.root.join("containers.conf"))
            .stdin(Stdio::null());
        command
    }

    fn ok(&self, arguments: &[&str]) -> String {
        ok(&arguments.join(" "), self.command(arguments).output().expect("podman runs"))
    }

    pub fn run_detached(&self, name: &str, script: &str) {
        let run = ["run", "-d", "--network", "none", "--security-opt", "seccomp=unconfined"];
        self.ok(&[&run[..], &["--name", name, IMAGE, "sh", "-c", script]].concat());
    }

    pub fn remove(&self, name: &str) {
        self.ok(&["rm", "-f", "-t", "0", name]);
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = self.command(&["rm", "-f", "-a", "-t", "0"]).output();
    }
}
