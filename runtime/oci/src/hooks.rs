//! `hooks`: other programs that are run at points of a container's life.
//!
//! Owns reading and running them. Each gets the container's state on its standard input
//! and the environment that it names, or else that of who runs it; its output goes nowhere, because ours is the
//! container's. Called from both sides of a birth.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oci_spec::runtime;
use serde::{Deserialize, Serialize};

use crate::error::Error;

const MOST_HOOKS: usize = 100;
/// How often a hook is looked after.
const PAUSE: Duration = Duration::from_millis(2);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub path: PathBuf,
    /// The first is the program's own name.
    pub args: Vec<String>,
    /// `None`: it names none.
    pub env: Option<Vec<String>>,
    pub timeout_s: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooks {
    /// In the runtime's namespaces, when the container's exist.
    pub create_runtime: Vec<Hook>,
    /// In the container's, before it has its root.
    pub create_container: Vec<Hook>,
    /// In the container, before its program.
    pub start_container: Vec<Hook>,
    pub poststart: Vec<Hook>,
    pub poststop: Vec<Hook>,
}

impl Hooks {
    #[allow(deprecated)]
    pub fn of(hooks: Option<&runtime::Hooks>) -> Result<Self, Error> {
        let Some(hooks) = hooks else { return Ok(Self::default()) };
        // The deprecated ones run where createRuntime's do, and before them.
        let mut create_runtime = list("prestart", hooks.prestart())?;
        create_runtime.extend(list("createRuntime", hooks.create_runtime())?);
        Ok(Self {
            create_runtime,
            create_container: list("createContainer", hooks.create_container())?,
            start_container: list("startContainer", hooks.start_container())?,
            poststart: list("poststart", hooks.poststart())?,
            poststop: list("poststop", hooks.poststop())?,
        })
    }
}

fn list(name: &str, hooks: &Option<Vec<runtime::Hook>>) -> Result<Vec<Hook>, Error> {
    let hooks = hooks.as_deref().unwrap_or_default();
    if hooks.len() > MOST_HOOKS {
        let allowed = format!("{MOST_HOOKS} at most");
        return Err(Error::invalid(format!("hooks.{name}"), hooks.len(), &allowed));
    }
    hooks.iter().map(|hook| read(name, hook)).collect()
}

fn read(name: &str, hook: &runtime::Hook) -> Result<Hook, Error> {
    if !hook.path().is_absolute() {
        let (field, path) = (format!("hooks.{name}[].path"), hook.path().display());
        return Err(Error::invalid(field, path, "an absolute path"));
    }
    let timeout_s = match hook.timeout() {
        None => None,
        Some(seconds) => match u64::try_from(seconds) {
            Ok(seconds) if seconds > 0 => Some(seconds),
            _ => {
                let field = format!("hooks.{name}[].timeout");
                return Err(Error::invalid(field, seconds, "seconds, 1 or more"));
            }
        },
    };
    Ok(Hook {
        path: hook.path().clone(),
        args: hook.args().clone().unwrap_or_default(),
        env: hook.env().clone(),
        timeout_s,
    })
}

/// In their order; the first that fails is the last.
pub fn run(hooks: &[Hook], state: &str) -> Result<(), Error> {
    run_with(hooks, state, None)
}

/// `env`: what a hook has that names no environment. `None`: ours.
pub fn run_with(hooks: &[Hook], state: &str, env: Option<&[String]>) -> Result<(), Error> {
    hooks.iter().try_for_each(|hook| run_one(hook, state, hook.env.as_deref().or(env)))
}

fn run_one(hook: &Hook, state: &str, env: Option<&[String]>) -> Result<(), Error> {
    let failed = |why: String| Error::Hook { path: hook.path.clone(), why };
    let mut command = Command::new(&hook.path);
    if let Some((own_name, arguments)) = hook.args.split_first() {
        command.arg0(own_name).args(arguments);
    }
    if let Some(env) = env {
        let variables = env.iter().filter_map(|variable| variable.split_once('='));
        command.env_clear().envs(variables);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not want to know has closed it: no failure.
        let _ = stdin.write_all(state.as_bytes());
    }
    let deadline = hook.timeout_s.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    loop {
        match child.try_wait().map_err(|error| failed(error.to_string()))? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(failed(status.to_string())),
            None => {}
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            let _ = child.kill();
            let _ = child.wait();
            return Err(failed(format!("not done after {} s", hook.timeout_s.unwrap_or(0))));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What a hook is told, and `state` prints.
pub fn state(
    version: &str,
    id: &str,
    status: &str,
    pid: i32,
    bundle: &Path,
    annotations: &serde_json::Value,
) -> serde_json::Value {
    let mut state = serde_json::json!({
        "ociVersion": version,
        "id": id,
        "status": status,
        "bundle": bundle,
        "annotations": annotations,
    });
    // Of a container that has stopped there is none.
    if pid > 0 {
        state["pid"] = pid.into();
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, timeout_s: Option<u64>) -> Hook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        let env = Some(vec!["PATH=/usr/bin:/bin".to_owned(), "WORD=hook".to_owned()]);
        Hook { path: "/bin/sh".into(), args, env, timeout_s }
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("cat > {0}; echo $WORD$HOME >> {0}", file.path().display());
        run(&[shell(&script, None)], "{\"id\":\"x\"}").unwrap();
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "{\"id\":\"x\"}hook\n");
    }

    #[test]
    fn a_hook_without_an_environment_has_that_of_who_runs_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("echo $PATH >> {}", file.path().display());
        let hook = Hook { env: None, ..shell(&script, None) };
        run(std::slice::from_ref(&hook), "").unwrap();
        run_with(std::slice::from_ref(&hook), "", Some(&["PATH=/its/own".to_owned()])).unwrap();
        run_with(&[Hook { env: Some(vec![]), ..hook }], "", None).unwrap();
        let said = std::fs::read_to_string(file.path()).unwrap();
        let said: Vec<&str> = said.lines().collect();
        assert_eq!(said[0], std::env::var("PATH").unwrap());
        assert_eq!(said[1], "/its/own");
        // The shell's own default.
        assert_ne!(said[2], said[0]);
    }

    #[test]
    fn one_that_fails_is_named_and_is_the_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let later = shell(&format!("echo late > {}", file.path().display()), None);
        let error = run(&[shell("exit 3", None), later], "").unwrap_err().to_string();
        assert!(error.contains("/bin/sh") && error.contains('3'), "{error}");
        assert_eq!(std::fs::read_to_string(file.path()).unwrap(), "");
    }

    #[test]
    fn one_that_takes_too_long_is_ended() {
        let began = Instant::now();
        let error = run(&[shell("exec sleep 30", Some(1))], "").unwrap_err().to_string();
        assert!(error.contains("not done after 1 s"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }
}
