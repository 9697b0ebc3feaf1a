//! Asks each runtime what its containers are called: sockets and state files that the
//! runtime itself keeps. Reads, never writes; nothing here is asked by a scrape.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bollard::Docker;
use bollard::query_parameters::InspectContainerOptions;

use super::classify::{Subject, unescape_unit};
use super::oci::{self, Description};
use crate::origin::Runtime;

/// A state file of a runtime is small; what is larger is not read.
const MAX_FILE_BYTES: u64 = 4 << 20;
const DOCKER_TIMEOUT_S: u64 = 5;

/// Where runtimes keep their notes.
#[derive(Clone, Debug)]
pub struct Sources {
    pub docker_socket: PathBuf,
    /// Ours speaks Docker's API too, and is never asked.
    pub own_socket: PathBuf,
    /// `<namespace>/<id>/config.json` below it.
    pub containerd_state: PathBuf,
    /// Roots of containers/storage (Podman, CRI-O): `overlay-containers` below each.
    pub storages: Vec<PathBuf>,
}

impl Sources {
    /// `None` if nobody knows it (yet).
    pub async fn describe(&self, subject: &Subject) -> Option<Description> {
        match subject.runtime {
            Runtime::Systemd => {
                Some(Description { name: unescape_unit(&subject.id), ..Description::default() })
            }
            Runtime::Docker => self.ask_docker(&subject.id).await,
            _ => {
                let (sources, subject) = (self.clone(), subject.clone());
                tokio::task::spawn_blocking(move || sources.read_notes(&subject)).await.ok()?
            }
        }
    }

    async fn ask_docker(&self, id: &str) -> Option<Description> {
        if !self.docker_socket.exists() || is_same(&self.docker_socket, &self.own_socket) {
            return None;
        }
        let path = self.docker_socket.to_str()?;
        let docker =
            Docker::connect_with_unix(path, DOCKER_TIMEOUT_S, bollard::API_DEFAULT_VERSION).ok()?;
        // An older daemon refuses a newer client's version.
        let docker = docker.negotiate_version().await.ok()?;
        let found = docker.inspect_container(id, None::<InspectContainerOptions>).await.ok()?;
        let config = found.config.unwrap_or_default();
        let labels = config.labels.unwrap_or_default().into_iter().collect();
        let described = oci::describe(&labels).unwrap_or_default();
        let name = found.name.unwrap_or_default().trim_start_matches('/').to_owned();
        let name = if name.is_empty() { described.name } else { name };
        let image = config.image.unwrap_or(described.image);
        Some(Description { runtime: None, name, image, ..described })
    }

    fn read_notes(&self, subject: &Subject) -> Option<Description> {
        let id = &subject.id;
        let mut storages = self.storages.clone();
        storages.extend(rootless_storage(&subject.cgroup));
        let containers = storages.iter().map(|root| root.join("overlay-containers"));
        let containers: Vec<PathBuf> = containers.collect();
        if subject.runtime == Runtime::Podman {
            let lists = ["containers.json", "volatile-containers.json"];
            let mut files =
                containers.iter().flat_map(|dir| lists.iter().map(move |list| dir.join(list)));
            return files.find_map(|file| oci::describe_podman(&read(&file)?, id));
        }
        let containerd = directories(&self.containerd_state);
        let containerd = containerd.into_iter().map(|dir| dir.join(id).join("config.json"));
        let storage = containers.iter().map(|dir| dir.join(id).join("userdata/config.json"));
        let mut files = containerd.chain(storage);
        files.find_map(|file| oci::describe(&oci::parse_annotations(&read(&file)?)?))
    }
}

/// A user's own Podman keeps its notes in the user's home.
fn rootless_storage(cgroup: &str) -> Option<PathBuf> {
    let (_, rest) = cgroup.split_once("/user@")?;
    let uid = rest.split_once(".service")?.0;
    let passwd = read(Path::new("/etc/passwd"))?;
    let home = home_of(&String::from_utf8_lossy(&passwd), uid)?;
    Some(home.join(".local/share/containers/storage"))
}

/// The home of the user with this number, from the text of passwd(5).
fn home_of(passwd: &str, uid: &str) -> Option<PathBuf> {
    let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let user = users.find(|user| user.get(2) == Some(&uid))?;
    user.get(5).filter(|home| home.starts_with('/')).map(PathBuf::from)
}

fn is_same(a: &Path, b: &Path) -> bool {
    let number = |path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    number(a).is_some() && number(a) == number(b)
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let file = std::fs::metadata(path).ok()?;
    if !file.is_file() || file.len() > MAX_FILE_BYTES {
        return None;
    }
    std::fs::read(path).ok()
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(root: &Path) -> Sources {
        Sources {
            docker_socket: root.join("docker.sock"),
            own_socket: root.join("own.sock"),
            containerd_state: root.join("containerd"),
            storages: vec![root.join("storage")],
        }
    }

    fn subject(runtime: Runtime) -> Subject {
        let id = "33d8899e4845c2e4346c0e17de51a59f7f1f85de5106239fb1421f15d7f5bccd";
        Subject { runtime, id: id.into(), cgroup: format!("/x/{id}") }
    }

    fn put(path: &Path, text: &str) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn notes_are_found_where_each_runtime_keeps_them() {
        let root = tempfile::tempdir().unwrap();
        let (sources, id) = (sources(root.path()), subject(Runtime::Podman).id);
        let name = |runtime| sources.read_notes(&subject(runtime)).map(|found| found.name);
        for runtime in [Runtime::Podman, Runtime::Containerd, Runtime::CriO, Runtime::Kubernetes] {
            assert_eq!(name(runtime), None);
        }
        let storage = root.path().join("storage/overlay-containers");
        put(&storage.join("containers.json"), include_str!("fixtures/podman-containers.json"));
        assert_eq!(name(Runtime::Podman).as_deref(), Some("pweb"));
        let crio = r#"{"annotations":{"io.kubernetes.cri-o.Name":"of-crio"}}"#;
        put(&storage.join(&id).join("userdata/config.json"), crio);
        assert_eq!(name(Runtime::CriO).as_deref(), Some("of-crio"));
        let containerd = r#"{"annotations":{"nerdctl/name":"of-containerd"}}"#;
        put(&root.path().join("containerd/k8s.io").join(&id).join("config.json"), containerd);
        assert_eq!(name(Runtime::Containerd).as_deref(), Some("of-containerd"));
        assert_eq!(name(Runtime::Kubernetes).as_deref(), Some("of-containerd"));
    }

    #[test]
    fn a_users_home_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1000:,,,:/home/ann:/bin/sh\nodd\n";
        assert_eq!(home_of(passwd, "1000"), Some("/home/ann".into()));
        assert_eq!(home_of(passwd, "100"), None);
    }

    #[tokio::test]
    async fn our_own_socket_is_not_asked_and_an_absent_one_is_no_fault() {
        let root = tempfile::tempdir().unwrap();
        let sources = sources(root.path());
        assert_eq!(sources.describe(&subject(Runtime::Docker)).await, None);
        put(&sources.own_socket, "");
        std::os::unix::fs::symlink(&sources.own_socket, &sources.docker_socket).unwrap();
        assert!(is_same(&sources.docker_socket, &sources.own_socket));
        assert_eq!(sources.describe(&subject(Runtime::Docker)).await, None);
    }
}
