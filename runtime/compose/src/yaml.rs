//! From the text of a file to a tree that knows its lines.
//!
//! Owns the limits that keep a small file from becoming a large tree (aliases of aliases), and
//! YAML's own means of not writing a thing twice: anchors and merge keys.

use std::collections::HashMap;
use std::sync::Arc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use crate::error::{Invalid, Place, Result};
use crate::node::{Node, Tag, Value};

/// Of one file.
const MAX_BYTES: usize = 1 << 20;
/// Aliases count with all that they stand for.
const MAX_NODES: usize = 100_000;
const MAX_DEPTH: usize = 64;

/// A file's one document; a file without one is an empty mapping.
pub fn parse(file: &Arc<str>, text: &str) -> Result<Node> {
    if text.len() > MAX_BYTES {
        let reason = format!("it is {} bytes long, allowed are {MAX_BYTES}", text.len());
        return Err(Invalid::file(file, reason));
    }
    let mut builder = Builder { file: Arc::clone(file), ..Builder::default() };
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let place = Place { file: Arc::clone(file), line: error.marker().line() };
            Invalid::new(&place, "", error.info())
        })?;
        builder.take(event, span)?;
    }
    let start = Place { file: Arc::clone(file), line: 1 };
    Ok(builder.root.unwrap_or(Node { place: start, value: Value::Map(vec![]), tag: Tag::Merge }))
}

#[derive(Debug, Default)]
struct Builder {
    file: Arc<str>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
}

/// A list or mapping whose end has not come.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    /// The key that waits for its value.
    key: Option<(String, Place)>,
    /// What `<<` brought, the nearest first.
    merged: Vec<(String, Node)>,
    /// How many nodes there were before it.
    before: usize,
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: Span) -> Result<()> {
        let place = Place { file: Arc::clone(&self.file), line: span.start.line() };
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            Event::DocumentStart(_) if self.root.is_none() => {}
            Event::DocumentStart(_) => {
                return Err(Invalid::new(&place, "", "a second document; one is allowed"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.count(1, &place)?;
                let plain = style == ScalarStyle::Plain;
                let value = match &*text {
                    "" | "~" | "null" | "Null" | "NULL" if plain => Value::Null,
                    text => Value::Scalar { text: text.to_owned(), plain },
                };
                let tag = merge_tag(tag.as_deref().map(|tag| tag.suffix.as_str()));
                let node = Node { place, value, tag };
                self.keep(anchor, &node, 1);
                self.put(node)?;
            }
            Event::SequenceStart(anchor, tag) => {
                let tag = merge_tag(tag.as_deref().map(|tag| tag.suffix.as_str()));
                self.open(Node { place, value: Value::List(vec![]), tag }, anchor)?;
            }
            Event::MappingStart(anchor, tag) => {
                let tag = merge_tag(tag.as_deref().map(|tag| tag.suffix.as_str()));
                self.open(Node { place, value: Value::Map(vec![]), tag }, anchor)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close()?,
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                let (node, size) = known
                    .ok_or_else(|| Invalid::new(&place, "", "an alias of something unfinished"))?;
                self.count(size, &place)?;
                self.put(node)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, place: &Place) -> Result<()> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let reason = format!("more than {MAX_NODES} values, aliases counted in full");
            return Err(Invalid::new(place, "", reason));
        }
        Ok(())
    }

    fn keep(&mut self, anchor: usize, node: &Node, size: usize) {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
    }

    fn open(&mut self, node: Node, anchor: usize) -> Result<()> {
        self.count(1, &node.place)?;
        if self.open.len() == MAX_DEPTH {
            let reason = format!("nested deeper than {MAX_DEPTH}");
            return Err(Invalid::new(&node.place, "", reason));
        }
        let before = self.nodes - 1;
        self.open.push(Open { node, anchor, key: None, merged: vec![], before });
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(mut done) = self.open.pop() else { return Ok(()) };
        if let Value::Map(entries) = &mut done.node.value {
            for (key, node) in done.merged {
                if entries.iter().all(|(known, _)| *known != key) {
                    entries.push((key, node));
                }
            }
        }
        self.keep(done.anchor, &done.node, self.nodes - done.before);
        self.put(done.node)
    }

    /// Into what is open; the first of all is the root.
    fn put(&mut self, node: Node) -> Result<()> {
        let Some(open) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.value {
            Value::List(nodes) => nodes.push(node),
            Value::Map(entries) => match open.key.take() {
                None => open.key = Some(key(entries, &node)?),
                Some((key, place)) if key == "<<" => {
                    open.merged.extend(merged(node, &place)?);
                }
                Some((key, place)) => {
                    // A value that is nothing stands behind the end of its line.
                    let place = if node.is_null() { place } else { node.place.clone() };
                    entries.push((key, Node { place, ..node }));
                }
            },
            Value::Null | Value::Scalar { .. } => unreachable!("only lists and mappings are open"),
        }
        Ok(())
    }
}

fn key(entries: &[(String, Node)], node: &Node) -> Result<(String, Place)> {
    let Some(text) = node.text() else {
        return Err(Invalid::new(&node.place, "", "a key must be a text"));
    };
    if entries.iter().any(|(known, _)| known == text) {
        let reason = format!("the key {text:?} stands here twice");
        return Err(Invalid::new(&node.place, "", reason));
    }
    Ok((text.to_owned(), node.place.clone()))
}

/// What stands behind `<<`: a mapping, or a list of them.
fn merged(node: Node, place: &Place) -> Result<Vec<(String, Node)>> {
    match node.value {
        Value::Map(entries) => Ok(entries),
        Value::List(nodes) => {
            let all: Result<Vec<_>> = nodes.into_iter().map(|node| merged(node, place)).collect();
            Ok(all?.into_iter().flatten().collect())
        }
        _ => Err(Invalid::new(place, "", "<< takes a mapping or a list of them")),
    }
}

fn merge_tag(suffix: Option<&str>) -> Tag {
    match suffix {
        Some("override") => Tag::Override,
        Some("reset") => Tag::Reset,
        _ => Tag::Merge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Node> {
        parse(&"f.yaml".into(), text)
    }

    #[test]
    fn every_node_knows_its_line_and_scalars_stay_texts() {
        let root = read("a: 1\nb:\n  - 'x'\n  - ~\nc: \"\"\nd:\n").unwrap();
        assert_eq!(root.get("a").unwrap().text(), Some("1"));
        let Value::List(list) = &root.get("b").unwrap().value else { panic!() };
        assert_eq!((list[0].place.line, list[0].text()), (3, Some("x")));
        assert!(list[1].is_null());
        assert_eq!(root.get("c").unwrap().text(), Some(""));
        let nothing = root.get("d").unwrap();
        assert!(nothing.is_null());
        assert_eq!(nothing.place.line, 6);
    }

    #[test]
    fn merge_keys_bring_what_is_not_there_and_the_first_of_them_wins() {
        let text = "a: &a {x: 1, y: 2}\nb: &b {y: 3, z: 4}\nc:\n  <<: [*a, *b]\n  x: 9\n";
        let root = read(text).unwrap();
        let c = root.get("c").unwrap();
        let of = |name| c.get(name).and_then(Node::text);
        assert_eq!([of("x"), of("y"), of("z")], [Some("9"), Some("2"), Some("4")]);
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let error = read("a: 1\nb: [1, 2\nc: 3\n").unwrap_err();
        assert!(error.place.line >= 2, "{error}");
        assert!(error.to_string().starts_with("f.yaml:"), "{error}");
        let twice = read("a: 1\na: 2\n").unwrap_err().to_string();
        assert_eq!(twice, "f.yaml:2: the key \"a\" stands here twice");
        assert!(read("a: 1\n---\nb: 2\n").unwrap_err().to_string().contains("second document"));
    }

    #[test]
    fn aliases_of_aliases_and_deep_nests_end_at_their_limits() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = format!("*a{}", level - 1);
            let list = vec![below; 10].join(", ");
            text.push_str(&format!("a{level}: &a{level} [{list}]\n"));
        }
        assert!(read(&text).unwrap_err().to_string().contains("aliases counted"));
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(read(&deep).unwrap_err().to_string().contains("nested deeper"));
    }

    #[test]
    fn an_empty_file_is_an_empty_mapping() {
        assert_eq!(read("# nothing\n").unwrap().value, Value::Map(vec![]));
    }

    proptest::proptest! {
        /// Whatever is typed, the answer is a tree or a mistake.
        #[test]
        fn no_text_breaks_it(text in ".{0,200}") {
            let _ = read(&text);
        }
    }
}
