//! OCI images on this host: a content-addressed store, layers unpacked for
//! overlayfs, load and import.
//!
//! Owns the store's directory. It does not mount, does not run anything and knows no
//! containers; it needs root, since layers carry owners, set-id bits and device
//! nodes for whiteouts. Everything blocks: asynchronous callers use a blocking
//! thread. Called by the lifecycle engine (`resolve`) and the agent (the rest).
//!
//! The way of the data: [`Store::load`] spools an archive's members
//! (`members` over `archive` and `compression`), interprets them (`oci`, `docker`),
//! unpacks new layers (`unpack` through `tree`), all staged in a `session`, and
//! publishes them at once (`publish`, `refs`). [`Store::commit`] goes the other way
//! first: a container's changes become a layer (`pack` through `archive::write`). [`Store::pull`]
//! does as a load does with what a [`Source`] gives, several layers at a time.
//!
//! Archives are hostile until proven otherwise: digests are checked over every byte,
//! paths cannot leave their directory, and everything is bounded by [`Limits`].

mod archive;
mod commit;
mod compression;
mod digest;
mod docker;
mod document;
mod error;
mod flights;
mod history;
mod hold;
mod import;
mod limits;
mod load;
mod lookup;
mod members;
mod oci;
mod owners;
mod pack;
mod pax;
mod platform;
mod policy;
mod publish;
mod pull;
mod push;
mod reference;
mod refs;
mod removal;
mod remove_tree;
mod reserve;
mod save;
mod session;
mod store;
mod tree;
mod unpack;

pub use commit::{Changes, Commit};
pub use digest::Digest;
pub use error::{Error, ErrorKind, Result};
pub use history::HistoryStep;
pub use hold::Held;
pub use import::ImportOptions;
pub use limits::Limits;
pub use oci_spec::image as spec;
pub use owners::OwnerMapping;
pub use pack::{Packing, pack_tree};
pub use platform::Platform;
pub use pull::{Event, LayerState, Pulled, Source, SourceError};
pub use push::{Outgoing, OutgoingBlob};
pub use reference::{Name, Wanted};
pub use removal::{Removal, Removed, User};
pub use remove_tree::remove_tree;
pub use save::Save;
pub use store::{Image, ImageSummary, Loaded, Store};
pub use unpack::{decompressed, unpack_archive, unpack_over};
