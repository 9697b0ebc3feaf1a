//! Runs a program whose output is read line by line as it comes, with a time limit.
//!
//! The program sits in a process group of its own, so that a time-out ends all of
//! it, and dies with xtask (`setpriv --pdeathsig`): an interrupted run leaves no
//! test and no virtual machine behind.

use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::process;

/// How a supervised program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exited(ExitStatus),
    /// Killed, since it ran longer than allowed.
    TimedOut(Duration),
    /// Killed, since it said nothing for longer than allowed.
    Silent(Duration),
    /// Killed, since the reader asked for it.
    Stopped,
}

/// What the reader of the lines wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Continue,
    Stop,
}

/// How long a program may take, and how long it may be silent.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub total: Duration,
    pub silence: Duration,
}

/// After a program's exit, how long output of its descendants is waited for.
const DRAIN: Duration = Duration::from_millis(500);
const POLL: Duration = Duration::from_millis(50);

/// A command that is killed when the thread that starts it ends, whichever way.
/// Program and arguments only: the environment is the caller's to add.
pub fn dying_with_us(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = process::command("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Runs `command` with stdout and stderr in one pipe and calls `each` per line.
/// "Dies with us" follows the calling thread: it ends after the program, or with xtask.
pub fn run_lines(
    command: &mut Command,
    limits: Limits,
    mut each: impl FnMut(&str) -> Next,
) -> Result<End> {
    let (reader, writer) = std::io::pipe().context("creating a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("duplicating a pipe")?)
        .stderr(writer)
        .process_group(0);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    // The command keeps its copies of the write end; the end of the output would
    // never be seen with them open.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let group = Pid::from_child(&child);

    let (sender, lines) = mpsc::channel::<String>();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(reader);
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
            let text = String::from_utf8_lossy(&line);
            if sender.send(text.trim_end_matches(['\n', '\r']).to_owned()).is_err() {
                break;
            }
            line.clear();
        }
    });

    let start = Instant::now();
    let mut last_line = start;
    let mut exited: Option<(ExitStatus, Instant)> = None;
    let mut open = true;
    loop {
        if open {
            match lines.recv_timeout(POLL) {
                Ok(line) => {
                    last_line = Instant::now();
                    if each(&line) == Next::Stop {
                        kill(group, &mut child)?;
                        return Ok(End::Stopped);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => open = false,
            }
        } else if exited.is_none() {
            std::thread::sleep(POLL);
        }
        if exited.is_none() {
            exited =
                child.try_wait().context("waiting for a program")?.map(|s| (s, Instant::now()));
        }
        if let Some((status, at)) = exited {
            // A descendant that outlives the program may hold the pipe for ever.
            if !open || at.elapsed() > DRAIN && last_line.elapsed() > DRAIN {
                return Ok(End::Exited(status));
            }
        } else if start.elapsed() > limits.total {
            kill(group, &mut child)?;
            return Ok(End::TimedOut(limits.total));
        } else if last_line.elapsed() > limits.silence {
            kill(group, &mut child)?;
            return Ok(End::Silent(limits.silence));
        }
    }
}

fn kill(group: Pid, child: &mut std::process::Child) -> Result<()> {
    // The child is not reaped yet, so the group's number cannot be another's.
    kill_process_group(group, Signal::KILL).context("killing a process group")?;
    child.wait().context("waiting for a killed program")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(script: &str, total: Duration, silence: Duration) -> (End, Vec<String>) {
        let mut lines = Vec::new();
        let mut command = dying_with_us("sh");
        command.args(["-c", script]);
        let end = run_lines(&mut command, Limits { total, silence }, |line| {
            lines.push(line.to_owned());
            if line == "stop" { Next::Stop } else { Next::Continue }
        });
        (end.unwrap(), lines)
    }

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn both_streams_come_line_by_line_and_the_status_is_kept() {
        let (end, lines) = run("echo a; echo b >&2; printf c; exit 3", LONG, LONG);
        assert_eq!(lines, ["a", "b", "c"]);
        assert!(matches!(end, End::Exited(status) if status.code() == Some(3)));
    }

    #[test]
    fn a_program_that_takes_too_long_or_says_nothing_is_killed() {
        let short = Duration::from_millis(300);
        assert_eq!(
            run("while :; do echo x; sleep 0.05; done", short, LONG).0,
            End::TimedOut(short)
        );
        assert_eq!(run("echo x; sleep 60", LONG, short).0, End::Silent(short));
    }

    #[test]
    fn the_reader_can_stop_the_program() {
        assert_eq!(run("echo a; echo stop; sleep 60", LONG, LONG).0, End::Stopped);
    }

    #[test]
    fn a_descendant_that_keeps_the_pipe_open_is_not_waited_for() {
        let start = Instant::now();
        let (end, _) = run("sleep 5 & echo a", LONG, LONG);
        assert!(matches!(end, End::Exited(status) if status.success()));
        assert!(start.elapsed() < Duration::from_secs(4));
    }
}
