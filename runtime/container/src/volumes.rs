//! Volumes: directories with a name that outlive the containers that use them.
//!
//! Owns `volumes/NAME` in the data directory: `_data`, which containers see, and
//! `volume.json`, written whole or not at all. Who uses a volume is not written down: the
//! containers' records say it, and each registers itself here ([`Volumes::claim`]), under the
//! same lock that a removal takes. It must not know what a container is but by its id.
//!
//! A volume whose `volume.json` cannot be read keeps its name and its data; only its labels
//! and its age are lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tenantry_image::remove_tree;
use tokio::sync::broadcast;

use crate::{error::Error, record};

const RECORD: &str = "volume.json";
const DATA: &str = "_data";
const FRESH: &str = "_fresh";
const RUBBISH: &str = ".removed-";
const CHANNEL_EVENTS: usize = 1024;

pub const MOST_VOLUMES: usize = 4096;
const MOST_NAME_BYTES: usize = 255;
const MOST_LABELS: usize = 256;
const MOST_LABEL_BYTES: usize = 64 << 10;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Volume {
    pub name: String,
    pub created_unix_ns: u64,
    pub labels: BTreeMap<String, String>,
    /// Made for one container, without a name of anybody's.
    pub anonymous: bool,
    /// It has had its chance to get what the image has at its place.
    pub populated: bool,
}

/// A volume, and the ids of the containers that use it, running or not.
#[derive(Clone, Debug)]
pub struct VolumeView {
    pub volume: Volume,
    pub users: BTreeSet<String>,
    /// What containers see.
    pub data: PathBuf,
}

/// Docker's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VolumeAction {
    Create,
    Mount,
    Unmount,
    Destroy,
}

impl VolumeAction {
    pub fn as_str(self) -> &'static str {
        match self {
            VolumeAction::Create => "create",
            VolumeAction::Mount => "mount",
            VolumeAction::Unmount => "unmount",
            VolumeAction::Destroy => "destroy",
        }
    }
}

#[derive(Clone, Debug)]
pub struct VolumeEvent {
    pub unix_ns: u64,
    pub action: VolumeAction,
    pub name: String,
    /// Of a mount and an unmount: container, destination, read/write.
    pub attributes: BTreeMap<String, String>,
}

#[derive(Debug)]
pub struct Volumes {
    dir: PathBuf,
    known: Mutex<BTreeMap<String, Known>>,
    /// Held while a new volume is filled: its second user waits for the first.
    filling: Mutex<()>,
    events: broadcast::Sender<VolumeEvent>,
}

#[derive(Debug, Default)]
struct Known {
    volume: Volume,
    users: BTreeSet<String>,
}

/// `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, as of containers.
pub fn check_name(name: &str) -> Result<(), Error> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
    if first && rest && (2..=MOST_NAME_BYTES).contains(&name.len()) {
        return Ok(());
    }
    let allowed = format!("2 to {MOST_NAME_BYTES} of [a-zA-Z0-9_.-], the first a letter or digit");
    Err(Error::invalid("volume name", name, allowed))
}

impl Volumes {
    /// Reads what there is, and clears what a removal has left.
    pub fn open(dir: PathBuf) -> Result<Self, Error> {
        make_directory(&dir, 0o711).or_else(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => Ok(()),
            _ => Err(failed("make directory", &dir)(error)),
        })?;
        let mut known = BTreeMap::new();
        for entry in fs::read_dir(&dir).map_err(failed("read", &dir))? {
            let path = entry.map_err(failed("read", &dir))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with(RUBBISH) || !path.join(DATA).is_dir() {
                if let Err(error) = remove_tree(&path) {
                    tracing::warn!(path = %path.display(), %error, "rubbish not removed");
                }
                continue;
            }
            let volume = record::read_json::<Volume>(&path.join(RECORD)).unwrap_or_else(|error| {
                tracing::error!(volume = name, %error, "volume's record is unreadable");
                Volume { populated: true, ..Volume::default() }
            });
            let volume = Volume { name: name.clone(), ..volume };
            known.insert(name, Known { volume, users: BTreeSet::new() });
        }
        let events = broadcast::channel(CHANNEL_EVENTS).0;
        Ok(Self { dir, known: Mutex::new(known), filling: Mutex::default(), events })
    }

    /// Volume events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<VolumeEvent> {
        self.events.subscribe()
    }

    pub fn list(&self) -> Vec<VolumeView> {
        self.known().values().map(|known| self.view(known)).collect()
    }

    pub fn get(&self, name: &str) -> Result<VolumeView, Error> {
        let known = self.known();
        let found = known.get(name).ok_or_else(|| no_such(name))?;
        Ok(self.view(found))
    }

    /// What is there already under this name is no error, and stays as it is.
    pub fn create(&self, volume: Volume) -> Result<VolumeView, Error> {
        let mut known = self.known();
        let name = volume.name.clone();
        self.ensure(&mut known, volume)?;
        Ok(self.view(&known[&name]))
    }

    /// Registers a container as a user of these volumes; missing ones are made.
    ///
    /// # Errors
    /// As of [`Volumes::create`]. The caller releases what was claimed before.
    pub fn claim(&self, user: &str, volumes: impl Iterator<Item = Volume>) -> Result<(), Error> {
        let mut known = self.known();
        for volume in volumes {
            let name = volume.name.clone();
            self.ensure(&mut known, volume)?;
            if let Some(known) = known.get_mut(&name) {
                known.users.insert(user.to_owned());
            }
        }
        Ok(())
    }

    /// The container is gone; with `anonymous` go those that nobody else uses and nobody named.
    /// One that cannot be removed stays listed and is logged.
    pub fn release(&self, user: &str, anonymous: bool) {
        let mut known = self.known();
        let mut orphans = Vec::new();
        for entry in known.values_mut() {
            if entry.users.remove(user) && entry.users.is_empty() && entry.volume.anonymous {
                orphans.push(entry.volume.name.clone());
            }
        }
        for name in orphans.into_iter().filter(|_| anonymous) {
            if let Err(error) = self.destroy(&mut known, &name) {
                tracing::error!(volume = name, error = error.chain(), "volume left behind");
            }
        }
    }

    /// # Errors
    /// [`Error::Conflict`] while a container uses it.
    pub fn remove(&self, name: &str) -> Result<(), Error> {
        let mut known = self.known();
        let entry = known.get(name).ok_or_else(|| no_such(name))?;
        if !entry.users.is_empty() {
            let users: Vec<&str> = entry.users.iter().map(String::as_str).collect();
            let users = users.join(", ");
            return Err(Error::Conflict(format!("remove {name}: volume is in use - [{users}]")));
        }
        self.destroy(&mut known, name)
    }

    /// Lets a volume's first user fill it, if it is empty: `fill` makes a directory of the name
    /// that it is given, or says that there is nothing. What was filled half-way is never seen.
    pub fn populate(
        &self,
        name: &str,
        fill: impl FnOnce(&Path) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let _one_at_a_time = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        if self.get(name)?.volume.populated {
            return Ok(());
        }
        let data = self.data(name);
        if fs::read_dir(&data).map_err(failed("read", &data))?.next().is_none() {
            let fresh = self.dir.join(name).join(FRESH);
            match remove_tree(&fresh) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &fresh)(error));
                }
                _ => {}
            }
            if fill(&fresh)? {
                fs::rename(&fresh, &data).map_err(failed("rename", &fresh))?;
            }
        }
        let mut known = self.known();
        let Some(entry) = known.get_mut(name) else { return Ok(()) };
        entry.volume.populated = true;
        self.persist(&entry.volume)
    }

    /// What containers see.
    pub fn data(&self, name: &str) -> PathBuf {
        self.dir.join(name).join(DATA)
    }

    pub(crate) fn tell(&self, action: VolumeAction, name: &str, attributes: &[(&str, &str)]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        // Nobody may be listening.
        let _ = self.events.send(VolumeEvent {
            unix_ns: now.as_nanos() as u64,
            action,
            name: name.to_owned(),
            attributes: attributes.iter().map(owned).collect(),
        });
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn view(&self, known: &Known) -> VolumeView {
        let data = self.data(&known.volume.name);
        VolumeView { volume: known.volume.clone(), users: known.users.clone(), data }
    }

    fn ensure(&self, known: &mut BTreeMap<String, Known>, volume: Volume) -> Result<(), Error> {
        if known.contains_key(&volume.name) {
            return Ok(());
        }
        check_name(&volume.name)?;
        let bytes: usize = volume.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
        if volume.labels.len() > MOST_LABELS || bytes > MOST_LABEL_BYTES {
            let allowed = format!("at most {MOST_LABELS}, of {MOST_LABEL_BYTES} bytes together");
            return Err(Error::invalid("labels", volume.labels.len(), allowed));
        }
        if known.len() >= MOST_VOLUMES {
            return Err(Error::Conflict(format!("there are {MOST_VOLUMES} volumes, the most")));
        }
        let dir = self.dir.join(&volume.name);
        // The data come last: without them it is the rubbish of a creation that was cut short.
        make_directory(&dir, 0o711).map_err(failed("make directory", &dir))?;
        let data = dir.join(DATA);
        let made = self
            .persist(&volume)
            .and_then(|()| make_directory(&data, 0o755).map_err(failed("make directory", &data)));
        if let Err(error) = made {
            // What cannot be removed is cleared at the next start.
            let _ = remove_tree(&dir);
            return Err(error);
        }
        let name = volume.name.clone();
        known.insert(name.clone(), Known { volume, users: BTreeSet::new() });
        self.tell(VolumeAction::Create, &name, &[("driver", "local")]);
        Ok(())
    }

    fn persist(&self, volume: &Volume) -> Result<(), Error> {
        let path = self.dir.join(&volume.name).join(RECORD);
        record::write_json(&path, volume, true).map_err(failed("write", &path))
    }

    /// The name goes by one rename: what follows may be cut short.
    fn destroy(&self, known: &mut BTreeMap<String, Known>, name: &str) -> Result<(), Error> {
        let dir = self.dir.join(name);
        let rubbish = self.dir.join(format!("{RUBBISH}{name}"));
        match fs::rename(&dir, &rubbish) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("rename", &dir)(error));
            }
            _ => {}
        }
        known.remove(name);
        self.tell(VolumeAction::Destroy, name, &[("driver", "local")]);
        match remove_tree(&rubbish) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &rubbish)(error))
            }
            _ => Ok(()),
        }
    }
}

fn no_such(name: &str) -> Error {
    Error::NoVolume { name: name.to_owned() }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)
}

fn failed<'a>(operation: &'a str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |error| Error::failed(format!("{operation} {}", path.display()), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, anonymous: bool) -> Volume {
        Volume { name: name.to_owned(), anonymous, ..Volume::default() }
    }

    #[test]
    fn volumes_and_their_data_are_there_when_they_are_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("volumes");
        let volumes = Volumes::open(path.clone()).unwrap();
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        volumes.create(Volume { labels: labels.clone(), ..named("data", false) }).unwrap();
        fs::write(volumes.data("data").join("file"), "kept").unwrap();
        // What a killed agent leaves: a creation and a removal half done.
        fs::create_dir(path.join("half")).unwrap();
        fs::create_dir_all(path.join(".removed-old/_data")).unwrap();
        let again = Volumes::open(path.clone()).unwrap();
        assert_eq!(again.list().len(), 1);
        assert_eq!(again.get("data").unwrap().volume.labels, labels);
        assert_eq!(fs::read_to_string(again.data("data").join("file")).unwrap(), "kept");
        assert_eq!(fs::read_dir(&path).unwrap().count(), 1);
        fs::write(path.join("data").join(RECORD), "{").unwrap();
        let damaged = Volumes::open(path).unwrap();
        assert!(damaged.get("data").unwrap().data.join("file").exists());
    }

    #[test]
    fn a_volume_in_use_stays_and_an_orphan_without_a_name_goes() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path().join("volumes")).unwrap();
        let both = || [named("data", false), named("0f0f", true)].into_iter();
        volumes.claim("one", both()).unwrap();
        volumes.claim("two", both()).unwrap();
        assert!(matches!(volumes.remove("data"), Err(Error::Conflict(_))));
        volumes.release("one", true);
        assert_eq!(volumes.list().len(), 2, "two uses them");
        volumes.release("two", true);
        let left: Vec<String> = volumes.list().into_iter().map(|view| view.volume.name).collect();
        assert_eq!(left, ["data"]);
        volumes.remove("data").unwrap();
        assert!(matches!(volumes.remove("data"), Err(Error::NoVolume { .. })));
        assert_eq!(fs::read_dir(dir.path().join("volumes")).unwrap().count(), 0);
    }

    #[test]
    fn only_an_empty_volume_is_filled_and_only_once() {
        let dir = tempfile::tempdir().unwrap();
        let volumes = Volumes::open(dir.path().join("volumes")).unwrap();
        let fill = |text: &'static str| {
            move |fresh: &Path| {
                fs::create_dir(fresh).unwrap();
                fs::write(fresh.join("file"), text).unwrap();
                Ok(true)
            }
        };
        let read = |name: &str| fs::read_to_string(volumes.data(name).join("file")).unwrap();
        volumes.create(named("fresh", false)).unwrap();
        let cut_short = volumes.populate("fresh", |fresh| {
            fs::create_dir(fresh).unwrap();
            Err(Error::failed("copy", "the disk is full"))
        });
        assert!(cut_short.is_err());
        volumes.populate("fresh", fill("first")).unwrap();
        volumes.populate("fresh", |_| panic!("it is filled")).unwrap();
        assert_eq!(read("fresh"), "first");
        volumes.create(named("used", false)).unwrap();
        fs::write(volumes.data("used").join("file"), "own").unwrap();
        volumes.populate("used", |_| panic!("it is not empty")).unwrap();
        assert_eq!(read("used"), "own");
    }

    #[test]
    fn a_name_is_no_path() {
        for wrong in ["", "a", "../etc", "a/b", ".hidden", "-x"] {
            assert!(check_name(wrong).is_err(), "{wrong}");
        }
        assert!(check_name("my_data-1.2").is_ok());
    }
}
