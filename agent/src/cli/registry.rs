//! `tenantry image pull|push`, `tenantry login|logout`.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use bollard::Docker;
use bollard::models::ProgressDetail;
use bollard::query_parameters as query;
use clap::Args;
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

use super::credentials::{ConfigFile, key_of};
use super::native::Client;

#[derive(Debug, Args)]
pub struct LoginFlags {
    #[arg(long, short)]
    username: String,
    /// Read the password from standard input, which is the only way to give it.
    #[arg(long, required = true)]
    password_stdin: bool,
    /// Docker Hub without it.
    server: Option<String>,
}

#[derive(Debug, Args)]
pub struct LogoutFlags {
    /// Docker Hub without it.
    server: Option<String>,
}

pub async fn pull(docker: &Docker, name: &str, platform: Option<&str>) -> anyhow::Result<()> {
    pull_and(docker, name, platform, show).await
}

/// For `run`, whose output is the container's.
pub async fn pull_quietly(docker: &Docker, name: &str) -> anyhow::Result<()> {
    pull_and(docker, name, None, |_, _, _| {}).await
}

async fn pull_and(
    docker: &Docker,
    name: &str,
    platform: Option<&str>,
    show: fn(Option<String>, Option<String>, Option<ProgressDetail>),
) -> anyhow::Result<()> {
    let mut options = query::CreateImageOptionsBuilder::new().from_image(name);
    if !has_tag(name) {
        options = options.tag("latest");
    }
    if let Some(platform) = platform {
        options = options.platform(platform);
    }
    let credentials = ConfigFile::read()?.for_image(name)?;
    let mut lines = docker.create_image(Some(options.build()), None, credentials);
    while let Some(line) = lines.try_next().await? {
        show(line.id, line.status, line.progress_detail);
    }
    Ok(())
}

pub async fn push(docker: &Docker, name: &str) -> anyhow::Result<()> {
    let (repository, tag) = match has_tag(name) {
        true => name.rsplit_once(':').context("a tag")?,
        false => (name, "latest"),
    };
    let credentials = ConfigFile::read()?.for_image(name)?;
    let options = query::PushImageOptionsBuilder::new().tag(tag).build();
    let mut lines = docker.push_image(repository, Some(options), credentials);
    while let Some(line) = lines.try_next().await? {
        // The client library leaves the layer's id out.
        show(None, line.status, line.progress_detail);
    }
    Ok(())
}

/// States are lines for people and scripts alike; progress is left to Docker's client.
fn show(id: Option<String>, status: Option<String>, progress: Option<ProgressDetail>) {
    let is_progress = progress.is_some_and(|detail| detail.current.is_some());
    match (id, status) {
        _ if is_progress => {}
        (Some(id), Some(status)) => println!("{id}: {status}"),
        (None, Some(status)) => println!("{status}"),
        _ => {}
    }
}

/// Whether a name says which image of its repository is meant.
fn has_tag(name: &str) -> bool {
    name.contains('@') || name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}

pub async fn login(docker_socket: Client, flags: LoginFlags) -> anyhow::Result<()> {
    if std::io::stdin().is_terminal() {
        eprint!("Password (it will be shown): ");
        std::io::stderr().flush()?;
    }
    let mut password = String::new();
    std::io::stdin().lock().read_line(&mut password)?;
    let password = password.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("standard input holds no password");
    }
    let key = key_of(flags.server.as_deref().unwrap_or_default());
    let (username, mut file) = (&flags.username, ConfigFile::read()?);
    let body = json!({ "username": username, "password": password, "serveraddress": key });
    let answer: Value = docker_socket.post("/auth", &body).await?;
    file.store(key, username, password)?;
    println!("{}", answer["Status"].as_str().unwrap_or("Login Succeeded"));
    Ok(())
}

pub fn logout(flags: &LogoutFlags) -> anyhow::Result<()> {
    let key = key_of(flags.server.as_deref().unwrap_or_default());
    match ConfigFile::read()?.erase(key)? {
        true => println!("Removed the login at {key}"),
        false => println!("Not logged in at {key}"),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_no_tag() {
        let check = |name, expected| assert_eq!(has_tag(name), expected, "{name}");
        check("demo", false);
        check("demo:v1", true);
        check("localhost:5000/demo", false);
        check("localhost:5000/demo:v1", true);
        check("demo@sha256:00", true);
    }
}
