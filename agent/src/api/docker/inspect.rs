//! A container as Docker's clients expect to read it. Pure: values to JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tenantry_cgroupfs::{IoLimit, Max};
use tenantry_container::health::Probe;
use tenantry_container::{
    ContainerConfig, Health, HealthCheck, HealthStatus, NamespaceMode, Propagation, Record,
    RestartPolicy, SeccompChoice, Snapshot, State, TmpfsRequest,
};

use super::{log_config, networking, ports};
use crate::api::App;
use crate::api::logs::{self, rfc3339};
use crate::cli::table;
use crate::collect::value;

/// What Docker writes for a moment that never was.
const NEVER: &str = "0001-01-01T00:00:00Z";
/// Of `/dev/shm`, if nobody says another size.
const DEFAULT_SHM_BYTES: u64 = 64 << 20;

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
        "State": record.state_word(),
        "Status": status(container, jiff::Timestamp::now()),
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
        "LogPath": match record.config.log.discards {
            true => "".into(),
            false => logs::newest(&container.log_path()),
        },
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
    let mut view = json!({
        "Status": record.state_word(),
        "Running": record.state == State::Running,
        "Paused": record.paused,
        "Restarting": record.state == State::Restarting,
        "OOMKilled": ended.is_some_and(|ended| ended.oom_killed),
        "Dead": record.state == State::Dead,
        "Pid": container.live.as_ref().map_or(0, |live| live.pid),
        "ExitCode": ended.map_or(0, |ended| ended.code),
        "Error": ended.and_then(|ended| ended.error.as_deref()).unwrap_or_default(),
        "StartedAt": record.started_unix_ns.map_or(NEVER.into(), rfc3339),
        "FinishedAt": ended.map_or(NEVER.into(), |ended| rfc3339(ended.finished_unix_ns)),
    });
    if let Some(health) = &container.health {
        view["Health"] = health_view(health);
    }
    view
}

fn health_view(health: &Health) -> Value {
    let probe = |probe: &Probe| {
        json!({
            "Start": rfc3339(probe.started_unix_ns),
            "End": rfc3339(probe.ended_unix_ns),
            "ExitCode": probe.code,
            "Output": probe.output,
        })
    };
    json!({
        "Status": health.status.as_str(),
        "FailingStreak": health.failing_streak,
        "Log": health.log.iter().map(probe).collect::<Vec<_>>(),
    })
}

fn host_config(record: &Record) -> Value {
    let config = &record.config;
    let resources = &record.limits.resources;
    let nano_cpus = resources
        .cpu
        .as_ref()
        .and_then(|cpu| Some(cpu.quota_usec? * 1_000_000_000 / cpu.period_usec));
    let mut view = json!({
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
        "UsernsMode": match (config.user_namespace, config.own_user_ids) {
            (false, _) => "",
            (true, false) => "private",
            (true, true) => "auto",
        },
        "NanoCpus": nano_cpus.unwrap_or(0),
        "Memory": value(resources.memory_max_bytes.as_ref()).unwrap_or(0),
        "MemorySwap": value(resources.memory_swap_max_bytes.as_ref()).unwrap_or(0),
        "MemoryReservation": resources.memory_low_bytes.unwrap_or(0),
        "OomKillDisable": resources.oom_kill_disable.unwrap_or(false),
        "PidsLimit": value(resources.pids_max.as_ref()).unwrap_or(0),
        "CpusetCpus": resources.cpuset_cpus.as_deref().unwrap_or_default(),
        "BlkioWeight": resources.io_weight.map_or(0, |weight| blkio_weight(weight.cost)),
        "LogConfig": log_config::view(&config.log),
    });
    for (field, value) in surroundings(config).into_iter().chain(disk_limits(&resources.io)) {
        view[field] = value;
    }
    view
}

/// By device, in Docker's four lists.
fn disk_limits(limits: &[IoLimit]) -> serde_json::Map<String, Value> {
    type Rate = fn(&IoLimit) -> Option<&Max>;
    let lists: [(&str, Rate); 4] = [
        ("BlkioDeviceReadBps", |limit| limit.read_bytes_per_s.as_ref()),
        ("BlkioDeviceWriteBps", |limit| limit.write_bytes_per_s.as_ref()),
        ("BlkioDeviceReadIOps", |limit| limit.read_ops_per_s.as_ref()),
        ("BlkioDeviceWriteIOps", |limit| limit.write_ops_per_s.as_ref()),
    ];
    let list = |(field, rate): (&str, Rate)| {
        let limited = limits.iter().filter_map(|limit| {
            let path = device_path(limit.major, limit.minor);
            Some(json!({ "Path": path, "Rate": value(rate(limit))? }))
        });
        (field.to_owned(), limited.collect())
    };
    lists.into_iter().map(list).collect()
}

/// As the kernel calls it now: the name that it was limited by is not kept.
fn device_path(major: u32, minor: u32) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}"));
    let name = link.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.map_or_else(
        || format!("{major}:{minor}"),
        |name| format!("/dev/{}", name.replace('!', "/")),
    )
}

/// The line of `create` backwards: what was asked for, between 10 and 1000.
fn blkio_weight(weight: u64) -> u64 {
    10 + (weight.saturating_sub(1) * 990).div_ceil(9999)
}

/// The rest of `HostConfig`.
fn surroundings(config: &ContainerConfig) -> serde_json::Map<String, Value> {
    let view = json!({
        "Privileged": config.privileged,
        "Init": config.init,
        "ShmSize": config.shm_size_bytes.unwrap_or(DEFAULT_SHM_BYTES),
        "OomScoreAdj": config.oom_score_adj.unwrap_or(0),
        "Ulimits": config.ulimits.iter().map(|ulimit| {
            json!({ "Name": ulimit.name, "Soft": ulimit.soft, "Hard": ulimit.hard })
        }).collect::<Vec<_>>(),
        "Sysctls": config.sysctls,
        "ExtraHosts": config.extra_hosts,
        "Dns": config.resolver.servers,
        "DnsSearch": config.resolver.search,
        "DnsOptions": config.resolver.options,
        "Devices": config.devices.iter().map(|device| {
            json!({
                "PathOnHost": device.source, "PathInContainer": device.target,
                "CgroupPermissions": "rwm",
            })
        }).collect::<Vec<_>>(),
        "GroupAdd": config.group_add,
        "MaskedPaths": config.masked_paths,
        "ReadonlyPaths": config.read_only_paths,
        "PidMode": shared_namespace(&config.pid),
        "IpcMode": config.ipc.render(),
        "UTSMode": shared_namespace(&config.uts),
    });
    match view {
        Value::Object(fields) => fields,
        _ => serde_json::Map::new(),
    }
}

/// Docker shows nothing for one that is the container's own.
fn shared_namespace(mode: &NamespaceMode) -> String {
    if mode.is_own() { String::new() } else { mode.render() }
}

fn binds(config: &ContainerConfig) -> Vec<String> {
    let line = |source: &str, target: &str, options: &[Option<&str>]| {
        let options: Vec<&str> = options.iter().copied().flatten().collect();
        let colon = if options.is_empty() { "" } else { ":" };
        format!("{source}:{target}{colon}{}", options.join(","))
    };
    let read_only = |is_so: bool| is_so.then_some("ro");
    let binds = config.binds.iter().map(|bind| {
        let usual = bind.propagation == Propagation::Private;
        let other = (!usual).then(|| propagation(bind.propagation));
        line(&bind.source, &bind.target, &[read_only(bind.read_only), other])
    });
    let volumes = config.volumes.iter().filter(|used| !used.anonymous);
    let volumes = volumes.map(|used| line(&used.name, &used.target, &[read_only(used.read_only)]));
    binds.chain(volumes).collect()
}

/// Docker's word.
fn propagation(propagation: Propagation) -> &'static str {
    match propagation {
        Propagation::Private => "rprivate",
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    }
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
        "Healthcheck": record.health.as_ref().map(healthcheck),
    })
}

/// The check as it is run, with all that was left out.
fn healthcheck(check: &HealthCheck) -> Value {
    let ns = |time: std::time::Duration| time.as_nanos() as u64;
    let test = std::iter::once("CMD").chain(check.args.iter().map(String::as_str));
    json!({
        "Test": test.collect::<Vec<_>>(),
        "Interval": ns(check.interval),
        "Timeout": ns(check.timeout),
        "StartPeriod": ns(check.start_period),
        "StartInterval": ns(check.start_interval),
        "Retries": check.retries,
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
fn status(container: &Snapshot, now: jiff::Timestamp) -> String {
    let record = &container.record;
    let ago = |unix_ns: u64| table::ago(now.as_second() - (unix_ns / 1_000_000_000) as i64);
    let ended = record.ended.as_ref().map(|ended| (ended.code, ago(ended.finished_unix_ns)));
    match (record.state, ended) {
        (State::Created, _) => "Created".into(),
        (State::Running, _) => {
            let up = record.started_unix_ns.map_or("".into(), ago);
            let further = match container.health.as_ref().map(|health| health.status) {
                _ if record.paused => " (Paused)",
                Some(HealthStatus::Starting) => " (health: starting)",
                Some(HealthStatus::Healthy) => " (healthy)",
                Some(HealthStatus::Unhealthy) => " (unhealthy)",
                None => "",
            };
            format!("Up {up}{further}")
        }
        (State::Restarting, Some((code, ago))) => format!("Restarting ({code}) {ago} ago"),
        (State::Restarting, None) => "Restarting".into(),
        (State::Exited, Some((code, ago))) => format!("Exited ({code}) {ago} ago"),
        (State::Exited, None) => "Exited".into(),
        (State::Dead, _) => "Dead".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_of_disks_is_told_back_as_it_was_asked_for() {
        for asked in 10..=1000 {
            // As `create` makes it.
            let weight = 1 + (asked - 10) * 9_999 / 990;
            assert_eq!(blkio_weight(weight), asked);
        }
    }
}
