//! The flags of `tenantry run` for what a program finds around it: as Docker's, one by one.

use std::time::Duration;

use anyhow::Context as _;
use bollard::models::{
    DeviceMapping, HealthConfig, HostConfig, HostConfigLogConfig, ResourcesUlimits,
};
use clap::Args;
use tenantry_container::units;

use crate::duration;

#[derive(Debug, Default, Args)]
pub struct SurroundingArgs {
    /// A first process that reaps others and passes signals on to the program.
    #[arg(long)]
    init: bool,
    /// Everything that this host can give: capabilities, devices, /sys and /proc to write to.
    #[arg(long)]
    privileged: bool,
    /// A limit of its processes, such as nofile=1024:4096; -1 is none.
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// A kernel setting that its namespaces keep, such as net.core.somaxconn=1024.
    #[arg(long, value_name = "NAME=VALUE")]
    sysctl: Vec<String>,
    /// Of /dev/shm, such as 256m.
    #[arg(long, value_name = "SIZE")]
    shm_size: Option<String>,
    /// A line of /etc/hosts; the address may be host-gateway.
    #[arg(long, value_name = "NAME:ADDRESS")]
    add_host: Vec<String>,
    /// A name server in the place of the host's.
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<String>,
    #[arg(long, value_name = "DOMAIN")]
    dns_search: Vec<String>,
    #[arg(long, value_name = "OPTION")]
    dns_option: Vec<String>,
    /// A device of the host's, or a directory of them.
    #[arg(long, value_name = "SOURCE[:TARGET[:rwm]]")]
    device: Vec<String>,
    /// A further group of the program, by name or number.
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// host, or container:NAME.
    #[arg(long, value_name = "MODE")]
    pid: Option<String>,
    /// private, shareable, host, or container:NAME.
    #[arg(long, value_name = "MODE")]
    ipc: Option<String>,
    /// host, or container:NAME.
    #[arg(long, value_name = "MODE")]
    uts: Option<String>,
    /// json-file, or none.
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// How much of its output is kept: max-size=10m, max-file=3.
    #[arg(long, value_name = "NAME=VALUE")]
    log_opt: Vec<String>,
    /// -1000 (never killed) to 1000 (killed first).
    #[arg(long, value_name = "SCORE", allow_hyphen_values = true)]
    oom_score_adj: Option<i64>,
    /// A shell's line that says by its exit code whether all is well.
    #[arg(long, value_name = "LINE")]
    health_cmd: Option<String>,
    /// Between checks, such as 30s.
    #[arg(long, value_name = "TIME")]
    health_interval: Option<String>,
    /// What takes longer has failed.
    #[arg(long, value_name = "TIME")]
    health_timeout: Option<String>,
    /// After the start, while failures do not count.
    #[arg(long, value_name = "TIME")]
    health_start_period: Option<String>,
    /// Failures in a row that make it unhealthy.
    #[arg(long, value_name = "N")]
    health_retries: Option<i64>,
    /// Whatever the image says.
    #[arg(long, conflicts_with = "health_cmd")]
    no_healthcheck: bool,
}

impl SurroundingArgs {
    /// Fills in what was said.
    pub fn apply(&self, host: &mut HostConfig) -> anyhow::Result<()> {
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        host.init = self.init.then_some(true);
        host.privileged = self.privileged.then_some(true);
        let ulimits = self.ulimit.iter().map(|text| ulimit(text));
        host.ulimits = Some(ulimits.collect::<anyhow::Result<_>>()?);
        let sysctl = |text: &String| -> anyhow::Result<(String, String)> {
            let (name, value) = text
                .split_once('=')
                .with_context(|| format!("--sysctl {text:?} is not allowed: NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        host.sysctls = Some(self.sysctl.iter().map(sysctl).collect::<anyhow::Result<_>>()?);
        let size = self.shm_size.as_deref();
        let size = size.map(|text| units::parse_bytes("--shm-size", text)).transpose()?;
        host.shm_size = size.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        host.extra_hosts = some(&self.add_host);
        host.dns = some(&self.dns);
        host.dns_search = some(&self.dns_search);
        host.dns_options = some(&self.dns_option);
        host.devices = Some(self.device.iter().map(|text| device(text)).collect());
        host.group_add = some(&self.group_add);
        host.pid_mode = self.pid.clone();
        host.ipc_mode = self.ipc.clone();
        host.uts_mode = self.uts.clone();
        host.oom_score_adj = self.oom_score_adj;
        host.log_config = self.log_config()?;
        Ok(())
    }

    fn log_config(&self) -> anyhow::Result<Option<HostConfigLogConfig>> {
        if self.log_driver.is_none() && self.log_opt.is_empty() {
            return Ok(None);
        }
        let option = |text: &String| -> anyhow::Result<(String, String)> {
            let (name, value) = text
                .split_once('=')
                .with_context(|| format!("--log-opt {text:?} is not allowed: NAME=VALUE"))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        let config = self.log_opt.iter().map(option).collect::<anyhow::Result<_>>()?;
        Ok(Some(HostConfigLogConfig { typ: self.log_driver.clone(), config: Some(config) }))
    }

    /// `None`: the image's alone.
    pub fn health(&self) -> anyhow::Result<Option<HealthConfig>> {
        let time = |flag: &str, text: &Option<String>| -> anyhow::Result<Option<i64>> {
            let Some(text) = text else { return Ok(None) };
            let parsed = duration::parse(text).filter(|time| *time >= Duration::from_millis(1));
            let parsed = parsed.with_context(|| {
                format!("{flag} {text:?} is not allowed: a time of 1 ms or more, such as 5s")
            })?;
            Ok(Some(i64::try_from(parsed.as_nanos()).unwrap_or(i64::MAX)))
        };
        let test = match &self.health_cmd {
            _ if self.no_healthcheck => Some(vec!["NONE".to_owned()]),
            Some(line) => Some(vec!["CMD-SHELL".to_owned(), line.clone()]),
            None => None,
        };
        let health = HealthConfig {
            test,
            interval: time("--health-interval", &self.health_interval)?,
            timeout: time("--health-timeout", &self.health_timeout)?,
            start_period: time("--health-start-period", &self.health_start_period)?,
            retries: self.health_retries,
            ..HealthConfig::default()
        };
        Ok((health != HealthConfig::default()).then_some(health))
    }
}

/// `NAME=SOFT[:HARD]`; one number is both.
fn ulimit(text: &str) -> anyhow::Result<ResourcesUlimits> {
    let refused = || format!("--ulimit {text:?} is not allowed: NAME=SOFT[:HARD], -1 for no limit");
    let (name, numbers) = text.split_once('=').with_context(refused)?;
    let (soft, hard) = numbers.split_once(':').unwrap_or((numbers, numbers));
    let soft = soft.parse::<i64>().with_context(refused)?;
    let hard = hard.parse::<i64>().with_context(refused)?;
    Ok(ResourcesUlimits { name: Some(name.to_owned()), soft: Some(soft), hard: Some(hard) })
}

/// `SOURCE[:TARGET[:PERMISSIONS]]`, or `SOURCE:PERMISSIONS`.
fn device(text: &str) -> DeviceMapping {
    let parts: Vec<&str> = text.splitn(3, ':').collect();
    let (source, target, permissions) = match parts[..] {
        [source, target, permissions] => (source, target, permissions),
        [source, second] if second.starts_with('/') => (source, second, "rwm"),
        [source, permissions] => (source, source, permissions),
        _ => (text, text, "rwm"),
    };
    DeviceMapping {
        path_on_host: Some(source.to_owned()),
        path_in_container: Some(target.to_owned()),
        cgroup_permissions: Some(permissions.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ulimit_is_read_as_docker_reads_it() {
        let numbers = |text: &str| ulimit(text).map(|u| (u.soft.unwrap(), u.hard.unwrap()));
        assert_eq!(numbers("nofile=1:2").unwrap(), (1, 2));
        assert_eq!(numbers("core=-1").unwrap(), (-1, -1));
        for wrong in ["nofile", "nofile=", "nofile=a", "nofile=1:"] {
            let error = format!("{:#}", ulimit(wrong).unwrap_err());
            assert!(error.contains("--ulimit"), "{error}");
        }
    }

    #[test]
    fn a_device_has_a_place_and_permissions() {
        let check = |text: &str, source: &str, target: &str, permissions: &str| {
            let device = device(text);
            assert_eq!(device.path_on_host.as_deref(), Some(source));
            assert_eq!(device.path_in_container.as_deref(), Some(target));
            assert_eq!(device.cgroup_permissions.as_deref(), Some(permissions));
        };
        check("/dev/fuse", "/dev/fuse", "/dev/fuse", "rwm");
        check("/dev/fuse:/dev/x", "/dev/fuse", "/dev/x", "rwm");
        check("/dev/fuse:r", "/dev/fuse", "/dev/fuse", "r");
        check("/dev/fuse:/dev/x:rw", "/dev/fuse", "/dev/x", "rw");
    }

    #[test]
    fn a_check_is_sent_only_if_something_was_said_of_it() {
        assert!(SurroundingArgs::default().health().unwrap().is_none());
        let none = SurroundingArgs { no_healthcheck: true, ..SurroundingArgs::default() };
        assert_eq!(none.health().unwrap().unwrap().test.unwrap(), ["NONE"]);
        let own = SurroundingArgs {
            health_cmd: Some("true".into()),
            health_interval: Some("500ms".into()),
            ..SurroundingArgs::default()
        };
        assert_eq!(own.health().unwrap().unwrap().interval, Some(500_000_000));
        let wrong =
            SurroundingArgs { health_timeout: Some("never".into()), ..SurroundingArgs::default() };
        assert!(format!("{:#}", wrong.health().unwrap_err()).contains("--health-timeout"));
    }
}
