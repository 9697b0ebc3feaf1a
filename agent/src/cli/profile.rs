//! `tenantry profile`: a seccomp profile from observation, and its trial.
//!
//! The trial runs under the profile itself and asks the kernel's recorders, which know a
//! refused call by its never having entered: exact, whatever error number the profile gives,
//! and with the program's own reaction to it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters as query;
use clap::{Args, Subcommand};
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tenantry_container::seccomp::observed::{names_it, without_kills};
use tenantry_container::seccomp::profile::Profile;

use super::run::{copy_output, exit_code};
use super::trace::parse_seconds;
use super::{Target, table};
use crate::api::native::model::{ProfileAnswer, RefusedSyscall};
use crate::profile::{LABEL, RECORD};

#[derive(Debug, Subcommand)]
pub enum ProfileVerb {
    /// Print a profile, in Docker's format, that allows what the container did and no more.
    Seccomp(NameFlags),
    /// Record every call of a container from now on; one that never ran, from its start.
    Record(NameFlags),
    /// End a recording. What it saw stays as long as the container does.
    End(NameFlags),
    /// Run a container or an image again under a profile; fails if a call was refused.
    Verify(VerifyFlags),
}

#[derive(Debug, Args)]
pub struct NameFlags {
    name: String,
    /// What is known as JSON: calls, refusals, warnings, and the profile.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct VerifyFlags {
    /// A container, which is run as it was created, with its volumes and its limits of CPU,
    /// memory and processes; or an image.
    name: String,
    #[arg(long, value_name = "FILE")]
    profile: PathBuf,
    /// Stop it after that time: for what does not end by itself. Ctrl-C stops it, too.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_seconds)]
    time: Option<u64>,
    /// Another command than the container's or the image's.
    #[arg(last = true)]
    command: Vec<String>,
}

pub async fn profile(target: &Target, verb: ProfileVerb) -> anyhow::Result<ExitCode> {
    let client = target.native();
    let path = |name: &str| format!("/v1/containers/{name}/profile");
    match verb {
        ProfileVerb::Seccomp(flags) => {
            let answer: ProfileAnswer = client.get(&path(&flags.name)).await?;
            print(&answer, flags.json, |answer| {
                println!("{}", serde_json::to_string_pretty(&answer.profile)?);
                Ok(())
            })
        }
        ProfileVerb::Record(flags) => {
            let answer: ProfileAnswer = client.post(&path(&flags.name), &()).await?;
            print(&answer, flags.json, print_name)
        }
        ProfileVerb::End(flags) => {
            let answer: ProfileAnswer = client.delete(&path(&flags.name)).await?;
            print(&answer, flags.json, print_name)
        }
        ProfileVerb::Verify(flags) => verify(target, flags).await,
    }
}

fn print_name(answer: &ProfileAnswer) -> anyhow::Result<()> {
    println!("{}", answer.name);
    Ok(())
}

fn print(
    answer: &ProfileAnswer,
    json: bool,
    plain: impl FnOnce(&ProfileAnswer) -> anyhow::Result<()>,
) -> anyhow::Result<ExitCode> {
    if json {
        println!("{}", serde_json::to_string_pretty(answer)?);
    } else {
        plain(answer)?;
    }
    warn(&answer.warnings);
    Ok(ExitCode::SUCCESS)
}

fn warn(warnings: &[String]) {
    warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
}

async fn verify(target: &Target, flags: VerifyFlags) -> anyhow::Result<ExitCode> {
    let file = flags.profile.display();
    let text = std::fs::read_to_string(&flags.profile).with_context(|| file.to_string())?;
    let profile = Profile::parse(&text).with_context(|| file.to_string())?;
    let countable = without_kills(serde_json::from_str(&text)?).to_string();
    let docker = target.docker()?;
    let body = body_of(&docker, &flags.name, &flags.command, &countable).await?;
    let none = None::<query::CreateContainerOptions>;
    let id = docker.create_container(none, body).await?.id;
    let ran = run(&docker, &id, flags.time).await;
    let answer = target.native().get(&format!("/v1/containers/{id}/profile")).await;
    let force = query::RemoveContainerOptionsBuilder::new().force(true).build();
    docker.remove_container(&id, Some(force)).await?;
    let answer: ProfileAnswer = answer?;
    warn(&answer.warnings);
    let denied = denied(&answer.refused, &profile);
    if denied.is_empty() {
        // A start that failed for another reason proves nothing of the profile.
        eprintln!("no call was denied; exit code {}", ran?);
        return Ok(ExitCode::SUCCESS);
    }
    match ran {
        Ok(code) => eprintln!("exit code {code}"),
        Err(error) => eprintln!("{}", super::message(&error)),
    }
    let rows: Vec<Vec<String>> = denied
        .iter()
        .map(|call| {
            let error = call.error.clone().unwrap_or_else(|| "SIGSYS".into());
            vec![call.name.clone(), call.calls.to_string(), error]
        })
        .collect();
    eprint!("{}", table::render(&["DENIED", "CALLS", "ANSWER"], &rows));
    Ok(ExitCode::FAILURE)
}

/// Those that the profile has no word for. What it names without conditions it decided on:
/// a refusal of that is its wish, or another filter's that the program itself installed.
fn denied<'a>(refused: &'a [RefusedSyscall], profile: &Profile) -> Vec<&'a RefusedSyscall> {
    refused.iter().filter(|call| !names_it(profile, &call.name)).collect()
}

/// The container as it was created, or the image; with the profile, and recorded.
async fn body_of(
    docker: &Docker,
    name: &str,
    command: &[String],
    profile: &str,
) -> anyhow::Result<ContainerCreateBody> {
    let options = None::<query::InspectContainerOptions>;
    let mut body = match docker.inspect_container(name, options).await {
        Ok(container) => as_created(serde_json::to_value(container)?)?,
        Err(bollard::errors::Error::DockerResponseServerError { status_code: 404, .. }) => {
            ContainerCreateBody { image: Some(name.into()), ..ContainerCreateBody::default() }
        }
        Err(error) => return Err(error.into()),
    };
    if !command.is_empty() {
        body.entrypoint = Some(command.to_vec());
        body.cmd = None;
    }
    body.labels.get_or_insert_default().insert(LABEL.into(), RECORD.into());
    let host = body.host_config.get_or_insert_default();
    let options = host.security_opt.get_or_insert_default();
    options.retain(|option| !option.starts_with("seccomp"));
    options.push(format!("seccomp={profile}"));
    Ok(body)
}

fn as_created(container: Value) -> anyhow::Result<ContainerCreateBody> {
    let (config, host) = (&container["Config"], &container["HostConfig"]);
    let arguments = field::<Vec<String>>(&config["Cmd"]).filter(|words| !words.is_empty());
    ensure!(arguments.is_some(), "the container has no command");
    Ok(ContainerCreateBody {
        image: field(&config["Image"]),
        // The image's own entrypoint is part of it already.
        entrypoint: arguments,
        env: field(&config["Env"]),
        user: field(&config["User"]),
        working_dir: field(&config["WorkingDir"]),
        host_config: Some(HostConfig {
            network_mode: field(&host["NetworkMode"]),
            binds: field(&host["Binds"]),
            cap_add: field(&host["CapAdd"]),
            cap_drop: field(&host["CapDrop"]),
            readonly_rootfs: field(&host["ReadonlyRootfs"]),
            userns_mode: field(&host["UsernsMode"]),
            security_opt: field(&host["SecurityOpt"]),
            nano_cpus: field(&host["NanoCpus"]),
            memory: field(&host["Memory"]),
            pids_limit: field(&host["PidsLimit"]),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    })
}

/// `None` where it is absent.
fn field<T: DeserializeOwned>(value: &Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// Runs it to its end, or for that time, and shows what it writes. Its exit code.
async fn run(docker: &Docker, id: &str, seconds: Option<u64>) -> anyhow::Result<i64> {
    let options = query::AttachContainerOptionsBuilder::new();
    let options = options.stdout(true).stderr(true).stream(true).build();
    let attached = docker.attach_container(id, Some(options)).await?;
    docker.start_container(id, None::<query::StartContainerOptions>).await?;
    let mut waiting = docker.wait_container(id, None::<query::WaitContainerOptions>).boxed();
    let stop = async {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds.unwrap_or(u64::MAX >> 2))) => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        docker.stop_container(id, None::<query::StopContainerOptions>).await
    };
    let mut stop = std::pin::pin!(stop);
    let mut output = std::pin::pin!(copy_output(attached.output));
    let mut is_stopped = false;
    loop {
        tokio::select! {
            copied = &mut output => break copied?,
            stopped = &mut stop, if !is_stopped => {
                stopped?;
                is_stopped = true;
            }
        }
    }
    exit_code(waiting.next().await.context("the agent ended the wait without an answer")?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refusal_that_the_profile_names_is_none_of_its_faults() {
        let text = r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["read"],"action":"SCMP_ACT_ALLOW"},
            {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW",
             "args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#;
        let profile = Profile::parse(text).unwrap();
        let call = |name: &str| RefusedSyscall { name: name.into(), calls: 1, error: None };
        let refused = ["read", "clone3", "personality", "mount"].map(call);
        let names: Vec<_> = denied(&refused, &profile).iter().map(|call| &call.name).collect();
        assert_eq!(names, ["personality", "mount"]);
    }

    #[test]
    fn a_container_is_run_as_it_was_created() {
        let container = json!({
            "Config": { "Image": "demo", "Cmd": ["sh", "-c", "x"], "Env": ["A=b"], "User": "web" },
            "HostConfig": { "NetworkMode": "none", "Binds": ["/a:/b:ro"], "CapAdd": ["SYS_TIME"],
                            "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
                            "Memory": 67_108_864 },
        });
        let body = as_created(container).unwrap();
        assert_eq!(body.entrypoint.unwrap(), ["sh", "-c", "x"]);
        assert_eq!((body.user.as_deref(), body.image.as_deref()), (Some("web"), Some("demo")));
        let host = body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("none"));
        assert_eq!(host.binds.unwrap(), ["/a:/b:ro"]);
        assert_eq!(host.cap_add.unwrap(), ["SYS_TIME"]);
        assert_eq!((host.memory, host.pids_limit), (Some(64 << 20), None));
        assert!(as_created(json!({})).is_err());
    }
}
