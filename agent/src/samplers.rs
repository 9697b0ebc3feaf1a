//! The cgroup files of running containers, held open from one look to the next.
//!
//! Opening the nineteen files of a container takes longer than reading them. How many may
//! stay open is bounded by the process's limit of descriptors; containers beyond that are
//! read by opening and closing, which is slower and as right. The collector is the caller.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenantry_cgroupfs::{Error, Group, ReadBuffer, Sample, Sampler, Strain};

/// One container's cgroup at one moment.
#[derive(Debug)]
pub struct Look {
    pub sample: Sample,
    pub processes: Option<u64>,
}

#[derive(Debug)]
pub struct Samplers {
    held: Mutex<HashMap<String, Arc<Mutex<Sampler>>>>,
    /// Containers whose files may be held.
    places: usize,
}

impl Samplers {
    /// `descriptors`: how many the process may have open; half of them are for others.
    pub fn new(descriptors: u64) -> Self {
        let places = usize::try_from(descriptors / 2).unwrap_or(usize::MAX) / Sampler::MAX_FILES;
        Self { held: Mutex::default(), places }
    }

    /// Everything about one group; `None` if there is no such group, or no more.
    ///
    /// # Errors
    /// What could not be read of a group that is there.
    pub fn look(&self, group: &Group) -> Result<Option<Look>, Error> {
        self.with(group, |sampler, buffer| {
            let sample = sampler.read(buffer)?;
            Ok(Look { sample, processes: sampler.count_processes(buffer).ok() })
        })
    }

    /// As [`look`](Self::look), without the processes: to count a slice's means to read a
    /// file in each cgroup below it.
    pub fn sample(&self, group: &Group) -> Result<Option<Sample>, Error> {
        self.with(group, |sampler, buffer| sampler.read(buffer))
    }

    /// As [`look`](Self::look), how it stands with memory and pressure alone.
    pub fn strain(&self, group: &Group) -> Result<Option<Strain>, Error> {
        self.with(group, |sampler, buffer| sampler.read_strain(buffer))
    }

    fn with<T>(
        &self,
        group: &Group,
        look: impl Fn(&Sampler, &mut ReadBuffer) -> Result<T, Error>,
    ) -> Result<Option<T>, Error> {
        let buffer = &mut ReadBuffer::default();
        let held = self.held().get(group.path()).cloned();
        if let Some(sampler) = held {
            match look(&lock(&sampler), buffer) {
                // A restarted container has a new group at the same path.
                Err(error) if error.is_gone() => drop(self.held().remove(group.path())),
                other => return other.map(Some),
            }
        }
        let looked = Sampler::open(group).and_then(|sampler| {
            let look = look(&sampler, buffer)?;
            let mut held = self.held();
            // A runtime makes them one by one; what came since is seen by opening anew.
            if sampler.is_whole() && held.len() < self.places {
                held.insert(group.path().to_owned(), Arc::new(Mutex::new(sampler)));
            }
            Ok(look)
        });
        match looked {
            Err(error) if error.is_gone() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Lets go of every group but these.
    pub fn keep_only(&self, keep: impl Fn(&str) -> bool) {
        self.held().retain(|path, _| keep(path));
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Arc<Mutex<Sampler>>>> {
        lock(&self.held)
    }
}

/// A panic while it was held leaves open files, which are always right.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
