//! Gets the judge: Debian's source of crun, unpacked and kept, and the program that its
//! containers have for their first process.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{apt, process};

/// The suite that is run everywhere, so that its counts can be compared.
const SUITE: &str = "bookworm";
const PACKAGE: &str = "crun";

#[derive(Debug)]
pub struct Suite {
    /// The folder with `test_*.py`.
    pub tests: PathBuf,
    /// Static, to run in an empty root.
    pub init: PathBuf,
}

pub fn obtain(place: &Path) -> Result<Suite> {
    let suite = Suite { tests: place.join("suite/tests"), init: place.join("init") };
    if suite.init.exists() {
        return Ok(suite);
    }
    println!("conformance: getting Debian's source of {PACKAGE}");
    let archive = apt::download_source(SUITE, PACKAGE, &place.join("apt"))?;
    let unpacked = place.join("suite");
    fs::create_dir_all(&unpacked).context("creating the suite's folder")?;
    let mut tar = process::command("tar");
    tar.arg("-xf").arg(&archive).arg("-C").arg(&unpacked).arg("--strip-components=1");
    process::run(&mut tar)?;
    // What its configure script would have found out: no libseccomp to link with.
    let config = unpacked.join("config.h");
    fs::write(&config, "#define HAVE_SECCOMP 0\n").context("writing config.h")?;
    let aside = place.join("init.new");
    let mut cc = process::command("gcc");
    cc.args(["-static", "-w", "-O1", "-I"]).arg(&unpacked);
    process::run(cc.arg("-o").arg(&aside).arg(suite.tests.join("init.c")))?;
    // The last step: who finds it finds the rest.
    fs::rename(&aside, &suite.init).context("keeping the first process")?;
    Ok(suite)
}

pub fn write_program(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))
        .with_context(|| format!("making {} executable", path.display()))
}
