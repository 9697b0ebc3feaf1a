//! Brings one service's containers to what the file says.

use std::collections::HashMap;

use anyhow::Context as _;
use bollard::errors::Error as DockerError;
use bollard::models::{ContainerCreateBody, Mount, MountType, NetworkConnectRequest};
use bollard::query_parameters as query;
use tenantry_compose::Service;
use tenantry_compose::plan::{Action, Change, Present, Recreate, Wanted, plan};

use super::present::{self, Container};
use super::{Compose, done, failures};

/// How a service's containers are brought to what the file says.
#[derive(Clone, Copy, Debug)]
pub struct How {
    pub recreate: Recreate,
    pub start: bool,
    /// Seconds between the stop signal and SIGKILL.
    pub stop_timeout: Option<i32>,
}

/// What became of it, so that who depends on it may have to begin again. `restart`: since what it
/// depends on has.
pub async fn converge(
    compose: &Compose<'_>,
    service: &Service,
    image_id: &str,
    how: How,
    restart: bool,
) -> anyhow::Result<Change> {
    let services = [service.name.clone()];
    let mut there = present::of_services(compose.docker, &compose.project.name, &services).await?;
    if service.shares_namespaces() {
        let all = present::of_services(compose.docker, &compose.project.name, &[]).await?;
        for container in &mut there {
            let present = &mut container.present;
            let options = None::<query::InspectContainerOptions>;
            let host = compose.docker.inspect_container(&present.id, options).await?.host_config;
            present.cut_off = host.is_some_and(|host| {
                service.is_cut_off(&host, |of| Some(lender(&all, of)?.present.id.clone()))
            });
        }
    }
    let wanted = Wanted {
        scale: service.scale,
        hash: compose.project.hash(service),
        image: image_id.to_owned(),
        recreate: how.recreate,
        restart,
    };
    let actions = plan(&wanted, there.into_iter().map(|container| container.present).collect());
    let (removals, others): (Vec<_>, Vec<_>) =
        actions.into_iter().partition(|action| matches!(action, Action::Remove(_)));
    let change = Change::of(&others);
    let one = One { compose, service, image_id, how };
    failures::all(removals.into_iter().map(|action| one.act(action))).await?;
    failures::all(others.into_iter().map(|action| one.act(action))).await?;
    Ok(change)
}

/// One service on its way.
struct One<'a> {
    compose: &'a Compose<'a>,
    service: &'a Service,
    image_id: &'a str,
    how: How,
}

impl One<'_> {
    async fn act(&self, action: Action) -> anyhow::Result<()> {
        let docker = self.compose.docker;
        match action {
            Action::Keep(present) => done("Container", &present.name, "Running"),
            Action::Remove(present) => {
                stop(docker, &present.id, self.how.stop_timeout).await?;
                remove(docker, &present.id, false).await?;
                done("Container", &present.name, "Removed");
            }
            Action::Create(number) => {
                let name = self.compose.project.container_name(self.service, number);
                let id =
                    create(self.compose, self.service, self.image_id, number, None, &[]).await?;
                done("Container", &name, "Created");
                self.start(&id, &name).await?;
            }
            Action::Start(present) => self.start(&present.id, &present.name).await?,
            Action::Restart(present) => {
                restart(docker, &present.id, self.how.stop_timeout).await?;
                done("Container", &present.name, "Restarted");
            }
            Action::Recreate(present) => {
                let name = self.compose.project.container_name(self.service, present.number);
                let id = self.recreate(&present, &name).await?;
                done("Container", &name, "Recreated");
                self.start(&id, &name).await?;
            }
        }
        Ok(())
    }

    async fn start(&self, id: &str, name: &str) -> anyhow::Result<()> {
        if self.how.start {
            self.compose
                .docker
                .start_container(id, None::<query::StartContainerOptions>)
                .await
                .with_context(|| format!("cannot start {name}"))?;
            done("Container", name, "Started");
        }
        Ok(())
    }

    /// The old one goes when the new one is made, and keeps its name if that fails.
    async fn recreate(&self, old: &Present, name: &str) -> anyhow::Result<String> {
        let docker = self.compose.docker;
        let kept = anonymous_volumes(docker, &old.id).await?;
        let aside = format!("{}_{}", &old.id[..12.min(old.id.len())], old.name);
        let rename = async |name: &str| {
            let options = query::RenameContainerOptionsBuilder::new().name(name).build();
            docker.rename_container(&old.id, options).await
        };
        rename(&aside).await?;
        let made =
            create(self.compose, self.service, self.image_id, old.number, Some(name), &kept).await;
        let id = match made {
            Ok(id) => id,
            Err(error) => {
                rename(&old.name).await?;
                return Err(error);
            }
        };
        stop(docker, &old.id, self.how.stop_timeout).await?;
        remove(docker, &old.id, false).await?;
        Ok(id)
    }
}

/// What the old container kept in volumes without a name is the new one's.
async fn anonymous_volumes(docker: &bollard::Docker, id: &str) -> anyhow::Result<Vec<Mount>> {
    let old = docker.inspect_container(id, None::<query::InspectContainerOptions>).await?;
    let is_generated = |name: &str| name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
    let mount = |point: bollard::models::MountPoint| {
        let source = point.name.filter(|name| is_generated(name))?;
        Some(Mount {
            target: point.destination,
            source: Some(source),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        })
    };
    Ok(old.mounts.unwrap_or_default().into_iter().filter_map(mount).collect())
}

/// A container of a service, on its networks and with its files, not yet started.
pub async fn create(
    compose: &Compose<'_>,
    service: &Service,
    image_id: &str,
    number: u32,
    name: Option<&str>,
    kept: &[Mount],
) -> anyhow::Result<String> {
    let project = &compose.project;
    let own_name = || project.container_name(service, number);
    let name = name.map_or_else(own_name, str::to_owned);
    let mut body = project.container(service, image_id, number, false);
    shared(compose, service, &mut body).await?;
    keep(&mut body, kept);
    let further = project.further_networks(service, false);
    made(compose, service, &name, body, further).await
}

/// Creates, connects and fills; what fails on the way leaves nothing.
pub async fn made(
    compose: &Compose<'_>,
    service: &Service,
    name: &str,
    body: ContainerCreateBody,
    further: Vec<(String, bollard::models::EndpointSettings)>,
) -> anyhow::Result<String> {
    let docker = compose.docker;
    let options = query::CreateContainerOptionsBuilder::new().name(name).build();
    let created = docker.create_container(Some(options), body).await;
    let id = created.with_context(|| format!("cannot create {name}"))?.id;
    let finished = async {
        for (network, endpoint) in further {
            let endpoint_config = Some(endpoint);
            let request = NetworkConnectRequest { container: id.clone(), endpoint_config };
            docker.connect_network(&network, request).await?;
        }
        upload(docker, &id, service).await
    };
    if let Err(error) = finished.await {
        remove(docker, &id, true).await?;
        return Err(error.context(format!("cannot create {name}")));
    }
    Ok(id)
}

async fn upload(docker: &bollard::Docker, id: &str, service: &Service) -> anyhow::Result<()> {
    if service.uploads.is_empty() {
        return Ok(());
    }
    let mut archive = tar::Builder::new(Vec::new());
    for upload in &service.uploads {
        let mut header = tar::Header::new_gnu();
        header.set_size(upload.text.len() as u64);
        header.set_mode(upload.mode);
        header.set_uid(upload.uid);
        header.set_gid(upload.gid);
        let path = upload.path.trim_start_matches('/');
        archive.append_data(&mut header, path, upload.text.as_bytes())?;
    }
    let body = bollard::body_full(archive.into_inner()?.into());
    let options = query::UploadToContainerOptionsBuilder::new().path("/").build();
    Ok(docker.upload_to_container(id, Some(options), body).await?)
}

/// What is another container's: namespaces, and volumes.
pub async fn shared(
    compose: &Compose<'_>,
    service: &Service,
    body: &mut ContainerCreateBody,
) -> anyhow::Result<()> {
    let there = present::of_services(compose.docker, &compose.project.name, &[]).await?;
    let first = |of: &str| -> anyhow::Result<String> {
        let found = lender(&there, of);
        let found = found.with_context(|| format!("{}: {of} has no container", service.name))?;
        Ok(found.present.id.clone())
    };
    let host = body.host_config.get_or_insert_default();
    for (of, mode) in [
        (&service.network_of, &mut host.network_mode),
        (&service.pid_of, &mut host.pid_mode),
        (&service.ipc_of, &mut host.ipc_mode),
    ] {
        if let Some(of) = of {
            *mode = Some(format!("container:{}", first(of)?));
        }
    }
    for (of, mode) in &service.volumes_of {
        let id = first(of)?;
        let text = if mode.is_empty() { id } else { format!("{id}:{mode}") };
        host.volumes_from.get_or_insert_default().push(text);
    }
    Ok(())
}

/// Whose namespaces and volumes are meant by a service: its first container's.
fn lender<'a>(there: &'a [Container], service: &str) -> Option<&'a Container> {
    there.iter().find(|container| container.service == service)
}

/// Where the file says nothing else, what was kept is mounted again.
fn keep(body: &mut ContainerCreateBody, kept: &[Mount]) {
    let host = body.host_config.get_or_insert_default();
    let of_binds = host.binds.iter().flatten().filter_map(|bind| bind.split(':').nth(1));
    let of_mounts = host.mounts.iter().flatten().filter_map(|mount| mount.target.as_deref());
    let said: Vec<String> = of_binds.chain(of_mounts).map(str::to_owned).collect();
    let is_free =
        |mount: &&Mount| mount.target.as_ref().is_some_and(|target| !said.contains(target));
    let mounts: Vec<Mount> = kept.iter().filter(is_free).cloned().collect();
    if !mounts.is_empty() {
        host.mounts.get_or_insert_default().extend(mounts);
    }
}

pub async fn stop(
    docker: &bollard::Docker,
    id: &str,
    timeout: Option<i32>,
) -> Result<(), DockerError> {
    let mut options = query::StopContainerOptionsBuilder::new();
    if let Some(seconds) = timeout {
        options = options.t(seconds);
    }
    docker.stop_container(id, Some(options.build())).await
}

pub async fn restart(
    docker: &bollard::Docker,
    id: &str,
    timeout: Option<i32>,
) -> Result<(), DockerError> {
    let mut options = query::RestartContainerOptionsBuilder::new();
    if let Some(seconds) = timeout {
        options = options.t(seconds);
    }
    docker.restart_container(id, Some(options.build())).await
}

pub async fn remove(docker: &bollard::Docker, id: &str, volumes: bool) -> Result<(), DockerError> {
    let options = query::RemoveContainerOptionsBuilder::new().force(true).v(volumes).build();
    match docker.remove_container(id, Some(options)).await {
        // With `--rm` it goes by itself.
        Err(DockerError::DockerResponseServerError { status_code: 404 | 409, .. }) => Ok(()),
        other => other,
    }
}

/// Networks and volumes that the services need and the agent has not.
pub async fn provide(compose: &Compose<'_>, services: &[String]) -> anyhow::Result<()> {
    let Compose { docker, project } = compose;
    let is_used = |key: &String| {
        services.iter().any(|name| project.services[name].attachments.contains_key(key))
    };
    for (_, network) in project.networks.iter().filter(|(key, _)| is_used(key)) {
        let name = &network.request.name;
        match docker.inspect_network(name, None::<query::InspectNetworkOptions>).await {
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => {
                anyhow::ensure!(!network.external, "the external network {name} is not there");
                docker.create_network(network.request.clone()).await?;
                done("Network", name, "Created");
            }
            other => drop(other?),
        }
    }
    for volume in project.volumes_of(services) {
        let name = &volume.name;
        match docker.inspect_volume(name).await {
            Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => {
                anyhow::ensure!(!volume.external, "the external volume {name} is not there");
                docker.create_volume(volume.request.clone()).await?;
                done("Volume", name, "Created");
            }
            other => drop(other?),
        }
    }
    Ok(())
}

/// The labels that find what is a project's.
pub fn of_project(project: &str) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![format!("{}={project}", tenantry_compose::Labels::PROJECT)])])
}

#[cfg(test)]
mod tests {
    use bollard::models::HostConfig;

    use super::*;

    #[test]
    fn what_was_kept_is_mounted_where_nothing_else_is() {
        let kept = ["/data", "/cache"]
            .map(|target| Mount { target: Some(target.into()), ..Mount::default() });
        let host = HostConfig { binds: Some(vec!["x:/data:ro".into()]), ..HostConfig::default() };
        let mut body = ContainerCreateBody { host_config: Some(host), ..Default::default() };
        keep(&mut body, &kept);
        let mounts = body.host_config.unwrap().mounts.unwrap();
        assert_eq!(mounts.len(), 1);
        assert_eq!(mounts[0].target.as_deref(), Some("/cache"));
    }
}
