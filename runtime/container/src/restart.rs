//! Whether and when a container starts again after it ended.
//!
//! Owns the policies and two pure decisions; the engine keeps the history and
//! the timers. Semantics are Docker's (`docs.docker.com/engine/containers/
//! start-containers-automatically`), with one addition: an OOM kill is a failure
//! whatever the exit code says.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{error::Error, state::State};

pub const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
pub const LONGEST_BACK_OFF: Duration = Duration::from_secs(60);
/// A container that ran this long starts its next back-off from the beginning.
pub const SETTLED_AFTER: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum RestartPolicy {
    #[default]
    No,
    /// After a failure; `None` is without a bound on the number of restarts.
    OnFailure {
        max_restarts: Option<u32>,
    },
    Always,
    UnlessStopped,
}

const ALLOWED: &str = "no, on-failure[:number], always, unless-stopped";

impl FromStr for RestartPolicy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "" | "no" => Ok(Self::No),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            "on-failure" => Ok(Self::OnFailure { max_restarts: None }),
            _ => {
                let number = text.strip_prefix("on-failure:").and_then(|n| n.parse().ok());
                let max_restarts =
                    number.ok_or_else(|| Error::invalid("restart policy", text, ALLOWED))?;
                // Docker reads 0 as "no bound".
                Ok(Self::OnFailure { max_restarts: (max_restarts != 0).then_some(max_restarts) })
            }
        }
    }
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max_restarts: None } => f.write_str("on-failure"),
            Self::OnFailure { max_restarts: Some(n) } => write!(f, "on-failure:{n}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl TryFrom<String> for RestartPolicy {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<RestartPolicy> for String {
    fn from(policy: RestartPolicy) -> Self {
        policy.to_string()
    }
}

/// What is remembered between two ends of the same container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Restarts by policy since the last start by a user.
    pub restarts: u32,
    /// The wait before the last restart; zero before the first.
    pub last_back_off: Duration,
    /// How long the run that just ended took; zero for a start that failed.
    pub ran_for: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub code: i32,
    pub oom_killed: bool,
}

impl Ending {
    pub fn is_failure(self) -> bool {
        self.code != 0 || self.oom_killed
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RestartDecision {
    Restart { after: Duration },
    Stay,
}

/// What to do with a container that just ended.
pub fn decide_restart(
    policy: RestartPolicy,
    history: History,
    ending: Ending,
    stopped_by_user: bool,
) -> RestartDecision {
    if stopped_by_user {
        return RestartDecision::Stay;
    }
    let wanted = match policy {
        RestartPolicy::No => false,
        RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        RestartPolicy::OnFailure { max_restarts } => {
            ending.is_failure() && max_restarts.is_none_or(|max| history.restarts < max)
        }
    };
    if !wanted {
        return RestartDecision::Stay;
    }
    let after = if history.last_back_off.is_zero() || history.ran_for >= SETTLED_AFTER {
        FIRST_BACK_OFF
    } else {
        (history.last_back_off * 2).min(LONGEST_BACK_OFF)
    };
    RestartDecision::Restart { after }
}

/// What to do, when the engine opens, with a container that does not run: it may
/// have been waiting for a restart, or the whole machine was off meanwhile.
pub fn decide_at_open(
    policy: RestartPolicy,
    state: State,
    restarts: u32,
    stopped_by_user: bool,
) -> RestartDecision {
    let wanted = match (policy, state) {
        (_, State::Created | State::Dead | State::Running) => false,
        (RestartPolicy::No, _) => false,
        // Docker starts it again with the daemon even if a user stopped it.
        (RestartPolicy::Always, _) => true,
        (RestartPolicy::UnlessStopped, _) => !stopped_by_user,
        (RestartPolicy::OnFailure { max_restarts }, State::Restarting) => {
            !stopped_by_user && max_restarts.is_none_or(|max| restarts < max)
        }
        (RestartPolicy::OnFailure { .. }, State::Exited) => false,
    };
    if wanted { RestartDecision::Restart { after: Duration::ZERO } } else { RestartDecision::Stay }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FAILED: Ending = Ending { code: 3, oom_killed: false };
    const CLEAN: Ending = Ending { code: 0, oom_killed: false };
    const OOM_WITH_CODE_0: Ending = Ending { code: 0, oom_killed: true };

    fn history(restarts: u32, back_off_ms: u64, ran_s: u64) -> History {
        History {
            restarts,
            last_back_off: Duration::from_millis(back_off_ms),
            ran_for: Duration::from_secs(ran_s),
        }
    }

    #[test]
    fn policies_decide_as_dockers_do() {
        use RestartPolicy::*;
        let check = |policy, history, ending, stopped, after_ms: Option<u64>| {
            let expected = after_ms.map_or(RestartDecision::Stay, |ms| RestartDecision::Restart {
                after: Duration::from_millis(ms),
            });
            let decided = decide_restart(policy, history, ending, stopped);
            assert_eq!(decided, expected, "{policy} {history:?} {ending:?} stopped {stopped}");
        };
        let fresh = history(0, 0, 0);
        let thrice = OnFailure { max_restarts: Some(3) };
        check(No, fresh, FAILED, false, None);
        check(Always, fresh, CLEAN, false, Some(100));
        check(Always, fresh, CLEAN, true, None);
        check(UnlessStopped, fresh, FAILED, false, Some(100));
        check(UnlessStopped, fresh, FAILED, true, None);
        check(thrice, fresh, CLEAN, false, None);
        check(thrice, fresh, OOM_WITH_CODE_0, false, Some(100));
        check(thrice, history(2, 200, 0), FAILED, false, Some(400));
        check(thrice, history(3, 400, 0), FAILED, false, None);
        check(Always, history(9, 51_200, 9), FAILED, false, Some(60_000));
        check(Always, history(9, 60_000, 10), FAILED, false, Some(100));
    }

    #[test]
    fn opening_revives_what_a_user_did_not_stop() {
        use RestartPolicy::*;
        let restart = RestartDecision::Restart { after: Duration::ZERO };
        let stay = RestartDecision::Stay;
        let on_failure = OnFailure { max_restarts: Some(2) };
        for (policy, state, restarts, stopped, expected) in [
            (Always, State::Exited, 0, true, restart),
            (UnlessStopped, State::Exited, 0, true, stay),
            (UnlessStopped, State::Exited, 0, false, restart),
            (on_failure, State::Restarting, 1, false, restart),
            (on_failure, State::Restarting, 2, false, stay),
            (on_failure, State::Exited, 0, false, stay),
            (Always, State::Created, 0, false, stay),
            (No, State::Restarting, 0, false, stay),
        ] {
            assert_eq!(decide_at_open(policy, state, restarts, stopped), expected, "{policy}");
        }
    }

    #[test]
    fn a_wrong_policy_names_what_is_allowed() {
        for text in ["On-Failure", "on-failure:", "on-failure:x", "never", "always:3"] {
            let error = text.parse::<RestartPolicy>().unwrap_err().to_string();
            assert!(error.contains("unless-stopped"), "{error}");
        }
    }

    proptest! {
        #[test]
        fn a_policy_parses_to_what_was_rendered(max in proptest::option::of(1u32..)) {
            let policy = RestartPolicy::OnFailure { max_restarts: max };
            prop_assert_eq!(policy.to_string().parse::<RestartPolicy>().unwrap(), policy);
        }

        #[test]
        fn a_wait_is_never_shorter_than_the_first_nor_longer_than_the_longest(
            restarts in 0u32..1000, back_off_ms in 0u64..100_000, ran_s in 0u64..100,
        ) {
            let history = history(restarts, back_off_ms, ran_s);
            let decided = decide_restart(RestartPolicy::Always, history, FAILED, false);
            let RestartDecision::Restart { after } = decided else { panic!("always restarts") };
            prop_assert!(after >= FIRST_BACK_OFF && after <= LONGEST_BACK_OFF || after == LONGEST_BACK_OFF
                || back_off_ms < 50);
        }
    }
}
