//! The members of an image archive, whether it is a stream or a directory.
//!
//! Owns reading them in whatever order they come, verified where their name is a
//! digest, within limits, and never outside of the archive. Does not interpret them:
//! that is [`crate::oci`] and [`crate::docker`]. Called by load.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::Digest;
use crate::archive::{Archive, Kind, shown};
use crate::error::{Error, Result};
use crate::session::{Session, Spooled};

/// Links that lead from one member to another, at most.
const LINK_HOPS: usize = 8;
const ARCHIVE: &str = "archive";

/// Where the members are.
pub(crate) enum Members {
    /// Files of the session, by path.
    Spooled(HashMap<String, Member>),
    /// Left where they are until they are wanted.
    Directory(OwnedFd),
}

pub(crate) enum Member {
    File(Spooled),
    /// The path of another member.
    Link(String),
}

impl Members {
    /// Reads a whole archive into the session.
    pub fn spool(session: &mut Session<'_>, stream: impl Read) -> Result<Members> {
        let limits = session.limits();
        let mut archive = Archive::new(ARCHIVE, stream, limits);
        let mut members = HashMap::new();
        let mut buffer = vec![0; 256 * 1024];
        let mut count = 0;
        while let Some(entry) = archive.next_entry()? {
            count += 1;
            let allowed = limits.archive_members;
            if count > allowed {
                let what = ARCHIVE.to_owned();
                return Err(Error::Limit { what, quantity: "members", value: count, allowed });
            }
            let path = normalize(&entry.path, "")?;
            let member = match entry.kind {
                Kind::File => {
                    let mut spool = session.spool()?;
                    let mut content = archive.content();
                    loop {
                        match content.read_some(&mut buffer)? {
                            0 => break,
                            n => spool.write(&buffer[..n])?,
                        }
                    }
                    let spooled = spool.finish()?;
                    check_name(&path, &spooled)?;
                    Member::File(spooled)
                }
                Kind::HardLink => Member::Link(normalize(&entry.link, "")?),
                Kind::Symlink => {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    // `docker save` links equal layers; links elsewhere matter only if used.
                    Member::Link(normalize(&entry.link, parent).unwrap_or_default())
                }
                _ => continue,
            };
            let differs = match (members.get(&path), &member) {
                (Some(Member::File(old)), Member::File(new)) => old.digest != new.digest,
                (Some(Member::Link(old)), Member::Link(new)) => old != new,
                (Some(_), _) => true,
                (None, _) => false,
            };
            if differs {
                let reason =
                    format!("it holds `{}` twice, with different content", shown(path.as_bytes()));
                return Err(Error::Document { what: ARCHIVE.into(), reason });
            }
            members.insert(path, member);
        }
        archive.drain()?;
        Ok(Members::Spooled(members))
    }

    pub fn open_directory(dir: &Path) -> Result<Members> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, dir, flags, Mode::empty());
        Ok(Members::Directory(fd.map_err(Error::io("open directory", dir))?))
    }

    /// A small member's content; `None` if there is no such member.
    pub fn document(&self, session: &Session<'_>, path: &str) -> Result<Option<Vec<u8>>> {
        let allowed = session.limits().document_bytes;
        let file = match self {
            Members::Spooled(members) => match find(members, path)? {
                Some(spooled) => {
                    File::open(&spooled.path).map_err(Error::io("open", &spooled.path))?
                }
                None => return Ok(None),
            },
            Members::Directory(root) => match open_within(root, path)? {
                Some(file) => file,
                None => return Ok(None),
            },
        };
        let failed = |source| Error::Read { what: path.to_owned(), source };
        let value = file.metadata().map_err(failed)?.len();
        if value > allowed {
            return Err(Error::Limit { what: path.to_owned(), quantity: "size", value, allowed });
        }
        let mut content = Vec::with_capacity(value as usize);
        file.take(allowed).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    /// A member as a file of the session; `None` if there is no such member.
    pub fn file(&self, session: &mut Session<'_>, path: &str) -> Result<Option<Spooled>> {
        match self {
            Members::Spooled(members) => Ok(find(members, path)?.cloned()),
            Members::Directory(root) => {
                let Some(file) = open_within(root, path)? else { return Ok(None) };
                let spooled = session.spool_reader(path, file)?;
                check_name(path, &spooled)?;
                Ok(Some(spooled))
            }
        }
    }
}

pub(crate) fn blob_path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Discards a spooled file that nothing wants, so that it does not take space twice.
pub(crate) fn discard(spooled: &Spooled) {
    let _ = fs::remove_file(&spooled.path);
}

/// A blob's name is its digest.
fn check_name(path: &str, spooled: &Spooled) -> Result<()> {
    match path.strip_prefix("blobs/sha256/").and_then(Digest::from_hex) {
        Some(expected) if expected != spooled.digest => {
            Err(Error::DigestMismatch { what: path.to_owned(), expected, actual: spooled.digest })
        }
        _ => Ok(()),
    }
}

fn find<'a>(members: &'a HashMap<String, Member>, path: &str) -> Result<Option<&'a Spooled>> {
    let mut at = normalize(path.as_bytes(), "")?;
    for _ in 0..LINK_HOPS {
        match members.get(&at) {
            None => return Ok(None),
            Some(Member::File(spooled)) => return Ok(Some(spooled)),
            Some(Member::Link(target)) => at.clone_from(target),
        }
    }
    let reason = format!("`{}` is a circle or long chain of links", shown(path.as_bytes()));
    Err(Error::Document { what: ARCHIVE.into(), reason })
}

/// The path seen from the archive's root, for a path seen from `base`.
fn normalize(path: &[u8], base: &str) -> Result<String> {
    let escape = || Error::Escape {
        layer: ARCHIVE.into(),
        entry: shown(path),
        target: if base.is_empty() { shown(path) } else { format!("{base}/{}", shown(path)) },
    };
    let text = std::str::from_utf8(path).map_err(|_| escape())?;
    if text.starts_with('/') {
        return Err(escape());
    }
    let mut parts: Vec<&str> = base.split('/').filter(|part| !part.is_empty()).collect();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop().ok_or_else(escape)?),
            part => parts.push(part),
        }
    }
    Ok(parts.join("/"))
}

fn open_within(root: &OwnedFd, path: &str) -> Result<Option<File>> {
    // Not blocking, so that a fifo cannot hold us.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match rustix::fs::openat2(root, path, flags, Mode::empty(), within) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(Errno::XDEV) => {
            let (layer, entry) = ("image directory".to_owned(), path.to_owned());
            return Err(Error::Escape { layer, target: entry.clone(), entry });
        }
        Err(errno) => return Err(Error::Read { what: path.to_owned(), source: errno.into() }),
    };
    let metadata =
        file.metadata().map_err(|source| Error::Read { what: path.to_owned(), source })?;
    if !metadata.is_file() {
        return Err(Error::Document {
            what: path.to_owned(),
            reason: "it is not a regular file".into(),
        });
    }
    Ok(Some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_archives_root_and_stay_inside() {
        let rows = [
            ("./a//b", "", Some("a/b")),
            ("../x/layer.tar", "y", Some("x/layer.tar")),
            ("a/../b", "", Some("b")),
            ("../../x", "y", None),
            ("/etc/passwd", "", None),
            ("..", "", None),
        ];
        for (path, base, expected) in rows {
            assert_eq!(normalize(path.as_bytes(), base).ok().as_deref(), expected, "{path}");
        }
    }
}
