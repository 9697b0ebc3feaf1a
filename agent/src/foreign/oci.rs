//! What runtimes write down about a container beside its cgroup, as text. Pure.
//!
//! Sources: containerd's CRI plug-in (`pkg/cri/annotations`), CRI-O
//! (`pkg/annotations`), nerdctl (`pkg/labels`), Docker Compose and dockershim labels,
//! containers/storage (`containers.json`, written by Podman).

use std::collections::HashMap;

use serde::Deserialize;

use crate::origin::{Compose, Pod, Runtime};

/// What a container is called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Where the notes tell more than the cgroup's path did.
    pub runtime: Option<Runtime>,
    pub name: String,
    pub image: String,
    pub pod: Option<Pod>,
    pub compose: Option<Compose>,
}

/// Docker's labels, and the annotations of an OCI `config.json`.
pub type Notes = HashMap<String, String>;

/// The annotations of a bundle's `config.json`; `None` if that is no such file.
pub fn parse_annotations(config_json: &[u8]) -> Option<Notes> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        annotations: Notes,
    }
    let config: Config = serde_json::from_slice(config_json).ok()?;
    Some(config.annotations)
}

/// `None` if none of the known runtimes wrote them.
pub fn describe(notes: &Notes) -> Option<Description> {
    let note = |key: &str| notes.get(key).filter(|value| !value.is_empty()).cloned();
    let first = |keys: &[&str]| keys.iter().find_map(|key| note(key)).unwrap_or_default();
    let kind = first(&["io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType"]);
    let mut pod = Pod {
        namespace: first(&["io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace"]),
        pod: first(&["io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name"]),
        container: first(&["io.kubernetes.cri.container-name", "io.kubernetes.container.name"]),
    };
    if kind == "sandbox" {
        // As cAdvisor has it.
        pod.container = "POD".into();
    }
    let pod = (!pod.pod.is_empty()).then_some(pod);
    let compose = note("com.docker.compose.project")
        .map(|project| Compose { project, service: first(&["com.docker.compose.service"]) });
    let is_crio = notes.keys().any(|key| key.starts_with("io.kubernetes.cri-o."));
    let is_containerd = notes
        .keys()
        .any(|key| key.starts_with("io.kubernetes.cri.") || key.starts_with("nerdctl/"));
    let runtime = match (is_crio, is_containerd) {
        (true, _) => Some(Runtime::CriO),
        (_, true) => Some(Runtime::Containerd),
        _ => None,
    };
    let in_pod = pod.as_ref().map(|pod| pod.container.clone()).unwrap_or_default();
    let name = match in_pod.as_str() {
        "" => first(&["nerdctl/name", "io.kubernetes.cri-o.Name", "io.container.manager.name"]),
        _ => in_pod,
    };
    let image = first(&[
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri-o.ImageName",
        "io.kubernetes.cri-o.Image",
        "nerdctl/image",
    ]);
    let nothing = name.is_empty() && image.is_empty() && pod.is_none() && compose.is_none();
    (!nothing).then_some(Description { runtime, name, image, pod, compose })
}

/// One container in Podman's `containers.json` or `volatile-containers.json`.
pub fn describe_podman(containers_json: &[u8], id: &str) -> Option<Description> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        #[serde(default)]
        names: Vec<String>,
        #[serde(default)]
        image: String,
        /// JSON in a string.
        #[serde(default)]
        metadata: String,
    }
    #[derive(Default, Deserialize)]
    struct Metadata {
        #[serde(default, rename = "image-name")]
        image_name: String,
        #[serde(default)]
        name: String,
    }
    let containers: Vec<Container> = serde_json::from_slice(containers_json).ok()?;
    let container = containers.into_iter().find(|container| container.id == id)?;
    let metadata: Metadata = serde_json::from_str(&container.metadata).unwrap_or_default();
    let name = container.names.into_iter().next().unwrap_or(metadata.name);
    let image = if metadata.image_name.is_empty() { container.image } else { metadata.image_name };
    Some(Description { name, image, ..Description::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(json: &str) -> Option<Description> {
        describe(&parse_annotations(json.as_bytes()).expect("a configuration"))
    }

    fn pod(namespace: &str, pod: &str, container: &str) -> Option<Pod> {
        Some(Pod { namespace: namespace.into(), pod: pod.into(), container: container.into() })
    }

    #[test]
    fn a_container_of_containerds_cri_plug_in() {
        let json = r#"{"ociVersion":"1.0.2-dev","process":{"args":["nginx"]},"annotations":{
            "io.kubernetes.cri.container-name":"cart",
            "io.kubernetes.cri.container-type":"container",
            "io.kubernetes.cri.image-name":"registry.example/cart:2",
            "io.kubernetes.cri.sandbox-id":"0c5a",
            "io.kubernetes.cri.sandbox-name":"cart-7d9f",
            "io.kubernetes.cri.sandbox-namespace":"shop",
            "io.kubernetes.cri.sandbox-uid":"2c48913c"}}"#;
        let expected = Description {
            runtime: Some(Runtime::Containerd),
            name: "cart".into(),
            image: "registry.example/cart:2".into(),
            pod: pod("shop", "cart-7d9f", "cart"),
            compose: None,
        };
        assert_eq!(described(json), Some(expected));
    }

    #[test]
    fn a_pods_sandbox_is_called_as_cadvisor_calls_it() {
        let json = r#"{"annotations":{
            "io.kubernetes.cri.container-type":"sandbox",
            "io.kubernetes.cri.sandbox-name":"cart-7d9f",
            "io.kubernetes.cri.sandbox-namespace":"shop"}}"#;
        let found = described(json).unwrap();
        assert_eq!((found.name.as_str(), found.pod), ("POD", pod("shop", "cart-7d9f", "POD")));
    }

    #[test]
    fn a_container_of_crio() {
        let json = r#"{"annotations":{
            "io.container.manager":"cri-o",
            "io.kubernetes.container.name":"web",
            "io.kubernetes.cri-o.ContainerType":"container",
            "io.kubernetes.cri-o.ImageName":"docker.io/library/nginx:1.25",
            "io.kubernetes.cri-o.Image":"sha256:ab",
            "io.kubernetes.cri-o.Name":"k8s_web_web-0_default_11_0",
            "io.kubernetes.pod.name":"web-0",
            "io.kubernetes.pod.namespace":"default"}}"#;
        let expected = Description {
            runtime: Some(Runtime::CriO),
            name: "web".into(),
            image: "docker.io/library/nginx:1.25".into(),
            pod: pod("default", "web-0", "web"),
            compose: None,
        };
        assert_eq!(described(json), Some(expected));
    }

    #[test]
    fn a_container_of_nerdctl() {
        let json = r#"{"annotations":{"nerdctl/name":"db","nerdctl/namespace":"default",
            "nerdctl/platform":"linux/amd64"}}"#;
        let found = described(json).unwrap();
        assert_eq!((found.runtime, found.name.as_str()), (Some(Runtime::Containerd), "db"));
    }

    #[test]
    fn a_container_of_a_compose_project() {
        let labels: Notes = [
            ("com.docker.compose.project", "shop"),
            ("com.docker.compose.service", "cart"),
            ("maintainer", "nobody"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let expected = Compose { project: "shop".into(), service: "cart".into() };
        assert_eq!(describe(&labels).unwrap().compose, Some(expected));
    }

    #[test]
    fn notes_that_name_nothing_are_no_description() {
        assert_eq!(described(r#"{"annotations":{"org.example":"x"}}"#), None);
        assert_eq!(described("{}"), None);
        assert_eq!(parse_annotations(b"7"), None);
        assert_eq!(parse_annotations(b"{\"annotations\":"), None);
    }

    /// As Podman 4.3 wrote it.
    #[test]
    fn podmans_list_has_name_and_image() {
        let id = "33d8899e4845c2e4346c0e17de51a59f7f1f85de5106239fb1421f15d7f5bccd";
        let json = include_bytes!("fixtures/podman-containers.json");
        let found = describe_podman(json, id).unwrap();
        assert_eq!((found.name.as_str(), found.image.as_str()), ("pweb", "localhost/bb:latest"));
        assert_eq!(describe_podman(json, "33d8"), None);
        assert_eq!(describe_podman(b"{}", id), None);
    }
}
