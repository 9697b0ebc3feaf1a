//! Image registries: the client's side of the OCI distribution protocol.
//!
//! Owns requests, authentication, trust, resumption and patience. It knows no image store
//! and no container: it hands out documents and streams of bytes, and takes them. Called
//! by the agent, which joins it with the store.
//!
//! The way of a request: [`Registry`] asks `auth` for what to say who we are, `transport`
//! sends it, `registry` answers a challenge once and follows redirects, `retry` says
//! whether a failure may pass. `blob` streams a blob and goes on where it broke off,
//! `upload` brings one there.
//!
//! Registries are hostile until shown otherwise: every document and every stream has a
//! bound, waiting has one, redirects and challenges have one, and credentials go to
//! nobody but the registry they are for ([`Settings::token_hosts`]).
//!
//! Why not `oci-client` 0.18: it gives the user's password to whatever realm a challenge
//! names, reads the token's answer without a bound, tries nothing again, and knows no
//! `Retry-After` and no stall. What would have remained of it is the names of the paths.

mod auth;
mod blob;
mod challenge;
mod counts;
mod download;
mod error;
mod host;
mod manifest;
mod proxy;
mod registry;
mod resolve;
mod retry;
mod tags;
mod tls;
mod transport;
mod upload;

pub use auth::Credentials;
pub use blob::Blob;
pub use counts::{Counts, Limit};
pub use download::Download;
pub use error::{Error, Result};
pub use host::{Insecure, InvalidInsecure, endpoint};
pub use manifest::Manifest;
pub use registry::{Client, Registry, Settings};
pub use resolve::connect;
pub use upload::{Open, Outgoing, Pushed};
