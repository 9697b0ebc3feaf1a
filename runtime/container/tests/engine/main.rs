//! The engine on this kernel: real shim, real cgroups, real images.
//!
//! Every test owns a house (see [`house`]) and demolishes it, which fails if
//! anything is left over. Where this machine lacks something, a test says
//! `SKIPPED: why` and does nothing.

mod adoption;
mod failure;
mod house;
mod lifecycle;
mod limits;
mod restart;
mod speed;
