//! `exec`.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Process;
use serde_json::{Value, json};
use tenantry_shim::cgroup::Placement;

use super::{
    Runtime, no_further_descriptors, placement, read_bundle, read_document, wait_for,
    write_pid_file,
};
use crate::command_line::Exec;
use crate::config::{ProcessPlan, plan_process};
use crate::error::{Error, failed};
use crate::further::{self, Further};
use crate::record::{Place, Status};

impl Runtime {
    pub fn exec(&self, arguments: &Exec) -> Result<u8, Error> {
        no_further_descriptors(arguments.preserve_fds)?;
        let place = self.store.open(&arguments.id)?;
        let record = place.read()?;
        let status = self.status(&place, &record);
        let refused = Error::NotRunning { operation: "exec in", id: record.id.clone(), status };
        if !matches!(status, Status::Running | Status::Created) {
            return Err(refused);
        }
        let init = record.pidfd().ok_or(refused)?;
        let process = match &arguments.process {
            Some(path) => plan_process(&read_document::<Process>(path)?.0)?,
            None => self.of_arguments(arguments, &record.bundle)?,
        };
        match (process.process.terminal.is_some(), &arguments.console_socket) {
            (true, None) => {
                let allowed = "a unix socket, for a terminal";
                return Err(Error::invalid("--console-socket", "", allowed));
            }
            (false, Some(socket)) => {
                let allowed = "none, without a terminal";
                return Err(Error::invalid("--console-socket", socket.display(), allowed));
            }
            _ => {}
        }
        let placement = Placement::of(&placement(&self.group(&record)));
        let seccomp = kept_seccomp(&place)?;
        // Others may use the container while this process runs.
        drop(place);
        let born = further::start(Further {
            process: &process,
            init,
            user_namespace: record.user_namespace,
            placement: &placement,
            seccomp,
            console: arguments.console_socket.as_deref(),
        })?;
        if let Some(path) = &arguments.pid_file {
            write_pid_file(path, born.pid)?;
        }
        if arguments.detach { Ok(0) } else { wait_for(&born) }
    }

    /// The container's own process with another program.
    fn of_arguments(&self, arguments: &Exec, bundle: &Path) -> Result<ProcessPlan, Error> {
        let (_, _, raw) = read_bundle(bundle)?;
        let document = changed(raw["process"].clone(), arguments)?;
        let wrong = |source| Error::Document { path: bundle.join("config.json"), source };
        let process: Process = serde_json::from_value(document).map_err(wrong)?;
        plan_process(&process)
    }
}

/// `process` as the options have it.
fn changed(mut process: Value, arguments: &Exec) -> Result<Value, Error> {
    process["args"] = json!(arguments.command);
    process["terminal"] = json!(arguments.tty);
    if let Some(cwd) = &arguments.cwd {
        process["cwd"] = json!(cwd);
    }
    if arguments.no_new_privs {
        process["noNewPrivileges"] = json!(true);
    }
    if !arguments.env.is_empty() {
        let mut env = process["env"].as_array().cloned().unwrap_or_default();
        env.extend(arguments.env.iter().map(|variable| json!(variable)));
        process["env"] = Value::Array(env);
    }
    if let Some(user) = &arguments.user {
        let (uid, gid) = user.split_once(':').unwrap_or((user, "0"));
        let number = |text: &str| {
            text.parse::<u32>().map_err(|_| Error::invalid("--user", user, "uid, uid:gid"))
        };
        process["user"] = json!({"uid": number(uid)?, "gid": number(gid)?});
    }
    Ok(process)
}

fn kept_seccomp(place: &Place) -> Result<Option<Vec<u8>>, Error> {
    let path = place.path().join("seccomp");
    match fs::read(&path) {
        Ok(program) => Ok(Some(program)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path.display())(error)),
    }
}
