//! `exec`: a further process in a running container.
//!
//! Owns the request's validation and the handle. The process is the shim's
//! child; its three descriptors travel over the shim's socket.

use std::{io, os::fd::OwnedFd, sync::Arc};

use serde::{Deserialize, Serialize};
use tenantry_shim::{
    protocol::{ExitStatus, Reply, Request},
    spec::{Process, WindowSize},
};
use tokio::sync::{Mutex, watch};

use super::{Engine, Shared, blocking, cell::Cell, world};
use crate::{
    config::{check_absolute, check_texts},
    error::Error,
    events::Action,
    process::{merge_env, with_home, with_term},
    record::Record,
    shim::connection::{self, Replies, Requests},
    user,
};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExecRequest {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// Over the container's own variables, as in `ContainerConfig::env`.
    pub env: Vec<String>,
    /// Default: the container's.
    pub working_dir: Option<String>,
    /// Default: the container's. Names as in the running container's `/etc/passwd`.
    pub user: Option<String>,
}

/// Where the process reads and writes.
#[derive(Debug)]
pub enum ExecStdio {
    /// Closed here once it has them.
    Pipes { stdin: OwnedFd, stdout: OwnedFd, stderr: OwnedFd },
    /// A new one of the container's, see [`ExecHandle::take_terminal`].
    Terminal(WindowSize),
}

/// A process that runs, or ran. Dropping the handle ends the wait, not the process.
#[derive(Debug)]
pub struct ExecHandle {
    /// As the host sees it.
    pub pid: i32,
    requests: Arc<Mutex<Requests>>,
    exit: watch::Receiver<Option<ExitStatus>>,
    terminal: Option<OwnedFd>,
}

impl Engine {
    /// Returns once the program has been executed.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the container does not run, [`Error::Program`] if
    /// the program cannot be executed.
    pub async fn exec(
        &self,
        reference: &str,
        request: ExecRequest,
        stdio: ExecStdio,
    ) -> Result<ExecHandle, Error> {
        let (shared, cell) = self.target(reference)?;
        let (record, running) = {
            let inner = cell.lock();
            (inner.record.clone(), inner.running.clone())
        };
        let Some(running) = running else {
            let state = record.state.as_str();
            return Err(Error::Conflict(format!("container {} is {state}", record.name)));
        };
        if record.paused {
            let why = "is paused, unpause the container before exec";
            return Err(Error::Conflict(format!("Container {} {why}", record.name)));
        }
        let pid = running.live.pid;
        let line = request.args.join(" ");
        let terminal = match &stdio {
            ExecStdio::Terminal(size) => Some(*size),
            ExecStdio::Pipes { .. } => None,
        };
        let resolved = move || {
            let mut process = resolve(&record, request, pid)?;
            process.terminal = terminal;
            process.env = with_term(process.env, terminal.is_some());
            Ok(process)
        };
        let process = blocking("exec", resolved).await?;
        shared.tell(&cell, Action::ExecCreate, &[("execCommand", line.clone())]);
        let request = Request::Exec(Box::new(process));
        let socket = world::socket_path(&shared, &cell);
        let failed = |error: io::Error| Error::failed("ask the shim for exec", error);
        let opened = match stdio {
            ExecStdio::Pipes { stdin, stdout, stderr } => {
                let descriptors = [stdin, stdout, stderr];
                connection::open_with_descriptors(&socket, &request, descriptors).await
            }
            ExecStdio::Terminal(_) => connection::open(&socket, &request).await,
        };
        let (requests, mut replies) = opened.map_err(failed)?;
        let (first, terminal) = match replies.receive_first().await.map_err(failed)? {
            Some((Reply::Terminal, terminal)) => {
                (replies.receive().await.map_err(failed)?, terminal)
            }
            Some((reply, _)) => (Some(reply), None),
            None => (None, None),
        };
        let pid = match first {
            Some(Reply::ExecRunning { pid }) => pid,
            Some(Reply::ExecFailed(failure)) => return Err(failure.into()),
            Some(other) => return Err(failed(io::Error::other(format!("answer {other:?}")))),
            None => return Err(Error::Conflict("the container has just ended".to_owned())),
        };
        shared.tell(&cell, Action::ExecStart, &[("execCommand", line.clone())]);
        let (sender, exit) = watch::channel(None);
        let requests = Arc::new(Mutex::new(requests));
        tokio::spawn(follow(shared, cell, line, (requests.clone(), replies), sender));
        Ok(ExecHandle { pid, requests, exit, terminal })
    }
}

impl ExecHandle {
    /// `None` while it runs.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        *self.exit.borrow()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// The shim was lost, and with it the exit status.
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        let mut exit = self.exit.clone();
        let known = exit.wait_for(Option::is_some).await;
        let known = known.ok().and_then(|status| *status);
        known.ok_or_else(|| Error::failed("wait for exec", "the shim was lost"))
    }

    /// The master of the process' terminal, once, if it has one. It does not block; when its
    /// last copy is closed, the process is hung up.
    pub fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    pub async fn signal(&self, signal: i32) -> Result<(), Error> {
        let sent = self.requests.lock().await.send(&Request::SignalExec { signal }).await;
        sent.map_err(|e| Error::failed("signal exec", e))
    }
}

async fn follow(
    shared: Arc<Shared>,
    cell: Arc<Cell>,
    line: String,
    (requests, mut replies): (Arc<Mutex<Requests>>, Replies),
    sender: watch::Sender<Option<ExitStatus>>,
) {
    // Signalled and whatever a later shim may say in between is skipped.
    while let Ok(Some(reply)) = replies.receive().await {
        if let Reply::ExecExited(status) = reply {
            let code = status.code.to_string();
            let attributes = [("execCommand", line), ("exitCode", code)];
            shared.tell(&cell, Action::ExecDie, &attributes);
            sender.send_replace(Some(status));
            break;
        }
    }
    drop(requests);
}

fn resolve(record: &Record, request: ExecRequest, pid: i32) -> Result<Process, Error> {
    if request.args.first().is_none_or(String::is_empty) {
        return Err(Error::invalid("command", "", "a program"));
    }
    check_texts("command", &request.args)?;
    check_texts("env", &request.env)?;
    let own = &record.process;
    let cwd = request.working_dir.unwrap_or_else(|| own.cwd.clone());
    check_absolute("working_dir", &cwd)?;
    let mut process = Process {
        args: request.args,
        env: merge_env(&own.env, &request.env, &record.hostname),
        cwd,
        terminal: None,
        ..own.clone()
    };
    if let Some(name) = request.user {
        let root = [format!("/proc/{pid}/root")];
        let passwd = user::read_from_layers(&root, "etc/passwd")?;
        let group = user::read_from_layers(&root, "etc/group")?;
        let user = user::parse_user(&name, &passwd, &group)?;
        process.env.retain(|entry| !entry.starts_with("HOME="));
        process.env = with_home(process.env, &user.home);
        process.uid = user.uid;
        process.gid = user.gid;
        process.additional_gids = user.additional_gids;
    }
    Ok(process)
}
