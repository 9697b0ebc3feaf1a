//! The command line: what people type, and nothing else.
//!
//! Lifecycle verbs speak the Docker Engine API on `docker.sock`, as any client
//! does; the others, but for those that only read a file, speak the native API on
//! `tenantry.sock`. A verb prints to standard output what a person or a script
//! asked for, and to standard error what went wrong.

mod audit;
mod blame;
mod build;
mod call_line;
mod compose;
mod connections;
mod container;
mod cost;
mod credentials;
mod decisions;
mod flags;
mod image;
mod limit;
mod limits;
mod namespaces;
mod native;
mod network;
mod profile;
mod registry;
mod rules;
mod run;
mod show;
mod stats;
mod surroundings;
pub mod table;
mod terminal;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use bollard::Docker;
use clap::{Parser, Subcommand};

use crate::api::docker::API_VERSION;
use crate::{daemon, guard};

#[derive(Debug, Parser)]
#[command(name = "tenantry", version, about = "Runs, meters and limits the containers of one host")]
pub struct Cli {
    /// The directory that holds the agent's sockets.
    #[arg(long, global = true, env = "TENANTRY_RUN_DIR", default_value = "/run/tenantry")]
    run_dir: PathBuf,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the agent in the foreground.
    Agent(flags::AgentFlags),
    /// Create a container and start it.
    Run(Box<run::RunFlags>),
    /// List containers.
    Ps(show::PsFlags),
    /// Show everything that is known about containers, as JSON.
    Inspect(show::InspectFlags),
    /// Show what a container wrote.
    Logs(show::LogsFlags),
    /// Run a further program in a running container.
    Exec(container::ExecFlags),
    /// Start stopped containers.
    Start(container::NamesFlags),
    /// Stop containers: their stop signal, then a grace period, then SIGKILL.
    Stop(container::StopFlags),
    /// Send a signal to containers.
    Kill(container::KillFlags),
    /// Stop every process of containers where it is.
    Pause(container::NamesFlags),
    /// Let paused containers go on.
    Unpause(container::NamesFlags),
    /// Give a container another name.
    Rename(container::RenameFlags),
    /// Remove containers.
    Rm(container::RmFlags),
    /// Wait until containers stop, and print their exit codes.
    Wait(container::NamesFlags),
    /// Build an image from a Dockerfile and a directory.
    Build(Box<build::BuildFlags>),
    /// Make an image of what a container has changed.
    Commit(image::kept::CommitFlags),
    /// Pull, push, load, save, list, name and remove images.
    #[command(subcommand)]
    Image(image::ImageVerb),
    /// Make, list and remove networks; put containers on them and take them off.
    #[command(subcommand)]
    Network(network::NetworkVerb),
    /// Run applications of several containers, as a Compose file describes them.
    Compose(Box<compose::ComposeFlags>),
    /// Check a registry's password and keep it in Docker's config.json.
    Login(registry::LoginFlags),
    /// Forget it.
    Logout(registry::LogoutFlags),
    /// Change a running container's limits.
    Limit(limit::LimitFlags),
    /// Show who holds which of a container's limits, and who changed them before.
    Limits(limits::LimitsFlags),
    /// Show what containers use: CPU, memory, network, disk, run queue, syscalls.
    Stats(stats::StatsFlags),
    /// Show what was done in each Linux namespace, and by which containers.
    Namespaces(namespaces::NamespacesFlags),
    /// Watch one container closely for a while.
    #[command(subcommand)]
    Trace(trace::TraceVerb),
    /// Make a seccomp profile of what a container does, and see whether it is enough.
    #[command(subcommand)]
    Profile(profile::ProfileVerb),
    /// Show who kept whom waiting, and for what.
    Blame(blame::BlameFlags),
    /// Show whom a container talks to over TCP.
    Connections(connections::ConnectionsFlags),
    /// Show what the controller decided, and why.
    Decisions(decisions::DecisionsFlags),
    /// Check, show and reload the controller's policy.
    #[command(subcommand)]
    Policy(decisions::PolicyVerb),
    /// Decide everything in a decision log again; fails if anything comes out otherwise.
    Replay(decisions::ReplayFlags),
    /// Run another policy over a decision log and show the difference.
    Simulate(decisions::SimulateFlags),
    /// Follow lifecycle, exec, exit and limit events.
    Events(show::EventsFlags),
    /// Check, show and reload the rules over audit events.
    #[command(subcommand)]
    Rules(rules::RulesVerb),
    /// Show what the audit has recorded; check its file, or print where it ends.
    Audit(audit::AuditFlags),
    /// For the agent's own use.
    #[command(subcommand, hide = true)]
    Guard(guard::GuardVerb),
    /// Show each kernel probe and whether it runs; with --cost, what each costs.
    Probes(show::ProbesFlags),
}

/// Where a verb finds its agent.
#[derive(Debug)]
pub struct Target {
    run_dir: PathBuf,
}

impl Target {
    fn docker(&self) -> anyhow::Result<Docker> {
        let path = self.run_dir.join("docker.sock");
        let path = path.to_str().context("--run-dir is not valid UTF-8")?;
        anyhow::ensure!(
            std::path::Path::new(path).exists(),
            "no agent at {path}: start one with `tenantry agent`, or name its directory with --run-dir"
        );
        // A container may run, and be waited for, as long as it likes.
        let a_year_s = 365 * 24 * 3600;
        // What the agent serves; the crate's own version is newer.
        let (major, minor) = API_VERSION.split_once('.').context("a version of two numbers")?;
        let version =
            bollard::ClientVersion { major_version: major.parse()?, minor_version: minor.parse()? };
        Ok(Docker::connect_with_unix(path, a_year_s, &version)?)
    }

    /// For what the client library has no word for.
    fn docker_plain(&self) -> native::Client {
        native::Client::new(self.run_dir.join("docker.sock"))
    }

    fn native(&self) -> native::Client {
        native::Client::new(self.run_dir.join("tenantry.sock"))
    }
}

/// The code that a shell sees when the agent, not the container, failed.
const AGENT_FAILED: u8 = 125;

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let target = Target { run_dir: cli.run_dir };
    let outcome = match cli.verb {
        Verb::Agent(flags) => return daemon::main(flags.into_options(target.run_dir)),
        Verb::Guard(verb) => return guard::main(verb),
        verb => runtime().and_then(|runtime| runtime.block_on(dispatch(&target, verb))),
    };
    outcome.unwrap_or_else(|error| {
        let message = message(&error);
        eprintln!("tenantry: {message}");
        ExitCode::from(failure_code(&message))
    })
}

/// As a shell has it for a program that could not be executed.
fn failure_code(message: &str) -> u8 {
    match message.strip_prefix("cannot execute ") {
        Some(why) if why.ends_with("no such file or directory") => 127,
        Some(_) => 126,
        None => AGENT_FAILED,
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn dispatch(target: &Target, verb: Verb) -> anyhow::Result<ExitCode> {
    let done = |()| ExitCode::SUCCESS;
    match verb {
        Verb::Agent(_) | Verb::Guard(_) => {
            unreachable!("handled before a client runtime exists")
        }
        Verb::Run(flags) => run::run(&target.docker()?, *flags).await,
        Verb::Ps(flags) => show::ps(target, flags).await.map(done),
        Verb::Inspect(flags) => show::inspect(target, flags).await.map(done),
        Verb::Logs(flags) => show::logs(&target.docker()?, flags).await.map(done),
        Verb::Exec(flags) => container::exec(&target.docker()?, flags).await,
        Verb::Start(flags) => container::start(&target.docker()?, flags).await.map(done),
        Verb::Stop(flags) => container::stop(&target.docker()?, flags).await.map(done),
        Verb::Kill(flags) => container::kill(&target.docker()?, flags).await.map(done),
        Verb::Pause(flags) => container::pause(&target.docker()?, flags).await.map(done),
        Verb::Unpause(flags) => container::unpause(&target.docker()?, flags).await.map(done),
        Verb::Rename(flags) => container::rename(&target.docker()?, flags).await.map(done),
        Verb::Rm(flags) => container::rm(&target.docker()?, flags).await.map(done),
        Verb::Wait(flags) => container::wait(&target.docker()?, flags).await.map(done),
        Verb::Build(flags) => build::build(&target.docker()?, *flags).await,
        Verb::Commit(flags) => image::kept::commit(&target.docker()?, flags).await.map(done),
        Verb::Image(verb) => image::image(&target.docker()?, verb).await.map(done),
        Verb::Network(verb) => network::network(&target.docker()?, verb).await.map(done),
        Verb::Compose(flags) => compose::compose(target, *flags).await,
        Verb::Login(flags) => registry::login(target.docker_plain(), flags).await.map(done),
        Verb::Logout(flags) => registry::logout(&flags).map(done),
        Verb::Limit(flags) => limit::limit(target, flags).await.map(done),
        Verb::Limits(flags) => limits::limits(target, flags).await.map(done),
        Verb::Stats(flags) => stats::stats(target, flags).await.map(done),
        Verb::Namespaces(flags) => namespaces::namespaces(target, flags).await.map(done),
        Verb::Trace(verb) => trace::trace(target, verb).await.map(done),
        Verb::Profile(verb) => profile::profile(target, verb).await,
        Verb::Blame(flags) => blame::blame(target, flags).await.map(done),
        Verb::Connections(flags) => connections::connections(target, flags).await.map(done),
        Verb::Decisions(flags) => decisions::decisions(target, flags).await.map(done),
        Verb::Policy(verb) => decisions::policy(target, verb).await.map(done),
        Verb::Replay(flags) => decisions::replay(&flags),
        Verb::Simulate(flags) => decisions::simulate(&flags).map(done),
        Verb::Rules(verb) => rules::rules(target, verb).await.map(done),
        Verb::Audit(flags) => audit::audit(target, flags).await,
        Verb::Events(flags) => show::events(target, flags).await.map(done),
        Verb::Probes(flags) => show::probes(target, flags).await.map(done),
    }
}

/// What kept us from it, and the agent's own words where it answered.
fn message(error: &anyhow::Error) -> String {
    let words = |cause: &(dyn std::error::Error + 'static)| match cause.downcast_ref() {
        Some(bollard::errors::Error::DockerResponseServerError { message, .. }) => message.clone(),
        Some(bollard::errors::Error::DockerStreamError { error }) => error.clone(),
        _ => cause.to_string(),
    };
    error.chain().map(words).collect::<Vec<_>>().join(": ")
}
