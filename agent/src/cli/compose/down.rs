//! `down`: a project's containers and networks go, found by their labels alone.

use anyhow::Context as _;
use bollard::Docker;
use bollard::query_parameters as query;
use clap::Args;

use super::converge::{self, of_project};
use super::failures::{self, Failures};
use super::{done, present};

#[derive(Debug, Args)]
pub struct DownFlags {
    /// Remove the project's volumes as well, with what is in them.
    #[arg(long, short)]
    volumes: bool,
    /// As `up` has it; here, all of the project's containers go in any case.
    #[arg(long)]
    remove_orphans: bool,
    /// Seconds between the stop signal and SIGKILL.
    #[arg(long, short)]
    timeout: Option<i32>,
}

/// What cannot go keeps nothing else from going.
pub async fn down(docker: &Docker, project: &str, flags: DownFlags) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    let there = present::containers(docker, project).await?;
    let one = async |container: &present::Container| {
        let present = &container.present;
        if present.running {
            converge::stop(docker, &present.id, flags.timeout).await?;
            done("Container", &present.name, "Stopped");
        }
        converge::remove(docker, &present.id, flags.volumes).await?;
        done("Container", &present.name, "Removed");
        anyhow::Ok(())
    };
    // Whoever shares another one's namespaces or volumes does not keep that one from going.
    failures.note(failures::all(there.iter().map(one)).await);
    let filters = of_project(project);
    let options = query::ListNetworksOptionsBuilder::new().filters(&filters).build();
    for network in docker.list_networks(Some(options)).await? {
        let name = network.name.unwrap_or_default();
        let removed = docker.remove_network(&name).await;
        if failures.note(removed.with_context(|| format!("network {name}"))).is_some() {
            done("Network", &name, "Removed");
        }
    }
    if flags.volumes {
        let options = query::ListVolumesOptionsBuilder::new().filters(&filters).build();
        for volume in docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
            let name = &volume.name;
            let removed = docker.remove_volume(name, None::<query::RemoveVolumeOptions>).await;
            if failures.note(removed.with_context(|| format!("volume {name}"))).is_some() {
                done("Volume", name, "Removed");
            }
        }
    }
    failures.end()
}
