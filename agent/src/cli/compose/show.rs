//! What a project is, and what the agent has of it.

use bollard::Docker;
use clap::Args;
use serde_json::json;
use tenantry_compose::Project;

use super::present;
use crate::cli::table;

#[derive(Debug, Args)]
pub struct PsFlags {
    /// Stopped ones, too.
    #[arg(long, short)]
    all: bool,
    /// Only ids.
    #[arg(long, short)]
    quiet: bool,
    /// The names of the services instead.
    #[arg(long)]
    services: bool,
    #[arg(long)]
    json: bool,
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ConfigFlags {
    /// Only check.
    #[arg(long, short)]
    quiet: bool,
    /// The names of the services.
    #[arg(long)]
    services: bool,
    /// The names of the volumes.
    #[arg(long)]
    volumes: bool,
    /// The names of the images.
    #[arg(long)]
    images: bool,
    /// The names of the profiles.
    #[arg(long)]
    profiles: bool,
}

#[derive(Debug, Args)]
pub struct PortFlags {
    /// Which of the service's containers.
    #[arg(long, default_value_t = 1)]
    index: u32,
    #[arg(long, default_value = "tcp")]
    protocol: String,
    service: String,
    port: u16,
}

pub async fn ps(docker: &Docker, project: &str, flags: PsFlags) -> anyhow::Result<()> {
    let mut there = present::of_services(docker, project, &flags.names).await?;
    there.retain(|container| flags.all || container.present.running);
    if flags.services {
        let mut names: Vec<&String> = there.iter().map(|container| &container.service).collect();
        names.dedup();
        names.iter().for_each(|name| println!("{name}"));
        return Ok(());
    }
    if flags.quiet {
        there.iter().for_each(|container| println!("{}", container.present.id));
        return Ok(());
    }
    if flags.json {
        for container in &there {
            let line = json!({
                "ID": container.present.id,
                "Name": container.present.name,
                "Service": container.service,
                "Project": project,
                "Image": container.image_name,
                "State": container.state,
                "Status": container.status,
                "Publishers": container.ports,
            });
            println!("{line}");
        }
        return Ok(());
    }
    let row = |container: &present::Container| {
        let ports: Vec<String> = container.ports.iter().map(port_text).collect();
        vec![
            container.present.name.clone(),
            container.image_name.clone(),
            container.service.clone(),
            container.status.clone(),
            ports.join(", "),
        ]
    };
    let rows: Vec<_> = there.iter().map(row).collect();
    print!("{}", table::render(&["NAME", "IMAGE", "SERVICE", "STATUS", "PORTS"], &rows));
    Ok(())
}

fn port_text(port: &bollard::models::PortSummary) -> String {
    let protocol = port.typ.map(|protocol| protocol.to_string()).unwrap_or_default();
    match port.public_port {
        Some(public) => {
            let address = port.ip.clone().unwrap_or_default();
            format!("{address}:{public}->{}/{protocol}", port.private_port)
        }
        None => format!("{}/{protocol}", port.private_port),
    }
}

pub async fn port(docker: &Docker, project: &str, flags: PortFlags) -> anyhow::Result<()> {
    let there = present::of_services(docker, project, std::slice::from_ref(&flags.service)).await?;
    let ports = there.iter().filter(|container| container.present.number == flags.index);
    let found = ports.flat_map(|container| &container.ports).find(|port| {
        let protocol = port.typ.map(|protocol| protocol.to_string()).unwrap_or_default();
        port.private_port == flags.port && protocol == flags.protocol && port.public_port.is_some()
    });
    let Some(found) = found else {
        anyhow::bail!(
            "port {}/{} of {} is not published",
            flags.port,
            flags.protocol,
            flags.service
        )
    };
    let address = found.ip.clone().unwrap_or_default();
    println!("{address}:{}", found.public_port.unwrap_or_default());
    Ok(())
}

pub async fn ls(docker: &Docker) -> anyhow::Result<()> {
    let projects = present::projects(docker).await?;
    let row = |(name, files, running, all): (String, String, usize, usize)| {
        vec![name, format!("running {running} of {all}"), files]
    };
    let rows: Vec<_> = projects.into_iter().map(row).collect();
    print!("{}", table::render(&["NAME", "STATUS", "CONFIG FILES"], &rows));
    Ok(())
}

/// What the file comes to: for each service, what the agent would be asked for.
pub fn config(project: &Project, flags: &ConfigFlags) -> anyhow::Result<()> {
    let services = project.services.values();
    let mut names: Vec<String> = match flags {
        ConfigFlags { quiet: true, .. } => return Ok(()),
        ConfigFlags { services: true, .. } => project.services.keys().cloned().collect(),
        ConfigFlags { volumes: true, .. } => project.volumes.keys().cloned().collect(),
        ConfigFlags { images: true, .. } => services.map(|one| project.image(one)).collect(),
        ConfigFlags { profiles: true, .. } => {
            services.flat_map(|one| one.profiles.clone()).collect()
        }
        _ => {
            println!("{}", serde_json::to_string_pretty(&whole(project))?);
            return Ok(());
        }
    };
    names.sort();
    names.dedup();
    names.iter().for_each(|name| println!("{name}"));
    Ok(())
}

fn whole(project: &Project) -> serde_json::Value {
    let service = |(name, service): (&String, &tenantry_compose::Service)| {
        let container = project.container(service, "", 1, false);
        let depends_on: Vec<&String> = service.depends_on.keys().collect();
        let value = json!({
            "container": container,
            "depends_on": depends_on,
            "networks": service.attachments.keys().collect::<Vec<_>>(),
            "scale": service.scale,
        });
        (name.clone(), value)
    };
    let services: serde_json::Map<_, _> = project.services.iter().map(service).collect();
    let networks: Vec<_> = project.networks.values().map(|network| &network.request).collect();
    let volumes: Vec<_> = project.volumes.values().map(|volume| &volume.request).collect();
    json!({
        "name": project.name,
        "services": services,
        "networks": networks,
        "volumes": volumes,
    })
}
