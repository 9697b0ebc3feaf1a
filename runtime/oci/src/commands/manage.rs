//! Everything about a container that is there already.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::path::Path;

use oci_spec::runtime::LinuxResources;
use serde_json::json;
use tenantry_container::signals::parse_signal;
use tenantry_shim::sys;

use super::{MOST_BYTES, Runtime, read_document};
use crate::command_line::Format;
use crate::config::{OWN_PARENT, translate_resources};
use crate::error::{Error, failed};
use crate::hooks;
use crate::record::{Place, Record, Status};

impl Runtime {
    fn find(&self, id: &str) -> Result<(Place, Record, Status), Error> {
        let place = self.store.open(id)?;
        let record = place.read()?;
        let status = self.status(&place, &record);
        Ok((place, record, status))
    }

    /// Takes no turn, and changes nothing.
    fn look_at(&self, id: &str) -> Result<(Record, Status), Error> {
        let place = self.store.look_at(id)?;
        let record = place.read()?;
        let status = self.status(&place, &record);
        Ok((record, status))
    }

    pub fn state(&self, id: &str) -> Result<(), Error> {
        let (record, status) = self.look_at(id)?;
        println!("{:#}", record.state(status));
        Ok(())
    }

    pub fn kill(&self, id: &str, signal: &str, all: bool) -> Result<(), Error> {
        let number = parse_signal("signal", signal).map_err(|_| {
            Error::invalid("signal", signal, "a signal's name such as SIGTERM, or 1 to 64")
        })?;
        let (_place, record, status) = self.find(id)?;
        if all {
            return self.kill_all(&record, number);
        }
        let refused = Error::NotRunning { operation: "kill", id: id.to_owned(), status };
        if status == Status::Stopped {
            return Err(refused);
        }
        let first = record.pidfd().ok_or(refused)?;
        sys::send_signal(first.as_fd(), number).map_err(failed("signal", record.pid))
    }

    fn kill_all(&self, record: &Record, signal: i32) -> Result<(), Error> {
        let group = self.group(record);
        if signal == libc::SIGKILL {
            return match group.kill() {
                Err(error) if error.is_gone() => Ok(()),
                other => Ok(other?),
            };
        }
        for pid in group.pids()? {
            let pidfd = rustix::process::Pid::from_raw(pid).and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
            });
            // Who has ended meanwhile need not be told.
            if let Some(pidfd) = pidfd {
                let _ = sys::send_signal(pidfd.as_fd(), signal);
            }
        }
        Ok(())
    }

    pub fn delete(&self, id: &str, force: bool) -> Result<(), Error> {
        let (place, record, status) = match self.find(id) {
            Err(Error::NotFound(_)) if force => return Ok(()),
            // Killed before it had written anything: nothing else is there.
            Err(Error::Failed { .. } | Error::Document { .. }) if force => {
                return self.store.open(id)?.remove();
            }
            found => found?,
        };
        if !force && matches!(status, Status::Running | Status::Paused) {
            let (operation, allowed) = ("delete", "stopped, created");
            return Err(Error::Status { operation, id: id.to_owned(), status, allowed });
        }
        let group = self.group(&record);
        if record.pid > 0 {
            if group.exists() {
                group.kill()?;
            }
            group.remove()?;
        } else {
            // A creation that was cut off. Whether it had come to make the group is not
            // known, so nobody in it is killed; one with processes is another's.
            let _ = group.remove();
        }
        // The parent of those that asked for none, when it has no other.
        let _ = self.hierarchy.remove_parent(OWN_PARENT);
        place.remove()?;
        let state = record.state(Status::Stopped).to_string();
        if let Err(error) = hooks::run(&record.hooks.poststop, &state) {
            self.warn(&error.chain());
        }
        Ok(())
    }

    pub fn list(&self, format: Format, quiet: bool) -> Result<(), Error> {
        // One that is deleted meanwhile is left out.
        let all = self.store.ids()?;
        let all: Vec<_> = all.iter().filter_map(|id| self.look_at(id).ok()).collect();
        if quiet {
            all.iter().for_each(|(record, _)| println!("{}", record.id));
            return Ok(());
        }
        match format {
            Format::Json => {
                let states = all.iter().map(|(record, status)| record.state(*status));
                println!("{}", serde_json::Value::Array(states.collect()));
            }
            Format::Table => {
                println!("{:<20} {:>8} {:<8} {:<30} CREATED", "ID", "PID", "STATUS", "BUNDLE");
                for (record, status) in &all {
                    let pid = if *status == Status::Stopped { 0 } else { record.pid };
                    let (id, bundle, created) =
                        (&record.id, record.bundle.display().to_string(), &record.created);
                    let status = status.to_string();
                    println!("{id:<20} {pid:>8} {status:<8} {bundle:<30} {created}");
                }
            }
        }
        Ok(())
    }

    pub fn ps(&self, id: &str, format: Format) -> Result<(), Error> {
        let (record, _) = self.look_at(id)?;
        let pids = self.group(&record).pids()?;
        match format {
            Format::Json => println!("{}", json!(pids)),
            Format::Table => {
                println!("PID");
                pids.iter().for_each(|pid| println!("{pid}"));
            }
        }
        Ok(())
    }

    pub fn pause(&self, id: &str) -> Result<(), Error> {
        let (_place, record, status) = self.find(id)?;
        if !matches!(status, Status::Running | Status::Created) {
            return Err(Error::NotRunning { operation: "pause", id: id.to_owned(), status });
        }
        Ok(self.group(&record).freeze()?)
    }

    pub fn resume(&self, id: &str) -> Result<(), Error> {
        let (_place, record, status) = self.find(id)?;
        if status != Status::Paused {
            let (operation, allowed) = ("resume", "paused");
            return Err(Error::Status { operation, id: id.to_owned(), status, allowed });
        }
        Ok(self.group(&record).thaw()?)
    }

    pub fn update(&self, id: &str, path: &Path) -> Result<(), Error> {
        let resources: LinuxResources = if path == Path::new("-") {
            let mut text = Vec::new();
            let mut input = std::io::stdin().take(MOST_BYTES);
            input.read_to_end(&mut text).map_err(failed("read", "standard input"))?;
            let wrong = |source| Error::Document { path: path.to_owned(), source };
            serde_json::from_slice(&text).map_err(wrong)?
        } else {
            read_document(path)?
        };
        let wanted = translate_resources(&resources)?;
        let (_place, record, status) = self.find(id)?;
        if status == Status::Stopped {
            return Err(Error::NotRunning { operation: "update", id: id.to_owned(), status });
        }
        self.group(&record).apply(&wanted)?;
        Ok(())
    }
}
