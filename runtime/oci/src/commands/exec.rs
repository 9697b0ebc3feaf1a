//! `exec`.

use std::fs;
use std::path::Path;

use oci_spec::runtime::Process;
use serde_json::{Value, json};
use tenantry_container::process::merge_environment;
use tenantry_shim::cgroup::Placement;

use super::{Runtime, no_further_descriptors, placement, read_raw, wait_for, write_pid_file};
use crate::command_line::Exec;
use crate::config::{ProcessPlan, ignore_unknown_capabilities, plan_process};
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
            Some(path) => self.of_document(path, read_raw(path)?)?,
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
        let path = bundle.join("config.json");
        let mut raw = read_raw(&path)?;
        self.of_document(&path, changed(raw["process"].take(), arguments)?)
    }

    fn of_document(&self, path: &Path, mut document: Value) -> Result<ProcessPlan, Error> {
        self.warn_of_capabilities(&ignore_unknown_capabilities(&mut document));
        let wrong = |source| Error::Document { path: path.to_owned(), source };
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
        let env = process["env"].as_array().into_iter().flatten();
        let env: Vec<String> = env.filter_map(Value::as_str).map(str::to_owned).collect();
        process["env"] = json!(merge_environment(&env, &arguments.env));
    }
    for name in &arguments.cap {
        let inheritable = process["capabilities"]["inheritable"].as_array();
        let inheritable = inheritable.is_some_and(|names| names.contains(&json!(name)));
        // Only what is inheritable can be ambient.
        let ambient = inheritable.then_some("ambient");
        for set in ["bounding", "permitted", "effective"].into_iter().chain(ambient) {
            let mut names = process["capabilities"][set].as_array().cloned().unwrap_or_default();
            names.push(json!(name));
            process["capabilities"][set] = Value::Array(names);
        }
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

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::command_line::{Command, Options};

    #[test]
    fn a_variable_takes_the_place_of_the_containers() {
        let line = ["tenantry-runtime", "exec", "-e", "PATH=/b", "--env", "NEW=1", "x", "true"];
        let Command::Exec(arguments) = Options::try_parse_from(line).unwrap().command else {
            panic!("no exec")
        };
        let process = json!({"env": ["PATH=/a", "TERM=xterm"]});
        let env = changed(process, &arguments).unwrap()["env"].take();
        assert_eq!(env, json!(["PATH=/b", "TERM=xterm", "NEW=1"]));
    }

    #[test]
    fn a_capability_is_added_where_it_has_an_effect() {
        let check = |inheritable: Value, expected: Value| {
            let line = ["tenantry-runtime", "exec", "--cap", "CAP_KILL", "x", "true"];
            let Command::Exec(arguments) = Options::try_parse_from(line).unwrap().command else {
                panic!("no exec")
            };
            let process = json!({"capabilities": {"inheritable": inheritable}});
            let mut sets = changed(process, &arguments).unwrap()["capabilities"].take();
            sets.as_object_mut().unwrap().remove("inheritable");
            assert_eq!(sets, expected);
        };
        let one = json!(["CAP_KILL"]);
        check(json!([]), json!({"bounding": one, "permitted": one, "effective": one}));
        let all = json!({"bounding": one, "permitted": one, "effective": one, "ambient": one});
        check(json!(["CAP_KILL"]), all);
    }
}
