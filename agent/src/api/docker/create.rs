//! `POST /containers/create`: Docker's words for a container become ours.
//!
//! [`request_of`] is the pure translation. A field that asks for something that
//! is not there is refused by name; a field at its default is let pass, because
//! the stock client sends all of them.

use std::collections::HashMap;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use bollard::models::{ContainerCreateBody, HostConfig, RestartPolicyNameEnum, ThrottleDevice};
use serde::Deserialize;
use serde_json::json;
use tenantry_cgroupfs::Layout;
use tenantry_container::units::{self, Device};
use tenantry_container::{
    ContainerConfig, CreateRequest, IoPatch, Limit, LimitsPatch, RestartPolicy, SeccompChoice,
    ulimits,
};

use super::super::Shared;
use super::{log_config, mounts, networking, ports, surroundings, terminal};
use crate::api::error::{ApiError, ApiResult};
use crate::build;
use crate::profile;

/// Docker never had a field for bandwidth; Compose files carry labels.
const EGRESS_LABEL: &str = "tenantry.egress";
const INGRESS_LABEL: &str = "tenantry.ingress";

#[derive(Debug, Default, Deserialize)]
pub struct CreateQuery {
    name: Option<String>,
}

pub async fn create(
    State(app): State<Shared>,
    Query(query): Query<CreateQuery>,
    body: Result<Json<ContainerCreateBody>, JsonRejection>,
) -> ApiResult<Response> {
    // Docker's status for whatever is wrong with it, a word that is none of the allowed included.
    let wrong = |e: JsonRejection| match e.status() {
        StatusCode::UNPROCESSABLE_ENTITY => ApiError::new(StatusCode::BAD_REQUEST, e.body_text()),
        status => ApiError::new(status, e.body_text()),
    };
    let Json(body) = body.map_err(wrong)?;
    let name = query.name.filter(|name| !name.is_empty());
    let name = name.map(|name| name.trim_start_matches('/').to_owned());
    let mut request = request_of(name, body)?;
    let is_internal = |network: &str| {
        app.engine.networks().find(network).is_ok_and(|network| network.shape.internal)
    };
    let mut warnings = networking::warnings(&request.config, is_internal);
    if request.limits.oom_kill_disable.is_some() && app.hierarchy.layout() == Layout::Unified {
        // As Docker does it, in its words.
        request.limits.oom_kill_disable = None;
        let what = "Your kernel does not support OomKillDisable. OomKillDisable discarded.";
        warnings.push(what.to_owned());
    }
    let id = app.engine.create(request).await?;
    let made = app.engine.get(&id)?;
    app.introduce(&made);
    let record = &made.record;
    warnings.extend(ulimits::shortfalls(&record.config.ulimits, &record.process.rlimits));
    let answer = Json(json!({ "Id": id, "Warnings": warnings }));
    Ok((StatusCode::CREATED, answer).into_response())
}

pub fn request_of(name: Option<String>, mut body: ContainerCreateBody) -> ApiResult<CreateRequest> {
    let host = body.host_config.take().unwrap_or_default();
    surroundings::refuse_what_is_missing(&body, &host)?;
    let labels = body.labels.unwrap_or_default();
    if let Some(other) = labels.get(profile::LABEL).filter(|value| *value != profile::RECORD) {
        return Err(ApiError::invalid(profile::LABEL, other, profile::RECORD));
    }
    if labels.contains_key(build::LABEL) {
        // The next agent would take it for what a build has left.
        return Err(ApiError::invalid("Labels", build::LABEL, "any other: it is the builder's"));
    }
    let links = host.links.as_deref().unwrap_or_default();
    let (network, networks) =
        networking::wishes(host.network_mode.as_deref(), body.networking_config, links)?;
    let security = Security::parse(host.security_opt.as_deref().unwrap_or_default())?;
    let (egress_bits_per_s, egress_burst_bytes) = bandwidth(EGRESS_LABEL, &labels)?;
    let (ingress_bits_per_s, ingress_burst_bytes) = bandwidth(INGRESS_LABEL, &labels)?;
    let limits = LimitsPatch {
        egress_bits_per_s,
        ingress_bits_per_s,
        egress_burst_bytes,
        ingress_burst_bytes,
        ..limits_of(&host)?
    };
    let (user_namespace, own_user_ids) = user_namespace(host.userns_mode.as_deref())?;
    let mut config = ContainerConfig {
        entrypoint: body.entrypoint,
        command: body.cmd,
        env: body.env.unwrap_or_default(),
        user: body.user.filter(|user| !user.is_empty()),
        working_dir: body.working_dir.filter(|dir| !dir.is_empty()),
        hostname: body.hostname.filter(|name| !name.is_empty()),
        labels: labels.into_iter().collect(),
        stop_signal: body.stop_signal.filter(|signal| !signal.is_empty()),
        stop_timeout_s: body.stop_timeout.and_then(|seconds| u64::try_from(seconds).ok()),
        restart: restart_policy(&host)?,
        auto_remove: host.auto_remove.unwrap_or(false),
        network,
        networks,
        network_of: networking::lender(host.network_mode.as_deref()),
        ports: ports::wishes(host.port_bindings.as_ref())?,
        exposed: ports::exposed(body.exposed_ports.as_deref().unwrap_or_default())?,
        publish_all: host.publish_all_ports.unwrap_or(false),
        open_stdin: body.open_stdin.unwrap_or(false),
        terminal: (body.tty == Some(true))
            .then(|| terminal::console_size(host.console_size.as_deref())),
        read_only_rootfs: host.readonly_rootfs.unwrap_or(false),
        user_namespace,
        own_user_ids,
        no_new_privileges: security.no_new_privileges,
        cap_add: host.cap_add.clone().unwrap_or_default(),
        cap_drop: host.cap_drop.clone().unwrap_or_default(),
        seccomp: security.seccomp,
        oom_score_adj: host.oom_score_adj.map(|score| score as i32).filter(|score| *score != 0),
        health: surroundings::health(body.healthcheck),
        log: log_config::parse(host.log_config.clone())?,
        ..ContainerConfig::default()
    };
    surroundings::take(&host, &mut config)?;
    mounts::take(&host, &body.volumes.unwrap_or_default(), &mut config)?;
    Ok(CreateRequest { name, image: body.image.unwrap_or_default(), config, limits })
}

/// As `update` takes them: there -1 takes a limit away.
pub fn new_limits_of(host: &HostConfig) -> ApiResult<LimitsPatch> {
    let mut limits = limits_of(host)?;
    if host.memory_swap == Some(-1) {
        limits.memory_swap_bytes = Some(Limit::Unlimited);
    }
    if host.pids_limit == Some(-1) {
        limits.pids = Some(Limit::Unlimited);
    }
    Ok(limits)
}

/// The limits in a `HostConfig`, as `create` takes them. Zero, and Docker's -1, are
/// "not limited", which is where a container begins.
pub fn limits_of(host: &HostConfig) -> ApiResult<LimitsPatch> {
    let positive = |n: Option<i64>| n.filter(|n| *n > 0);
    let quota = positive(host.cpu_quota).map(|quota| {
        let period = positive(host.cpu_period).unwrap_or(100_000);
        quota as f64 / period as f64
    });
    let cpus = positive(host.nano_cpus).map(|nano| nano as f64 / 1e9).or(quota);
    let memory = positive(host.memory).map(|bytes| bytes as u64);
    let swap = match (memory, host.memory_swap.unwrap_or(0)) {
        (_, 0) => None,
        // Docker's word for as much as there is, of use beside a limit alone.
        (memory, -1) => memory.map(|_| Limit::Unlimited),
        (Some(memory), total @ 1..) if (total as u64) < memory => {
            let allowed = format!("Memory ({memory}) or more: it is memory and swap together");
            return Err(ApiError::invalid("HostConfig.MemorySwap", total, allowed));
        }
        (_, total @ 1..) => Some(Limit::Value(total as u64)),
        (_, other) => {
            let allowed = "-1 (no limit), 0 (as much as Memory), or a number of bytes";
            return Err(ApiError::invalid("HostConfig.MemorySwap", other, allowed));
        }
    };
    let reservation = positive(host.memory_reservation).map(|bytes| bytes as u64);
    if let (Some(reservation), Some(memory)) = (reservation, memory)
        && reservation > memory
    {
        let allowed = format!("at most Memory ({memory})");
        return Err(ApiError::invalid("HostConfig.MemoryReservation", reservation, allowed));
    }
    Ok(LimitsPatch {
        cpus: cpus.map(Limit::Value),
        cpu_weight: positive(host.cpu_shares).map(weight_of_shares),
        cpuset_cpus: host.cpuset_cpus.clone().filter(|list| !list.is_empty()),
        memory_bytes: memory.map(Limit::Value),
        memory_swap_bytes: swap,
        memory_low_bytes: reservation,
        oom_kill_disable: host.oom_kill_disable.filter(|disabled| *disabled),
        io_weight: host.blkio_weight.filter(|weight| *weight > 0).map(io_weight).transpose()?,
        pids: positive(host.pids_limit).map(|pids| Limit::Value(pids as u64)),
        io: io_patches(host)?,
        ..LimitsPatch::default()
    })
}

/// Shares run from 2 to 262144 around 1024, weights from 1 to 10000 around 100;
/// the line between them is the one that OCI runtimes use.
fn weight_of_shares(shares: i64) -> u64 {
    let shares = shares.clamp(2, 262_144) as u64;
    1 + (shares - 2) * 9_999 / 262_142
}

/// Docker's weights run from 10 to 1000, the kernel's from 1 to 10000; the line between them is
/// the one that OCI runtimes use.
fn io_weight(weight: u16) -> ApiResult<u64> {
    if !(10..=1000).contains(&weight) {
        let allowed = "0 (the default), or 10 to 1000";
        return Err(ApiError::invalid("HostConfig.BlkioWeight", weight, allowed));
    }
    Ok(1 + (u64::from(weight) - 10) * 9_999 / 990)
}

fn io_patches(host: &HostConfig) -> ApiResult<Vec<IoPatch>> {
    let mut patches: Vec<IoPatch> = Vec::new();
    let mut add = |field: &str,
                   throttles: &Option<Vec<ThrottleDevice>>,
                   set: fn(&mut IoPatch, Limit<u64>)|
     -> ApiResult<()> {
        for throttle in throttles.iter().flatten() {
            let field = format!("HostConfig.{field}");
            let device = Device::Path(throttle.path.clone().unwrap_or_default().into());
            let (major, minor) = units::read_device_number(&field, &device)?;
            let rate = match throttle.rate.unwrap_or(0) {
                0 => Limit::Unlimited,
                rate => Limit::Value(
                    u64::try_from(rate)
                        .map_err(|_| ApiError::invalid(&field, rate, "0 (no limit) or more"))?,
                ),
            };
            let known = patches.iter_mut().position(|p| (p.major, p.minor) == (major, minor));
            let index = known.unwrap_or_else(|| {
                patches.push(IoPatch { major, minor, ..IoPatch::default() });
                patches.len() - 1
            });
            set(&mut patches[index], rate);
        }
        Ok(())
    };
    add("BlkioDeviceReadBps", &host.blkio_device_read_bps, |p, r| p.read_bytes_per_s = Some(r))?;
    add("BlkioDeviceWriteBps", &host.blkio_device_write_bps, |p, r| p.write_bytes_per_s = Some(r))?;
    add("BlkioDeviceReadIOps", &host.blkio_device_read_iops, |p, r| p.read_ops_per_s = Some(r))?;
    add("BlkioDeviceWriteIOps", &host.blkio_device_write_iops, |p, r| p.write_ops_per_s = Some(r))?;
    Ok(patches)
}

fn bandwidth(
    label: &str,
    labels: &HashMap<String, String>,
) -> ApiResult<(Option<Limit<u64>>, Option<u64>)> {
    let text = labels.get(label);
    let parsed = text.map(|text| units::parse_bandwidth(label, text)).transpose()?;
    Ok(parsed.map_or((None, None), |(limit, burst)| (Some(limit), burst)))
}

pub fn restart_policy(host: &HostConfig) -> ApiResult<RestartPolicy> {
    let Some(policy) = &host.restart_policy else { return Ok(RestartPolicy::No) };
    Ok(match policy.name {
        None | Some(RestartPolicyNameEnum::EMPTY | RestartPolicyNameEnum::NO) => RestartPolicy::No,
        Some(RestartPolicyNameEnum::ALWAYS) => RestartPolicy::Always,
        Some(RestartPolicyNameEnum::UNLESS_STOPPED) => RestartPolicy::UnlessStopped,
        Some(RestartPolicyNameEnum::ON_FAILURE) => {
            let most = policy.maximum_retry_count.filter(|most| *most > 0);
            RestartPolicy::OnFailure { max_restarts: most.map(|most| most as u32) }
        }
    })
}

/// Whether it has a user namespace, and whether with ids that nobody else has.
fn user_namespace(mode: Option<&str>) -> ApiResult<(bool, bool)> {
    match mode {
        None | Some("" | "host") => Ok((false, false)),
        Some("private") => Ok((true, false)),
        Some("auto") => Ok((true, true)),
        Some(other) => {
            Err(ApiError::invalid("HostConfig.UsernsMode", other, "host, private or auto"))
        }
    }
}

#[derive(Debug, Default)]
struct Security {
    no_new_privileges: bool,
    seccomp: SeccompChoice,
}

impl Security {
    fn parse(options: &[String]) -> ApiResult<Self> {
        let mut security = Self::default();
        for option in options {
            let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (name, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = SeccompChoice::Unconfined,
                ("seccomp", "builtin") => security.seccomp = SeccompChoice::Default,
                // The client has read the file and sends its text.
                ("seccomp", profile) => security.seccomp = SeccompChoice::Profile(profile.into()),
                // There are neither AppArmor profiles nor SELinux labels here.
                ("apparmor", "unconfined") | ("label", "disable") => {}
                _ => {
                    let allowed = "no-new-privileges, seccomp=unconfined, a seccomp profile, \
                                   apparmor=unconfined or label=disable";
                    return Err(ApiError::invalid("HostConfig.SecurityOpt", option, allowed));
                }
            }
        }
        Ok(security)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: serde_json::Value) -> ApiResult<CreateRequest> {
        request_of(None, serde_json::from_value(json).unwrap())
    }

    #[test]
    fn an_update_takes_a_limit_away_where_a_create_asks_for_none() {
        let host = HostConfig { memory_swap: Some(-1), pids_limit: Some(-1), ..Default::default() };
        assert!(limits_of(&host).unwrap().is_empty());
        let taken = new_limits_of(&host).unwrap();
        assert_eq!(taken.memory_swap_bytes, Some(Limit::Unlimited));
        assert_eq!(taken.pids, Some(Limit::Unlimited));
    }

    #[test]
    fn what_docker_run_sends_becomes_a_request() {
        let request = parse(json!({
            "Image": "demo", "Cmd": ["/bin/true"], "Env": ["A=b"], "Tty": false,
            "Labels": { "tenantry.egress": "20mbit:64k" },
            "HostConfig": {
                "NetworkMode": "default", "RestartPolicy": { "Name": "on-failure", "MaximumRetryCount": 3 },
                "NanoCpus": 500_000_000, "Memory": 67_108_864, "MemorySwap": 67_108_864,
                "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"], "Binds": ["/a:/b:ro"],
                "Ulimits": [], "PortBindings": {}, "Devices": [], "IpcMode": "private",
            },
        }))
        .unwrap();
        assert_eq!(request.image, "demo");
        assert_eq!(request.config.restart, RestartPolicy::OnFailure { max_restarts: Some(3) });
        assert!(request.config.no_new_privileges);
        assert_eq!(request.config.seccomp, SeccompChoice::Unconfined);
        assert!(request.config.binds[0].read_only);
        assert_eq!(request.limits.cpus, Some(Limit::Value(0.5)));
        assert_eq!(request.limits.memory_swap_bytes, Some(Limit::Value(64 << 20)));
        assert_eq!(request.limits.egress_bits_per_s, Some(Limit::Value(20_000_000)));
        assert_eq!(request.limits.egress_burst_bytes, Some(64 << 10));
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (host, field) in [
            (json!({ "IpcMode": "none" }), "IpcMode"),
            (json!({ "Memory": 8, "MemoryReservation": 9 }), "MemoryReservation"),
            (json!({ "Memory": 8, "MemorySwap": -2 }), "MemorySwap"),
            (json!({ "BlkioWeight": 9 }), "BlkioWeight"),
            (json!({ "PortBindings": { "80/sctp": [] } }), "PortBindings"),
            (json!({ "SecurityOpt": ["label=x"] }), "SecurityOpt"),
            (json!({ "Memory": 8, "MemorySwap": 4 }), "MemorySwap"),
        ] {
            let error = parse(json!({ "Image": "demo", "HostConfig": host })).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
            assert!(!error.status.is_success());
        }
    }

    #[test]
    fn a_terminal_has_the_size_of_the_clients() {
        let body = json!({ "Image": "demo", "Tty": true, "HostConfig": { "ConsoleSize": [5, 7] } });
        let size = parse(body).unwrap().config.terminal.unwrap();
        assert_eq!((size.rows, size.columns), (5, 7));
    }

    #[test]
    fn limits_of_memory_and_disks_become_ours() {
        let limits = |host: serde_json::Value| {
            parse(json!({ "Image": "demo", "HostConfig": host })).unwrap().limits
        };
        let all = limits(json!({
            "Memory": 100, "MemorySwap": -1, "MemoryReservation": 50, "OomKillDisable": true,
            "BlkioWeight": 1000, "CpusetCpus": "0", "CpuShares": 1024, "PidsLimit": 7,
        }));
        assert_eq!(all.memory_swap_bytes, Some(Limit::Unlimited));
        assert_eq!(all.memory_low_bytes, Some(50));
        assert_eq!(all.oom_kill_disable, Some(true));
        assert_eq!(all.io_weight, Some(10_000));
        assert_eq!((all.cpu_weight, all.pids), (Some(39), Some(Limit::Value(7))));
        let none = limits(json!({
            "MemorySwap": 0, "MemoryReservation": 0, "OomKillDisable": false, "BlkioWeight": 0,
            "PidsLimit": -1,
        }));
        assert_eq!(none, LimitsPatch::default());
        assert_eq!(limits(json!({ "BlkioWeight": 10 })).io_weight, Some(1));
    }

    #[test]
    fn shares_and_weights_meet_at_their_ends() {
        assert_eq!(weight_of_shares(2), 1);
        assert_eq!(weight_of_shares(1024), 39);
        assert_eq!(weight_of_shares(262_144), 10_000);
    }
}
