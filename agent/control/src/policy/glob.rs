//! Patterns of names and images: `*` is any text, `?` any character, the rest is literal.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Glob(String);

impl Glob {
    pub fn new(pattern: impl Into<String>) -> Glob {
        Glob(pattern.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole text fits. Without recursion: where the text after a star does not
    /// fit, that star takes one character more, and earlier stars need not move.
    pub fn matches(&self, text: &str) -> bool {
        let (pattern, text) = (self.0.as_bytes(), text.as_bytes());
        let (mut at, mut read) = (0, 0);
        // Behind the last star, and the end of what that star takes.
        let mut star = None;
        while read < text.len() {
            match pattern.get(at) {
                Some(b'*') => {
                    at += 1;
                    star = Some((at, read));
                }
                Some(b'?') => {
                    at += 1;
                    read = next_char(text, read);
                }
                Some(byte) if *byte == text[read] => {
                    at += 1;
                    read += 1;
                }
                _ => {
                    let Some((behind, taken)) = star else { return false };
                    let taken = next_char(text, taken);
                    star = Some((behind, taken));
                    (at, read) = (behind, taken);
                }
            }
        }
        pattern[at..].iter().all(|byte| *byte == b'*')
    }
}

/// Where the character that begins at `at` ends.
fn next_char(text: &[u8], at: usize) -> usize {
    let continues = |byte: &&u8| **byte & 0xc0 == 0x80;
    at + 1 + text[at + 1..].iter().take_while(continues).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(Glob::new(pattern).matches(text), expected, "{pattern} on {text}");
    }

    #[test]
    fn a_star_is_any_text_and_a_question_mark_one_character() {
        check("", "", true);
        check("", "a", false);
        check("web", "web", true);
        check("web", "web2", false);
        check("web", "we", false);
        check("web-*", "web-1", true);
        check("web-*", "web-", true);
        check("web-*", "a-web-1", false);
        check("*-batch", "night-batch", true);
        check("*-batch", "night-batch-2", false);
        check("*a*b*", "xxaxxaxb", true);
        check("*a*b*", "xxbxxa", false);
        check("*ab", "aab", true);
        check("?b", "äb", true);
        check("?", "", false);
        check("*??", "ä", false);
        check("*?ß", "äöß", true);
        check("*", "", true);
        check("**", "x", true);
        check("ghcr.io/*/worker:*", "ghcr.io/a/b/worker:1.2", true);
        check("a.c", "abc", false);
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = Glob::new("*a".repeat(32) + "b");
        assert!(!pattern.matches(&"a".repeat(4096)));
    }
}
