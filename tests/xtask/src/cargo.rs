//! Asks cargo to build, and learns from its messages where the programs are.
//!
//! Test programs are built by cargo and run by us: only then is each one's output,
//! status and time its own, and the same files can be carried into a virtual machine.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::process;

/// Cargo itself, in the workspace's root.
pub fn command() -> Command {
    let mut command = process::command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(workspace_root());
    // `cargo xtask` runs us through cargo: what it says about the package xtask must
    // not reach the children.
    for (key, _) in std::env::vars_os() {
        if key.to_string_lossy().starts_with("CARGO_PKG_") || key == "CARGO_MANIFEST_DIR" {
            command.env_remove(key);
        }
    }
    command
}

/// The directory of the workspace's `Cargo.toml`.
pub fn workspace_root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("xtask lies two folders below the workspace's root")
}

/// Where built things go that are no product of cargo: kernels, disks.
pub fn target_directory() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace_root().join("target"), PathBuf::from)
}

/// The programs of a release build, and the one directory they lie in.
#[derive(Debug)]
pub struct Programs {
    pub directory: PathBuf,
    pub programs: Vec<PathBuf>,
}

/// What runs containers: always built, since tests and demo start them.
const PRODUCT: &[&str] = &["tenantry", "tenantry-oci", "tenantry-shim", "tenantry-workload"];

/// Builds the product's programs and those of the packages in `more`.
pub fn build_programs(more: &[&str]) -> Result<Programs> {
    build_programs_of(&[PRODUCT, more].concat())
}

/// Builds the programs of exactly these packages.
pub fn build_programs_of(packages: &[&str]) -> Result<Programs> {
    let mut cargo = command();
    cargo.args(["build", "--release", "--bins"]);
    for package in packages {
        cargo.args(["--package", package]);
    }
    let programs: Vec<PathBuf> = artifacts(&mut cargo)?
        .iter()
        .filter_map(|artifact| artifact["executable"].as_str().map(PathBuf::from))
        .collect();
    let directory = programs
        .first()
        .and_then(|program| program.parent())
        .context("cargo built no program")?
        .to_owned();
    Ok(Programs { directory, programs })
}

/// One executable of tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestProgram {
    pub package: String,
    /// Name of the target: `lib` for a library's unit tests, `bin NAME` for a
    /// program's, else the file's name under `tests/`.
    pub target: String,
    /// Unit tests are quick and many; integration tests are followed one by one.
    pub is_unit: bool,
    /// The package's folder: tests run there, as with `cargo test`.
    pub directory: PathBuf,
    pub executable: PathBuf,
    /// `package.metadata.tenantry.vm-tests` names it: runs in the virtual machine too.
    pub in_vm: bool,
    /// `package.metadata.tenantry.vm-newest-tests` names it: runs on the newest kernel as
    /// well, those of its tests whose names contain one of these texts; all if there is none.
    pub on_newest: Option<Vec<String>>,
    /// `package.metadata.tenantry.vm-only-tests` names it: does not run on the host.
    pub vm_only: bool,
    /// `package.metadata.tenantry.serial-tests` names it: one test at a time.
    pub serial: bool,
}

impl TestProgram {
    pub fn name(&self) -> String {
        format!("{} {}", self.package, self.target)
    }
}

/// To optimise the agent once more for its own unit and doc tests takes minutes and finds nothing;
/// the agent that tests start is the one that is shipped.
pub const QUICKLY: &str = "profile.release.package.tenantry.opt-level=0";

/// Builds the test programs of these packages; of the whole workspace if none is named.
pub fn build_tests(only: &[String]) -> Result<Vec<TestProgram>> {
    let packages = packages()?;
    let mut cargo = command();
    cargo.args(["test", "--release", "--no-run", "--config", QUICKLY]);
    select(&mut cargo, only);
    let mut tests: Vec<TestProgram> = artifacts(&mut cargo)?
        .iter()
        .filter(|artifact| artifact["profile"]["test"] == true)
        .filter_map(|artifact| test_program(artifact, &packages))
        .collect();
    // Unit tests first: what they find is the cheapest to understand.
    tests.sort_by_key(|test| (!test.is_unit, test.package.clone(), test.target.clone()));
    Ok(tests)
}

/// Names packages to cargo; none means the workspace.
pub fn select(cargo: &mut Command, packages: &[String]) {
    if packages.is_empty() {
        cargo.arg("--workspace");
    }
    for package in packages {
        cargo.args(["--package", package]);
    }
}

fn test_program(artifact: &Value, packages: &HashMap<String, Package>) -> Option<TestProgram> {
    let executable = PathBuf::from(artifact["executable"].as_str()?);
    let package = packages.get(artifact["package_id"].as_str()?)?;
    let name = artifact["target"]["name"].as_str()?;
    let kind = artifact["target"]["kind"][0].as_str()?;
    let target = match kind {
        "test" => name.to_owned(),
        "bin" => format!("bin {name}"),
        _ => "lib".to_owned(),
    };
    let listed = |key: &str| {
        package.metadata["tenantry"][key]
            .as_array()
            .is_some_and(|names| names.iter().any(|name| name == target.as_str()))
    };
    let vm_only = listed("vm-only-tests");
    Some(TestProgram {
        package: package.name.clone(),
        is_unit: kind != "test",
        directory: package.directory.clone(),
        executable,
        in_vm: vm_only || listed("vm-tests"),
        on_newest: texts(&package.metadata["tenantry"]["vm-newest-tests"][&target]),
        vm_only,
        serial: listed("serial-tests"),
        target,
    })
}

/// A list of texts; `None` if it is no list.
fn texts(value: &Value) -> Option<Vec<String>> {
    Some(value.as_array()?.iter().filter_map(|text| Some(text.as_str()?.to_owned())).collect())
}

#[derive(Debug)]
struct Package {
    name: String,
    directory: PathBuf,
    metadata: Value,
}

/// The workspace's packages by cargo's package id.
fn packages() -> Result<HashMap<String, Package>> {
    let text = process::output(command().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_slice(&text).context("reading cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata names no packages")?;
    packages
        .iter()
        .map(|package| {
            let id = package["id"].as_str().context("a package without id")?.to_owned();
            let manifest =
                package["manifest_path"].as_str().context("a package without manifest")?;
            let directory = Path::new(manifest).parent().context("a manifest without folder")?;
            let package = Package {
                name: package["name"].as_str().context("a package without name")?.to_owned(),
                directory: directory.to_owned(),
                metadata: package["metadata"].clone(),
            };
            Ok((id, package))
        })
        .collect()
}

/// Runs a cargo build command and collects its `compiler-artifact` messages;
/// diagnostics go to stderr as always.
fn artifacts(cargo: &mut Command) -> Result<Vec<Value>> {
    let output = cargo
        .args(["--message-format", "json-render-diagnostics"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo could not build ({}); see above", output.status);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).context("reading cargo's messages"))
        .filter(|message: &Result<Value>| {
            message.as_ref().map_or(true, |m| m["reason"] == "compiler-artifact")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_says_where_a_test_program_runs() {
        let metadata = serde_json::json!({"tenantry": {
            "vm-tests": ["host"], "vm-newest-tests": {"host": ["a::", "b"]},
            "serial-tests": ["host", "lib"],
        }});
        let package = Package { name: "p".into(), directory: "/p".into(), metadata };
        let packages = HashMap::from([("id".to_owned(), package)]);
        let check = |kind: &str,
                     name: &str,
                     expected: (&str, bool, bool, Option<&[&str]>, bool)| {
            let artifact = serde_json::json!({
                "package_id": "id", "executable": "/x", "target": {"kind": [kind], "name": name},
            });
            let test = test_program(&artifact, &packages).unwrap();
            let on_newest = expected.3.map(|texts| texts.iter().map(|t| (*t).to_owned()).collect());
            assert_eq!(test.on_newest, on_newest);
            let seen = (test.target.as_str(), test.is_unit, test.in_vm, test.serial);
            assert_eq!(seen, (expected.0, expected.1, expected.2, expected.4));
        };
        check("test", "host", ("host", false, true, Some(&["a::", "b"]), true));
        check("test", "golden", ("golden", false, false, None, false));
        check("lib", "p", ("lib", true, false, None, true));
        check("bin", "p", ("bin p", true, false, None, false));
    }

    #[test]
    fn the_workspace_knows_its_packages() {
        let names: Vec<String> = packages().unwrap().into_values().map(|p| p.name).collect();
        assert!(names.iter().any(|name| name == "xtask"), "{names:?}");
    }
}
