//! A laboratory for one container: a busybox rootfs, cgroups of its own, a real
//! shim, and the agent's side of the protocol.
//!
//! It touches only cgroups whose name begins with `tenantry-shimtest-` and its own
//! id, and ends only the shim that it spawned.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use tenantry_shim::log::{HEADER_BYTES, Header, Stream};
use tenantry_shim::protocol::{ExitRecord, ExitStatus, Reply, Request};
use tenantry_shim::spec::{
    CgroupPlacement, LaunchSpec, Namespaces, NetworkNamespace, Process, Rootfs, V1Directory,
};

const BUSYBOX: &str = "/bin/busybox";

/// What Docker gives by default.
pub const DEFAULT_CAPABILITIES: u64 = 0xa804_25fb;

/// Long enough for an emulated machine.
const PATIENCE: Duration = Duration::from_secs(60);

static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Why these tests cannot run here. Prints the line that says so.
pub fn skipped() -> bool {
    let why = if !rustix::process::geteuid().is_root() {
        "not root"
    } else if !Path::new(BUSYBOX).exists() {
        "no /bin/busybox (package busybox-static)"
    } else {
        return false;
    };
    println!("SKIPPED: {why}");
    true
}

pub struct Lab {
    pub id: String,
    pub directory: tempfile::TempDir,
    pub spec: LaunchSpec,
    pub seccomp: Option<Vec<u8>>,
    pub stdin: Option<OwnedFd>,
    pub network: Option<OwnedFd>,
}

/// A spawned shim. Its drop kills the shim, and thereby a container at its gate.
pub struct Shim {
    pub child: Child,
    pub socket: PathBuf,
}

pub struct Client {
    stream: BufReader<UnixStream>,
}

/// A network namespace with nobody in it: it is there as long as this is.
pub fn new_network() -> OwnedFd {
    let maker = std::thread::spawn(|| {
        // SAFETY: unshare takes no pointer, and this thread alone is moved; it ends here.
        let moved = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert_eq!(moved, 0, "unshare: {}", std::io::Error::last_os_error());
        OwnedFd::from(fs::File::open("/proc/thread-self/ns/net").expect("a namespace"))
    });
    maker.join().expect("a namespace is made")
}

impl Lab {
    /// A container that runs `script` by `/bin/sh -c`.
    pub fn shell(script: &str) -> Self {
        Self::new(&["/bin/sh", "-c", script])
    }

    pub fn new(args: &[&str]) -> Self {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = format!("tenantry-shimtest-{}-{number}", std::process::id());
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name);
        for name in ["layer", "top", "upper", "work", "root"] {
            fs::create_dir(path(name)).expect("a directory of the rootfs");
        }
        fs::set_permissions(path("upper"), fs::Permissions::from_mode(0o755)).expect("chmod");
        build_rootfs(&path("layer"));
        fs::write(path("top").join("top-file"), "from the topmost layer\n").expect("a file");
        let spec = LaunchSpec {
            id: id.clone(),
            hostname: "apartment".into(),
            rootfs: Rootfs {
                lower: vec![path("top"), path("layer")],
                upper: path("upper"),
                work: path("work"),
                mountpoint: path("root"),
                read_only: false,
            },
            binds: vec![],
            tmpfs: vec![],
            cgroup: create_cgroups(&id),
            network: NetworkNamespace::New,
            namespaces: Namespaces::default(),
            user_namespace: None,
            init: false,
            devices: vec![],
            shm_size_bytes: 64 << 20,
            sysctls: vec![],
            privileged: false,
            process: process(args),
            masked_paths: vec!["/proc/kcore".into(), "/proc/acpi".into(), "/sys/firmware".into()],
            read_only_paths: vec!["/proc/sys".into(), "/proc/sysrq-trigger".into()],
            seccomp: false,
            stdin: false,
            log_path: path("log"),
            log_bound: None,
            exit_path: path("exit"),
        };
        Self { id, directory, spec, seccomp: None, stdin: None, network: None }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn spawn(&mut self) -> Shim {
        self.spec.seccomp = self.seccomp.is_some();
        self.spec.stdin = self.stdin.is_some();
        let socket = self.path("socket");
        let listener = UnixListener::bind(&socket).expect("a listener");
        let text = serde_json::to_vec(&self.spec).expect("a spec");
        let mut descriptors = vec![(memory_file(&text), 3), (OwnedFd::from(listener), 4)];
        if let Some(program) = &self.seccomp {
            descriptors.push((memory_file(program), 5));
        }
        if let Some(stdin) = self.stdin.take() {
            descriptors.push((stdin, 6));
        }
        if let Some(network) = self.network.take() {
            descriptors.push((network, 7));
        }
        let mut command = Command::new(shim_program());
        command.arg(&self.id).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        // Clear of the numbers that are to be set.
        let moved: Vec<(OwnedFd, i32)> = descriptors
            .into_iter()
            .map(|(fd, number)| (rustix::io::fcntl_dupfd_cloexec(&fd, 64).expect("dup"), number))
            .collect();
        let pairs: Vec<(i32, i32)> = moved.iter().map(|(fd, to)| (fd.as_raw_fd(), *to)).collect();
        let set_up = move || {
            for (from, to) in &pairs {
                // SAFETY: dup2 is async-signal-safe and takes no pointer.
                if unsafe { libc::dup2(*from, *to) } < 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            Ok(())
        };
        // SAFETY: the closure calls dup2 only.
        unsafe { command.pre_exec(set_up) };
        let child = command.spawn().expect("the shim");
        drop(moved);
        Shim { child, socket }
    }

    /// Runs the container to its end.
    pub fn run(&mut self) -> ExitStatus {
        let mut shim = self.spawn();
        let mut client = shim.connect();
        client.start();
        let Reply::Exited(status) = client.receive() else { panic!("no exit") };
        shim.wait();
        status
    }

    pub fn frames(&self) -> Vec<(Stream, Vec<u8>)> {
        let mut log = fs::read(&self.spec.log_path).expect("the log");
        let mut frames = Vec::new();
        while !log.is_empty() {
            let header: [u8; HEADER_BYTES] = log[..HEADER_BYTES].try_into().expect("a header");
            let header = Header::parse(&header).expect("a frame");
            let end = HEADER_BYTES + header.payload_bytes as usize;
            frames.push((header.stream, log[HEADER_BYTES..end].to_vec()));
            log.drain(..end);
        }
        frames
    }

    pub fn bytes(&self, wanted: Stream) -> Vec<u8> {
        let frames = self.frames().into_iter().filter(|(stream, _)| *stream == wanted);
        frames.flat_map(|(_, payload)| payload).collect()
    }

    pub fn stdout(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stdout)).expect("text")
    }

    pub fn stderr(&self) -> String {
        String::from_utf8(self.bytes(Stream::Stderr)).expect("text")
    }

    pub fn exit_record(&self) -> ExitRecord {
        let text = fs::read(&self.spec.exit_path).expect("the exit file");
        serde_json::from_slice(&text).expect("an exit record")
    }

    pub fn cgroup_directories(&self) -> Vec<PathBuf> {
        let v1 = self.spec.cgroup.v1.iter().map(|v1| v1.path.clone());
        v1.chain([self.spec.cgroup.unified.clone()]).collect()
    }

    /// No process, no mount, and no cgroup that is not empty: removes the cgroups,
    /// which the kernel refuses while anything is in them.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        for directory in self.cgroup_directories() {
            let end = Instant::now() + PATIENCE;
            while let Err(error) = fs::remove_dir(&directory) {
                assert!(Instant::now() < end, "{}: {error}", directory.display());
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let own = self.directory.path().to_str().expect("a plain path");
        assert!(!mounts.contains(own), "a mount is left:\n{mounts}");
        assert_eq!(processes_named(&self.id), Vec::<String>::new());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // After a failed assertion the container may still be there.
        let _ = fs::write(self.spec.cgroup.unified.join("cgroup.kill"), "1");
        for directory in self.cgroup_directories() {
            for _ in 0..200 {
                match fs::remove_dir(&directory) {
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                    _ => break,
                }
            }
        }
    }
}

impl Shim {
    pub fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Client { stream: BufReader::new(stream) }
    }

    pub fn wait(&mut self) {
        let end = Instant::now() + PATIENCE;
        while self.child.try_wait().expect("the shim's status").is_none() {
            assert!(Instant::now() < end, "the shim is still there");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A figure of `/proc/PID/status`.
    pub fn status(&self, name: &str) -> String {
        status_of(self.child.id() as i32, name)
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Client {
    pub fn send(&mut self, request: &Request) {
        let mut line = serde_json::to_vec(request).expect("a request");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).expect("send");
    }

    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).expect("send");
    }

    pub fn into_socket(self) -> UnixStream {
        self.stream.into_inner()
    }

    pub fn send_with(&mut self, request: &Request, descriptors: &[&OwnedFd]) {
        let mut line = serde_json::to_vec(request).expect("a request");
        line.push(b'\n');
        let borrowed: Vec<_> = descriptors.iter().map(|fd| fd.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
        let parts = [IoSlice::new(&line)];
        let sent =
            rustix::net::sendmsg(self.stream.get_ref(), &parts, &mut control, SendFlags::empty());
        assert_eq!(sent.expect("sendmsg"), line.len());
    }

    /// `None` at the end of the conversation.
    pub fn receive_line(&mut self) -> Option<Reply> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).expect("a reply")),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
            Err(error) => panic!("no reply: {error}"),
        }
    }

    #[track_caller]
    pub fn receive(&mut self) -> Reply {
        self.receive_line().expect("a reply")
    }

    /// Watch, Created, Start, Running. The pid.
    #[track_caller]
    pub fn start(&mut self) -> i32 {
        self.send(&Request::Watch);
        match self.receive() {
            Reply::Created { .. } => {}
            other => panic!("{other:?}"),
        }
        self.send(&Request::Start);
        match self.receive() {
            Reply::Running { pid, .. } => pid,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    pub fn exit_status(&mut self) -> ExitStatus {
        match self.receive() {
            Reply::Exited(status) | Reply::ExecExited(status) => status,
            other => panic!("{other:?}"),
        }
    }
}

pub fn process(args: &[&str]) -> Process {
    Process {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: vec!["PATH=/bin".into()],
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        additional_gids: vec![],
        capabilities: DEFAULT_CAPABILITIES,
        no_new_privileges: true,
        oom_score_adj: None,
        rlimits: vec![],
        terminal: None,
    }
}

pub fn status_of(pid: i32, name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("a status");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Command lines that mention `name`, but for this test's own.
pub fn processes_named(name: &str) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| line.contains(name)).collect()
}

fn shim_program() -> PathBuf {
    // Where a test binary was moved to another machine, its runner says where.
    std::env::var_os("CARGO_BIN_EXE_tenantry-shim")
        .map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_tenantry-shim")), PathBuf::from)
}

fn memory_file(content: &[u8]) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let mut file = fs::File::from(fd);
    file.write_all(content).expect("write");
    file.rewind().expect("rewind");
    file.into()
}

fn build_rootfs(layer: &Path) {
    for name in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        fs::create_dir(layer.join(name)).expect("a directory");
    }
    fs::copy(BUSYBOX, layer.join("bin/busybox")).expect("busybox");
    let list = Command::new(BUSYBOX).arg("--list").output().expect("busybox --list");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", layer.join("bin").join(applet)).expect("an applet");
    }
    fs::write(layer.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("passwd");
}

/// One empty cgroup per hierarchy, as the agent makes them.
fn create_cgroups(id: &str) -> CgroupPlacement {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        let unified = root.join(id);
        fs::create_dir(&unified).expect("a cgroup");
        return CgroupPlacement { unified, v1: vec![] };
    }
    let unified = root.join("unified").join(id);
    fs::create_dir(&unified).expect("a cgroup");
    let mut v1 = Vec::new();
    for controller in ["cpu", "cpuacct", "cpuset", "memory", "blkio", "devices", "freezer", "pids"]
    {
        let hierarchy = root.join(controller);
        if !hierarchy.exists() {
            continue;
        }
        let path = hierarchy.join(id);
        fs::create_dir(&path).expect("a cgroup");
        if controller == "cpuset" {
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let value = fs::read(hierarchy.join(file)).expect("cpuset");
                fs::write(path.join(file), value).expect("cpuset");
            }
        }
        v1.push(V1Directory { controller: controller.into(), path });
    }
    CgroupPlacement { unified, v1 }
}

pub fn pipe() -> (fs::File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    (fs::File::from(read), write)
}

pub fn read_to_end(mut file: fs::File) -> String {
    let mut text = String::new();
    file.read_to_string(&mut text).expect("text");
    text
}

pub fn null() -> OwnedFd {
    fs::File::open("/dev/null").expect("/dev/null").into()
}
