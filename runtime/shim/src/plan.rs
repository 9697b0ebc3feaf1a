//! What a container sees below `/`, as data: a list of steps chosen from the spec.
//!
//! Pure. Steps run in order, after `pivot_root`, so that every path is the
//! container's own; `mounts` executes them. The root file system itself is
//! `overlay`'s.
//!
//! No mount that a container may write to honours device nodes: the rootfs,
//! `/dev` and bound directories are `nodev`, and the standard devices are mounts
//! of one file each. A container that may `mknod` gains nothing by it, with or
//! without a device cgroup. One that may do everything (`privileged`) has a `/dev`
//! that honours them, and nothing else does.

use std::borrow::Cow;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;
use rustix::mount::MountAttrFlags as Attr;
use tenantry_shim::spec::{
    Bind, CgroupPlacement, DeviceNode, LaunchSpec, Member, Namespace, NetworkNamespace,
    Propagation, Tmpfs,
};

const PROC: Attr =
    Attr::MOUNT_ATTR_NOSUID.union(Attr::MOUNT_ATTR_NODEV).union(Attr::MOUNT_ATTR_NOEXEC);
const PROC_READ_ONLY: Attr = PROC.union(Attr::MOUNT_ATTR_RDONLY);

/// Name, minor number; all are of the `mem` major but `tty`.
pub const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

pub const LINKS: [(&str, &str); 6] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
    ("/dev/core", "/proc/kcore"),
];

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A new file system, created in the child's namespaces before `pivot_root`.
    Filesystem {
        kind: Cow<'static, str>,
        options: Vec<(String, String)>,
        target: String,
        attributes: Attr,
        /// What is in the directory that it covers is copied into it.
        copy_up: bool,
    },
    /// A copy of a host mount, taken by the shim before the child exists: the
    /// child's user may not be able to walk there.
    Tree {
        source: PathBuf,
        target: String,
        attributes: Attr,
        recursive: bool,
        propagation: Propagation,
    },
    Directory {
        path: String,
    },
    /// A directory that is there, with its parents, or is made.
    Ensure {
        path: String,
    },
    Symlink {
        path: &'static str,
        to: &'static str,
    },
    /// A device node with a mount of its own on it, which keeps it usable when
    /// the file system around it becomes `nodev`.
    Device {
        path: &'static str,
        major: u32,
        minor: u32,
    },
    /// The shared memory of another container, which lies in its mount namespace.
    SharedMemory {
        of: Member,
        target: &'static str,
    },
    /// More attributes for what is mounted at `path`.
    Restrict {
        path: &'static str,
        attributes: Attr,
    },
    /// A device node like [`Step::Device`], with an owner and a mode. One that is there
    /// already must be the same device.
    Node {
        path: String,
        kind: FileType,
        major: u32,
        minor: u32,
        mode: u32,
        uid: u32,
        gid: u32,
    },
    /// A symbolic link like [`Step::Symlink`], unless something is there already.
    Link {
        path: String,
        to: String,
    },
    /// A kernel's setting below `/proc/sys`.
    Write {
        path: String,
        text: String,
    },
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE` for the mount at `path`.
    Propagate {
        path: &'static str,
        propagation: u64,
    },
    /// Nothing if `path` does not exist.
    Mask {
        path: String,
    },
    /// Nothing if `path` does not exist.
    ReadOnly {
        path: String,
    },
}

pub fn plan(spec: &LaunchSpec) -> Vec<Step> {
    let mut steps = vec![filesystem("proc", &[], "/proc", PROC)];
    steps.extend(spec.sysctls.iter().map(|sysctl| Step::Write {
        path: format!("/proc/sys/{}", sysctl.path),
        text: sysctl.value.clone(),
    }));
    steps.extend(device_steps(spec));
    // Of whichever IPC namespace the child is in.
    steps.push(filesystem("mqueue", &[], "/dev/mqueue", PROC));
    steps.push(shared_memory_step(spec));
    steps.push(sysfs_step(spec));
    steps.extend(cgroup_steps(&spec.cgroup, spec.privileged));
    let tmpfs = spec.tmpfs.iter().map(|tmpfs| (depth(&tmpfs.target), tmpfs_step(tmpfs)));
    let binds = spec.binds.iter().map(|bind| (depth(&bind.target), bind_step(bind)));
    let mut own: Vec<(usize, Step)> = tmpfs.chain(binds).collect();
    // What lies in another comes after it; else the order is the spec's.
    own.sort_by_key(|(depth, _)| *depth);
    steps.extend(own.into_iter().map(|(_, step)| step));
    steps.extend(spec.masked_paths.iter().map(|path| Step::Mask { path: path.clone() }));
    steps.extend(spec.read_only_paths.iter().map(|path| Step::ReadOnly { path: path.clone() }));
    if spec.rootfs.read_only {
        steps.push(Step::Restrict { path: "/", attributes: Attr::MOUNT_ATTR_RDONLY });
    }
    steps
}

pub fn filesystem(
    kind: &'static str,
    options: &[(&str, &str)],
    target: &str,
    attributes: Attr,
) -> Step {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let options = options.iter().map(owned).collect();
    Step::Filesystem {
        kind: kind.into(),
        options,
        target: target.to_owned(),
        attributes,
        copy_up: false,
    }
}

fn depth(target: &Path) -> usize {
    target.components().count()
}

fn tmpfs_step(tmpfs: &Tmpfs) -> Step {
    let mut attributes = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV;
    attributes.set(Attr::MOUNT_ATTR_NOEXEC, !tmpfs.exec);
    attributes.set(Attr::MOUNT_ATTR_RDONLY, tmpfs.read_only);
    let target = tmpfs.target.to_string_lossy().into_owned();
    let options = tmpfs.options.clone();
    Step::Filesystem { kind: "tmpfs".into(), options, target, attributes, copy_up: false }
}

fn shared_memory_step(spec: &LaunchSpec) -> Step {
    match spec.namespaces.ipc {
        Namespace::New => {
            let size = spec.shm_size_bytes.to_string();
            filesystem("tmpfs", &[("mode", "1777"), ("size", size.as_str())], "/dev/shm", PROC)
        }
        Namespace::Host => Step::Tree {
            source: PathBuf::from("/dev/shm"),
            target: "/dev/shm".to_owned(),
            attributes: PROC,
            recursive: false,
            propagation: Propagation::Private,
        },
        Namespace::Of(member) => Step::SharedMemory { of: member, target: "/dev/shm" },
    }
}

/// Root of a user namespace may not make device nodes, and sees the host's.
fn node_step(node: &DeviceNode, user_namespace: bool) -> Step {
    if !user_namespace {
        return Step::Node {
            path: node.path.clone(),
            kind: if node.block { FileType::BlockDevice } else { FileType::CharacterDevice },
            major: node.major,
            minor: node.minor,
            mode: node.mode,
            uid: node.uid,
            gid: node.gid,
        };
    }
    Step::Tree {
        source: node.source.clone(),
        target: node.path.clone(),
        attributes: Attr::MOUNT_ATTR_NOSUID.union(Attr::MOUNT_ATTR_NOEXEC),
        recursive: false,
        propagation: Propagation::Private,
    }
}

fn device_steps(spec: &LaunchSpec) -> Vec<Step> {
    let user_namespace = spec.user_namespace.is_some();
    let nosuid = Attr::MOUNT_ATTR_NOSUID;
    let options: &[(&str, &str)] = &[("mode", "755"), ("size", "64k")];
    let mut steps = vec![filesystem("tmpfs", options, "/dev", nosuid)];
    for (path, major, minor) in DEVICES {
        steps.push(if user_namespace {
            // mknod needs the host's privilege. Root inside is nobody to the
            // host's node and cannot change it.
            Step::Tree {
                source: PathBuf::from(path),
                target: path.to_owned(),
                attributes: nosuid.union(Attr::MOUNT_ATTR_NOEXEC),
                recursive: false,
                propagation: Propagation::Private,
            }
        } else {
            Step::Device { path, major, minor }
        });
    }
    steps.extend(LINKS.map(|(path, to)| Step::Symlink { path, to }));
    for path in ["/dev/pts", "/dev/mqueue", "/dev/shm"] {
        steps.push(Step::Directory { path: path.to_owned() });
    }
    steps.extend(spec.devices.iter().map(|node| node_step(node, user_namespace)));
    if !spec.privileged {
        steps.push(Step::Restrict { path: "/dev", attributes: Attr::MOUNT_ATTR_NODEV });
    }
    let options: &[(&str, &str)] =
        &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
    steps.push(filesystem("devpts", options, "/dev/pts", nosuid.union(Attr::MOUNT_ATTR_NOEXEC)));
    steps
}

/// A new sysfs shows the network namespace that it is mounted in, and may only be
/// mounted by who owns that one: root of a user namespace does not own the host's.
fn sysfs_step(spec: &LaunchSpec) -> Step {
    if spec.user_namespace.is_some() && spec.network != NetworkNamespace::New {
        return Step::Tree {
            source: PathBuf::from("/sys"),
            target: "/sys".to_owned(),
            attributes: PROC_READ_ONLY,
            recursive: true,
            propagation: Propagation::Private,
        };
    }
    filesystem("sysfs", &[], "/sys", if spec.privileged { PROC } else { PROC_READ_ONLY })
}

/// The container's own cgroups, each a mount of its own directory, read-only unless the
/// container may do everything: the host's hierarchies, and the super blocks that they share, stay as they are.
pub fn cgroup_steps(placement: &CgroupPlacement, privileged: bool) -> Vec<Step> {
    let view = |source: &Path, target: String| Step::Tree {
        source: source.to_owned(),
        target,
        attributes: if privileged { PROC } else { PROC_READ_ONLY },
        recursive: false,
        propagation: Propagation::Private,
    };
    if placement.v1.is_empty() {
        return vec![view(&placement.unified, "/sys/fs/cgroup".to_owned())];
    }
    let options: &[(&str, &str)] = &[("mode", "755"), ("size", "64k")];
    let mut steps = vec![filesystem("tmpfs", options, "/sys/fs/cgroup", PROC)];
    let views = placement.v1.iter().map(|v1| (v1.controller.as_str(), v1.path.as_path()));
    for (name, source) in views.chain([("unified", placement.unified.as_path())]) {
        let target = format!("/sys/fs/cgroup/{name}");
        steps.push(Step::Directory { path: target.clone() });
        steps.push(view(source, target));
    }
    steps.push(Step::Restrict { path: "/sys/fs/cgroup", attributes: Attr::MOUNT_ATTR_RDONLY });
    steps
}

/// Only what comes from the host's `/dev` may hold usable device nodes.
fn bind_step(bind: &Bind) -> Step {
    let mut attributes = Attr::empty();
    if bind.read_only {
        attributes |= Attr::MOUNT_ATTR_RDONLY;
    }
    if !bind.source.starts_with("/dev") {
        attributes |= Attr::MOUNT_ATTR_NODEV;
    }
    Step::Tree {
        source: bind.source.clone(),
        target: bind.target.to_string_lossy().into_owned(),
        attributes,
        recursive: true,
        propagation: bind.propagation,
    }
}

#[cfg(test)]
mod tests {
    use tenantry_shim::spec::{
        CgroupPlacement, IdMapping, Namespaces, Process, Rootfs, Sysctl, V1Directory,
    };

    use super::*;

    fn spec() -> LaunchSpec {
        LaunchSpec {
            id: "id".into(),
            hostname: "host".into(),
            rootfs: Rootfs {
                lower: vec!["/layer".into()],
                upper: "/upper".into(),
                work: "/work".into(),
                mountpoint: "/root".into(),
                read_only: false,
            },
            binds: vec![],
            tmpfs: vec![],
            cgroup: CgroupPlacement { unified: "/cg/unified/id".into(), v1: vec![] },
            network: NetworkNamespace::New,
            namespaces: Namespaces::default(),
            user_namespace: None,
            init: false,
            devices: vec![],
            shm_size_bytes: 64 << 20,
            sysctls: vec![],
            privileged: false,
            process: Process {
                args: vec!["/bin/true".into()],
                env: vec![],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                additional_gids: vec![],
                capabilities: 0,
                no_new_privileges: true,
                oom_score_adj: None,
                rlimits: vec![],
                terminal: None,
            },
            masked_paths: vec!["/proc/kcore".into()],
            read_only_paths: vec!["/proc/sys".into()],
            seccomp: false,
            stdin: false,
            log_path: "/log".into(),
            log_bound: None,
            exit_path: "/exit".into(),
        }
    }

    /// One line per step: what, where, and the attributes that matter.
    fn outline(steps: &[Step]) -> Vec<String> {
        let flags = |attributes: &Attr| {
            let names = [
                (Attr::MOUNT_ATTR_RDONLY, "ro"),
                (Attr::MOUNT_ATTR_NOSUID, "nosuid"),
                (Attr::MOUNT_ATTR_NODEV, "nodev"),
                (Attr::MOUNT_ATTR_NOEXEC, "noexec"),
            ];
            let set = names.iter().filter(|(flag, _)| attributes.contains(*flag));
            set.map(|(_, name)| *name).collect::<Vec<_>>().join(",")
        };
        let line = |step: &Step| match step {
            Step::Filesystem { kind, target, attributes, .. } => {
                format!("{kind} {target} {}", flags(attributes))
            }
            Step::Tree { source, target, attributes, recursive, .. } => {
                let kind = if *recursive { "rbind" } else { "bind" };
                format!("{kind} {} {target} {}", source.display(), flags(attributes))
            }
            Step::Directory { path } => format!("mkdir {path}"),
            Step::Ensure { path } => format!("ensure {path}"),
            Step::Symlink { path, to } => format!("symlink {path} {to}"),
            Step::Device { path, major, minor } => format!("device {path} {major}:{minor}"),
            Step::Node { path, kind, major, minor, mode, .. } => {
                let kind = if *kind == FileType::BlockDevice { "block" } else { "char" };
                format!("node {path} {kind} {major}:{minor} {mode:o}")
            }
            Step::SharedMemory { of, target } => format!("shared memory of {} {target}", of.pid),
            Step::Write { path, text } => format!("write {path} {text}"),
            Step::Restrict { path, attributes } => format!("restrict {path} {}", flags(attributes)),
            Step::Link { path, to } => format!("link {path} {to}"),
            Step::Propagate { path, propagation } => format!("propagate {path} {propagation:#x}"),
            Step::Mask { path } => format!("mask {path}"),
            Step::ReadOnly { path } => format!("read-only {path}"),
        };
        steps.iter().map(line).collect()
    }

    #[test]
    fn a_plain_container_gets_these_steps_in_this_order() {
        let expected = [
            "proc /proc nosuid,nodev,noexec",
            "tmpfs /dev nosuid",
            "device /dev/null 1:3",
            "device /dev/zero 1:5",
            "device /dev/full 1:7",
            "device /dev/random 1:8",
            "device /dev/urandom 1:9",
            "device /dev/tty 5:0",
            "symlink /dev/fd /proc/self/fd",
            "symlink /dev/stdin /proc/self/fd/0",
            "symlink /dev/stdout /proc/self/fd/1",
            "symlink /dev/stderr /proc/self/fd/2",
            "symlink /dev/ptmx pts/ptmx",
            "symlink /dev/core /proc/kcore",
            "mkdir /dev/pts",
            "mkdir /dev/mqueue",
            "mkdir /dev/shm",
            "restrict /dev nodev",
            "devpts /dev/pts nosuid,noexec",
            "mqueue /dev/mqueue nosuid,nodev,noexec",
            "tmpfs /dev/shm nosuid,nodev,noexec",
            "sysfs /sys ro,nosuid,nodev,noexec",
            "bind /cg/unified/id /sys/fs/cgroup ro,nosuid,nodev,noexec",
            "mask /proc/kcore",
            "read-only /proc/sys",
        ];
        assert_eq!(outline(&plan(&spec())), expected);
    }

    #[test]
    fn every_view_of_a_cgroup_is_read_only() {
        let mut spec = spec();
        for controller in ["cpu", "memory"] {
            let path = format!("/cg/{controller}/id").into();
            spec.cgroup.v1.push(V1Directory { controller: controller.into(), path });
        }
        let lines = outline(&plan(&spec));
        let about_cgroups: Vec<_> = lines.iter().filter(|l| l.contains("/sys/fs/cgroup")).collect();
        let expected = [
            "tmpfs /sys/fs/cgroup nosuid,nodev,noexec",
            "mkdir /sys/fs/cgroup/cpu",
            "bind /cg/cpu/id /sys/fs/cgroup/cpu ro,nosuid,nodev,noexec",
            "mkdir /sys/fs/cgroup/memory",
            "bind /cg/memory/id /sys/fs/cgroup/memory ro,nosuid,nodev,noexec",
            "mkdir /sys/fs/cgroup/unified",
            "bind /cg/unified/id /sys/fs/cgroup/unified ro,nosuid,nodev,noexec",
            "restrict /sys/fs/cgroup ro",
        ];
        assert_eq!(about_cgroups, expected);
    }

    #[test]
    fn a_user_namespace_gets_the_hosts_devices_and_makes_none() {
        let mut spec = spec();
        spec.user_namespace = Some(IdMapping { host_base: 100_000, size: 65_536 });
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"bind /dev/null /dev/null nosuid,noexec".to_owned()));
        assert!(!lines.iter().any(|line| line.starts_with("device")));
        spec.network = NetworkNamespace::Host;
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"rbind /sys /sys ro,nosuid,nodev,noexec".to_owned()));
    }

    fn fuse() -> DeviceNode {
        DeviceNode {
            path: "/dev/fuse".into(),
            source: "/dev/fuse".into(),
            block: false,
            major: 10,
            minor: 229,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }
    }

    #[test]
    fn a_device_of_the_users_comes_before_dev_is_restricted() {
        let mut spec = spec();
        spec.devices.push(fuse());
        let lines = outline(&plan(&spec));
        let at = |line: &str| lines.iter().position(|known| known == line).expect(line);
        assert!(at("node /dev/fuse char 10:229 666") < at("restrict /dev nodev"));
        spec.user_namespace = Some(IdMapping { host_base: 100_000, size: 65_536 });
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"bind /dev/fuse /dev/fuse nosuid,noexec".to_owned()));
    }

    #[test]
    fn sysctls_are_written_before_anything_is_read_only() {
        let mut spec = spec();
        let sysctl = Sysctl { path: "net/ipv4/ip_forward".into(), value: "1".into() };
        spec.sysctls.push(sysctl);
        let lines = outline(&plan(&spec));
        assert_eq!(lines[1], "write /proc/sys/net/ipv4/ip_forward 1");
        assert!(lines.iter().position(|line| line.starts_with("read-only")) > Some(1));
    }

    #[test]
    fn who_may_do_everything_writes_to_sys_and_its_cgroups_and_opens_devices() {
        let mut spec = spec();
        spec.privileged = true;
        let path = "/cg/cpu/id".into();
        spec.cgroup.v1.push(V1Directory { controller: "cpu".into(), path });
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"sysfs /sys nosuid,nodev,noexec".to_owned()));
        assert!(
            lines.contains(&"bind /cg/cpu/id /sys/fs/cgroup/cpu nosuid,nodev,noexec".to_owned())
        );
        assert!(!lines.contains(&"restrict /dev nodev".to_owned()), "{lines:?}");
    }

    #[test]
    fn shared_memory_is_its_own_the_hosts_or_anothers() {
        let mut spec = spec();
        spec.shm_size_bytes = 4096;
        let size = |steps: &[Step]| {
            steps.iter().find_map(|step| match step {
                Step::Filesystem { target, options, .. } if target == "/dev/shm" => {
                    options.iter().find(|(name, _)| name == "size").map(|(_, size)| size.clone())
                }
                _ => None,
            })
        };
        assert_eq!(size(&plan(&spec)), Some("4096".to_owned()));
        spec.namespaces.ipc = Namespace::Host;
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"bind /dev/shm /dev/shm nosuid,nodev,noexec".to_owned()));
        spec.namespaces.ipc = Namespace::Of(Member { pid: 7, inode: 1 });
        let lines = outline(&plan(&spec));
        assert!(lines.contains(&"shared memory of 7 /dev/shm".to_owned()));
    }

    #[test]
    fn binds_come_before_masks_and_a_read_only_root_comes_last() {
        let mut spec = spec();
        spec.rootfs.read_only = true;
        for (source, read_only) in [("/data", false), ("/secret", true), ("/dev/fuse", false)] {
            let propagation = Propagation::Private;
            let (source, target) = (source.into(), "/x".into());
            spec.binds.push(Bind { source, target, read_only, propagation });
        }
        let lines = outline(&plan(&spec));
        let expected = [
            "rbind /data /x nodev",
            "rbind /secret /x ro,nodev",
            "rbind /dev/fuse /x ",
            "mask /proc/kcore",
            "read-only /proc/sys",
            "restrict / ro",
        ];
        assert_eq!(lines[lines.len() - expected.len()..], expected);
    }
}
