//! Who runs a container, and what only that runtime knows of it. Plain data.

use serde::{Deserialize, Serialize};

/// Whose container it is. A container of a pod whose cgroup does not tell the runtime is
/// Kubernetes' own.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Runtime {
    #[default]
    Tenantry,
    Docker,
    Podman,
    Containerd,
    CriO,
    Kubernetes,
    Systemd,
}

impl Runtime {
    /// As labels, the API and messages write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tenantry => "tenantry",
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::CriO => "cri-o",
            Self::Kubernetes => "kubernetes",
            Self::Systemd => "systemd",
        }
    }
}

impl std::fmt::Display for Runtime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a container in a pod belongs; empty where Kubernetes did not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Pod {
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// The container's name in the pod's specification; `POD` is the pod's own sandbox.
    pub container: String,
}

/// Where a container of a Compose project belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Compose {
    pub project: String,
    pub service: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Origin {
    pub runtime: Runtime,
    /// Only of containers that Kubernetes started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Pod>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<Compose>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serde_and_labels_use_the_same_words() {
        for runtime in [
            Runtime::Tenantry,
            Runtime::Docker,
            Runtime::Podman,
            Runtime::Containerd,
            Runtime::CriO,
            Runtime::Kubernetes,
            Runtime::Systemd,
        ] {
            assert_eq!(serde_json::to_value(runtime).unwrap(), runtime.as_str());
        }
    }
}
