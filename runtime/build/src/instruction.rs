//! What a Dockerfile can say.
//!
//! Owns the types alone: `parse` makes them, `state` gives them their meaning. Texts are
//! as they were written; variables are put in by [`Instruction::expanded`].

use crate::document::Healthcheck;
use crate::words::{self, Variables};

/// A command as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// One text for the shell.
    Shell(String),
    /// `["program", "argument"]`.
    Exec(Vec<String>),
}

/// A text that stands in the Dockerfile itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it; for `COPY`, the file's name.
    pub name: String,
    pub content: String,
    /// Whether variables are put in (its word was not quoted).
    pub expand: bool,
}

/// `COPY` or `ADD`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copy {
    /// `ADD`: archives are unpacked.
    pub unpack: bool,
    /// A stage's name or number, or an image.
    pub from: Option<String>,
    /// `user[:group]`.
    pub chown: Option<String>,
    /// Octal.
    pub chmod: Option<String>,
    /// `ADD` of an address: what it must be, `sha256:` and hex digits.
    pub checksum: Option<String>,
    pub sources: Vec<String>,
    pub heredocs: Vec<Heredoc>,
    pub destination: String,
}

/// What `ONBUILD` keeps for images that build on this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// `COPY . /app`.
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Instruction {
    Arg(Vec<(String, Option<String>)>),
    Cmd(Command),
    Copy(Copy),
    Entrypoint(Command),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    /// `None` is `NONE`: the base's check is switched off.
    Healthcheck(Option<Healthcheck>),
    Label(Vec<(String, String)>),
    Maintainer(String),
    OnBuild(Trigger),
    Run {
        command: Command,
        heredocs: Vec<Heredoc>,
    },
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Instruction {
    /// With variables put in where Docker puts them in: not into commands, which have a
    /// shell of their own for that.
    ///
    /// # Errors
    /// What is wrong with a text, without the line.
    pub fn expanded(&self, variables: &Variables<'_>, escape: char) -> Result<Self, String> {
        let one = |text: &String| words::expand(text, variables, escape);
        let optional = |text: &Option<String>| text.as_ref().map(one).transpose();
        let all =
            |texts: &[String]| -> Result<Vec<String>, String> { texts.iter().map(one).collect() };
        let many = |texts: &[String]| -> Result<Vec<String>, String> {
            let words = texts.iter().map(|text| words::expand_words(text, variables, escape));
            Ok(words.collect::<Result<Vec<_>, _>>()?.concat())
        };
        let pairs = |pairs: &[(String, String)]| -> Result<Vec<_>, String> {
            pairs.iter().map(|(name, value)| Ok((one(name)?, one(value)?))).collect()
        };
        Ok(match self {
            Self::Arg(arguments) => {
                let argument = |(name, value): &(String, Option<String>)| -> Result<_, String> {
                    Ok((one(name)?, optional(value)?))
                };
                Self::Arg(arguments.iter().map(argument).collect::<Result<_, String>>()?)
            }
            Self::Copy(copy) => {
                let heredoc = |doc: &Heredoc| -> Result<Heredoc, String> {
                    let content = match doc.expand {
                        true => words::expand_text(&doc.content, variables, escape)?,
                        false => doc.content.clone(),
                    };
                    Ok(Heredoc { content, ..doc.clone() })
                };
                Self::Copy(Copy {
                    unpack: copy.unpack,
                    // Which stages are needed must be known before any of them is built.
                    from: copy.from.clone(),
                    chown: optional(&copy.chown)?,
                    checksum: optional(&copy.checksum)?,
                    chmod: optional(&copy.chmod)?,
                    sources: all(&copy.sources)?,
                    heredocs: copy.heredocs.iter().map(heredoc).collect::<Result<_, String>>()?,
                    destination: one(&copy.destination)?,
                })
            }
            Self::Env(list) => Self::Env(pairs(list)?),
            Self::Label(list) => Self::Label(pairs(list)?),
            Self::Expose(ports) => Self::Expose(many(ports)?),
            Self::Volume(paths) => Self::Volume(many(paths)?),
            Self::StopSignal(signal) => Self::StopSignal(one(signal)?),
            Self::User(user) => Self::User(one(user)?),
            Self::Workdir(path) => Self::Workdir(one(path)?),
            as_written => as_written.clone(),
        })
    }
}
