//! Further processes in a running container.
//!
//! Each is born in the container's cgroup and pid namespace, enters the others,
//! and gives up the same privileges as the first process. Called by `serve`, which
//! watches the pidfds. The kernel kills them all when the first process ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Gid, Uid};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::{IdMapping, LaunchSpec, NetworkNamespace, Process};

use crate::cgroup::{Doors, Placement};
use crate::channel::{self, ChildEnd, ShimEnd};
use crate::failure::{at, failure};
use crate::launch;
use crate::sys::{self, Cloned};
use crate::{privileges, program, terminal};

/// What of the spec later processes need.
#[derive(Debug)]
pub struct Home {
    pub placement: Placement,
    namespaces: ThreadNameSpaceType,
    mapping: Option<IdMapping>,
    /// The shim's own children are born in the container's pid namespace.
    births_moved: bool,
}

/// A process that is on its way or runs.
#[derive(Debug)]
pub struct Execution {
    /// [`crate::connection::Connection::id`].
    pub connection: u64,
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Until `execve` succeeds.
    pub channel: Option<ShimEnd>,
}

struct ChildInput<'a> {
    process: &'a Process,
    /// `None`: a terminal.
    stdio: Option<[OwnedFd; 3]>,
    init: BorrowedFd<'a>,
    seccomp: Option<&'a OwnedFd>,
    doors: Doors,
}

impl Home {
    pub fn of(spec: &LaunchSpec) -> Self {
        let mut namespaces = ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP;
        if spec.network != NetworkNamespace::Host {
            namespaces |= ThreadNameSpaceType::NETWORK;
        }
        if spec.user_namespace.is_some() {
            namespaces |= ThreadNameSpaceType::USER;
        }
        Self {
            placement: Placement::of(&spec.cgroup),
            namespaces,
            mapping: spec.user_namespace,
            births_moved: false,
        }
    }

    /// The process exists afterwards; whether it executes is told by its channel.
    pub fn execute(
        &mut self,
        connection: u64,
        process: &Process,
        stdio: Option<[OwnedFd; 3]>,
        init: BorrowedFd<'_>,
        seccomp: Option<&OwnedFd>,
    ) -> Result<Execution, Failure> {
        if !self.births_moved {
            move_into_thread_name_spaces(init, ThreadNameSpaceType::PROCESS_ID)
                .map_err(at("setns", "pid namespace"))?;
            self.births_moved = true;
        }
        for pipe in stdio.iter().flatten() {
            self.give_pipe(pipe, process)?;
        }
        let doors = self.placement.open()?;
        let (channel, child_end) = channel::pair().map_err(at("socketpair", "exec"))?;
        match sys::clone3(0, Some(doors.unified.as_fd())) {
            Ok(Cloned::Parent { pid, pidfd }) => {
                Ok(Execution { connection, pid, pidfd, channel: Some(channel) })
            }
            Ok(Cloned::Child) => {
                drop(channel);
                let input = ChildInput { process, stdio, init, seccomp, doors };
                let failure = match self.become_process(input, &child_end) {
                    Ok(never) => match never {},
                    Err(failure) => failure,
                };
                child_end.fail(&failure);
                sys::exit_now(1)
            }
            Err(errno) => Err(failure("clone3", "exec", errno)),
        }
    }

    /// Its user may open `/dev/stdout` again, as in the first process.
    fn give_pipe(&self, pipe: &OwnedFd, process: &Process) -> Result<(), Failure> {
        let stat = rustix::fs::fstat(pipe).map_err(at("fstat", "exec stdio"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Fifo {
            return Ok(());
        }
        let base = self.mapping.map_or(0, |mapping| mapping.host_base);
        let uid = Uid::from_raw(base.saturating_add(process.uid));
        let gid = Gid::from_raw(base.saturating_add(process.gid));
        rustix::fs::fchown(pipe, Some(uid), Some(gid)).map_err(at("fchown", "exec stdio"))
    }

    fn become_process(
        &self,
        input: ChildInput<'_>,
        channel: &ChildEnd,
    ) -> Result<std::convert::Infallible, Failure> {
        let process = input.process;
        sys::block_signals(false);
        let _ = rustix::process::setsid();
        if let Some(score) = process.oom_score_adj {
            launch::write_file("/proc/self/oom_score_adj", &score.to_string())?;
        }
        privileges::raise_limits(process, None)?;
        let program = program::prepare(process)?;
        let seccomp = launch::read_seccomp(input.seccomp)?;
        if let Some([stdin, stdout, stderr]) = &input.stdio {
            launch::take_stdio(stdin, stdout, stderr)?;
        }
        move_into_thread_name_spaces(input.init, self.namespaces)
            .map_err(at("setns", "container"))?;
        if self.mapping.is_some() {
            privileges::become_mapped_root()?;
        }
        if let Some(size) = process.terminal {
            let pty = terminal::take(process, size, channel)?;
            launch::take_stdio(&pty.slave, &pty.slave, &pty.slave)?;
        }
        self.placement.join_v1(&input.doors)?;
        drop((input.stdio, input.doors));
        launch::close_all_but(channel)?;
        launch::finish(process, seccomp.as_deref(), &program)
    }
}
