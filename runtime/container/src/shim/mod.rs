//! The agent's side of a shim: its birth, its socket, its end.
//!
//! Owns the program file ([`program`]), spawning ([`spawn`]), the conversation ([`connection`]) and exec's
//! descriptor passing. It must not decide anything about containers; the engine
//! calls it. The crate's `unsafe` blocks, one each, are in `program` and `spawn`.

pub mod connection;
pub mod program;
pub mod spawn;
