//! apt with a state directory and sources of our own: the host's package lists are
//! not touched, and a package of another Debian release can be had. The mirror is the
//! one that the host uses already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// Downloads the kernel that the package `meta` of a Debian `suite` depends on, with
/// `dir` for apt's state, and hands back the files of its packages.
pub fn download_kernel(suite: &str, meta: &str, dir: &Path) -> Result<Vec<PathBuf>> {
    let apt = Apt::open(suite, Kind::Packages, dir)?;
    let depends = apt.text("apt-cache", &["depends", "--important", meta])?;
    let package = kernel_package(&depends)
        .with_context(|| format!("{} names no kernel package: {depends}", meta))?;
    let depends = apt.text("apt-cache", &["depends", "--important", package])?;
    apt.download(&parts(package, &depends))
}

/// Downloads `packages` of a Debian `suite`, with `dir` for apt's state.
pub fn download(suite: &str, packages: &[&str], dir: &Path) -> Result<Vec<PathBuf>> {
    Apt::open(suite, Kind::Packages, dir)?.download(packages)
}

/// Downloads the sources of `package` as its author released them, of a Debian `suite`: the
/// archive's hash is the signed list's.
pub fn download_source(suite: &str, package: &str, dir: &Path) -> Result<PathBuf> {
    let apt = Apt::open(suite, Kind::Sources, dir)?;
    apt.run("apt-get", &["-q", "source", "--download-only", package])?;
    let files = apt.downloaded()?;
    let original = |path: &&PathBuf| path.to_string_lossy().contains(".orig.tar.");
    let archive =
        files.iter().filter(original).find(|path| path.extension() != Some("asc".as_ref()));
    archive.cloned().with_context(|| format!("the source of {package} has no archive: {files:?}"))
}

/// What a mirror is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Packages,
    Sources,
}

/// The kernel that a meta package depends on, from `apt-cache depends`.
fn kernel_package(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
}

/// The packages that hold a kernel's files: since 7.2 not itself, but some that it depends on.
fn parts<'a>(package: &'a str, depends: &'a str) -> Vec<&'a str> {
    let names = depends.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
    const PARTS: [&str; 3] = ["linux-base-", "linux-binary-", "linux-modules-"];
    let is_part = |name: &&str| PARTS.iter().any(|part| name.starts_with(part));
    let parts: Vec<&str> = names.filter(is_part).collect();
    if parts.is_empty() { vec![package] } else { parts }
}

/// apt with state and sources of our own.
struct Apt {
    options: Vec<String>,
    download: PathBuf,
}

impl Apt {
    /// With the suite's lists as they are now.
    fn open(suite: &str, kind: Kind, dir: &Path) -> Result<Apt> {
        let download = dir.join("download");
        if download.exists() {
            fs::remove_dir_all(&download).context("emptying the download folder")?;
        }
        for sub in ["state/lists/partial", "cache/archives/partial", "sources", "download"] {
            fs::create_dir_all(dir.join(sub)).with_context(|| format!("creating {sub}"))?;
        }
        fs::write(dir.join("status"), "").context("writing an empty package status")?;
        let mut sources = debian_source(&host_sources(), suite)?;
        if kind == Kind::Sources {
            sources = sources.replacen("Types: deb\n", "Types: deb-src\n", 1);
        }
        fs::write(dir.join("sources/debian.sources"), sources).context("writing the sources")?;
        let at = |name: &str| dir.join(name).display().to_string();
        let options = [
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            format!("Dir::Etc::sourcelist={}", at("none")),
            format!("Dir::Etc::sourceparts={}", at("sources")),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // apt's own user may not be allowed into the target folder.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let options = options.into_iter().flat_map(|value| ["-o".to_owned(), value]).collect();
        let apt = Apt { options, download };
        apt.run("apt-get", &["-q", "update"])?;
        Ok(apt)
    }

    /// The files of `packages`, without what they depend on.
    fn download(&self, packages: &[&str]) -> Result<Vec<PathBuf>> {
        self.run("apt-get", &[&["-q", "download"], packages].concat())?;
        let mut files = self.downloaded()?;
        files.retain(|path| path.extension().is_some_and(|ext| ext == "deb"));
        Ok(files)
    }

    fn downloaded(&self) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.download).context("reading the download folder")?;
        Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = process::command(program);
        command.args(&self.options).args(args).current_dir(&self.download);
        command
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        process::run(&mut self.command(program, args))
    }

    fn text(&self, program: &str, args: &[&str]) -> Result<String> {
        process::text(&mut self.command(program, args))
    }
}

/// The text of the host's apt sources in the one-paragraph-per-source form.
fn host_sources() -> String {
    let Ok(entries) = fs::read_dir("/etc/apt/sources.list.d") else { return String::new() };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.push(PathBuf::from("/etc/apt/sources.list"));
    let mut text = String::new();
    for file in files {
        let content = fs::read_to_string(&file).unwrap_or_default();
        let is_list = file.extension().is_some_and(|ext| ext == "list");
        text += &if is_list { content.lines().map(list_line).collect() } else { content };
        text += "\n\n";
    }
    text
}

/// One line of a `.list` file as a paragraph of a `.sources` file.
fn list_line(line: &str) -> String {
    let Some(rest) = line.trim().strip_prefix("deb ") else { return String::new() };
    let (options, rest) = match rest.trim().strip_prefix('[').and_then(|r| r.split_once(']')) {
        Some((options, rest)) => (options, rest),
        None => ("", rest),
    };
    let mut words = rest.split_whitespace();
    let (Some(uri), Some(suite)) = (words.next(), words.next()) else { return String::new() };
    let components: Vec<&str> = words.collect();
    let mut out =
        format!("Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {}\n", components.join(" "));
    for (key, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
        match key {
            "signed-by" => out += &format!("Signed-By: {value}\n"),
            "trusted" => out += &format!("Trusted: {value}\n"),
            _ => {}
        }
    }
    out + "\n"
}

/// The source that carries `suite`: the mirror this host already uses for Debian
/// itself, or the one named by `TENANTRY_DEBIAN_MIRROR`.
fn debian_source(host: &str, suite: &str) -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let codename = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    if let Ok(mirror) = std::env::var("TENANTRY_DEBIAN_MIRROR") {
        return Ok(format!("Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"));
    }
    let is_debian = release.lines().any(|line| line == "ID=debian");
    codename
        .filter(|_| is_debian)
        .and_then(|codename| with_suite(host, codename.trim_matches('"'), suite))
        .context(
            "this host's apt has no source of Debian packages to take a kernel from; \
             name a mirror in TENANTRY_DEBIAN_MIRROR",
        )
}

/// Debian's own source among `sources` (it has the host's release and `main`), with
/// `suite` in place of the host's suites.
fn with_suite(sources: &str, codename: &str, suite: &str) -> Option<String> {
    let has = |paragraph: &str, key: &str, word: &str| {
        paragraph
            .lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .any(|value| value.split_whitespace().any(|w| w == word))
    };
    let paragraph = sources.split("\n\n").find(|paragraph| {
        has(paragraph, "Suites", codename)
            && has(paragraph, "Components", "main")
            && !has(paragraph, "Enabled", "no")
    })?;
    let kept = paragraph.lines().filter(|line| {
        !["Suites:", "Components:", "Types:", "#"].iter().any(|key| line.starts_with(key))
    });
    let mut out = format!("Types: deb\nSuites: {suite}\nComponents: main\n");
    kept.filter(|line| !line.is_empty()).for_each(|line| out += &format!("{line}\n"));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meta_packages_dependency_is_found() {
        let text = "linux-image-cloud-amd64\n  Depends: linux-image-6.1.0-40-cloud-amd64\n";
        assert_eq!(kernel_package(text), Some("linux-image-6.1.0-40-cloud-amd64"));
        assert_eq!(kernel_package("linux-image-cloud-amd64\n"), None);
    }

    #[test]
    fn a_kernel_in_parts_is_all_of_them() {
        let whole = "linux-image-6.1.0-40-cloud-amd64\n  Depends: kmod\n |Depends: linux-base\n";
        assert_eq!(
            parts("linux-image-6.1.0-40-cloud-amd64", whole),
            ["linux-image-6.1.0-40-cloud-amd64"]
        );
        let split = "linux-image-7.2-x\n |Depends: dracut\n  Depends: linux-base-7.2-x\n  \
                     Depends: linux-binary-7.2-x\n  Depends: linux-modules-7.2-x\n";
        assert_eq!(
            parts("linux-image-7.2-x", split),
            ["linux-base-7.2-x", "linux-binary-7.2-x", "linux-modules-7.2-x"]
        );
    }

    #[test]
    fn the_hosts_mirror_is_used_with_another_suite() {
        let other = "Types: deb\nURIs: http://a.example/x\nSuites: trixie\nComponents: stable\n";
        let debian = "# c\nTypes: deb deb-src\nURIs: http://m.example/debian\nSuites: trixie trixie-updates\n\
                      Components: main contrib\nSigned-By: /k.gpg\n";
        let sources = format!("{other}\n\n{debian}\n\n");
        assert_eq!(
            with_suite(&sources, "trixie", "bookworm").unwrap(),
            "Types: deb\nSuites: bookworm\nComponents: main\nURIs: http://m.example/debian\nSigned-By: /k.gpg\n"
        );
        assert_eq!(with_suite(&sources, "sid", "bookworm"), None);
    }

    #[test]
    fn one_line_sources_become_paragraphs() {
        assert_eq!(
            list_line(
                "deb [arch=amd64 signed-by=/k.gpg] http://m.example/debian bookworm main contrib"
            ),
            "Types: deb\nURIs: http://m.example/debian\nSuites: bookworm\nComponents: main contrib\nSigned-By: /k.gpg\n\n"
        );
        assert_eq!(list_line("# deb http://m.example x main"), "");
        assert_eq!(list_line("deb-src http://m.example x main"), "");
    }
}
