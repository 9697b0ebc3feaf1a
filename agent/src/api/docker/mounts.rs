//! What a container is to have mounted: Docker's four ways to say it become ours. Pure.
//!
//! `Binds` (`-v`), `Mounts` (`--mount`), `Tmpfs` (`--tmpfs`) and `Volumes` (`-v /path`, and
//! what images declare).

use std::collections::HashMap;

use bollard::models::{
    HostConfig, Mount, MountBindOptionsPropagationEnum, MountType, MountVolumeOptions,
};
use tenantry_container::{
    BindRequest, ContainerConfig, Propagation, TmpfsRequest, VolumeRequest, units,
};

use crate::api::error::{ApiError, ApiResult};

/// Fills in `config`'s mounts.
pub fn take(
    host: &HostConfig,
    anonymous: &[String],
    config: &mut ContainerConfig,
) -> ApiResult<()> {
    if let Some(driver) = host.volume_driver.as_deref() {
        check_driver("HostConfig.VolumeDriver", driver)?;
    }
    for text in host.binds.iter().flatten() {
        take_bind(text, config)?;
    }
    for mount in host.mounts.iter().flatten() {
        take_mount(mount, config)?;
    }
    let mut tmpfs: Vec<_> = host.tmpfs.iter().flatten().collect();
    tmpfs.sort();
    for (target, options) in tmpfs {
        config.tmpfs.push(parse_tmpfs(target, options)?);
    }
    for target in anonymous {
        let has = |other: &String| other.trim_end_matches('/') == target.trim_end_matches('/');
        if !config.binds.iter().any(|bind| has(&bind.target))
            && !config.volumes.iter().any(|volume| has(&volume.target))
            && !config.tmpfs.iter().any(|tmpfs| has(&tmpfs.target))
        {
            let target = target.clone();
            config.volumes.push(VolumeRequest { target, ..VolumeRequest::default() });
        }
    }
    config.volumes_from = host.volumes_from.clone().unwrap_or_default();
    Ok(())
}

/// There is one driver: directories of this host.
pub fn check_driver(field: &str, driver: &str) -> ApiResult<()> {
    match driver {
        "" | "local" => Ok(()),
        other => Err(ApiError::invalid(field, other, "local")),
    }
}

/// `SOURCE:TARGET[:OPTIONS]`, or `TARGET` alone.
fn take_bind(text: &str, config: &mut ContainerConfig) -> ApiResult<()> {
    let refused = || {
        let allowed = "[SOURCE|NAME:]TARGET[:OPTIONS], where options are ro, rw, nocopy, z, Z and \
                       [r]private, [r]slave or [r]shared, separated by commas";
        ApiError::invalid("HostConfig.Binds", text, allowed)
    };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, options) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] => (source, target, ""),
        [source, target, options] => (source, target, options),
        _ => return Err(refused()),
    };
    let (mut read_only, mut no_copy, mut propagation) = (false, false, None);
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // There are no SELinux labels here, and nothing is cached.
            "rw" | "z" | "Z" | "cached" | "delegated" | "consistent" => {}
            "nocopy" => no_copy = true,
            other => propagation = Some(parse_propagation(other).ok_or_else(refused)?),
        }
    }
    let target = target.to_owned();
    if source.starts_with('/') {
        let (source, propagation) = (source.to_owned(), propagation.unwrap_or_default());
        config.binds.push(BindRequest { source, target, read_only, propagation });
        return Ok(());
    }
    if source.contains('/') || propagation.is_some() || source.is_empty() && parts.len() > 1 {
        return Err(refused());
    }
    let name = source.to_owned();
    let volume = VolumeRequest { name, target, read_only, no_copy, ..VolumeRequest::default() };
    config.volumes.push(volume);
    Ok(())
}

fn parse_propagation(text: &str) -> Option<Propagation> {
    Some(match text {
        "private" | "rprivate" => Propagation::Private,
        "slave" | "rslave" => Propagation::Slave,
        "shared" | "rshared" => Propagation::Shared,
        _ => return None,
    })
}

fn take_mount(mount: &Mount, config: &mut ContainerConfig) -> ApiResult<()> {
    let target = mount.target.clone().unwrap_or_default();
    let source = mount.source.clone().unwrap_or_default();
    let read_only = mount.read_only.unwrap_or(false);
    match mount.typ {
        Some(MountType::BIND) => {
            use MountBindOptionsPropagationEnum as P;
            let options = mount.bind_options.clone().unwrap_or_default();
            if options.non_recursive == Some(true) {
                let field = "HostConfig.Mounts.BindOptions.NonRecursive";
                return Err(ApiError::unsupported(field, "a mount without those below it"));
            }
            if !source.starts_with('/') {
                let field = "HostConfig.Mounts.Source";
                return Err(ApiError::invalid(field, source, "an absolute path on the host"));
            }
            let propagation = match options.propagation {
                None | Some(P::EMPTY | P::PRIVATE | P::RPRIVATE) => Propagation::Private,
                Some(P::SLAVE | P::RSLAVE) => Propagation::Slave,
                Some(P::SHARED | P::RSHARED) => Propagation::Shared,
            };
            config.binds.push(BindRequest { source, target, read_only, propagation });
        }
        Some(MountType::VOLUME) => {
            let options = mount.volume_options.clone().unwrap_or_default();
            check_volume_options(&options)?;
            config.volumes.push(VolumeRequest {
                name: source,
                target,
                read_only,
                no_copy: options.no_copy.unwrap_or(false),
                labels: options.labels.unwrap_or_default().into_iter().collect(),
                anonymous: false,
            });
        }
        Some(MountType::TMPFS) => {
            if !source.is_empty() {
                let field = "HostConfig.Mounts.Source";
                return Err(ApiError::invalid(field, source, "nothing, for a tmpfs"));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let positive =
                |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
            let mode = positive(options.mode).and_then(|mode| u32::try_from(mode).ok());
            let size_bytes = positive(options.size_bytes);
            let tmpfs = TmpfsRequest { target, size_bytes, mode, read_only, ..Default::default() };
            config.tmpfs.push(tmpfs);
        }
        ref other => {
            let value = other.as_ref().map_or_else(String::new, ToString::to_string);
            let allowed = "bind, volume or tmpfs";
            return Err(ApiError::invalid("HostConfig.Mounts.Type", value, allowed));
        }
    }
    Ok(())
}

fn check_volume_options(options: &MountVolumeOptions) -> ApiResult<()> {
    if options.subpath.as_ref().is_some_and(|path| !path.is_empty()) {
        let field = "HostConfig.Mounts.VolumeOptions.Subpath";
        return Err(ApiError::unsupported(field, "a part of a volume"));
    }
    let Some(driver) = &options.driver_config else { return Ok(()) };
    let field = "HostConfig.Mounts.VolumeOptions.DriverConfig";
    check_driver(field, driver.name.as_deref().unwrap_or_default())?;
    check_driver_options(field, driver.options.as_ref())
}

/// The local driver of Docker's mounts other file systems by these.
pub fn check_driver_options(
    field: &str,
    options: Option<&HashMap<String, String>>,
) -> ApiResult<()> {
    match options.and_then(|options| options.keys().next()) {
        Some(name) => Err(ApiError::unsupported(field, &format!("the driver's option {name}"))),
        None => Ok(()),
    }
}

/// `size=64m,mode=1770,ro,exec,uid=1000`.
fn parse_tmpfs(target: &str, options: &str) -> ApiResult<TmpfsRequest> {
    const FIELD: &str = "HostConfig.Tmpfs";
    let mut tmpfs = TmpfsRequest { target: target.to_owned(), ..TmpfsRequest::default() };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        let allowed = "size=BYTES, mode=OCTAL, uid=N, gid=N, ro, rw, exec, noexec, nosuid, nodev";
        let refused = || ApiError::invalid(FIELD, option, allowed);
        match option.split_once('=').unwrap_or((option, "")) {
            ("size", text) => tmpfs.size_bytes = Some(units::parse_bytes(FIELD, text)?),
            ("mode", text) => {
                tmpfs.mode = Some(u32::from_str_radix(text, 8).map_err(|_| refused())?);
            }
            ("uid", text) => tmpfs.uid = Some(text.parse().map_err(|_| refused())?),
            ("gid", text) => tmpfs.gid = Some(text.parse().map_err(|_| refused())?),
            ("ro", "") => tmpfs.read_only = true,
            ("exec", "") => tmpfs.exec = true,
            ("rw" | "noexec" | "nosuid" | "nodev", "") => {}
            _ => return Err(refused()),
        }
    }
    Ok(tmpfs)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(host: serde_json::Value, anonymous: &[&str]) -> ApiResult<ContainerConfig> {
        let mut config = ContainerConfig::default();
        let anonymous: Vec<String> = anonymous.iter().map(ToString::to_string).collect();
        take(&serde_json::from_value(host).unwrap(), &anonymous, &mut config)?;
        Ok(config)
    }

    #[test]
    fn a_path_is_bound_and_a_name_is_a_volume() {
        let binds = ["/a:/b:ro", "data:/data", "/c:/d:rslave,rw", "more:/e:nocopy,ro", "/f"];
        let config = parse(json!({ "Binds": binds }), &["/data/", "/g"]).unwrap();
        assert!(config.binds[0].read_only && !config.binds[1].read_only);
        assert_eq!(config.binds[1].propagation, Propagation::Slave);
        let volumes: Vec<_> =
            config.volumes.iter().map(|v| (v.name.as_str(), v.target.as_str())).collect();
        assert_eq!(volumes, [("data", "/data"), ("more", "/e"), ("", "/f"), ("", "/g")]);
        assert!(config.volumes[1].read_only && config.volumes[1].no_copy);
    }

    #[test]
    fn mounts_are_of_three_kinds() {
        let mounts = json!([
            { "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true,
              "BindOptions": { "Propagation": "rshared" } },
            { "Type": "volume", "Source": "data", "Target": "/c",
              "VolumeOptions": { "NoCopy": true, "Labels": { "x": "y" } } },
            { "Type": "tmpfs", "Target": "/d", "TmpfsOptions": { "SizeBytes": 4096, "Mode": 448 } },
        ]);
        let tmpfs = json!({ "/e": "size=64k,mode=700,exec,ro" });
        let config = parse(json!({ "Mounts": mounts, "Tmpfs": tmpfs }), &[]).unwrap();
        assert_eq!(config.binds[0].propagation, Propagation::Shared);
        assert_eq!(config.volumes[0].labels["x"], "y");
        let [mounted, short] = &config.tmpfs[..] else { panic!("{:?}", config.tmpfs) };
        assert_eq!((mounted.size_bytes, mounted.mode), (Some(4096), Some(0o700)));
        assert_eq!((short.size_bytes, short.mode), (Some(65_536), Some(0o700)));
        assert!(short.exec && short.read_only && !mounted.exec);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let refused = [
            (json!({ "Binds": ["a:b:c:d"] }), "Binds"),
            (json!({ "Binds": ["./a:/b"] }), "Binds"),
            (json!({ "Binds": ["/a:/b:wo"] }), "Binds"),
            (json!({ "Binds": [":/b"] }), "Binds"),
            (json!({ "VolumeDriver": "nfs" }), "VolumeDriver"),
            (json!({ "Tmpfs": { "/x": "size" } }), "Tmpfs"),
            (json!({ "Mounts": [{ "Type": "cluster", "Target": "/x" }] }), "Type"),
            (
                json!({ "Mounts": [{ "Type": "volume", "Target": "/x",
                "VolumeOptions": { "DriverConfig": { "Options": { "type": "nfs" } } } }] }),
                "type",
            ),
        ];
        for (host, word) in refused {
            let error = parse(host.clone(), &[]).unwrap_err();
            assert!(error.message.contains(word), "{host}: {}", error.message);
        }
    }
}
