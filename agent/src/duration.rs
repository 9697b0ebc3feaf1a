//! Lengths of time as people type them.

use std::time::Duration;

/// `5s`, `500ms`, `1m` or a number of seconds. `None` if it is none, or below zero.
pub fn parse(text: &str) -> Option<Duration> {
    let (number, unit_s) = match text {
        _ if text.ends_with("ms") => (text.trim_end_matches("ms"), 0.001),
        _ if text.ends_with('s') => (text.trim_end_matches('s'), 1.0),
        _ if text.ends_with('m') => (text.trim_end_matches('m'), 60.0),
        _ => (text, 1.0),
    };
    let seconds = number.parse::<f64>().ok()? * unit_s;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_known_and_nonsense_is_not() {
        let check = |text, ms: Option<u64>| {
            assert_eq!(parse(text), ms.map(Duration::from_millis), "{text:?}");
        };
        check("5s", Some(5000));
        check("500ms", Some(500));
        check("1.5m", Some(90_000));
        check("7", Some(7000));
        for text in ["", "s", "1h", "-1s", "NaN", "inf", "ten"] {
            check(text, None);
        }
    }
}
