//! Go's `path.Match`, by which Docker compares names with `reference` filters. Pure.

/// `*` and `?` pass no slash; `[a-z]`, `[^a-z]` and `\` as in Go. A malformed pattern
/// fits nothing.
pub fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), text.chars().collect());
    // Where to go on if what follows the last `*` does not fit: (pattern, text).
    let mut back: Option<(usize, usize)> = None;
    let (mut p, mut t) = (0, 0);
    while t < text.len() {
        if pattern.get(p) == Some(&'*') {
            back = Some((p + 1, t));
            p += 1;
            continue;
        }
        if let Some(next) = one(&pattern, p, text[t]) {
            (p, t) = (next, t + 1);
            continue;
        }
        match back {
            Some((after, at)) if text[at] != '/' => {
                back = Some((after, at + 1));
                (p, t) = (after, at + 1);
            }
            _ => return false,
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// The pattern's position behind the one character that it fits.
fn one(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => (c != '/').then_some(at + 1),
        '\\' => (*pattern.get(at + 1)? == c).then_some(at + 2),
        '[' => {
            let end = at + 1 + pattern[at + 1..].iter().position(|c| *c == ']')?;
            let negated = pattern[at + 1] == '^';
            let class = &pattern[at + 1 + usize::from(negated)..end];
            (in_class(class, c) != negated).then_some(end + 1)
        }
        other => (*other == c).then_some(at + 1),
    }
}

fn in_class(class: &[char], c: char) -> bool {
    match class {
        [low, '-', high, rest @ ..] => (*low..=*high).contains(&c) || in_class(rest, c),
        [one, rest @ ..] => *one == c || in_class(rest, c),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_go() {
        let rows = [
            ("demo", "demo", true),
            ("de*", "demo:latest", true),
            ("*", "quay.io/demo", false),
            ("*/*", "quay.io/demo", true),
            ("*o*:v?", "demo:v1", true),
            ("*o*:v?", "demo:v12", false),
            ("demo:v[0-2]", "demo:v1", true),
            ("demo:v[^0-2]", "demo:v1", false),
            ("demo:v[", "demo:v1", false),
            ("a\\*", "a*", true),
            ("a*b*c", "aXbXXc", true),
            ("a*b*c", "aXcXXb", false),
            ("", "", true),
            ("", "a", false),
        ];
        for (pattern, text, expected) in rows {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }
}
