//! A container as Docker's clients expect to read it. Pure: values to JSON.

use serde_json::{Value, json};
use tenantry_container::{
    BindRequest, ContainerConfig, Record, RestartPolicy, SeccompChoice, Snapshot, State,
};

use super::{networking, ports};
use crate::api::logs::rfc3339;
use crate::cli::table;
use crate::collect::value;

/// What Docker writes for a moment that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// One entry of `GET /containers/json`.
pub fn summary(container: &Snapshot) -> Value {
    let record = &container.record;
    json!({
        "Id": record.id,
        "Names": [format!("/{}", record.name)],
        "Image": record.image.name,
        "ImageID": record.image.id,
        "Command": record.process.args.join(" "),
        "Created": record.created_unix_ns / 1_000_000_000,
        "Ports": ports::summary(container),
        "Labels": record.config.labels,
        "State": record.state.as_str(),
        "Status": status(record, jiff::Timestamp::now()),
        "HostConfig": { "NetworkMode": networking::mode(record) },
        "NetworkSettings": { "Networks": networking::endpoints(container) },
        "Mounts": [],
    })
}

/// `GET /containers/{id}/json`.
pub fn inspect(container: &Snapshot) -> Value {
    let record = &container.record;
    let mut args = record.process.args.iter();
    json!({
        "Id": record.id,
        "Created": rfc3339(record.created_unix_ns),
        "Path": args.next(),
        "Args": args.collect::<Vec<_>>(),
        "State": state(container),
        "Image": record.image.id,
        "LogPath": container.log_path(),
        "Name": format!("/{}", record.name),
        "RestartCount": record.restarts,
        "Driver": "overlay",
        "Platform": "linux",
        "Mounts": [],
        "HostConfig": host_config(record),
        "Config": config(record),
        "NetworkSettings": networking::settings(container),
    })
}

fn state(container: &Snapshot) -> Value {
    let record = &container.record;
    let ended = record.ended.as_ref();
    json!({
        "Status": record.state.as_str(),
        "Running": record.state == State::Running,
        "Paused": false,
        "Restarting": record.state == State::Restarting,
        "OOMKilled": ended.is_some_and(|ended| ended.oom_killed),
        "Dead": record.state == State::Dead,
        "Pid": container.live.as_ref().map_or(0, |live| live.pid),
        "ExitCode": ended.map_or(0, |ended| ended.code),
        "Error": ended.and_then(|ended| ended.error.as_deref()).unwrap_or_default(),
        "StartedAt": record.started_unix_ns.map_or(NEVER.into(), rfc3339),
        "FinishedAt": ended.map_or(NEVER.into(), |ended| rfc3339(ended.finished_unix_ns)),
    })
}

fn host_config(record: &Record) -> Value {
    let config = &record.config;
    let resources = &record.limits.resources;
    let nano_cpus = resources
        .cpu
        .as_ref()
        .and_then(|cpu| Some(cpu.quota_usec? * 1_000_000_000 / cpu.period_usec));
    json!({
        "NetworkMode": networking::mode(record),
        "PortBindings": ports::bindings(config),
        "PublishAllPorts": config.publish_all,
        "AutoRemove": config.auto_remove,
        "RestartPolicy": restart_policy(config.restart),
        "Binds": config.binds.iter().map(bind).collect::<Vec<_>>(),
        "SecurityOpt": security_options(config),
        "CapAdd": config.cap_add,
        "CapDrop": config.cap_drop,
        "ReadonlyRootfs": config.read_only_rootfs,
        "UsernsMode": if config.user_namespace { "private" } else { "" },
        "NanoCpus": nano_cpus.unwrap_or(0),
        "Memory": value(resources.memory_max_bytes.as_ref()).unwrap_or(0),
        "PidsLimit": value(resources.pids_max.as_ref()).unwrap_or(0),
        "CpusetCpus": resources.cpuset_cpus.as_deref().unwrap_or_default(),
        "LogConfig": { "Type": "tenantry", "Config": {} },
    })
}

fn bind(bind: &BindRequest) -> String {
    let mode = if bind.read_only { ":ro" } else { "" };
    format!("{}:{}{mode}", bind.source, bind.target)
}

fn security_options(config: &ContainerConfig) -> Vec<String> {
    let no_new_privileges = config.no_new_privileges.then(|| "no-new-privileges".into());
    let seccomp = match &config.seccomp {
        SeccompChoice::Default => None,
        SeccompChoice::Unconfined => Some("seccomp=unconfined".into()),
        SeccompChoice::Profile(text) => Some(format!("seccomp={text}")),
    };
    no_new_privileges.into_iter().chain(seccomp).collect()
}

fn config(record: &Record) -> Value {
    let config = &record.config;
    json!({
        "Hostname": record.hostname,
        "User": config.user.as_deref().unwrap_or_default(),
        "Env": record.process.env,
        "Cmd": record.process.args,
        "Image": record.image.name,
        "WorkingDir": record.process.cwd,
        "ExposedPorts": ports::exposed_view(config),
        "Labels": config.labels,
        "OpenStdin": config.open_stdin,
        "Tty": false,
        "StopTimeout": config.stop_timeout_s,
    })
}

fn restart_policy(policy: RestartPolicy) -> Value {
    let (name, most) = match policy {
        RestartPolicy::No => ("no", None),
        RestartPolicy::OnFailure { max_restarts } => ("on-failure", max_restarts),
        RestartPolicy::Always => ("always", None),
        RestartPolicy::UnlessStopped => ("unless-stopped", None),
    };
    json!({ "Name": name, "MaximumRetryCount": most.unwrap_or(0) })
}

/// `Up 5 minutes`, `Exited (1) 2 hours ago`, …
fn status(record: &Record, now: jiff::Timestamp) -> String {
    let ago = |unix_ns: u64| table::ago(now.as_second() - (unix_ns / 1_000_000_000) as i64);
    let ended = record.ended.as_ref().map(|ended| (ended.code, ago(ended.finished_unix_ns)));
    match (record.state, ended) {
        (State::Created, _) => "Created".into(),
        (State::Running, _) => format!("Up {}", record.started_unix_ns.map_or("".into(), ago)),
        (State::Restarting, Some((code, ago))) => format!("Restarting ({code}) {ago} ago"),
        (State::Restarting, None) => "Restarting".into(),
        (State::Exited, Some((code, ago))) => format!("Exited ({code}) {ago} ago"),
        (State::Exited, None) => "Exited".into(),
        (State::Dead, _) => "Dead".into(),
    }
}
