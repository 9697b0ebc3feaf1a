//! The conversation over a shim's socket: one JSON object per line, both ways.
//!
//! Every connection carries one request and then its replies. The agent keeps
//! one [`Request::Watch`] open for a container's whole life, and one
//! [`Request::Exec`] for each further process. While the start gate is shut, the
//! end of the last `Watch` connection makes the shim undo everything and exit:
//! an agent that dies in the middle of a start leaves nothing behind.
//!
//! ```text
//! agent                         shim
//!   Watch            ─────────▶
//!                    ◀─────────  Created { pid }      namespaces exist, gate shut
//!   Start (same connection) ──▶
//!                    ◀─────────  Running { pid, … }   execve succeeded
//!                    ◀─────────  Exited(status)       exit file written, log complete
//! ```
//!
//! A container whose limits are tightened for a while has a [`Request::Hold`] on a
//! connection of its own: a dead man's switch, which acts at its time whether or not
//! an agent is connected.

use serde::{Deserialize, Serialize};
use tenantry_cgroupfs::Restore;

use crate::spec::Process;

/// A longer line is refused and its connection closed.
pub const MAX_LINE_BYTES: usize = 4 << 20;

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Tell the current state, and each later one as it comes.
    Watch,
    /// Open the start gate. Only after `Watch`, on the same connection.
    Start,
    /// Send a signal to the container's first process.
    Signal { signal: i32 },
    /// Run a further process in the container's namespaces and cgroups. The
    /// first byte of the line carries three descriptors (`SCM_RIGHTS`): stdin,
    /// stdout, stderr; none if the process is to have a terminal.
    Exec(Box<Process>),
    /// Do these writes when the lease ends, unless it is renewed or let go before. Replaces
    /// what an earlier `Hold` said; answered by `Held`.
    Hold(Hold),
    /// The agent has taken the limits back itself: forget them. Answered by `Held`.
    LetGo,
    /// Signal a process that an earlier `Exec` on this connection started.
    SignalExec { signal: i32 },
    /// Hand over the first process' terminal. Answered by `Terminal`, or by `NoTerminal`.
    Terminal,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The container's process exists, in its namespaces. It prepares its mounts,
    /// joins its cgroups and waits at the gate; the agent need not wait for that.
    Created {
        pid: i32,
    },
    /// Its program runs. `pid` as the host sees it.
    Running {
        pid: i32,
        started_unix_ns: u64,
    },
    /// The container's first process ended and all its output is in the log.
    Exited(ExitStatus),
    /// The start failed and was undone; the shim exits after this line.
    Failed(Failure),
    /// The line's first byte carries a terminal's master (`SCM_RIGHTS`), which does not block.
    /// The shim itself keeps and reads the first process' one; that of an `Exec`, which is told
    /// before `ExecRunning`, is from here on the agent's alone and hangs up with it.
    Terminal,
    /// The container has none, or it was hung up.
    NoTerminal,
    ExecRunning {
        pid: i32,
    },
    ExecExited(ExitStatus),
    ExecFailed(Failure),
    /// The answer to `Hold` and `LetGo`: the lapse since the last such answer, if there was
    /// one. An agent that hears of it must not believe its limits in force.
    Held {
        lapse: Option<Lapse>,
    },
    /// The answer to `Signal` and `SignalExec`: 0 or an errno.
    Signalled {
        errno: i32,
    },
}

/// What is done when nobody has renewed it in time, all of it literal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// From the moment the shim reads it, by the monotonic clock.
    pub lease_ms: u64,
    /// In this order. One that fails does not keep the others from being done.
    pub restore: Vec<Restore>,
    /// A program to run after them, with its arguments, for what takes more than a write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

/// A lease that ended without a renewal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lapse {
    pub unix_ns: u64,
    /// Of the writes and of the command; the others were done.
    pub failures: Vec<Failure>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitStatus {
    /// The exit code, or 128 + signal, as shells and Docker say it.
    pub code: i32,
    pub signal: Option<i32>,
    pub finished_unix_ns: u64,
}

/// The whole content of the exit file: an [`ExitStatus`] and one more field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    #[serde(flatten)]
    pub status: ExitStatus,
    /// Output that the log lacks because it could not be written (a full disk).
    #[serde(default)]
    pub lost_output_bytes: u64,
}

/// Which step failed on what. Docker's exit codes follow from `errno`: 127 for a
/// program that is not found, 126 for one that cannot be executed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The operation, in the kernel's words: `execve`, `mount`, `clone3` …
    pub operation: String,
    /// What it was done to: a path, a namespace, a capability.
    pub object: String,
    pub errno: i32,
}
