//! `exec` in a service's container, and `run` in one of its own.

use std::process::ExitCode;

use anyhow::Context as _;
use bollard::Docker;
use clap::Args;
use tenantry_compose::order;
use tenantry_compose::plan::Recreate;
use tenantry_container::names;

use super::converge::{self, How};
use super::{Compose, images, present, up};
use crate::cli::container;
use crate::cli::run::{self, Foreground};

#[derive(Debug, Args)]
pub struct ExecFlags {
    /// Do not wait.
    #[arg(long, short)]
    detach: bool,
    /// Without a terminal, even if there is one.
    #[arg(long, short = 'T')]
    no_tty: bool,
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[arg(long, short)]
    workdir: Option<String>,
    /// Which of the service's containers.
    #[arg(long, default_value_t = 1)]
    index: u32,
    service: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RunFlags {
    /// Leave it running and print its name.
    #[arg(long, short)]
    detach: bool,
    /// Remove it when it exits.
    #[arg(long)]
    rm: bool,
    /// Without a terminal, even if there is one.
    #[arg(long, short = 'T')]
    no_tty: bool,
    #[arg(long)]
    name: Option<String>,
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    #[arg(long, short)]
    workdir: Option<String>,
    #[arg(long)]
    entrypoint: Option<String>,
    /// Leave the services alone that it depends on.
    #[arg(long)]
    no_deps: bool,
    /// Publish the service's ports, too.
    #[arg(long, short = 'P')]
    service_ports: bool,
    pub service: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub async fn exec(docker: &Docker, project: &str, flags: ExecFlags) -> anyhow::Result<ExitCode> {
    let there = present::of_services(docker, project, std::slice::from_ref(&flags.service)).await?;
    let meant = there.iter().find(|container| container.present.number == flags.index);
    let meant = meant.filter(|container| container.present.running).with_context(|| {
        format!("service {:?} has no running container {}", flags.service, flags.index)
    })?;
    let tty = !flags.no_tty && !flags.detach && has_terminal();
    let exec = container::ExecFlags {
        interactive: !flags.detach,
        tty,
        detach: flags.detach,
        env: flags.env,
        user: flags.user,
        workdir: flags.workdir,
        name: meant.present.id.clone(),
        command: flags.command,
    };
    container::exec(docker, exec).await
}

fn has_terminal() -> bool {
    use std::io::IsTerminal as _;
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

pub async fn run(compose: &Compose<'_>, flags: RunFlags) -> anyhow::Result<ExitCode> {
    let project = &compose.project;
    let service = &project.services[&flags.service];
    let mut services = order::order(project, std::slice::from_ref(&flags.service))?;
    converge::provide(compose, &services).await?;
    let image_ids = images::provide(compose, &services, false, None).await?;
    services.retain(|name| *name != flags.service && !flags.no_deps);
    let how = How { recreate: Recreate::Changed, start: true, stop_timeout: None };
    up::all(compose, &services, &image_ids, how).await?;
    if !flags.no_deps {
        up::ready(compose, &flags.service).await?;
    }
    let tty = !flags.no_tty && !flags.detach && has_terminal();
    let mut body = project.container(service, &image_ids[&flags.service], 1, true);
    converge::shared(compose, service, &mut body).await?;
    let host = body.host_config.get_or_insert_default();
    host.restart_policy = None;
    host.auto_remove = Some(flags.rm);
    if !flags.service_ports {
        host.port_bindings = None;
    }
    if !flags.command.is_empty() {
        body.cmd = Some(flags.command);
    }
    if let Some(program) = flags.entrypoint {
        body.entrypoint = Some(vec![program]);
    }
    body.env.get_or_insert_default().extend(flags.env);
    body.user = flags.user.or(body.user);
    body.working_dir = flags.workdir.or(body.working_dir);
    body.tty = Some(tty);
    for on in [&mut body.open_stdin, &mut body.attach_stdin, &mut body.stdin_once] {
        *on = Some(!flags.detach);
    }
    let name = match flags.name {
        Some(name) => name,
        None => {
            let random = &names::random_id()?[..12];
            format!("{}-{}-run-{random}", project.name, service.name)
        }
    };
    let further = project.further_networks(service, true);
    let id = converge::made(compose, service, &name, body, further).await?;
    if flags.detach {
        run::start(compose.docker, &id).await?;
        println!("{name}");
        return Ok(ExitCode::SUCCESS);
    }
    let keys = "ctrl-p,ctrl-q".to_owned();
    let foreground = Foreground { interactive: true, tty, rm: flags.rm, keys };
    run::foreground(compose.docker, &id, foreground).await
}
