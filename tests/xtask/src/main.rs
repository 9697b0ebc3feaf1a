//! `cargo xtask`: installs, builds, tests and demonstrates tenantry.
//!
//! It owns the order of things on a developer's and on CI's machine. It must not
//! depend on any crate of the product, nor on one that needs a package installed
//! first: it is what installs them.

mod apt;
mod cargo;
mod conformance;
mod libtest;
mod packages;
mod process;
mod repeat;
mod report;
mod setup;
mod supervise;
mod test;
mod vm;

use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::packages::Task;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup [build|test|vm|demo|bench|conformance]
                                  install the packages that a command needs (default: test and vm)
  build                           release build of every program
  test [--skip-lint] [--skip-host] [--skip-vm] [--package NAME] [--only TEXT]
                                  everything: lint, unit and host tests, virtual machine;
                                  or one package, or test programs with TEXT in their name
  demo [ARGS]                     build, then play the main job on real containers (--keep leaves it running)
  bench [NAMES]                   build, then measure beside the peers
  conformance                     build, then let crun's own test-suite judge tenantry-runtime beside runc and crun
  vm test [--kernel 6.1|6.12|newest] [--package NAME] [--only TEXT] [--unlisted]
                                  the virtual machine suite alone; --unlisted tries integration
                                  tests that no manifest lists for it yet
  vm bench NAMES                  the same benchmarks in the virtual machine (cgroup v2, slow disk)
  vm shell-run [--kernel V] FILE [ARGS]
                                  boot, run one static program as root, hand back its status
  lint                            rustfmt and clippy, warnings are errors
  check-imports                   the dependency rules between the rooms
";

fn main() -> ExitCode {
    process::add_sbin_to_path();
    match dispatch(std::env::args().skip(1).collect()) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("xtask: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: Vec<String>) -> Result<ExitCode> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["setup"] => {
            setup::install(Task::Test)?;
            setup::install(Task::Vm)?;
        }
        ["setup", task] => setup::install(task.parse()?)?,
        ["build"] => {
            setup::install(Task::Build)?;
            let bins = cargo::build_programs(&[])?;
            for program in bins.programs {
                println!("{}", program.display());
            }
        }
        ["test", rest @ ..] => return test::everything(&test::Options::parse(rest)?),
        ["demo", rest @ ..] => {
            return run_program(Task::Demo, "tenantry-e2e", "tenantry-demo", rest);
        }
        ["bench", rest @ ..] => {
            return run_program(Task::Bench, "tenantry-bench", "tenantry-bench", rest);
        }
        ["conformance"] => return conformance::run(),
        ["vm", "test", rest @ ..] => return test::vm_only(&test::Options::parse(rest)?),
        ["vm", "bench", names @ ..] => return vm::run_bench(names),
        ["vm", "shell-run", rest @ ..] => return vm::run_one(rest),
        ["lint"] => return test::lint_only(),
        ["check-imports"] => {
            process::run(cargo::command().args([
                "test",
                "--quiet",
                "--release",
                "--package",
                "xtask",
                "--test",
                "import_rules",
            ]))?;
        }
        ["help" | "--help" | "-h"] => print!("{USAGE}"),
        [] => bail!("a command is missing\n{USAGE}"),
        other => bail!("no such command: {}\n{USAGE}", other.join(" ")),
    }
    Ok(ExitCode::SUCCESS)
}

/// Installs what `task` needs, builds every program and becomes `program`.
fn run_program(task: Task, package: &str, program: &str, args: &[&str]) -> Result<ExitCode> {
    setup::install(task)?;
    let built = cargo::build_programs(&[package])?;
    let path = built.directory.join(program);
    if !path.exists() {
        bail!("package {package} builds no program {program}");
    }
    Err(process::become_program(
        std::process::Command::new(path).args(args).env("TENANTRY_BIN_DIR", &built.directory),
    ))
}
