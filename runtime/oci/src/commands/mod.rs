//! One function for each command: reads records, asks the pure parts, does what they say.

mod create;
mod exec;
mod manage;

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::process::{WaitId, WaitIdOptions, waitid};
use serde_json::Value;
use tenantry_cgroupfs::{Group, Hierarchy};
use tenantry_shim::spec::{CgroupPlacement, V1Directory};

use crate::birth::Born;
use crate::command_line::{Command, LogFormat, Options};
use crate::config::ignore_unknown_capabilities;
use crate::error::{Error, failed};
use crate::record::{Look, Place, Record, Status, Store, status};
use crate::{features, log};

/// A longer document is no container's.
const MOST_BYTES: u64 = 16 << 20;

/// What all commands have in common.
#[derive(Debug)]
pub struct Runtime {
    store: Store,
    hierarchy: Hierarchy,
    log: Option<PathBuf>,
    log_format: LogFormat,
}

/// The program's exit code.
pub fn execute(options: Options) -> Result<u8, Error> {
    if options.systemd_cgroup {
        let why = "cgroups are made by this program itself (cgroup manager cgroupfs)";
        return Err(Error::unsupported("--systemd-cgroup", why));
    }
    match options.rootless.as_deref() {
        None | Some("false" | "auto") => {}
        Some(other) => return Err(Error::invalid("--rootless", other, "false, auto")),
    }
    if let Command::Features = options.command {
        println!("{:#}", features::document());
        return Ok(0);
    }
    if let Command::Spec { bundle } = &options.command {
        return write_example(bundle);
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Error::unsupported("a user who is not root", "containers are made by root"));
    }
    let runtime = Runtime {
        store: Store::new(options.root),
        hierarchy: Hierarchy::detect()?,
        log: options.log,
        log_format: options.log_format,
    };
    match options.command {
        Command::Create(arguments) => runtime.create(&arguments).map(|_| 0),
        Command::Start { id } => runtime.start(&id).map(|()| 0),
        Command::Run(arguments) => runtime.run(&arguments),
        Command::Exec(arguments) => runtime.exec(&arguments),
        Command::State { id } => runtime.state(&id).map(|()| 0),
        Command::Kill { all, id, signal } => runtime.kill(&id, &signal, all).map(|()| 0),
        Command::Delete { force, id } => runtime.delete(&id, force).map(|()| 0),
        Command::List { format, quiet } => runtime.list(format, quiet).map(|()| 0),
        Command::Ps { format, id } => runtime.ps(&id, format).map(|()| 0),
        Command::Pause { id } => runtime.pause(&id).map(|()| 0),
        Command::Resume { id } => runtime.resume(&id).map(|()| 0),
        Command::Update { resources, id } => runtime.update(&id, &resources).map(|()| 0),
        Command::Spec { .. } | Command::Features => Ok(0),
    }
}

impl Runtime {
    fn group(&self, record: &Record) -> Group {
        self.hierarchy.group(&record.cgroup)
    }

    fn status(&self, place: &Place, record: &Record) -> Status {
        status(Look {
            has_pid: record.pid > 0,
            alive: record.is_alive(),
            gate: place.has_gate(),
            // One that is gone is not frozen.
            frozen: self.group(record).is_frozen().unwrap_or(false),
        })
    }

    fn warn_of_capabilities(&self, unknown: &[String]) {
        if !unknown.is_empty() {
            self.warn(&format!("ignored unknown capabilities: {}", unknown.join(", ")));
        }
    }

    fn warn(&self, message: &str) {
        log::warning(self.log.as_deref(), self.log_format, message);
    }
}

fn placement(group: &Group) -> CgroupPlacement {
    let v1 = group.v1_dirs().into_iter();
    let v1 = v1.map(|(controller, path)| V1Directory { controller, path }).collect();
    CgroupPlacement { unified: group.unified_dir().to_owned(), v1 }
}

fn read_document<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    serde_json::from_slice(&read_text(path)?)
        .map_err(|source| Error::Document { path: path.to_owned(), source })
}

/// As it stands.
fn read_raw(path: &Path) -> Result<Value, Error> {
    read_document(path)
}

fn read_text(path: &Path) -> Result<Vec<u8>, Error> {
    let size = fs::metadata(path).map_err(failed("read", path.display()))?.len();
    if size > MOST_BYTES {
        let allowed = format!("{MOST_BYTES} bytes at most");
        return Err(Error::invalid(path.display().to_string(), size, &allowed));
    }
    fs::read(path).map_err(failed("read", path.display()))
}

#[derive(Debug)]
struct Bundle {
    place: PathBuf,
    spec: Spec,
    /// The same document as it stands.
    raw: Value,
    /// Capabilities that nobody knows, which are in neither.
    unknown_capabilities: Vec<String>,
}

fn read_bundle(bundle: &Path) -> Result<Bundle, Error> {
    let place = fs::canonicalize(bundle).map_err(failed("find the bundle", bundle.display()))?;
    let path = place.join("config.json");
    let text = read_text(&path)?;
    let wrong = |source| Error::Document { path: path.clone(), source };
    let mut raw: Value = serde_json::from_slice(&text).map_err(wrong)?;
    let ignored = raw.get_mut("process").map(ignore_unknown_capabilities).unwrap_or_default();
    // From the text where that is possible: its mistakes have lines.
    let spec = match ignored.is_empty() {
        true => serde_json::from_slice(&text),
        false => serde_json::from_value(raw.clone()),
    };
    Ok(Bundle { place, spec: spec.map_err(wrong)?, raw, unknown_capabilities: ignored })
}

/// Complete or not there: who waits for it reads it at once.
fn write_pid_file(path: &Path, pid: i32) -> Result<(), Error> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    fs::write(&aside, pid.to_string()).map_err(failed("write", path.display()))?;
    fs::rename(&aside, path).map_err(failed("write", path.display()))
}

/// Of a child of ours: its exit code, or 128 and the signal.
fn wait_for(born: &Born) -> Result<u8, Error> {
    use std::os::fd::AsFd as _;
    let ended = rustix::io::retry_on_intr(|| {
        waitid(WaitId::PidFd(born.pidfd.as_fd()), WaitIdOptions::EXITED)
    });
    let ended = ended.map_err(failed("wait for process", born.pid))?;
    let code = ended.map_or(0, |ended| match ended.terminating_signal() {
        Some(signal) => 128 + signal,
        None => ended.exit_status().unwrap_or_default(),
    });
    Ok(u8::try_from(code).unwrap_or(u8::MAX))
}

fn no_further_descriptors(count: u32) -> Result<(), Error> {
    if count > 0 {
        return Err(Error::invalid("--preserve-fds", count, "0"));
    }
    Ok(())
}

fn write_example(bundle: &Path) -> Result<u8, Error> {
    let path = bundle.join("config.json");
    let example: &str = include_str!("../../example.json");
    let mut options = fs::OpenOptions::new();
    let file = options.write(true).create_new(true).open(&path);
    let mut file = file.map_err(failed("create", path.display()))?;
    std::io::Write::write_all(&mut file, example.as_bytes())
        .map_err(failed("write", path.display()))?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_a_container_that_this_runtime_takes() {
        let directory = tempfile::tempdir().unwrap();
        write_example(directory.path()).unwrap();
        assert!(write_example(directory.path()).is_err(), "it overwrites nothing");
        let Bundle { place, spec, raw, unknown_capabilities } =
            read_bundle(directory.path()).unwrap();
        assert!(unknown_capabilities.is_empty());
        let placement = CgroupPlacement { unified: "/cg/x".into(), v1: vec![] };
        let plan = crate::config::plan(&spec, &raw, &place, &placement, &[]).unwrap();
        assert_eq!(plan.process.process.args, ["sh"]);
    }
}
