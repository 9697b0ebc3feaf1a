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
