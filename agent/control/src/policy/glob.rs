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

    /// Whether the whole text fits. Linear in the text for each `*`, without recursion: a
    /// star that took too little takes one character more, and earlier stars need not move.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        let mut retry = None;
        loop {
            let text_before = rest.clone();
            match (pattern.next(), rest.next()) {
                (None, None) => return true,
                (Some('*'), _) => {
                    rest = text_before;
                    retry = Some((pattern.clone(), rest.clone()));
                }
                (Some('?'), Some(_)) => {}
                (Some(wanted), Some(found)) if wanted == found => {}
                _ => {
                    let Some((after_star, mut taken)) = retry.take() else { return false };
                    if taken.next().is_none() {
                        return false;
                    }
                    retry = Some((after_star.clone(), taken.clone()));
                    (pattern, rest) = (after_star, taken);
                }
            }
        }
    }
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
