//! The cache: what a step's key led to, in one small file.
//!
//! Owns the file `cache.json`. It is a memory and no truth: an entry whose image is gone
//! is a miss, and a file that is damaged is an empty one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use tenantry_build::key::Key;

pub(super) const FILE: &str = "cache.json";
const VERSION: u32 = 1;
/// Beyond, those that were not used for the longest time are forgotten.
const MOST_ENTRIES: usize = 10_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    /// The image that the step made; `None` if it changed the configuration alone, which
    /// goes into the next image.
    pub image: Option<String>,
    /// Counts uses, of all entries: the lower, the longer ago.
    used: u64,
}

#[derive(Debug)]
pub(super) struct Cache {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    uses: u64,
    changed: bool,
}

impl Cache {
    pub fn read(path: PathBuf) -> Cache {
        let entries = match tenantry_container::record::read_json::<File>(&path) {
            Ok(file) if file.version == VERSION => file.entries,
            Ok(file) => {
                tracing::warn!(version = file.version, "build cache of another version, dropped");
                BTreeMap::new()
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "build cache is damaged, dropped");
                BTreeMap::new()
            }
        };
        let uses = entries.values().map(|entry| entry.used).max().unwrap_or(0);
        Cache { path, entries, uses, changed: false }
    }

    pub fn get(&mut self, key: &Key) -> Option<Option<String>> {
        self.uses += 1;
        let entry = self.entries.get_mut(key.as_str())?;
        entry.used = self.uses;
        self.changed = true;
        Some(entry.image.clone())
    }

    pub fn forget(&mut self, key: &Key) {
        self.changed |= self.entries.remove(key.as_str()).is_some();
    }

    pub fn put(&mut self, key: &Key, image: Option<String>) {
        self.uses += 1;
        self.changed = true;
        self.entries.insert(key.as_str().to_owned(), Entry { image, used: self.uses });
        if self.entries.len() > MOST_ENTRIES {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            if let Some(key) = oldest.map(|(key, _)| key.clone()) {
                self.entries.remove(&key);
            }
        }
    }

    pub fn clear(&mut self) -> BTreeSet<String> {
        let entries = std::mem::take(&mut self.entries);
        self.changed = true;
        self.write();
        entries.into_values().filter_map(|entry| entry.image).collect()
    }

    /// After each build. A cache that cannot be written costs the next agent time and
    /// nothing else.
    pub fn write(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let file = File { version: VERSION, entries: std::mem::take(&mut self.entries) };
        if let Err(error) = tenantry_container::record::write_json(&self.path, &file, false) {
            tracing::warn!(path = %self.path.display(), %error, "build cache not written");
        }
        self.entries = file.entries;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_found_by_the_next_agent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let mut cache = Cache::read(path.clone());
        let key = Key::of_base("x");
        assert_eq!(cache.get(&key), None);
        cache.put(&key, Some("sha256:1".into()));
        cache.write();
        let mut again = Cache::read(path.clone());
        assert_eq!(again.get(&key), Some(Some("sha256:1".into())));
        assert_eq!(again.clear(), BTreeSet::from(["sha256:1".to_owned()]));
        assert_eq!(Cache::read(path.clone()).get(&key), None);
        std::fs::write(&path, "{").unwrap();
        assert_eq!(Cache::read(path).get(&key), None);
    }

    #[test]
    fn what_was_used_longest_ago_is_forgotten_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut cache = Cache::read(dir.path().join(FILE));
        let key = |number: usize| Key::of_base(&number.to_string());
        for number in 0..MOST_ENTRIES {
            cache.put(&key(number), None);
        }
        assert!(cache.get(&key(0)).is_some());
        cache.put(&key(MOST_ENTRIES), None);
        assert!(cache.get(&key(0)).is_some());
        assert!(cache.get(&key(1)).is_none());
    }
}
