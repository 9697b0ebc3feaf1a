//! Values of a configuration: variables, ports, signals.
//!
//! Owns their forms. Pure.

/// The value of `name` in a list of `NAME=value`.
pub fn environment_of<'e>(env: &'e [String], name: &str) -> Option<&'e str> {
    let entry = |entry: &'e String| entry.split_once('=').filter(|(known, _)| *known == name);
    env.iter().find_map(entry).map(|(_, value)| value)
}

/// Replaces in place, so that the order stays.
pub(super) fn set_variable(env: &mut Vec<String>, name: &str, value: &str) -> Result<(), String> {
    if name.is_empty() {
        return Err("ENV names can not be blank".into());
    }
    let entry = format!("{name}={value}");
    let is_it = |known: &&mut String| known.split('=').next() == Some(name);
    match env.iter_mut().find(is_it) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
    Ok(())
}

/// `80`, `53/udp`, `8000-8002/tcp`.
pub(super) fn parse_ports(text: &str) -> Result<Vec<String>, String> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => {
            Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
        }
        _ => Err(format!("invalid containerPort: {text}")),
    }
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

pub(super) fn check_signal(text: &str) -> Result<(), String> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let by_number = text.parse::<u8>().is_ok_and(|number| (1..=64).contains(&number));
    let real_time = name.starts_with("RTMIN") || name.starts_with("RTMAX");
    match by_number || real_time || SIGNALS.contains(&name) {
        true => Ok(()),
        false => Err(format!("invalid signal: {text}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_or_ranges() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let ports = parse_ports(text).ok();
            let expected =
                expected.map(|list| list.iter().map(ToString::to_string).collect::<Vec<_>>());
            assert_eq!(ports, expected, "{text}");
        };
        check("80", Some(&["80/tcp"]));
        check("53/UDP", Some(&["53/udp"]));
        check("8000-8002", Some(&["8000/tcp", "8001/tcp", "8002/tcp"]));
        check("0", None);
        check("65536", None);
        check("9-8", None);
        check("80/icmp", None);
        check("80:80", None);
    }

    #[test]
    fn signals_are_names_or_numbers() {
        for right in ["SIGTERM", "term", "9", "SIGRTMIN+3"] {
            assert_eq!(check_signal(right), Ok(()), "{right}");
        }
        for wrong in ["", "0", "65", "SIGFLY"] {
            assert!(check_signal(wrong).is_err(), "{wrong}");
        }
    }
}
