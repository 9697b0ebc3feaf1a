//! What is wrong with rule files: all of it, each with its place.

use std::fmt;

/// More are counted, not kept.
const MOST: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    /// From 1, like the column, which counts characters.
    pub line: usize,
    pub column: usize,
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.reason)
    }
}

/// Everything that is wrong, by file and line.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
pub struct Problems {
    pub list: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, problem) in self.list.iter().enumerate() {
            let newline = if at > 0 { "\n" } else { "" };
            write!(f, "{newline}{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// A byte of one of the files that are read together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub file: usize,
    pub offset: usize,
}

/// Collects what is wrong while files are read.
#[derive(Debug)]
pub(crate) struct Findings {
    found: Vec<(Place, String)>,
    more: usize,
}

impl Findings {
    pub fn new() -> Self {
        Self { found: Vec::new(), more: 0 }
    }

    pub fn add(&mut self, place: Place, reason: impl Into<String>) {
        let reason = reason.into();
        // A macro that is used twice is wrong once.
        if self.found.iter().any(|(at, known)| *at == place && *known == reason) {
            return;
        }
        match self.found.len() < MOST {
            true => self.found.push((place, reason)),
            false => self.more += 1,
        }
    }

    /// `Ok` if nothing was wrong.
    pub fn finish(mut self, sources: &[crate::Source<'_>]) -> Result<(), Problems> {
        if self.found.is_empty() {
            return Ok(());
        }
        self.found.sort_by_key(|(place, _)| (place.file, place.offset));
        let list = self.found.into_iter().map(|(place, reason)| {
            let source = &sources[place.file];
            let (line, column) = line_and_column(source.text, place.offset);
            Problem { file: source.name.to_owned(), line, column, reason }
        });
        Err(Problems { list: list.collect(), more: self.more })
    }
}

/// Both from 1; the column counts characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let mut offset = offset.min(text.len());
    while !text.is_char_boundary(offset) {
        offset -= 1;
    }
    let before = &text[..offset];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::line_and_column;

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_and_column("ä = 1\nöü = 2", 0), (1, 1));
        assert_eq!(line_and_column("ä = 1\nöü = 2", 2), (1, 2));
        assert_eq!(line_and_column("ä = 1\nöü = 2", 11), (2, 3));
        assert_eq!(line_and_column("a", 99), (1, 2));
    }
}
