//! A tree of YAML that knows where each of its nodes stands, and how it is read.
//!
//! Owns [`Node`] and [`At`], which walks it and remembers the way, so that a mistake is told
//! with its field and line. A scalar stays the text that was typed: what it means is decided
//! by the field that it stands in, as `8080` is a port here and a word there.

use std::collections::BTreeSet;

use crate::error::{Invalid, Place, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub place: Place,
    pub value: Value,
    pub tag: Tag,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Null,
    /// The text, and whether it stood there without quotes.
    Scalar {
        text: String,
        plain: bool,
    },
    List(Vec<Node>),
    /// In the file's order; no key twice.
    Map(Vec<(String, Node)>),
}

/// What a later file says of the same field in an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tag {
    #[default]
    Merge,
    /// `!override`: only this.
    Override,
    /// `!reset`: nothing.
    Reset,
}

impl Node {
    pub fn get(&self, name: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(key, _)| key == name).map(|(_, node)| node)
    }

    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Scalar { .. } => "a single value",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }
}

/// A node, and the way to it.
#[derive(Clone, Debug)]
pub struct At<'a> {
    pub node: &'a Node,
    path: String,
}

impl<'a> At<'a> {
    pub fn root(node: &'a Node) -> At<'a> {
        At { node, path: String::new() }
    }

    /// A node of a whole, said as if one had walked to it.
    pub fn new(node: &'a Node, path: &str) -> At<'a> {
        At { node, path: path.to_owned() }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn invalid(&self, reason: impl Into<String>) -> Invalid {
        Invalid::new(&self.node.place, &self.path, reason)
    }

    fn expected(&self, what: &str) -> Invalid {
        match self.node.text() {
            Some(text) => self.invalid(format!("{text:?} is not allowed: {what}")),
            None => self.invalid(format!("{} is not allowed: {what}", self.node.kind())),
        }
    }

    fn below(&self, name: &str, node: &'a Node) -> At<'a> {
        let path = match self.path.as_str() {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        At { node, path }
    }

    pub fn text(&self) -> Result<&'a str> {
        self.node.text().ok_or_else(|| self.expected("a text"))
    }

    pub fn string(&self) -> Result<String> {
        self.text().map(str::to_owned)
    }

    pub fn bool(&self) -> Result<bool> {
        match self.node.text() {
            Some("true" | "yes" | "on") => Ok(true),
            Some("false" | "no" | "off") => Ok(false),
            _ => Err(self.expected("true or false")),
        }
    }

    /// A number, or what `what` calls it.
    pub fn number<T: std::str::FromStr>(&self, what: &str) -> Result<T> {
        self.parsed(what, |text| text.parse().ok())
    }

    /// Whatever `parse` makes of the text.
    pub fn parsed<T>(&self, what: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T> {
        self.node.text().and_then(parse).ok_or_else(|| self.expected(what))
    }

    pub fn list(&self) -> Result<Vec<At<'a>>> {
        let Value::List(nodes) = &self.node.value else { return Err(self.expected("a list")) };
        let at = |(index, node)| At { node, path: format!("{}[{index}]", self.path) };
        Ok(nodes.iter().enumerate().map(at).collect())
    }

    pub fn strings(&self) -> Result<Vec<String>> {
        self.list()?.iter().map(At::string).collect()
    }

    /// One text stands for a list of one.
    pub fn one_or_more(&self) -> Result<Vec<String>> {
        match self.node.value {
            Value::Scalar { .. } => Ok(vec![self.string()?]),
            _ => self.strings(),
        }
    }

    pub fn entries(&self) -> Result<Vec<(&'a str, At<'a>)>> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.expected("a mapping"));
        };
        Ok(entries.iter().map(|(key, node)| (key.as_str(), self.below(key, node))).collect())
    }

    /// `NAME: value` or `- NAME=value`; a name without a value has none.
    pub fn pairs(&self) -> Result<Vec<(String, Option<String>)>> {
        if let Value::List(_) = self.node.value {
            let pair = |at: At<'_>| {
                Ok(match at.text()?.split_once('=') {
                    Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                    None => (at.string()?, None),
                })
            };
            return self.list()?.into_iter().map(pair).collect();
        }
        let pair = |(name, at): (&str, At<'_>)| {
            let value = if at.node.is_null() { None } else { Some(at.string()?) };
            Ok((name.to_owned(), value))
        };
        self.entries()?.into_iter().map(pair).collect()
    }

    pub fn fields(&self) -> Result<Fields<'a>> {
        self.entries()?;
        Ok(Fields { at: self.clone(), asked: BTreeSet::new() })
    }

    /// Whether it is written in the short form of a thing that has both.
    pub fn is_text(&self) -> bool {
        self.node.text().is_some()
    }

    pub fn is_map(&self) -> bool {
        matches!(self.node.value, Value::Map(_))
    }
}

/// A mapping whose fields are all known: what nobody asked for is a mistake.
#[derive(Debug)]
pub struct Fields<'a> {
    pub at: At<'a>,
    asked: BTreeSet<&'static str>,
}

impl<'a> Fields<'a> {
    /// `None` where it is absent or said to be nothing.
    pub fn get(&mut self, name: &'static str) -> Option<At<'a>> {
        self.asked.insert(name);
        let node = self.at.node.get(name).filter(|node| !node.is_null())?;
        Some(self.at.below(name, node))
    }

    pub fn read<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&At<'a>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.get(name).map(|at| read(&at)).transpose()
    }

    pub fn string(&mut self, name: &'static str) -> Result<Option<String>> {
        self.read(name, At::string)
    }

    pub fn bool(&mut self, name: &'static str) -> Result<Option<bool>> {
        self.read(name, At::bool)
    }

    pub fn strings(&mut self, name: &'static str) -> Result<Option<Vec<String>>> {
        self.read(name, At::one_or_more)
    }

    /// Fields that mean something elsewhere and nothing here.
    pub fn ignore(&mut self, names: &[&'static str]) {
        self.asked.extend(names);
    }

    /// Fields that would mean something: to leave them out would run another thing than was
    /// asked for.
    pub fn refuse(&mut self, names: &[&'static str], why: &str) -> Result<()> {
        let found = names.iter().find_map(|name| self.get(name));
        found.map_or(Ok(()), |at| Err(at.invalid(why)))
    }

    /// Refuses whatever was not asked for, but for extensions (`x-…`).
    pub fn finish(self) -> Result<()> {
        let known = |name: &str| self.asked.contains(name) || name.starts_with("x-");
        match self.at.entries()?.into_iter().find(|(name, _)| !known(name)) {
            None => Ok(()),
            Some((name, at)) => {
                let allowed: Vec<&str> = self.asked.iter().copied().collect();
                let reason = format!("no field is named {name:?}: {}", allowed.join(", "));
                Err(Invalid::new(&at.node.place, &self.at.path, reason))
            }
        }
    }
}
