//! Seccomp: profiles in Docker's format, compiled once and kept.
//!
//! Owns the cache of compiled programs: compiling takes milliseconds, so it
//! happens when a container is created and never while one starts. Programs are
//! sealed memfds; each shim gets an open file description of its own.

mod compile;
pub mod observed;
pub mod profile;

use std::{
    collections::HashMap,
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{capabilities, config::SeccompChoice, error::Error};
use profile::{Facts, Profile};

/// Bounds the memory that strangers' profiles can take.
const MOST_PROGRAMS: usize = 64;

/// A compiled filter, `struct sock_filter[]`.
#[derive(Debug)]
pub struct Program {
    memfd: OwnedFd,
}

impl Program {
    /// A descriptor with an offset of its own, for one shim.
    pub fn reopen(&self) -> Result<OwnedFd, Error> {
        let path = format!("/proc/self/fd/{}", self.memfd.as_raw_fd());
        let file = File::open(path).map_err(|e| Error::failed("reopen the seccomp program", e))?;
        Ok(file.into())
    }
}

#[derive(Debug)]
pub struct Cache {
    kernel: (u32, u32),
    programs: Mutex<HashMap<(SeccompKey, capabilities::Set), Arc<Program>>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum SeccompKey {
    Default,
    Profile(String),
}

impl Default for Cache {
    fn default() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let kernel = profile::parse_version(&release).unwrap_or((0, 0));
        Self { kernel, programs: Mutex::default() }
    }
}

impl Cache {
    /// The program for a choice and a capability set, from the cache or compiled
    /// now; `None` where the choice is to have none. Takes milliseconds the first
    /// time, so callers come from a thread that may block.
    pub fn program(
        &self,
        choice: &SeccompChoice,
        capabilities: capabilities::Set,
    ) -> Result<Option<Arc<Program>>, Error> {
        let (key, text) = match choice {
            SeccompChoice::Unconfined => return Ok(None),
            SeccompChoice::Default => (SeccompKey::Default, profile::DEFAULT),
            SeccompChoice::Profile(text) => (SeccompKey::Profile(text.clone()), text.as_str()),
        };
        let key = (key, capabilities);
        let lock = || self.programs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = lock().get(&key) {
            return Ok(Some(program.clone()));
        }
        let facts = Facts { capabilities, kernel: self.kernel, arch: compile::ARCH };
        let program = Arc::new(Program { memfd: compile::compile(&Profile::parse(text)?, facts)? });
        let mut programs = lock();
        if programs.len() >= MOST_PROGRAMS {
            programs.clear();
        }
        programs.insert(key, program.clone());
        Ok(Some(program))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn the_default_profile_compiles_once_per_capability_set() {
        let cache = Cache::default();
        let set = capabilities::default_set();
        let program = |set| cache.program(&SeccompChoice::Default, set).unwrap().unwrap();
        let first = program(set);
        assert!(Arc::ptr_eq(&first, &program(set)));
        assert!(!Arc::ptr_eq(&first, &program(0)));
        for _ in 0..2 {
            let mut bytes = vec![];
            File::from(first.reopen().unwrap()).read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len() % 8, 0, "whole instructions");
            assert!((100..4096 * 8).contains(&bytes.len()), "{} bytes", bytes.len());
        }
    }

    #[test]
    fn unconfined_is_no_program() {
        assert!(Cache::default().program(&SeccompChoice::Unconfined, 0).unwrap().is_none());
    }
}
