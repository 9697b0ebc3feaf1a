//! Sees to it that services' images are here: built, pulled, or left to be missing.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;

use bollard::errors::Error as DockerError;
use clap::Args;
use tenantry_compose::{Build, PullPolicy, Service};

use super::verbs::ServicesFlags;
use super::{Compose, done};
use crate::cli::build::{self, Order};
use crate::cli::registry;

#[derive(Debug, Args)]
pub struct BuildFlags {
    /// NAME=value, over the file's.
    #[arg(long)]
    build_arg: Vec<String>,
    /// Carry every step out anew.
    #[arg(long)]
    no_cache: bool,
    #[arg(long, short)]
    quiet: bool,
    pub services: Vec<String>,
}

/// What is to be done about an image before containers are made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Build,
    Pull,
    Nothing,
}

/// `forced`: `--build`.
fn step(policy: PullPolicy, is_built: bool, is_here: bool, forced: bool) -> Step {
    match (policy, is_built) {
        (_, true) if forced || policy == PullPolicy::Build || !is_here => Step::Build,
        (_, true) => Step::Nothing,
        (PullPolicy::Always, false) => Step::Pull,
        (PullPolicy::Missing, false) if !is_here => Step::Pull,
        // If it is missing, the agent says so by its name.
        _ => Step::Nothing,
    }
}

/// Makes the images of these services be here; their ids, by service.
pub async fn provide(
    compose: &Compose<'_>,
    services: &[String],
    forced: bool,
    pull: Option<PullPolicy>,
) -> anyhow::Result<BTreeMap<String, String>> {
    let mut ids = BTreeMap::new();
    for name in services {
        let service = &compose.project.services[name];
        let image = compose.project.image(service);
        let policy = pull.unwrap_or(service.pull_policy);
        let is_here = id(compose, &image).await?.is_some();
        match step(policy, service.build.is_some(), is_here, forced) {
            Step::Build => build_one(compose, service, &BuildFlags::quiet()).await?,
            Step::Pull => {
                done("Image", &image, "Pulling");
                registry::pull_quietly(compose.docker, &image).await?;
            }
            Step::Nothing => {}
        }
        let id = id(compose, &image).await?;
        let id = id.ok_or_else(|| anyhow::anyhow!("{name}: there is no image {image}"))?;
        ids.insert(name.clone(), id);
    }
    Ok(ids)
}

async fn id(compose: &Compose<'_>, image: &str) -> anyhow::Result<Option<String>> {
    match compose.docker.inspect_image(image).await {
        Ok(image) => Ok(image.id),
        Err(DockerError::DockerResponseServerError { status_code: 404, .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

impl BuildFlags {
    fn quiet() -> BuildFlags {
        BuildFlags { build_arg: vec![], no_cache: false, quiet: true, services: vec![] }
    }
}

pub async fn build(compose: &Compose<'_>, flags: &BuildFlags) -> anyhow::Result<ExitCode> {
    for (name, service) in &compose.project.services {
        if service.build.is_some() && (flags.services.is_empty() || flags.services.contains(name)) {
            build_one(compose, service, flags).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn build_one(
    compose: &Compose<'_>,
    service: &Service,
    flags: &BuildFlags,
) -> anyhow::Result<()> {
    let Some(build) = &service.build else { return Ok(()) };
    let image = compose.project.image(service);
    done("Image", &image, "Building");
    let code = build::carry_out(compose.docker, order(build, &image, flags)?).await?;
    anyhow::ensure!(code == ExitCode::SUCCESS, "{}: its image was not built", service.name);
    done("Image", &image, "Built");
    for tag in &build.tags {
        let (repo, tag) = tag.rsplit_once(':').unwrap_or((tag, "latest"));
        let options = bollard::query_parameters::TagImageOptionsBuilder::new();
        compose.docker.tag_image(&image, Some(options.repo(repo).tag(tag).build())).await?;
    }
    Ok(())
}

fn order(build: &Build, image: &str, flags: &BuildFlags) -> anyhow::Result<Order> {
    anyhow::ensure!(
        !build.context.contains("://"),
        "build: the context {} is not supported: a directory",
        build.context
    );
    let pairs = |pairs: &[(String, Option<String>)]| -> HashMap<String, String> {
        let with_value = |(name, value): &(String, Option<String>)| {
            value.clone().map(|value| (name.clone(), value))
        };
        pairs.iter().filter_map(with_value).collect()
    };
    let mut arguments = pairs(&build.args);
    for text in &flags.build_arg {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        arguments.insert(name.to_owned(), value.to_owned());
    }
    Ok(Order {
        context: PathBuf::from(&build.context),
        dockerfile: build.dockerfile.clone().unwrap_or_else(|| "Dockerfile".into()),
        tag: Some(image.to_owned()),
        arguments,
        labels: pairs(&build.labels),
        target: build.target.clone().unwrap_or_default(),
        no_cache: flags.no_cache || build.no_cache,
        network: build.network.clone().unwrap_or_else(|| "bridge".into()),
        quiet: flags.quiet,
    })
}

pub async fn pull(compose: &Compose<'_>, flags: &ServicesFlags) -> anyhow::Result<()> {
    for (name, service) in &compose.project.services {
        let is_meant = flags.services.is_empty() || flags.services.contains(name);
        if let Some(image) = service.image.as_ref().filter(|_| is_meant && service.build.is_none())
        {
            registry::pull_quietly(compose.docker, image).await?;
            done("Image", image, "Pulled");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_built_or_pulled_when_it_has_to_be() {
        use PullPolicy::{Always, Build, Missing, Never};
        let check = |policy, is_built, is_here, forced, expected| {
            assert_eq!(step(policy, is_built, is_here, forced), expected);
        };
        check(Missing, false, false, false, Step::Pull);
        check(Missing, false, true, false, Step::Nothing);
        check(Always, false, true, false, Step::Pull);
        check(Never, false, false, false, Step::Nothing);
        check(Missing, true, false, false, Step::Build);
        check(Missing, true, true, false, Step::Nothing);
        check(Missing, true, true, true, Step::Build);
        check(Build, true, true, false, Step::Build);
        check(Missing, false, true, true, Step::Nothing);
    }
}
