//! From files to a project: read, variables, merge, and what it says.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::error::{Invalid, Result};
use crate::node::{At, Node};
use crate::project::{self, Project};
use crate::variables::Variables;
use crate::{env_file, extends, merge, yaml};

/// Different ones, in one project.
const MAX_FILES: usize = 100;

/// Of files that name files. A circle of paths that are written ever longer ends here, too.
const MAX_DEPTH: usize = 32;

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
    let own = sources.environment.clone();
    let environment = environment(files, sources.directory, sources.env_files, own)?;
    let reader = Reader {
        files,
        directory: sources.directory,
        environment: &environment,
        missing: RefCell::default(),
        open: RefCell::default(),
        known: RefCell::default(),
        read: Cell::new(0),
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

/// What variables are replaced by: the caller's own environment, over the files'. Without
/// `env_files`, the directory's `.env` is read if it is there.
pub fn environment(
    files: &dyn Files,
    directory: &Path,
    env_files: &[PathBuf],
    own: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>> {
    let default = [directory.join(".env")];
    let (paths, is_optional) = match env_files {
        [] => (&default[..], true),
        given => (given, false),
    };
    let mut all = own;
    let mut of_files = BTreeMap::new();
    for path in paths {
        let shown = path.display().to_string();
        let text = match files.read(&directory.join(path)) {
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
    missing: RefCell<BTreeSet<String>>,
    /// Those that are being read, each named by the one before.
    open: RefCell<Vec<PathBuf>>,
    /// Whole trees of files that a file named: most are named by several services.
    known: RefCell<BTreeMap<PathBuf, Node>>,
    read: Cell<usize>,
}

impl Reader<'_> {
    /// A file's tree, with its variables replaced, and all that it extends and includes. `from`
    /// is where it is named, if a file names it; each of those is read once.
    fn file(&self, from: Option<&At<'_>>, path: &Path) -> Result<Node> {
        // `..` stays: behind a symbolic link it leads elsewhere than the path says.
        let is_part = |part: &Component<'_>| *part != Component::CurDir;
        let key: PathBuf = path.components().filter(is_part).collect();
        if from.is_some()
            && let Some(known) = self.known.borrow().get(&key)
        {
            return Ok(known.clone());
        }
        let wrong = |reason: String| match from {
            Some(at) => at.invalid(reason),
            None => Invalid::file(&path.display().to_string(), reason),
        };
        let open = self.open.borrow().clone();
        if let Some(start) = open.iter().position(|before| *before == key) {
            let circle: Vec<String> =
                open[start..].iter().chain([&key]).map(|path| path.display().to_string()).collect();
            return Err(wrong(format!("files in a circle: {}", circle.join(" → "))));
        }
        if open.len() == MAX_DEPTH {
            return Err(wrong(format!("files that name files: deeper than {MAX_DEPTH}")));
        }
        self.read.set(self.read.get() + 1);
        if self.read.get() > MAX_FILES {
            return Err(wrong(format!("more than {MAX_FILES} files")));
        }
        self.open.borrow_mut().push(key.clone());
        let node = self.tree(from, path, &wrong)?;
        self.open.borrow_mut().pop();
        if from.is_some() {
            self.known.borrow_mut().insert(key, node.clone());
        }
        Ok(node)
    }

    fn tree(
        &self,
        from: Option<&At<'_>>,
        path: &Path,
        wrong: &dyn Fn(String) -> Invalid,
    ) -> Result<Node> {
        let shown = path.display().to_string();
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
