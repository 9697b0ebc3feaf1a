//! `--init`: a first process that does what the kernel leaves to the first process.
//!
//! Called in the child instead of [`launch::finish`], at the very end. The program is its own
//! child: it gets every signal that the first process gets, and whoever is left without a
//! parent is reaped here. Without an init a program as the first process is deaf to signals that
//! it has no handler for, and leaves others' zombies. It has the program's own user and
//! privileges, and ends as the program did, with which everything in the pid namespace ends.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::io::Errno;
use rustix::process::{WaitOptions, WaitStatus};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Process;

use crate::channel::ChildEnd;
use crate::failure::{at, failure};
use crate::program::Program;
use crate::sys::{self, Cloned};
use crate::{launch, privileges};

/// Returns only with a failure before the program was executed.
pub fn run(
    process: &Process,
    seccomp: Option<&[u8]>,
    program: &Program,
    channel: &ChildEnd,
) -> Result<std::convert::Infallible, Failure> {
    // From here on none is lost: what comes before the wait is waited for.
    sys::block_signals(true);
    match sys::clone3(0, None) {
        Ok(Cloned::Parent { pid, pidfd }) => {
            privileges::assume(process, seccomp)?;
            // Best effort: it is for who looks at a list of processes.
            let _ = rustix::thread::set_name(c"init");
            let own = channel.as_fd().as_raw_fd().unsigned_abs();
            // Now the end of the line tells that the program was executed.
            sys::close_range(own, own).map_err(at("close_range", own))?;
            look_after(pid, pidfd.as_fd())
        }
        Ok(Cloned::Child) => {
            come_to_the_front(process);
            sys::block_signals(false);
            let failure = match launch::finish(process, seccomp, program) {
                Ok(never) => match never {},
                Err(failure) => failure,
            };
            channel.fail(&failure);
            sys::exit_now(1)
        }
        Err(errno) => Err(failure("clone3", "the program below its init", errno)),
    }
}

/// A process group of its own, and the terminal's foreground: what is typed there is for the
/// program and not for its init.
fn come_to_the_front(process: &Process) {
    // Neither can fail in a way that would keep the program from running.
    let _ = rustix::process::setpgid(None, None);
    if process.terminal.is_some() {
        // While SIGTTOU is blocked a group in the background may do this.
        let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), rustix::process::getpgrp());
    }
}

fn look_after(program: i32, pidfd: BorrowedFd<'_>) -> ! {
    loop {
        // It may have ended before the first wait: its SIGCHLD is pending then.
        match sys::wait_for_signal() {
            Ok(libc::SIGCHLD) => {
                if let Some(code) = reap(program) {
                    sys::exit_now(code);
                }
            }
            Ok(signal) => {
                // A program that has just ended is told by the next SIGCHLD.
                let _ = sys::send_signal(pidfd, signal);
            }
            Err(Errno::INTR) => {}
            // A seccomp program of the user's that lets nobody wait for signals.
            Err(_) => sys::exit_now(wait_without_signals(program)),
        }
    }
}

/// Everybody who has ended; the program's exit code, if it has. One SIGCHLD may stand for many.
fn reap(program: i32) -> Option<i32> {
    let mut code = None;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                if pid.as_raw_pid() == program {
                    code = Some(code_of(status));
                }
            }
            Err(Errno::INTR) => {}
            Ok(None) | Err(_) => return code,
        }
    }
}

fn wait_without_signals(program: i32) -> i32 {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid.as_raw_pid() == program => return code_of(status),
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return 1,
        }
    }
}

/// As a shell says it.
fn code_of(status: WaitStatus) -> i32 {
    match status.terminating_signal() {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or_default(),
    }
}
