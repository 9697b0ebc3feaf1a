//! `tenantry build`: sends a directory to the agent and shows what comes of it.

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use bollard::Docker;
use bollard::query_parameters as query;
use bytes::Bytes;
use clap::Args;
use futures_util::{Stream, StreamExt as _};
use tenantry_build::ignore::Ignore;
use tokio_util::io::{ReaderStream, SyncIoBridge};

#[derive(Debug, Args)]
pub struct BuildFlags {
    /// A name that the image takes.
    #[arg(long, short)]
    tag: Option<String>,
    /// The Dockerfile, as a path in the context.
    #[arg(long, short, default_value = "Dockerfile")]
    file: String,
    /// NAME=value, or NAME alone for its value in this environment.
    #[arg(long)]
    build_arg: Vec<String>,
    /// NAME=value for the image.
    #[arg(long)]
    label: Vec<String>,
    /// The stage to build, the last one without it.
    #[arg(long, default_value = "")]
    target: String,
    /// Carry every step out anew.
    #[arg(long)]
    no_cache: bool,
    /// The network of RUN steps: bridge, host or none.
    #[arg(long, default_value = "bridge")]
    network: String,
    /// Print nothing but the image's id.
    #[arg(long, short)]
    quiet: bool,
    /// The directory to build from.
    context: PathBuf,
}

pub async fn build(docker: &Docker, flags: BuildFlags) -> anyhow::Result<ExitCode> {
    let own = |name: &str| std::env::var(name).ok();
    let order = Order {
        context: flags.context,
        dockerfile: flags.file,
        tag: flags.tag,
        arguments: pairs(&flags.build_arg, own),
        labels: pairs(&flags.label, |_| Some(String::new())),
        target: flags.target,
        no_cache: flags.no_cache,
        network: flags.network,
        quiet: flags.quiet,
    };
    carry_out(docker, order).await
}

/// What is to be built, of what, and how.
#[derive(Debug)]
pub struct Order {
    pub context: PathBuf,
    pub dockerfile: String,
    pub tag: Option<String>,
    pub arguments: HashMap<String, String>,
    pub labels: HashMap<String, String>,
    pub target: String,
    pub no_cache: bool,
    pub network: String,
    pub quiet: bool,
}

/// Sends the context and shows what the agent says; a failed step's code, if one failed.
pub async fn carry_out(docker: &Docker, order: Order) -> anyhow::Result<ExitCode> {
    let ignore = read_ignore(&order.context)?;
    let mut options = query::BuildImageOptionsBuilder::new()
        .dockerfile(&order.dockerfile)
        .buildargs(&order.arguments)
        .labels(&order.labels)
        .target(&order.target)
        .networkmode(&order.network)
        .nocache(order.no_cache)
        .q(order.quiet)
        .rm(true);
    if let Some(name) = &order.tag {
        options = options.t(name);
    }
    let body = bollard::body_try_stream(tar_of(order.context, order.dockerfile, ignore));
    let mut answers = std::pin::pin!(docker.build_image(options.build(), None, Some(body)));
    let mut made = false;
    while let Some(answer) = answers.next().await {
        let answer = match answer {
            Ok(answer) => answer,
            Err(bollard::errors::Error::DockerStreamError { error }) => {
                eprintln!("tenantry: {error}");
                return Ok(ExitCode::from(code_of(&error)));
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(text) = answer.stream {
            print!("{text}");
            std::io::stdout().flush()?;
        }
        made |= answer.aux.is_some();
    }
    anyhow::ensure!(made, "the agent ended the build without an image");
    Ok(ExitCode::SUCCESS)
}

/// A failed command's own code, as with `docker build`; the client's library keeps the
/// message alone.
fn code_of(message: &str) -> u8 {
    let code = message.rsplit_once("returned a non-zero code: ").map(|(_, code)| code);
    code.and_then(|code| code.parse().ok()).filter(|code| *code > 0).unwrap_or(1)
}

/// `NAME=value`, or `NAME` with the value that `own` has for it.
fn pairs(texts: &[String], own: impl Fn(&str) -> Option<String>) -> HashMap<String, String> {
    let pair = |text: &String| match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => own(text).map(|value| (text.clone(), value)),
    };
    texts.iter().filter_map(pair).collect()
}

fn read_ignore(context: &Path) -> anyhow::Result<Ignore> {
    anyhow::ensure!(context.is_dir(), "{} is no directory", context.display());
    match std::fs::read_to_string(context.join(".dockerignore")) {
        Ok(text) => Ok(Ignore::parse(&text)?),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Ignore::default()),
        Err(error) => Err(error).context("cannot read .dockerignore"),
    }
}

/// The context as a tar stream, written while it is sent.
fn tar_of(
    context: PathBuf,
    dockerfile: String,
    ignore: Ignore,
) -> impl Stream<Item = std::io::Result<Bytes>> + Send {
    let (writer, reader) = tokio::io::duplex(256 << 10);
    let (failed, failure) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(SyncIoBridge::new(writer));
        archive.follow_symlinks(false);
        // The agent needs both, whatever they say of themselves, and leaves them out then.
        let keep = [dockerfile.as_str(), ".dockerignore"];
        let done = append(&mut archive, &context, "", &ignore, &keep);
        match done.and_then(|()| archive.finish()) {
            Ok(()) => drop(failed),
            // If nobody listens any more, the agent has said why.
            Err(error) => drop(failed.send(error)),
        }
    });
    // A context that cannot be read must not look like a shorter one.
    let last = futures_util::stream::once(async { failure.await.ok().map(Err) });
    ReaderStream::new(reader).chain(last.filter_map(std::future::ready))
}

fn append(
    archive: &mut tar::Builder<impl std::io::Write>,
    dir: &Path,
    prefix: &str,
    ignore: &Ignore,
    keep: &[&str],
) -> std::io::Result<()> {
    let mut entries = std::fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    entries.sort_by_key(std::fs::DirEntry::file_name);
    for entry in entries {
        let name = entry.file_name();
        let Some(name) = name.to_str() else {
            let shown = entry.path().display().to_string();
            return Err(std::io::Error::other(format!("{shown}: its name is no UTF-8 text")));
        };
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        let is_kept = keep.iter().any(|kept| *kept == path);
        let excluded = ignore.excludes(&path) && !is_kept;
        if kind.is_dir() {
            // Something in it may be taken back, or be the Dockerfile.
            let below = format!("{path}/");
            let looked_into =
                ignore.has_exceptions() || keep.iter().any(|kept| kept.starts_with(&below));
            if !excluded {
                archive.append_dir(&path, entry.path())?;
            }
            if !excluded || looked_into {
                append(archive, &entry.path(), &below, ignore, keep)?;
            }
        } else if !excluded && (kind.is_file() || kind.is_symlink()) {
            archive.append_path_with_name(entry.path(), &path)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_sent_without_what_is_ignored_and_with_what_the_agent_needs() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["sub", "out"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        for name in ["Dockerfile", "a.log", "b.txt", "sub/c.log", "out/x", "out/kept"] {
            std::fs::write(dir.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink("b.txt", dir.path().join("link")).unwrap();
        let ignore = Ignore::parse("*.log\nDockerfile\nout\n!out/kept\n").unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        append(&mut archive, dir.path(), "", &ignore, &["Dockerfile"]).unwrap();
        let bytes = archive.into_inner().unwrap();
        let mut read = tar::Archive::new(&*bytes);
        let names: Vec<String> = read
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        let expected = ["Dockerfile", "b.txt", "link", "out/kept", "sub", "sub/c.log"];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_failed_command_gives_its_own_code() {
        assert_eq!(code_of("Dockerfile:2: The command 'x' returned a non-zero code: 9"), 9);
        assert_eq!(code_of("Dockerfile:2: COPY failed"), 1);
    }
}
