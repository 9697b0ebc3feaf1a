//! The volumes of one container: which it gets, what is in them at first, when they go.
//!
//! Owns the merge of what was asked for, what other containers have and what the image
//! declares, and the copy of the image's files into a new volume. The volumes themselves are
//! [`crate::volumes`]'.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use tenantry_image::{Limits, Packing, pack_tree, unpack_archive};

use super::{Shared, create, files, unix_ns};
use crate::{
    config::{ContainerConfig, VolumeRequest},
    error::Error,
    names,
    overlay::with_root,
    record::Record,
    volumes::{Volume, VolumeAction},
};

/// Adds what other containers have, then what the image declares; a place that has something
/// already keeps it. Everything has a name afterwards.
pub(super) fn resolve(
    shared: &Shared,
    config: &mut ContainerConfig,
    of_image: &[String],
) -> Result<(), Error> {
    for from in config.volumes_from.clone() {
        let (name, read_only) = match from.rsplit_once(':') {
            Some((name, "ro")) => (name, true),
            Some((name, "rw")) => (name, false),
            _ => (from.as_str(), false),
        };
        let other = shared.find(name)?.snapshot().record.config.clone();
        for mut bind in other.binds {
            bind.read_only |= read_only;
            if is_free(config, &bind.target) {
                config.binds.push(bind);
            }
        }
        for mut volume in other.volumes {
            volume.read_only |= read_only;
            if is_free(config, &volume.target) {
                config.volumes.push(volume);
            }
        }
    }
    for target in of_image {
        if target.starts_with('/') && is_free(config, target) {
            config.volumes.push(VolumeRequest { target: target.clone(), ..Default::default() });
        }
    }
    for volume in config.volumes.iter_mut().filter(|volume| volume.name.is_empty()) {
        volume.name = names::random_id()?;
        volume.anonymous = true;
    }
    crate::config::check_mounts(config)
}

fn is_free(config: &ContainerConfig, target: &str) -> bool {
    let same = |other: &String| other.trim_end_matches('/') == target.trim_end_matches('/');
    !config.binds.iter().any(|bind| same(&bind.target))
        && !config.volumes.iter().any(|volume| same(&volume.target))
        && !config.tmpfs.iter().any(|tmpfs| same(&tmpfs.target))
}

/// Registers the container as their user; makes those that are missing.
pub(super) fn claim(shared: &Shared, record: &Record) -> Result<(), Error> {
    let wanted = record.config.volumes.iter().map(|used| Volume {
        name: used.name.clone(),
        created_unix_ns: unix_ns(),
        labels: used.labels.clone(),
        anonymous: used.anonymous,
        populated: false,
    });
    shared.volumes.claim(&record.id, wanted)
}

/// New volumes get what the image has at their places.
pub(super) fn populate(shared: &Shared, record: &Record, dir: &Path) -> Result<(), Error> {
    for used in &record.config.volumes {
        shared.volumes.populate(&used.name, |fresh| {
            let mapping = create::id_mapping(&shared.config, record);
            let shift = mapping.map(|mapping| mapping.host_base);
            let copied = !used.no_copy && copy(record, dir, &used.target, fresh)?;
            if !copied && shift.is_some() {
                fs::create_dir(fresh).map_err(failed("make directory", fresh))?;
            }
            if let Some(base) = shift {
                shift_owners(fresh, base).map_err(failed("chown", fresh))?;
            }
            Ok(copied || shift.is_some())
        })?;
    }
    Ok(())
}

/// From the container's root to a directory that does not exist yet. `false`: nothing is there.
fn copy(record: &Record, dir: &Path, target: &str, fresh: &Path) -> Result<bool, Error> {
    let overlay = files::overlay_of(record, dir);
    let copied = with_root(&overlay, |root| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let within = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let place = match rustix::fs::openat2(root, target, flags, Mode::empty(), within) {
            Ok(place) => place,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(false),
            Err(errno) => return Err(Error::failed(format!("open {target}"), errno)),
        };
        let what = format!("the image's {target}");
        let limits = Limits::default();
        let (read, write) = io::pipe().map_err(failed("make a pipe for", fresh))?;
        let unpacked = std::thread::scope(|scope| {
            let unpack = scope.spawn(|| unpack_archive(&what, read, fresh, &limits));
            let packing = Packing { what: &what, limits: &limits, owners: None, one_mount: true };
            let packed = pack_tree(&packing, &place, None, ".".as_ref(), io::BufWriter::new(write));
            // Whoever stopped first knows why.
            let unpacked = unpack.join().map_err(|_| Error::failed("unpack", "it panicked"))?;
            unpacked.and(packed).map_err(|e| Error::failed(format!("copy {what}"), e))
        });
        unpacked.map(|()| true)
    });
    copied.map_err(|e| Error::failed("mount the image", e))?
}

/// The container's owners as the host has them.
fn shift_owners(path: &Path, base: u32) -> io::Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    let host = |id: u32| Some(base.saturating_add(id));
    std::os::unix::fs::lchown(path, host(metadata.uid()), host(metadata.gid()))?;
    if !metadata.is_symlink() {
        // chown has taken set-id bits away.
        fs::set_permissions(path, metadata.permissions())?;
    }
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            shift_owners(&entry?.path(), base)?;
        }
    }
    Ok(())
}

/// The events of a start or an end.
pub(super) fn tell(shared: &Shared, record: &Record, action: VolumeAction) {
    for used in &record.config.volumes {
        let access = if used.read_only { "false" } else { "true" };
        let mut attributes = vec![("container", record.id.as_str()), ("driver", "local")];
        if action == VolumeAction::Mount {
            attributes.push(("destination", used.target.as_str()));
            attributes.push(("read/write", access));
            attributes.push(("propagation", ""));
        }
        shared.volumes.tell(action, &used.name, &attributes);
    }
}

fn failed<'a>(operation: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| Error::failed(format!("{operation} {}", path.display()), error)
}

/// What the container sees of each of its volumes.
pub(super) fn sources(shared: &Shared, record: &Record) -> Vec<PathBuf> {
    record.config.volumes.iter().map(|used| shared.volumes.data(&used.name)).collect()
}
