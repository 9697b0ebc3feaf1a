//! The terminal of a container's first process.
//!
//! Its master is the shim's, which reads it into the log and outlives the agent. What is
//! typed, and a new size, go to a copy of the master that the shim hands out: nothing is
//! kept here, so that the next agent can do the same.

use std::os::fd::OwnedFd;

use rustix::termios::Winsize;
use tenantry_shim::{
    protocol::{Reply, Request},
    spec::WindowSize,
};

use super::{Engine, world};
use crate::{error::Error, shim::connection};

impl Engine {
    /// A copy of the master of a running container's terminal; it does not block. `None` if the
    /// container has no terminal, or it was hung up. What it says goes to the log: read that.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the container does not run.
    pub async fn terminal(&self, reference: &str) -> Result<Option<OwnedFd>, Error> {
        let (shared, cell) = self.target(reference)?;
        let snapshot = cell.snapshot();
        if snapshot.live.is_none() {
            let (name, state) = (&snapshot.record.name, snapshot.record.state.as_str());
            return Err(Error::Conflict(format!("container {name} is {state}, not running")));
        }
        if snapshot.record.config.terminal.is_none() {
            return Ok(None);
        }
        let socket = world::socket_path(&shared, &cell);
        let asked = connection::ask_for_descriptor(&socket, &Request::Terminal).await;
        match asked.map_err(|e| Error::failed("ask the shim for the terminal", e))? {
            Some((Reply::Terminal, Some(master))) => Ok(Some(master)),
            _ => Ok(None),
        }
    }

    /// As [`Engine::terminal`], of the run that is under way or comes next: waits for it.
    /// `None` also if the container is removed before that.
    pub async fn next_terminal(&self, reference: &str) -> Result<Option<OwnedFd>, Error> {
        let cell = self.shared.find(reference)?;
        let mut snapshots = cell.watch();
        let begun = |snapshot: &std::sync::Arc<crate::Snapshot>| {
            snapshot.live.is_some() || snapshot.removed
        };
        match snapshots.wait_for(begun).await {
            Ok(snapshot) if !snapshot.removed => {}
            _ => return Ok(None),
        }
        self.terminal(&cell.id).await
    }

    /// Tells the program of a new size (SIGWINCH). Nothing happens without a terminal.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the container does not run.
    pub async fn resize(&self, reference: &str, size: WindowSize) -> Result<(), Error> {
        match self.terminal(reference).await? {
            Some(master) => set_size(&master, size),
            None => Ok(()),
        }
    }
}

/// Of the terminal behind any of its ends.
///
/// # Errors
/// [`Error::Failed`], if that is none.
pub fn set_size(terminal: &OwnedFd, size: WindowSize) -> Result<(), Error> {
    let size = Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size)
        .map_err(|e| Error::failed("set the terminal's size", e))
}
