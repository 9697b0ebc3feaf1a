//! Which files a `COPY` means, and where they go.
//!
//! Owns globs over a tree, the rules for several sources, and what a destination's last
//! slash says. Looks at a tree through [`Files`] and changes nothing. Called by the agent.

use std::io;

use crate::glob;
use crate::instruction::Copy;

/// A source tree (a context, or the root of a stage), seen from its top. Paths are
/// relative, without `.`, `..` and leading slash; the empty one is the top.
pub trait Files {
    /// `None` if there is nothing. Symlinks are followed, inside the tree.
    fn is_directory(&self, path: &str) -> io::Result<Option<bool>>;
    /// Names in a directory, in any order; such as are no UTF-8 fit no pattern and are
    /// left out.
    fn names(&self, path: &str) -> io::Result<Vec<String>>;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As [`Files`] takes it.
    pub path: String,
    pub is_directory: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Absolute, clean.
    pub path: String,
    /// It ends with a slash: a file goes into it, under its own name.
    pub is_directory: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "COPY failed: file not found in build context or excluded by .dockerignore: stat \
         {path}: file does not exist"
    )]
    NotInContext { path: String },
    #[error("COPY failed: stat {path}: file does not exist")]
    NotInStage { path: String },
    #[error("COPY failed: no source files were specified")]
    NoSources,
    #[error("COPY failed: forbidden path outside the build context: {path} ()")]
    Outside { path: String },
    #[error(
        "When using {name} with more than one source file, the destination must be a directory \
         and end with a /"
    )]
    NotDirectory { name: &'static str },
    #[error("COPY failed: {path}: syntax error in pattern")]
    Pattern { path: String },
    #[error("COPY failed: {path}")]
    Io { path: String, source: io::Error },
}

/// All sources of a `COPY` in a tree, patterns resolved, in their order.
///
/// # Errors
/// A source that is not there; a pattern that is malformed.
pub fn sources(copy: &Copy, files: &impl Files) -> Result<Vec<Source>, Error> {
    let mut found = Vec::new();
    for text in &copy.sources {
        let before = found.len();
        let path = match copy.from {
            None => clean(text).ok_or_else(|| Error::Outside { path: text.clone() })?,
            // `..` at the top of a root is the top.
            Some(_) => join("/", text).trim_start_matches('/').to_owned(),
        };
        search(&path, text, files, &mut found)?;
        if found.len() == before {
            // As Docker: a pattern may fit nothing as long as something else is copied.
            if glob::has_meta(text) {
                continue;
            }
            let path = text.trim_start_matches('/').to_owned();
            return Err(match copy.from {
                None => Error::NotInContext { path },
                Some(_) => Error::NotInStage { path },
            });
        }
    }
    if found.is_empty() && copy.heredocs.is_empty() {
        return Err(Error::NoSources);
    }
    Ok(found)
}

/// The destination below `working_dir`, and whether it must be a directory.
///
/// # Errors
/// Several sources for what is no directory.
pub fn destination(copy: &Copy, found: usize, working_dir: &str) -> Result<Destination, Error> {
    let text = &copy.destination;
    let is_directory = text.ends_with('/') || text == "." || text.ends_with("/.") || text == "..";
    let name = if copy.unpack { "ADD" } else { "COPY" };
    let several = found + copy.heredocs.len() > 1 || copy.sources.len() > 1;
    if several && !is_directory {
        return Err(Error::NotDirectory { name });
    }
    Ok(Destination { path: join(working_dir, text), is_directory })
}

/// An absolute, clean path: `text` seen from `base`, as Go's `filepath.Join` has it.
pub fn join(base: &str, text: &str) -> String {
    let whole = match text.starts_with('/') {
        true => text.to_owned(),
        false => format!("/{base}/{text}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Relative and clean; `None` if it climbs out.
fn clean(text: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    for part in text.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

fn search(
    path: &str,
    text: &str,
    files: &impl Files,
    found: &mut Vec<Source>,
) -> Result<(), Error> {
    if !glob::has_meta(path) {
        let is_directory = files.is_directory(path).map_err(at(path))?;
        found.extend(is_directory.map(|is_directory| Source { path: path.into(), is_directory }));
        return Ok(());
    }
    // One level after the other: no star crosses a slash.
    let mut level = vec![String::new()];
    for part in path.split('/') {
        let mut next = Vec::new();
        for dir in &level {
            let below = |name: &str| match dir.is_empty() {
                true => name.to_owned(),
                false => format!("{dir}/{name}"),
            };
            if !glob::has_meta(part) {
                let path = below(part);
                if files.is_directory(&path).map_err(at(&path))?.is_some() {
                    next.push(path);
                }
                continue;
            }
            if files.is_directory(dir).map_err(at(dir))? != Some(true) {
                continue;
            }
            for name in files.names(dir).map_err(at(dir))? {
                let fits = glob::matches(part, &name);
                if fits.map_err(|_| Error::Pattern { path: text.to_owned() })? {
                    next.push(below(&name));
                }
            }
        }
        level = next;
    }
    level.sort();
    for path in level {
        if let Some(is_directory) = files.is_directory(&path).map_err(at(&path))? {
            found.push(Source { path, is_directory });
        }
    }
    Ok(())
}

fn at(path: &str) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths; those that end with a slash are directories.
    struct Fake(&'static [&'static str]);

    impl Files for Fake {
        fn is_directory(&self, path: &str) -> io::Result<Option<bool>> {
            let is = |suffix: &str| self.0.iter().any(|known| *known == format!("{path}{suffix}"));
            Ok(if path.is_empty() || is("/") { Some(true) } else { is("").then_some(false) })
        }

        fn names(&self, dir: &str) -> io::Result<Vec<String>> {
            let prefix = if dir.is_empty() { String::new() } else { format!("{dir}/") };
            let names = self.0.iter().filter_map(|known| {
                let name = known.strip_prefix(&prefix)?.trim_end_matches('/');
                (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
            });
            Ok(names.collect())
        }
    }

    const TREE: Fake = Fake(&["b.txt", "a.txt", "src/", "src/x.c", "src/y.h", "lib/", "lib/z.c"]);

    fn copy(sources: &[&str], destination: &str) -> Copy {
        let sources = sources.iter().map(ToString::to_string).collect();
        Copy { sources, destination: destination.into(), ..Copy::default() }
    }

    #[test]
    fn sources_are_found_in_order() {
        let check = |list: &[&str], expected: &[&str]| {
            let found = sources(&copy(list, "/"), &TREE).unwrap();
            let paths: Vec<&str> = found.iter().map(|source| source.path.as_str()).collect();
            assert_eq!(paths, expected, "{list:?}");
        };
        check(&["b.txt", "a.txt"], &["b.txt", "a.txt"]);
        check(&["*.txt"], &["a.txt", "b.txt"]);
        check(&["*/*.c"], &["lib/z.c", "src/x.c"]);
        check(&["src/[xy].?"], &["src/x.c", "src/y.h"]);
        check(&["/src"], &["src"]);
        check(&["./src/../b.txt"], &["b.txt"]);
        check(&["."], &[""]);
        check(&["*"], &["a.txt", "b.txt", "lib", "src"]);
        check(&["nothing*", "a.txt"], &["a.txt"]);
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |source: &str, from: Option<&str>, expected: &str| {
            let copy = Copy { from: from.map(Into::into), ..copy(&[source], "/") };
            let error = sources(&copy, &TREE).unwrap_err().to_string();
            assert!(error.contains(expected), "{source}: {error}");
        };
        check("c.txt", None, "excluded by .dockerignore: stat c.txt: file does not exist");
        check("c.txt", Some("x"), "COPY failed: stat c.txt: file does not exist");
        check("../a.txt", None, "forbidden path outside the build context: ../a.txt");
        check("*.md", None, "no source files were specified");
        check("[a", None, "syntax error in pattern");
        // At the top of a stage's root, `..` is the top itself.
        let of_stage = Copy { from: Some("x".into()), ..copy(&["../a.txt"], "/") };
        assert_eq!(sources(&of_stage, &TREE).unwrap()[0].path, "a.txt");
    }

    #[test]
    fn destinations_are_seen_from_the_working_directory() {
        let check = |text: &str, found, expected: Option<(&str, bool)>| {
            let made = destination(&copy(&["a"], text), found, "/app").ok();
            let expected = expected.map(|(p, d)| Destination { path: p.into(), is_directory: d });
            assert_eq!(made, expected, "{text}");
        };
        check("/x", 1, Some(("/x", false)));
        check("/x/", 1, Some(("/x", true)));
        check("x", 1, Some(("/app/x", false)));
        check(".", 1, Some(("/app", true)));
        check("./", 2, Some(("/app", true)));
        check("../../../x", 1, Some(("/x", false)));
        check("/x", 2, None);
        check("/x/", 2, Some(("/x", true)));
    }
}
