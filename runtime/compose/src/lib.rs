//! Compose files: what they say, and which containers, networks and volumes that means.
//!
//! Owns the text's way to a tree that knows its lines ([`yaml`], `node`), variables
//! (`variables`, [`env_file`]), several files made one (`merge`, `extends`), the project that
//! comes of it ([`Project`] and its [`Service`]s), in which order its services go ([`order`]),
//! and what is to be done with the containers that are there already ([`plan`]). A service is
//! told in the Engine API's own words (`ContainerCreateBody`), so that nothing translates it
//! twice. Values in, values out: files are read through a function that is given, nothing is
//! run and no agent is asked. Called by the command line.
//!
//! The format is the Compose specification's; a field that it does not have, or that has no
//! meaning here, is refused with its file and line.

pub mod env_file;
mod error;
mod extends;
mod load;
mod merge;
mod names;
mod node;
pub mod order;
pub mod plan;
pub mod ports;
mod project;
mod service;
mod units;
mod variables;
mod yaml;

pub use error::{Invalid, Place, Result};
pub use load::{Files, Sources, environment, load};
pub use names::{Labels, project_name};
pub use project::{Network, Project, Volume};
pub use service::{Attachment, Build, Condition, Dependency, PullPolicy, Service};
