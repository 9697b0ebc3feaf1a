//! From the arguments of a process to `execve`.
//!
//! Owns the `PATH` look-up, in the container's root and with the final user's
//! rights. Called last in a child; returns only with a failure.

use std::ffi::CString;

use rustix::fs::Access;
use rustix::io::Errno;
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Process;

use crate::failure::failure;
use crate::sys::ExecVectors;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Everything that can be allocated before the seccomp program decides.
#[derive(Debug)]
pub struct Program {
    name: String,
    candidates: Vec<CString>,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

pub fn prepare(process: &Process) -> Result<Program, Failure> {
    let name = process.args.first().cloned().unwrap_or_default();
    let strings = |strings: &[String]| {
        strings.iter().map(|string| CString::new(string.as_str())).collect::<Result<Vec<_>, _>>()
    };
    let invalid = |_| failure("execve", &name, Errno::INVAL);
    Ok(Program {
        candidates: strings(&candidates(&name, &process.env)).map_err(invalid)?,
        arguments: strings(&process.args).map_err(invalid)?,
        environment: strings(&process.env).map_err(invalid)?,
        name,
    })
}

/// The paths to try, in order.
fn candidates(name: &str, environment: &[String]) -> Vec<String> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = environment.iter().find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or(DEFAULT_PATH).split(':').filter(|part| !part.is_empty());
    directories.map(|directory| format!("{directory}/{name}")).collect()
}

impl Program {
    /// What `execute` needs memory for.
    pub fn vectors(&self) -> ExecVectors<'_> {
        ExecVectors::new(&self.arguments, &self.environment)
    }

    /// Whether there is anything to execute, before the gate is waited at: who creates a
    /// container is to hear of a missing program, not who starts it.
    pub fn look(&self) -> Result<(), Failure> {
        let mut worst = Errno::NOENT;
        for candidate in &self.candidates {
            match rustix::fs::access(candidate.as_c_str(), Access::EXEC_OK) {
                Ok(()) => return Ok(()),
                Err(Errno::ACCESS) => worst = Errno::ACCESS,
                Err(_) => {}
            }
        }
        Err(failure("execve", &self.name, worst))
    }

    /// Returns only if no candidate could be executed. A candidate that exists
    /// but may not be executed is the better explanation than one that is missing.
    pub fn execute(&self, vectors: &ExecVectors<'_>) -> Failure {
        let mut worst = Errno::NOENT;
        for candidate in &self.candidates {
            match vectors.execve(candidate) {
                Errno::NOENT | Errno::NOTDIR => {}
                Errno::ACCESS => worst = Errno::ACCESS,
                errno => return failure("execve", &self.name, errno),
            }
        }
        failure("execve", &self.name, worst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, environment: &[&str], expected: &[&str]) {
        let environment: Vec<String> = environment.iter().map(|v| (*v).to_owned()).collect();
        assert_eq!(candidates(name, &environment), expected);
    }

    #[test]
    fn a_name_without_a_slash_is_looked_up_in_path() {
        check("ls", &["HOME=/", "PATH=/bin:/opt/x"], &["/bin/ls", "/opt/x/ls"]);
        check("ls", &["PATH=:/bin:"], &["/bin/ls"]);
        check("ls", &["PATH="], &[]);
        assert_eq!(candidates("ls", &[])[0], "/usr/local/sbin/ls");
        check("./ls", &["PATH=/bin"], &["./ls"]);
        check("/x/ls", &["PATH=/bin"], &["/x/ls"]);
        check("", &["PATH=/bin"], &[]);
    }

    #[test]
    fn a_string_with_a_nul_byte_fails_before_anything_is_executed() {
        let process = Process {
            args: vec!["/bin/x".into(), "a\0b".into()],
            env: vec![],
            cwd: "/".into(),
            uid: 0,
            gid: 0,
            additional_gids: vec![],
            capabilities: 0,
            no_new_privileges: true,
            oom_score_adj: None,
            rlimits: vec![],
            terminal: None,
        };
        assert_eq!(prepare(&process).unwrap_err().errno, Errno::INVAL.raw_os_error());
    }
}
