//! Our nftables table, written and read: what it says is [`crate::rules`]' matter.
//!
//! That class is set at the forward hook: the kernel gives each packet that it forwards the
//! priority of its TOS field, and does so before, so that whatever a veth's own filters say is
//! lost. A container's packets have its address there still; masquerade comes after.
//!
//! Owns exactly one table of family `ip` for each network, and where it has IPv6 one of family
//! `ip6`; replaced and removed as a whole, in
//! one transaction. No other table is read or written. An `accept` here does not
//! overrule a `drop` in somebody else's table: nftables asks every base chain.
//! Runs the `nft` program (5 ms): no crate speaks NAT over netlink.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use nftables::expr::Expression;
use nftables::helper::{NftablesError, get_current_ruleset_with_args};
use nftables::schema::{NfListObject, NfObject};

use crate::config::NetworkConfig;
use crate::error::{Error, Result};
use crate::rules::{self, BULK};

/// Blocking.
pub(crate) fn install(config: &NetworkConfig) -> Result<()> {
    apply("install", &config.table, &rules::render_install(config))
}

/// Blocking; no error if the table is gone already.
pub(crate) fn remove(config: &NetworkConfig) -> Result<()> {
    apply("remove", &config.table, &rules::render_remove(config))
}

/// Blocking; an address that is there already is as good.
pub(crate) fn add_bulk(table: &str, address: Ipv4Addr) -> Result<()> {
    apply("change", table, &rules::render_add_bulk(table, address))
}

/// Blocking; no error if the address, or the table, is gone already.
pub(crate) fn remove_bulk(table: &str, address: Ipv4Addr) -> Result<()> {
    match apply("change", table, &rules::render_remove_bulk(table, address)) {
        Err(error) if has_table(table)? => Err(error),
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::Firewall`] if nobody can tell.
pub(crate) fn has_table(table: &str) -> Result<bool> {
    let listed = get_current_ruleset_with_args(Some(nft()), ["list", "tables", "ip"]);
    let listed = listed.map_err(|e| firewall_error("list", table, e))?;
    let is_it = |object: &NfObject<'_>| match object {
        NfObject::ListObject(NfListObject::Table(found)) => found.name == table,
        _ => false,
    };
    Ok(listed.objects.iter().any(is_it))
}

/// By the `PATH`; a shim runs us without one.
fn nft() -> &'static str {
    const USUAL: [&str; 3] = ["/usr/sbin/nft", "/sbin/nft", "/usr/local/sbin/nft"];
    let there = || USUAL.into_iter().find(|path| std::path::Path::new(path).exists());
    match std::env::var_os("PATH") {
        None => there().unwrap_or("nft"),
        Some(_) => "nft",
    }
}

/// Blocking.
///
/// # Errors
/// [`Error::Firewall`], also if there is no such table.
pub(crate) fn is_bulk(table: &str, address: Ipv4Addr) -> Result<bool> {
    let listed = get_current_ruleset_with_args(Some(nft()), ["list", "set", "ip", table, BULK]);
    let address = Expression::String(address.to_string().into());
    let has_it = |object: &NfObject<'_>| match object {
        NfObject::ListObject(NfListObject::Set(set)) => {
            set.elem.as_ref().is_some_and(|elements| elements.contains(&address))
        }
        _ => false,
    };
    let listed = listed.map_err(|e| firewall_error("read", table, e))?;
    Ok(listed.objects.iter().any(has_it))
}

/// Blocking; all of the script or nothing.
pub(crate) fn apply(operation: &'static str, table: &str, script: &str) -> Result<()> {
    let failed = |detail| Error::Firewall { operation, table: table.to_owned(), detail };
    let cannot_run = |error| failed(format!("cannot run {}: {error}", nft()));
    let mut command = Command::new(nft());
    command.args(["-f", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(cannot_run)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If nft has ended already, its own words say why.
        let _ = stdin.write_all(script.as_bytes());
    }
    let output = child.wait_with_output().map_err(cannot_run)?;
    match output.status.success() {
        true => Ok(()),
        false => Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

fn firewall_error(operation: &'static str, table: &str, error: NftablesError) -> Error {
    let detail = match error {
        NftablesError::NftExecution { program, inner } => {
            format!("cannot run {}: {inner}", program.to_string_lossy())
        }
        NftablesError::NftFailed { stderr, .. } => stderr.trim().to_owned(),
        other => other.to_string(),
    };
    Error::Firewall { operation, table: table.to_owned(), detail }
}
