//! A container as Docker's clients expect to read it. Pure: values to JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tenantry_container::{
    ContainerConfig, Propagation, Record, RestartPolicy, SeccompChoice, Snapshot, State,
    TmpfsRequest,
};

use super::{networking, ports};
use crate::api::App;
use crate::api::logs::rfc3339;
use crate::cli::table;
use crate::collect::value;

/// What Docker writes for a moment that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// One entry of `GET /containers/json`.
pub fn summary(app: &App, container: &Snapshot) -> Value {
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
        "Mounts": mounts(app, record),
    })
}

/// `GET /containers/{id}/json`.
pub fn inspect(app: &App, container: &Snapshot) -> Value {
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
        "Mounts": mounts(app, record),
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
        "Binds": binds(config),
        "VolumesFrom": config.volumes_from,
        "Tmpfs": config.tmpfs.iter().map(|tmpfs| (tmpfs.target.clone(), tmpfs_options(tmpfs)))
            .collect::<BTreeMap<_, _>>(),
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

fn binds(config: &ContainerConfig) -> Vec<String> {
    let line = |source: &str, target: &str, read_only: bool| {
        let mode = if read_only { ":ro" } else { "" };
        format!("{source}:{target}{mode}")
    };
    let binds = config.binds.iter().map(|bind| line(&bind.source, &bind.target, bind.read_only));
    let volumes = config.volumes.iter().filter(|used| !used.anonymous);
    binds.chain(volumes.map(|used| line(&used.name, &used.target, used.read_only))).collect()
}

fn tmpfs_options(tmpfs: &TmpfsRequest) -> String {
    let size = tmpfs.size_bytes.map(|bytes| format!("size={bytes}"));
    let mode = tmpfs.mode.map(|mode| format!("mode={mode:o}"));
    let read_only = tmpfs.read_only.then(|| "ro".to_owned());
    let exec = tmpfs.exec.then(|| "exec".to_owned());
    let all: Vec<String> = [size, mode, read_only, exec].into_iter().flatten().collect();
    all.join(",")
}

/// What is mounted, and from where, all kinds in one list.
fn mounts(app: &App, record: &Record) -> Vec<Value> {
    let config = &record.config;
    let propagation = |propagation: Propagation| match propagation {
        Propagation::Private => "rprivate",
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    };
    let binds = config.binds.iter().map(|bind| {
        json!({
            "Type": "bind", "Source": bind.source, "Destination": bind.target, "Mode": "",
            "RW": !bind.read_only, "Propagation": propagation(bind.propagation),
        })
    });
    let volumes = config.volumes.iter().map(|used| {
        json!({
            "Type": "volume", "Name": used.name, "Source": app.engine.volumes().data(&used.name),
            "Destination": used.target, "Driver": "local", "Mode": "",
            "RW": !used.read_only, "Propagation": "",
        })
    });
    let tmpfs = config.tmpfs.iter().map(|tmpfs| {
        json!({
            "Type": "tmpfs", "Source": "", "Destination": tmpfs.target, "Mode": "",
            "RW": !tmpfs.read_only, "Propagation": "",
        })
    });
    binds.chain(volumes).chain(tmpfs).collect()
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
        "Tty": config.terminal.is_some(),
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
