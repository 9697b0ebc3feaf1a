//! `.dockerignore`: which paths of a context are left out.
//!
//! Owns the file's rules, as moby's `patternmatcher` has them: the last pattern that fits
//! decides, `!` takes back, `**` is any number of directories, and what lies below a
//! directory that fits, fits. Pure. Called by the agent and the command line.

use crate::glob::{self, BadPattern};

const MOST_PATTERNS: usize = 10_000;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignore {
    patterns: Vec<Pattern>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern {
    negated: bool,
    parts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(".dockerignore line {line}: {source} `{pattern}`")]
    Pattern { line: usize, pattern: String, source: BadPattern },
    #[error(".dockerignore line {line}: illegal exclusion pattern: \"!\"")]
    Alone { line: usize },
    #[error(".dockerignore has {count} patterns, allowed are {MOST_PATTERNS}")]
    TooMany { count: usize },
}

impl Ignore {
    pub fn parse(text: &str) -> Result<Ignore, Error> {
        let mut patterns = Vec::new();
        for (index, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let text = line.trim();
            let (negated, rest) = match text.strip_prefix('!') {
                Some(rest) => (true, rest.trim()),
                None => (false, text),
            };
            if rest.is_empty() {
                return Err(Error::Alone { line: index + 1 });
            }
            let parts = clean(rest);
            for part in parts.iter().filter(|part| *part != "**") {
                glob::matches(part, "").map_err(|source| {
                    let pattern = text.to_owned();
                    Error::Pattern { line: index + 1, pattern, source }
                })?;
            }
            patterns.push(Pattern { negated, parts });
        }
        match patterns.len() {
            count if count > MOST_PATTERNS => Err(Error::TooMany { count }),
            _ => Ok(Ignore { patterns }),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether some pattern takes something back: then what is below a directory that is
    /// left out must be looked at all the same.
    pub fn has_exceptions(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.negated)
    }

    /// Whether a path, relative to the context and without `.` or `..`, is left out.
    pub fn excludes(&self, path: &str) -> bool {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let mut excluded = false;
        for pattern in &self.patterns {
            // It could change nothing.
            if pattern.negated != excluded {
                continue;
            }
            let pattern_parts: Vec<&str> = pattern.parts.iter().map(String::as_str).collect();
            // A pattern that fits a parent fits what is in it.
            if (1..=parts.len()).any(|end| fits(&pattern_parts, &parts[..end])) {
                excluded = !pattern.negated;
            }
        }
        excluded
    }
}

/// As Go's `filepath.Clean`, of a path below the root.
fn clean(path: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

fn fits(pattern: &[&str], path: &[&str]) -> bool {
    // Which beginnings of the path the pattern so far can be: no way is tried twice, so
    // that no pattern costs more than its length times the path's.
    let mut reached = vec![false; path.len() + 1];
    reached[0] = true;
    for (index, part) in pattern.iter().enumerate() {
        let mut next = vec![false; path.len() + 1];
        if *part == "**" {
            let is_last = index + 1 == pattern.len();
            let mut any = false;
            for (at, reachable) in reached.iter().enumerate() {
                // At the end it is at least one.
                next[at] = any || (*reachable && !is_last);
                any |= *reachable;
            }
        } else {
            for at in 0..path.len() {
                next[at + 1] = reached[at] && glob::matches(part, path[at]).unwrap_or(false);
            }
        }
        reached = next;
    }
    reached[path.len()] && !pattern.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, excluded: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(text).unwrap();
        for path in excluded {
            assert!(ignore.excludes(path), "{path} by {text:?}");
        }
        for path in kept {
            assert!(!ignore.excludes(path), "{path} by {text:?}");
        }
    }

    #[test]
    fn paths_are_left_out_as_docker_does() {
        check("", &[], &["a", "a/b"]);
        check("# note\n\nfoo\n", &["foo", "foo/bar"], &["a/foo", "food"]);
        check("*.md", &["README.md"], &["docs/a.md"]);
        check("*/temp*", &["a/temporary.txt", "a/temp/x"], &["temp", "a/b/temp"]);
        check("temp?", &["tempa"], &["temp", "tempab"]);
        check("**/*.go", &["a.go", "x/y/b.go"], &["a.goo"]);
        check("a/**", &["a/b", "a/b/c"], &["a", "b"]);
        check("**", &["a", "a/b"], &[]);
        check("a/**/z", &["a/z", "a/b/c/z"], &["z", "a/b"]);
        check("/a/", &["a", "a/b"], &["b/a"]);
        check("./a/../b", &["b"], &["a"]);
        check("*.md\n!README.md", &["x.md"], &["README.md"]);
        check("*\n!keep", &["a", "b/keep"], &["keep", "keep/inner"]);
        check("a\n!a/b\na/b/c", &["a/x", "a/b/c"], &["a/b", "a/b/d"]);
        check("!a", &[], &["a"]);
        check("[a-c]x", &["ax"], &["dx"]);
    }

    #[test]
    fn a_wrong_pattern_is_named_with_its_line() {
        let error = |text| Ignore::parse(text).unwrap_err().to_string();
        assert_eq!(error("a\n[x\n"), ".dockerignore line 2: syntax error in pattern `[x`");
        assert_eq!(error("!"), ".dockerignore line 1: illegal exclusion pattern: \"!\"");
    }

    #[test]
    fn many_stars_take_no_longer_than_few() {
        let pattern = "**/a/".repeat(200) + "b";
        let path = "a/".repeat(400) + "c";
        assert!(!Ignore::parse(&pattern).unwrap().excludes(&path));
    }
}
