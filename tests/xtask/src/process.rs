//! Running programs and waiting for them: the shortest way, with errors that name
//! the program. For long runs whose output is read as it comes, see `supervise`.

use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Administration programs (`nft`, `mke2fs`) sit in sbin, which a person's `PATH`
/// may lack. Called once, first in `main`, for this process and its children.
pub fn add_sbin_to_path() {
    let mut path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    path.push(":/usr/local/sbin:/usr/sbin:/sbin");
    PATH.set(path).expect("the search path is set once");
}

static PATH: std::sync::OnceLock<OsString> = std::sync::OnceLock::new();

/// The search path for programs, with the sbin directories.
pub fn path() -> OsString {
    PATH.get().cloned().unwrap_or_else(|| std::env::var_os("PATH").unwrap_or_default())
}

/// A command whose `PATH` has the sbin directories.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", path());
    command
}

/// The executable file that `name` stands for.
pub fn find_program(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&path()).map(|dir| dir.join(name)).find(|file| {
        file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    })
}

/// Runs to the end with this terminal's output; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot run {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", name(command));
    }
    Ok(())
}

/// Runs to the end and hands back stdout; on failure the error carries stderr.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", name(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", name(command), output.status, stderr.trim());
    }
    Ok(output.stdout)
}

/// As `output`, as text.
pub fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&output(command)?).into_owned())
}

/// Replaces this process; returns only if that failed.
pub fn become_program(command: &mut Command) -> anyhow::Error {
    command.env("PATH", path());
    let error = command.exec();
    anyhow::Error::new(error).context(format!("cannot run {}", name(command)))
}

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn name(command: &Command) -> String {
    let file = Path::new(command.get_program());
    let mut words = vec![file.file_name().unwrap_or(file.as_os_str()).to_string_lossy()];
    words.extend(command.get_args().take(3).map(|arg| arg.to_string_lossy()));
    words.join(" ")
}
