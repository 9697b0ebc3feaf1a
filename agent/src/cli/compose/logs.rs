//! What a project's containers write, each line behind its container's name.

use std::process::ExitCode;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters as query;
use clap::Args;
use futures_util::TryStreamExt as _;
use futures_util::future::try_join_all;

use super::present::{self, Container};
use super::{Compose, converge, failures};

#[derive(Debug, Args)]
pub struct LogsFlags {
    #[arg(long, short)]
    follow: bool,
    /// The last lines of each container.
    #[arg(long, short = 'n', default_value = "all")]
    tail: String,
    #[arg(long, short)]
    timestamps: bool,
    /// Without the containers' names.
    #[arg(long)]
    no_log_prefix: bool,
    services: Vec<String>,
}

pub async fn logs(docker: &Docker, project: &str, flags: LogsFlags) -> anyhow::Result<()> {
    let there = present::of_services(docker, project, &flags.services).await?;
    let options = query::LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .follow(flags.follow)
        .timestamps(flags.timestamps)
        .tail(&flags.tail)
        .build();
    show(docker, &there, &options, !flags.no_log_prefix).await
}

/// For `up` in the foreground: until all have ended, or Ctrl-C stops them.
pub async fn until_end(
    compose: &Compose<'_>,
    there: &[Container],
    timeout: Option<i32>,
) -> anyhow::Result<ExitCode> {
    let options = query::LogsOptionsBuilder::new().stdout(true).stderr(true).follow(true).build();
    tokio::select! {
        shown = show(compose.docker, there, &options, true) => {
            return shown.map(|()| ExitCode::SUCCESS);
        }
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    eprintln!("stopping; once more Ctrl-C leaves the containers to themselves");
    let stop = |container: &Container| {
        let id = container.present.id.clone();
        async move { Ok(converge::stop(compose.docker, &id, timeout).await?) }
    };
    tokio::select! {
        stopped = failures::all(there.iter().map(stop)) => stopped?,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    // As a shell says it of a program that Ctrl-C ended.
    Ok(ExitCode::from(130))
}

async fn show(
    docker: &Docker,
    there: &[Container],
    options: &query::LogsOptions,
    prefixed: bool,
) -> anyhow::Result<()> {
    let label =
        |container: &Container| format!("{}-{}", container.service, container.present.number);
    let width = there.iter().map(|container| label(container).len()).max().unwrap_or_default();
    let one = async |container: &Container| {
        let prefix = match prefixed {
            true => format!("{:width$}  | ", label(container)),
            false => String::new(),
        };
        let [mut out, mut err] = [Vec::new(), Vec::new()];
        let mut pieces = docker.logs(&container.present.id, Some(options.clone()));
        while let Some(piece) = pieces.try_next().await? {
            match piece {
                LogOutput::StdErr { message } => {
                    err.extend_from_slice(&message);
                    lines(&mut err).iter().for_each(|line| eprintln!("{prefix}{line}"));
                }
                other => {
                    out.extend_from_slice(&other.into_bytes());
                    lines(&mut out).iter().for_each(|line| println!("{prefix}{line}"));
                }
            }
        }
        // A last line without its end.
        for (rest, is_error) in [(out, false), (err, true)] {
            let rest = String::from_utf8_lossy(&rest);
            match (rest.is_empty(), is_error) {
                (true, _) => {}
                (false, false) => println!("{prefix}{rest}"),
                (false, true) => eprintln!("{prefix}{rest}"),
            }
        }
        anyhow::Ok(())
    };
    try_join_all(there.iter().map(one)).await.map(drop)
}

/// Takes the whole lines out of what has come so far.
fn lines(buffer: &mut Vec<u8>) -> Vec<String> {
    let Some(end) = buffer.iter().rposition(|byte| *byte == b'\n') else { return vec![] };
    let rest = buffer.split_off(end + 1);
    let whole = std::mem::replace(buffer, rest);
    String::from_utf8_lossy(&whole).lines().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_are_taken_and_the_rest_waits() {
        let mut buffer = b"one\ntwo\r\nthr".to_vec();
        assert_eq!(lines(&mut buffer), ["one", "two"]);
        assert_eq!(buffer, b"thr");
        assert!(lines(&mut buffer).is_empty());
    }
}
