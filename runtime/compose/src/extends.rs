//! Services that extend others, and files that include others.
//!
//! Owns whose directory a relative path is of: its own file's.

use std::path::Path;

use crate::error::Result;
use crate::merge::merge;
use crate::node::{At, Node, Tag, Value};

/// Of services that extend services.
const MAX_DEPTH: usize = 32;

/// Reads a whole file as a tree, its variables replaced; the path is as it was written.
pub type Read<'a> = dyn FnMut(&At<'_>, &Path) -> Result<Node> + 'a;

/// All services of a file, each with what it extends. `directory` is the file's own.
pub fn resolved(root: Node, read: &mut Read<'_>) -> Result<Node> {
    let Some(services) = root.get("services") else { return Ok(root) };
    if !matches!(services.value, Value::Map(_)) {
        return Ok(root);
    }
    let mut done = Vec::new();
    for (name, at) in At::new(services, "services").entries()? {
        done.push((name.to_owned(), service(&root, &at, name, read, 0)?));
    }
    Ok(with(&root, "services", Node { value: Value::Map(done), ..services.clone() }))
}

fn service(
    root: &Node,
    at: &At<'_>,
    name: &str,
    read: &mut Read<'_>,
    depth: usize,
) -> Result<Node> {
    let Some(extends) = at.node.get("extends").filter(|node| !node.is_null()) else {
        return Ok(at.node.clone());
    };
    let at_extends = At::new(extends, &format!("{}.extends", at.path()));
    if depth == MAX_DEPTH {
        return Err(at_extends.invalid(format!(
            "services that extend services: deeper than {MAX_DEPTH}, or in a circle"
        )));
    }
    let (of, file) = if at_extends.is_text() {
        (at_extends.string()?, None)
    } else {
        let mut fields = at_extends.fields()?;
        let of = fields.string("service")?.unwrap_or_else(|| name.to_owned());
        let file = fields.get("file");
        fields.finish()?;
        (of, file)
    };
    let other;
    let source = match &file {
        None => root,
        Some(file) => {
            other = read(file, Path::new(file.text()?))?;
            &other
        }
    };
    let base = source.get("services").and_then(|services| services.get(&of));
    let base = base.ok_or_else(|| at_extends.invalid(format!("there is no service {of:?}")))?;
    let path = format!("services.{of}");
    let mut base = service(source, &At::new(base, &path), &of, read, depth + 1)?;
    if let Some(file) = &file
        && let Some(directory) = Path::new(file.text()?).parent()
    {
        base = rebased(base, directory);
    }
    let own = with(at.node, "extends", Node { value: Value::Null, ..extends.clone() });
    Ok(merge(base, own, &mut vec!["services".into(), name.into()]))
}

/// A mapping with one field said anew.
pub fn with(node: &Node, name: &str, field: Node) -> Node {
    let mut node = node.clone();
    if let Value::Map(entries) = &mut node.value {
        match entries.iter_mut().find(|(key, _)| key == name) {
            Some((_, known)) => *known = field,
            None => entries.push((name.to_owned(), field)),
        }
    }
    node
}

/// A service of another file: its relative paths are told from our directory.
pub fn rebased(mut service: Node, directory: &Path) -> Node {
    let Value::Map(entries) = &mut service.value else { return service };
    for (name, node) in entries {
        match (name.as_str(), &mut node.value) {
            ("build", Value::Scalar { text, .. }) => *text = below(directory, text),
            ("build", Value::Map(fields)) => {
                if !fields.iter().any(|(name, _)| name == "context") {
                    let value = Value::Scalar { text: ".".into(), plain: true };
                    let own = Node { place: node.place.clone(), value, tag: Tag::Merge };
                    fields.push(("context".into(), own));
                }
                rebase_field(node, "context", directory);
            }
            ("env_file", Value::Scalar { text, .. }) => *text = below(directory, text),
            ("env_file", Value::Map(_)) => rebase_field(node, "path", directory),
            ("env_file", Value::List(nodes)) => {
                for node in nodes {
                    rebase_text(node, directory, |_| true);
                    rebase_field(node, "path", directory);
                }
            }
            ("volumes", Value::List(nodes)) => {
                for node in nodes {
                    rebase_text(node, directory, |text| text.starts_with('.'));
                    rebase_field(node, "source", directory);
                }
            }
            _ => {}
        }
    }
    service
}

/// The same for an entry of any section.
fn rebased_in(section: &str, mut node: Node, directory: &Path) -> Node {
    match section {
        "services" => return rebased(node, directory),
        "secrets" | "configs" => rebase_field(&mut node, "file", directory),
        _ => {}
    }
    node
}

fn rebase_text(node: &mut Node, directory: &Path, is_path: impl Fn(&str) -> bool) {
    if let Value::Scalar { text, .. } = &mut node.value
        && is_path(text)
    {
        *text = below(directory, text);
    }
}

fn rebase_field(node: &mut Node, field: &str, directory: &Path) {
    let Value::Map(fields) = &mut node.value else { return };
    let found = fields.iter_mut().filter(|(name, _)| name == field);
    found.for_each(|(_, node)| {
        rebase_text(node, directory, |text| field != "source" || text.starts_with('.'))
    });
}

fn below(directory: &Path, text: &str) -> String {
    if text.contains("://") {
        return text.to_owned();
    }
    let joined = directory.join(text);
    let shown = joined.display().to_string();
    // A source without a dot in front is a volume's name.
    if joined.is_absolute() || shown.starts_with('.') { shown } else { format!("./{shown}") }
}

/// The services, networks and volumes of included files, beside a file's own.
pub fn included(root: Node, read: &mut Read<'_>) -> Result<Node> {
    let Some(include) = root.get("include").filter(|node| !node.is_null()).cloned() else {
        return Ok(root);
    };
    let mut all = with(&root, "include", Node { value: Value::Null, ..include.clone() });
    for at in At::new(&include, "include").list()? {
        let paths = if at.is_text() {
            vec![at.clone()]
        } else {
            let mut fields = at.fields()?;
            let path = fields.get("path");
            fields.refuse(&["project_directory", "env_file"], "not supported: a file is included with its own directory and this project's variables")?;
            fields.finish()?;
            match path {
                Some(path) if path.is_text() => vec![path],
                Some(path) => path.list()?,
                None => return Err(at.invalid("path is missing: the file to include")),
            }
        };
        for path in paths {
            let file = Path::new(path.text()?);
            let other = read(&path, file)?;
            all = beside(all, &path, &other, file.parent().unwrap_or(Path::new("")))?;
        }
    }
    Ok(all)
}

/// What is in both is a mistake: nobody could say which one is meant.
fn beside(mut all: Node, at: &At<'_>, other: &Node, directory: &Path) -> Result<Node> {
    for section in ["services", "networks", "volumes", "secrets", "configs"] {
        let Some(Value::Map(entries)) = other.get(section).map(|node| node.value.clone()) else {
            continue;
        };
        let empty =
            Node { place: at.node.place.clone(), value: Value::Map(vec![]), tag: Tag::Merge };
        let mut known = all.get(section).filter(|node| !node.is_null()).cloned().unwrap_or(empty);
        let Value::Map(ours) = &mut known.value else { return Ok(all) };
        for (name, node) in entries {
            if ours.iter().any(|(ours, _)| *ours == name) {
                return Err(at.invalid(format!("{section}.{name} is in both files")));
            }
            ours.push((name, rebased_in(section, node, directory)));
        }
        all = with(&all, section, known);
    }
    Ok(all)
}
