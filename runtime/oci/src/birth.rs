//! The birth of a container's first process, up to the gate at which it waits.
//!
//! ```text
//! runtime                              child (own namespaces)
//!   trees, clone3 ───────────────────▶
//!   maps, limits; go ────────────────▶   private mounts
//!   createRuntime hooks  ◀─ ready ────
//!   go ──────────────────────────────▶   createContainer hooks, file systems, pivot_root
//!   terminal to the console ◀─────────   mounts, names, cgroups
//!   done                 ◀─ ready ────   waits at the gate
//! start ─────────────────────────────▶   startContainer hooks, privileges, execve
//! ```
//!
//! The steps are the shim's, and so is the order among them. Chooses nothing: a
//! [`Plan`] is literal. A failure leaves no process.

use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Rlimit as Limit, prlimit};
use rustix::thread::{UnshareFlags, move_into_link_name_space};
use tenantry_shim::cgroup::{Doors, Placement};
use tenantry_shim::channel::{self, ChildEnd, FromChild, ShimEnd};
use tenantry_shim::failure::{at, failure};
use tenantry_shim::mounts::{self, Detached};
use tenantry_shim::privileges::{self, Kept};
use tenantry_shim::program::{self, Program};
use tenantry_shim::protocol::Failure;
use tenantry_shim::spec::Propagation;
use tenantry_shim::sys::{self, Cloned, MountChange};
use tenantry_shim::{launch, overlay, terminal};

use crate::config::{Namespaces, Plan, ProcessPlan, Rlimit, render_map};
use crate::error::Error;
use crate::{console, gate, home, hooks};

/// What a birth is given beside its plan.
#[derive(Debug)]
pub struct Circumstances<'a> {
    pub placement: &'a Placement,
    pub gate: OwnedFd,
    pub seccomp: Option<Vec<u8>>,
    pub console: Option<PathBuf>,
    /// The state that hooks are told, but for the pid.
    pub state: serde_json::Value,
}

#[derive(Debug)]
pub struct Born {
    pub pid: i32,
    pub pidfd: OwnedFd,
}

struct ChildInput<'a> {
    plan: &'a Plan,
    root: OwnedFd,
    trees: Detached,
    placement: &'a Placement,
    doors: Doors,
    seccomp: Option<&'a [u8]>,
    state: &'a serde_json::Value,
}

/// A process that waits at its gate. `created` is called when it has its number and
/// before anything of it can be seen, to remember it.
pub fn birth(
    plan: &Plan,
    circumstances: Circumstances<'_>,
    created: impl FnOnce(i32) -> Result<(), Error>,
) -> Result<Born, Error> {
    let root = root_tree(&plan.root, plan.root_propagation)?;
    let trees = mounts::take_trees(&plan.steps)?;
    let doors = circumstances.placement.open()?;
    let (line, child_end) = channel::pair().map_err(at("socketpair", "birth"))?;
    own_stdio(plan)?;
    // Files and directories get the modes that are asked for; the child's own mask is set last.
    let mask = rustix::process::umask(Mode::empty());
    // The command line may have relative paths, which are read later.
    let here = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .map_err(at("open", "the working directory"))?;
    rustix::process::chdir(&plan.root).map_err(at("chdir", plan.root.display()))?;
    let home = join(&plan.namespaces)?;
    let cloned = sys::clone3(u64::from(plan.namespaces.new.bits()), Some(doors.unified.as_fd()));
    let (pid, pidfd) = match cloned {
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Ok(Cloned::Child) => {
            drop((line, home, here));
            let input = ChildInput {
                plan,
                root,
                trees,
                placement: circumstances.placement,
                doors,
                seccomp: circumstances.seccomp.as_deref(),
                state: &circumstances.state,
            };
            live(input, child_end, circumstances.gate)
        }
        Err(errno) => return Err(failure("clone3", "namespaces", errno).into()),
    };
    rustix::process::umask(mask);
    drop((child_end, trees, doors, root, circumstances.gate));
    let born = Born { pid, pidfd };
    let attended = return_home(home).map_err(Error::from).and_then(|()| {
        rustix::process::fchdir(&here).map_err(at("fchdir", "the working directory"))?;
        created(pid)?;
        attend(&born, &line, plan, circumstances.console.as_deref(), circumstances.state)
    });
    match attended {
        Ok(()) => Ok(born),
        Err(error) => {
            launch::kill_and_reap(born.pidfd.as_fd());
            Err(error)
        }
    }
}

/// The runtime's part, from the clone to the gate.
fn attend(
    born: &Born,
    line: &ShimEnd,
    plan: &Plan,
    console: Option<&Path>,
    mut state: serde_json::Value,
) -> Result<(), Error> {
    equip(born.pid, &plan.namespaces, &plan.process)?;
    line.go().map_err(at("send", "birth"))?;
    expect_ready(line, None)?;
    state["pid"] = born.pid.into();
    hooks::run(&plan.hooks.create_runtime, &state.to_string())?;
    line.go().map_err(at("send", "birth"))?;
    expect_ready(line, console)?;
    // It is at its gate: none of its own preparations meets its limits.
    limit_process(born.pid, &plan.process.rlimits)
}

/// Hands a terminal that comes meanwhile to the console.
pub fn expect_ready(line: &ShimEnd, console: Option<&Path>) -> Result<(), Error> {
    loop {
        match gate::receive(line)? {
            FromChild::Ready => return Ok(()),
            FromChild::Failed(failure) => return Err(failure.into()),
            // Our copy of the other end goes at once: the container alone keeps it.
            FromChild::Terminal(pty) => match console {
                Some(socket) => console::send(socket, &pty.master)?,
                None => {
                    return Err(Error::invalid("--console-socket", "", "one, for a terminal"));
                }
            },
            FromChild::Closed => {
                let object = "the first process, which ended before it was ready";
                return Err(failure("start", object, Errno::CANCELED).into());
            }
        }
    }
}

/// What the host's root alone may set.
pub fn equip(pid: i32, namespaces: &Namespaces, process: &ProcessPlan) -> Result<(), Error> {
    if namespaces.new_user {
        launch::write_file(&format!("/proc/{pid}/uid_map"), &render_map(&namespaces.uid_map))?;
        launch::write_file(&format!("/proc/{pid}/gid_map"), &render_map(&namespaces.gid_map))?;
    }
    if let Some(score) = process.process.oom_score_adj {
        launch::write_file(&format!("/proc/{pid}/oom_score_adj"), &score.to_string())?;
    }
    Ok(())
}

/// # Errors
/// The first limit that this host does not grant, by name: none is clamped.
pub fn limit_process(pid: i32, limits: &[Rlimit]) -> Result<(), Error> {
    let value = |number: u64| (number != u64::MAX).then_some(number);
    for limit in limits {
        let wanted = Limit { current: value(limit.soft), maximum: value(limit.hard) };
        if let Err(errno) = prlimit(Pid::from_raw(pid), limit.resource, wanted) {
            let asked = format!("{} soft {} hard {}", limit.kind, limit.soft, limit.hard);
            return Err(failure("prlimit", asked, errno).into());
        }
    }
    Ok(())
}

/// The root as a mount of its own, with what is mounted in it.
fn root_tree(root: &Path, propagation: Propagation) -> Result<OwnedFd, Failure> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, root, flags).map_err(at("open_tree", root.display()))?;
    let propagation = match propagation {
        Propagation::Slave => libc::MS_SLAVE,
        Propagation::Private | Propagation::Shared => libc::MS_PRIVATE,
    };
    let change = MountChange { propagation, recursive: true, ..MountChange::default() };
    sys::change_mount(tree.as_fd(), change).map_err(at("mount_setattr", root.display()))?;
    Ok(tree)
}

/// The process' user may open `/dev/stdout` again.
pub fn give_stdio(namespaces: &Namespaces, uid: u32, gid: u32) -> Result<(), Failure> {
    let (Some(uid), Some(gid)) = (namespaces.host_uid(uid), namespaces.host_gid(gid)) else {
        return Ok(());
    };
    for stream in [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()] {
        let Ok(stat) = rustix::fs::fstat(stream) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Fifo {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            rustix::fs::fchown(stream, Some(uid), Some(gid)).map_err(at("fchown", "stdio"))?;
        }
    }
    Ok(())
}

fn own_stdio(plan: &Plan) -> Result<(), Failure> {
    let process = &plan.process.process;
    if process.terminal.is_some() {
        return Ok(());
    }
    give_stdio(&plan.namespaces, process.uid, process.gid)
}

/// Joins what is to be joined, for the child that is born next, and returns the way back:
/// hooks are to run where the runtime was.
fn join(namespaces: &Namespaces) -> Result<Vec<OwnedFd>, Failure> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut home = Vec::new();
    let mut doors = Vec::new();
    for (kind, path) in &namespaces.joined {
        let door = rustix::fs::open(path, flags, Mode::empty());
        doors.push((door.map_err(at("open", path.display()))?, path));
        // `net` as the kernel calls it, which is how the type is displayed.
        let own = format!("/proc/self/ns/{kind}");
        home.push(rustix::fs::open(&own, flags, Mode::empty()).map_err(at("open", &own))?);
    }
    for (door, path) in doors {
        move_into_link_name_space(door.as_fd(), None).map_err(at("setns", path.display()))?;
    }
    Ok(home)
}

fn return_home(home: Vec<OwnedFd>) -> Result<(), Failure> {
    home.iter().try_for_each(|namespace| {
        move_into_link_name_space(namespace.as_fd(), None).map_err(at("setns", "own namespace"))
    })
}

/// The child, from its birth to its program.
fn live(input: ChildInput<'_>, line: ChildEnd, gate: OwnedFd) -> ! {
    let (plan, mut state) = (input.plan, input.state.clone());
    state["status"] = "created".into();
    let seccomp = input.seccomp;
    let program = match become_container(input, &line) {
        Ok(program) => program,
        Err(failure) => {
            line.fail(&failure);
            sys::exit_now(1)
        }
    };
    // Everything of the host is closed from here on but stdio and the gate.
    let gate = ChildEnd::over(gate);
    if launch::close_all_but(&gate).is_err() {
        sys::exit_now(1)
    }
    let Ok(starter) = gate::wait(&gate) else { sys::exit_now(1) };
    let failure = match finish(plan, &state, seccomp, &program) {
        Ok(never) => match never {},
        Err(failure) => failure,
    };
    starter.fail(&failure);
    sys::exit_now(1)
}

fn become_container(input: ChildInput<'_>, line: &ChildEnd) -> Result<Program, Failure> {
    let plan = input.plan;
    let process = &plan.process.process;
    let _ = rustix::process::setsid();
    line.wait_for_go().map_err(at("read", "birth"))?;
    if plan.namespaces.new_user {
        privileges::become_mapped_root()?;
    }
    overlay::make_private()?;
    line.say_ready().map_err(at("send", "birth"))?;
    line.wait_for_go().map_err(at("read", "birth"))?;
    run_hooks(&plan.hooks.create_container, input.state, None)?;
    let mut detached = input.trees;
    mounts::create_filesystems(&plan.steps, &mut detached)?;
    launch::enter_root(input.root)?;
    mounts::attach(&plan.steps, detached)?;
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(at("sethostname", name))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).map_err(at("setdomainname", name))?;
    }
    if let Some(size) = process.terminal {
        let pty = terminal::take(process, size, line)?;
        terminal::mount_console(&pty)?;
        launch::take_stdio(&pty.slave, &pty.slave, &pty.slave)?;
    }
    input.placement.join_v1(&input.doors)?;
    if plan.namespaces.new_cgroup {
        sys::unshare(UnshareFlags::NEWCGROUP).map_err(at("unshare", "cgroup namespace"))?;
    }
    launch::enter_directory(&process.cwd)?;
    let program = program::prepare(&home::with_home(process))?;
    program.look()?;
    line.say_ready().map_err(at("send", "birth"))?;
    Ok(program)
}

fn finish(
    plan: &Plan,
    state: &serde_json::Value,
    seccomp: Option<&[u8]>,
    program: &Program,
) -> Result<Infallible, Failure> {
    // Our own environment is the host's, and none of the container's business.
    run_hooks(&plan.hooks.start_container, state, Some(&plan.process.process.env))?;
    execute(&plan.process, seccomp, program)
}

/// Privileges, and the program. For further processes as well.
pub fn execute(
    process: &ProcessPlan,
    seccomp: Option<&[u8]>,
    program: &Program,
) -> Result<Infallible, Failure> {
    // Not before: a hook that reads nothing must not end this process by SIGPIPE, which
    // Rust's programs ignore.
    sys::reset_signal_dispositions();
    sys::block_signals(false);
    let vectors = program.vectors();
    let who = &process.process;
    let kept = Kept {
        uid: who.uid,
        gid: who.gid,
        additional_gids: &who.additional_gids,
        umask: process.umask,
        sets: process.sets,
        no_new_privileges: who.no_new_privileges,
        // What is inheritable alone could no longer be set when all is lost with the user id.
        over_user: who.uid != 0 && process.sets.permitted | process.sets.inheritable != 0,
    };
    privileges::reduce_to(&kept, seccomp)?;
    Err(program.execute(&vectors))
}

/// `env`: what one has that names no environment. `None`: ours.
fn run_hooks(
    hooks: &[hooks::Hook],
    state: &serde_json::Value,
    env: Option<&[String]>,
) -> Result<(), Failure> {
    let cancelled = |error: Error| failure("hook", error.chain(), Errno::CANCELED);
    hooks::run_with(hooks, &state.to_string(), env).map_err(cancelled)
}

/// Where a further process belongs: with the first one.
pub fn enter(pidfd: BorrowedFd<'_>, user: bool) -> Result<(), Failure> {
    use rustix::thread::{ThreadNameSpaceType as Kind, move_into_thread_name_spaces};
    let mut kinds = Kind::MOUNT
        | Kind::INTER_PROCESS_COMMUNICATION
        | Kind::HOST_NAME_AND_NIS_DOMAIN_NAME
        | Kind::CONTROL_GROUP
        | Kind::NETWORK;
    if user {
        kinds |= Kind::USER;
    }
    move_into_thread_name_spaces(pidfd, kinds).map_err(at("setns", "container"))
}
