//! Which container a cgroup belongs to, from its path alone. Pure.
//!
//! The kernel side (`ebpf/programs/bpf/foreign.h`) knows the same names, so that a
//! container has a slot before its first process; this is the answer that counts.
//!
//! Sources: runc and crun (`libcontainer/cgroups`, `[slice]:[prefix]:[name]` becomes
//! `prefix-name.scope`), Docker (`/docker/<id>`, `docker-<id>.scope`), Podman
//! (`libpod-<id>`), the kubelet (`kubepods[-qos]-pod<uid>.slice`, `kubepods/[qos]/pod<uid>`),
//! containerd's CRI plug-in (`cri-containerd-<id>.scope`), CRI-O (`crio-<id>.scope`),
//! systemd.unit(5) and systemd-escape(1).

use crate::origin::Runtime;

/// A container, or a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub runtime: Runtime,
    /// 64 hexadecimal digits, or the unit's name.
    pub id: String,
    /// Its own cgroup, with a slash before it: the path that was asked for, or above it.
    pub cgroup: String,
}

/// Parents whose children are called by their id alone, and whose they are.
const BARE_PARENTS: [(&str, Runtime); 5] = [
    ("docker", Runtime::Docker),
    ("default", Runtime::Containerd),
    ("k8s.io", Runtime::Containerd),
    ("moby", Runtime::Docker),
    ("buildkit", Runtime::Docker),
];

/// What stands before the id, where something does.
const PREFIXES: [(&str, Runtime); 5] = [
    ("docker-", Runtime::Docker),
    ("libpod-", Runtime::Podman),
    ("cri-containerd-", Runtime::Containerd),
    ("crio-", Runtime::CriO),
    ("nerdctl-", Runtime::Containerd),
];

/// Whose the cgroup at `path` (below the hierarchy's root) is; `None` if it is nobody's:
/// the root, a slice, a pod as a whole, a runtime's monitor, one of ours. The outermost
/// container has everything below it: a service in a container is the container.
pub fn classify(path: &str) -> Option<Subject> {
    let mut parent = "";
    let mut end = 0;
    for name in path.split('/') {
        end += name.len();
        if let Some((runtime, id)) = own(parent, name) {
            let cgroup = path[..end].to_owned();
            return Some(Subject { runtime, id, cgroup });
        }
        parent = name;
        end += 1;
    }
    None
}

fn own(parent: &str, name: &str) -> Option<(Runtime, String)> {
    if let Some(unit) = name.strip_suffix(".service") {
        // A user's service manager is a place for services, none itself.
        let is_service = !unit.is_empty() && !name.starts_with("user@");
        return is_service.then(|| (Runtime::Systemd, name.to_owned()));
    }
    if is_id(name) {
        let runtime = match BARE_PARENTS.iter().find(|(known, _)| *known == parent) {
            Some((_, runtime)) => *runtime,
            None if is_pod(parent) => Runtime::Kubernetes,
            None => return None,
        };
        return Some((runtime, name.to_owned()));
    }
    let stem = name.strip_suffix(".scope").unwrap_or(name);
    PREFIXES.iter().find_map(|(prefix, runtime)| {
        let id = stem.strip_prefix(prefix).filter(|id| is_id(id))?;
        Some((*runtime, id.to_owned()))
    })
}

fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_pod(name: &str) -> bool {
    let uid = name.strip_prefix("pod").unwrap_or_default();
    uid.bytes().next().is_some_and(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Whether an agent's own parent of this name would hold what passes for another
/// runtime's containers.
pub fn is_taken_parent(name: &str) -> bool {
    is_pod(name) || BARE_PARENTS.iter().any(|(known, _)| *known == name)
}

/// A unit's name as a person wrote it: systemd escapes a byte as `\x2d`.
pub fn unescape_unit(name: &str) -> String {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let digits = rest.get(at + 2..at + 4).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match digits {
            Some(byte) => {
                bytes.push(byte);
                rest = &rest[at + 4..];
            }
            None => {
                bytes.extend_from_slice(b"\\x");
                rest = &rest[at + 2..];
            }
        }
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "57a7cd114fabca3052828d953631d903a8a0f796d3d86a1274067773660f858b";
    const OTHER: &str = "33d8899e4845c2e4346c0e17de51a59f7f1f85de5106239fb1421f15d7f5bccd";
    const POD: &str = "pod2c48913c-b29f-11e7-9350-020968147796";
    const POD_UNIT: &str = "pod2c48913c_b29f_11e7_9350_020968147796";

    /// `I` stands for an id, `J` for another, `P` and `Q` for a pod in the two spellings.
    fn path(pattern: &str) -> String {
        let spelled = |part: &str| {
            part.replace("{I}", ID)
                .replace("{J}", OTHER)
                .replace("{P}", POD)
                .replace("{Q}", POD_UNIT)
        };
        spelled(pattern)
    }

    /// The subject of `pattern` is at `own`.
    #[track_caller]
    fn check(pattern: &str, runtime: Runtime, own: &str, id: &str) {
        let expected = Subject { runtime, id: path(id), cgroup: path(own) };
        assert_eq!(classify(&path(pattern)), Some(expected), "{pattern}");
    }

    #[track_caller]
    fn check_itself(pattern: &str, runtime: Runtime) {
        check(pattern, runtime, pattern, "{I}");
    }

    #[test]
    fn containers_of_each_runtime_and_driver_are_known() {
        use Runtime::{Containerd, CriO, Docker, Kubernetes, Podman};
        for (runtime, pattern) in [
            (Docker, "/docker/{I}"),
            (Docker, "/system.slice/docker-{I}.scope"),
            (Docker, "/docker.slice/docker-{I}.scope"),
            (Docker, "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{I}.scope"),
            (Docker, "/moby/{I}"),
            (Docker, "/docker/buildkit/{I}"),
            (Podman, "/machine.slice/libpod-{I}.scope"),
            (Podman, "/machine.slice/machine-libpod_pod_{J}.slice/libpod-{I}.scope"),
            (Podman, "/libpod_parent/libpod-{I}"),
            (Podman, "/libpod_parent/{J}/libpod-{I}"),
            (Podman, "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{I}.scope"),
            (
                Podman,
                "/user.slice/user-1000.slice/user@1000.service/user.slice/\
                 user-libpod_pod_{J}.slice/libpod-{I}.scope",
            ),
            (
                Containerd,
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{Q}.slice/\
                 cri-containerd-{I}.scope",
            ),
            (Containerd, "/kubepods.slice/kubepods-{Q}.slice/cri-containerd-{I}.scope"),
            (Containerd, "/default/{I}"),
            (Containerd, "/k8s.io/{I}"),
            (Containerd, "/system.slice/nerdctl-{I}.scope"),
            (
                Containerd,
                "/user.slice/user-1000.slice/user@1000.service/user.slice/nerdctl-{I}.scope",
            ),
            (
                CriO,
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-{Q}.slice/\
                 crio-{I}.scope",
            ),
            (CriO, "/kubepods/burstable/{P}/crio-{I}"),
            (Docker, "/kubepods.slice/kubepods-{Q}.slice/docker-{I}.scope"),
            (Kubernetes, "/kubepods/burstable/{P}/{I}"),
            (Kubernetes, "/kubepods/besteffort/{P}/{I}"),
            (Kubernetes, "/kubepods/{P}/{I}"),
            // A static pod's uid is a hash.
            (Kubernetes, "/kubepods/burstable/pod5f0af3b1a27dd3a8a1f5b0f9c1c0b3d2/{I}"),
        ] {
            check_itself(pattern, runtime);
        }
    }

    #[test]
    fn what_is_below_a_container_is_the_containers() {
        use Runtime::{CriO, Docker, Podman, Systemd};
        check("/docker/{I}/docker/{J}", Docker, "/docker/{I}", "{I}");
        check("/docker/{I}/system.slice/nginx.service", Docker, "/docker/{I}", "{I}");
        check("/docker/{I}/kubepods/burstable/{P}/{J}", Docker, "/docker/{I}", "{I}");
        let scope = "/machine.slice/libpod-{I}.scope";
        check(&format!("{scope}/container"), Podman, scope, "{I}");
        check(&format!("{scope}/container/init.scope"), Podman, scope, "{I}");
        check(&format!("{scope}/supervisor"), Podman, scope, "{I}");
        let scope = "/kubepods.slice/kubepods-{Q}.slice/crio-{I}.scope";
        check(&format!("{scope}/container"), CriO, scope, "{I}");
        // A container that a service splits off below itself (Quadlet) is the service's.
        let service = "/system.slice/web.service";
        check(&format!("{service}/libpod-payload-{{I}}"), Systemd, service, "web.service");
        check(&format!("{service}/docker/{{I}}"), Systemd, service, "web.service");
    }

    #[test]
    fn services_are_called_by_their_unit() {
        for (pattern, unit) in [
            ("/system.slice/nginx.service", "nginx.service"),
            ("/system.slice/system-getty.slice/getty@tty1.service", "getty@tty1.service"),
            (
                "/system.slice/system-systemd\\x2dfsck.slice/systemd-fsck@dev-vda1.service",
                "systemd-fsck@dev-vda1.service",
            ),
            ("/system.slice/k3s.service", "k3s.service"),
            ("/machine.slice/vm.service", "vm.service"),
            ("/batch.slice/batch-night.slice/report.service", "report.service"),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service",
                "syncthing.service",
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/\
                 app-dbus\\x2d:1.2\\x2dorg.example.slice/dbus-:1.2-org.example@0.service",
                "dbus-:1.2-org.example@0.service",
            ),
        ] {
            check(pattern, Runtime::Systemd, pattern, unit);
        }
    }

    #[test]
    fn nobodys_are_nobodys() {
        for pattern in [
            "",
            "/",
            "/init.scope",
            "/system.slice",
            "/user.slice/user-1000.slice/session-3.scope",
            "/user.slice/user-1000.slice/user@1000.service",
            "/user.slice/user-1000.slice/user@1000.service/init.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox.scope",
            "/docker",
            "/docker/buildkit",
            "/libpod_parent",
            "/libpod_parent/conmon",
            // A pod of Podman's.
            "/libpod_parent/{J}",
            "/machine.slice/libpod-conmon-{I}.scope",
            "/kubepods.slice/kubepods-{Q}.slice/crio-conmon-{I}.scope",
            "/machine.slice/qemu-{I}.scope",
            "/kubepods/burstable/{P}",
            "/kubepods.slice/kubepods-{Q}.slice",
            "/podium/{I}",
            // Ours, and another agent's.
            "/tenantry/{I}",
            "/tenantry-b/{I}",
            "/tenantry-t1234-0/{I}",
            // No ids.
            "/docker/57a7cd114fab",
            "/docker/{I}0",
            "/docker/{I}.scope",
            "/system.slice/docker-57a7cd114fab.scope",
            "/system.slice/.service",
            "/system.slice/service",
        ] {
            assert_eq!(classify(&path(pattern)), None, "{pattern}");
        }
    }

    #[test]
    fn a_parent_that_passes_for_a_runtimes_is_told() {
        for (name, expected) in [
            ("docker", true),
            ("default", true),
            ("pod1", true),
            ("tenantry", false),
            ("tenantry-docker", false),
            ("podium", false),
        ] {
            assert_eq!(is_taken_parent(name), expected, "{name}");
        }
    }

    #[test]
    fn units_names_are_unescaped() {
        for (escaped, expected) in [
            ("nginx.service", "nginx.service"),
            ("systemd\\x2dfsck.service", "systemd-fsck.service"),
            ("a\\x20b\\x2fc.service", "a b/c.service"),
            ("\\x", "\\x"),
            ("\\xzz\\x2d", "\\xzz-"),
            ("caf\\xc3\\xa9.service", "café.service"),
            ("é\\x2", "é\\x2"),
        ] {
            assert_eq!(unescape_unit(escaped), expected);
        }
    }
}
