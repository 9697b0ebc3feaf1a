//! The states of a container and every move between them.
//!
//! Owns one enum and one pure table. It must not touch a container: the engine
//! asks [`next`] before it acts and refuses what the table does not hold.
//!
//! ```text
//!             start failed                    stop during back-off
//!               ┌──────┐                ┌──────────────────────────────┐
//!               ▼      │                │                              ▼
//!  create ──▶ created ─┴── start ──▶ running ── ended, no restart ──▶ exited
//!                                      │  ▲                            │
//!                    ended, will restart  │ start                      │ start
//!                                      ▼  │                            │
//!                                   restarting ── no more tries ───────┤
//!                                                                      │
//!      any state but running ── removal failed ──▶ dead          (to running)
//! ```
//! `dead` leads nowhere but to another attempt at removal.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Created,
    Running,
    /// Ended, and will be started again when its back-off has passed.
    Restarting,
    Exited,
    /// Removal failed half-way; only another removal is possible.
    Dead,
}

impl State {
    pub const ALL: [State; 5] =
        [State::Created, State::Running, State::Restarting, State::Exited, State::Dead];

    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Created => "created",
            State::Running => "running",
            State::Restarting => "restarting",
            State::Exited => "exited",
            State::Dead => "dead",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    /// The program runs.
    Started,
    /// A start failed and was undone; it will not be tried again.
    StartFailed,
    /// The program ended for good.
    Ended,
    /// The program ended, or a restart failed, and the policy wants another try.
    EndedToRestart,
    /// The user stopped it while it waited for its next start.
    RestartCancelled,
    RemovalFailed,
}

impl Happening {
    pub const ALL: [Happening; 6] = [
        Happening::Started,
        Happening::StartFailed,
        Happening::Ended,
        Happening::EndedToRestart,
        Happening::RestartCancelled,
        Happening::RemovalFailed,
    ];
}

/// The state after `happening`, or `None` where that cannot happen in `state`.
pub fn next(state: State, happening: Happening) -> Option<State> {
    use Happening as H;
    use State as S;
    match (state, happening) {
        (S::Created | S::Restarting | S::Exited, H::Started) => Some(S::Running),
        (S::Created, H::StartFailed) => Some(S::Created),
        (S::Restarting | S::Exited, H::StartFailed) => Some(S::Exited),
        (S::Running, H::Ended) => Some(S::Exited),
        (S::Running | S::Restarting, H::EndedToRestart) => Some(S::Restarting),
        (S::Restarting, H::RestartCancelled) => Some(S::Exited),
        (S::Created | S::Restarting | S::Exited | S::Dead, H::RemovalFailed) => Some(S::Dead),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_dead_but_another_failed_removal() {
        for happening in Happening::ALL {
            let expected = (happening == Happening::RemovalFailed).then_some(State::Dead);
            assert_eq!(next(State::Dead, happening), expected, "{happening:?}");
        }
    }

    #[test]
    fn only_an_end_leaves_running() {
        for happening in Happening::ALL {
            let expected = match happening {
                Happening::Ended => Some(State::Exited),
                Happening::EndedToRestart => Some(State::Restarting),
                _ => None,
            };
            assert_eq!(next(State::Running, happening), expected, "{happening:?}");
        }
    }

    #[test]
    fn every_state_can_be_reached_from_created() {
        let mut reached = vec![State::Created];
        let mut index = 0;
        while index < reached.len() {
            for happening in Happening::ALL {
                if let Some(state) = next(reached[index], happening)
                    && !reached.contains(&state)
                {
                    reached.push(state);
                }
            }
            index += 1;
        }
        assert_eq!(reached.len(), State::ALL.len(), "{reached:?}");
    }

    #[test]
    fn a_running_container_never_starts_again() {
        assert_eq!(next(State::Running, Happening::Started), None);
    }
}
