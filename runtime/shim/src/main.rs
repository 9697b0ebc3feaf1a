//! `tenantry-shim ID`: starts one container and stays with it.
//!
//! ```text
//! detach ─▶ read spec ─▶ launch (one clone3) ─▶ serve (one poll loop) ─▶ exit
//! ```
//!
//! Everything runs on one thread, always: that is what makes it sound to go on in
//! Rust after `clone3`. No module of the library starts a thread or an async runtime.

use std::os::fd::AsFd;
use std::process::ExitCode;

use rustix::io::Errno;
use tenantry_shim::container::Container;
use tenantry_shim::failure::{at, failure};
use tenantry_shim::launch::{self, Inherited};
use tenantry_shim::protocol::Failure;
use tenantry_shim::serve::Shim;
use tenantry_shim::spec::{LaunchSpec, NetworkNamespace, fd};
use tenantry_shim::{detach, sys};

fn main() -> ExitCode {
    // Both before anything else is open. Without a listener there is nobody to
    // tell of a failure but the parent, by the exit code.
    if detach::execute_from_read_only_mount(&[]).is_err() || detach::detach().is_err() {
        return ExitCode::from(2);
    }
    let Some(listener) = sys::take_descriptor(fd::LISTENER) else {
        return ExitCode::from(2);
    };
    let launched = launch();
    // The spec and the seccomp program are not needed again.
    sys::trim_heap();
    Shim::new(launched, listener).serve();
    ExitCode::SUCCESS
}

fn launch() -> Result<Container, Failure> {
    let missing = |name| failure("fcntl", name, Errno::BADF);
    let file = sys::take_descriptor(fd::SPEC).ok_or_else(|| missing("spec"))?;
    let text = launch::read_all(file.as_fd()).map_err(at("read", "spec"))?;
    let spec: LaunchSpec = serde_json::from_slice(&text)
        .map_err(|error| failure("parse", format_args!("spec: {error}"), Errno::INVAL))?;
    drop((file, text));
    let seccomp = sys::take_descriptor(fd::SECCOMP);
    let stdin = sys::take_descriptor(fd::STDIN);
    let network = sys::take_descriptor(fd::NETWORK);
    let is_given = spec.network == NetworkNamespace::Given;
    let inherited = Inherited {
        seccomp: wanted(spec.seccomp, seccomp, "seccomp program")?,
        stdin: wanted(spec.stdin, stdin, "stdin")?,
        network: wanted(is_given, network, "network namespace")?,
    };
    Container::launch(spec, inherited)
}

/// A descriptor that the spec promises; any other is closed.
fn wanted<T>(promised: bool, given: Option<T>, name: &str) -> Result<Option<T>, Failure> {
    match (promised, given) {
        (true, None) => Err(failure("fcntl", name, Errno::BADF)),
        (true, given) => Ok(given),
        (false, _) => Ok(None),
    }
}
