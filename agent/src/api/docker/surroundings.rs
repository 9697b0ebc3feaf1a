//! What a program finds around it: Docker's words for limits of processes, kernel settings,
//! devices, hosts, name servers, groups, namespaces and health become ours. Pure.

use std::net::IpAddr;

use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigIsolationEnum,
};
use tenantry_container::{
    ContainerConfig, DeviceRequest, HealthWish, NamespaceMode, Resolver, Ulimit, devices,
};

use crate::api::error::{ApiError, ApiResult};

/// What is not served, and what of it is asked for. A field at its default is let pass, because
/// the stock client sends all of them.
pub fn refuse_what_is_missing(body: &ContainerCreateBody, host: &HostConfig) -> ApiResult<()> {
    let some = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let text = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let positive = |number: Option<i64>| number.is_some_and(|number| number > 0);
    let asked = [
        (
            "HostConfig.BlkioWeightDevice",
            host.blkio_weight_device.as_ref().is_some_and(|list| !list.is_empty()),
        ),
        ("HostConfig.CpuRealtimePeriod", positive(host.cpu_realtime_period)),
        ("HostConfig.CpuRealtimeRuntime", positive(host.cpu_realtime_runtime)),
        ("HostConfig.CpusetMems", text(&host.cpuset_mems)),
        ("HostConfig.MemorySwappiness", host.memory_swappiness.is_some_and(|n| n >= 0)),
        ("HostConfig.CgroupParent", text(&host.cgroup_parent)),
        ("HostConfig.CgroupnsMode", host.cgroupns_mode == Some(HostConfigCgroupnsModeEnum::HOST)),
        // No device node that a container makes can be opened, so there is nothing to rule.
        ("HostConfig.DeviceCgroupRules", some(&host.device_cgroup_rules)),
        (
            "HostConfig.DeviceRequests",
            host.device_requests.as_ref().is_some_and(|list| !list.is_empty()),
        ),
        (
            "HostConfig.StorageOpt",
            host.storage_opt.as_ref().is_some_and(|options| !options.is_empty()),
        ),
        (
            "HostConfig.Runtime",
            host.runtime.as_deref().is_some_and(|name| !matches!(name, "" | "tenantry")),
        ),
        (
            "HostConfig.Isolation",
            !matches!(
                host.isolation,
                None | Some(HostConfigIsolationEnum::EMPTY | HostConfigIsolationEnum::DEFAULT)
            ),
        ),
        ("Domainname", text(&body.domainname)),
        ("NetworkDisabled", body.network_disabled == Some(true)),
    ];
    match asked.into_iter().find(|(_, asked)| *asked) {
        Some((field @ "HostConfig.BlkioWeightDevice", _)) => {
            let what = "a weight for one disk (BlkioWeight is for all of them)";
            Err(ApiError::unsupported(field, what))
        }
        Some((field, _)) => Err(ApiError::unsupported(field, "this")),
        None => Ok(()),
    }
}

/// Fills in what `host` says of it.
pub fn take(host: &HostConfig, config: &mut ContainerConfig) -> ApiResult<()> {
    config.privileged = host.privileged.unwrap_or(false);
    config.init = host.init.unwrap_or(false);
    config.ulimits = ulimits(host)?;
    config.sysctls = host.sysctls.clone().unwrap_or_default().into_iter().collect();
    config.shm_size_bytes = match host.shm_size.unwrap_or(0) {
        0 => None,
        size => Some(
            u64::try_from(size)
                .map_err(|_| ApiError::invalid("HostConfig.ShmSize", size, "0 (64 MiB) or more"))?,
        ),
    };
    config.extra_hosts = host.extra_hosts.clone().unwrap_or_default();
    config.resolver = resolver(host)?;
    config.devices = devices(host)?;
    config.group_add = host.group_add.clone().unwrap_or_default();
    config.masked_paths = host.masked_paths.clone();
    config.read_only_paths = host.readonly_paths.clone();
    config.pid = namespace("HostConfig.PidMode", host.pid_mode.as_deref(), false)?;
    config.ipc = namespace("HostConfig.IpcMode", host.ipc_mode.as_deref(), true)?;
    config.uts = namespace("HostConfig.UTSMode", host.uts_mode.as_deref(), false)?;
    Ok(())
}

fn ulimits(host: &HostConfig) -> ApiResult<Vec<Ulimit>> {
    let wanted = host.ulimits.iter().flatten().map(|ulimit| -> ApiResult<Ulimit> {
        let name = ulimit.name.clone().unwrap_or_default();
        let missing = |which: &str| {
            let allowed = format!("a name with Soft and Hard: {which} is missing");
            ApiError::invalid("HostConfig.Ulimits", &name, allowed)
        };
        let soft = ulimit.soft.ok_or_else(|| missing("Soft"))?;
        let hard = ulimit.hard.ok_or_else(|| missing("Hard"))?;
        Ok(Ulimit { name, soft, hard })
    });
    wanted.collect()
}

fn resolver(host: &HostConfig) -> ApiResult<Resolver> {
    let address = |text: &String| {
        let allowed = "the address of a name server";
        text.parse::<IpAddr>().map_err(|_| ApiError::invalid("HostConfig.Dns", text, allowed))
    };
    Ok(Resolver {
        servers: host.dns.iter().flatten().map(address).collect::<ApiResult<_>>()?,
        search: host.dns_search.clone().unwrap_or_default(),
        options: host.dns_options.clone().unwrap_or_default(),
    })
}

fn devices(host: &HostConfig) -> ApiResult<Vec<DeviceRequest>> {
    let wanted = host.devices.iter().flatten().map(|device| -> ApiResult<DeviceRequest> {
        devices::check_permissions(device.cgroup_permissions.as_deref().unwrap_or_default())?;
        let source = device.path_on_host.clone().unwrap_or_default();
        let target = device.path_in_container.clone().filter(|path| !path.is_empty());
        let target = target.unwrap_or_else(|| source.clone());
        Ok(DeviceRequest { source, target })
    });
    wanted.collect()
}

fn namespace(field: &str, mode: Option<&str>, is_ipc: bool) -> ApiResult<NamespaceMode> {
    match mode.unwrap_or_default() {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        "shareable" if is_ipc => Ok(NamespaceMode::Shareable),
        other => match other.strip_prefix("container:") {
            Some(reference) => Ok(NamespaceMode::Container(reference.to_owned())),
            None => {
                let shareable = if is_ipc { "shareable, " } else { "" };
                let allowed = format!("private, {shareable}host or container:NAME");
                Err(ApiError::invalid(field, other, allowed))
            }
        },
    }
}

/// What is not said is the image's.
pub fn health(wanted: Option<HealthConfig>) -> Option<HealthWish> {
    wanted.map(|wanted| HealthWish {
        test: wanted.test.unwrap_or_default(),
        interval: wanted.interval.unwrap_or(0),
        timeout: wanted.timeout.unwrap_or(0),
        start_period: wanted.start_period.unwrap_or(0),
        start_interval: wanted.start_interval.unwrap_or(0),
        retries: wanted.retries.unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn taken(host: Value) -> ApiResult<ContainerConfig> {
        let host: HostConfig = serde_json::from_value(host).unwrap();
        let mut config = ContainerConfig::default();
        take(&host, &mut config)?;
        Ok(config)
    }

    #[test]
    fn dockers_words_become_a_containers_surroundings() {
        let config = taken(json!({
            "Init": true, "ShmSize": 1_048_576, "GroupAdd": ["audio", "7"],
            "Ulimits": [{ "Name": "nofile", "Soft": 10, "Hard": -1 }],
            "Sysctls": { "net.core.somaxconn": "9" },
            "ExtraHosts": ["db:10.0.0.7"], "Dns": ["9.9.9.9"], "DnsSearch": ["a.example"],
            "DnsOptions": ["rotate"], "PidMode": "container:web", "IpcMode": "shareable",
            "UTSMode": "host", "MaskedPaths": [],
            "Devices": [
                { "PathOnHost": "/dev/fuse", "PathInContainer": "", "CgroupPermissions": "rwm" },
            ],
        }))
        .unwrap();
        assert!(config.init && !config.privileged);
        assert_eq!(config.shm_size_bytes, Some(1 << 20));
        assert_eq!(config.group_add, ["audio", "7"]);
        assert_eq!(config.ulimits, [Ulimit { name: "nofile".into(), soft: 10, hard: -1 }]);
        assert_eq!(config.sysctls["net.core.somaxconn"], "9");
        assert_eq!(config.extra_hosts, ["db:10.0.0.7"]);
        assert_eq!(config.resolver.servers.len(), 1);
        assert_eq!(config.resolver.search, ["a.example"]);
        assert_eq!(config.resolver.options, ["rotate"]);
        assert_eq!(config.pid, NamespaceMode::Container("web".into()));
        assert_eq!(config.ipc, NamespaceMode::Shareable);
        assert_eq!(config.uts, NamespaceMode::Host);
        assert_eq!(config.devices[0].target, "/dev/fuse");
        assert_eq!((config.masked_paths, config.read_only_paths), (Some(vec![]), None));
    }

    #[test]
    fn what_the_stock_client_sends_by_default_asks_for_nothing() {
        let config = taken(json!({
            "Init": null, "ShmSize": 0, "Ulimits": [], "Dns": [], "DnsOptions": [],
            "DnsSearch": [], "ExtraHosts": null, "GroupAdd": null, "PidMode": "", "IpcMode": "",
            "UTSMode": "", "MaskedPaths": null, "ReadonlyPaths": null, "Devices": [],
        }))
        .unwrap();
        assert_eq!(config, ContainerConfig::default());
        let host = json!({
            "CgroupParent": "", "CgroupnsMode": "", "Isolation": "", "Runtime": "",
            "MemorySwappiness": -1, "DeviceCgroupRules": null, "DeviceRequests": null,
            "BlkioWeightDevice": [], "CpusetMems": "", "Links": null,
        });
        let host = serde_json::from_value(host).unwrap();
        assert!(refuse_what_is_missing(&ContainerCreateBody::default(), &host).is_ok());
    }

    #[test]
    fn a_wrong_value_is_named_with_its_field() {
        for (host, field) in [
            (json!({ "Dns": ["dns.example"] }), "HostConfig.Dns"),
            (json!({ "ShmSize": -1 }), "HostConfig.ShmSize"),
            (json!({ "PidMode": "shareable" }), "HostConfig.PidMode"),
            (json!({ "IpcMode": "none" }), "HostConfig.IpcMode"),
            (json!({ "Ulimits": [{ "Name": "core", "Soft": 1 }] }), "HostConfig.Ulimits"),
        ] {
            let error = taken(host).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
        }
        let one = json!([{ "PathOnHost": "/dev/fuse", "CgroupPermissions": "r" }]);
        let error = taken(json!({ "Devices": one })).unwrap_err();
        assert!(error.message.contains("permissions"), "{}", error.message);
    }

    #[test]
    fn what_is_missing_is_refused_by_name() {
        for (host, field) in [
            (json!({ "CpusetMems": "0" }), "CpusetMems"),
            (json!({ "CgroupnsMode": "host" }), "CgroupnsMode"),
            (json!({ "DeviceCgroupRules": ["c 1:3 rwm"] }), "DeviceCgroupRules"),
            (json!({ "Runtime": "runc" }), "Runtime"),
        ] {
            let host = serde_json::from_value(host).unwrap();
            let body = ContainerCreateBody::default();
            let error = refuse_what_is_missing(&body, &host).unwrap_err();
            assert!(error.message.contains(field), "{}", error.message);
        }
    }
}
