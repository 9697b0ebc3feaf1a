//! The guard's process: other runtimes' containers have no shim of ours that could restore
//! them when the agent is killed.
//!
//! One thread, one `poll`. Owns the deadlines and the file that tells the next agent what is
//! held; each change is in the file before it is answered. It ends when it holds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use tenantry_cgroupfs::Restore;
use tenantry_container::record::write_json;

/// One per connection, a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Do these writes when the lease ends. Replaces what was held for that cgroup.
    Hold { cgroup: String, lease_ms: u64, restore: Vec<Restore> },
    /// They were done.
    LetGo { cgroup: String },
    /// Do all of them now, and end.
    End,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// What was held for this cgroup had lapsed before.
    pub lapsed: bool,
    /// Writes that failed at that time, or at the end.
    pub failed: usize,
}

/// What the next agent finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noted {
    pub cgroup: String,
    pub restore: Vec<Restore>,
}

/// The agent is local and root; whoever is slower hangs.
const PATIENCE: Duration = Duration::from_secs(1);
const MAX_LINE_BYTES: u64 = 4 << 20;
/// With no more than this many foreign containers metered at all, more is a mistake.
const MAX_HELD: usize = 1024;
/// How long one that nobody ever told anything waits.
const FIRST_WAIT: Duration = Duration::from_secs(10);

pub fn socket_path(run_dir: &Path) -> PathBuf {
    run_dir.join("guard.sock")
}

pub fn note_path(run_dir: &Path) -> PathBuf {
    run_dir.join("guard.json")
}

#[derive(Debug, Default)]
struct Keeper {
    held: BTreeMap<String, (Instant, Vec<Restore>)>,
    /// Lapsed and not told yet, with how many writes failed.
    lapsed: BTreeMap<String, usize>,
    note: PathBuf,
}

/// Serves `listener` until nothing is held.
///
/// # Errors
/// The file could not be written at the end, or `poll` failed.
pub fn serve(listener: &UnixListener, run_dir: &Path) -> std::io::Result<()> {
    let mut keeper = Keeper { note: note_path(run_dir), ..Keeper::default() };
    let mut patience = Some(Instant::now() + FIRST_WAIT);
    loop {
        let deadline = keeper.held.values().map(|(deadline, _)| *deadline).chain(patience).min();
        let timeout = deadline.map(|deadline| {
            // A millisecond more, so that the deadline has passed when the wait is over.
            let left =
                deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let mut polled = [PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN)];
        let ready = poll(&mut polled, timeout.as_ref())?;
        let mut ends = false;
        if ready > 0
            && let Ok((stream, _)) = listener.accept()
        {
            ends = keeper.answer(stream).unwrap_or(false);
            patience = None;
        }
        keeper.look_at_the_clock(Instant::now());
        let is_idle = keeper.held.is_empty() && patience.is_none_or(|end| end <= Instant::now());
        if ends || is_idle {
            // The name before the socket: who finds nobody listening may bind it anew.
            let _ = std::fs::remove_file(socket_path(run_dir));
            return match std::fs::remove_file(&keeper.note) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        }
    }
}

impl Keeper {
    /// `true`: this was the last.
    fn answer(&mut self, mut stream: UnixStream) -> std::io::Result<bool> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut line = String::new();
        BufReader::new((&stream).take(MAX_LINE_BYTES)).read_line(&mut line)?;
        let request: Request = serde_json::from_str(&line)?;
        let ends = matches!(request, Request::End);
        let reply = self.take(request)?;
        let mut line = serde_json::to_vec(&reply)?;
        line.push(b'\n');
        stream.write_all(&line)?;
        Ok(ends)
    }

    /// An error is no answer, and so no promise.
    fn take(&mut self, request: Request) -> std::io::Result<Reply> {
        let cgroup = match request {
            Request::Hold { cgroup, lease_ms, restore } => {
                if self.held.len() >= MAX_HELD && !self.held.contains_key(&cgroup) {
                    return Err(std::io::Error::other("too many are held"));
                }
                let deadline = Instant::now() + Duration::from_millis(lease_ms);
                let before = self.held.insert(cgroup.clone(), (deadline, restore));
                if let Err(error) = self.write_note() {
                    match before {
                        Some(before) => self.held.insert(cgroup, before),
                        None => self.held.remove(&cgroup),
                    };
                    return Err(error);
                }
                cgroup
            }
            Request::LetGo { cgroup } => {
                self.held.remove(&cgroup);
                self.write_note()?;
                cgroup
            }
            Request::End => {
                let all = std::mem::take(&mut self.held);
                let failed = all.values().map(|(_, restore)| restore_each(restore)).sum();
                return Ok(Reply { lapsed: false, failed });
            }
        };
        let lapsed = self.lapsed.remove(&cgroup);
        Ok(Reply { lapsed: lapsed.is_some(), failed: lapsed.unwrap_or(0) })
    }

    fn look_at_the_clock(&mut self, now: Instant) {
        let is_due = |(_, (deadline, _)): &(&String, &(Instant, Vec<Restore>))| *deadline <= now;
        let due: BTreeSet<String> =
            self.held.iter().filter(is_due).map(|(cgroup, _)| cgroup.clone()).collect();
        for cgroup in &due {
            if let Some((_, restore)) = self.held.remove(cgroup) {
                self.lapsed.insert(cgroup.clone(), restore_each(&restore));
            }
        }
        if !due.is_empty() {
            // What stays in it is restored once more, which does nothing.
            let _ = self.write_note();
        }
    }

    fn write_note(&self) -> std::io::Result<()> {
        let note: Vec<Noted> = self
            .held
            .iter()
            .map(|(cgroup, (_, restore))| Noted {
                cgroup: cgroup.clone(),
                restore: restore.clone(),
            })
            .collect();
        write_json(&self.note, &note, false)
    }
}

/// How many failed.
pub fn restore_each(restore: &[Restore]) -> usize {
    restore.iter().filter(|restore| restore.run().is_err()).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::client::ask;

    fn limit(dir: &Path, name: &str) -> Restore {
        let path = dir.join(name);
        std::fs::write(&path, "tight\n").unwrap();
        Restore { path, text: "loose".into(), only_over: vec!["tight".into()] }
    }

    fn says(restore: &Restore) -> String {
        std::fs::read_to_string(&restore.path).unwrap().trim().to_owned()
    }

    fn hold(cgroup: &str, lease_ms: u64, restore: &Restore) -> Request {
        Request::Hold { cgroup: cgroup.into(), lease_ms, restore: vec![restore.clone()] }
    }

    #[test]
    fn what_is_held_is_noted_restored_at_its_time_and_then_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().to_owned();
        let listener = UnixListener::bind(socket_path(&run_dir)).unwrap();
        let (soon, later) = (limit(&run_dir, "soon"), limit(&run_dir, "later"));
        let serving = std::thread::spawn({
            let run_dir = run_dir.clone();
            move || serve(&listener, &run_dir)
        });
        let none = Reply { lapsed: false, failed: 0 };
        assert_eq!(ask(&run_dir, &hold("/a", 200, &soon)).unwrap(), none);
        assert_eq!(ask(&run_dir, &hold("/b", 60_000, &later)).unwrap(), none);
        let noted: Vec<Noted> =
            serde_json::from_slice(&std::fs::read(note_path(&run_dir)).unwrap()).unwrap();
        assert_eq!(noted.len(), 2);
        assert_eq!(noted[0], Noted { cgroup: "/a".into(), restore: vec![soon.clone()] });
        let deadline = Instant::now() + Duration::from_secs(20);
        while says(&soon) != "loose" {
            assert!(Instant::now() < deadline, "not restored");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(says(&later), "tight");
        let reply = ask(&run_dir, &Request::LetGo { cgroup: "/a".into() }).unwrap();
        assert_eq!(reply, Reply { lapsed: true, failed: 0 });
        ask(&run_dir, &Request::End).unwrap();
        assert_eq!(says(&later), "loose");
        serving.join().unwrap().unwrap();
        assert!(!note_path(&run_dir).exists() && !socket_path(&run_dir).exists());
        assert!(ask(&run_dir, &Request::End).is_err());
    }

    #[test]
    fn it_ends_when_it_holds_nothing_any_more() {
        let dir = tempfile::tempdir().unwrap();
        let run_dir = dir.path().to_owned();
        let listener = UnixListener::bind(socket_path(&run_dir)).unwrap();
        let restore = limit(&run_dir, "limit");
        let serving = std::thread::spawn({
            let run_dir = run_dir.clone();
            move || serve(&listener, &run_dir)
        });
        ask(&run_dir, &hold("/a", 60_000, &restore)).unwrap();
        ask(&run_dir, &Request::LetGo { cgroup: "/a".into() }).unwrap();
        serving.join().unwrap().unwrap();
        assert_eq!(says(&restore), "tight", "what was let go is not written");
    }
}
