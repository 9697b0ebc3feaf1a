//! Verbs that only read: ps, inspect, logs, events, probes.

use std::time::Duration;

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::query_parameters as query;
use clap::Args;
use futures_util::TryStreamExt as _;
use jiff::Timestamp;
use tokio::io::AsyncWriteExt as _;

use super::audit::parse_moment;
use super::{Target, table};
use crate::origin::Runtime;

#[derive(Debug, Args)]
pub struct PsFlags {
    /// Also containers that do not run. Those of other runtimes are shown while they run.
    #[arg(long, short)]
    all: bool,
    /// Only ids, of our own containers.
    #[arg(long, short)]
    quiet: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct InspectFlags {
    #[arg(required = true)]
    names: Vec<String>,
    /// The native view: cgroup ids, namespaces, limits, where the start's time went.
    #[arg(long)]
    native: bool,
    /// Accepted for uniformity; the output always is JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct LogsFlags {
    #[arg(long, short)]
    follow: bool,
    #[arg(long, short = 'n', default_value = "all")]
    tail: String,
    #[arg(long, short)]
    timestamps: bool,
    /// From this time on: RFC 3339, or so long ago: 90s, 15m, 1h, 2d. Whole seconds.
    #[arg(long, value_parser = parse_moment)]
    since: Option<Timestamp>,
    /// Up to this time; with --follow until it has come.
    #[arg(long, value_parser = parse_moment)]
    until: Option<Timestamp>,
    name: String,
}

#[derive(Debug, Args)]
pub struct EventsFlags {
    /// Only this container.
    #[arg(long)]
    container: Option<String>,
    /// Only these kinds: lifecycle, exec, exit, oom, limit …
    #[arg(long)]
    kind: Vec<String>,
    /// Begin behind this line of the audit's chain (its `seq`).
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// One JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct ProbesFlags {
    /// Measure what each probe costs: runs, time and kernel memory.
    #[arg(long)]
    cost: bool,
    /// How long to measure, such as 5s.
    #[arg(long = "for", value_name = "TIME", requires = "cost", default_value = "5s",
          value_parser = super::cost::parse_window)]
    window: Duration,
    #[arg(long)]
    json: bool,
}

pub async fn ps(target: &Target, flags: PsFlags) -> anyhow::Result<()> {
    let docker = target.docker()?;
    let options = query::ListContainersOptionsBuilder::new().all(flags.all).build();
    let containers = docker.list_containers(Some(options)).await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&containers)?);
        return Ok(());
    }
    let mut rows = Vec::new();
    for container in containers {
        let id: String = container.id.unwrap_or_default().chars().take(12).collect();
        if flags.quiet {
            println!("{id}");
            continue;
        }
        let networks = container.network_settings.and_then(|settings| settings.networks);
        let address = networks
            .unwrap_or_default()
            .into_values()
            .find_map(|endpoint| endpoint.ip_address)
            .unwrap_or_default();
        rows.push(vec![
            id,
            container.names.unwrap_or_default().join(",").trim_start_matches('/').to_owned(),
            Runtime::Tenantry.to_string(),
            container.image.unwrap_or_default(),
            container.command.unwrap_or_default(),
            container.status.unwrap_or_default(),
            address,
        ]);
    }
    if !flags.quiet {
        rows.extend(foreign(target).await?);
        let header = ["ID", "NAME", "RUNTIME", "IMAGE", "COMMAND", "STATUS", "ADDRESS"];
        print!("{}", table::render(&header, &rows));
    }
    Ok(())
}

/// Rows of containers that other runtimes run.
async fn foreign(target: &Target) -> anyhow::Result<Vec<Vec<String>>> {
    let containers: Vec<serde_json::Value> = target.native().get("/v1/containers").await?;
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let row = |container: &serde_json::Value| {
        let runtime = text(&container["runtime"]);
        // A unit's name is its id.
        let id = text(&container["id"]);
        let id = if id.len() == 64 { id[..12].to_owned() } else { String::new() };
        (runtime != Runtime::Tenantry.as_str()).then(|| {
            let [name, image, state] = ["name", "image", "state"].map(|key| text(&container[key]));
            vec![id, name, runtime, image, String::new(), state, String::new()]
        })
    };
    Ok(containers.iter().filter_map(row).collect())
}

pub async fn inspect(target: &Target, flags: InspectFlags) -> anyhow::Result<()> {
    let mut views = Vec::new();
    for name in &flags.names {
        views.push(if flags.native {
            target.native().get(&format!("/v1/containers/{name}")).await?
        } else {
            let options = None::<query::InspectContainerOptions>;
            serde_json::to_value(target.docker()?.inspect_container(name, options).await?)?
        });
    }
    println!("{}", serde_json::to_string_pretty(&views)?);
    Ok(())
}

pub async fn logs(docker: &Docker, flags: LogsFlags) -> anyhow::Result<()> {
    let options = query::LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .follow(flags.follow)
        .timestamps(flags.timestamps)
        .tail(&flags.tail)
        .since(flags.since.map_or(0, unix_seconds))
        // The second that it lies in belongs to it.
        .until(flags.until.map_or(0, |time| unix_seconds(time).saturating_add(1)))
        .build();
    let mut pieces = docker.logs(&flags.name, Some(options));
    let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
    while let Some(piece) = pieces.try_next().await? {
        match piece {
            LogOutput::StdErr { message } => stderr.write_all(&message).await?,
            other => stdout.write_all(&other.into_bytes()).await?,
        }
    }
    stdout.flush().await?;
    Ok(stderr.flush().await?)
}

/// The client library's type.
fn unix_seconds(time: Timestamp) -> i32 {
    i32::try_from(time.as_second()).unwrap_or(i32::MAX)
}

pub async fn events(target: &Target, flags: EventsFlags) -> anyhow::Result<()> {
    let mut parameters = form_urlencoded::Serializer::new(String::new());
    if let Some(container) = &flags.container {
        parameters.append_pair("container", container);
    }
    if !flags.kind.is_empty() {
        parameters.append_pair("kind", &flags.kind.join(","));
    }
    if let Some(since) = flags.since {
        parameters.append_pair("since", &since.to_string());
    }
    let path = format!("/v1/events?{}", parameters.finish());
    let mut events = Box::pin(target.native().events(&path).await?);
    while let Some(line) = events.try_next().await? {
        if flags.json {
            println!("{line}");
        } else {
            println!("{}", event_line(&serde_json::from_str(&line)?));
        }
    }
    Ok(())
}

pub fn event_line(event: &serde_json::Value) -> String {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let (kind, process) = (text(&event["event"]["action"]), &event["process"]);
    let told = &event[&kind];
    let detail = match kind.as_str() {
        "exec" => {
            let words = process["args"].as_array().into_iter().flatten();
            let words: Vec<String> = words.map(text).collect();
            format!("pid {} {}", process["pid"], words.join(" "))
        }
        "exit" => match &process["signal"] {
            serde_json::Value::Null => {
                format!("pid {} code {}", process["pid"], process["exit_code"])
            }
            signal => format!("pid {} signal {signal}", process["pid"]),
        },
        "oom" => format!(
            "pid {} {} killed: {} of {} in use",
            process["pid"],
            text(&process["name"]),
            table::bytes(told["usage_bytes"].as_u64().unwrap_or(0)),
            told["limit_bytes"].as_u64().map_or("the host".into(), table::bytes),
        ),
        "limit" => {
            let [change, party, limit, before, after, reason] =
                ["change", "party", "limit", "before", "after", "reason"]
                    .map(|name| text(&told[name]));
            format!("{change} by {party}: {limit} {before} → {after} {reason}")
        }
        "alert" => {
            let [name, severity, description] =
                ["name", "severity", "description"].map(|name| text(&event["rule"][name]));
            let (pid, comm) = (&process["pid"], text(&process["name"]));
            format!("{severity} {name}: {description} (pid {pid} {comm})")
        }
        "lost" => format!("{} events: this reader was too slow or came too late", told["count"]),
        "gap" => format!("{} events that the disk refused: {}", told["lost"], text(&told["error"])),
        "torn" => format!("{} bytes of a line that a kill tore", told["bytes"]),
        "chain" => format!("line {}: another file begins", event["seq"]),
        "lifecycle" | "governor" => text(&told["action"]),
        _ => super::call_line::detail(event),
    };
    let (time, name) = (text(&event["@timestamp"]), text(&event["container"]["name"]));
    format!("{time} {kind:9} {name} {detail}")
}

pub async fn probes(target: &Target, flags: ProbesFlags) -> anyhow::Result<()> {
    if flags.cost {
        return super::cost::print(target, flags.window, flags.json).await;
    }
    let probes: serde_json::Value = target.native().get("/v1/probes").await?;
    if flags.json {
        println!("{}", serde_json::to_string_pretty(&probes)?);
        return Ok(());
    }
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let rows: Vec<Vec<String>> = probes
        .as_array()
        .into_iter()
        .flatten()
        .map(|probe| ["name", "hook", "status", "reason"].map(|field| text(&probe[field])).into())
        .collect();
    print!("{}", table::render(&["PROBE", "HOOK", "STATUS", "REASON"], &rows));
    Ok(())
}
