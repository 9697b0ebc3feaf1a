//! The container as its shim holds it: processes, output, what it will leave.
//!
//! Executes what `serve` asks for; decides no phase and knows no connection but
//! by its number.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use tenantry_shim::log::Stream;
use tenantry_shim::protocol::{ExitRecord, ExitStatus, Failure, Reply};
use tenantry_shim::spec::{LaunchSpec, Namespace, Process};

use crate::channel::{FromChild, Pty, ShimEnd};
use crate::exec::{Execution, Home};
use crate::failure::failure;
use crate::launch::{self, Inherited};
use crate::log_file::{LogFile, Transfer, unix_ns};
use crate::{exit_file, sys};

/// Processes of `Exec` at a time; the next is refused with EAGAIN.
const MAX_EXECUTIONS: usize = 256;

#[derive(Debug)]
pub struct Container {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub channel: ShimEnd,
    pub started_unix_ns: u64,
    /// Once the first process was reaped.
    pub status: Option<ExitStatus>,
    pub executions: Vec<Execution>,
    home: Home,
    seccomp: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    terminal: Option<Pty>,
    log: LogFile,
    exit_path: PathBuf,
    /// If its pid namespace is not its own: the cgroup's.
    kill_file: Option<String>,
}

/// What is to be told to the connection of an `Exec`.
#[derive(Debug)]
pub enum ExecNews {
    Said(Reply),
    /// The master of its terminal.
    Terminal(OwnedFd),
}

impl Container {
    /// The first process exists afterwards and waits at the gate.
    pub fn launch(spec: LaunchSpec, inherited: Inherited) -> Result<Self, Failure> {
        let home = Home::of(&spec);
        let log = LogFile::open(&spec.log_path, spec.log_bound)?;
        let shares_pids = spec.namespaces.pid != Namespace::New;
        let kill_file = spec.cgroup.unified.join("cgroup.kill").display().to_string();
        let launched = launch::launch(&spec, &home.placement, &inherited)?;
        let (stdout, stderr) = match launched.outputs {
            Some(outputs) => (Some(outputs.stdout), Some(outputs.stderr)),
            None => (None, None),
        };
        Ok(Self {
            pid: launched.pid,
            pidfd: launched.pidfd,
            channel: launched.channel,
            started_unix_ns: 0,
            status: None,
            executions: Vec::new(),
            home,
            seccomp: inherited.seccomp,
            stdout,
            stderr,
            terminal: None,
            log,
            exit_path: spec.exit_path,
            kill_file: shares_pids.then_some(kill_file),
        })
    }

    /// Until then nobody looks at the outputs.
    pub fn is_held_up(&self) -> bool {
        self.log.is_held()
    }

    pub fn look_at_readers(&mut self) {
        self.log.look_at_readers();
    }

    /// The output pipes that still have a writer, or the terminal until it is hung up.
    pub fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let pipes = [(Stream::Stdout, self.stdout()), (Stream::Stderr, self.stderr.as_ref())];
        pipes.into_iter().filter_map(|(stream, pipe)| Some((stream, pipe?.as_fd())))
    }

    /// A terminal's output is all standard output.
    fn stdout(&self) -> Option<&OwnedFd> {
        self.terminal.as_ref().map(|pty| &pty.master).or(self.stdout.as_ref())
    }

    pub fn take_terminal(&mut self, pty: Pty) {
        self.terminal = Some(pty);
    }

    /// A copy of the terminal's master, for the agent.
    pub fn share_terminal(&self) -> Option<OwnedFd> {
        self.terminal.as_ref()?.master.try_clone().ok()
    }

    /// The first process has ended. Until here our copy kept the terminal from being hung up by
    /// processes that closed theirs for a moment; now the end of the last of theirs is the end of
    /// the output, and nobody's slowness holds it up.
    pub fn let_output_end(&mut self) {
        self.log.end_waiting();
        let Some(pty) = self.terminal.take() else { return };
        drop(pty.slave);
        self.stdout = Some(pty.master);
    }

    pub fn transfer(&mut self, stream: Stream) -> Transfer {
        // Not `stdout()`: the log is to be changed meanwhile.
        let terminal = self.terminal.as_ref().map(|pty| &pty.master);
        let pipe = match stream {
            Stream::Stdout => terminal.or(self.stdout.as_ref()),
            Stream::Stderr => self.stderr.as_ref(),
        };
        let Some(open) = pipe else { return Transfer::End };
        let transfer = self.log.transfer(open, stream);
        if transfer == Transfer::End {
            match stream {
                Stream::Stdout => (self.stdout, self.terminal) = (None, None),
                Stream::Stderr => self.stderr = None,
            }
        }
        transfer
    }

    pub fn running(&self) -> Reply {
        Reply::Running { pid: self.pid, started_unix_ns: self.started_unix_ns }
    }

    /// 0 or an errno.
    pub fn signal(&self, signal: i32) -> i32 {
        errno_of(sys::send_signal(self.pidfd.as_fd(), signal))
    }

    pub fn signal_execution(&self, connection: u64, signal: i32) -> i32 {
        let of_connection = |execution: &&Execution| execution.connection == connection;
        match self.executions.iter().find(of_connection) {
            Some(execution) => errno_of(sys::send_signal(execution.pidfd.as_fd(), signal)),
            None => libc::ESRCH,
        }
    }

    pub fn execute(
        &mut self,
        connection: u64,
        process: &Process,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(), Failure> {
        let wrong = |_| failure("recvmsg", "three descriptors of stdio", Errno::BADF);
        let stdio = match process.terminal {
            None => Some(<[OwnedFd; 3]>::try_from(descriptors).map_err(wrong)?),
            Some(_) => None,
        };
        if self.executions.len() >= MAX_EXECUTIONS {
            return Err(failure("exec", "too many processes", Errno::AGAIN));
        }
        if self.executions.iter().any(|execution| execution.connection == connection) {
            return Err(failure("exec", "one process per connection", Errno::BUSY));
        }
        let execution = self.home.execute(
            connection,
            process,
            stdio,
            self.pidfd.as_fd(),
            self.seccomp.as_ref(),
        )?;
        self.executions.push(execution);
        Ok(())
    }

    /// What is to be told to whom. A failed one is gone afterwards.
    pub fn look_at_exec_channel(&mut self, pid: i32) -> Option<(u64, ExecNews)> {
        let index = self.executions.iter().position(|execution| execution.pid == pid)?;
        let execution = &mut self.executions[index];
        let failed = match execution.channel.as_ref()?.receive()? {
            FromChild::Failed(failure) => failure,
            FromChild::Ready => return None,
            FromChild::Terminal(pty) => {
                return Some((execution.connection, ExecNews::Terminal(pty.master)));
            }
            FromChild::Closed => {
                execution.channel = None;
                let running = Reply::ExecRunning { pid };
                return Some((execution.connection, ExecNews::Said(running)));
            }
        };
        let execution = self.executions.remove(index);
        launch::kill_and_reap(execution.pidfd.as_fd());
        Some((execution.connection, ExecNews::Said(Reply::ExecFailed(failed))))
    }

    /// Its end, and before it whatever it still had to say.
    pub fn look_at_exec_process(&mut self, pid: i32) -> Vec<(u64, ExecNews)> {
        let mut replies = Vec::new();
        while let Some(news) = self.look_at_exec_channel(pid) {
            replies.push(news);
        }
        let index = self.executions.iter().position(|execution| execution.pid == pid);
        if let Some(index) = index
            && let Some(status) = reaped(self.executions[index].pidfd.as_fd())
        {
            let execution = self.executions.remove(index);
            replies.push((execution.connection, ExecNews::Said(Reply::ExecExited(status))));
        }
        replies
    }

    /// With its first process a pid namespace ends, and all who are in it. Without one of its own
    /// the container's other processes would live on, and hold its output open.
    pub fn end_the_rest(&self) {
        if let Some(kill_file) = &self.kill_file {
            // A kernel before 5.14 has no such file; the agent kills them one by one then.
            let _ = launch::write_file(kill_file, "1");
        }
    }

    /// The exit file, then what the watchers are told.
    pub fn conclude(&mut self) -> Option<Reply> {
        let status = self.status?;
        let record = ExitRecord { status, lost_output_bytes: self.log.lost_bytes() };
        // Nobody is left to tell of an error here but those who hear the status.
        let _ = exit_file::write(&self.exit_path, &record);
        Some(Reply::Exited(status))
    }

    /// Ends and reaps the first process.
    pub fn undo(self) {
        if self.status.is_none() {
            launch::kill_and_reap(self.pidfd.as_fd());
        }
    }
}

/// The status of a child that has ended, and the end of its zombie.
pub fn reaped(pidfd: BorrowedFd<'_>) -> Option<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), options)).ok()??;
    let signal = status.terminating_signal();
    let code = match signal {
        Some(signal) => 128 + signal,
        None => status.exit_status().unwrap_or_default(),
    };
    Some(ExitStatus { code, signal, finished_unix_ns: unix_ns() })
}

fn errno_of(result: Result<(), Errno>) -> i32 {
    result.map_or_else(Errno::raw_os_error, |()| 0)
}
