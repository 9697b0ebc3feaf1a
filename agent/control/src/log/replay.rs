//! The recorded looks decided again: the same decisions, or where they part.

use super::{Entry, LogError, entries};
use crate::decide::decide;
use crate::decision::Decision;
use crate::policy::Policy;
use crate::state::State;

/// What came of a replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub looks: usize,
    /// Runs of looks without a gap.
    pub episodes: usize,
    pub decisions: usize,
    /// The last line was cut off and left out.
    pub cut: bool,
    /// The replay ends here. `None`: all decisions are the recorded ones.
    pub difference: Option<Difference>,
}

/// The first look that is decided otherwise than recorded.
#[derive(Clone, Debug, PartialEq)]
pub struct Difference {
    /// Counts from 1.
    pub line: usize,
    pub now_ms: u64,
    /// Which of its decisions, from 0.
    pub index: usize,
    /// `None`: there is one decision less on this side.
    pub recorded: Option<Decision>,
    pub decided: Option<Decision>,
}

/// Decides all looks again.
///
/// # Errors
/// For a line that is none of a log; a difference is no error.
pub fn replay<T: AsRef<str>>(lines: impl IntoIterator<Item = T>) -> Result<Report, LogError> {
    let mut report = Report::default();
    let mut cut = false;
    let mut player = Player::default();
    for entry in entries(lines, &mut cut) {
        let (line, entry) = entry?;
        let Some(played) = player.play(line, entry)? else { continue };
        report.looks += 1;
        report.episodes += usize::from(played.begins);
        report.decisions += played.recorded.len();
        if played.recorded != played.decided {
            report.difference = Some(first_difference(played));
            break;
        }
    }
    report.cut = cut;
    Ok(report)
}

fn first_difference(played: Played) -> Difference {
    let Played { line, now_ms, recorded, decided, .. } = played;
    let same = recorded.iter().zip(&decided).take_while(|(a, b)| a == b).count();
    Difference {
        line,
        now_ms,
        index: same,
        recorded: recorded.into_iter().nth(same),
        decided: decided.into_iter().nth(same),
    }
}

/// Policy and state as they were at a line.
#[derive(Default)]
pub(super) struct Player {
    pub policy: Option<Policy>,
    pub state: Option<State>,
}

/// One look, recorded and decided again.
pub(super) struct Played {
    pub line: usize,
    pub now_ms: u64,
    pub begins: bool,
    pub before: State,
    pub rates: crate::rates::Rates,
    pub recorded: Vec<Decision>,
    pub decided: Vec<Decision>,
}

impl Player {
    /// `None` for a line that is no look.
    pub fn play(&mut self, line: usize, entry: Entry) -> Result<Option<Played>, LogError> {
        let look = match entry {
            Entry::Head(head) => {
                self.policy = Some(head.policy.into_owned());
                return Ok(None);
            }
            Entry::Refused(refused) => {
                if let Some(state) = &mut self.state {
                    state.refuse(&refused.container, &refused.actuator, refused.until_ms);
                }
                return Ok(None);
            }
            Entry::Look(look) => *look,
        };
        let policy = self.policy.as_ref().ok_or(LogError::NoHead { line })?;
        let begins = look.state.is_some();
        let before = look.state.map(|state| state.into_owned()).or_else(|| self.state.take());
        let before = before.ok_or(LogError::NoState { line })?;
        let (after, decided) = decide(policy, &before, &look.rates, look.now_ms);
        self.state = Some(after);
        Ok(Some(Played {
            line,
            now_ms: look.now_ms,
            begins,
            before,
            rates: look.rates.into_owned(),
            recorded: look.decisions.into_owned(),
            decided,
        }))
    }
}
