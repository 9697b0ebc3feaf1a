//! Sizes and lengths of time as Compose writes them.

/// `64m`, `1.5gb`, `512k` or bytes: units of 1024.
pub fn bytes(text: &str) -> Option<i64> {
    let text = text.trim().to_ascii_lowercase();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let factor: u64 = match unit.trim() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        "t" | "tb" | "tib" => 1 << 40,
        _ => return None,
    };
    let bytes = match number.parse::<u64>() {
        Ok(number) => number.checked_mul(factor)?,
        Err(_) => (number.parse::<f64>().ok()? * factor as f64) as u64,
    };
    i64::try_from(bytes).ok()
}

/// `1h30m`, `2.5s`, `500ms`, `10us`: in nanoseconds.
pub fn duration_ns(text: &str) -> Option<i64> {
    let mut rest = text.trim();
    let mut sum = 0_f64;
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit_ns = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[end..];
        sum += number * unit_ns;
    }
    (sum < i64::MAX as f64).then_some(sum as i64)
}

pub const BYTES: &str = "a size such as 64m, 1g or 4096 (bytes)";
pub const DURATION: &str = "a time such as 90s, 1m30s or 500ms";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        let check = |text, expected| assert_eq!(bytes(text), expected, "{text}");
        check("4096", Some(4096));
        check("64m", Some(64 << 20));
        check("1.5 GB", Some(3 << 29));
        check("2KiB", Some(2048));
        for wrong in ["", "m", "1x", "-1", "99999999t", "1.2.3"] {
            check(wrong, None);
        }
    }

    #[test]
    fn times_are_read() {
        let check = |text, expected| assert_eq!(duration_ns(text), expected, "{text}");
        check("1m30s", Some(90_000_000_000));
        check("2.5s", Some(2_500_000_000));
        check("500ms", Some(500_000_000));
        check("0", Some(0));
        for wrong in ["", "5", "s", "1d", "-1s", "99999999999h"] {
            check(wrong, None);
        }
    }
}
