//! From files to a project: read, variables, merge, and what it says.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Invalid, Result};
use crate::node::{At, Node};
use crate::project::{self, Project};
use crate::variables::Variables;
use crate::{env_file, extends, merge, yaml};

/// Of files that include files.
const MAX_FILES: usize = 100;

/// Where files are read from.
pub trait Files {
    fn read(&self, path: &Path) -> io::Result<String>;
}

/// What a project is made of.
#[derive(Clone, Debug)]
pub struct Sources<'a> {
    /// In the order in which they are merged.
    pub files: &'a [PathBuf],
    /// What relative paths in them are relative to, absolute.
    pub directory: &'a Path,
    /// Variables' files; without any, the directory's `.env` if it is there.
    pub env_files: &'a [PathBuf],
    /// The caller's own environment, which comes before the files'.
    pub environment: BTreeMap<String, String>,
    /// Before what the files say.
    pub name: Option<&'a str>,
}

/// The project, and what a person should be warned of.
pub fn load(files: &dyn Files, sources: &Sources<'_>) -> Result<(Project, Vec<String>)> {
    let environment = environment(files, sources)?;
    let reader = Reader {
        files,
        directory: sources.directory,
        environment: &environment,
        missing: RefCell::default(),
        read: RefCell::default(),
    };
    let mut root: Option<Node> = None;
    for file in sources.files {
        let node = reader.file(None, file)?;
        root = Some(match root {
            None => node,
            Some(base) => merge::merge(base, node, &mut Vec::new()),
        });
    }
    let Some(root) = root else {
        return Err(Invalid::file("", "no Compose file was given"));
    };
    let project = project::read(&root, sources, &environment, files)?;
    let warn = |name: &String| format!("the variable {name} is not set: taken as empty");
    Ok((project, reader.missing.into_inner().iter().map(warn).collect()))
}

/// What variables are replaced by: the caller's environment, over the files'.
fn environment(files: &dyn Files, sources: &Sources<'_>) -> Result<BTreeMap<String, String>> {
    let default = [sources.directory.join(".env")];
    let (paths, is_optional) = match sources.env_files {
        [] => (&default[..], true),
        given => (given, false),
    };
    let mut all = sources.environment.clone();
    let mut of_files = BTreeMap::new();
    for path in paths {
        let shown = path.display().to_string();
        let text = match files.read(&sources.directory.join(path)) {
            Ok(text) => text,
            Err(error) if is_optional && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(Invalid::file(&shown, error.to_string())),
        };
        for (name, value) in env_file::parse(&shown, &text, &all)? {
            if let Some(value) = value {
                of_files.insert(name, value);
            }
        }
    }
    for (name, value) in of_files {
        all.entry(name).or_insert(value);
    }
    Ok(all)
}

struct Reader<'a> {
    files: &'a dyn Files,
    directory: &'a Path,
    environment: &'a BTreeMap<String, String>,
    missing: RefCell<std::collections::BTreeSet<String>>,
    read: RefCell<usize>,
}

impl Reader<'_> {
    /// A file's tree, with its variables replaced, and all that it extends and includes. `from`
    /// is where it is named, if a file names it.
    fn file(&self, from: Option<&At<'_>>, path: &Path) -> Result<Node> {
        let shown = path.display().to_string();
        let wrong = |reason: String| match from {
            Some(at) => at.invalid(reason),
            None => Invalid::file(&shown, reason),
        };
        *self.read.borrow_mut() += 1;
        if *self.read.borrow() > MAX_FILES {
            return Err(wrong(format!("more than {MAX_FILES} files, or files in a circle")));
        }
        let text = self.files.read(&self.directory.join(path));
        let text = text.map_err(|error| wrong(format!("cannot read {shown}: {error}")))?;
        let tree = yaml::parse(&shown.as_str().into(), &text)?;
        let values = self.environment.iter();
        let values = values.map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let mut variables = Variables { values, ..Variables::default() };
        let tree = variables.replace_all(&At::root(&tree))?;
        self.missing.borrow_mut().append(&mut variables.missing);
        // A path in a file that was named by a file is relative to that one.
        let parent = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut beside = |at: &At<'_>, named: &Path| {
            let of_named = match from {
                Some(_) => parent.join(named),
                None => named.to_owned(),
            };
            self.file(Some(at), &of_named)
        };
        let tree = extends::included(tree, &mut beside)?;
        extends::resolved(tree, &mut beside)
    }
}
