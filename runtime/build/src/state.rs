//! A stage while it is built: its configuration, and what each instruction does to it.
//!
//! Owns the meaning of every instruction. What needs a file system or a process comes out
//! as an [`Effect`], for the agent to carry out. Pure.

mod settings;

use std::collections::BTreeMap;

use crate::arguments::Arguments;
use crate::copy::join;
use crate::document::{Config, Document, Nothing};
use crate::instruction::{Command, Copy, Heredoc, Instruction};

pub use settings::environment_of;

/// The configuration so far, and the arguments that its `ARG`s declared.
#[derive(Clone, Debug)]
pub struct Stage {
    pub document: Document,
    declared: BTreeMap<String, Option<String>>,
    escape: char,
    /// This stage has named a command: an entry point does not take it away any more.
    has_command: bool,
}

/// What an instruction needs done beyond the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Nothing,
    Run(Run),
    Copy(Copy),
    /// This directory must be there.
    Workdir(String),
}

/// A command to run in the image so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub args: Vec<String>,
    /// Beyond the image's own variables: declared arguments and proxies.
    pub env: Vec<String>,
    /// The declared arguments alone, which the cache's key has.
    pub declared: Vec<String>,
}

const SHELL: [&str; 2] = ["/bin/sh", "-c"];

impl Stage {
    /// A stage that begins with this configuration.
    pub fn new(document: Document, escape: char) -> Stage {
        Stage { document, declared: BTreeMap::new(), escape, has_command: false }
    }

    /// The triggers that the base kept, taken out: they are to be run first.
    pub fn take_triggers(&mut self) -> Vec<String> {
        std::mem::take(&mut self.document.config.on_build)
    }

    /// Puts variables in and changes the configuration.
    ///
    /// # Errors
    /// What is wrong with a value, without the line.
    pub fn apply(
        &mut self,
        instruction: &Instruction,
        arguments: &mut Arguments,
    ) -> Result<Effect, String> {
        let variables = |name: &str| self.variable(name);
        let instruction = instruction.expanded(&variables, self.escape)?;
        let config = &mut self.document.config;
        match instruction {
            Instruction::Arg(list) => {
                for (name, default) in list {
                    let value = arguments.declare(&name, default.as_deref());
                    self.declared.insert(name, value);
                }
            }
            Instruction::Cmd(command) => {
                let words = words_of(command, config);
                config.cmd = Some(words);
                self.has_command = true;
            }
            Instruction::Copy(copy) => return Ok(Effect::Copy(copy)),
            Instruction::Entrypoint(command) => {
                let words = words_of(command, config);
                config.entrypoint = Some(words).filter(|words| !words.is_empty());
                if !self.has_command {
                    config.cmd = None;
                }
            }
            Instruction::Env(list) => {
                for (name, value) in list {
                    settings::set_variable(&mut config.env, &name, &value)?;
                }
            }
            Instruction::Expose(ports) => {
                for port in ports {
                    let ports = settings::parse_ports(&port)?;
                    config.exposed_ports.extend(ports.into_iter().map(|port| (port, Nothing {})));
                }
            }
            Instruction::Healthcheck(check) => {
                let none =
                    || crate::Healthcheck { test: vec!["NONE".into()], ..Default::default() };
                config.healthcheck = Some(check.unwrap_or_else(none));
            }
            Instruction::Label(list) => config.labels.extend(list),
            Instruction::Maintainer(name) => self.document.author = name,
            Instruction::OnBuild(trigger) => config.on_build.push(trigger.text),
            Instruction::Run { command, heredocs } => {
                return Ok(Effect::Run(self.run(command, &heredocs, arguments)?));
            }
            Instruction::Shell(words) => config.shell = Some(words),
            Instruction::StopSignal(signal) => {
                settings::check_signal(&signal)?;
                config.stop_signal = signal;
            }
            Instruction::User(user) => config.user = user,
            Instruction::Volume(paths) => {
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err("VOLUME specified can not be an empty string".into());
                }
                config.volumes.extend(paths.into_iter().map(|path| (path, Nothing {})));
            }
            Instruction::Workdir(path) => {
                config.working_dir = join(&config.working_dir, &path);
                return Ok(Effect::Workdir(config.working_dir.clone()));
            }
        }
        Ok(Effect::Nothing)
    }

    /// The image's variables hide arguments of the same name.
    fn variable(&self, name: &str) -> Option<String> {
        let own = environment_of(&self.document.config.env, name);
        own.map(str::to_owned).or_else(|| self.declared.get(name).cloned().flatten())
    }

    fn run(
        &self,
        command: Command,
        heredocs: &[Heredoc],
        arguments: &Arguments,
    ) -> Result<Run, String> {
        let config = &self.document.config;
        let command = with_heredocs(command, heredocs)?;
        let hidden = |name: &str| environment_of(&config.env, name).is_some();
        let variable = |(name, value): (&str, &str)| format!("{name}={value}");
        let declared = self.declared.iter();
        let declared =
            declared.filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)));
        let declared: Vec<(&str, &str)> = declared.filter(|(name, _)| !hidden(name)).collect();
        let known = |name: &str| declared.iter().any(|(known, _)| *known == name);
        let proxies = arguments.proxies().filter(|(name, _)| !hidden(name) && !known(name));
        let env = declared.iter().copied().chain(proxies).map(variable).collect();
        let in_key = declared.iter().copied().filter(|(name, _)| !Arguments::is_proxy(name));
        let declared = in_key.map(variable).collect();
        Ok(Run { args: words_of(command, config), env, declared })
    }
}

/// The words to execute: a text goes to the shell.
fn words_of(command: Command, config: &Config) -> Vec<String> {
    match command {
        Command::Exec(words) => words,
        Command::Shell(text) => {
            let shell = config.shell.clone();
            let mut words = shell.unwrap_or_else(|| SHELL.map(str::to_owned).to_vec());
            words.push(text);
            words
        }
    }
}

/// `RUN <<EOF` alone is the script itself; beside a command, the shell reads it as its own.
fn with_heredocs(command: Command, heredocs: &[Heredoc]) -> Result<Command, String> {
    let Some(first) = heredocs.first() else { return Ok(command) };
    let Command::Shell(text) = command else {
        return Err("a heredoc needs the shell form of RUN".into());
    };
    let is_alone = heredocs.len() == 1 && crate::source::opening(&text).is_some();
    if !is_alone {
        let mut whole = text + "\n";
        for doc in heredocs {
            whole.push_str(&doc.content);
            whole.push_str(&doc.name);
            whole.push('\n');
        }
        return Ok(Command::Shell(whole));
    }
    if first.content.starts_with("#!") {
        return Err(
            "a heredoc with an interpreter of its own (#!) is not supported: COPY it to a \
                    file and run that"
                .into(),
        );
    }
    Ok(Command::Shell(first.content.clone()))
}

#[cfg(test)]
mod tests;
