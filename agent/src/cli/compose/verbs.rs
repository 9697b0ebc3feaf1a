//! Verbs that act on a project's containers: start, stop, restart, kill, pause, rm.

use bollard::query_parameters as query;
use clap::Args;
use tenantry_compose::order;

use super::failures::{self, Failures};
use super::present::{self, Container};
use super::{Compose, converge, done};

#[derive(Debug, Args)]
pub struct ServicesFlags {
    /// All without any.
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct StopFlags {
    /// Seconds between the stop signal and SIGKILL.
    #[arg(long, short)]
    timeout: Option<i32>,
    /// All without any.
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct KillFlags {
    #[arg(long, short, default_value = "SIGKILL")]
    signal: String,
    pub services: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RmFlags {
    /// Stop them first.
    #[arg(long, short)]
    stop: bool,
    /// For those who are used to it: nobody is asked in any case.
    #[arg(long, short)]
    force: bool,
    /// Remove their anonymous volumes as well.
    #[arg(long, short)]
    volumes: bool,
    pub services: Vec<String>,
}

/// The containers of the services that are meant, service by service in the order in which they
/// start.
async fn waves(compose: &Compose<'_>, services: &[String]) -> anyhow::Result<Vec<Vec<Container>>> {
    let all = present::of_services(compose.docker, &compose.project.name, services).await?;
    let order = order::order(&compose.project, &[])?;
    let wave = |service: &String| {
        all.iter().filter(|container| container.service == *service).cloned().collect()
    };
    Ok(order.iter().map(wave).collect())
}

pub async fn start(compose: &Compose<'_>, flags: &ServicesFlags) -> anyhow::Result<()> {
    for wave in waves(compose, &flags.services).await? {
        for container in wave.iter().filter(|container| !container.present.running) {
            let id = &container.present.id;
            compose.docker.start_container(id, None::<query::StartContainerOptions>).await?;
            done("Container", &container.present.name, "Started");
        }
    }
    Ok(())
}

pub async fn stop(compose: &Compose<'_>, flags: &StopFlags) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for wave in waves(compose, &flags.services).await?.into_iter().rev() {
        let running = wave.iter().filter(|container| container.present.running);
        let stop = async |container: &Container| {
            converge::stop(compose.docker, &container.present.id, flags.timeout).await?;
            done("Container", &container.present.name, "Stopped");
            anyhow::Ok(())
        };
        failures.note(failures::all(running.map(stop)).await);
    }
    failures.end()
}

pub async fn restart(compose: &Compose<'_>, flags: &StopFlags) -> anyhow::Result<()> {
    let mut failures = Failures::default();
    for wave in waves(compose, &flags.services).await? {
        let restart = async |container: &Container| {
            converge::restart(compose.docker, &container.present.id, flags.timeout).await?;
            done("Container", &container.present.name, "Restarted");
            anyhow::Ok(())
        };
        failures.note(failures::all(wave.iter().map(restart)).await);
    }
    failures.end()
}

/// Those of the services that are in one of these states.
async fn in_state(
    compose: &Compose<'_>,
    services: &[String],
    states: &[&str],
) -> anyhow::Result<Vec<Container>> {
    let mut all = present::of_services(compose.docker, &compose.project.name, services).await?;
    all.retain(|container| states.contains(&container.state.as_str()));
    Ok(all)
}

pub async fn kill(compose: &Compose<'_>, flags: &KillFlags) -> anyhow::Result<()> {
    let there = in_state(compose, &flags.services, &["running", "restarting", "paused"]).await?;
    let kill = async |container: &Container| {
        let options = query::KillContainerOptionsBuilder::new().signal(&flags.signal).build();
        compose.docker.kill_container(&container.present.id, Some(options)).await?;
        done("Container", &container.present.name, "Killed");
        Ok(())
    };
    failures::all(there.iter().map(kill)).await
}

pub async fn pause(compose: &Compose<'_>, flags: &ServicesFlags) -> anyhow::Result<()> {
    let there = in_state(compose, &flags.services, &["running"]).await?;
    let pause = async |container: &Container| {
        compose.docker.pause_container(&container.present.id).await?;
        done("Container", &container.present.name, "Paused");
        Ok(())
    };
    failures::all(there.iter().map(pause)).await
}

pub async fn unpause(compose: &Compose<'_>, flags: &ServicesFlags) -> anyhow::Result<()> {
    let there = in_state(compose, &flags.services, &["paused"]).await?;
    let unpause = async |container: &Container| {
        compose.docker.unpause_container(&container.present.id).await?;
        done("Container", &container.present.name, "Unpaused");
        Ok(())
    };
    failures::all(there.iter().map(unpause)).await
}

pub async fn rm(compose: &Compose<'_>, flags: &RmFlags) -> anyhow::Result<()> {
    let all = present::of_services(compose.docker, &compose.project.name, &flags.services).await?;
    let remove = async |container: &Container| {
        let present = &container.present;
        if present.running && flags.stop {
            converge::stop(compose.docker, &present.id, None).await?;
        }
        if !present.running || flags.stop {
            converge::remove(compose.docker, &present.id, flags.volumes).await?;
            done("Container", &present.name, "Removed");
        }
        Ok(())
    };
    failures::all(all.iter().map(remove)).await
}
