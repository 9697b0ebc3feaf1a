//! What a service's containers may do, and what they share with others.

use bollard_stubs::models::{DeviceMapping, HostConfigCgroupnsModeEnum};

use super::{Parts, list, map};
use crate::error::Result;
use crate::node::{At, Fields};

pub fn read(fields: &mut Fields<'_>, parts: &mut Parts) -> Result<()> {
    let host = &mut parts.host;
    host.cap_add = list(fields, "cap_add")?;
    host.cap_drop = list(fields, "cap_drop")?;
    host.privileged = fields.bool("privileged")?;
    host.security_opt = list(fields, "security_opt")?;
    host.userns_mode = fields.string("userns_mode")?;
    host.pid_mode = fields.string("pid")?;
    host.ipc_mode = fields.string("ipc")?;
    host.uts_mode = fields.string("uts")?;
    host.readonly_rootfs = fields.bool("read_only")?;
    host.sysctls = map(fields, "sysctls")?;
    host.cgroup_parent = fields.string("cgroup_parent")?;
    host.cgroupns_mode = fields.read("cgroupns_mode", |at| {
        at.parsed("private or host", |text| match text {
            "private" => Some(HostConfigCgroupnsModeEnum::PRIVATE),
            "host" => Some(HostConfigCgroupnsModeEnum::HOST),
            _ => None,
        })
    })?;
    host.devices = fields.read("devices", |at| at.list()?.iter().map(device).collect())?;
    host.device_cgroup_rules = list(fields, "device_cgroup_rules")?;
    fields.refuse(&["isolation"], "not supported: it is of another operating system")
}

/// `HOST[:CONTAINER[:rwm]]`, or its long form.
fn device(at: &At<'_>) -> Result<DeviceMapping> {
    if at.is_map() {
        let mut fields = at.fields()?;
        let source = fields.string("source")?;
        let mapping = DeviceMapping {
            path_in_container: fields.string("target")?.or_else(|| source.clone()),
            path_on_host: source,
            cgroup_permissions: fields.string("permissions")?.or(Some("rwm".into())),
        };
        fields.finish()?;
        return Ok(mapping);
    }
    at.parsed("HOST[:CONTAINER[:rwm]]", |text| {
        let parts: Vec<&str> = text.split(':').collect();
        let (host, container, permissions) = match parts[..] {
            [host] => (host, host, "rwm"),
            [host, container] => (host, container, "rwm"),
            [host, container, permissions] => (host, container, permissions),
            _ => return None,
        };
        Some(DeviceMapping {
            path_on_host: Some(host.to_owned()),
            path_in_container: Some(container.to_owned()),
            cgroup_permissions: Some(permissions.to_owned()),
        })
    })
}
