//! Dockerfiles: what they say, and what it means for an image's configuration.
//!
//! Owns the text's way to instructions ([`Dockerfile::parse`] over `source` and `parse`),
//! which stages a target needs ([`Dockerfile::needed`]), variables (`words`), the changes
//! that an instruction makes to a configuration ([`Stage`] in `state`), which files of a
//! context a `COPY` means ([`copy`], [`ignore`], [`glob`]) and the keys of the cache
//! ([`key`]). Values in, values out: it opens no file, runs nothing and knows no store; a
//! directory tree is looked at through the narrow trait [`copy::Files`]. Called by the agent.
//!
//! Where Docker has words for a mistake, they are Docker's, since people search for them.

mod arguments;
pub mod copy;
mod dockerfile;
mod document;
mod error;
pub mod glob;
pub mod ignore;
mod instruction;
pub mod key;
mod parse;
mod source;
mod state;
mod words;

pub use arguments::Arguments;
pub use dockerfile::{Dockerfile, Origin, StageText, Step};
pub use document::{Config, Document, Healthcheck, History};
pub use error::{Error, Result};
pub use instruction::{Command, Copy, Heredoc, Instruction, Trigger};
pub use parse::parse_trigger;
pub use state::{Effect, Run, Stage};
