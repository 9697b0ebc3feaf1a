//! What of the host, of volumes, secrets and configs a service's containers see.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use bollard_stubs::models::{
    Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountTmpfsOptions, MountType,
    MountVolumeOptions,
};

use super::{Context, Parts, absolute, list};
use crate::error::Result;
use crate::node::{At, Fields};
use crate::units;

/// What a secret or a config is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Absolute.
    File(String),
    Text(String),
}

/// A file that is put into a container before its start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Absolute, in the container.
    pub path: String,
    pub text: String,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
}

/// Reads an entry of `secrets` or `configs`.
pub fn content(
    at: &At<'_>,
    directory: &Path,
    environment: &BTreeMap<String, String>,
) -> Result<Content> {
    let mut fields = at.fields()?;
    let file = fields.string("file")?;
    let text = fields.string("content")?;
    let variable = fields.string("environment")?;
    fields.refuse(&["external"], "not supported: there is no store of secrets here")?;
    fields.ignore(&["name", "labels", "template_driver", "driver", "driver_opts"]);
    fields.finish()?;
    match (file, text, variable) {
        (Some(file), None, None) => Ok(Content::File(absolute(directory, &file))),
        (None, Some(text), None) => Ok(Content::Text(text)),
        (None, None, Some(name)) => match environment.get(&name) {
            Some(value) => Ok(Content::Text(value.clone())),
            None => Err(at.invalid(format!("the variable {name} is not set"))),
        },
        _ => Err(at.invalid("one of file, content and environment is needed")),
    }
}

/// Files to put in, and services whose volumes it has too.
type Further = (Vec<Upload>, Vec<(String, String)>);

pub fn read(fields: &mut Fields<'_>, context: &Context<'_>, parts: &mut Parts) -> Result<Further> {
    let mut binds = Vec::new();
    let mut mounts = Vec::new();
    let mut anonymous = Vec::new();
    if let Some(at) = fields.get("volumes") {
        for at in at.list()? {
            if at.is_map() {
                mounts.push(long(&at, context)?);
            } else if at.text()?.contains(':') {
                binds.push(short(&at, context)?);
            } else {
                anonymous.push(at.string()?);
            }
        }
    }
    let uploads = secrets_and_configs(fields, context, &mut mounts)?;
    let (mut of_services, mut of_containers) = (Vec::new(), Vec::new());
    for text in list(fields, "volumes_from")?.unwrap_or_default() {
        match text.strip_prefix("container:") {
            Some(container) => of_containers.push(container.to_owned()),
            None => {
                let (of, mode) = text.split_once(':').unwrap_or((&text, ""));
                of_services.push((of.to_owned(), mode.to_owned()));
            }
        }
    }
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    parts.body.volumes = some(anonymous);
    parts.host.binds = some(binds);
    parts.host.volumes_from = some(of_containers);
    parts.host.mounts = (!mounts.is_empty()).then_some(mounts);
    parts.host.tmpfs = fields.strings("tmpfs")?.map(|texts| {
        let one = |text: &String| {
            let (path, options) = text.split_once(':').unwrap_or((text, ""));
            (path.to_owned(), options.to_owned())
        };
        texts.iter().map(one).collect::<HashMap<_, _>>()
    });
    fields.refuse(&["volume_driver"], "not supported: name it at the volume")?;
    Ok((uploads, of_services))
}

/// A path of the host, made absolute; or a volume's name on the host.
fn source(at: &At<'_>, text: &str, context: &Context<'_>) -> Result<String> {
    if text.starts_with(['/', '.']) {
        return Ok(absolute(context.directory, text));
    }
    if let Some(rest) = text.strip_prefix('~') {
        let home = context.environment.get("HOME").map_or("/", String::as_str);
        return Ok(format!("{home}{rest}"));
    }
    match context.volumes.get(text) {
        Some(volume) => Ok(volume.name.clone()),
        None => Err(at.invalid(format!(
            "the volume {text:?} is not among the file's volumes; a path begins with / or ./"
        ))),
    }
}

fn short(at: &At<'_>, context: &Context<'_>) -> Result<String> {
    let text = at.text()?;
    let (from, rest) = text.split_once(':').unwrap_or((text, ""));
    let target = rest.split(':').next().unwrap_or_default();
    if rest.matches(':').count() > 1 || !target.starts_with('/') {
        let reason = format!("{text:?} is not allowed: SOURCE:/TARGET[:OPTIONS]");
        return Err(at.invalid(reason));
    }
    Ok(format!("{}:{rest}", source(at, from, context)?))
}

fn long(at: &At<'_>, context: &Context<'_>) -> Result<Mount> {
    let mut fields = at.fields()?;
    let typ = fields.read("type", |at| {
        at.parsed("bind, volume or tmpfs", |text| match text {
            "bind" => Some(MountType::BIND),
            "volume" => Some(MountType::VOLUME),
            "tmpfs" => Some(MountType::TMPFS),
            _ => None,
        })
    })?;
    let typ = typ.ok_or_else(|| at.invalid("type is missing: bind, volume or tmpfs"))?;
    let target = fields.string("target")?;
    let target = target.ok_or_else(|| at.invalid("target is missing: a path in the container"))?;
    let from = match (typ, fields.get("source")) {
        (MountType::BIND, Some(at)) => Some(absolute(context.directory, at.text()?)),
        (MountType::BIND, None) => return Err(at.invalid("source is missing: a path of the host")),
        (_, Some(at)) => Some(source(&at, at.text()?, context)?),
        (_, None) => None,
    };
    let mount = Mount {
        target: Some(target),
        source: from,
        read_only: fields.bool("read_only")?,
        consistency: fields.string("consistency")?,
        bind_options: fields.read("bind", bind_options)?,
        volume_options: fields.read("volume", volume_options)?,
        tmpfs_options: fields.read("tmpfs", tmpfs_options)?,
        typ: Some(typ),
        ..Mount::default()
    };
    fields.refuse(&["image", "cluster"], "not supported")?;
    fields.finish()?;
    Ok(mount)
}

fn bind_options(at: &At<'_>) -> Result<MountBindOptions> {
    use MountBindOptionsPropagationEnum as Propagation;
    let mut fields = at.fields()?;
    let propagation = fields.read("propagation", |at| {
        at.parsed("private, rprivate, shared, rshared, slave or rslave", |text| match text {
            "private" => Some(Propagation::PRIVATE),
            "rprivate" => Some(Propagation::RPRIVATE),
            "shared" => Some(Propagation::SHARED),
            "rshared" => Some(Propagation::RSHARED),
            "slave" => Some(Propagation::SLAVE),
            "rslave" => Some(Propagation::RSLAVE),
            _ => None,
        })
    })?;
    let create_mountpoint = fields.bool("create_host_path")?;
    fields.ignore(&["selinux", "recursive"]);
    fields.finish()?;
    Ok(MountBindOptions { propagation, create_mountpoint, ..MountBindOptions::default() })
}

fn volume_options(at: &At<'_>) -> Result<MountVolumeOptions> {
    let mut fields = at.fields()?;
    let options = MountVolumeOptions {
        no_copy: fields.bool("nocopy")?,
        subpath: fields.string("subpath")?,
        ..MountVolumeOptions::default()
    };
    fields.finish()?;
    Ok(options)
}

fn tmpfs_options(at: &At<'_>) -> Result<MountTmpfsOptions> {
    let mut fields = at.fields()?;
    let options = MountTmpfsOptions {
        size_bytes: fields.read("size", |at| at.parsed(units::BYTES, units::bytes))?,
        mode: fields.read("mode", mode)?.map(i64::from),
        ..MountTmpfsOptions::default()
    };
    fields.finish()?;
    Ok(options)
}

fn mode(at: &At<'_>) -> Result<u32> {
    at.parsed("an octal mode such as 0440", |text| {
        u32::from_str_radix(text.trim_start_matches("0o"), 8).ok().filter(|mode| *mode <= 0o7777)
    })
}

/// A file of the host is mounted, and a text is put in.
fn secrets_and_configs(
    fields: &mut Fields<'_>,
    context: &Context<'_>,
    mounts: &mut Vec<Mount>,
) -> Result<Vec<Upload>> {
    let mut uploads = Vec::new();
    for (field, known, directory) in
        [("secrets", context.secrets, "/run/secrets/"), ("configs", context.configs, "/")]
    {
        let Some(at) = fields.get(field) else { continue };
        for at in at.list()? {
            let (name, path, [uid, gid], mode) = grant(&at, directory)?;
            let content = known
                .get(&name)
                .ok_or_else(|| at.invalid(format!("{name:?} is not among the file's {field}")))?;
            match content {
                Content::File(file) => mounts.push(Mount {
                    target: Some(path),
                    source: Some(file.clone()),
                    typ: Some(MountType::BIND),
                    read_only: Some(true),
                    ..Mount::default()
                }),
                Content::Text(text) => {
                    uploads.push(Upload { path, text: text.clone(), mode, uid, gid });
                }
            }
        }
    }
    Ok(uploads)
}

/// Which one, where it is put, its owner and its mode.
fn grant(at: &At<'_>, directory: &str) -> Result<(String, String, [u64; 2], u32)> {
    let place = |name: &str| match name.starts_with('/') {
        true => name.to_owned(),
        false => format!("{directory}{name}"),
    };
    if at.is_text() {
        let name = at.string()?;
        return Ok((name.clone(), place(&name), [0, 0], 0o444));
    }
    let mut fields = at.fields()?;
    let name = fields.string("source")?;
    let name = name.ok_or_else(|| at.invalid("source is missing"))?;
    let target = fields.string("target")?.unwrap_or_else(|| name.clone());
    let id = |at: &At<'_>| at.number("a number");
    let uid = fields.read("uid", id)?.unwrap_or(0);
    let gid = fields.read("gid", id)?.unwrap_or(0);
    let mode = fields.read("mode", mode)?.unwrap_or(0o444);
    fields.finish()?;
    Ok((name, place(&target), [uid, gid], mode))
}
