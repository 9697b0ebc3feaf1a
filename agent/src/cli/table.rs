//! Plain-text tables and human-readable numbers.

/// Rows under a header, columns as wide as their widest cell. The last column is
/// not padded.
pub fn render(header: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = header.iter().map(|cell| cell.len()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = String::new();
    for row in std::iter::once(&header).chain(rows) {
        let cells: Vec<String> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.chars().count())))
            .collect();
        text.push_str(cells.join("   ").trim_end());
        text.push('\n');
    }
    text
}

/// `1.5 MiB`; powers of 1024.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{n} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// `850 ns`, `12.3 µs`, `4.5 ms`, `1.2 s`.
pub fn duration_ns(ns: u64) -> String {
    let value = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        _ => format!("{:.1} s", value / 1e9),
    }
}

/// `3 seconds`, `5 minutes`, … as `ps` says how long ago something was.
pub fn ago(seconds: i64) -> String {
    let (count, unit) = match seconds.max(0) {
        s @ 0..60 => (s, "second"),
        s @ 60..3_600 => (s / 60, "minute"),
        s @ 3_600..86_400 => (s / 3_600, "hour"),
        s => (s / 86_400, "day"),
    };
    if count == 1 { format!("1 {unit}") } else { format!("{count} {unit}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_do_not_trail() {
        let rows = [vec!["a".into(), "running".into()], vec!["longer".into(), String::new()]];
        assert_eq!(render(&["NAME", "STATE"], &rows), "NAME     STATE\na        running\nlonger\n");
    }

    #[test]
    fn numbers_read_as_people_say_them() {
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536 << 10), "1.5 MiB");
        assert_eq!(duration_ns(999), "999 ns");
        assert_eq!(duration_ns(12_300), "12.3 µs");
        assert_eq!(ago(1), "1 second");
        assert_eq!(ago(7200), "2 hours");
    }
}
