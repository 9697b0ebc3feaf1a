//! `*` is any number of characters, `/` among them; `?` is one byte. Nothing else is special.

/// Takes time in proportion to both lengths at most: no pattern explodes.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    // Where the last `*` stands, and how far it reaches for now.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == text[t] => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    p = at + 1;
                    t = reach + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_byte() {
        let check = |pattern: &str, text: &str, expected: bool| {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        };
        check("/home/*/.ssh/id_*", "/home/me/.ssh/id_rsa", true);
        check("/home/*/.ssh/id_*", "/home/a/b/.ssh/id_", true);
        check("/home/*/.ssh/id_*", "/home/.ssh/id_rsa", false);
        check("*", "", true);
        check("", "", true);
        check("", "x", false);
        check("a?c", "abc", true);
        check("a?c", "ac", false);
        check("*a*b", "xxaxxbxxb", true);
        check("*a*b", "xxaxxbxxbc", false);
    }
}
