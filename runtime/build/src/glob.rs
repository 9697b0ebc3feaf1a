//! Patterns as Go's `filepath.Match` has them, for one name without slashes.
//!
//! Owns `*`, `?`, `[a-z]`, `[^a-z]` and `\`. Pure. Called by [`crate::copy`] and
//! [`crate::ignore`].

/// A pattern that ends inside a class or an escape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("syntax error in pattern")]
pub struct BadPattern;

enum Piece {
    Any,
    One,
    Char(char),
    Class { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether a text is a pattern at all.
pub fn has_meta(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Whether the whole name fits.
///
/// # Errors
/// A malformed pattern, whatever the name.
pub fn matches(pattern: &str, name: &str) -> Result<bool, BadPattern> {
    let pieces = pieces(pattern)?;
    let name: Vec<char> = name.chars().collect();
    // The last star, and how much of the name it has swallowed: one step back suffices,
    // since an earlier star could only swallow what this one can.
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pieces.get(p) {
            Some(Piece::Any) => {
                star = Some((p, n));
                p += 1;
            }
            Some(piece) if fits(piece, name[n]) => {
                p += 1;
                n += 1;
            }
            _ => {
                let Some((at, swallowed)) = star else { return Ok(false) };
                star = Some((at, swallowed + 1));
                p = at + 1;
                n = swallowed + 1;
            }
        }
    }
    Ok(pieces[p..].iter().all(|piece| matches!(piece, Piece::Any)))
}

fn fits(piece: &Piece, c: char) -> bool {
    match piece {
        Piece::Any => false,
        Piece::One => true,
        Piece::Char(own) => *own == c,
        Piece::Class { negated, ranges } => {
            ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
        }
    }
}

fn pieces(pattern: &str) -> Result<Vec<Piece>, BadPattern> {
    let mut pieces = Vec::new();
    let mut chars = pattern.chars().peekable();
    while let Some(c) = chars.next() {
        pieces.push(match c {
            '*' => Piece::Any,
            '?' => Piece::One,
            '\\' => Piece::Char(chars.next().ok_or(BadPattern)?),
            '[' => {
                let negated = chars.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                loop {
                    if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
                        break;
                    }
                    let low = class_char(&mut chars)?;
                    let high = match chars.next_if_eq(&'-') {
                        Some(_) => class_char(&mut chars)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                Piece::Class { negated, ranges }
            }
            c => Piece::Char(c),
        });
    }
    Ok(pieces)
}

fn class_char(chars: &mut impl Iterator<Item = char>) -> Result<char, BadPattern> {
    match chars.next().ok_or(BadPattern)? {
        '\\' => chars.next().ok_or(BadPattern),
        '-' | ']' => Err(BadPattern),
        c => Ok(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of Go's own table (path/filepath `matchTests`), without slashes.
    #[test]
    fn patterns_are_gos() {
        let check = |pattern: &str, name: &str, expected| {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        };
        for (pattern, name, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*b*c*d*e*", "axbxcxdxe", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            (r"a\*b", "a*b", true),
            (r"a\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            (r"[\]a]", "]", true),
            (r"[x\-]", "-", true),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
        ] {
            check(pattern, name, Ok(expected));
        }
        for pattern in ["[]a]", "[-]", "[x-]", "[-x]", r"\", "[a-b-c]", "[", "[^", "[^bc", "a["] {
            check(pattern, "a", Err(BadPattern));
        }
    }

    proptest::proptest! {
        #[test]
        fn an_escaped_name_fits_itself_and_a_star_everything(name in "[a-z*?\\[\\]\\\\-]{0,12}") {
            let escaped: String = name.chars().flat_map(|c| ['\\', c]).collect();
            proptest::prop_assert_eq!(matches(&escaped, &name), Ok(true));
            proptest::prop_assert_eq!(matches("*", &name), Ok(true));
        }
    }
}
