//! A whole Dockerfile: its head, its stages, and which of them a target needs.
//!
//! Owns the order of things in the file. Pure. Called by the agent.

use crate::arguments::Arguments;
use crate::error::{Error, Result};
use crate::instruction::Instruction;
use crate::parse::{Parsed, parse_line};
use crate::source;
use crate::words;

const MOST_BYTES: usize = 1 << 20;
const MOST_INSTRUCTIONS: usize = 2000;

/// One instruction, and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub line: usize,
    /// As it was written, on one line.
    pub text: String,
    pub instruction: Instruction,
}

/// A stage as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageText {
    pub line: usize,
    pub text: String,
    /// An image, an earlier stage, or `scratch`; variables are in it still.
    pub base: String,
    pub platform: Option<String>,
    pub name: Option<String>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dockerfile {
    pub escape: char,
    /// `ARG` before the first `FROM`.
    pub head: Vec<Step>,
    /// At least one.
    pub stages: Vec<StageText>,
}

/// What a stage or a `COPY --from` starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Scratch,
    /// The number of an earlier stage.
    Stage(usize),
    Image(String),
}

impl Dockerfile {
    /// # Errors
    /// The first mistake, with its line.
    pub fn parse(bytes: &[u8]) -> Result<Dockerfile> {
        if bytes.len() > MOST_BYTES {
            return Err(Error::TooLong { bytes: bytes.len(), allowed: MOST_BYTES });
        }
        let text = std::str::from_utf8(bytes)
            .map_err(|error| Error::NotText { at: error.valid_up_to() })?;
        let source = source::split(text)?;
        if source.lines.len() > MOST_INSTRUCTIONS {
            let instructions = source.lines.len();
            return Err(Error::TooMany { instructions, allowed: MOST_INSTRUCTIONS });
        }
        let mut head = Vec::new();
        let mut stages: Vec<StageText> = Vec::new();
        for line in source.lines {
            let parsed = parse_line(&line, source.escape)?;
            let (number, text) = (line.number, line.text);
            match (parsed, stages.last_mut()) {
                (Parsed::From { base, platform, name }, _) => {
                    let steps = Vec::new();
                    stages.push(StageText { line: number, text, base, platform, name, steps });
                }
                (Parsed::Instruction(instruction), Some(stage)) => {
                    stage.steps.push(Step { line: number, text, instruction });
                }
                (Parsed::Instruction(instruction @ Instruction::Arg(_)), None) => {
                    head.push(Step { line: number, text, instruction });
                }
                (Parsed::Instruction(_), None) => {
                    return Err(Error::at(number, "no build stage in current context"));
                }
            }
        }
        match (head.last(), stages.is_empty()) {
            (_, false) => Ok(Dockerfile { escape: source.escape, head, stages }),
            (Some(last), true) => Err(Error::at(last.line, "no build stage in current context")),
            (None, true) => Err(Error::Empty),
        }
    }

    /// Declares the head's arguments.
    pub fn declare_head(&self, arguments: &mut Arguments) -> Result<()> {
        for step in &self.head {
            let Instruction::Arg(declared) = &step.instruction else { continue };
            for (name, default) in declared {
                let seen = arguments.clone();
                let variables = |name: &str| seen.in_head(name);
                let default = default.as_deref();
                let default = default.map(|text| words::expand(text, &variables, self.escape));
                let default = default.transpose().map_err(|reason| Error::at(step.line, reason))?;
                arguments.declare_in_head(name, default.as_deref());
            }
        }
        Ok(())
    }

    /// What a stage is based on, with the head's arguments put in.
    pub fn base(&self, stage: usize, arguments: &Arguments) -> Result<Origin> {
        let StageText { line, base, .. } = &self.stages[stage];
        let variables = |name: &str| arguments.in_head(name);
        let wrong = |reason: String| Error::at(*line, reason);
        let name = words::expand(base, &variables, self.escape).map_err(wrong)?;
        if name.is_empty() {
            return Err(wrong(format!("base name ({base}) should not be blank")));
        }
        if name == "scratch" {
            return Ok(Origin::Scratch);
        }
        let earlier = self.named(&name, stage).map(Origin::Stage);
        Ok(earlier.unwrap_or(Origin::Image(name)))
    }

    /// `--platform` of a stage, with the head's arguments put in.
    pub fn platform(&self, stage: usize, arguments: &Arguments) -> Result<Option<String>> {
        let StageText { line, platform, .. } = &self.stages[stage];
        let variables = |name: &str| arguments.in_head(name);
        let expanded = platform.as_deref().map(|text| words::expand(text, &variables, self.escape));
        let expanded = expanded.transpose().map_err(|reason| Error::at(*line, reason))?;
        Ok(expanded.filter(|text| !text.is_empty()))
    }

    /// What `COPY --from=text` in a stage means: an earlier stage's name or number, else an
    /// image.
    ///
    /// # Errors
    /// A number that no earlier stage has.
    pub fn copy_origin(&self, stage: usize, text: &str) -> Result<Origin, String> {
        if let Some(earlier) = self.named(text, stage) {
            return Ok(Origin::Stage(earlier));
        }
        match text.parse::<usize>() {
            Ok(number) if number < stage => Ok(Origin::Stage(number)),
            Ok(number) if number == stage => {
                Err(format!("invalid from flag value {text}: refers to current build block"))
            }
            Ok(_) => Err(format!("invalid from flag value {text}: no such earlier stage")),
            Err(_) => Ok(Origin::Image(text.to_owned())),
        }
    }

    /// The stages that `target` (a name or number; the last by default) needs, itself the
    /// last, in the order of the file.
    pub fn needed(&self, target: Option<&str>, arguments: &Arguments) -> Result<Vec<usize>> {
        let target = match target {
            None => self.stages.len() - 1,
            Some(text) => self.target(text)?,
        };
        let mut needed = std::collections::BTreeSet::new();
        let mut todo = vec![target];
        while let Some(stage) = todo.pop() {
            if !needed.insert(stage) {
                continue;
            }
            if let Origin::Stage(earlier) = self.base(stage, arguments)? {
                todo.push(earlier);
            }
            for step in &self.stages[stage].steps {
                if let Instruction::Copy(copy) = &step.instruction
                    && let Some(from) = &copy.from
                {
                    let origin = self.copy_origin(stage, from);
                    match origin.map_err(|reason| Error::at(step.line, reason))? {
                        Origin::Stage(earlier) => todo.push(earlier),
                        Origin::Scratch | Origin::Image(_) => {}
                    }
                }
            }
        }
        Ok(needed.into_iter().collect())
    }

    fn target(&self, text: &str) -> Result<usize> {
        let number = text.parse::<usize>().ok().filter(|number| *number < self.stages.len());
        self.named(text, self.stages.len()).or(number).ok_or_else(|| {
            let name = |(index, stage): (usize, &StageText)| {
                stage.name.clone().unwrap_or_else(|| index.to_string())
            };
            let known: Vec<String> = self.stages.iter().enumerate().map(name).collect();
            Error::NoSuchTarget { target: text.to_owned(), known: known.join(", ") }
        })
    }

    /// The last stage of this name before `limit`.
    fn named(&self, text: &str, limit: usize) -> Option<usize> {
        let is_it = |stage: &StageText| {
            stage.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(text))
        };
        self.stages[..limit].iter().rposition(is_it)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGES: &str = "ARG BASE=busybox\nFROM $BASE AS tools\nRUN a\nFROM scratch AS unused\n\
                          FROM tools AS build\nRUN b\nFROM scratch\nCOPY --from=build /x /\n\
                          COPY --from=alpine /y /\n";

    fn arguments() -> Arguments {
        Arguments::new(Default::default(), "amd64")
    }

    #[test]
    fn a_target_needs_what_it_is_made_of() {
        let file = Dockerfile::parse(STAGES.as_bytes()).unwrap();
        let mut arguments = arguments();
        file.declare_head(&mut arguments).unwrap();
        let check = |target, expected: &[usize]| {
            assert_eq!(file.needed(target, &arguments).unwrap(), expected, "{target:?}");
        };
        check(None, &[0, 2, 3]);
        check(Some("tools"), &[0]);
        check(Some("Build"), &[0, 2]);
        check(Some("1"), &[1]);
        assert_eq!(file.base(0, &arguments), Ok(Origin::Image("busybox".into())));
        assert_eq!(file.base(2, &arguments), Ok(Origin::Stage(0)));
        assert_eq!(file.copy_origin(3, "alpine"), Ok(Origin::Image("alpine".into())));
        assert_eq!(file.copy_origin(3, "0"), Ok(Origin::Stage(0)));
        let error = file.needed(Some("x"), &arguments).unwrap_err().to_string();
        assert!(error.contains("build target x") && error.contains("tools, unused"), "{error}");
    }

    #[test]
    fn a_mistake_is_told_with_its_line() {
        let check = |text: &str, expected: &str| {
            let error = Dockerfile::parse(text.as_bytes()).unwrap_err().to_string();
            assert_eq!(error, expected, "{text:?}");
        };
        let line = |line, reason: &str| format!("dockerfile parse error on line {line}: {reason}");
        check("FROM a\n\nFRM b\n", &line(3, "unknown instruction: FRM"));
        check(
            "FROM a\nRUN x \\\n y\nCOPY a\n",
            &line(
                4,
                "COPY requires at least two arguments, \
            but only one was provided. Destination could not be determined",
            ),
        );
        check("RUN a", &line(1, "no build stage in current context"));
        check("ARG a", &line(1, "no build stage in current context"));
        check("# nothing\n", "the Dockerfile cannot be empty: it has no instructions");
    }

    #[test]
    fn a_mistake_that_only_a_stage_shows_has_its_line_too() {
        let check = |text: &str, expected: &str| {
            let file = Dockerfile::parse(text.as_bytes()).unwrap();
            let error = file.needed(None, &arguments()).unwrap_err().to_string();
            assert!(error.starts_with("dockerfile parse error on line 2: "), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        check("FROM a\nCOPY --from=0 a b\n", "refers to current build block");
        check("FROM a\nCOPY --from=7 a b\n", "no such earlier stage");
        check("ARG x\nFROM $x\n", "base name ($x) should not be blank");
        check("ARG x\nFROM ${x\n", "missing '}'");
    }

    #[test]
    fn a_name_of_a_later_stage_is_an_images() {
        let file = Dockerfile::parse(b"FROM b AS a\nFROM a AS b\n").unwrap();
        assert_eq!(file.base(0, &arguments()), Ok(Origin::Image("b".into())));
        assert_eq!(file.base(1, &arguments()), Ok(Origin::Stage(0)));
    }

    #[test]
    fn what_is_too_much_is_refused() {
        let long = vec![b'#'; MOST_BYTES + 1];
        assert!(matches!(Dockerfile::parse(&long), Err(Error::TooLong { .. })));
        let many = format!("FROM a\n{}", "RUN x\n".repeat(MOST_INSTRUCTIONS));
        assert!(matches!(Dockerfile::parse(many.as_bytes()), Err(Error::TooMany { .. })));
        assert_eq!(Dockerfile::parse(b"FROM \xff"), Err(Error::NotText { at: 5 }));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(0u8..=255, 0..200)) {
            let _ = Dockerfile::parse(&bytes);
        }

        #[test]
        fn no_instructions_make_it_panic(
            lines in proptest::collection::vec(
                "(FROM|RUN|COPY|ADD|ENV|ARG|LABEL|HEALTHCHECK|ONBUILD|VOLUME|EXPOSE|CMD) \
                 [a-z=$\\{\\}\"' \\\\<\\[,\\]-]{0,20}", 0..8,
            ),
        ) {
            let text = format!("FROM a\n{}", lines.join("\n"));
            if let Ok(file) = Dockerfile::parse(text.as_bytes()) {
                let _ = file.needed(None, &arguments());
            }
        }
    }
}
