//! `tenantry image …`: pull, push, load, import, list and remove; the rest is in [`kept`].

pub mod kept;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use bollard::Docker;
use bollard::models::ImageDeleteResponseItem;
use bollard::query_parameters as query;
use bytes::Bytes;
use clap::Subcommand;
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use tokio_util::io::ReaderStream;

use super::{registry, table};

#[derive(Debug, Subcommand)]
pub enum ImageVerb {
    /// Bring an image here from its registry.
    Pull {
        name: String,
        /// Such as linux/arm64; this host's without it.
        #[arg(long)]
        platform: Option<String>,
    },
    /// Bring an image to the registry that its name begins with.
    Push { name: String },
    /// Load an OCI layout (a directory or a tar) or a `docker save` tar.
    Load { path: PathBuf },
    /// Make an image of one layer from a root filesystem tar.
    Import {
        name: String,
        /// Plain, gzip or zstd.
        rootfs: PathBuf,
        /// A Dockerfile instruction for the configuration, such as 'CMD ["/bin/sh"]'.
        #[arg(long, short)]
        change: Vec<String>,
    },
    /// List images.
    Ls {
        #[arg(long)]
        json: bool,
    },
    /// Give an image one more name.
    Tag { image: String, name: String },
    /// Show the steps that an image was made in.
    History { image: String },
    /// Show everything that is known about images, as JSON.
    Inspect {
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Write images to an archive that Docker, Podman, skopeo and this agent load.
    Save(kept::SaveFlags),
    /// Remove images that have no name and no use.
    Prune(kept::PruneFlags),
    /// Show what images and containers take on disk.
    Df,
    /// Remove images.
    Rm {
        #[arg(long, short)]
        force: bool,
        #[arg(required = true)]
        names: Vec<String>,
    },
}

pub async fn image(docker: &Docker, verb: ImageVerb) -> anyhow::Result<()> {
    match verb {
        ImageVerb::Pull { name, platform } => {
            registry::pull(docker, &name, platform.as_deref()).await
        }
        ImageVerb::Push { name } => registry::push(docker, &name).await,
        ImageVerb::Load { path } => load(docker, &path).await,
        ImageVerb::Import { name, rootfs, change } => import(docker, &name, &rootfs, change).await,
        ImageVerb::Ls { json } => list(docker, json).await,
        ImageVerb::Tag { image, name } => kept::tag(docker, &image, &name).await,
        ImageVerb::History { image } => kept::history(docker, &image).await,
        ImageVerb::Inspect { images } => kept::inspect(docker, &images).await,
        ImageVerb::Save(flags) => kept::save(docker, flags).await,
        ImageVerb::Prune(flags) => kept::prune(docker, flags).await,
        ImageVerb::Df => kept::usage(docker).await,
        ImageVerb::Rm { force, names } => remove(docker, &names, force).await,
    }
}

async fn load(docker: &Docker, path: &Path) -> anyhow::Result<()> {
    let options = query::ImportImageOptionsBuilder::new().build();
    let mut answers = if path.is_dir() {
        docker.import_image_stream(options, tar_of(path.into()), None).boxed()
    } else {
        docker.import_image_stream(options, bytes_of(path).await?, None).boxed()
    };
    while let Some(answer) = answers.try_next().await? {
        print!("{}", answer.stream.unwrap_or_default());
    }
    Ok(())
}

async fn import(
    docker: &Docker,
    name: &str,
    rootfs: &Path,
    changes: Vec<String>,
) -> anyhow::Result<()> {
    let options =
        query::CreateImageOptionsBuilder::new().from_src("-").repo(name).changes(changes).build();
    let body = bollard::body_try_stream(bytes_of(rootfs).await?);
    let mut answers = docker.create_image(Some(options), Some(body), None);
    while let Some(answer) = answers.try_next().await? {
        println!("{}", answer.status.unwrap_or_default());
    }
    Ok(())
}

async fn list(docker: &Docker, json: bool) -> anyhow::Result<()> {
    let images = docker.list_images(None::<query::ListImagesOptions>).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&images)?);
        return Ok(());
    }
    let rows: Vec<Vec<String>> = images
        .iter()
        .map(|image| {
            let id = image.id.trim_start_matches("sha256:");
            let names = image.repo_tags.join(", ");
            vec![names, id.chars().take(12).collect(), table::bytes(image.size.max(0) as u64)]
        })
        .collect();
    print!("{}", table::render(&["NAME", "ID", "SIZE"], &rows));
    Ok(())
}

async fn remove(docker: &Docker, names: &[String], force: bool) -> anyhow::Result<()> {
    for name in names {
        let options = query::RemoveImageOptionsBuilder::new().force(force).build();
        for item in docker.remove_image(name, Some(options), None).await? {
            print_removed(&item);
        }
    }
    Ok(())
}

fn print_removed(item: &ImageDeleteResponseItem) {
    if let Some(name) = &item.untagged {
        println!("untagged {name}");
    }
    if let Some(id) = &item.deleted {
        println!("deleted {id}");
    }
}

async fn bytes_of(
    path: &Path,
) -> anyhow::Result<impl Stream<Item = std::io::Result<Bytes>> + Send + use<>> {
    let file = tokio::fs::File::open(path)
        .await
        .with_context(|| format!("cannot open {}", path.display()))?;
    Ok(ReaderStream::with_capacity(file, 256 << 10))
}

/// A directory as a tar stream, written while it is sent.
fn tar_of(directory: PathBuf) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let (writer, reader) = tokio::io::duplex(256 << 10);
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(tokio_util::io::SyncIoBridge::new(writer));
        // A reader that went away has already said why on its own side.
        let _ = archive.append_dir_all(".", &directory).and_then(|()| archive.finish());
    });
    ReaderStream::new(reader)
}
