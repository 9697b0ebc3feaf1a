//! What a service's containers may use, from their own fields and from `deploy`.

use bollard_stubs::models::{
    ResourcesBlkioWeightDevice, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
    ThrottleDevice,
};

use super::Parts;
use crate::error::Result;
use crate::node::{At, Fields};
use crate::units;

/// What `deploy` says besides limits.
#[derive(Debug, Default)]
pub struct Deploy {
    pub replicas: Option<u32>,
    pub restart: Option<RestartPolicy>,
}

pub fn read(fields: &mut Fields<'_>, parts: &mut Parts) -> Result<Deploy> {
    let deploy = fields.read("deploy", |at| deploy(at, parts))?.unwrap_or_default();
    let host = &mut parts.host;
    let number = |at: &At<'_>| at.number("a number");
    host.nano_cpus = fields.read("cpus", cpus)?.or(host.nano_cpus);
    host.memory = bytes(fields, "mem_limit")?.or(host.memory);
    host.memory_reservation = bytes(fields, "mem_reservation")?.or(host.memory_reservation);
    host.memory_swap = bytes(fields, "memswap_limit")?;
    host.memory_swappiness = fields.read("mem_swappiness", number)?;
    host.pids_limit = fields.read("pids_limit", number)?.or(host.pids_limit);
    host.cpu_shares = fields.read("cpu_shares", number)?;
    host.cpuset_cpus = fields.string("cpuset")?;
    host.cpu_quota = fields.read("cpu_quota", microseconds)?;
    host.cpu_period = fields.read("cpu_period", microseconds)?;
    host.cpu_realtime_period = fields.read("cpu_rt_period", microseconds)?;
    host.cpu_realtime_runtime = fields.read("cpu_rt_runtime", microseconds)?;
    host.oom_kill_disable = fields.bool("oom_kill_disable")?;
    host.oom_score_adj = fields.read("oom_score_adj", number)?;
    host.shm_size = bytes(fields, "shm_size")?;
    host.ulimits = fields.read("ulimits", ulimits)?;
    fields.ignore(&["cpu_count", "cpu_percent"]);
    if let Some(at) = fields.get("blkio_config") {
        blkio(&at, parts)?;
    }
    Ok(deploy)
}

fn bytes(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<i64>> {
    // -1 is "no limit" where swap is meant.
    let parse = |text: &str| if text == "-1" { Some(-1) } else { units::bytes(text) };
    fields.read(name, |at| at.parsed(units::BYTES, parse))
}

/// In billionths, as the Engine API has it.
fn cpus(at: &At<'_>) -> Result<i64> {
    at.parsed("a number of CPUs such as 0.5", |text| {
        let cpus: f64 = text.parse().ok()?;
        (cpus.is_finite() && cpus >= 0.0).then_some((cpus * 1e9).round() as i64)
    })
}

fn microseconds(at: &At<'_>) -> Result<i64> {
    at.parsed("microseconds, or a time such as 50ms", |text| {
        text.parse().ok().or_else(|| units::duration_ns(text).map(|ns| ns / 1000))
    })
}

fn ulimits(at: &At<'_>) -> Result<Vec<ResourcesUlimits>> {
    let number = |at: &At<'_>| at.number("a number, -1 for no limit");
    let one = |(name, at): (&str, At<'_>)| {
        let (soft, hard) = if at.is_text() {
            let both = number(&at)?;
            (both, both)
        } else {
            let mut fields = at.fields()?;
            let soft = fields.read("soft", number)?;
            let hard = fields.read("hard", number)?;
            fields.finish()?;
            match (soft, hard) {
                (Some(soft), Some(hard)) => (soft, hard),
                _ => return Err(at.invalid("both soft and hard are needed")),
            }
        };
        Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
    };
    at.entries()?.into_iter().map(one).collect()
}

fn blkio(at: &At<'_>, parts: &mut Parts) -> Result<()> {
    let mut fields = at.fields()?;
    let host = &mut parts.host;
    let rate = |at: &At<'_>| at.parsed(units::BYTES, units::bytes);
    let count = |at: &At<'_>| at.number("a number of operations a second");
    host.blkio_weight = fields.read("weight", |at| at.number("10 to 1000"))?;
    host.blkio_weight_device = fields.read("weight_device", |at| {
        let devices = devices(at, "weight", |at| at.number("10 to 1000"))?;
        let device = |(path, weight)| ResourcesBlkioWeightDevice { path, weight };
        Ok(devices.into_iter().map(device).collect())
    })?;
    host.blkio_device_read_bps = throttles(&mut fields, "device_read_bps", rate)?;
    host.blkio_device_write_bps = throttles(&mut fields, "device_write_bps", rate)?;
    host.blkio_device_read_iops = throttles(&mut fields, "device_read_iops", count)?;
    host.blkio_device_write_iops = throttles(&mut fields, "device_write_iops", count)?;
    fields.finish()
}

fn throttles(
    fields: &mut Fields<'_>,
    name: &'static str,
    read: fn(&At<'_>) -> Result<i64>,
) -> Result<Option<Vec<ThrottleDevice>>> {
    let throttle = |(path, rate)| ThrottleDevice { path, rate };
    fields.read(name, |at| Ok(devices(at, "rate", read)?.into_iter().map(throttle).collect()))
}

type OfDevice<T> = (Option<String>, Option<T>);

fn devices<T>(
    at: &At<'_>,
    what: &'static str,
    read: impl Fn(&At<'_>) -> Result<T>,
) -> Result<Vec<OfDevice<T>>> {
    let one = |at: At<'_>| {
        let mut fields = at.fields()?;
        let device = (fields.string("path")?, fields.read(what, &read)?);
        fields.finish()?;
        match device {
            (Some(_), Some(_)) => Ok(device),
            _ => Err(at.invalid(format!("both path and {what} are needed"))),
        }
    };
    at.list()?.into_iter().map(one).collect()
}

/// What has no meaning on one host is read over, as Docker Compose does.
fn deploy(at: &At<'_>, parts: &mut Parts) -> Result<Deploy> {
    let mut fields = at.fields()?;
    let replicas = fields.read("replicas", |at| at.number("a number of containers"))?;
    let restart = fields.read("restart_policy", restart_policy)?;
    if let Some(at) = fields.get("resources") {
        let mut resources = at.fields()?;
        if let Some(at) = resources.get("limits") {
            let mut limits = at.fields()?;
            parts.host.nano_cpus = limits.read("cpus", cpus)?;
            parts.host.memory = bytes(&mut limits, "memory")?;
            parts.host.pids_limit = limits.read("pids", |at| at.number("a number"))?;
            limits.finish()?;
        }
        if let Some(at) = resources.get("reservations") {
            let mut reservations = at.fields()?;
            parts.host.memory_reservation = bytes(&mut reservations, "memory")?;
            reservations.ignore(&["cpus", "pids"]);
            reservations.refuse(&["devices", "generic_resources"], "not supported")?;
            reservations.finish()?;
        }
        resources.finish()?;
    }
    fields.ignore(&[
        "mode",
        "labels",
        "placement",
        "update_config",
        "rollback_config",
        "endpoint_mode",
    ]);
    fields.finish()?;
    Ok(Deploy { replicas, restart })
}

fn restart_policy(at: &At<'_>) -> Result<RestartPolicy> {
    let mut fields = at.fields()?;
    let name = fields.read("condition", |at| {
        at.parsed("none, on-failure or any", |text| match text {
            "none" => Some(RestartPolicyNameEnum::NO),
            "on-failure" => Some(RestartPolicyNameEnum::ON_FAILURE),
            "any" => Some(RestartPolicyNameEnum::ALWAYS),
            _ => None,
        })
    })?;
    let retries = fields.read("max_attempts", |at| at.number("a number of attempts"))?;
    fields.ignore(&["delay", "window"]);
    fields.finish()?;
    let name = name.unwrap_or(RestartPolicyNameEnum::ALWAYS);
    let maximum_retry_count = retries.filter(|_| name == RestartPolicyNameEnum::ON_FAILURE);
    Ok(RestartPolicy { name: Some(name), maximum_retry_count })
}
