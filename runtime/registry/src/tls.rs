//! Whom we trust: the host's certificate authorities, and for one registry the files that
//! Docker reads as well.
//!
//! ```text
//! /etc/docker/certs.d/HOST[:PORT]/*.crt         authorities, beside the host's
//!                                 NAME.cert     our certificate, for registries that want one
//!                                 NAME.key      its key
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Result};

/// More of a registry's directory is not read.
const FILES: usize = 64;

/// The host's own authorities; those that cannot be parsed are left out, as everywhere.
pub(crate) fn host_roots() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    for error in found.errors {
        tracing::warn!(%error, "an authority of this host is not read");
    }
    roots.add_parsable_certificates(found.certs);
    roots
}

/// For the registry of this name, as images name it.
pub(crate) fn config(
    mut roots: RootCertStore,
    certs_dir: &Path,
    domain: &str,
) -> Result<ClientConfig> {
    let mut identity = None;
    for path in files(&certs_dir.join(domain))? {
        let kind = path.extension().and_then(|extension| extension.to_str());
        match kind {
            Some("crt") => {
                for certificate in certificates(&path)? {
                    roots.add(certificate).map_err(|error| unreadable(&path, error))?;
                }
            }
            Some("cert") if identity.is_none() => {
                let key_path = path.with_extension("key");
                let key = PrivateKeyDer::from_pem_file(&key_path)
                    .map_err(|error| unreadable(&key_path, error))?;
                identity = Some((certificates(&path)?, key, path));
            }
            _ => {}
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(certs_dir, error))?
        .with_root_certificates(roots);
    match identity {
        Some((chain, key, path)) => {
            builder.with_client_auth_cert(chain, key).map_err(|error| unreadable(&path, error))
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

/// Sorted, so that the same directory always means the same. Empty if it is not there.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(dir, error)),
    };
    let mut paths: Vec<PathBuf> = entries.take(FILES).flatten().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    read.map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Trust { path: path.into(), source: source.into() }
}
