//! The log of what was seen and decided: one JSON object a line. It replays to the same
//! decisions, or the program that wrote it decided otherwise; and another policy can be run
//! over it.
//!
//! ```text
//! {"head":{"format":1,"policy":{…}}}                         the policy from here on
//! {"look":{"now_ms":…,"state":{…},"rates":{…},"decisions":[…]}}  the first of an episode
//! {"look":{"now_ms":…,"rates":{…},"decisions":[…]}}              the looks that follow it
//! {"refused":{"container":…,"actuator":…,"until_ms":…}}      a limit that could not be set
//! ```
//!
//! Only looks at which somebody is bad or held are worth a line. Text in, values out: the
//! agent writes the file.

mod recorder;
mod replay;
mod simulate;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use self::recorder::Recorder;
pub use self::replay::{Difference, Report, replay};
pub use self::simulate::{Limited, Simulation, simulate};
use crate::actuator::Actuator;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::rates::Rates;
use crate::state::State;

/// Of the lines above. A log of another one is refused.
pub const LOG_FORMAT: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Entry<'a> {
    Head(Box<Head<'a>>),
    Look(Box<Look<'a>>),
    Refused(Refused<'a>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head<'a> {
    pub format: u32,
    pub policy: Cow<'a, Policy>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Look<'a> {
    pub now_ms: u64,
    /// Before the look; only where the look before has no line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Cow<'a, State>>,
    pub rates: Cow<'a, Rates>,
    #[serde(default, skip_serializing_if = "is_empty")]
    pub decisions: Cow<'a, [Decision]>,
}

fn is_empty(decisions: &[Decision]) -> bool {
    decisions.is_empty()
}

/// See [`State::refuse`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused<'a> {
    pub container: Cow<'a, str>,
    pub actuator: Actuator,
    pub until_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// Lines count from 1.
    #[error("line {line} is no line of a decision log: {message}")]
    Syntax { line: usize, message: String },
    #[error("line {line} has format {found}, known is {LOG_FORMAT}")]
    Format { line: usize, found: u32 },
    #[error("line {line} is a look before any head with a policy")]
    NoHead { line: usize },
    #[error("line {line} follows a look that is not there: it has no state")]
    NoState { line: usize },
}

/// Entries with their line numbers. A last line that cannot be read was cut when its writer
/// ended: it is left out, and `cut` is set.
fn entries<'t, T: AsRef<str> + 't>(
    lines: impl IntoIterator<Item = T> + 't,
    cut: &mut bool,
) -> impl Iterator<Item = Result<(usize, Entry<'static>), LogError>> {
    let mut lines = lines.into_iter().enumerate().peekable();
    std::iter::from_fn(move || {
        loop {
            let (index, line) = lines.next()?;
            if line.as_ref().trim().is_empty() {
                continue;
            }
            let line_number = index + 1;
            return match serde_json::from_str(line.as_ref()) {
                Ok(Entry::Head(head)) if head.format != LOG_FORMAT => {
                    Some(Err(LogError::Format { line: line_number, found: head.format }))
                }
                Ok(entry) => Some(Ok((line_number, entry))),
                Err(_) if lines.peek().is_none() && index > 0 => {
                    *cut = true;
                    None
                }
                Err(error) => {
                    Some(Err(LogError::Syntax { line: line_number, message: error.to_string() }))
                }
            };
        }
    })
}
