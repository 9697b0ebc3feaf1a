//! A further process in a running container: `exec`.
//!
//! Born in the container's cgroup and pid namespace, it enters the others by itself, as
//! the shim's further processes do, and gives up the same privileges as a first one.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tenantry_shim::cgroup::{Doors, Placement};
use tenantry_shim::channel::{self, ChildEnd, FromChild, ShimEnd};
use tenantry_shim::failure::{at, failure};
use tenantry_shim::protocol::Failure;
use tenantry_shim::sys::{self, Cloned};
use tenantry_shim::{launch, privileges, program, terminal};

use crate::birth::{self, Born};
use crate::config::ProcessPlan;
use crate::error::Error;
use crate::{gate, home};

#[derive(Debug)]
pub struct Further<'a> {
    pub process: &'a ProcessPlan,
    /// The container's first process.
    pub init: OwnedFd,
    pub user_namespace: bool,
    pub placement: &'a Placement,
    pub seccomp: Option<Vec<u8>>,
    pub console: Option<&'a Path>,
}

/// Its program runs afterwards. This process' own children are from here on born in the
/// container's pid namespace: it must have no others.
pub fn start(further: Further<'_>) -> Result<Born, Error> {
    let doors = further.placement.open()?;
    let (line, child_end) = channel::pair().map_err(at("socketpair", "exec"))?;
    move_into_thread_name_spaces(further.init.as_fd(), ThreadNameSpaceType::PROCESS_ID)
        .map_err(at("setns", "pid namespace"))?;
    let (pid, pidfd) = match sys::clone3(0, Some(doors.unified.as_fd())) {
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Cloned::Child) => {
            drop(line);
            live(&further, doors, &child_end)
        }
        Err(errno) => return Err(failure("clone3", "exec", errno).into()),
    };
    drop((child_end, doors));
    let born = Born { pid, pidfd };
    match attend(&born, &line, &further) {
        Ok(()) => Ok(born),
        Err(error) => {
            launch::kill_and_reap(born.pidfd.as_fd());
            Err(error)
        }
    }
}

fn attend(born: &Born, line: &ShimEnd, further: &Further<'_>) -> Result<(), Error> {
    if let Some(score) = further.process.process.oom_score_adj {
        let path = format!("/proc/{}/oom_score_adj", born.pid);
        launch::write_file(&path, &score.to_string())?;
    }
    birth::expect_ready(line, further.console)?;
    birth::limit_process(born.pid, &further.process.rlimits)?;
    line.go().map_err(at("send", "exec"))?;
    match gate::receive(line)? {
        FromChild::Failed(failure) => Err(failure.into()),
        _ => Ok(()),
    }
}

fn live(further: &Further<'_>, doors: Doors, line: &ChildEnd) -> ! {
    let init = further.init.as_fd();
    let failure = match become_process(further, init, doors, line) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    line.fail(&failure);
    sys::exit_now(1)
}

fn become_process(
    further: &Further<'_>,
    init: BorrowedFd<'_>,
    doors: Doors,
    line: &ChildEnd,
) -> Result<Infallible, Failure> {
    let process = &further.process.process;
    let _ = rustix::process::setsid();
    birth::enter(init, further.user_namespace)?;
    if further.user_namespace {
        privileges::become_mapped_root()?;
    }
    if let Some(size) = process.terminal {
        let pty = terminal::take(process, size, line)?;
        launch::take_stdio(&pty.slave, &pty.slave, &pty.slave)?;
    }
    further.placement.join_v1(&doors)?;
    drop(doors);
    launch::close_all_but(line)?;
    launch::enter_directory(&process.cwd)?;
    let program = program::prepare(&home::with_home(process))?;
    program.look()?;
    line.say_ready().map_err(at("send", "exec"))?;
    line.wait_for_go().map_err(at("read", "exec"))?;
    birth::execute(further.process, further.seccomp.as_deref(), &program)
}
