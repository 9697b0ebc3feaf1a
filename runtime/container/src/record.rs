//! What is known of a container across restarts of the agent and of the host.
//!
//! Owns two files. `container.json` in the container's directory is durable:
//! written to a temporary name, synced, renamed. The run file in the run
//! directory (a tmpfs, gone with the host's next boot) says which processes and
//! which address a start made; it is written before the program's first
//! instruction, without a sync, so that an agent that dies finds everything.

use std::{
    fs::{self, File},
    io::{self, Write},
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tenantry_cgroupfs::{CgroupIds, Restore};
use tenantry_network::Endpoint;
use tenantry_shim::spec::Process;

use crate::{config::ContainerConfig, health::HealthCheck, limits::Limits, state::State};

pub const VERSION: u32 = 1;
pub const FILE: &str = "container.json";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub version: u32,
    pub id: String,
    pub name: String,
    pub created_unix_ns: u64,
    pub image: ImageReference,
    /// Unpacked layers, the topmost first.
    pub layers: Vec<PathBuf>,
    /// As it was asked for.
    pub config: ContainerConfig,
    /// What came of it and the image.
    pub process: Process,
    pub hostname: String,
    pub stop_signal: i32,
    /// What came of its own and the image's wish for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthCheck>,
    pub limits: Limits,
    pub state: State,
    /// Which range of the host's ids its user namespace has; 0 is the one that many share.
    #[serde(default)]
    pub user_range: u32,
    /// Its processes stand still, since somebody asked for it; only of a running one.
    #[serde(default)]
    pub paused: bool,
    /// The last end was a user's wish; a restart policy respects it.
    pub stopped_by_user: bool,
    /// Restarts by policy since the last start by a user.
    pub restarts: u32,
    /// OOM kills in all runs that ended; a running cgroup's own count comes on top.
    #[serde(default)]
    pub oom_kills: u64,
    /// The wait before the last of them, in milliseconds; 0 before the first.
    pub last_back_off_ms: u64,
    pub started_unix_ns: Option<u64>,
    /// How the last run ended, or why the last start failed.
    pub ended: Option<Ended>,
    /// Kept so that a restart gets the same address on its first network where it is still free.
    pub address: Option<Ipv4Addr>,
}

impl Record {
    /// Docker's word for what it is in: one that stands still runs, but is called otherwise.
    pub fn state_word(&self) -> &'static str {
        if self.paused { "paused" } else { self.state.as_str() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageReference {
    /// As it was asked for.
    pub name: String,
    /// The config's digest.
    pub id: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ended {
    /// The exit code, or 128 + signal; 127 or 126 for a program that could not run.
    pub code: i32,
    pub signal: Option<i32>,
    pub oom_killed: bool,
    pub finished_unix_ns: u64,
    /// Why a start failed, or why the exit status is not the program's own.
    pub error: Option<String>,
    /// Output that the log lacks because it could not be written (a full disk).
    #[serde(default)]
    pub lost_output_bytes: u64,
}

/// What one start made on the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    pub id: String,
    pub shim_pid: i32,
    pub pid: i32,
    pub cgroup: CgroupIds,
    /// Of its first network.
    pub endpoint: Option<Endpoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<Endpoint>,
    /// Its limits are, or are about to be, tighter than the record says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throttled: Option<ThrottleNote>,
}

impl RunFile {
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoint.iter().chain(&self.further)
    }
}

/// What the next agent does first thing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleNote {
    pub since_unix_ns: u64,
    pub restore: Vec<Restore>,
    /// Bandwidth goes back to the record's, too.
    pub bandwidth: bool,
}

/// Writes a file so that a reader sees it whole or not at all. With `durable`
/// that holds across a power loss, and the directory entry is synced too.
pub fn write_json<T: Serialize>(path: &Path, value: &T, durable: bool) -> io::Result<()> {
    let bytes = serde_json::to_vec_pretty(value)?;
    let temporary = path.with_extension("tmp");
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(&bytes)?;
        if durable {
            file.sync_all()?;
        }
        fs::rename(&temporary, path)
    });
    if let Err(error) = written {
        // On a full disk a half would stay, and take room from who removes something.
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    if durable && let Some(parent) = path.parent() {
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

pub fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    let bytes = fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_cannot_take_its_place_leaves_no_half_of_it() {
        let directory = tempfile::tempdir().unwrap();
        // Nothing can be renamed over a directory with something in it.
        let path = directory.path().join("taken");
        fs::create_dir_all(path.join("inside")).unwrap();
        write_json(&path, &[1, 2, 3], true).unwrap_err();
        let left: Vec<_> = fs::read_dir(directory.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{left:?}");
        write_json(&directory.path().join("free"), &[1, 2, 3], true).unwrap();
        assert_eq!(read_json::<[u8; 3]>(&directory.path().join("free")).unwrap(), [1, 2, 3]);
    }
}
