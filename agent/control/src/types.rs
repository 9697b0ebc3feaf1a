//! The words that everybody of the controller speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What containers compete for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    Cpu,
    Memory,
    Disk,
    Network,
}

impl Resource {
    pub const ALL: [Resource; 4] =
        [Resource::Cpu, Resource::Memory, Resource::Disk, Resource::Network];

    pub fn as_str(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Disk => "disk",
            Resource::Network => "network",
        }
    }
}

/// What a container may ask of its neighbours, and they of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Has objectives; others are limited for its sake, it never is.
    Protected,
    /// Neither limits nor is limited, unless the policy says `limit_normal`.
    #[default]
    Normal,
    /// May be limited for the sake of the protected.
    BestEffort,
}

impl Class {
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Protected => "protected",
            Class::Normal => "normal",
            Class::BestEffort => "best-effort",
        }
    }
}

/// How far the controller goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Says what is wrong and what it would do first.
    #[default]
    Advise,
    /// Everything but the last write.
    DryRun,
    Enforce,
}

impl Mode {
    pub fn as_str(self) -> &'static str {
        match self {
            Mode::Advise => "advise",
            Mode::DryRun => "dry-run",
            Mode::Enforce => "enforce",
        }
    }
}

/// Whom a victim waited for. In JSON `{"container": "ID"}` or a word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Culprit {
    /// Another container, by its id.
    Container(String),
    /// Its own threads, one for another.
    #[serde(rename = "self")]
    Itself,
    /// What runs in no container.
    Host,
    /// Its own limit.
    Quota,
    /// The hypervisor, which ran somebody else.
    Steal,
    /// Waited for, but nobody was seen.
    Unexplained,
}

impl Culprit {
    /// The neighbour's id; `None` if it is none.
    pub fn container(&self) -> Option<&str> {
        match self {
            Culprit::Container(id) => Some(id),
            _ => None,
        }
    }
}

macro_rules! displayed_as_str {
    ($($kind:ty),*) => {$(
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    )*};
}

displayed_as_str!(Resource, Class, Mode);
