//! Taking an agent's programs off the kernel while its containers and the agent go on, and
//! putting them back.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tenantry_e2e::agent::TestAgent;

fn pins(agent: &TestAgent) -> PathBuf {
    Path::new("/sys/fs/bpf").join(format!("tenantry-{}", agent.cgroup_parent))
}

/// A link that is unpinned, and that no agent holds, takes its program off the kernel.
pub fn detach(agent: &TestAgent, which: impl Fn(&str) -> bool) -> Result<()> {
    let directory = pins(agent);
    for entry in std::fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path: PathBuf = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("link_") && which(name) {
            std::fs::remove_file(&path)?;
        }
    }
    // The kernel lets go of a program after a grace period.
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Ends the agent and starts one with this configuration that loads everything anew and
/// adopts the containers.
pub fn load_anew(agent: &mut TestAgent, config: &str) -> Result<()> {
    agent.stop_agent();
    std::fs::remove_dir_all(pins(agent))?;
    agent.configure(config)?;
    agent.spawn()
}
