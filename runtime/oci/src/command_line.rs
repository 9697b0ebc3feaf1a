//! The command line: runc's, which containerd, Docker and Podman's conmon speak.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

const VERSION: &str = concat!("version ", env!("CARGO_PKG_VERSION"), "\nspec: 1.2.0");

/// Runs containers out of OCI bundles, with the code that tenantry's own containers have.
#[derive(Debug, Parser)]
#[command(name = "tenantry-runtime", version = VERSION)]
pub struct Options {
    /// Where containers are remembered.
    #[arg(long, global = true, default_value = "/run/tenantry-runtime")]
    pub root: PathBuf,
    /// Where errors are written to, beside standard error.
    #[arg(long, global = true)]
    pub log: Option<PathBuf>,
    #[arg(long, global = true, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Refused: cgroups are made by this program itself.
    #[arg(long, global = true)]
    pub systemd_cgroup: bool,
    /// Taken and not heeded: there is nothing more to say.
    #[allow(dead_code, reason = "callers pass it; nothing reads it")]
    #[arg(long, global = true)]
    pub debug: bool,
    /// `true` is refused.
    #[arg(long, global = true)]
    pub rootless: Option<String>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a container, which waits for `start`.
    Create(Create),
    /// Start what was created.
    Start { id: String },
    /// `create` and `start`; without `--detach` also wait for it and delete it.
    Run(Run),
    /// Run a further process in a container.
    Exec(Exec),
    /// Tell a container's state as JSON.
    State { id: String },
    /// Send a signal to a container's first process.
    Kill {
        /// To all processes in the container.
        #[arg(long, short)]
        all: bool,
        id: String,
        #[arg(default_value = "TERM")]
        signal: String,
    },
    /// Remove what has stopped.
    Delete {
        /// End it first; one that is not there is no error.
        #[arg(long, short)]
        force: bool,
        id: String,
    },
    /// List containers.
    List {
        #[arg(long, short, default_value = "table")]
        format: Format,
        /// Only the ids.
        #[arg(long, short)]
        quiet: bool,
    },
    /// List the processes of a container.
    Ps {
        #[arg(long, short, default_value = "table")]
        format: Format,
        id: String,
    },
    /// Stop all processes of a container where they are.
    Pause { id: String },
    /// Let them go on.
    Resume { id: String },
    /// Change a container's limits: `linux.resources` as JSON.
    Update {
        /// `-` is standard input.
        #[arg(long, short)]
        resources: PathBuf,
        id: String,
    },
    /// Write an example of a `config.json`.
    Spec {
        #[arg(long, short, default_value = ".")]
        bundle: PathBuf,
    },
    /// Tell what this runtime has, as the specification's `features` document.
    Features,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Table,
    Json,
}

#[derive(Args, Debug)]
pub struct Create {
    #[arg(long, short, default_value = ".")]
    pub bundle: PathBuf,
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    /// A unix socket that gets the terminal.
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    /// Only 0: no further descriptors are handed on.
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    /// Refused: a root that is not changed can be left.
    #[arg(long)]
    pub no_pivot: bool,
    /// Taken and not heeded: a process always gets a keyring of its own.
    #[allow(dead_code, reason = "callers pass it; nothing reads it")]
    #[arg(long)]
    pub no_new_keyring: bool,
    pub id: String,
}

#[derive(Args, Debug)]
pub struct Run {
    #[command(flatten)]
    pub create: Create,
    #[arg(long, short)]
    pub detach: bool,
}

#[derive(Args, Debug)]
pub struct Exec {
    /// A file with the specification's `process`.
    #[arg(long, short)]
    pub process: Option<PathBuf>,
    #[arg(long, short)]
    pub detach: bool,
    #[arg(long, short)]
    pub tty: bool,
    #[arg(long)]
    pub console_socket: Option<PathBuf>,
    #[arg(long)]
    pub pid_file: Option<PathBuf>,
    #[arg(long)]
    pub cwd: Option<PathBuf>,
    #[arg(long, short)]
    pub env: Vec<String>,
    /// `uid` or `uid:gid`.
    #[arg(long, short)]
    pub user: Option<String>,
    #[arg(long)]
    pub no_new_privs: bool,
    /// A capability in addition to the container's.
    #[arg(long, short)]
    pub cap: Vec<String>,
    #[arg(long, default_value_t = 0)]
    pub preserve_fds: u32,
    pub id: String,
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn parse(line: &str) -> Options {
        let words = line.split(' ');
        Options::try_parse_from(["tenantry-runtime"].into_iter().chain(words)).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn conmon_and_containerd_are_understood() {
        let options = parse(
            "--log-format=json --log=/run/x/oci-log create --bundle /b --pid-file /b/pidfile \
             --console-socket /b/s abc",
        );
        assert_eq!(options.log_format, LogFormat::Json);
        assert!(matches!(options.command, Command::Create(create) if create.id == "abc"));
        let options = parse(
            "--root /run/r --log /l --log-format json exec --process /p --console-socket /c \
             --detach --pid-file /f abc",
        );
        assert_eq!(options.root, PathBuf::from("/run/r"));
        let Command::Exec(exec) = options.command else { panic!("no exec") };
        assert!(exec.detach && exec.command.is_empty());
        let options = parse("kill --all abc 9");
        assert!(
            matches!(options.command, Command::Kill { all: true, signal, .. } if signal == "9")
        );
        let options = parse("exec --tty --env A=1 -c NET_ADMIN abc sh -c true");
        let Command::Exec(exec) = options.command else { panic!("no exec") };
        assert_eq!((exec.command.join(" ").as_str(), exec.env.len()), ("sh -c true", 1));
        assert_eq!(exec.cap, ["NET_ADMIN"]);
    }
}
