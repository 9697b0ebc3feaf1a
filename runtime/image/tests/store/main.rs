//! The store as its callers see it, on archives that the tests build themselves.
//!
//! Tests that unpack need root (owners, whiteout devices) and say SKIPPED without.

mod archives;
mod collection;
mod commit;
mod formats;
mod hostile;
mod layers;
mod lifecycle;
mod overlay;
mod pulled;
mod removal;
mod saved;
mod witness;
