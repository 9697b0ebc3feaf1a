//! What the agent and a shim say to each other.
//!
//! The library half of this crate owns three small contracts: [`spec`], what a
//! shim is told at birth; [`protocol`], what it is asked and answers later; and
//! [`log`], the file it writes. The binary half, `tenantry-shim`, is the only
//! program that becomes a container. The library does no IO.

pub mod log;
pub mod protocol;
pub mod spec;
