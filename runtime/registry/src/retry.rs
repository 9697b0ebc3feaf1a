//! Whether a failure may pass, and how long to wait before it is tried again. Pure.

use std::time::{Duration, SystemTime};

use hyper::StatusCode;

use crate::error::Error;

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// A registry that wants us to wait longer is not waited for.
pub(crate) const MOST_WAIT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) enum Verdict {
    /// Try again after this.
    After(Duration),
    /// It was tried as often as allowed.
    Exhausted(Error),
    GiveUp(Error),
}

/// What to do after this many attempts failed, the last one with `error`. `reached`: whether the
/// registry ever answered; who cannot be reached at all is not tried for long.
pub(crate) fn decide(error: Error, attempts: u32, allowed: u32, reached: bool) -> Verdict {
    let asked = match &error {
        Error::Status { status, wait, .. } if is_passing(*status) => *wait,
        Error::Connect { .. } | Error::Late { .. } if reached => None,
        Error::Stalled { .. } | Error::Broken { .. } | Error::Sending { .. } => None,
        _ => return Verdict::GiveUp(error),
    };
    if attempts >= allowed {
        return Verdict::Exhausted(error);
    }
    match (asked, error) {
        (Some(asked), Error::Status { address, .. }) if asked > MOST_WAIT => {
            Verdict::GiveUp(Error::Wait { address, asked, allowed: MOST_WAIT })
        }
        (Some(asked), _) => Verdict::After(asked),
        (None, _) => {
            let doubled = FIRST_PAUSE * 2u32.saturating_pow(attempts.saturating_sub(1).min(10));
            Verdict::After(doubled.min(LONGEST_PAUSE))
        }
    }
}

fn is_passing(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
        || (status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED)
}

/// `Retry-After`: seconds, or a date as HTTP writes it.
pub(crate) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let seconds = seconds_of(text.trim())?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    Some(Duration::from_secs(seconds.saturating_sub(now)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be sent.
pub(crate) fn seconds_of(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split([' ', ':']).filter(|part| !part.is_empty()).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = parts[..] else { return None };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    let number = |text: &str, least: u64, most: u64| {
        text.parse::<u64>().ok().filter(|number| (least..=most).contains(number))
    };
    let year = number(year, 1970, 9999)?;
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let before = |year: u64| year / 4 - year / 100 + year / 400;
    const DAYS: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_day = u64::from(month > 1 && is_leap(year));
    let days = (year - 1970) * 365 + before(year - 1) - before(1969)
        + DAYS[month as usize]
        + leap_day
        + number(day, 1, 31)?
        - 1;
    let time = number(hour, 0, 23)? * 3600 + number(minute, 0, 59)? * 60 + number(second, 0, 60)?;
    Some(days * 86_400 + time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16, wait: Option<u64>) -> Error {
        Error::Status {
            address: "https://r/v2/".into(),
            status: StatusCode::from_u16(code).unwrap(),
            detail: String::new(),
            wait: wait.map(Duration::from_secs),
        }
    }

    fn broken() -> Error {
        Error::Broken { what: "blob".into(), got: 1, expected: 2, source: None }
    }

    /// Milliseconds to wait, or what is told instead.
    #[track_caller]
    fn check(error: Error, attempts: u32, expected: Result<u128, &str>) {
        match (decide(error, attempts, 5, true), expected) {
            (Verdict::After(pause), Ok(expected)) => assert_eq!(pause.as_millis(), expected),
            (Verdict::GiveUp(error) | Verdict::Exhausted(error), Err(expected)) => {
                assert!(error.to_string().contains(expected), "{error}");
            }
            (verdict, expected) => panic!("{verdict:?}, not {expected:?}"),
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_end() {
        check(broken(), 1, Ok(500));
        check(broken(), 2, Ok(1000));
        check(broken(), 4, Ok(4000));
        check(broken(), 5, Err("broke off after 1 of 2"));
        assert!(matches!(decide(broken(), 5, 5, true), Verdict::Exhausted(_)));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        check(status(429, None), 1, Ok(500));
        check(status(503, Some(7)), 1, Ok(7000));
        check(status(503, Some(7)), 5, Err("503"));
        check(status(501, None), 1, Err("501"));
        check(status(400, None), 1, Err("400"));
        check(status(429, Some(3600)), 1, Err("asks to wait 3600 s, allowed are 60"));
        let denied = Error::Denied { registry: "r".into(), detail: String::new() };
        check(denied, 1, Err("login wanted"));
    }

    #[test]
    fn who_was_never_reached_is_not_tried_for_long() {
        let error = || Error::Connect { address: "r".into(), source: "refused".into() };
        assert!(matches!(decide(error(), 1, 5, false), Verdict::GiveUp(_)));
        assert!(matches!(decide(error(), 1, 5, true), Verdict::After(_)));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_700);
        let check = |text, expected: Option<u64>| {
            assert_eq!(retry_after(text, now), expected.map(Duration::from_secs), "{text}");
        };
        check("7", Some(7));
        check("Sun, 06 Nov 1994 08:49:37 GMT", Some(77));
        check("Sun, 06 Nov 1970 08:49:37 GMT", Some(0));
        check("soon", None);
        check("", None);
        check("Sun, 99 Nov 1994 08:49:37 GMT", None);
        assert_eq!(seconds_of("Tue, 29 Feb 2028 00:00:00 GMT"), Some(1_835_395_200));
        assert_eq!(seconds_of("Wed, 01 Mar 2028 00:00:00 GMT"), Some(1_835_481_600));
    }
}
