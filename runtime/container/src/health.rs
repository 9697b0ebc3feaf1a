//! Health checks: what is to be run how often, and what its results mean. Pure.
//!
//! Owns the wish (as images and Docker's API write it), its merge with the image's, and the
//! state machine. The engine runs the probes and knows the time.
//!
//! ```text
//!             probe succeeds                 probe succeeds
//! starting ───────────────────▶ healthy ◀──────────────────── unhealthy
//!     │                            │                              ▲
//!     │ RETRIES failures in a row, │ RETRIES failures in a row    │
//!     │ those of the start period  └──────────────────────────────┤
//!     └── not counted ────────────────────────────────────────────┘
//! ```

use std::{collections::VecDeque, time::Duration};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Results that are kept.
pub const LOG: usize = 5;
/// Of one probe's output.
pub const MOST_OUTPUT_BYTES: usize = 4096;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(30);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
const DEFAULT_START_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_RETRIES: u32 = 3;
/// Docker's.
const SHORTEST: Duration = Duration::from_millis(1);

/// As an image's `config.Healthcheck` says it. Nothing, or 0, is the image's or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthWish {
    /// `[]`: the image's; `["NONE"]`: none; `["CMD", …]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// Nanoseconds, like the others.
    pub interval: i64,
    pub timeout: i64,
    pub start_period: i64,
    pub start_interval: i64,
    pub retries: i64,
}

/// What is run, and how its failures count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    pub args: Vec<String>,
    pub interval: Duration,
    pub timeout: Duration,
    /// After the start, while failures do not count.
    pub start_period: Duration,
    /// Between probes in that time.
    pub start_interval: Duration,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
}

/// The wish over the image's. `None`: there is no check.
///
/// # Errors
/// [`Error::Invalid`] for a test of an unknown kind, and times that are none.
pub fn resolve(
    own: Option<&HealthWish>,
    image: Option<&HealthWish>,
) -> Result<Option<HealthCheck>, Error> {
    let nothing = HealthWish::default();
    let (own, image) = (own.unwrap_or(&nothing), image.unwrap_or(&nothing));
    let test = if own.test.is_empty() { &image.test } else { &own.test };
    let refused = |value: &str| {
        let allowed = "NONE, CMD and a program with its arguments, or CMD-SHELL and one line";
        Error::invalid("health.test", value, allowed)
    };
    let args = match test.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        [] | ["NONE"] => return Ok(None),
        ["CMD", args @ ..] if args.first().is_some_and(|program| !program.is_empty()) => {
            args.iter().map(ToString::to_string).collect()
        }
        ["CMD-SHELL", line] if !line.is_empty() => {
            vec!["/bin/sh".to_owned(), "-c".to_owned(), (*line).to_owned()]
        }
        other => return Err(refused(&other.join(" "))),
    };
    let time = |field: &str, own: i64, image: i64, default: Duration| {
        let ns = if own == 0 { image } else { own };
        match u64::try_from(ns).map(Duration::from_nanos) {
            Ok(time) if time.is_zero() => Ok(default),
            Ok(time) if time >= SHORTEST => Ok(time),
            _ => Err(Error::invalid(field, ns, "0 (the default), or 1 ms or more, in nanoseconds")),
        }
    };
    let retries = if own.retries == 0 { image.retries } else { own.retries };
    let retries = match u32::try_from(retries) {
        Ok(0) => DEFAULT_RETRIES,
        Ok(retries) => retries,
        Err(_) => return Err(Error::invalid("health.retries", retries, "0 (the default) or more")),
    };
    Ok(Some(HealthCheck {
        args,
        interval: time("health.interval", own.interval, image.interval, DEFAULT_INTERVAL)?,
        timeout: time("health.timeout", own.timeout, image.timeout, DEFAULT_TIMEOUT)?,
        start_period: time(
            "health.start_period",
            own.start_period,
            image.start_period,
            Duration::ZERO,
        )?,
        start_interval: time(
            "health.start_interval",
            own.start_interval,
            image.start_interval,
            DEFAULT_START_INTERVAL,
        )?,
        retries,
    }))
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    #[default]
    Starting,
    Healthy,
    Unhealthy,
}

impl HealthStatus {
    /// Docker's word.
    pub fn as_str(self) -> &'static str {
        match self {
            HealthStatus::Starting => "starting",
            HealthStatus::Healthy => "healthy",
            HealthStatus::Unhealthy => "unhealthy",
        }
    }
}

/// One run of the check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    pub started_unix_ns: u64,
    pub ended_unix_ns: u64,
    /// -1: it took too long, or could not be run.
    pub code: i32,
    /// Standard output and error, at most [`MOST_OUTPUT_BYTES`].
    pub output: String,
}

/// What is known of one run of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Health {
    pub status: HealthStatus,
    pub failing_streak: u32,
    /// The last [`LOG`], the oldest first.
    pub log: VecDeque<Probe>,
}

impl Health {
    /// Takes a result in. `Some`: the status is another one now. `since_start` is when the probe
    /// began, from the container's start on.
    pub fn take(
        &mut self,
        check: &HealthCheck,
        probe: Probe,
        since_start: Duration,
    ) -> Option<HealthStatus> {
        let before = self.status;
        if probe.code == 0 {
            self.failing_streak = 0;
            self.status = HealthStatus::Healthy;
        } else if before != HealthStatus::Starting || since_start >= check.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= check.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        if self.log.len() >= LOG {
            self.log.pop_front();
        }
        self.log.push_back(probe);
        (self.status != before).then_some(self.status)
    }

    /// How long to wait for the next probe.
    pub fn pause(&self, check: &HealthCheck, since_start: Duration) -> Duration {
        let begins = self.status == HealthStatus::Starting && since_start < check.start_period;
        if begins { check.start_interval } else { check.interval }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn wish(test: &[&str]) -> HealthWish {
        let test = test.iter().map(ToString::to_string).collect();
        HealthWish { test, ..HealthWish::default() }
    }

    fn check_of(own: HealthWish) -> HealthCheck {
        resolve(Some(&own), None).unwrap().unwrap()
    }

    fn probe(code: i32) -> Probe {
        Probe { started_unix_ns: 1, ended_unix_ns: 2, code, output: String::new() }
    }

    #[test]
    fn what_the_user_leaves_out_is_the_images_and_else_the_default() {
        let image =
            HealthWish { interval: 7 * SECOND, retries: 5, ..wish(&["CMD", "/probe", "x"]) };
        let own = HealthWish { timeout: 2 * SECOND, retries: 1, ..HealthWish::default() };
        let check = resolve(Some(&own), Some(&image)).unwrap().unwrap();
        assert_eq!(check.args, ["/probe", "x"]);
        assert_eq!(check.interval, Duration::from_secs(7));
        assert_eq!(check.timeout, Duration::from_secs(2));
        assert_eq!(check.retries, 1);
        assert_eq!(
            (check.start_period, check.start_interval),
            (Duration::ZERO, Duration::from_secs(5))
        );
        let shell = check_of(wish(&["CMD-SHELL", "test -f /x"]));
        assert_eq!(shell.args, ["/bin/sh", "-c", "test -f /x"]);
        assert_eq!((shell.interval, shell.retries), (Duration::from_secs(30), 3));
    }

    #[test]
    fn there_may_be_no_check() {
        assert_eq!(resolve(None, None).unwrap(), None);
        let image = wish(&["CMD", "/probe"]);
        assert_eq!(resolve(Some(&wish(&["NONE"])), Some(&image)).unwrap(), None);
        assert_eq!(resolve(None, Some(&wish(&["NONE"]))).unwrap(), None);
        assert!(resolve(None, Some(&image)).unwrap().is_some());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |own: HealthWish, field: &str| match resolve(Some(&own), None) {
            Err(Error::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        };
        for test in [&["CMD"][..], &["CMD", ""], &["CMD-SHELL"], &["CMD-SHELL", "a", "b"], &["x"]] {
            check(wish(test), "health.test");
        }
        check(HealthWish { interval: -1, ..wish(&["CMD", "x"]) }, "health.interval");
        check(HealthWish { timeout: 10, ..wish(&["CMD", "x"]) }, "health.timeout");
        check(HealthWish { retries: -2, ..wish(&["CMD", "x"]) }, "health.retries");
    }

    #[test]
    fn it_becomes_unhealthy_after_so_many_failures_in_a_row() {
        let check = check_of(HealthWish { retries: 2, ..wish(&["CMD", "x"]) });
        let mut health = Health::default();
        let mut take = |code| health.take(&check, probe(code), Duration::from_secs(1));
        assert_eq!(take(1), None);
        assert_eq!(take(0), Some(HealthStatus::Healthy));
        assert_eq!(take(1), None);
        assert_eq!(take(0), None);
        assert_eq!(take(1), None);
        assert_eq!(take(-1), Some(HealthStatus::Unhealthy));
        assert_eq!(take(1), None);
        assert_eq!(take(0), Some(HealthStatus::Healthy));
        assert_eq!(health.failing_streak, 0);
    }

    #[test]
    fn failures_of_the_start_period_do_not_count_until_it_was_healthy() {
        let wish = HealthWish { retries: 1, start_period: 10 * SECOND, ..wish(&["CMD", "x"]) };
        let check = check_of(wish);
        let at = Duration::from_secs;
        let mut health = Health::default();
        assert_eq!(health.take(&check, probe(1), at(3)), None);
        assert_eq!((health.failing_streak, health.pause(&check, at(3))), (0, at(5)));
        assert_eq!(health.take(&check, probe(1), at(11)), Some(HealthStatus::Unhealthy));
        let mut health = Health::default();
        health.take(&check, probe(0), at(1));
        assert_eq!(health.pause(&check, at(2)), at(30));
        assert_eq!(health.take(&check, probe(1), at(2)), Some(HealthStatus::Unhealthy));
    }

    #[test]
    fn the_last_five_results_are_kept() {
        let check = check_of(wish(&["CMD", "x"]));
        let mut health = Health::default();
        for code in 0..7 {
            health.take(&check, probe(code), Duration::ZERO);
        }
        let codes: Vec<i32> = health.log.iter().map(|probe| probe.code).collect();
        assert_eq!(codes, [2, 3, 4, 5, 6]);
    }
}
