//! The host's `ip_forward` switch: read, set, put back.
//!
//! The value found before is kept in the bridge's alias (`link::Alias`), so
//! that an agent that adopts the bridge after a crash still restores it.

use std::fs;

use crate::error::{Error, Result};

/// Of the network namespace of the calling thread.
const PATH: &str = "/proc/sys/net/ipv4/ip_forward";

pub(crate) fn read_ip_forward() -> Result<bool> {
    let text = fs::read_to_string(PATH).map_err(|e| Error::io("read", PATH, e))?;
    Ok(text.trim() != "0")
}

/// What comes from 127.0.0.1 may leave through this bridge, so that published ports are
/// reached from the host itself by that address. The switch is the bridge's own and goes with
/// it; what the other way would open is shut by [`crate::rules`].
pub(crate) fn allow_loopback_out(bridge: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
    fs::write(&path, "1").map_err(|e| Error::io("write", path, e))
}

/// Writes only a change: the kernel resets other per-interface settings when
/// the switch is thrown.
pub(crate) fn write_ip_forward(on: bool) -> Result<()> {
    if read_ip_forward()? == on {
        return Ok(());
    }
    fs::write(PATH, if on { "1" } else { "0" }).map_err(|e| Error::io("write", PATH, e))
}

const PATH6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";

pub(crate) fn read_ip6_forward() -> Result<bool> {
    let text = fs::read_to_string(PATH6).map_err(|e| Error::io("read", PATH6, e))?;
    Ok(text.trim() != "0")
}

/// As [`write_ip_forward`]. A host that forwards does not listen to routers' advertisements any
/// more, unless its interfaces say `accept_ra` 2: that is the operator's to know, so it is told.
pub(crate) fn write_ip6_forward(on: bool) -> Result<()> {
    if read_ip6_forward()? == on {
        return Ok(());
    }
    if on {
        for interface in listeners_to_routers() {
            tracing::warn!(
                interface,
                "IPv6 is forwarded from now on: what routers advertise is no longer heard here; \
                 accept_ra = 2 keeps it"
            );
        }
    }
    fs::write(PATH6, if on { "1" } else { "0" }).map_err(|e| Error::io("write", PATH6, e))
}

/// Of a link of ours in the network namespace of the calling thread: where the operator has
/// IPv6 switched off for new links, one that is to have an address of it needs it all the same.
pub(crate) fn switch_ipv6_on(interface: &str) -> Result<()> {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    let text = fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    match text.trim() {
        "0" => Ok(()),
        _ => fs::write(&path, "0").map_err(|e| Error::io("write", &path, e)),
    }
}

/// Interfaces whose `accept_ra` is 1, and that have a link to hear something on.
fn listeners_to_routers() -> Vec<String> {
    let Ok(interfaces) = fs::read_dir("/sys/class/net") else { return Vec::new() };
    let names = interfaces.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let listens = |name: &String| {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
        let is_device = std::path::Path::new("/sys/class/net").join(name).join("device").exists();
        is_device && fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
    };
    names.filter(listens).collect()
}
