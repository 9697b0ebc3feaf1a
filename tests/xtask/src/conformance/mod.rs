//! `cargo xtask conformance`: others judge `tenantry-runtime`. crun's own test-suite, from
//! Debian's source package, against it, runc and crun, in one run on one machine.
//!
//! The suite runs in a pid and a mount namespace of its own for each runtime: what a test leaves
//! running ends with them. Cgroups that it leaves are removed afterwards.

mod leftovers;
mod suite;
mod tap;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result};

use crate::conformance::leftovers::Cgroups;
use crate::conformance::suite::Suite;
use crate::conformance::tap::{Outcome, Verdicts};
use crate::packages::Task;
use crate::{cargo, process, setup};

/// The judge's first process, as a script: it is what all others in there end with.
const JUDGE: &str = include_str!("judge.sh");
/// crun's own options are taken away; what is left any runtime has.
const ADAPTER: &str = include_str!("adapter.sh");

const OURS: &str = "tenantry-runtime";
const RUNC: &str = "runc";
const CRUN: &str = "crun";

/// # Errors
/// When a package, the suite or a runtime is not to be had. A test that fails is none.
pub fn run() -> Result<ExitCode> {
    setup::install(Task::Conformance)?;
    let built = cargo::build_programs_of(&["tenantry-oci"])?;
    let place = cargo::target_directory().join("conformance");
    let suite = suite::obtain(&place)?;
    let adapter = place.join("adapter");
    suite::write_program(&adapter, ADAPTER)?;
    let mut all = Vec::new();
    for name in [OURS, RUNC, CRUN] {
        let program = match name {
            OURS => built.directory.join(OURS),
            peer => process::find_program(peer).with_context(|| format!("no {peer}"))?,
        };
        let verdicts = judge(name, &program, &suite, &adapter, &place)?;
        let (passed, failed, skipped) = verdicts.counts();
        println!("{name:18} {passed} passed, {failed} failed, {skipped} skipped");
        all.push((name, verdicts));
    }
    let ours = &all[0].1;
    let mut behind = false;
    for (test, outcome) in ours.iter().filter(|(_, outcome)| **outcome == Outcome::Failed) {
        let passes = |(_, peer): &&(&str, Verdicts)| peer.get(test) == Some(Outcome::Passed);
        let peers: Vec<&str> = all[1..].iter().filter(passes).map(|(name, _)| *name).collect();
        if !peers.is_empty() {
            println!("  {outcome} here, passed by {}: {test}", peers.join(" and "));
        }
        behind |= peers.contains(&RUNC);
    }
    println!("what the tests said: {}", place.join("said").display());
    Ok(if behind { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn judge(
    name: &str,
    program: &Path,
    suite: &Suite,
    adapter: &Path,
    place: &Path,
) -> Result<Verdicts> {
    let [work, said] = ["work", "said"].map(|part| place.join(part).join(name));
    for directory in [&work, &said] {
        if directory.exists() {
            fs::remove_dir_all(directory)
                .with_context(|| format!("emptying {}", directory.display()))?;
        }
        fs::create_dir_all(directory)
            .with_context(|| format!("creating {}", directory.display()))?;
    }
    let before = Cgroups::look();
    let mut command = process::command("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--", "sh", "-c"]);
    command.arg(JUDGE).arg("judge").arg(&suite.tests).arg(&said);
    command.env("INIT", &suite.init).env("TMPDIR", &work).current_dir(&work);
    command.env("RUNTIME", program);
    match name {
        // It refuses a v2 hierarchy beside those of v1, and knows its own options.
        CRUN => command.env("OCI_RUNTIME", program).env("WITHOUT_UNIFIED", "1"),
        _ => command.env("OCI_RUNTIME", adapter).env_remove("WITHOUT_UNIFIED"),
    };
    let judged = process::run(command.stdin(Stdio::null()));
    before.remove_new();
    let _ = fs::remove_dir_all(&work);
    judged?;
    read(&said)
}

fn read(said: &Path) -> Result<Verdicts> {
    let mut verdicts = Verdicts::default();
    let entries = fs::read_dir(said).context("what the tests said")?;
    let files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    for file in files.iter().filter(|file| file.extension() == Some("tap".as_ref())) {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        verdicts.add(&name, &String::from_utf8_lossy(&text));
    }
    Ok(verdicts)
}
