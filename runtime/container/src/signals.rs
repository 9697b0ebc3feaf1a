//! Signals by name or number, as images and people write them.
//!
//! Owns the pure parser; used by stop signals and `kill`.

use crate::error::Error;

const NAMES: [(&str, i32); 31] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("PWR", 30),
    ("SYS", 31),
];
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

pub const SIGTERM: i32 = 15;
pub const SIGKILL: i32 = 9;

/// `TERM`, `SIGTERM`, `15`, `RTMIN+3`, in upper or lower case.
pub fn parse_signal(field: &str, text: &str) -> Result<i32, Error> {
    let refused = || Error::invalid(field, text, "a signal's name such as SIGTERM, or 1 to 64");
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=RTMAX).contains(&number) { Ok(number) } else { Err(refused()) };
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |rest: &str| match rest.strip_prefix(['+', '-']) {
        _ if rest.is_empty() => Some(0),
        signed => signed?.parse().ok(),
    };
    let number = if let Some(rest) = name.strip_prefix("RTMIN").filter(|r| !r.starts_with('-')) {
        offset(rest).map(|n: i32| RTMIN.saturating_add(n))
    } else if let Some(rest) = name.strip_prefix("RTMAX").filter(|r| !r.starts_with('+')) {
        offset(rest).map(|n: i32| RTMAX.saturating_sub(n))
    } else {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
    };
    number.filter(|n| (1..=RTMAX).contains(n)).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        let check = |text: &str, expected: Option<i32>| {
            assert_eq!(parse_signal("signal", text).ok(), expected, "{text:?}");
        };
        check("SIGTERM", Some(15));
        check("kill", Some(9));
        check("9", Some(9));
        check("SIGRTMIN+3", Some(37));
        check("RTMAX-1", Some(63));
        check("RTMIN", Some(34));
        for wrong in ["0", "65", "-1", "SIGSIG", "", "RTMIN+40", "RTMIN-1", "RTMIN+é", "RTMINé"] {
            check(wrong, None);
        }
    }
}
