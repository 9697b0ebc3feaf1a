//! One line's text to one instruction.
//!
//! Owns each instruction's grammar and its mistakes, in Docker's words. Pure; variables
//! stay as they are written. Called by [`crate::Dockerfile::parse`], and for the triggers
//! of a base image by the agent.

mod flags;
mod health;

use crate::error::{Error, Result};
use crate::instruction::{Command, Copy, Heredoc, Instruction, Trigger};
use crate::source::{self, Line};
use crate::words::split_quoted;

use flags::Flags;

/// A line's meaning: most are instructions of a stage, `FROM` begins one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Parsed {
    From { base: String, platform: Option<String>, name: Option<String> },
    Instruction(Instruction),
}

pub(crate) fn parse_line(line: &Line, escape: char) -> Result<Parsed> {
    parse(&line.text, &line.heredocs, escape).map_err(|reason| Error::at(line.number, reason))
}

/// A trigger that a base image kept, as it was written there.
///
/// # Errors
/// What is wrong with it.
pub fn parse_trigger(text: &str) -> Result<Instruction, String> {
    match parse(text.trim(), &[], '\\')? {
        Parsed::Instruction(Instruction::OnBuild(_)) => {
            Err("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".into())
        }
        Parsed::Instruction(Instruction::Maintainer(_)) => {
            Err("MAINTAINER isn't allowed as an ONBUILD trigger".into())
        }
        Parsed::Instruction(instruction) => Ok(instruction),
        Parsed::From { .. } => Err("FROM isn't allowed as an ONBUILD trigger".into()),
    }
}

fn parse(text: &str, heredocs: &[Heredoc], escape: char) -> Result<Parsed, String> {
    let (word, rest) = match text.find(char::is_whitespace) {
        Some(at) => (&text[..at], text[at..].trim()),
        None => (text, ""),
    };
    let name = word.to_ascii_uppercase();
    let (mut flags, rest) = Flags::take(&name, rest)?;
    let instruction = match name.as_str() {
        "FROM" => {
            let platform = flags.value("platform")?;
            let (base, name) = from(rest)?;
            flags.finish()?;
            return Ok(Parsed::From { base, platform, name });
        }
        "ARG" => Instruction::Arg(arguments(rest, escape)?),
        "CMD" => Instruction::Cmd(command("CMD", rest)?),
        "COPY" | "ADD" => copy(&name, rest, heredocs, &mut flags)?,
        "ENTRYPOINT" => Instruction::Entrypoint(command("ENTRYPOINT", rest)?),
        "ENV" => Instruction::Env(pairs("ENV", rest, escape)?),
        "EXPOSE" => Instruction::Expose(at_least_one("EXPOSE", split_quoted(rest, escape))?),
        "HEALTHCHECK" => Instruction::Healthcheck(health::parse(rest, &mut flags)?),
        "LABEL" => Instruction::Label(pairs("LABEL", rest, escape)?),
        "MAINTAINER" => Instruction::Maintainer(exactly_one("MAINTAINER", rest)?),
        "ONBUILD" => {
            let text = exactly_one("ONBUILD", rest)?;
            if !heredocs.is_empty() {
                return Err("a heredoc isn't allowed in an ONBUILD trigger".into());
            }
            parse_trigger(&text)?;
            Instruction::OnBuild(Trigger { text })
        }
        "RUN" => Instruction::Run { command: command("RUN", rest)?, heredocs: heredocs.to_vec() },
        "SHELL" => match json(rest)? {
            Some(words) if !words.is_empty() => Instruction::Shell(words),
            Some(_) => return Err("SHELL requires at least one argument".into()),
            None => return Err("SHELL requires the arguments to be in JSON form".into()),
        },
        "STOPSIGNAL" => Instruction::StopSignal(exactly_one("STOPSIGNAL", rest)?),
        "USER" => Instruction::User(exactly_one("USER", rest)?),
        "VOLUME" => {
            let paths = at_least_one("VOLUME", list(rest, escape)?)?;
            if paths.iter().any(|path| path.trim().is_empty()) {
                return Err("VOLUME specified can not be an empty string".into());
            }
            Instruction::Volume(paths)
        }
        "WORKDIR" => Instruction::Workdir(exactly_one("WORKDIR", rest)?),
        _ => return Err(format!("unknown instruction: {name}")),
    };
    flags.finish()?;
    Ok(Parsed::Instruction(instruction))
}

fn from(rest: &str) -> Result<(String, Option<String>), String> {
    let words: Vec<&str> = rest.split_whitespace().collect();
    match words[..] {
        [base] => Ok((base.to_owned(), None)),
        [base, word, name] if word.eq_ignore_ascii_case("as") => {
            let name = name.to_ascii_lowercase();
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            if !name.starts_with(|c: char| c.is_ascii_alphabetic()) || !name.chars().all(fits) {
                return Err(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or \
                     contain symbols"
                ));
            }
            if matches!(name.as_str(), "scratch" | "context") {
                return Err(format!(
                    "Stage name should not use the same name as reserved stage {name}"
                ));
            }
            Ok((base.to_owned(), Some(name)))
        }
        _ => Err("FROM requires either one or three arguments".into()),
    }
}

fn arguments(rest: &str, escape: char) -> Result<Vec<(String, Option<String>)>, String> {
    let words = at_least_one("ARG", split_quoted(rest, escape))?;
    let argument = |word: String| match word.split_once('=') {
        Some(("", _)) => Err("ARG names can not be blank".to_owned()),
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => Ok((word, None)),
    };
    words.into_iter().map(argument).collect()
}

/// `a=1 b="2 3"`, or the old `a the rest`.
fn pairs(name: &str, rest: &str, escape: char) -> Result<Vec<(String, String)>, String> {
    let words = at_least_one(name, split_quoted(rest, escape))?;
    if !words[0].contains('=') {
        let (key, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{name} must have two arguments"))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: &String| match word.split_once('=') {
        None => {
            Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value"))
        }
        Some(("", _)) => Err(format!("{name} names can not be blank")),
        Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
    };
    words.iter().map(pair).collect()
}

/// The exec form if it is a JSON array of strings, else a text for the shell.
pub(super) fn command(name: &str, rest: &str) -> Result<Command, String> {
    if rest.is_empty() {
        return Err(format!("{name} requires at least one argument"));
    }
    Ok(match json(rest)? {
        Some(words) if words.is_empty() && name == "RUN" => {
            return Err("RUN requires at least one argument".into());
        }
        Some(words) => Command::Exec(words),
        None => Command::Shell(rest.to_owned()),
    })
}

/// `None` if it is no JSON array, as Docker has it: then it is text.
fn json(rest: &str) -> Result<Option<Vec<String>>, String> {
    if !rest.starts_with('[') {
        return Ok(None);
    }
    match serde_json::from_str::<Vec<serde_json::Value>>(rest) {
        Err(_) => Ok(None),
        Ok(values) => {
            let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
            let words: Option<Vec<String>> = values.iter().map(text).collect();
            words.map(Some).ok_or_else(|| {
                "when using JSON array syntax, arrays must be comprised of strings only".into()
            })
        }
    }
}

fn list(rest: &str, escape: char) -> Result<Vec<String>, String> {
    Ok(json(rest)?.unwrap_or_else(|| split_quoted(rest, escape)))
}

fn copy(
    name: &str,
    rest: &str,
    heredocs: &[Heredoc],
    flags: &mut Flags,
) -> Result<Instruction, String> {
    // Spaces divide, whatever quotes there are: names with spaces take the JSON form.
    let plain = || rest.split_whitespace().map(str::to_owned).collect();
    let mut words: Vec<String> = json(rest)?.unwrap_or_else(plain);
    let destination = match words.pop() {
        Some(destination) if !words.is_empty() => destination,
        Some(_) => {
            return Err(format!(
                "{name} requires at least two arguments, but only one was provided. Destination \
                 could not be determined"
            ));
        }
        None => return Err(format!("{name} requires at least two arguments")),
    };
    let is_heredoc = |word: &str| {
        let opened = source::opening(word);
        opened.is_some_and(|(name, ..)| heredocs.iter().any(|doc| doc.name == name))
    };
    words.retain(|word| !is_heredoc(word));
    let from = if name == "COPY" { flags.value("from")? } else { None };
    if from.as_ref().is_some_and(|from| from.contains('$')) {
        return Err(
            "variable expansion is not supported for --from, define a new stage with FROM \
                    using ARG from global scope as a workaround"
                .into(),
        );
    }
    Ok(Instruction::Copy(Copy {
        unpack: name == "ADD",
        from,
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        checksum: if name == "ADD" { flags.value("checksum")? } else { None },
        sources: words,
        heredocs: heredocs.to_vec(),
        destination,
    }))
}

fn at_least_one(name: &str, words: Vec<String>) -> Result<Vec<String>, String> {
    if words.is_empty() {
        return Err(format!("{name} requires at least one argument"));
    }
    Ok(words)
}

fn exactly_one(name: &str, rest: &str) -> Result<String, String> {
    if rest.is_empty() {
        return Err(format!("{name} requires exactly one argument"));
    }
    Ok(rest.to_owned())
}

#[cfg(test)]
mod tests;
