//! `tenantry guard`: what is left of an agent that was killed while it throttled.
//!
//! A hidden verb of the agent's own program, run by a shim or by an agent and by nobody else.
//! Everything it is told is literal. It starts no thread and no event loop, and needs no
//! agent: whoever was to take a limit back is gone.

pub mod client;
pub mod keeper;

use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use nix::sys::signal::SigSet;
use tenantry_container::{Limit, units};
use tenantry_network::{Bandwidth, set_bandwidth_without_network};

use crate::api::error::chain;

#[derive(Debug, Subcommand)]
pub enum GuardVerb {
    /// Keep other runtimes' containers' limits until leases end. Standard input is the
    /// listening socket.
    Keep { run_dir: PathBuf },
    /// Give a container's interface the bandwidth that its operator wants, and end.
    RestoreBandwidth {
        bridge: String,
        host_interface: String,
        /// Bits a second, with a burst `BITS:BYTES`, or `max`.
        egress: String,
        ingress: String,
        /// The nftables table in which its address is one of those that go last.
        #[arg(requires = "address")]
        table: Option<String>,
        address: Option<Ipv4Addr>,
    },
}

fn bandwidth(egress: &str, ingress: &str) -> Result<Bandwidth, tenantry_container::Error> {
    let rate = |limit| match limit {
        Limit::Unlimited => None,
        Limit::Value(bits) => Some(bits),
    };
    let (egress, egress_burst_bytes) = units::parse_bandwidth("egress", egress)?;
    let (ingress, ingress_burst_bytes) = units::parse_bandwidth("ingress", ingress)?;
    Ok(Bandwidth {
        egress_bits_per_s: rate(egress),
        ingress_bits_per_s: rate(ingress),
        egress_burst_bytes,
        ingress_burst_bytes,
        egress_bulk: false,
    })
}

/// This program's way to take bandwidth back, for `EngineConfig::restore_bandwidth`.
///
/// # Errors
/// The program has no path that can be told.
pub fn restore_bandwidth_command() -> std::io::Result<Vec<String>> {
    let program = std::env::current_exe()?;
    let program = program.to_str().ok_or_else(|| std::io::Error::other("not UTF-8"))?;
    Ok([program, "guard", "restore-bandwidth"].map(str::to_owned).into())
}

pub fn main(verb: GuardVerb) -> ExitCode {
    let outcome = match verb {
        GuardVerb::Keep { run_dir } => keep(&run_dir).map_err(|error| chain(&error)),
        GuardVerb::RestoreBandwidth { bridge, host_interface, egress, ingress, table, address } => {
            bandwidth(&egress, &ingress).map_err(|error| chain(&error)).and_then(|wanted| {
                let bulk = table.as_deref().zip(address);
                set_bandwidth_without_network(&bridge, &host_interface, &wanted, bulk)
                    .map_err(|error| chain(&error))
            })
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tenantry guard: {error}");
            ExitCode::FAILURE
        }
    }
}

fn keep(run_dir: &Path) -> std::io::Result<()> {
    // Only SIGKILL ends it: whoever ends the agent with its session or its group must not
    // take along who restores after it.
    SigSet::all().thread_block()?;
    let _ = rustix::process::setsid();
    rustix::thread::set_name(c"tenantry-guard")?;
    let listener = UnixListener::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    keeper::serve(&listener, run_dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bandwidth_is_what_the_engine_tells_the_shim() {
        let wanted = bandwidth("8000:5000", "max").unwrap();
        let (egress, burst) = (Some(8000), Some(5000));
        assert_eq!((wanted.egress_bits_per_s, wanted.egress_burst_bytes), (egress, burst));
        assert_eq!((wanted.ingress_bits_per_s, wanted.ingress_burst_bytes), (None, None));
        assert!(bandwidth("", "max").is_err());
        assert!(bandwidth("8000", "max:1").is_err());
    }
}
