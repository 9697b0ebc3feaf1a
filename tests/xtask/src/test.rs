//! `cargo xtask test`: lint, then every test program on the host, then the virtual
//! machine, then the report. A suite that fails does not keep the next from running.

use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cargo::{self, Programs, TestProgram};
use crate::libtest::{self, Reader};
use crate::packages::Task;
use crate::repeat::Repeat;
use crate::report::{self, Suite};
use crate::supervise::{self, End, Limits, Next};
use crate::vm::Chosen;
use crate::{process, setup, vm};

/// What a person left out or chose.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub skip_lint: bool,
    pub skip_host: bool,
    pub skip_vm: bool,
    /// Only these packages; the rest of the workspace need not even compile.
    pub packages: Vec<String>,
    /// Only test programs whose name (`package target`) contains this text.
    pub only: Option<String>,
    /// In the virtual machine also integration tests that are not listed for it.
    pub unlisted: bool,
    /// Kernels to boot; empty means the default one, and the newest for what is listed for it.
    pub kernels: Vec<String>,
}

impl Options {
    pub fn parse(args: &[&str]) -> Result<Options> {
        let mut options = Options::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match *arg {
                "--skip-lint" => options.skip_lint = true,
                "--skip-host" => options.skip_host = true,
                "--skip-vm" => options.skip_vm = true,
                "--unlisted" => options.unlisted = true,
                "--package" | "-p" => options.packages.push((*value()?).to_owned()),
                "--only" => options.only = Some((*value()?).to_owned()),
                "--kernel" => options.kernels.push((*value()?).to_owned()),
                _ => bail!("no such option: {arg}"),
            }
        }
        Ok(options)
    }

    fn wants(&self, test: &TestProgram) -> bool {
        self.only.as_ref().is_none_or(|text| test.name().contains(text.as_str()))
    }
}

/// Runs everything that `options` leaves in.
pub fn everything(options: &Options) -> Result<ExitCode> {
    setup::install(Task::Test)?;
    let mut suites = Vec::new();
    if !options.skip_lint {
        title("lint");
        suites.extend(lint(&options.packages));
    }
    title("build");
    let programs = programs(options)?;
    let tests = wanted(options)?;
    if !options.skip_host {
        title("tests on this host");
        let host: Vec<&TestProgram> = tests.iter().filter(|test| !test.vm_only).collect();
        for (i, test) in host.iter().enumerate() {
            println!("---- {} [{}/{}]", test.name(), i + 1, host.len());
            let mut suite = run_test(test, &programs.directory, &[])?;
            println!("{}", suite.line());
            if let Some(repeat) = Repeat::of(&suite.tally) {
                println!("---- {} once more", test.name());
                let second = run_test(test, &programs.directory, &repeat.arguments())?;
                suite = suite.repeated(&repeat, second);
                println!("{}", suite.line());
            }
            suites.push(suite);
        }
        if options.only.is_none() && options.packages.is_empty() {
            println!("---- doc tests");
            let suite = doc_tests()?;
            println!("{}", suite.line());
            suites.push(suite);
        }
    }
    if !options.skip_vm {
        suites.extend(vm_suites(options, &tests, &programs)?);
    }
    Ok(report::conclude(&suites))
}

/// The virtual machine's suites alone.
pub fn vm_only(options: &Options) -> Result<ExitCode> {
    setup::install(Task::Build)?;
    let programs = programs(options)?;
    let tests = wanted(options)?;
    Ok(report::conclude(&vm_suites(options, &tests, &programs)?))
}

/// The product's programs, which tests start. Who names packages may be in the middle
/// of changing another one: then tests that start the product say that it is missing.
fn programs(options: &Options) -> Result<Programs> {
    cargo::build_programs(&[]).or_else(|e| {
        if options.packages.is_empty() {
            return Err(e);
        }
        println!("the agent does not build; the tests go on without it");
        cargo::build_programs_of(&["tenantry-shim", "tenantry-workload"])
    })
}

fn wanted(options: &Options) -> Result<Vec<TestProgram>> {
    let mut tests = cargo::build_tests(&options.packages)?;
    tests.retain(|test| options.wants(test));
    Ok(tests)
}

fn vm_suites(options: &Options, tests: &[TestProgram], programs: &Programs) -> Result<Vec<Suite>> {
    let plan = vm_plan(options, tests);
    let kernels: Vec<&str> = plan.iter().map(|(kernel, _)| *kernel).collect();
    title(&format!("tests in virtual machines, Debian {}", kernels.join(" and ")));
    // Side by side: a guest keeps one processor busy most of the time.
    std::thread::scope(|scope| {
        let run =
            |(kernel, tests): (&str, Vec<Chosen<'_>>)| vm::run_suite(kernel, &tests, programs);
        let guests: Vec<_> =
            plan.into_iter().map(|kernel| scope.spawn(move || run(kernel))).collect();
        let suites = guests.into_iter().map(|guest| guest.join().expect("no panic"));
        let suites: Result<Vec<Vec<Suite>>> = suites.collect();
        Ok(suites?.concat())
    })
}

/// Which test programs run on which kernel. On those that a person names all run that
/// run in the virtual machine; else on the default one, and the listed ones on the newest.
fn vm_plan<'a>(options: &'a Options, tests: &'a [TestProgram]) -> Vec<(&'a str, Vec<Chosen<'a>>)> {
    let in_vm = |test: &&TestProgram| test.in_vm || options.unlisted && !test.is_unit;
    let in_vm = tests.iter().filter(in_vm).map(|program| Chosen { program, filters: &[] });
    let in_vm: Vec<Chosen<'_>> = in_vm.collect();
    if !options.kernels.is_empty() {
        return options.kernels.iter().map(|kernel| (kernel.as_str(), in_vm.clone())).collect();
    }
    let on_newest =
        |program: &'a TestProgram| Some(Chosen { program, filters: program.on_newest.as_deref()? });
    let on_newest: Vec<Chosen<'_>> = tests.iter().filter_map(on_newest).collect();
    let mut plan = vec![(vm::DEFAULT_KERNEL, in_vm)];
    if !on_newest.is_empty() {
        plan.push((vm::NEWEST_KERNEL, on_newest));
    }
    plan
}

/// rustfmt and clippy, each one check, on these packages or on all.
fn lint(packages: &[String]) -> Vec<Suite> {
    let mut fmt = cargo::command();
    fmt.arg("fmt");
    if packages.is_empty() {
        fmt.arg("--all");
    }
    for package in packages {
        fmt.args(["--package", package]);
    }
    fmt.arg("--check");
    let mut clippy = cargo::command();
    clippy.args(["clippy", "--all-targets", "--release", "--quiet"]);
    cargo::select(&mut clippy, packages);
    clippy.args(["--", "-D", "warnings"]);
    [check("rustfmt", "fmt", fmt), check("clippy", "clippy", clippy)]
        .into_iter()
        .inspect(|suite| println!("{}", suite.line()))
        .collect()
}

pub fn lint_only() -> Result<ExitCode> {
    setup::install(Task::Build)?;
    Ok(report::conclude(&lint(&[])))
}

fn check(name: &str, subcommand: &str, mut command: Command) -> Suite {
    let installed = cargo::command()
        .args([subcommand, "--version"])
        .output()
        .is_ok_and(|output| output.status.success());
    if !installed {
        return Suite::skipped(name, format!("not installed (rustup component add {name})"));
    }
    let start = Instant::now();
    let result = process::run(&mut command).map_err(|e| format!("{e:#}"));
    Suite::check(name, result, start.elapsed())
}

/// A test program may take this long; the end-to-end ones take minutes.
/// How long the image store is given mutated input, unless the variable says otherwise.
const FUZZ_SECONDS: &str = "60";

const HOST_LIMITS: Limits =
    Limits { total: Duration::from_secs(1800), silence: Duration::from_secs(600) };

fn run_test(test: &TestProgram, programs: &Path, arguments: &[&str]) -> Result<Suite> {
    let mut command = supervise::dying_with_us(&test.executable);
    command.arg("--show-output").args(arguments);
    if test.serial {
        command.arg("--test-threads=1");
    }
    command
        .current_dir(&test.directory)
        .env("CARGO_MANIFEST_DIR", &test.directory)
        .env("TENANTRY_BIN_DIR", programs)
        .env("TENANTRY_TIME_FACTOR", "1");
    if std::env::var_os("TENANTRY_FUZZ_SECONDS").is_none() {
        command.env("TENANTRY_FUZZ_SECONDS", FUZZ_SECONDS);
    }
    run_libtest(&test.name(), &mut command, !test.is_unit)
}

fn doc_tests() -> Result<Suite> {
    let mut command = supervise::dying_with_us(cargo::command().get_program());
    command
        .args(["test", "--release", "--workspace", "--doc", "--no-fail-fast"])
        .args(["--config", cargo::QUICKLY])
        .args(["--", "--show-output"])
        .current_dir(cargo::workspace_root());
    run_libtest("doc tests", &mut command, false)
}

/// Runs something that speaks libtest's language; `follow` shows each test as it ends.
fn run_libtest(name: &str, command: &mut Command, follow: bool) -> Result<Suite> {
    let start = Instant::now();
    let mut reader = Reader::default();
    let end = supervise::run_lines(command, HOST_LIMITS, |line| {
        let show = reader.line(line);
        if show && (follow || !line.ends_with("... ok")) {
            println!("{}", libtest::provisional(line));
        }
        Next::Continue
    })?;
    let tally = reader.finish(describe(end).as_deref());
    Ok(Suite { name: name.to_owned(), tally, time: start.elapsed() })
}

/// `None` if the program ended well.
fn describe(end: End) -> Option<String> {
    match end {
        End::Exited(status) if status.success() => None,
        End::Exited(status) => Some(status.to_string()),
        End::TimedOut(limit) => Some(format!("killed after {} s", limit.as_secs())),
        End::Silent(limit) => Some(format!("killed after {} s without a word", limit.as_secs())),
        End::Stopped => Some("stopped".to_owned()),
    }
}

fn title(text: &str) {
    println!("\n==== {text} ====");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_unknown_ones_refused() {
        let options =
            Options::parse(&["--skip-lint", "--only", "cgroupfs", "--kernel", "6.1"]).unwrap();
        assert!(options.skip_lint && !options.skip_vm);
        assert_eq!(options.only.as_deref(), Some("cgroupfs"));
        assert_eq!(options.kernels, ["6.1"]);
        assert!(Options::parse(&["--only"]).is_err());
        assert!(Options::parse(&["--kernle", "6.1"]).is_err());
    }

    #[test]
    fn the_newest_kernel_runs_what_is_listed_for_it_unless_kernels_are_named() {
        let test = |target: &str, in_vm, on_newest: bool| TestProgram {
            package: "p".into(),
            target: target.into(),
            is_unit: false,
            directory: "/p".into(),
            executable: "/x".into(),
            in_vm,
            on_newest: on_newest.then(|| vec!["some::".to_owned()]),
            vm_only: false,
            serial: false,
        };
        let all = [test("both", true, true), test("old", true, false), test("none", false, false)];
        let check = |args: &[&str], tests: &[TestProgram], expected: &[(&str, &[&str])]| {
            let options = Options::parse(args).unwrap();
            let plan = vm_plan(&options, tests);
            let names = |tests: &[Chosen<'_>]| -> Vec<String> {
                let name = |test: &Chosen<'_>| match test.filters {
                    [] => test.program.target.clone(),
                    filters => format!("{} {}", test.program.target, filters.join(" ")),
                };
                tests.iter().map(name).collect()
            };
            let plan: Vec<_> = plan.iter().map(|(kernel, tests)| (*kernel, names(tests))).collect();
            let expected: Vec<_> = expected
                .iter()
                .map(|(kernel, tests)| (*kernel, tests.iter().map(|t| (*t).to_owned()).collect()))
                .collect();
            assert_eq!(plan, expected, "{args:?}");
        };
        check(&[], &all, &[("6.1", &["both", "old"]), ("newest", &["both some::"])]);
        check(&[], &all[1..], &[("6.1", &["old"])]);
        check(
            &["--unlisted"],
            &all,
            &[("6.1", &["both", "old", "none"]), ("newest", &["both some::"])],
        );
        check(&["--kernel", "newest"], &all, &[("newest", &["both", "old"])]);
        let two: &[(&str, &[&str])] = &[("6.1", &["both", "old"]), ("6.12", &["both", "old"])];
        check(&["--kernel", "6.1", "--kernel", "6.12"], &all, two);
    }
}
