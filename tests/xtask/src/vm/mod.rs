//! The virtual machine suite: the same test programs on a stock Debian kernel with
//! cgroup v2 alone, fentry and LSM programs, none of which every host has.
//!
//! One boot per kernel runs all programs, one after the other, as root. What it
//! needs (kernel, tools, payload) is put on disks beforehand; nothing is installed
//! on the host. A machine that cannot be had is one skipped entry with the reason.

mod bench;
mod disks;
mod emulator;
mod image;
mod kernel;
mod machine;
mod protocol;

use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Programs, TestProgram};
use crate::libtest::{self, Outcome, Tally};
use crate::packages::Task;
use crate::repeat::Repeat;
use crate::report::Suite;
use crate::setup;
use crate::vm::disks::Payload;
use crate::vm::emulator::Emulator;
use crate::vm::machine::Machine;
use crate::vm::protocol::{Results, Said};

pub use bench::run as run_bench;

pub const DEFAULT_KERNEL: &str = "6.1";
pub const NEWEST_KERNEL: &str = "newest";

/// Seconds that one test program may take in the guest, which is 10 to 20 times
/// slower than its host where there is no hardware virtualisation.
const PROGRAM_LIMIT_S: u64 = 900;

/// Where kernels and disks are kept between runs.
fn cache() -> std::path::PathBuf {
    cargo::target_directory().join("vm")
}

/// A test program and the texts of which one must stand in a test's name; none means all.
#[derive(Debug, Clone, Copy)]
pub struct Chosen<'a> {
    pub program: &'a TestProgram,
    pub filters: &'a [String],
}

impl<'a> Chosen<'a> {
    fn arguments(&self, repeat: &'a Repeat) -> Vec<&'a str> {
        match repeat.tests.is_empty() {
            true => self.filters.iter().map(String::as_str).collect(),
            false => repeat.arguments(),
        }
    }
}

/// Boots `kernel` and runs `tests` in it, with the product's programs beside them.
pub fn run_suite(kernel: &str, tests: &[Chosen<'_>], programs: &Programs) -> Result<Vec<Suite>> {
    let name = format!("vm {kernel}");
    if tests.is_empty() {
        return Ok(vec![Suite::skipped(&name, "no package lists vm-tests")]);
    }
    let machine = match prepare(kernel, "") {
        Ok(machine) => machine,
        Err(e) => {
            let suite = Suite::skipped(&name, format!("{e:#}"));
            println!("{}: {e:#}", suite.line());
            return Ok(vec![suite]);
        }
    };
    let start = Instant::now();
    let whole = Repeat { tests: Vec::new() };
    let first: Vec<_> = tests.iter().map(|test| (*test, whole.clone())).collect();
    let mut suites = boot(&machine, kernel, &first, programs)?;
    let failed = tests.iter().zip(&suites).enumerate();
    let failed = failed.filter_map(|(at, (test, s))| Some((at, (*test, Repeat::of(&s.tally)?))));
    let (places, again): (Vec<usize>, Vec<_>) = failed.unzip();
    if !again.is_empty() {
        println!("---- {name}: what failed, once more");
        let mut second = boot(&machine, kernel, &again, programs)?;
        suites.extend(second.split_off(again.len()));
        for ((at, (_, repeat)), suite) in places.into_iter().zip(&again).zip(second) {
            suites[at] = suites[at].clone().repeated(repeat, suite);
        }
    }
    println!("{name}: {:.1} s in all", start.elapsed().as_secs_f64());
    Ok(suites)
}

/// One boot that runs these programs: their suites in this order, and one more if the
/// kernel broke.
fn boot(
    machine: &Machine,
    kernel: &str,
    plan: &[(Chosen<'_>, Repeat)],
    programs: &Programs,
) -> Result<Vec<Suite>> {
    let name = format!("vm {kernel}");
    let mut payload = Payload::new(&machine.work)?;
    for program in &programs.programs {
        payload.add_program(program)?;
    }
    let mut results = Results::default();
    for (chosen, repeat) in plan {
        let test = chosen.program;
        let id = protocol::id(&test.name());
        payload.add_test(&id, &test.executable, PROGRAM_LIMIT_S, &chosen.arguments(repeat))?;
        results.expect(&id, &format!("{name} {}", test.name()));
    }
    let limit = Duration::from_secs(120 + PROGRAM_LIMIT_S * plan.len() as u64);
    let death = machine.run(&payload, limit, |line| match results.line(line) {
        // Another kernel's guest may speak at the same time.
        Said::Show(text) => println!("{kernel}: {}", libtest::provisional(&text)),
        Said::Ended(suite) => println!("{}", suite.line()),
        Said::Nothing => {}
    })?;
    let mut suites = results.finish(death.as_deref());
    // What the kernel itself complained about concerns every test.
    let complaints = machine.complaints();
    for complaint in &complaints {
        println!("{kernel}: guest kernel: {complaint}");
    }
    if let Some(first) = complaints.into_iter().find(|line| machine::is_fatal(line)) {
        let failed = vec![Outcome { test: "(the kernel's log)".to_owned(), why: first }];
        let tally = Tally { failed, ..Tally::default() };
        suites.push(Suite { name, tally, time: Duration::ZERO });
    }
    Ok(suites)
}

/// `vm shell-run [--kernel V] FILE [ARGS]`: one static program, its output and status.
pub fn run_one(args: &[&str]) -> Result<ExitCode> {
    let (version, rest) = match args {
        ["--kernel", version, rest @ ..] => (*version, rest),
        rest => (DEFAULT_KERNEL, rest),
    };
    let [file, args @ ..] = rest else { bail!("vm shell-run wants a file to run") };
    let machine = prepare(version, "")?;
    let mut payload = Payload::new(&machine.work)?;
    let name = Path::new(file).file_name().context("that file has no name")?;
    // A program may look at its own name, as busybox does.
    let id = protocol::id(&name.to_string_lossy());
    payload.add_test_with(&id, Path::new(file), PROGRAM_LIMIT_S, args)?;
    status_of(&machine, &payload, Duration::from_secs(PROGRAM_LIMIT_S + 60))
}

/// Runs a payload of one program, whose output is shown and whose status is handed back.
fn status_of(machine: &Machine, payload: &Payload, limit: Duration) -> Result<ExitCode> {
    let mut status = None;
    let death = machine.run(payload, limit, |line| match protocol::marker(line) {
        Some(protocol::Marker::End { status: code, .. }) => status = Some(code),
        Some(_) => {}
        None => println!("{line}"),
    })?;
    if let Some(death) = death {
        bail!("the guest ended early: {death}");
    }
    let status = status.context("the guest gave no status")?;
    Ok(ExitCode::from(u8::try_from(status).unwrap_or(u8::MAX)))
}

/// Everything that is the same for each run: packages, kernel, initrd, root disk.
fn prepare(version: &str, scratch: &str) -> Result<Machine> {
    let known = kernel::find(version)?;
    fs::create_dir_all(cache()).with_context(|| format!("creating {}", cache().display()))?;
    // Held until the end of this function: two must not install or fill the cache at once.
    let lock = fs::File::create(cache().join("lock")).context("creating the cache's lock")?;
    lock.lock().context("waiting for another run that fills the cache")?;
    setup::install(Task::Vm)?;
    let emulator = Emulator::find(&cache())?;
    let files = kernel::obtain(known, &cache())?;
    let initrd = disks::initrd(&files, &cache())?;
    let root = disks::root(&files, &cache())?;
    Machine::new(emulator, known, &files, initrd, root, scratch, &cache())
}
