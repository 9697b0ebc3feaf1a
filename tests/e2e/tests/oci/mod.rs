//! Bundles of others' making and our own, and a Podman that is told to use our runtime.
//! Everything is below one directory of the test's own, and gone after it.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use serde_json::{Value, json};
use tenantry_e2e::{image, programs};

pub const IMAGE: &str = "localhost/tenantry-test";

pub fn program() -> PathBuf {
    programs().join("tenantry-runtime")
}

/// A bundle, and records of containers beside it.
pub struct Bundle {
    pub directory: PathBuf,
    name: String,
    original: Value,
}

impl Bundle {
    fn place(name: &str) -> PathBuf {
        let directory = PathBuf::from(format!("/var/tmp/tnx-oci-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        directory
    }

    fn unpack(directory: &Path) {
        let tar = directory.join("rootfs.tar");
        image::write_rootfs(&tar).expect("the image is written");
        std::fs::create_dir_all(directory.join("rootfs")).expect("a directory");
        let busybox = image::busybox().expect("busybox");
        let mut unpack = Command::new(busybox);
        unpack.arg("tar").arg("-xf").arg(&tar).arg("-C").arg(directory.join("rootfs"));
        assert!(unpack.status().expect("tar runs").success());
    }

    /// `spec` by the program in question, in the bundle's directory.
    fn with_spec(name: &str, program: &Path) -> Self {
        let directory = Self::place(name);
        Self::unpack(&directory);
        let spec = Command::new(program).arg("spec").current_dir(&directory).output();
        let spec = spec.expect("spec runs");
        assert!(spec.status.success(), "{spec:?}");
        Self::of(name, directory)
    }

    fn of(name: &str, directory: PathBuf) -> Self {
        let text = std::fs::read(directory.join("config.json")).expect("config.json");
        let mut original: Value = serde_json::from_slice(&text).expect("JSON");
        original["process"]["terminal"] = json!(false);
        original["root"]["readonly"] = json!(false);
        // Without CAP_SYS_RESOURCE limits cannot be raised.
        original["process"]["rlimits"] = json!([]);
        let bundle = Self { directory, name: name.to_owned(), original };
        bundle.reset();
        bundle
    }

    pub fn own(name: &str) -> Self {
        Self::with_spec(name, &program())
    }

    /// `None` where there is no runc.
    pub fn of_runc(name: &str) -> Option<Self> {
        installed("runc").then(|| Self::with_spec(name, Path::new("runc")))
    }

    /// An image that umoci has made and unpacked. `None` where it is not installed.
    pub fn of_umoci(name: &str) -> Option<Self> {
        if !installed("umoci") {
            return None;
        }
        let directory = Self::place(name);
        Self::unpack(&directory);
        let layout = directory.join("layout");
        let tagged = format!("{}:x", layout.display());
        let rootfs = directory.join("rootfs");
        let umoci = |arguments: &[&str]| {
            let output = output_of({
                let mut command = Command::new("umoci");
                command.args(arguments);
                command
            });
            assert!(output.status.success(), "umoci {arguments:?}: {output:?}");
        };
        umoci(&["init", "--layout", layout.to_str()?]);
        umoci(&["new", "--image", &tagged]);
        umoci(&["insert", "--image", &tagged, rootfs.to_str()?, "/"]);
        umoci(&[
            "config",
            "--image",
            &tagged,
            "--config.cmd",
            "echo",
            "--config.cmd",
            "from umoci",
        ]);
        let bundle = directory.join("bundle");
        umoci(&["unpack", "--image", &tagged, bundle.to_str()?]);
        for made in ["config.json", "rootfs"] {
            let place = directory.join(made);
            if place.is_dir() {
                std::fs::remove_dir_all(&place).expect("removed");
            }
            std::fs::rename(bundle.join(made), place).expect("moved");
        }
        Some(Self::of(name, directory))
    }

    pub fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    pub fn reset(&self) {
        let text = self.original.to_string();
        std::fs::write(self.directory.join("config.json"), text).expect("config.json");
    }

    pub fn change(&self, change: impl FnOnce(&mut Value)) {
        let path = self.directory.join("config.json");
        let text = std::fs::read(&path).expect("config.json");
        let mut config = serde_json::from_slice(&text).expect("JSON");
        change(&mut config);
        std::fs::write(path, config.to_string()).expect("config.json");
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--root").arg(self.directory.join("state")).args(arguments);
        command.current_dir(&self.directory).stdin(Stdio::null());
        command
    }

    /// What it printed. The output of a container that goes on goes to a file: a pipe that
    /// it holds open would never end.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let (output, text) = self.run(arguments);
        assert!(output.success(), "{arguments:?}: {output}\n{text}");
        text
    }

    pub fn fails(&self, arguments: &[&str]) -> String {
        let (output, text) = self.run(arguments);
        assert!(!output.success(), "{arguments:?} succeeded\n{text}");
        text
    }

    fn run(&self, arguments: &[&str]) -> (std::process::ExitStatus, String) {
        let path = self.directory.join("output");
        let file = std::fs::File::create(&path).expect("a file");
        let mut command = self.command(arguments);
        command.stdout(file.try_clone().expect("a copy")).stderr(file);
        let status = command.status().expect("the runtime runs");
        (status, std::fs::read_to_string(&path).expect("the output"))
    }

    pub fn state(&self, id: &str) -> Value {
        serde_json::from_str(&self.ok(&["state", id])).expect("JSON")
    }

    /// Nothing of the containers may be left.
    pub fn finish(self) {
        assert_eq!(self.ok(&["list", "-q"]), "");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let own = hierarchy.path().join("tenantry-runtime").join(&self.name);
            assert!(!own.exists(), "{} is left", own.display());
        }
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        let directory = self.directory.to_str().expect("UTF-8");
        assert!(!mounts.contains(directory), "{mounts}");
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        let listed = self.command(&["list", "-q"]).output();
        let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
        for id in listed.unwrap_or_default().lines() {
            let _ = self.command(&["delete", "--force", id]).output();
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Objects field by field, everything else as it is.
pub fn merge(into: &mut Value, change: &Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change.clone(),
    }
}

fn installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok()
}

pub fn output_of(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().expect("it runs")
}

/// A file of the cgroup that a process is in; the v2 hierarchy's for an empty name, and
/// where there is no v1 hierarchy of the name.
pub fn cgroup_file(pid: u64, controller: &str, file: &str) -> Option<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let mut unified = None;
    let mut v1 = None;
    for line in text.lines() {
        let (names, path) = line.split_once(':')?.1.split_once(':')?;
        if names.is_empty() {
            unified = Some(path.to_owned());
        } else if names.split(',').any(|name| name == controller) {
            v1 = Some(format!("/sys/fs/cgroup/{names}{path}/{file}"));
        }
    }
    let root = match Path::new("/sys/fs/cgroup/unified").exists() {
        true => "/sys/fs/cgroup/unified",
        false => "/sys/fs/cgroup",
    };
    let path = v1.or_else(|| Some(format!("{root}{}/{file}", unified?)))?;
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

pub fn receive_descriptor(listener: &UnixListener) -> OwnedFd {
    let (stream, _) = listener.accept().expect("the runtime connects");
    let mut bytes = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    recvmsg(&stream, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags).expect("a message");
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message
            && let Some(descriptor) = descriptors.next()
        {
            return descriptor;
        }
    }
    panic!("no descriptor came along");
}

/// What a terminal has said meanwhile; it does not block.
pub fn read_more(master: &OwnedFd, seen: &mut String) {
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = rustix::io::read(master, &mut bytes) {
        seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
}

/// Podman with a storage of its own, and with our runtime.
pub struct Podman {
    root: PathBuf,
}

impl Podman {
    /// Says why there is none.
    pub fn prepare() -> Result<Self, String> {
        if tenantry_e2e::in_virtual_machine() {
            return Err("podman is not in the virtual machine".to_owned());
        }
        for program in ["podman", "conmon"] {
            if !installed(program) {
                return Err(format!("{program} is not installed (Debian: podman)"));
            }
        }
        let root = PathBuf::from(format!("/var/tmp/tnx-oci-podman-{}", std::process::id()));
        std::fs::create_dir_all(&root).map_err(|error| error.to_string())?;
        let podman = Self { root };
        // Some machines may raise no limits.
        let config = format!(
            "[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
             runtime = \"{}\"\n[containers]\n\
             default_ulimits = [\"nofile=1024:1024\", \"nproc=1000:1000\"]\n",
            podman.runtime()
        );
        std::fs::write(podman.root.join("containers.conf"), config).map_err(|e| e.to_string())?;
        let tar = podman.root.join("rootfs.tar");
        image::write_rootfs(&tar).expect("the image is written");
        let output = output_of(podman.command(&["import", tar.to_str().expect("UTF-8"), IMAGE]));
        if output.status.success() {
            return Ok(podman);
        }
        let error = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(format!("podman does not run here: {error}"))
    }

    pub fn runtime(&self) -> String {
        program().to_str().expect("UTF-8").to_owned()
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-n", "podman"]);
        for (flag, name) in [("--root", "storage"), ("--runroot", "run"), ("--tmpdir", "tmp")] {
            command.arg(flag).arg(self.root.join(name));
        }
        command.args(["--storage-driver", "overlay"]).args(arguments);
        command.env("CONTAINERS_CONF", self.root.join("containers.conf"));
        command
    }

    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = output_of(self.command(arguments));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "podman {arguments:?}: {}\n{error}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        let _ = output_of(self.command(&["rm", "-f", "-a", "-t", "0"]));
        tenantry_e2e::host::unmount_below(&self.root);
        let _ = std::fs::remove_dir_all(&self.root);
        // Podman's own parents of cgroups stay where it makes them.
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            for parent in ["libpod_parent/conmon", "libpod_parent"] {
                let _ = std::fs::remove_dir(hierarchy.path().join(parent));
            }
        }
    }
}
