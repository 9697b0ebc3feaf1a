//! The dead man's switch: writes that are done when a lease ends.
//!
//! Owns the hold, its deadline, and what happened when the last one lapsed. Chooses
//! nothing: the writes are literal, and a shim that cannot do one does the next.
//! Called by `serve`.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tenantry_shim::protocol::{Failure, Hold, Lapse};

use crate::container::reaped;
use crate::failure::failure;
use crate::log_file::unix_ns;
use crate::sys::{self, Cloned, ExecVectors};

/// A longer lease ends then: no clock can be told of a later time than it counts.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Default)]
pub struct Switch {
    held: Option<(Instant, Hold)>,
    lapse: Option<Lapse>,
    command: Option<OwnedFd>,
}

impl Switch {
    /// Takes the place of what was held. `Some` is the lapse that nobody has heard of.
    pub fn hold(&mut self, hold: Hold) -> Option<Lapse> {
        let deadline = Instant::now() + Duration::from_millis(hold.lease_ms).min(LONGEST);
        self.held = Some((deadline, hold));
        self.lapse.take()
    }

    pub fn let_go(&mut self) -> Option<Lapse> {
        if self.held.take().is_some() {
            // The spec's memory went back after the start; so does this.
            sys::trim_heap();
        }
        self.lapse.take()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.held.as_ref().map(|(deadline, _)| *deadline)
    }

    /// Readable when the command has ended.
    pub fn command(&self) -> Option<BorrowedFd<'_>> {
        self.command.as_ref().map(AsFd::as_fd)
    }

    /// Acts if the time has come.
    pub fn look_at_the_clock(&mut self) {
        if self.deadline().is_none_or(|deadline| Instant::now() < deadline) {
            return;
        }
        let Some((_, hold)) = self.held.take() else { return };
        let mut failures = Vec::new();
        for restore in &hold.restore {
            if let Err(error) = restore.run() {
                let errno = Errno::from_raw_os_error(error.errno().unwrap_or(libc::EIO));
                let what = format!("{} to {}", restore.text, restore.path.display());
                failures.push(failure("write", what, errno));
            }
        }
        match hold.command.as_deref().map(spawn) {
            Some(Ok(command)) => self.command = Some(command),
            Some(Err(failure)) => failures.push(failure),
            None => {}
        }
        self.lapse = Some(Lapse { unix_ns: unix_ns(), failures });
    }

    /// Its end, and how.
    pub fn look_at_command(&mut self) {
        let Some(status) = self.command.as_ref().and_then(|c| reaped(c.as_fd())) else { return };
        self.command = None;
        if status.code != 0 {
            let what = format!("the command, which ended with {}", status.code);
            // Somebody may have heard of the lapse before the command ended.
            let none = || Lapse { unix_ns: unix_ns(), failures: Vec::new() };
            let lapse = self.lapse.get_or_insert_with(none);
            lapse.failures.push(failure("restore", what, Errno::IO));
        }
    }
}

fn spawn(command: &[String]) -> Result<OwnedFd, Failure> {
    let name = command.first().map_or("", String::as_str);
    let failed = |errno| failure("execve", name, errno);
    let arguments = command.iter().map(|argument| CString::new(argument.as_str()));
    let arguments: Vec<CString> =
        arguments.collect::<Result<_, _>>().map_err(|_| failed(Errno::INVAL))?;
    let program = arguments.first().ok_or_else(|| failed(Errno::INVAL))?;
    let vectors = ExecVectors::new(&arguments, &[]);
    match sys::clone3(0, None).map_err(|errno| failure("clone3", name, errno))? {
        Cloned::Child => {
            sys::block_signals(false);
            let _ = vectors.execve(program);
            sys::exit_now(127)
        }
        Cloned::Parent { pidfd, .. } => Ok(pidfd),
    }
}
