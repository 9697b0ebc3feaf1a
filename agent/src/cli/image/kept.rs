//! `tenantry image tag|history|inspect|save|prune|df` and `tenantry commit`: verbs over
//! images that are here.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bollard::Docker;
use bollard::models::ContainerConfig;
use bollard::query_parameters as query;
use clap::Args;
use futures_util::TryStreamExt as _;

use crate::cli::table;

#[derive(Debug, Args)]
pub struct CommitFlags {
    container: String,
    /// The new image's name; without one it has only its id.
    name: Option<String>,
    /// A Dockerfile instruction for the configuration, such as 'CMD ["/bin/sh"]'.
    #[arg(long, short)]
    change: Vec<String>,
    #[arg(long, short)]
    author: Option<String>,
    #[arg(long, short)]
    message: Option<String>,
    /// Let the container's processes go on meanwhile.
    #[arg(long)]
    no_pause: bool,
}

#[derive(Debug, Args)]
pub struct SaveFlags {
    /// The archive; without it, standard output.
    #[arg(long, short)]
    output: Option<PathBuf>,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct PruneFlags {
    /// Also images that have a name, if no container uses them.
    #[arg(long, short)]
    all: bool,
    /// `until=24h`, `label=NAME[=VALUE]`, `label!=NAME`.
    #[arg(long)]
    filter: Vec<String>,
}

pub async fn commit(docker: &Docker, flags: CommitFlags) -> anyhow::Result<()> {
    let (repo, tag) = flags.name.as_deref().map_or(("", ""), split_tag);
    let options = query::CommitContainerOptions {
        container: Some(flags.container),
        repo: Some(repo.to_owned()),
        tag: Some(tag.to_owned()),
        comment: flags.message,
        author: flags.author,
        pause: !flags.no_pause,
        changes: Some(flags.change.join("\n")).filter(|changes| !changes.is_empty()),
    };
    let answer = docker.commit_container(options, ContainerConfig::default()).await?;
    println!("{}", answer.id);
    Ok(())
}

/// The agent puts repository and tag together again.
fn split_tag(name: &str) -> (&str, &str) {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => (repository, tag),
        _ => (name, ""),
    }
}

pub async fn tag(docker: &Docker, image: &str, name: &str) -> anyhow::Result<()> {
    let (repo, tag) = split_tag(name);
    let options = query::TagImageOptionsBuilder::new().repo(repo).tag(tag).build();
    Ok(docker.tag_image(image, Some(options)).await?)
}

pub async fn history(docker: &Docker, image: &str) -> anyhow::Result<()> {
    let steps = docker.image_history(image).await?;
    let now = jiff::Timestamp::now().as_second();
    let rows: Vec<Vec<String>> = steps
        .iter()
        .map(|step| {
            let id = step.id.trim_start_matches("sha256:").chars().take(12).collect();
            let created = match step.created {
                0 => "-".into(),
                created => format!("{} ago", table::ago(now - created)),
            };
            let size = table::bytes(step.size.max(0) as u64);
            vec![id, created, size, step.created_by.clone(), step.comment.clone()]
        })
        .collect();
    print!("{}", table::render(&["IMAGE", "CREATED", "SIZE", "CREATED BY", "COMMENT"], &rows));
    Ok(())
}

pub async fn inspect(docker: &Docker, images: &[String]) -> anyhow::Result<()> {
    let mut found = Vec::new();
    for image in images {
        found.push(docker.inspect_image(image).await?);
    }
    println!("{}", serde_json::to_string_pretty(&found)?);
    Ok(())
}

/// A file appears whole or not at all.
pub async fn save(docker: &Docker, flags: SaveFlags) -> anyhow::Result<()> {
    let names: Vec<&str> = flags.names.iter().map(String::as_str).collect();
    let mut archive = Box::pin(docker.export_images(&names));
    let Some(path) = flags.output else {
        let mut out = std::io::stdout().lock();
        while let Some(piece) = archive.try_next().await? {
            out.write_all(&piece)?;
        }
        return Ok(out.flush()?);
    };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let file = path.file_name().context("--output names no file")?.to_string_lossy().into_owned();
    let temporary = directory.join(format!(".{file}.{}", std::process::id()));
    let written = async {
        let mut out = std::io::BufWriter::new(std::fs::File::create_new(&temporary)?);
        while let Some(piece) = archive.try_next().await? {
            out.write_all(&piece)?;
        }
        out.flush()?;
        std::fs::rename(&temporary, &path).map_err(anyhow::Error::from)
    };
    let written: anyhow::Result<()> = written.await;
    if written.is_err() {
        // It may not have come to that.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

pub async fn prune(docker: &Docker, flags: PruneFlags) -> anyhow::Result<()> {
    let mut filters: HashMap<String, Vec<String>> = HashMap::new();
    if flags.all {
        filters.insert("dangling".into(), vec!["false".into()]);
    }
    for filter in &flags.filter {
        let (name, value) = filter.split_once('=').context("--filter is NAME=VALUE")?;
        filters.entry(name.to_owned()).or_default().push(value.to_owned());
    }
    let options = query::PruneImagesOptionsBuilder::new().filters(&filters).build();
    let answer = docker.prune_images(Some(options)).await?;
    for item in answer.images_deleted.unwrap_or_default() {
        super::print_removed(&item);
    }
    println!("{} freed", table::bytes(answer.space_reclaimed.unwrap_or(0).max(0) as u64));
    Ok(())
}

pub async fn usage(docker: &Docker) -> anyhow::Result<()> {
    let usage = docker.df(None).await?;
    let row = |kind: &str, total, active, size, reclaimable| {
        let bytes = |n: Option<i64>| table::bytes(n.unwrap_or(0).max(0) as u64);
        let count = |n: Option<i64>| n.unwrap_or(0).to_string();
        vec![kind.to_owned(), count(total), count(active), bytes(size), bytes(reclaimable)]
    };
    let mut rows = Vec::new();
    if let Some(images) = usage.image_usage {
        let (total, active) = (images.total_count, images.active_count);
        rows.push(row("Images", total, active, images.total_size, images.reclaimable));
    }
    if let Some(containers) = usage.container_usage {
        let (total, active) = (containers.total_count, containers.active_count);
        rows.push(row("Containers", total, active, containers.total_size, containers.reclaimable));
    }
    print!("{}", table::render(&["TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"], &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        let rows = [
            ("demo", ("demo", "")),
            ("demo:v1", ("demo", "v1")),
            ("host:5000/demo", ("host:5000/demo", "")),
            ("host:5000/demo:v1", ("host:5000/demo", "v1")),
        ];
        for (name, expected) in rows {
            assert_eq!(split_tag(name), expected, "{name}");
        }
    }
}
