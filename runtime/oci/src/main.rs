//! `tenantry-runtime`: containers out of OCI bundles, for containerd, Docker and Podman.
//!
//! ```text
//! config.json ─▶ config (pure) ─▶ birth (one clone3, the shim's steps) ─▶ gate ─▶ execve
//! ```
//!
//! The runtime leaves when its command is done: the container belongs to who called, as
//! its parent or as the subreaper above it. Everything runs on one thread, always, which
//! is what makes it sound to go on in Rust after `clone3`; nothing here is `unsafe`.
#![forbid(unsafe_code)]

mod birth;
mod command_line;
mod commands;
mod config;
mod console;
mod error;
mod features;
mod further;
mod gate;
mod home;
mod hooks;
mod host_nodes;
mod log;
mod record;

use std::ffi::CString;
use std::process::ExitCode;

use clap::Parser as _;
use rustix::process::DumpableBehavior;
use tenantry_shim::detach;

use crate::command_line::{Command, Options};

fn main() -> ExitCode {
    let options = Options::parse();
    let (log, format) = (options.log.clone(), options.log_format);
    let fail = |message: &str| {
        log::error(log.as_deref(), format, message);
        eprintln!("tenantry-runtime: {message}");
        ExitCode::FAILURE
    };
    if becomes_a_container(&options.command)
        && let Err(errno) = protect()
    {
        return fail(&format!("cannot protect this program from containers: {errno}"));
    }
    match commands::execute(options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => fail(&error.chain()),
    }
}

fn becomes_a_container(command: &Command) -> bool {
    matches!(command, Command::Create(_) | Command::Run(_) | Command::Exec(_))
}

/// A container's root can neither write to this program's file (CVE-2019-5736) nor trace a
/// child of it that has entered the container and still holds the host's descriptors.
fn protect() -> rustix::io::Result<()> {
    // Hooks that name no environment have ours.
    let environment = std::env::vars_os().filter_map(|(name, value)| {
        let variable = [name.as_encoded_bytes(), b"=", value.as_encoded_bytes()].concat();
        CString::new(variable).ok()
    });
    detach::execute_from_read_only_mount(&environment.collect::<Vec<_>>())?;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    // What was executed through a descriptor is named after its number.
    rustix::thread::set_name(c"tenantry-runtime")
}
