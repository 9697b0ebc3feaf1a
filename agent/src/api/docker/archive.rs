//! `docker cp` and `docker export`: a container's files as tar archives, both ways.
//!
//! Owns the paths' meaning and the header that says what is at one. The files are the
//! engine's to give and the image room's to pack and unpack.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path as FsPath, PathBuf};

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use bytes::Bytes;
use rustix::fs::{AtFlags, FileType, OFlags, Stat};
use serde::Deserialize;
use serde_json::json;
use tenantry_container::Files;
use tenantry_image::{Limits, OwnerMapping, Packing, pack_tree, unpack_over};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::attach::is_true;
use super::images;
use crate::api::Shared;
use crate::api::error::{ApiError, ApiResult, chain};
use crate::api::logs::rfc3339;

/// Pieces that may wait for a slow reader.
const WAITING: usize = 16;
const PIECE_BYTES: usize = 64 * 1024;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ArchiveQuery {
    path: String,
    #[serde(rename = "noOverwriteDirNonDir")]
    no_overwrite: Option<String>,
    #[serde(rename = "copyUIDGID")]
    copy_owners: Option<String>,
}

/// A path of a request, taken apart. Pure.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    /// Absolute, without `.`, `..` and empty components.
    path: PathBuf,
    /// It ends in `/` or `/.`: it must be a directory, and symlinks to one are followed.
    directory: bool,
    /// What the archive calls it.
    top: OsString,
}

impl Wanted {
    fn parse(text: &str) -> ApiResult<Self> {
        if text.is_empty() || text.contains('\0') {
            return Err(ApiError::invalid("path", text, "a path in the container"));
        }
        let mut path = PathBuf::from("/");
        for component in FsPath::new(text).components() {
            match component {
                Component::Normal(name) => path.push(name),
                Component::ParentDir => {
                    path.pop();
                }
                _ => {}
            }
        }
        let contents = text.ends_with("/.") || text == ".";
        let top = match path.file_name() {
            _ if contents => ".".into(),
            None => "/".into(),
            Some(name) => name.to_owned(),
        };
        Ok(Self { directory: contents || text.ends_with('/'), path, top })
    }
}

/// What is at a path.
struct Found {
    directory: OwnedFd,
    /// `None`: the directory itself.
    name: Option<OsString>,
    header: HeaderValue,
}

/// Only the header.
pub async fn stat(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<ArchiveQuery>,
) -> ApiResult<HeaderMap> {
    let wanted = Wanted::parse(&query.path)?;
    let looked = app.engine.files(&id, move |files| find(files, &wanted)).await?;
    Ok(HeaderMap::from_iter([(header_name(), looked?.header)]))
}

fn header_name() -> axum::http::HeaderName {
    axum::http::HeaderName::from_static("x-docker-container-path-stat")
}

/// What goes wrong after the first byte breaks the connection off.
pub async fn get(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<ArchiveQuery>,
) -> ApiResult<Response> {
    let wanted = Wanted::parse(&query.path)?;
    send(app, id, wanted, false).await
}

/// `GET /containers/{id}/export`: all of it but what is mounted in it.
pub async fn export(State(app): State<Shared>, Path(id): Path<String>) -> ApiResult<Response> {
    send(app, id, Wanted::parse("/.")?, true).await
}

async fn send(app: Shared, id: String, wanted: Wanted, one_mount: bool) -> ApiResult<Response> {
    // Unknown containers are told before anything is begun.
    let id = app.engine.get(&id)?.record.id.clone();
    let (ready, found) = tokio::sync::oneshot::channel();
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let looked = app.engine.files(&id, move |files| {
            let found = match find(files, &wanted) {
                Ok(found) => found,
                Err(error) => {
                    let _ = ready.send(Err(error));
                    return;
                }
            };
            let _ = ready.send(Ok(found.header));
            let limits = Limits::default();
            let what = wanted.path.display().to_string();
            let owners = owners(files);
            let packing = Packing { what: &what, limits: &limits, owners, one_mount };
            let out = io::BufWriter::with_capacity(PIECE_BYTES, Pieces(sender.clone()));
            let name = found.name.as_deref();
            if let Err(error) = pack_tree(&packing, &found.directory, name, &wanted.top, out) {
                let error = chain(&error);
                tracing::warn!(path = what, error, "an archive was not sent to its end");
                let _ = sender.blocking_send(Err(io::Error::other(error)));
            }
        });
        // The waiting side hears that nobody will answer.
        if let Err(error) = looked.await {
            tracing::warn!(container_id = id, error = error.chain(), "no archive");
        }
    });
    let failed = |_| ApiError::internal("the container's files cannot be had; see the agent's log");
    let header = found.await.map_err(failed)??;
    let body = Body::from_stream(ReceiverStream::new(receiver));
    let headers = [
        (header_name(), header),
        (CONTENT_TYPE, "application/x-tar".parse().expect("a media type")),
    ];
    Ok((headers, body).into_response())
}

fn owners(files: &Files) -> Option<OwnerMapping> {
    files.owners.map(|ids| OwnerMapping { host_base: ids.host_base, size: ids.size })
}

fn find(files: &Files, wanted: &Wanted) -> ApiResult<Found> {
    let missing = |error: io::Error| not_found(&wanted.path, &error);
    let parent = wanted.path.parent().filter(|_| !wanted.directory);
    if let (Some(parent), Some(name)) = (parent, wanted.path.file_name()) {
        let directory = files.open(parent, OFlags::PATH | OFlags::DIRECTORY).map_err(missing)?;
        let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| missing(errno.into()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let link = rustix::fs::readlinkat(&directory, name, Vec::new()).ok();
            let link = link.map(|target| linked(parent, OsStr::from_bytes(target.to_bytes())));
            let header = render_stat(name, &stat, link.as_deref());
            return Ok(Found { directory, name: Some(name.to_owned()), header });
        }
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = files.open(&wanted.path, flags).map_err(missing)?;
    let stat = rustix::fs::fstat(&directory).map_err(|errno| missing(errno.into()))?;
    let name = wanted.path.file_name().unwrap_or(OsStr::new("/"));
    Ok(Found { header: render_stat(name, &stat, None), directory, name: None })
}

/// Where a symlink in `parent` leads, as a path of the container's.
fn linked(parent: &FsPath, target: &OsStr) -> PathBuf {
    let joined = parent.join(target);
    Wanted::parse(&joined.to_string_lossy()).map_or(joined, |wanted| wanted.path)
}

fn not_found(path: &FsPath, error: &io::Error) -> ApiError {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => ApiError::new(
            StatusCode::NOT_FOUND,
            format!("Could not find the file {path} in the container"),
        ),
        io::ErrorKind::NotADirectory => {
            ApiError::new(StatusCode::BAD_REQUEST, format!("{path} is not a directory"))
        }
        _ => ApiError::internal(format!("{path}: {error}")),
    }
}

fn render_stat(name: &OsStr, stat: &Stat, link: Option<&FsPath>) -> HeaderValue {
    let text = json!({
        "name": name.to_string_lossy(),
        "size": stat.st_size,
        "mode": go_mode(stat.st_mode),
        "mtime": rfc3339((stat.st_mtime.max(0) as u64) * 1_000_000_000),
        "linkTarget": link.map_or_else(String::new, |link| link.to_string_lossy().into_owned()),
    });
    let encoded = base64::prelude::BASE64_STANDARD.encode(text.to_string());
    HeaderValue::from_str(&encoded).expect("base64 is a header's value")
}

/// `os.FileMode` of Go: other bits than the kernel's above the permissions.
fn go_mode(mode: u32) -> u32 {
    let kind = match FileType::from_raw_mode(mode) {
        FileType::Directory => 1 << 31,
        FileType::Symlink => 1 << 27,
        FileType::BlockDevice => 1 << 26,
        FileType::CharacterDevice => (1 << 26) | (1 << 21),
        FileType::Fifo => 1 << 25,
        FileType::Socket => 1 << 24,
        _ => 0,
    };
    let more = [(0o4000, 1 << 23), (0o2000, 1 << 22), (0o1000, 1 << 20)];
    let more = more.iter().filter(|(bit, _)| mode & bit != 0).map(|(_, go)| go);
    more.fold(kind | (mode & 0o777), |mode, bit| mode | bit)
}

/// The archive's names are below a directory that must be there.
pub async fn put(
    State(app): State<Shared>,
    Path(id): Path<String>,
    Query(query): Query<ArchiveQuery>,
    body: Body,
) -> ApiResult<StatusCode> {
    let wanted = Wanted::parse(&query.path)?;
    if is_true(query.copy_owners.as_deref()) {
        return Err(ApiError::unsupported("copyUIDGID", "an owner of the container's choice"));
    }
    // Whether asked for or not: a directory is never replaced.
    let _ = query.no_overwrite;
    let archive = images::reader(body);
    let put = app.engine.files(&id, move |files| {
        let path = &wanted.path;
        let missing = |error: io::Error| not_found(path, &error);
        if !files.may_write(path).map_err(missing)? {
            return Err(read_only());
        }
        let directory = files.open(path, OFlags::RDONLY | OFlags::DIRECTORY).map_err(missing)?;
        let what = format!("the archive for {}", path.display());
        let unpacked = unpack_over(&what, archive, directory, owners(files), &Limits::default());
        unpacked.map_err(|error| match error {
            tenantry_image::Error::Unpack { source, .. }
                if source.kind() == io::ErrorKind::ReadOnlyFilesystem =>
            {
                read_only()
            }
            error => error.into(),
        })
    });
    put.await??;
    Ok(StatusCode::OK)
}

fn read_only() -> ApiError {
    ApiError::new(StatusCode::FORBIDDEN, "container rootfs is marked read-only")
}

struct Pieces(mpsc::Sender<io::Result<Bytes>>);

impl Write for Pieces {
    fn write(&mut self, content: &[u8]) -> io::Result<usize> {
        let gone = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.0.blocking_send(Ok(Bytes::copy_from_slice(content))).map_err(gone)?;
        Ok(content.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_the_containers_whatever_dots_they_have() {
        let check = |text: &str, path: &str, directory, top: &str| {
            let expected = Wanted { path: path.into(), directory, top: top.into() };
            assert_eq!(Wanted::parse(text).unwrap(), expected, "{text}");
        };
        check("/etc/passwd", "/etc/passwd", false, "passwd");
        check("etc/", "/etc", true, "etc");
        check("/etc/.", "/etc", true, ".");
        check("/../../etc/./x/..", "/etc", false, "etc");
        check("/", "/", true, "/");
        check("/.", "/", true, ".");
        assert!(Wanted::parse("").is_err());
    }

    #[test]
    fn the_stat_header_is_what_gos_clients_decode() {
        assert_eq!(go_mode(0o040_755), (1 << 31) | 0o755);
        assert_eq!(go_mode(0o100_644), 0o644);
        assert_eq!(go_mode(0o104_755), (1 << 23) | 0o755);
        assert_eq!(go_mode(0o041_777), (1 << 31) | (1 << 20) | 0o777);
        assert_eq!(go_mode(0o120_777), (1 << 27) | 0o777);
        let stat = rustix::fs::stat("/").unwrap();
        let link = linked(FsPath::new("/a/b"), OsStr::new("../c"));
        let header = render_stat(OsStr::new("x"), &stat, Some(&link));
        let text = base64::prelude::BASE64_STANDARD.decode(header.as_bytes()).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!((read["name"].as_str(), read["linkTarget"].as_str()), (Some("x"), Some("/a/c")));
    }
}
