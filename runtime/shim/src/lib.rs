//! What the agent and a shim say to each other.
//!
//! A few small contracts are all that the agent names of it: [`spec`], what a shim is
//! told at birth; [`protocol`], what it is asked and answers later; [`log`] and
//! [`log_pieces`], the files it writes. They do no IO.
//!
//! The other modules are how a process becomes a container. Two programs are made of
//! them, each of one thread from birth to death: `tenantry-shim`, which stays with its
//! container, and `tenantry-runtime` (`runtime/oci`), which leaves it to its caller.
//! A program with more threads must not use them: it would fork with other threads'
//! locks held. All `unsafe` code is in [`sys`].

// The modules that were the program's alone name the library by its name.
extern crate self as tenantry_shim;

pub mod cgroup;
pub mod channel;
pub mod connection;
pub mod container;
pub mod copy_up;
pub mod detach;
pub mod exec;
pub mod exit_file;
pub mod failure;
pub mod hold;
pub mod in_root;
pub mod init;
pub mod launch;
pub mod lifecycle;
pub mod log;
pub mod log_file;
pub mod log_pieces;
pub mod mounts;
pub mod namespaces;
pub mod overlay;
pub mod plan;
pub mod privileges;
pub mod program;
pub mod protocol;
pub mod serve;
pub mod spec;
pub mod sys;
pub mod terminal;
