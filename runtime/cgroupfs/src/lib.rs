//! cgroups as typed data: cgroup v2 and the v1-hybrid layout behind one face.
//!
//! Owns every path below a cgroup mount: which hierarchies a host has, one
//! container's directory in each, what is written there and what is read.
//! It must not start processes, name eBPF or decide what a limit should be.
//! `tenantry-container` creates, limits and removes groups; the agent's sampler
//! reads them once a second.
//!
//! The way of the data, one file each: [`types`] (wishes) → `validate` →
//! `plan` (which files, in which order) → `apply` (write, read back, restore);
//! and back: `read` → [`sample`] (what the kernel said) → [`delta`] (what it
//! means). `setting`, `parse` and `layout` are text ↔ values and touch no file;
//! `file` is the only place with system calls on file contents.
#![forbid(unsafe_code)]

mod apply;
pub mod delta;
mod devices;
mod error;
mod file;
mod group;
mod hierarchy;
mod io_weight;
pub mod layout;
mod parse;
mod plan;
mod read;
mod remove;
mod restore;
pub mod sample;
mod setting;
pub mod types;
mod validate;

pub use delta::Delta;
pub use devices::DeviceRule;
pub use error::{ApplyError, Error, NotRestored};
pub use group::Group;
pub use hierarchy::Hierarchy;
pub use io_weight::IoWeight;
pub use layout::Layout;
pub use parse::pressure as parse_pressure;
pub use read::{ReadBuffer, Sampler};
pub use restore::{Restore, Restored};
pub use sample::{Sample, Strain};
pub use types::{
    Applied, CgroupIds, CpuMax, IoLimit, Max, Resources, shares_from_weight, weight_from_shares,
};
