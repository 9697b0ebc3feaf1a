//! Networks on disk: one file each, whole or not at all.
//!
//! Owns a directory of the agent's. A file that cannot be read is set aside by renaming and
//! told, and the others go on.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::record::{NetworkRecord, VERSION};
use crate::error::{Error, Result};

/// Longer than any record may become.
const MOST_FILE_BYTES: u64 = 1 << 20;
const PREDEFINED: &str = "predefined.json";

/// The ids of those that are always there.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Predefined {
    pub created_unix_ns: u64,
    pub bridge: String,
    pub host: String,
    pub none: String,
}

#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
}

impl Store {
    pub fn open(dir: PathBuf) -> Result<Store> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(|e| Error::io("make directory", dir.display().to_string(), e))?;
        Ok(Store { dir })
    }

    /// `new` the first time.
    pub fn predefined(&self, new: impl FnOnce() -> Result<Predefined>) -> Result<Predefined> {
        let path = self.dir.join(PREDEFINED);
        if let Ok(known) = read(&path) {
            return Ok(known);
        }
        let new = new()?;
        write(&path, &new)?;
        Ok(new)
    }

    /// All that users made, at most `most`.
    pub fn read_all(&self, most: usize) -> Result<Vec<NetworkRecord>> {
        let failed = |e| Error::io("read", self.dir.display().to_string(), e);
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let is_record = path.extension().is_some_and(|end| end == "json")
                && path.file_name().is_some_and(|name| name != PREDEFINED);
            if !is_record {
                continue;
            }
            let record = read::<NetworkRecord>(&path).and_then(|record| self.judge(record, &path));
            match record {
                Ok(record) if records.len() < most => records.push(record),
                Ok(record) => tracing::error!(network = record.name, most, "one network too many"),
                Err(error) => {
                    let aside = path.with_extension("unreadable");
                    let moved = fs::rename(&path, &aside).is_ok();
                    tracing::error!(path = %path.display(), %error, moved, "network set aside");
                }
            }
        }
        Ok(records)
    }

    fn judge(&self, record: NetworkRecord, path: &Path) -> io::Result<NetworkRecord> {
        let wrong = |why: String| Err(io::Error::other(why));
        if record.version != VERSION {
            return wrong(format!("version {}, this agent writes {VERSION}", record.version));
        }
        if self.path(&record.id) != path {
            return wrong(format!("it says its id is {}", record.id));
        }
        match record.config().map(|config| config.validate()) {
            Some(Ok(())) => Ok(record),
            Some(Err(error)) => wrong(error.to_string()),
            None => wrong("it has no bridge or no subnet".to_owned()),
        }
    }

    pub fn write(&self, record: &NetworkRecord) -> Result<()> {
        write(&self.path(&record.id), record)
    }

    pub fn remove(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::io("remove", path.display().to_string(), e))
            }
            _ => Ok(()),
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{id}.json"))
    }
}

fn read<T: serde::de::DeserializeOwned>(path: &Path) -> io::Result<T> {
    let length = fs::metadata(path)?.len();
    if length > MOST_FILE_BYTES {
        return Err(io::Error::other(format!("{length} bytes long")));
    }
    serde_json::from_slice(&fs::read(path)?).map_err(io::Error::from)
}

/// A reader sees it whole or not at all, also across a power loss.
fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let written = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(&serde_json::to_vec_pretty(value)?)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    })();
    if written.is_err() {
        // On a full disk a half would stay.
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(|e: io::Error| Error::io("write", path.display().to_string(), e))
}
