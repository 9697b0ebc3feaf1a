//! What of the looks is worth a line. Quiet looks are not: a quiet host writes nothing.

use std::borrow::Cow;

use super::{Entry, Head, LOG_FORMAT, Look, Refused};
use crate::actuator::Actuator;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::rates::{Blame, Rates};
use crate::state::State;
use crate::types::Resource;

/// Remembers what the file already says.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    head: Option<Policy>,
    /// The look before has a line, so the state follows from it.
    follows: bool,
}

impl Recorder {
    pub fn new() -> Recorder {
        Recorder::default()
    }

    /// The next line begins a new file.
    pub fn restart(&mut self) {
        *self = Recorder::default();
    }

    /// The lines to append for one look, each with its end; `None` for a quiet one.
    /// `before` and `after` are the states that [`crate::decide`] took and gave.
    pub fn look(
        &mut self,
        policy: &Policy,
        before: &State,
        rates: &Rates,
        now_ms: u64,
        (after, decisions): (&State, &[Decision]),
    ) -> Option<String> {
        let is_quiet = before.is_quiet() && after.is_quiet() && decisions.is_empty();
        // JSON has no word for a number that is none.
        if is_quiet || !rates.is_sane() {
            self.follows = false;
            return None;
        }
        let mut lines = String::new();
        if self.head.as_ref() != Some(policy) {
            let head = Head { format: LOG_FORMAT, policy: Cow::Borrowed(policy) };
            push(&mut lines, &Entry::Head(Box::new(head)));
            self.head = Some(policy.clone());
        }
        let look = Look {
            now_ms,
            state: (!self.follows).then_some(Cow::Borrowed(before)),
            rates: Cow::Owned(worth_keeping(policy, before, rates, after)),
            decisions: Cow::Borrowed(decisions),
        };
        push(&mut lines, &Entry::Look(Box::new(look)));
        self.follows = true;
        Some(lines)
    }

    /// The line for a [`State::refuse`] after the last look; `None` if that has no line, and
    /// the state that comes next holds it.
    pub fn refused(
        &mut self,
        container: &str,
        actuator: &Actuator,
        until_ms: u64,
    ) -> Option<String> {
        let refused =
            Refused { container: Cow::Borrowed(container), actuator: *actuator, until_ms };
        self.follows.then(|| {
            let mut lines = String::new();
            push(&mut lines, &Entry::Refused(refused));
            lines
        })
    }
}

/// Without the small waits of those who are well: nothing was decided by them, and of a
/// host's blame they are the most.
fn worth_keeping(policy: &Policy, before: &State, rates: &Rates, after: &State) -> Rates {
    let is_kept = |blame: &&Blame| {
        // A wait for the network may be an objective, and is summed up for everybody.
        blame.resource == Resource::Network
            || blame.seconds_per_second >= policy.detect.least_wait
            || before.victims.contains_key(&blame.victim)
            || after.victims.contains_key(&blame.victim)
    };
    Rates {
        containers: rates.containers.clone(),
        blame: rates.blame.iter().filter(is_kept).cloned().collect(),
        ..*rates
    }
}

fn push(lines: &mut String, entry: &Entry) {
    let line = serde_json::to_string(entry).expect("its keys are texts and its numbers finite");
    lines.push_str(&line);
    lines.push('\n');
}
