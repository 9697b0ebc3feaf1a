//! How a service's containers are asked whether they are well.

use bollard_stubs::models::HealthConfig;

use crate::error::Result;
use crate::node::{At, Fields};
use crate::units;

pub fn read(at: &At<'_>) -> Result<HealthConfig> {
    let mut fields = at.fields()?;
    let off = fields.bool("disable")?.unwrap_or(false);
    let said = fields.read("test", test)?;
    let mut time = |name| duration(&mut fields, name);
    let (interval, timeout) = (time("interval")?, time("timeout")?);
    let (start_period, start_interval) = (time("start_period")?, time("start_interval")?);
    let health = HealthConfig {
        test: if off { Some(vec!["NONE".into()]) } else { said },
        interval,
        timeout,
        start_period,
        start_interval,
        retries: fields.read("retries", |at| at.number("a number"))?,
    };
    fields.finish()?;
    Ok(health)
}

fn duration(fields: &mut Fields<'_>, name: &'static str) -> Result<Option<i64>> {
    fields.read(name, |at| at.parsed(units::DURATION, units::duration_ns))
}

/// A text is a shell's; a list says first how it is to be run.
fn test(at: &At<'_>) -> Result<Vec<String>> {
    if at.is_text() {
        return Ok(vec!["CMD-SHELL".into(), at.string()?]);
    }
    let words = at.strings()?;
    match words.first().map(String::as_str) {
        Some("NONE" | "CMD" | "CMD-SHELL") => Ok(words),
        _ => Err(at.invalid("the first word of a list is NONE, CMD or CMD-SHELL")),
    }
}
