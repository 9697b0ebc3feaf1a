//! Verbs that act on containers that exist: exec, start, stop, pause, rename, kill, rm, wait.

use std::process::ExitCode;

use anyhow::Context as _;
use bollard::Docker;
use bollard::exec::StartExecResults;
use bollard::models::ExecConfig;
use bollard::query_parameters as query;
use clap::Args;
use futures_util::StreamExt as _;

use super::run::{copy_output, exit_code};
use super::terminal;

#[derive(Debug, Args)]
pub struct NamesFlags {
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct StopFlags {
    /// Seconds to wait before SIGKILL.
    #[arg(long, short = 't', alias = "timeout")]
    time: Option<i32>,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct KillFlags {
    #[arg(long, short, default_value = "SIGKILL")]
    signal: String,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RmFlags {
    /// Remove running containers too; they are killed.
    #[arg(long, short)]
    force: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

#[derive(Debug, Args)]
pub struct ExecFlags {
    /// Keep standard input open.
    #[arg(long, short)]
    pub interactive: bool,
    /// Give it a terminal.
    #[arg(long, short)]
    pub tty: bool,
    /// Do not wait.
    #[arg(long, short)]
    pub detach: bool,
    #[arg(long, short, value_name = "NAME=VALUE")]
    pub env: Vec<String>,
    #[arg(long, short, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    #[arg(long, short)]
    pub workdir: Option<String>,
    pub name: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct RenameFlags {
    name: String,
    new_name: String,
}

pub async fn pause(docker: &Docker, flags: NamesFlags) -> anyhow::Result<()> {
    for name in flags.names {
        docker.pause_container(&name).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn unpause(docker: &Docker, flags: NamesFlags) -> anyhow::Result<()> {
    for name in flags.names {
        docker.unpause_container(&name).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn rename(docker: &Docker, flags: RenameFlags) -> anyhow::Result<()> {
    let options = query::RenameContainerOptionsBuilder::new().name(&flags.new_name).build();
    Ok(docker.rename_container(&flags.name, options).await?)
}

pub async fn start(docker: &Docker, flags: NamesFlags) -> anyhow::Result<()> {
    for name in flags.names {
        docker.start_container(&name, None::<query::StartContainerOptions>).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn stop(docker: &Docker, flags: StopFlags) -> anyhow::Result<()> {
    let mut options = query::StopContainerOptionsBuilder::new();
    if let Some(seconds) = flags.time {
        options = options.t(seconds);
    }
    let options = options.build();
    for name in flags.names {
        docker.stop_container(&name, Some(options.clone())).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn kill(docker: &Docker, flags: KillFlags) -> anyhow::Result<()> {
    for name in flags.names {
        let options = query::KillContainerOptionsBuilder::new().signal(&flags.signal).build();
        docker.kill_container(&name, Some(options)).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn rm(docker: &Docker, flags: RmFlags) -> anyhow::Result<()> {
    for name in flags.names {
        let options = query::RemoveContainerOptionsBuilder::new().force(flags.force).build();
        docker.remove_container(&name, Some(options)).await?;
        println!("{name}");
    }
    Ok(())
}

pub async fn wait(docker: &Docker, flags: NamesFlags) -> anyhow::Result<()> {
    for name in flags.names {
        let mut answers = docker.wait_container(&name, None::<query::WaitContainerOptions>);
        let answer = answers.next().await.context("the agent ended the wait without an answer")?;
        println!("{}", exit_code(answer)?);
    }
    Ok(())
}

pub async fn exec(docker: &Docker, flags: ExecFlags) -> anyhow::Result<ExitCode> {
    let tty = flags.tty;
    if !flags.detach {
        terminal::check_input(flags.interactive, tty)?;
    }
    let config = ExecConfig {
        tty: Some(tty),
        console_size: terminal::size().map(|(rows, columns)| vec![rows.into(), columns.into()]),
        attach_stdin: Some(flags.interactive),
        attach_stdout: Some(!flags.detach),
        attach_stderr: Some(!flags.detach),
        env: Some(flags.env),
        cmd: Some(flags.command),
        user: flags.user,
        working_dir: flags.workdir,
        ..ExecConfig::default()
    };
    let id = docker.create_exec(&flags.name, config).await?.id;
    let options =
        bollard::exec::StartExecOptions { detach: flags.detach, tty, ..Default::default() };
    let StartExecResults::Attached { output, input } =
        docker.start_exec(&id, Some(options)).await?
    else {
        return Ok(ExitCode::SUCCESS);
    };
    let raw = (flags.interactive && tty).then(terminal::Raw::enter).transpose()?;
    if flags.interactive {
        tokio::spawn(terminal::copy_stdin(input));
    }
    let resize = async |rows: u16, columns: u16| {
        let options = query::ResizeExecOptionsBuilder::new();
        let options = options.h(rows.into()).w(columns.into()).build();
        // It may have ended just now.
        let _ = docker.resize_exec(&id, options).await;
    };
    tokio::select! {
        copied = copy_output(output) => copied?,
        () = terminal::follow_size(resize), if tty => {}
    }
    drop(raw);
    let code = docker.inspect_exec(&id).await?.exit_code.unwrap_or_default();
    Ok(ExitCode::from(code as u8))
}
