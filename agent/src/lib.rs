//! tenantry: the agent and its command line.
//!
//! ```text
//! kernel maps ─┐                 ┌─▶ metrics ─▶ /metrics
//! cgroup files ┼─▶ collect ─▶ report ─▶ api/native ─▶ stats
//! links ───────┘
//! event ring ─▶ audit ─▶ file, api/native/events
//! counters ─▶ controller ─▶ engine (throttles), api/native/decisions
//! api/docker ─▶ engine (tenantry-container) ─▶ registry ─▶ kernel maps
//!            └▶ registries (tenantry-registry) ─▶ image store
//! ```

pub mod api;
pub mod audit;
pub mod audit_filter;
pub mod blame;
pub mod build;
pub mod cli;
pub mod collect;
pub mod config;
pub mod controller;
pub mod daemon;
pub mod delivered;
pub mod destinations;
pub mod devices;
pub mod domains;
pub mod duration;
pub mod foreign;
pub mod fs_usage;
pub mod governor;
pub mod guard;
pub mod host;
pub mod limit_line;
pub mod metrics;
pub mod oom;
pub mod origin;
pub mod otlp;
pub mod profile;
mod readable;
pub mod registries;
pub mod registry;
pub mod report;
pub mod rules;
pub mod samplers;
pub mod trace;
