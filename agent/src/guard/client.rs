//! The agent's side of its guard: started when the first lease needs it, asked for each.
//!
//! Owns the socket's name and the start. The guard gets the listening socket from here, so
//! that it can be asked before it has looked.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::keeper::{Noted, Reply, Request, note_path, restore_each, socket_path};

/// It writes some files at most before it answers.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Guard {
    run_dir: PathBuf,
    /// To be reaped when it has ended.
    child: Mutex<Option<Child>>,
}

impl Guard {
    /// Takes over from an earlier agent: what it left throttled is restored, by its guard or,
    /// if that is gone too, by its note. Blocks for some milliseconds.
    pub fn open(run_dir: &Path) -> Self {
        let note = note_path(run_dir);
        if let Ok(reply) = ask(run_dir, &Request::End) {
            tracing::info!(failed = reply.failed, "an earlier agent's guard has ended");
        } else if let Ok(bytes) = std::fs::read(&note) {
            let noted: Vec<Noted> = serde_json::from_slice(&bytes).unwrap_or_default();
            for Noted { cgroup, restore } in &noted {
                let failed = restore_each(restore);
                tracing::info!(cgroup, failed, "an earlier agent's throttle taken back");
            }
            let _ = std::fs::remove_file(&note);
        }
        Self { run_dir: run_dir.to_owned(), child: Mutex::default() }
    }

    /// Asks; starts a guard first if none answers. Blocks.
    ///
    /// # Errors
    /// No promise was made: nothing may be tightened.
    pub fn hold(&self, request: &Request) -> std::io::Result<Reply> {
        if let Ok(reply) = ask(&self.run_dir, request) {
            return Ok(reply);
        }
        self.start()?;
        ask(&self.run_dir, request)
    }

    /// Asks if there is one. Without one nothing is held.
    pub fn let_go(&self, cgroup: &str) -> Option<Reply> {
        ask(&self.run_dir, &Request::LetGo { cgroup: cgroup.to_owned() }).ok()
    }

    /// Everything that is held is restored, and the guard ends.
    pub fn end(&self) {
        let _ = ask(&self.run_dir, &Request::End);
        if let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = child.wait();
        }
    }

    fn start(&self) -> std::io::Result<()> {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut gone) = child.take() {
            // It holds nothing and is about to end, or has.
            let _ = gone.kill();
            let _ = gone.wait();
        }
        let socket = socket_path(&self.run_dir);
        let _ = std::fs::remove_file(&socket);
        let listener = UnixListener::bind(&socket)?;
        let started = Command::new(std::env::current_exe()?)
            .args(["guard", "keep"])
            .arg(&self.run_dir)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        *child = Some(started);
        Ok(())
    }
}

pub(super) fn ask(run_dir: &Path, request: &Request) -> std::io::Result<Reply> {
    let mut stream = UnixStream::connect(socket_path(run_dir))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(&stream).read_line(&mut answer)?;
    Ok(serde_json::from_str(&answer)?)
}
