//! Installs what a task needs, by apt, on Debian and Ubuntu.
//!
//! Nothing happens when nothing is missing: no root needed, no network touched.
//! Services that a package would start (Prometheus) are kept from starting.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::packages::{Package, Task, is_present};
use crate::process;

/// Makes sure that everything `task` needs is there.
///
/// # Errors
/// On other distributions, without root, or when apt fails: the message lists the
/// packages that are missing.
pub fn install(task: Task) -> Result<()> {
    let missing = task.missing();
    let (wanted, needed): (Vec<Package>, Vec<Package>) =
        missing.into_iter().partition(|package| package.optional);
    if needed.is_empty() {
        // What is only wanted is no reason to ask for root, or to fetch lists.
        let there = can_install() && wanted.iter().any(|package| is_available(package.name));
        return if there { install_packages(&available(wanted)) } else { Ok(()) };
    }
    let names = names(&needed);
    if !is_debian() {
        bail!(
            "these Debian packages, or what your distribution calls them, are missing: {names}\n\
             (only Debian and Ubuntu are set up automatically)"
        );
    }
    if !process::is_root() {
        bail!("not root, and these packages are missing: {names}\nrun: apt-get install {names}");
    }
    if let Err(e) = process::run(process::command("apt-get").args(["-q", "update"])) {
        // One foreign source that is down need not stop us: the installation will tell.
        println!("setup: {e:#}");
    }
    install_packages(&[needed, available(wanted)].concat())
}

/// Those that this distribution has; the others are named.
fn available(packages: Vec<Package>) -> Vec<Package> {
    let (available, absent): (Vec<Package>, Vec<Package>) =
        packages.into_iter().partition(|package| is_available(package.name));
    for package in &absent {
        println!("setup: {} is not packaged here; what wants it is skipped", package.name);
    }
    available
}

fn install_packages(packages: &[Package]) -> Result<()> {
    println!("setup: installing {}", names(packages));
    let no_services = NoServices::hold()?;
    let result = process::run(
        process::command("apt-get")
            .args(["-q", "-y", "-o", "Dpkg::Use-Pty=0", "install", "--no-install-recommends"])
            .args(packages.iter().map(|package| package.name))
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    drop(no_services);
    result.with_context(|| format!("to install {}", names(packages)))?;
    for package in packages {
        if !is_present(package.probe) {
            bail!("{} was installed, but does not bring {:?}", package.name, package.probe);
        }
    }
    Ok(())
}

fn names(packages: &[Package]) -> String {
    packages.iter().map(|package| package.name).collect::<Vec<_>>().join(" ")
}

fn can_install() -> bool {
    is_debian() && process::is_root()
}

/// Whether this is Debian, Ubuntu or a child of one of them, with apt.
fn is_debian() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    os_release_is_debian(&release) && process::find_program("apt-get").is_some()
}

fn os_release_is_debian(text: &str) -> bool {
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(key, _)| matches!(*key, "ID" | "ID_LIKE"))
        .flat_map(|(_, value)| value.trim_matches('"').split_whitespace())
        .any(|id| matches!(id, "debian" | "ubuntu"))
}

fn is_available(package: &str) -> bool {
    process::output(process::command("apt-cache").args(["show", "--no-all-versions", package]))
        .is_ok_and(|text| !text.is_empty())
}

/// While it lives, packages that are installed do not start their services: Debian's
/// own switch for that is a `policy-rc.d` program that answers 101.
struct NoServices {
    ours: bool,
}

const POLICY: &str = "/usr/sbin/policy-rc.d";

impl NoServices {
    fn hold() -> Result<NoServices> {
        // One that exists already is somebody's decision and stays.
        if Path::new(POLICY).exists() {
            return Ok(NoServices { ours: false });
        }
        fs::write(POLICY, "#!/bin/sh\nexit 101\n").with_context(|| format!("writing {POLICY}"))?;
        let guard = NoServices { ours: true };
        fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("making {POLICY} executable"))?;
        Ok(guard)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.ours
            && let Err(e) = fs::remove_file(POLICY)
        {
            eprintln!("xtask: {POLICY} could not be removed again: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_and_its_children_are_recognised() {
        let check =
            |text: &str, expected: bool| assert_eq!(os_release_is_debian(text), expected, "{text}");
        check("NAME=\"Debian GNU/Linux\"\nID=debian\n", true);
        check("ID=ubuntu\nID_LIKE=debian\n", true);
        check("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n", true);
        check("ID=fedora\nID_LIKE=\"rhel centos\"\n", false);
        check("PRETTY_NAME=debian\n", false);
        check("", false);
    }
}
