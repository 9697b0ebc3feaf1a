//! `tenantry guard`: what is left of an agent that was killed while it throttled.
//!
//! A hidden verb of the agent's own program, run by a shim or by an agent and by nobody else.
//! Everything it is told is literal. It starts no thread and no event loop, and needs no
//! agent: whoever was to take a limit back is gone.

pub mod client;
pub mod keeper;

use std::os::fd::AsFd as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Subcommand;
use nix::sys::signal::SigSet;
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
        /// Bits a second, or `max`.
        #[arg(value_parser = parse_rate)]
        egress: Rate,
        #[arg(value_parser = parse_rate)]
        ingress: Rate,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<u64>);

fn parse_rate(text: &str) -> Result<Rate, String> {
    match text {
        "max" => Ok(Rate(None)),
        number => number
            .parse()
            .map(|rate| Rate(Some(rate)))
            .map_err(|_| format!("{number:?}: allowed is a number of bits a second, or max")),
    }
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
        GuardVerb::RestoreBandwidth { bridge, host_interface, egress, ingress } => {
            let wanted = Bandwidth { egress_bits_per_s: egress.0, ingress_bits_per_s: ingress.0 };
            set_bandwidth_without_network(&bridge, &host_interface, &wanted)
                .map_err(|error| chain(&error))
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
    fn a_rate_is_a_number_or_max() {
        let check = |text, expected| assert_eq!(parse_rate(text).ok(), expected, "{text}");
        check("max", Some(Rate(None)));
        check("8000", Some(Rate(Some(8000))));
        check("", None);
        check("8k", None);
    }
}
