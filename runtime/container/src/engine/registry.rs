//! Which containers exist, by id and by name.
//!
//! Owns both maps and their bound. A name is taken from the moment of its
//! reservation, so that two requests at once cannot both have it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::cell::Cell;
use crate::error::Error;

#[derive(Debug, Default)]
pub struct Registry {
    by_id: BTreeMap<String, Arc<Cell>>,
    /// Values are ids, also of containers that are still being created.
    by_name: HashMap<String, String>,
    /// Ranges of user ids that one container alone has, and whose they are.
    user_ranges: BTreeMap<u32, String>,
}

impl Registry {
    pub fn all(&self) -> Vec<Arc<Cell>> {
        self.by_id.values().cloned().collect()
    }

    /// By whole id, name, or the beginning of an id, in this order.
    pub fn find(&self, reference: &str) -> Result<Arc<Cell>, Error> {
        if let Some(cell) = self.by_id.get(reference) {
            return Ok(cell.clone());
        }
        // Docker's clients write names with the slash that its API shows.
        let name = reference.strip_prefix('/').unwrap_or(reference);
        if let Some(cell) = self.by_name.get(name).and_then(|id| self.by_id.get(id)) {
            return Ok(cell.clone());
        }
        let not_found = || Error::NotFound { reference: reference.to_owned() };
        if reference.is_empty() {
            return Err(not_found());
        }
        let begin = self.by_id.range(reference.to_owned()..);
        let fitting: Vec<_> = begin.take_while(|(id, _)| id.starts_with(reference)).collect();
        match fitting.as_slice() {
            [] => Err(not_found()),
            [(_, cell)] => Ok((*cell).clone()),
            several => {
                let matches = several.len();
                Err(Error::Ambiguous { reference: reference.to_owned(), matches })
            }
        }
    }

    pub fn has_name(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn reserve(&mut self, name: &str, id: &str, max_containers: usize) -> Result<(), Error> {
        if let Some(owner) = self.by_name.get(name) {
            let owner = &owner[..12.min(owner.len())];
            return Err(Error::Conflict(format!("the name {name} is in use by container {owner}")));
        }
        if self.by_name.len() >= max_containers {
            return Err(Error::Conflict(format!(
                "there are {max_containers} containers, as many as max_containers allows; remove one"
            )));
        }
        self.by_name.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// A range of user ids that no other container has, counted from one; it goes back with the
    /// container. There are as many as containers may be.
    pub fn reserve_user_range(&mut self, id: &str) -> u32 {
        let free = (1..).find(|range| !self.user_ranges.contains_key(range));
        let range = free.expect("there are more ranges than containers");
        self.user_ranges.insert(range, id.to_owned());
        range
    }

    /// One more name for a container that is there.
    pub fn take_name(&mut self, name: &str, id: &str) -> Result<(), Error> {
        if let Some(owner) = self.by_name.get(name) {
            let owner = &owner[..12.min(owner.len())];
            return Err(Error::Conflict(format!("the name {name} is in use by container {owner}")));
        }
        self.by_name.insert(name.to_owned(), id.to_owned());
        Ok(())
    }

    /// A name that a container has no more.
    pub fn give_name_back(&mut self, name: &str, id: &str) {
        if self.by_name.get(name).is_some_and(|owner| owner == id) {
            self.by_name.remove(name);
        }
    }

    pub fn insert(&mut self, name: &str, cell: Arc<Cell>) {
        self.by_name.insert(name.to_owned(), cell.id.clone());
        let range = cell.lock().record.user_range;
        if range > 0 {
            self.user_ranges.insert(range, cell.id.clone());
        }
        self.by_id.insert(cell.id.clone(), cell);
    }

    /// Also ends a reservation.
    pub fn remove(&mut self, name: &str, id: &str) {
        self.by_id.remove(id);
        if self.by_name.get(name).is_some_and(|owner| owner == id) {
            self.by_name.remove(name);
        }
        self.user_ranges.retain(|_, owner| owner != id);
    }
}
