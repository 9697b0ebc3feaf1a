//! A build's context: the client's tar, unpacked, without what `.dockerignore` names.
//!
//! Owns that directory. The Dockerfile is read before anything is left out.

use std::fs::{self, DirEntry};
use std::io::Read;
use std::path::{Path, PathBuf};

use tenantry_build::ignore::Ignore;
use tenantry_image::{Limits, unpack_archive};

use super::error::BuildError;
use super::scratch::Scratch;
use super::tree::Tree;

const MOST_DOCKERFILE_BYTES: u64 = 2 << 20;

#[derive(Debug)]
pub struct Context {
    pub(super) dir: PathBuf,
    pub(super) dockerfile: Vec<u8>,
}

impl Context {
    /// What the Dockerfile holds.
    pub fn dockerfile(&self) -> &[u8] {
        &self.dockerfile
    }

    /// Unpacks `archive` (plain, gzip or zstd) and reads the Dockerfile at this path in it.
    ///
    /// # Errors
    /// An archive that is malformed or leads outside, no Dockerfile, a wrong pattern.
    pub fn receive(
        archive: impl Read,
        scratch: &Scratch,
        dockerfile: &str,
    ) -> Result<Context, BuildError> {
        let dir = scratch.path("context");
        unpack_archive("build context", archive, &dir, &Limits::default())?;
        let tree = Tree::open(&dir).map_err(failed("open", &dir))?;
        let missing = || BuildError::NoDockerfile { path: dockerfile.to_owned() };
        let file = tree.file(dockerfile).map_err(|_| missing())?.0;
        let content = read(file, &dir.join(dockerfile))?;
        if let Ok((file, _)) = tree.file(".dockerignore") {
            let text = read(file, &dir.join(".dockerignore"))?;
            let ignore = Ignore::parse(&String::from_utf8_lossy(&text))?;
            if !ignore.is_empty() {
                leave_out(&dir, "", &ignore).map_err(failed("leave out of", &dir))?;
            }
        }
        Ok(Context { dir, dockerfile: content })
    }
}

fn read(file: fs::File, path: &Path) -> Result<Vec<u8>, BuildError> {
    let mut content = Vec::new();
    file.take(MOST_DOCKERFILE_BYTES).read_to_end(&mut content).map_err(failed("read", path))?;
    Ok(content)
}

fn failed(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> BuildError + use<> {
    let path = path.to_owned();
    move |source| BuildError::Io { operation, path, source }
}

/// The directory is ours alone: nobody changes it meanwhile.
fn leave_out(dir: &Path, prefix: &str, ignore: &Ignore) -> std::io::Result<()> {
    let entries: Vec<DirEntry> = fs::read_dir(dir)?.collect::<Result<_, _>>()?;
    for entry in entries {
        let path = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let is_directory = entry.file_type()?.is_dir();
        let excluded = ignore.excludes(&path);
        if is_directory && (!excluded || ignore.has_exceptions()) {
            leave_out(&entry.path(), &format!("{path}/"), ignore)?;
            if excluded {
                // It stays if something in it was taken back.
                let _ = fs::remove_dir(entry.path());
            }
        } else if is_directory {
            fs::remove_dir_all(entry.path())?;
        } else if excluded {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(files: &[(&str, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn what_dockerignore_names_is_left_out_and_the_dockerfile_is_read_all_the_same() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: unpacking needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let scratch = Scratch::make(dir.path()).unwrap();
        let files = [
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "*.log\nDockerfile\nout\n!out/kept\n"),
            ("a.log", ""),
            ("sub/a.log", ""),
            ("out/gone", ""),
            ("out/kept", ""),
        ];
        let context = Context::receive(&*archive(&files), &scratch, "Dockerfile").unwrap();
        assert_eq!(context.dockerfile, b"FROM scratch");
        let there = |name: &str| context.dir.join(name).exists();
        assert!(!there("Dockerfile") && !there("a.log") && !there("out/gone"));
        assert!(there("sub/a.log") && there("out/kept"));
        let error = Context::receive(&*archive(&files), &scratch, "../x").unwrap_err();
        assert_eq!(error.message(), "Cannot locate specified Dockerfile: ../x");
        drop(scratch);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
