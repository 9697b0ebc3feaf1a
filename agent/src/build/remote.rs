//! `ADD` of addresses.
//!
//! Owns the files that are fetched, as long as the build lasts: they are copied as a context's
//! are, and never unpacked. Their content is the cache's key, so that each build fetches them.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use tenantry_build::Copy;
use tenantry_image::Limits;
use tenantry_registry::Download;
use tokio::io::AsyncWriteExt as _;

use super::copy::Place;
use super::error::StepError;
use super::output::Output;
use super::scratch::Scratch;
use crate::api::Shared;
use crate::api::error::chain;

/// What Docker gives them.
const MODE: u32 = 0o600;

/// Whether an `ADD` is of addresses, which is for all its sources or for none.
pub(super) fn is_remote(copy: &Copy) -> Result<bool, StepError> {
    let refused = |reason: String| Err(StepError::Instruction(reason));
    let web = |source: &String| source.starts_with("http://") || source.starts_with("https://");
    let git = |source: &&String| source.starts_with("git@") || source.starts_with("git://");
    let remote = if copy.unpack { copy.sources.iter().filter(|text| web(text)).count() } else { 0 };
    if let Some(address) = copy.sources.iter().find(git).filter(|_| copy.unpack) {
        return refused(format!("ADD failed: {address}: git repositories are not supported"));
    }
    if copy.checksum.is_some() && (remote != 1 || copy.sources.len() != 1) {
        return refused("checksum can't be specified but for one address of http or https".into());
    }
    if remote > 0 && remote < copy.sources.len() + copy.heredocs.len() {
        return refused("ADD failed: addresses and other files: allowed is an ADD for each".into());
    }
    Ok(remote > 0)
}

/// Fetches all sources; what is to be copied then, and where it is.
pub(super) async fn fetch(
    app: &Shared,
    copy: &Copy,
    scratch: &Scratch,
    output: &Output,
) -> Result<(Copy, Place), StepError> {
    let dir = scratch.directory("fetched");
    let dir = dir.map_err(StepError::file("make directory for", "what is fetched"))?;
    let mut allowed = Limits::default().unpacked_bytes;
    let mut sources = Vec::new();
    for (number, address) in copy.sources.iter().enumerate() {
        // Two may have the same name.
        let place = dir.join(number.to_string());
        let made = tokio::fs::create_dir(&place).await;
        made.map_err(StepError::file("make directory for", address.as_str()))?;
        let name = file_name(copy, address)?;
        output.say(&format!("Downloading {address}\n")).await?;
        let fetching = async {
            let download = app.registries.download(address, allowed).await;
            let download = download.map_err(|refusal| failed(&refusal.message))?;
            write(download, address, &place.join(&name)).await
        };
        let (bytes, digest) = tokio::select! {
            fetched = fetching => fetched?,
            () = output.gone() => return Err(StepError::Cancelled),
        };
        check(copy.checksum.as_deref(), &digest)?;
        allowed -= bytes;
        sources.push(format!("{number}/{name}"));
    }
    let copy = Copy { unpack: false, from: None, sources, ..copy.clone() };
    Ok((copy, Place::Context(dir)))
}

/// What was written, and its digest.
async fn write(
    mut download: Download,
    address: &str,
    path: &Path,
) -> Result<(u64, String), StepError> {
    let writing = || StepError::file("write", address);
    let file = tokio::fs::File::create_new(path).await.map_err(writing())?;
    file.set_permissions(Permissions::from_mode(MODE)).await.map_err(writing())?;
    let mut writer = tokio::io::BufWriter::new(file);
    let (mut hasher, mut bytes) = (Sha256::new(), 0);
    while let Some(piece) = download.next().await {
        let piece = piece.map_err(|error| failed(&chain(&error)))?;
        hasher.update(&piece);
        bytes += piece.len() as u64;
        writer.write_all(&piece).await.map_err(writing())?;
    }
    writer.flush().await.map_err(writing())?;
    if let Some(seconds) = download.modified_unix_s {
        let file = writer.into_inner().into_std().await;
        let modified = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        if let Some(modified) = modified {
            file.set_modified(modified).map_err(writing())?;
        }
    }
    let digest: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok((bytes, format!("sha256:{digest}")))
}

fn failed(message: &str) -> StepError {
    StepError::Instruction(format!("ADD failed: {message}"))
}

fn check(expected: Option<&str>, actual: &str) -> Result<(), StepError> {
    match expected {
        Some(expected) if expected != actual => {
            Err(failed(&format!("its digest is {actual}, expected is {expected}")))
        }
        _ => Ok(()),
    }
}

/// The last part of the address' path; it may be missing where the destination names the file.
fn file_name(copy: &Copy, address: &str) -> Result<String, StepError> {
    let path = address.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or(path, |(_, rest)| rest);
    let name = path.split_once('/').and_then(|(_, path)| path.rsplit('/').next());
    let is_plain =
        |name: &&str| !matches!(*name, "" | "." | "..") && !name.contains(['*', '?', '[', '\\']);
    match name.filter(is_plain) {
        Some(name) => Ok(name.to_owned()),
        None if copy.destination.ends_with('/') => {
            Err(failed(&format!("cannot determine filename from url: {address}")))
        }
        None => Ok("file".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(sources: &[&str], destination: &str) -> Copy {
        let sources = sources.iter().map(|source| (*source).to_owned()).collect();
        Copy { unpack: true, sources, destination: destination.into(), ..Copy::default() }
    }

    #[test]
    fn an_add_is_of_addresses_or_of_files() {
        let check = |copy: Copy, expected: Result<bool, &str>| match (is_remote(&copy), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{copy:?}"),
            (Err(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (found, expected) => panic!("{found:?}, not {expected:?}"),
        };
        check(add(&["http://a/b", "https://c/d"], "/x/"), Ok(true));
        check(add(&["a", "b"], "/x/"), Ok(false));
        check(add(&["http://a/b", "c"], "/x/"), Err("an ADD for each"));
        check(add(&["git@host:repository"], "/x/"), Err("git repositories are not supported"));
        check(Copy { unpack: false, ..add(&["http://a/b"], "/x") }, Ok(false));
        let checksum = Some("sha256:abc".to_owned());
        check(Copy { checksum: checksum.clone(), ..add(&["http://a/b"], "/x") }, Ok(true));
        check(Copy { checksum, ..add(&["a"], "/x") }, Err("checksum can't be specified"));
    }

    #[test]
    fn a_file_is_called_as_its_address_ends() {
        let name = |address: &str, to: &str| file_name(&add(&[], to), address).ok();
        assert_eq!(name("https://host/a/b.tar?x=/y", "/d/").as_deref(), Some("b.tar"));
        assert_eq!(name("https://host/", "/d/"), None);
        assert_eq!(name("https://host", "/d/"), None);
        assert_eq!(name("https://host/a/..", "/d/"), None);
        assert_eq!(name("https://host/", "/d").as_deref(), Some("file"));
    }
}
