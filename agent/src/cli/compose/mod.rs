//! `tenantry compose …`: applications of several containers, as a Compose file describes them.
//!
//! What a file means is `tenantry-compose`'s; here it is found and read, the agent is asked
//! what is there, and what the plan says is done, all over the Docker API. Names and labels
//! are Docker Compose's own: either program finds what the other made.

mod converge;
mod down;
mod failures;
mod find;
mod images;
mod logs;
mod one_off;
mod present;
mod show;
mod up;
mod verbs;
mod wait;

use std::path::PathBuf;
use std::process::ExitCode;

use bollard::Docker;
use clap::{Args, Subcommand};
use tenantry_compose::Project;

use super::Target;

#[derive(Debug, Args)]
pub struct ComposeFlags {
    #[command(flatten)]
    source: SourceFlags,
    #[command(subcommand)]
    verb: ComposeVerb,
}

/// Which project is meant.
#[derive(Debug, Args)]
pub struct SourceFlags {
    /// A Compose file; several are merged, the later over the earlier. Default: compose.yaml
    /// or docker-compose.yml here or in a directory above, and its override file.
    #[arg(long, short, value_name = "FILE")]
    file: Vec<PathBuf>,
    /// Default: the file's `name`, or its directory's.
    #[arg(long, short, value_name = "NAME")]
    project_name: Option<String>,
    /// What relative paths are relative to. Default: the first file's directory.
    #[arg(long, value_name = "DIRECTORY")]
    project_directory: Option<PathBuf>,
    /// Take services of this profile too.
    #[arg(long, value_name = "NAME")]
    profile: Vec<String>,
    /// A file of variables, instead of `.env`.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ComposeVerb {
    /// Make and start everything, or bring what is there to what the file says.
    Up(up::UpFlags),
    /// Stop and remove the containers and networks.
    Down(down::DownFlags),
    /// List the containers.
    Ps(show::PsFlags),
    /// Show what the containers wrote.
    Logs(logs::LogsFlags),
    /// Run a further program in a service's container.
    Exec(one_off::ExecFlags),
    /// Run a program in a container of its own, made as a service's are.
    Run(one_off::RunFlags),
    /// Start stopped containers.
    Start(verbs::ServicesFlags),
    /// Stop containers, dependants first.
    Stop(verbs::StopFlags),
    Restart(verbs::StopFlags),
    /// Send a signal to containers.
    Kill(verbs::KillFlags),
    Pause(verbs::ServicesFlags),
    Unpause(verbs::ServicesFlags),
    /// Remove stopped containers.
    Rm(verbs::RmFlags),
    /// Change how many containers services have.
    Scale(up::ScaleFlags),
    /// Build the images of services that are built.
    Build(images::BuildFlags),
    /// Pull the images of services.
    Pull(verbs::ServicesFlags),
    /// Check the file and show what it comes to, as JSON.
    Config(show::ConfigFlags),
    /// Print where a service's port can be reached.
    Port(show::PortFlags),
    /// List the projects that have containers.
    Ls,
}

/// A project, and the agent that has it.
#[derive(Debug)]
struct Compose<'a> {
    docker: &'a Docker,
    project: Project,
}

pub async fn compose(target: &Target, flags: ComposeFlags) -> anyhow::Result<ExitCode> {
    let ComposeFlags { source, verb } = flags;
    // Neither needs an agent, or a file.
    let verb = match verb {
        ComposeVerb::Config(flags) => {
            let project = find::project(&source, &[])?;
            return show::config(&project, &flags).map(|()| ExitCode::SUCCESS);
        }
        verb => verb,
    };
    let docker = &target.docker()?;
    let with = |named: &[String]| -> anyhow::Result<Compose<'_>> {
        Ok(Compose { docker, project: find::project(&source, named)? })
    };
    match verb {
        ComposeVerb::Config(_) => unreachable!("handled before an agent is looked for"),
        ComposeVerb::Ls => show::ls(docker).await?,
        ComposeVerb::Down(flags) => down::down(docker, &find::name(&source)?, flags).await?,
        ComposeVerb::Up(flags) => return up::up(&with(&flags.services)?, flags).await,
        ComposeVerb::Scale(flags) => up::scale(&with(&flags.services())?, flags).await?,
        ComposeVerb::Ps(flags) => show::ps(docker, &find::name(&source)?, flags).await?,
        ComposeVerb::Logs(flags) => logs::logs(docker, &find::name(&source)?, flags).await?,
        ComposeVerb::Exec(flags) => {
            return one_off::exec(docker, &find::name(&source)?, flags).await;
        }
        ComposeVerb::Run(flags) => {
            let named = [flags.service.clone()];
            return one_off::run(&with(&named)?, flags).await;
        }
        ComposeVerb::Start(flags) => verbs::start(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Stop(flags) => verbs::stop(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Restart(flags) => verbs::restart(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Kill(flags) => verbs::kill(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Pause(flags) => verbs::pause(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Unpause(flags) => verbs::unpause(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Rm(flags) => verbs::rm(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Build(flags) => return images::build(&with(&flags.services)?, &flags).await,
        ComposeVerb::Pull(flags) => images::pull(&with(&flags.services)?, &flags).await?,
        ComposeVerb::Port(flags) => show::port(docker, &find::name(&source)?, flags).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What was done, as Docker Compose says it. Standard output is for what was asked for.
fn done(kind: &str, name: &str, what: &str) {
    eprintln!(" {kind} {name}  {what}");
}
