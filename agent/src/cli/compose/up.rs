//! `up` and `scale`: each service as soon as what it depends on is far enough.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tenantry_compose::plan::{Change, Recreate};
use tenantry_compose::{Condition, Dependency, PullPolicy, order};
use tokio::sync::watch;

use super::converge::{self, How};
use super::present::{self, Container};
use super::{Compose, done, failures, images, logs, wait};

#[derive(Debug, Args)]
pub struct UpFlags {
    /// Leave everything running; without it, what the containers write is shown until they end
    /// or Ctrl-C stops them.
    #[arg(long, short)]
    detach: bool,
    /// Build images even if they are here.
    #[arg(long)]
    build: bool,
    /// Make all containers anew, changed or not.
    #[arg(long, conflicts_with = "no_recreate")]
    force_recreate: bool,
    /// Leave containers as they are, changed or not.
    #[arg(long)]
    no_recreate: bool,
    /// Make everything and start nothing.
    #[arg(long)]
    no_start: bool,
    /// Leave the services alone that the named ones depend on.
    #[arg(long)]
    no_deps: bool,
    /// Remove containers of services that the file no longer has.
    #[arg(long)]
    remove_orphans: bool,
    /// How many containers a service has, such as web=3.
    #[arg(long, value_name = "SERVICE=NUMBER")]
    scale: Vec<String>,
    /// Seconds between the stop signal and SIGKILL of what is replaced.
    #[arg(long, short)]
    timeout: Option<i32>,
    /// Wait until everything runs, and is well where it is asked about that.
    #[arg(long)]
    wait: bool,
    #[arg(long, value_enum)]
    pull: Option<Pull>,
    pub services: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Pull {
    Always,
    Missing,
    Never,
}

#[derive(Debug, Args)]
pub struct ScaleFlags {
    /// Leave the services alone that the named ones depend on.
    #[arg(long)]
    no_deps: bool,
    #[arg(required = true, value_name = "SERVICE=NUMBER")]
    scale: Vec<String>,
}

impl ScaleFlags {
    pub fn services(&self) -> Vec<String> {
        let name = |text: &String| text.split('=').next().unwrap_or_default().to_owned();
        self.scale.iter().map(name).collect()
    }
}

pub async fn up(compose: &Compose<'_>, flags: UpFlags) -> anyhow::Result<ExitCode> {
    let compose = &scaled(compose, &flags.scale)?;
    let project = &compose.project;
    let mut services = order::order(project, &flags.services)?;
    if flags.no_deps {
        services.retain(|name| flags.services.contains(name));
    }
    orphans(compose, flags.remove_orphans).await?;
    converge::provide(compose, &services).await?;
    let pull = flags.pull.map(|pull| match pull {
        Pull::Always => PullPolicy::Always,
        Pull::Missing => PullPolicy::Missing,
        Pull::Never => PullPolicy::Never,
    });
    let image_ids = images::provide(compose, &services, flags.build, pull).await?;
    let recreate = match (flags.force_recreate, flags.no_recreate) {
        (true, _) => Recreate::Always,
        (_, true) => Recreate::Never,
        _ => Recreate::Changed,
    };
    let how = How { recreate, start: !flags.no_start, stop_timeout: flags.timeout };
    all(compose, &services, &image_ids, how).await?;
    if flags.no_start {
        return Ok(ExitCode::SUCCESS);
    }
    let there = present::of_services(compose.docker, &project.name, &services).await?;
    if flags.wait {
        failures::all(there.iter().map(|container| healthy(compose, container))).await?;
    }
    if flags.detach || flags.wait {
        return Ok(ExitCode::SUCCESS);
    }
    logs::until_end(compose, &there, flags.timeout).await
}

async fn healthy(compose: &Compose<'_>, container: &Container) -> anyhow::Result<()> {
    wait::until_up(compose.docker, &container.present.name).await?;
    done("Container", &container.present.name, "Healthy");
    Ok(())
}

pub async fn scale(compose: &Compose<'_>, flags: ScaleFlags) -> anyhow::Result<()> {
    let compose = &scaled(compose, &flags.scale)?;
    let services = match flags.no_deps {
        true => flags.services(),
        false => order::order(&compose.project, &flags.services())?,
    };
    converge::provide(compose, &services).await?;
    let image_ids = images::provide(compose, &services, false, None).await?;
    let how = How { recreate: Recreate::Never, start: true, stop_timeout: None };
    all(compose, &services, &image_ids, how).await
}

fn scaled<'a>(compose: &Compose<'a>, texts: &[String]) -> anyhow::Result<Compose<'a>> {
    let mut project = compose.project.clone();
    for text in texts {
        let parsed = text.split_once('=').and_then(|(name, n)| Some((name, n.parse().ok()?)));
        let (name, number) =
            parsed.with_context(|| format!("{text:?} is not allowed: SERVICE=NUMBER"))?;
        let service = project.services.get_mut(name);
        let service = service.with_context(|| format!("no such service: {name}"))?;
        anyhow::ensure!(
            number <= 1 || service.container_name.is_none(),
            "{name}: one container_name cannot be {number} containers'"
        );
        service.scale = number;
    }
    Ok(Compose { docker: compose.docker, project })
}

/// Containers of services that the file no longer has.
async fn orphans(compose: &Compose<'_>, remove: bool) -> anyhow::Result<()> {
    let all = present::of_services(compose.docker, &compose.project.name, &[]).await?;
    let is_known = |container: &Container| compose.project.has_service(&container.service);
    for orphan in all.into_iter().filter(|container| !is_known(container)) {
        let name = &orphan.present.name;
        if remove {
            converge::stop(compose.docker, &orphan.present.id, None).await?;
            converge::remove(compose.docker, &orphan.present.id, false).await?;
            done("Container", name, "Removed");
        } else {
            eprintln!(
                "tenantry: {name} is of a service that the file has not: --remove-orphans removes it"
            );
        }
    }
    Ok(())
}

/// How far a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    OnItsWay,
    Done(Change),
    Failed,
}

type Progress = watch::Receiver<Far>;

/// All services at once, each behind those of them that it depends on. One that fails ends
/// those that need it, and no other.
pub async fn all(
    compose: &Compose<'_>,
    services: &[String],
    image_ids: &BTreeMap<String, String>,
    how: How,
) -> anyhow::Result<()> {
    let channels: BTreeMap<&String, _> =
        services.iter().map(|name| (name, watch::channel(Far::OnItsWay))).collect();
    let progress: BTreeMap<&String, Progress> =
        channels.iter().map(|(name, (_, progress))| (*name, progress.clone())).collect();
    let converged = async |name: &String| {
        let restart = dependencies(compose, name, &progress, how.start).await?;
        let service = &compose.project.services[name];
        let change = converge::converge(compose, service, &image_ids[name], how, restart).await;
        change.with_context(|| format!("service {name}"))
    };
    let one = async |name: &String| {
        let change = converged(name).await;
        let (report, _) = &channels[name];
        // Whoever waits holds the other end; if nobody does, nobody needs to know.
        let _ = report.send(change.as_ref().map_or(Far::Failed, |change| Far::Done(*change)));
        change
    };
    failures::all(services.iter().map(one)).await
}

/// Until what a service depends on, and is there, is far enough.
pub async fn ready(compose: &Compose<'_>, name: &str) -> anyhow::Result<()> {
    for (other, dependency) in &compose.project.services[name].depends_on {
        far_enough(compose, name, other, dependency).await?;
    }
    Ok(())
}

/// Waits for what a service depends on and is brought up beside it, as far as that is asked for;
/// whether it must begin again since that did. Others are left alone: `--no-deps`.
async fn dependencies(
    compose: &Compose<'_>,
    name: &str,
    progress: &BTreeMap<&String, Progress>,
    start: bool,
) -> anyhow::Result<bool> {
    let service = &compose.project.services[name];
    let mut restart = false;
    for (other, dependency) in &service.depends_on {
        let Some(progress) = progress.get(other) else { continue };
        let far = *progress.clone().wait_for(|far| *far != Far::OnItsWay).await?;
        match far {
            Far::Done(change) => restart |= service.restarts_with(other, change),
            _ if dependency.required => {
                anyhow::bail!("{name} is not begun: it depends on {other}");
            }
            _ => continue,
        }
        if start {
            far_enough(compose, name, other, dependency).await?;
        }
    }
    Ok(restart && start)
}

/// Until the containers of `other` are as far as `name` asks for.
async fn far_enough(
    compose: &Compose<'_>,
    name: &str,
    other: &str,
    dependency: &Dependency,
) -> anyhow::Result<()> {
    let services = [other.to_owned()];
    let there = present::of_services(compose.docker, &compose.project.name, &services).await?;
    for container in there {
        let name_of = &container.present.name;
        let far = wait::until(compose.docker, name_of, dependency.condition).await;
        match far {
            Ok(()) => {}
            Err(error) if !dependency.required => eprintln!("tenantry: {error:#}"),
            Err(error) => {
                return Err(error.context(format!("{name} depends on {other}")));
            }
        }
        if dependency.condition != Condition::Started {
            let what = match dependency.condition {
                Condition::Healthy => "Healthy",
                _ => "Exited",
            };
            done("Container", name_of, what);
        }
    }
    Ok(())
}
