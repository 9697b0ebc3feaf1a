//! Flags that more than one verb takes.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::daemon::Options;

#[derive(Debug, Args)]
pub struct AgentFlags {
    /// A TOML file; flags win over it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Check the configuration, say what is wrong with it, and exit.
    #[arg(long)]
    check_config: bool,
    /// Images, containers and the audit file. Default: /var/lib/tenantry.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address of /metrics, /live and /ready. Default: 127.0.0.1:9778.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// The cgroup below which containers run. Default: tenantry.
    #[arg(long)]
    cgroup_parent: Option<String>,
    /// The tenantry-shim program. Default: beside this program.
    #[arg(long)]
    shim: Option<PathBuf>,
}

impl AgentFlags {
    pub fn into_options(self, run_dir: PathBuf) -> Options {
        Options {
            config: self.config,
            check_config: self.check_config,
            data_dir: self.data_dir,
            run_dir,
            listen: self.listen,
            cgroup_parent: self.cgroup_parent,
            shim: self.shim,
        }
    }
}

/// Limits, as `run` and `limit` take them. Sizes and rates are powers of 1024 for
/// memory and disk (`256m`, `/dev/vda:10m`) and of 1000 for the network (`20mbit`).
#[derive(Debug, Default, Args)]
pub struct LimitArgs {
    /// CPUs, such as 0.5. `max` lifts the limit.
    #[arg(long, value_name = "N")]
    pub cpus: Option<String>,
    /// Bytes of memory, such as 256m. `max` lifts the limit.
    #[arg(long, short, value_name = "SIZE")]
    pub memory: Option<String>,
    /// Number of processes and threads. `max` lifts the limit.
    #[arg(long, alias = "pids-limit", value_name = "N")]
    pub pids: Option<String>,
    /// Bytes read per second, such as /dev/vda:10m.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub io_read: Vec<String>,
    /// Bytes written per second, such as /dev/vda:10m.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub io_write: Vec<String>,
    /// Read operations per second, such as /dev/vda:100.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub io_read_ops: Vec<String>,
    /// Write operations per second, such as /dev/vda:100.
    #[arg(long, value_name = "DEVICE:RATE")]
    pub io_write_ops: Vec<String>,
    /// What the container sends, such as 20mbit. `max` lifts the limit. BURST is how many
    /// bytes may pass at once after a pause (20mbit:64k); without it, 50 ms of the rate.
    #[arg(long, value_name = "RATE[:BURST]")]
    pub egress: Option<String>,
    /// What the container receives, such as 50mbit. `max` lifts the limit.
    #[arg(long, value_name = "RATE[:BURST]")]
    pub ingress: Option<String>,
}
