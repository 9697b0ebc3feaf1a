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

/// Writes only a change: the kernel resets other per-interface settings when
/// the switch is thrown.
pub(crate) fn write_ip_forward(on: bool) -> Result<()> {
    if read_ip_forward()? == on {
        return Ok(());
    }
    fs::write(PATH, if on { "1" } else { "0" }).map_err(|e| Error::io("write", PATH, e))
}
