//! `HEALTHCHECK`: its options, and durations as Go writes them.

use super::{Flags, command};
use crate::document::Healthcheck;
use crate::instruction::Command;

const NS_PER_MS: i64 = 1_000_000;

pub(super) fn parse(rest: &str, flags: &mut Flags) -> Result<Option<Healthcheck>, String> {
    let (kind, rest) = match rest.find(char::is_whitespace) {
        Some(at) => (&rest[..at], rest[at..].trim()),
        None => (rest, ""),
    };
    match kind.to_ascii_uppercase().as_str() {
        "" => Err("HEALTHCHECK requires at least one argument".into()),
        "NONE" if rest.is_empty() && flags.is_empty() => Ok(None),
        "NONE" => Err("HEALTHCHECK NONE takes no arguments".into()),
        "CMD" if rest.is_empty() => Err("Missing command after HEALTHCHECK CMD".into()),
        "CMD" => {
            let test = match command("HEALTHCHECK", rest)? {
                Command::Shell(text) => vec!["CMD-SHELL".to_owned(), text],
                Command::Exec(words) => [vec!["CMD".to_owned()], words].concat(),
            };
            let retries = match flags.value("retries")? {
                None => 0,
                Some(text) => match text.parse::<u32>() {
                    Ok(number) if number > 0 => number,
                    _ => return Err(format!("--retries must be at least 1 (not {text})")),
                },
            };
            Ok(Some(Healthcheck {
                test,
                interval: duration(flags, "interval")?,
                timeout: duration(flags, "timeout")?,
                start_period: duration(flags, "start-period")?,
                start_interval: duration(flags, "start-interval")?,
                retries,
            }))
        }
        _ => Err(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")),
    }
}

/// Nanoseconds; 0, the default, is what the field is when nobody names it.
fn duration(flags: &mut Flags, name: &str) -> Result<i64, String> {
    let Some(text) = flags.value(name)? else { return Ok(0) };
    match parse_duration(&text) {
        Some(0) => Ok(0),
        Some(ns) if ns >= NS_PER_MS => Ok(ns),
        Some(_) => Err(format!("Interval {name:?} cannot be less than 1ms")),
        None => Err(format!("invalid duration {text:?} of --{name}: allowed is such as 1m30s")),
    }
}

/// `1h2m3.5s`, `100ms`.
fn parse_duration(text: &str) -> Option<i64> {
    if text == "0" {
        return Some(0);
    }
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..unit_at].parse().ok()?;
        let unit_end = rest[unit_at..]
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .map_or(rest.len(), |at| unit_at + at);
        let scale = match &rest[unit_at..unit_end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        total += number * scale;
        rest = &rest[unit_end..];
    }
    (!text.is_empty() && total < 9e18).then_some(total as i64)
}

#[cfg(test)]
mod tests {
    use super::parse_duration;

    #[test]
    fn durations_are_gos() {
        let check = |text: &str, expected| assert_eq!(parse_duration(text), expected, "{text}");
        check("0", Some(0));
        check("30s", Some(30_000_000_000));
        check("1m30.5s", Some(90_500_000_000));
        check("100ms", Some(100_000_000));
        check("1h", Some(3_600_000_000_000));
        check("5", None);
        check("", None);
        check("s", None);
        check("1d", None);
        check("-1s", None);
    }
}
