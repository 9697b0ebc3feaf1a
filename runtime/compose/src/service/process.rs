//! The program: its words, environment, user and terminal, and how it ends.

use std::path::Path;

use super::{Context, Parts, list, map};
use crate::env_file;
use crate::error::Result;
use crate::node::{At, Fields};
use crate::units;

pub fn read(fields: &mut Fields<'_>, context: &Context<'_>, parts: &mut Parts) -> Result<()> {
    let body = &mut parts.body;
    body.cmd = fields.read("command", words)?;
    body.entrypoint = fields.read("entrypoint", words)?;
    body.env = Some(environment(fields, context)?);
    body.labels = map(fields, "labels")?;
    body.user = fields.string("user")?;
    body.working_dir = fields.string("working_dir")?;
    body.hostname = fields.string("hostname")?;
    body.domainname = fields.string("domainname")?;
    body.tty = fields.bool("tty")?;
    body.open_stdin = fields.bool("stdin_open")?;
    body.stop_signal = fields.string("stop_signal")?;
    let grace =
        fields.read("stop_grace_period", |at| at.parsed(units::DURATION, units::duration_ns))?;
    body.stop_timeout = grace.map(|ns| (ns + 999_999_999) / 1_000_000_000);
    parts.host.init = fields.bool("init")?;
    parts.host.group_add = list(fields, "group_add")?;
    parts.host.annotations = map(fields, "annotations")?;
    fields.refuse(&["label_file"], "not supported: write the labels out")
}

/// One text is split as a shell splits it, and run without one.
fn words(at: &At<'_>) -> Result<Vec<String>> {
    match at.is_text() {
        true => at.parsed("words with closed quotes", shlex::split),
        false => at.strings(),
    }
}

/// The files' variables, and over them the service's own. A name without a value is the
/// caller's; if that has none, neither has the container.
fn environment(fields: &mut Fields<'_>, context: &Context<'_>) -> Result<Vec<String>> {
    let mut all: Vec<(String, Option<String>)> = Vec::new();
    if let Some(at) = fields.get("env_file") {
        let files = if at.is_text() || at.is_map() { vec![at] } else { at.list()? };
        for file in files {
            all.extend(of_file(&file, context)?);
        }
    }
    all.extend(fields.read("environment", At::pairs)?.unwrap_or_default());
    let mut texts: Vec<(String, String)> = Vec::new();
    for (name, value) in all {
        let Some(value) = value.or_else(|| context.environment.get(&name).cloned()) else {
            continue;
        };
        texts.retain(|(known, _)| *known != name);
        texts.push((name, value));
    }
    Ok(texts.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn of_file(at: &At<'_>, context: &Context<'_>) -> Result<Vec<(String, Option<String>)>> {
    let (path, is_required) = match at.is_text() {
        true => (at.string()?, true),
        false => {
            let mut fields = at.fields()?;
            let path = fields.string("path")?;
            let required = fields.bool("required")?.unwrap_or(true);
            fields.refuse(&["format"], "not supported: the usual format is read")?;
            fields.finish()?;
            (path.ok_or_else(|| at.invalid("path is missing"))?, required)
        }
    };
    match context.files.read(&context.directory.join(Path::new(&path))) {
        Ok(text) => env_file::parse(&path, &text, context.environment),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !is_required => Ok(vec![]),
        Err(error) => Err(at.invalid(format!("cannot read {path}: {error}"))),
    }
}
