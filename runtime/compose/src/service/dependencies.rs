//! What a service waits for before it starts.

use std::collections::BTreeMap;

use crate::error::Result;
use crate::node::At;

/// When a service that another one depends on is far enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    #[default]
    Started,
    Healthy,
    /// It ran to its end, with code 0.
    Completed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dependency {
    pub condition: Condition,
    /// Whether it must be there at all.
    pub required: bool,
    /// Whether a new one of it restarts the service.
    pub restart: bool,
}

impl Default for Dependency {
    fn default() -> Self {
        Dependency { condition: Condition::Started, required: true, restart: false }
    }
}

pub fn read(at: &At<'_>) -> Result<BTreeMap<String, Dependency>> {
    if !at.is_map() {
        let names = at.strings()?;
        return Ok(names.into_iter().map(|name| (name, Dependency::default())).collect());
    }
    at.entries()?.into_iter().map(|(name, at)| Ok((name.to_owned(), one(&at)?))).collect()
}

fn one(at: &At<'_>) -> Result<Dependency> {
    if at.node.is_null() {
        return Ok(Dependency::default());
    }
    let mut fields = at.fields()?;
    let dependency = Dependency {
        condition: fields.read("condition", condition)?.unwrap_or_default(),
        required: fields.bool("required")?.unwrap_or(true),
        restart: fields.bool("restart")?.unwrap_or(false),
    };
    fields.finish()?;
    Ok(dependency)
}

fn condition(at: &At<'_>) -> Result<Condition> {
    let allowed = "service_started, service_healthy or service_completed_successfully";
    at.parsed(allowed, |text| match text {
        "service_started" => Some(Condition::Started),
        "service_healthy" => Some(Condition::Healthy),
        "service_completed_successfully" => Some(Condition::Completed),
        _ => None,
    })
}
