//! The audit's lines, and verbs on its file. With a file's path no agent is asked.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use futures_util::TryStreamExt as _;
use jiff::Timestamp;

use super::Target;
use super::show::event_line;
use crate::api::native::model::AuditFilterAnswer;
use crate::audit::query::{MAX_LIMIT, Query, moment};
use crate::audit::{self, AuditKind, Filter, Head};
use crate::audit_filter::RawAuditFilter;

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AuditFlags {
    #[command(subcommand)]
    verb: Option<AuditVerb>,
    #[command(flatten)]
    query: QueryFlags,
}

#[derive(Debug, Args)]
pub struct QueryFlags {
    /// From this time on: RFC 3339, or so long ago: 90s, 15m, 1h, 2d.
    #[arg(long, value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Up to this time.
    #[arg(long, value_parser = parse_moment)]
    until: Option<Timestamp>,
    /// Only this container: its name, id or the id's beginning.
    #[arg(long)]
    container: Option<String>,
    /// Only these kinds, with commas: exec, exit, connect, open …
    #[arg(long, value_delimiter = ',')]
    kind: Vec<String>,
    /// Only lines behind the one with this number.
    #[arg(long, value_name = "SEQ")]
    after: Option<u64>,
    /// So many: the newest; with --after the next ones.
    #[arg(short = 'n', long, value_parser = clap::value_parser!(u64).range(1..=MAX_LIMIT))]
    limit: Option<u64>,
    /// The lines as they are in the file.
    #[arg(long)]
    json: bool,
    /// Read this audit file, and those that were rotated away from it, instead of asking the agent.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
}

pub(super) fn parse_moment(text: &str) -> Result<Timestamp, &'static str> {
    moment(text, Timestamp::now()).ok_or("RFC 3339, or so long ago: 90s, 15m, 1h, 2d")
}

#[derive(Debug, Subcommand)]
pub enum AuditVerb {
    /// Check that no line was edited, removed or moved; fails with the first that was.
    Verify(VerifyFlags),
    /// Print the last line's sequence number and hash, to be kept on another machine.
    Head(HeadFlags),
    /// Show or choose which events one container has; without a choice it is shown.
    Filter(FilterFlags),
}

#[derive(Debug, Args)]
pub struct FilterFlags {
    name: String,
    /// Only these kinds, with commas: exec, connect, dns …
    #[arg(long, value_delimiter = ',')]
    kinds: Option<Vec<String>>,
    /// Which opens: write, denied, failed, all.
    #[arg(long, value_delimiter = ',')]
    opens: Option<Vec<String>>,
    /// Opens below these paths as well.
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    open_paths: Option<Vec<String>>,
    /// Changes of names and permissions below these paths alone.
    #[arg(long, value_delimiter = ',', value_name = "PREFIX")]
    file_paths: Option<Vec<String>>,
    /// First and last user, as the host numbers them.
    #[arg(long, num_args = 2, value_names = ["FIRST", "LAST"])]
    uids: Option<Vec<u32>>,
    /// System calls that are never events.
    #[arg(long, value_delimiter = ',', value_name = "CALLS")]
    syscalls_off: Option<Vec<String>>,
    /// Back to the events that all containers have.
    #[arg(long, conflicts_with_all =
        ["kinds", "opens", "open_paths", "file_paths", "uids", "syscalls_off"])]
    reset: bool,
}

impl FilterFlags {
    /// What was chosen, if anything was.
    fn chosen(&self) -> Option<RawAuditFilter> {
        let chosen = RawAuditFilter {
            kinds: self.kinds.clone(),
            opens: self.opens.clone(),
            open_paths: self.open_paths.clone(),
            file_paths: self.file_paths.clone(),
            uids: self.uids.as_deref().and_then(|uids| Some((*uids.first()?, *uids.get(1)?))),
            syscalls_off: self.syscalls_off.clone(),
        };
        (chosen != RawAuditFilter::default()).then_some(chosen)
    }
}

#[derive(Debug, Args)]
pub struct VerifyFlags {
    /// Those that were rotated away from it are read, too.
    #[arg(default_value = "/var/lib/tenantry/audit.jsonl")]
    path: PathBuf,
    /// What `audit head` printed before: the line must still be there.
    #[arg(long, value_name = "SEQ:HASH")]
    head: Option<Head>,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct HeadFlags {
    #[arg(default_value = "/var/lib/tenantry/audit.jsonl")]
    path: PathBuf,
}

pub(super) async fn audit(target: &Target, flags: AuditFlags) -> anyhow::Result<ExitCode> {
    match flags.verb {
        None => query(target, flags.query).await.map(|()| ExitCode::SUCCESS),
        Some(AuditVerb::Verify(flags)) => verify(&flags),
        Some(AuditVerb::Filter(flags)) => filter(target, &flags).await.map(|()| ExitCode::SUCCESS),
        Some(AuditVerb::Head(flags)) => {
            let path = flags.path.display().to_string();
            let last = audit::newest(&flags.path).with_context(|| path.clone())?;
            let last = last.with_context(|| format!("{path} has no line"))?;
            ensure!(last.is_right, "{path}: the last line is not as it was written");
            println!("{}", last.head);
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn query(target: &Target, flags: QueryFlags) -> anyhow::Result<()> {
    if let Some(path) = &flags.file {
        let known = |kind: &&String| !AuditKind::ALL.iter().any(|known| known.as_str() == **kind);
        if let Some(unknown) = flags.kind.iter().find(known) {
            anyhow::bail!("there is no kind {unknown:?}");
        }
        let filter = Filter { container: flags.container, kinds: flags.kind };
        let (since, until, after, limit) = (flags.since, flags.until, flags.after, flags.limit);
        let query = Query { since, until, filter, after, limit };
        let mut failed = Ok(());
        query
            .run(path, &mut |line| {
                failed = show(&String::from_utf8_lossy(line.trim_ascii_end()), flags.json);
                failed.is_ok()
            })
            .with_context(|| path.display().to_string())?;
        return failed;
    }
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    let mut add = |name: &str, value: Option<String>| {
        parameters.extend_pairs(value.map(|value| (name, value)));
    };
    add("since", flags.since.map(|time| time.to_string()));
    add("until", flags.until.map(|time| time.to_string()));
    add("container", flags.container);
    add("kind", (!flags.kind.is_empty()).then(|| flags.kind.join(",")));
    add("after", flags.after.map(|after| after.to_string()));
    add("limit", flags.limit.map(|limit| limit.to_string()));
    let path = format!("/v1/audit?{}", parameters.finish());
    let mut lines = Box::pin(target.native().lines(&path).await?);
    while let Some(line) = lines.try_next().await? {
        show(&line, flags.json)?;
    }
    Ok(())
}

async fn filter(target: &Target, flags: &FilterFlags) -> anyhow::Result<()> {
    let path = format!("/v1/containers/{}/audit/filter", flags.name);
    let client = target.native();
    let answer: AuditFilterAnswer = match flags.chosen() {
        _ if flags.reset => client.delete(&path).await?,
        Some(own) => client.put(&path, &own).await?,
        None => client.get(&path).await?,
    };
    println!("{}", serde_json::to_string_pretty(&answer)?);
    Ok(())
}

fn show(line: &str, json: bool) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match json {
        true => writeln!(out, "{line}")?,
        false => writeln!(out, "{}", event_line(&serde_json::from_str(line)?))?,
    }
    Ok(())
}

fn verify(flags: &VerifyFlags) -> anyhow::Result<ExitCode> {
    let summary =
        audit::verify(&flags.path, flags.head).with_context(|| flags.path.display().to_string())?;
    let code = if summary.wrong.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
        return Ok(code);
    }
    print!("{}", summary.told());
    Ok(code)
}
