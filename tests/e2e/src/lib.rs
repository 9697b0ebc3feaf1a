//! What the end-to-end tests, the benchmarks and the demonstration share: an
//! agent in a scratch directory, an image made on the spot, and a look at the
//! host before and after.
//!
//! Everything goes through the real programs and their public faces: the command
//! line, the sockets, `/metrics`. Nothing here links the product.

pub mod agent;
pub mod cgroup;
pub mod docker;
pub mod host;
pub mod hostile_registry;
pub mod image;
pub mod image_store;
pub mod loop_device;
pub mod name_server;
pub mod netns;
pub mod registry;
pub mod scrape;
pub mod screen;
pub mod small_disk;
pub mod uplink;
pub mod witness;

use std::path::PathBuf;

/// Where `tenantry`, `tenantry-runtime`, `tenantry-shim` and `tenantry-workload` lie:
/// `TENANTRY_BIN_DIR`, or beside or one above the running program.
pub fn programs() -> PathBuf {
    if let Some(directory) = std::env::var_os("TENANTRY_BIN_DIR") {
        return directory.into();
    }
    let here = std::env::current_exe().expect("the running program has a path");
    let beside = here.parent().expect("a program lies in a directory");
    match beside.file_name() {
        Some(name) if name == "deps" => beside.parent().expect("above deps").to_path_buf(),
        _ => beside.to_path_buf(),
    }
}

/// Waits in the virtual machine are longer: it emulates its processor.
pub fn patience(seconds: u64) -> std::time::Duration {
    let factor = std::env::var("TENANTRY_TIME_FACTOR").ok().and_then(|text| text.parse().ok());
    std::time::Duration::from_secs(seconds * factor.unwrap_or(1))
}

/// Whether this is the emulated machine, where time proves nothing.
pub fn in_virtual_machine() -> bool {
    std::env::var_os("TENANTRY_VM").is_some()
}

/// Asks until the answer is yes; panics with `what` when patience ends.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + patience(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// Why the agent cannot run here, if it cannot.
pub fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root".into());
    }
    if !std::path::Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Some("this kernel has no BTF".into());
    }
    let missing: Vec<&str> = ["tenantry", "tenantry-shim", "tenantry-workload"]
        .into_iter()
        .filter(|program| !programs().join(program).exists())
        .collect();
    if !missing.is_empty() {
        return Some(format!("not built: {} (cargo xtask build)", missing.join(", ")));
    }
    image::busybox().is_none().then(|| "busybox-static is not installed".into())
}

/// Leaves a test that cannot run, and says why; the runner counts it as skipped.
#[macro_export]
macro_rules! skip_unless_possible {
    () => {
        if let Some(why) = $crate::obstacle() {
            println!("SKIPPED: {why}");
            return;
        }
    };
}
