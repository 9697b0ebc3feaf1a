//! What an agent holds for its life, so that no other uses the same cgroups or directories.

use std::fs::File;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Refusal;
use crate::config::Config;

/// What a killed agent was about to execute holds copies of its descriptors a moment longer.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Held {
    _name: UnixListener,
    _directories: [File; 2],
}

/// # Errors
/// [`Refusal::Taken`] while another agent holds one of them, and what the kernel refuses.
pub(super) async fn hold(config: &Config) -> Result<Held, Refusal> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match try_hold(config) {
            Err(Refusal::Taken(_)) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
            outcome => return outcome,
        }
    }
}

fn try_hold(config: &Config) -> Result<Held, Refusal> {
    // An abstract socket is a lock that the kernel removes with its holder.
    let name = format!("tenantry/{}", config.cgroup_parent);
    let taken = |_| Refusal::Taken(format!("cgroup_parent {}", config.cgroup_parent));
    let address = SocketAddr::from_abstract_name(name).map_err(Refusal::failed("lock"))?;
    let name = UnixListener::bind_addr(&address).map_err(taken)?;
    Ok(Held { _name: name, _directories: [lock(&config.data_dir)?, lock(&config.run_dir)?] })
}

fn lock(directory: &Path) -> Result<File, Refusal> {
    make_private(directory).map_err(Refusal::failed(directory.display().to_string()))?;
    let path = directory.join("lock");
    let file = File::create(&path).map_err(Refusal::failed(path.display().to_string()))?;
    file.try_lock().map_err(|_| Refusal::Taken(directory.display().to_string()))?;
    Ok(file)
}

pub(super) fn make_private(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)?;
    // Others may pass through to a container's files, and not look around.
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o711))
}
