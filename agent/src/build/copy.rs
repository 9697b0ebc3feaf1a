//! `COPY`, `ADD` and `WORKDIR`: files become an upper directory.
//!
//! Owns the order: sources are found and digested first, since an equal digest means that
//! nothing needs to be copied; then the stage's root is made, for as long as it takes.
//! Everything here blocks.

use std::io::Read as _;
use std::path::PathBuf;

use tenantry_build::copy::{self, Destination, Source};
use tenantry_build::{Copy, Heredoc};
use tenantry_container::overlay::{Overlay, with_root};
use tenantry_container::user;
use tenantry_image::{Limits, unpack_archive};

use super::error::StepError;
use super::place::{Attributes, Placer};
use super::scratch::Scratch;
use super::tree::Tree;

/// What is copied, found and digested.
#[derive(Debug)]
pub(super) struct Found {
    pub sources: Vec<Source>,
    pub destination: Destination,
    /// What the cache's key is made of.
    pub parts: Vec<String>,
}

/// Where sources are: the context, or the root of an image's layers.
#[derive(Debug)]
pub(super) enum Place {
    Context(PathBuf),
    Layers(Vec<PathBuf>),
}

/// Finds the sources and digests them.
pub(super) fn find(
    copy: &Copy,
    from: &Place,
    working_dir: &str,
    scratch: &Scratch,
) -> Result<Found, StepError> {
    with_tree(from, scratch, |tree| {
        let sources = copy::sources(copy, tree)?;
        let destination = copy::destination(copy, sources.len(), working_dir)?;
        let mut parts = vec![
            format!("{destination:?}"),
            copy.chown.clone().unwrap_or_default(),
            copy.chmod.clone().unwrap_or_default(),
            copy.unpack.to_string(),
        ];
        for source in &sources {
            // Another name is another file, unless a directory's content is copied.
            parts.push(if source.is_directory { "/" } else { &source.path }.to_owned());
            parts.push(tree.digest(source)?);
        }
        for Heredoc { name, content, .. } in &copy.heredocs {
            parts.extend([name.clone(), content.clone()]);
        }
        Ok(Found { sources, destination, parts })
    })
}

/// Copies what was found over `layers`; returns the upper directory.
pub(super) fn carry_out(
    copy: &Copy,
    found: &Found,
    from: &Place,
    layers: &[PathBuf],
    scratch: &Scratch,
) -> Result<PathBuf, StepError> {
    let given = match &copy.chown {
        Some(text) => Some(owner(text, layers)?),
        None => None,
    };
    let attributes =
        Attributes { owner: Some(given.unwrap_or((0, 0))), mode: mode(copy.chmod.as_deref())? };
    with_tree(from, scratch, |tree| {
        let archives = unpack_archives(copy, found, tree, scratch)?;
        let overlay = overlay(layers, scratch)?;
        let upper = overlay.upper.clone();
        let copied = with_root(&overlay, |root| {
            let placer = Placer::new(root, attributes);
            for (source, archive) in found.sources.iter().zip(&archives) {
                match archive {
                    None => placer.copy(tree, source, &found.destination)?,
                    Some(dir) => {
                        // An archive's owners are its own, unless others are asked for.
                        let placer = Placer::new(root, Attributes { owner: given, ..attributes });
                        let tree = Tree::open(dir);
                        let tree = tree.map_err(StepError::file("open", source.path.as_str()))?;
                        let all = Source { path: String::new(), is_directory: true };
                        placer.copy(&tree, &all, &found.destination)?;
                    }
                }
            }
            for doc in &copy.heredocs {
                placer.write(&doc.name, &doc.content, &found.destination)?;
            }
            Ok::<_, StepError>(())
        });
        copied.map_err(StepError::file("make the stage's root in", "the build's directory"))??;
        Ok(upper)
    })
}

/// Makes a directory over `layers`; returns the upper directory.
pub(super) fn make_directory(
    path: &str,
    layers: &[PathBuf],
    scratch: &Scratch,
) -> Result<PathBuf, StepError> {
    let overlay = overlay(layers, scratch)?;
    let made = with_root(&overlay, |root| {
        Placer::new(root, Attributes::default()).directory(path).map(drop)
    });
    made.map_err(StepError::file("make the stage's root in", "the build's directory"))??;
    Ok(overlay.upper)
}

/// For each source the directory in which it was unpacked, if it is an archive.
fn unpack_archives(
    copy: &Copy,
    found: &Found,
    tree: &Tree,
    scratch: &Scratch,
) -> Result<Vec<Option<PathBuf>>, StepError> {
    let unpack = |source: &Source| {
        if !copy.unpack || source.is_directory {
            return Ok(None);
        }
        let failed = || StepError::file("read", source.path.as_str());
        let head = |length: u64| -> std::io::Result<Vec<u8>> {
            let mut head = Vec::new();
            tree.file(&source.path)?.0.take(length).read_to_end(&mut head)?;
            Ok(head)
        };
        let kind = archive_kind(&head(512).map_err(failed())?);
        match kind {
            None => return Ok(None),
            Some(ArchiveKind::Other(format)) => {
                return Err(StepError::Instruction(format!(
                    "ADD failed: {} is compressed with {format}: allowed are plain, gzip and zstd \
                     archives, or COPY, which copies it as it is",
                    source.path
                )));
            }
            Some(ArchiveKind::Compressed) if !holds_tar(tree, source).map_err(failed())? => {
                return Ok(None);
            }
            Some(_) => {}
        }
        let dir = scratch.path("archive");
        let (file, _) = tree.file(&source.path).map_err(failed())?;
        unpack_archive(&source.path, file, &dir, &Limits::default())?;
        Ok(Some(dir))
    };
    found.sources.iter().map(unpack).collect()
}

#[derive(Debug, PartialEq, Eq)]
enum ArchiveKind {
    Tar,
    /// gzip or zstd: perhaps of a tar.
    Compressed,
    Other(&'static str),
}

fn archive_kind(head: &[u8]) -> Option<ArchiveKind> {
    match head {
        [0x1f, 0x8b, ..] | [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(ArchiveKind::Compressed),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Some(ArchiveKind::Other("xz")),
        [b'B', b'Z', b'h', ..] => Some(ArchiveKind::Other("bzip2")),
        head if is_tar(head) => Some(ArchiveKind::Tar),
        _ => None,
    }
}

/// A header's checksum says so, also of archives older than `ustar`.
fn is_tar(head: &[u8]) -> bool {
    let Some(header) = head.first_chunk::<512>() else { return false };
    let header = tar::Header::from_byte_slice(header);
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum();
    bytes[0] != 0 && header.cksum().is_ok_and(|stored| stored == sum + 8 * u32::from(b' '))
}

/// Whether what is compressed is an archive.
fn holds_tar(tree: &Tree, source: &Source) -> std::io::Result<bool> {
    let file = tree.file(&source.path)?.0;
    let mut head = Vec::new();
    // A text that only looks compressed is copied as it is.
    let read = tenantry_image::decompressed("archive", file)
        .map(|stream| stream.take(512).read_to_end(&mut head));
    Ok(matches!(read, Ok(Ok(_))) && is_tar(&head))
}

fn with_tree<T: Send>(
    from: &Place,
    scratch: &Scratch,
    look: impl FnOnce(&Tree) -> Result<T, StepError> + Send,
) -> Result<T, StepError> {
    let failed = || StepError::file("open", "the sources");
    match from {
        Place::Context(dir) => look(&Tree::open(dir).map_err(failed())?),
        Place::Layers(layers) => {
            let overlay = overlay(layers, scratch)?;
            let looked = with_root(&overlay, |root| look(&Tree::of(root).map_err(failed())?));
            looked.map_err(failed())?
        }
    }
}

fn overlay(layers: &[PathBuf], scratch: &Scratch) -> Result<Overlay, StepError> {
    use std::os::unix::fs::PermissionsExt as _;
    let make =
        |kind: &str| scratch.directory(kind).map_err(StepError::file("make directory for", kind));
    let (upper, work, place) = (make("upper")?, make("work")?, make("place")?);
    // What the root of the image is, unless a layer says otherwise.
    let public = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(&upper, public).map_err(StepError::file("set mode of", "upper"))?;
    Ok(Overlay { lower: layers.to_vec(), upper, work, place })
}

/// `user[:group]`; a user alone gives the group the same number, as in Docker.
fn owner(text: &str, layers: &[PathBuf]) -> Result<(u32, u32), StepError> {
    let passwd = user::read_from_layers(layers, "etc/passwd")?;
    let group = user::read_from_layers(layers, "etc/group")?;
    let user = user::parse_user(text, &passwd, &group)?;
    Ok((user.uid, if text.contains(':') { user.gid } else { user.uid }))
}

fn mode(text: Option<&str>) -> Result<Option<u32>, StepError> {
    let Some(text) = text else { return Ok(None) };
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
        _ => Err(StepError::Instruction(format!(
            "invalid chmod parameter: '{text}'. it should be \
                                                 octal string and between 0 and 07777"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_by_their_content() {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        builder.append_data(&mut header, "a", &b"x"[..]).unwrap();
        let tar = builder.into_inner().unwrap();
        assert_eq!(archive_kind(&tar), Some(ArchiveKind::Tar));
        assert_eq!(archive_kind(&[0; 512]), None);
        assert_eq!(archive_kind(b"text"), None);
        assert_eq!(archive_kind(b"\x1f\x8b\x08"), Some(ArchiveKind::Compressed));
        assert_eq!(archive_kind(b"BZh91AY"), Some(ArchiveKind::Other("bzip2")));
    }

    #[test]
    fn modes_are_octal() {
        assert_eq!(mode(Some("0755")).unwrap(), Some(0o755));
        assert_eq!(mode(None).unwrap(), None);
        assert!(mode(Some("u+x")).is_err() && mode(Some("10000")).is_err());
    }
}
