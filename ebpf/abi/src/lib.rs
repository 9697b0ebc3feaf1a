//! The kernel boundary: what the programs write and the host reads, byte for byte.
//!
//! Owns the layout of map keys, values and ring records; mirrors
//! `programs/bpf/abi.h`, and a test in `tenantry-programs` compares both. Must not
//! know how any of it is used. `tenantry-ebpf` is its only caller.
#![no_std]

mod calls;
mod counters;
mod foreign;
mod profile;
mod records;

pub use calls::*;
pub use counters::*;
pub use foreign::*;
pub use profile::*;
pub use records::*;
