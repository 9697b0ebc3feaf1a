//! What the agent has of a project.

use std::collections::HashMap;

use bollard::Docker;
use bollard::models::{ContainerSummary, PortSummary};
use bollard::query_parameters as query;
use tenantry_compose::Labels;
use tenantry_compose::plan::Present;

/// A project's container.
#[derive(Clone, Debug)]
pub struct Container {
    pub present: Present,
    pub service: String,
    pub one_off: bool,
    pub image_name: String,
    /// `running`, `exited`, …
    pub state: String,
    /// `Up 3 seconds`, …
    pub status: String,
    pub ports: Vec<PortSummary>,
    labels: HashMap<String, String>,
}

/// All of one project, by service and number.
pub async fn containers(docker: &Docker, project: &str) -> anyhow::Result<Vec<Container>> {
    let filters = HashMap::from([("label", vec![format!("{}={project}", Labels::PROJECT)])]);
    let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let summaries = docker.list_containers(Some(options)).await?;
    let mut containers: Vec<Container> = summaries.into_iter().filter_map(container).collect();
    containers.sort_by_key(|container| (container.service.clone(), container.present.number));
    Ok(containers)
}

/// Those of these services, without what `run` made; of all, if none is named.
pub async fn of_services(
    docker: &Docker,
    project: &str,
    services: &[String],
) -> anyhow::Result<Vec<Container>> {
    let mut all = containers(docker, project).await?;
    all.retain(|container| {
        !container.one_off && (services.is_empty() || services.contains(&container.service))
    });
    Ok(all)
}

/// Every project that has containers: its name, its files, and how many run of how many.
pub async fn projects(docker: &Docker) -> anyhow::Result<Vec<(String, String, usize, usize)>> {
    let filters = HashMap::from([("label", vec![Labels::PROJECT.to_owned()])]);
    let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let mut projects: Vec<(String, String, usize, usize)> = Vec::new();
    for container in docker.list_containers(Some(options)).await?.into_iter().filter_map(container)
    {
        let label = |name: &str| container.labels.get(name).cloned().unwrap_or_default();
        let (name, files) = (label(Labels::PROJECT), label(Labels::FILES));
        if !projects.iter().any(|project| project.0 == name) {
            projects.push((name.clone(), files, 0, 0));
        }
        for project in projects.iter_mut().filter(|project| project.0 == name) {
            project.2 += usize::from(container.present.running);
            project.3 += 1;
        }
    }
    projects.sort();
    Ok(projects)
}

fn container(summary: ContainerSummary) -> Option<Container> {
    let labels = summary.labels.unwrap_or_default();
    let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
    let state = summary.state.map(|state| state.to_string()).unwrap_or_default();
    let name = summary.names.unwrap_or_default().into_iter().next().unwrap_or_default();
    let image = label(Labels::IMAGE);
    Some(Container {
        present: Present {
            id: summary.id?,
            name: name.trim_start_matches('/').to_owned(),
            number: label(Labels::NUMBER).parse().unwrap_or(1),
            hash: label(Labels::HASH),
            image: if image.is_empty() { summary.image_id.unwrap_or_default() } else { image },
            running: matches!(state.as_str(), "running" | "restarting" | "paused"),
            // The list does not say it; who needs it looks.
            cut_off: false,
        },
        service: label(Labels::SERVICE),
        one_off: label(Labels::ONE_OFF) == "True",
        image_name: summary.image.unwrap_or_default(),
        state,
        status: summary.status.unwrap_or_default(),
        ports: summary.ports.unwrap_or_default(),
        labels,
    })
}
