//! A rule file's TOML to its parts, each with its place. It goes on after an error, so that
//! one look finds all of them.

use std::collections::BTreeSet;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::expr::Literal;
use crate::kind::{Kind, Kinds};
use crate::parse::{is_keyword, parse};
use crate::problem::{Findings, Place};
use crate::rate::Rate;
use crate::resolve::{Origin, Written};
use crate::set::Severity;

pub const MOST_FILE_BYTES: usize = 1 << 20;
const MOST_NAME: usize = 64;
const MOST_DESCRIPTION: usize = 512;
const MOST_TAGS: usize = 16;
const MOST_ENTRIES: usize = 4096;
const MOST_TEXT: usize = 4096;

/// A rule file: its name for errors, and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub name: &'a str,
    pub text: &'a str,
}

/// What a file holds.
#[derive(Debug, Default)]
pub struct Parts {
    pub rules: Vec<RawRule>,
    pub lists: Vec<(String, Vec<Literal>)>,
    pub macros: Vec<(String, Written)>,
    /// Rules of earlier files that do not hold any more.
    pub disable: Vec<(String, Place)>,
}

#[derive(Debug)]
pub struct RawRule {
    pub place: Place,
    pub name: String,
    pub description: String,
    pub severity: Severity,
    pub kinds: Kinds,
    pub condition: Written,
    pub rate: Option<Rate>,
    pub enabled: bool,
    pub tags: Vec<String>,
}

pub fn read(file: usize, source: Source<'_>, findings: &mut Findings) -> Parts {
    let mut reader = Reader { file, text: source.text, findings, parts: Parts::default() };
    if source.text.len() > MOST_FILE_BYTES {
        let why = format!("{} bytes; at most {MOST_FILE_BYTES}", source.text.len());
        reader.wrong(0, why);
        return reader.parts;
    }
    let (table, errors) = DeTable::parse_recoverable(source.text);
    for error in &errors {
        reader.wrong(error.span().map_or(0, |span| span.start), error.message());
    }
    // What follows a mistake in the TOML itself is guessed: nobody wants to read about that.
    if errors.is_empty() {
        reader.file(table.get_ref());
    }
    reader.parts
}

struct Reader<'a> {
    file: usize,
    text: &'a str,
    findings: &'a mut Findings,
    parts: Parts,
}

type Entry<'i> = Spanned<DeValue<'i>>;

impl Reader<'_> {
    fn place(&self, offset: usize) -> Place {
        Place { file: self.file, offset }
    }

    fn wrong(&mut self, offset: usize, reason: impl Into<String>) {
        self.findings.add(self.place(offset), reason);
    }

    fn misfit(&mut self, key: &str, value: &Entry<'_>, wanted: &str) {
        self.wrong(value.span().start, format!("{key} is {wanted}, not {}", shown(value)));
    }

    fn file(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            match (&**key.get_ref(), value.get_ref()) {
                ("rule", DeValue::Array(rules)) => {
                    for rule in rules.iter() {
                        match rule.get_ref() {
                            DeValue::Table(table) => self.rule(table, rule.span().start),
                            _ => self.misfit("rule", rule, "a table ([[rule]])"),
                        }
                    }
                }
                ("rule", _) => self.misfit("rule", value, "an array of tables ([[rule]])"),
                ("lists", DeValue::Table(lists)) => self.lists(lists),
                ("lists", _) => self.misfit("lists", value, "a table ([lists])"),
                ("macros", DeValue::Table(macros)) => self.macros(macros),
                ("macros", _) => self.misfit("macros", value, "a table ([macros])"),
                ("disable", _) => {
                    self.parts.disable = self
                        .texts("disable", value, MOST_ENTRIES)
                        .into_iter()
                        .map(|(name, offset)| (name, self.place(offset)))
                        .collect();
                }
                (unknown, _) => {
                    let why = format!("{unknown} is no key here: disable, lists, macros, rule are");
                    self.wrong(key.span().start, why);
                }
            }
        }
    }

    fn lists(&mut self, lists: &DeTable<'_>) {
        for (key, value) in lists {
            let name = key.get_ref().to_string();
            self.name("a list's name", &name, key.span().start);
            let DeValue::Array(entries) = value.get_ref() else {
                self.misfit(&name, value, "a list");
                continue;
            };
            if entries.is_empty() {
                self.wrong(value.span().start, format!("{name} is empty: nothing is in it"));
            }
            if entries.len() > MOST_ENTRIES {
                let why = format!("{name} has {} entries; at most {MOST_ENTRIES}", entries.len());
                self.wrong(value.span().start, why);
            }
            let mut literals = Vec::new();
            for entry in entries.iter() {
                match entry.get_ref() {
                    DeValue::String(text) => {
                        self.length(&name, text, MOST_TEXT, entry.span().start);
                        literals.push(Literal::Text(text.to_string()));
                    }
                    DeValue::Integer(number) => {
                        match i64::from_str_radix(number.as_str(), number.radix()) {
                            Ok(number) => literals.push(Literal::Number(number)),
                            Err(_) => self.misfit(&name, entry, "whole numbers of 64 bits"),
                        }
                    }
                    _ => self.misfit(&name, entry, "a list of texts or of whole numbers"),
                }
            }
            let number = |literal: &&Literal| matches!(literal, Literal::Number(_));
            let numbers = literals.iter().filter(number).count();
            if numbers > 0 && numbers < literals.len() {
                self.wrong(value.span().start, format!("{name} mixes texts and numbers"));
            }
            self.parts.lists.push((name, literals));
        }
    }

    fn macros(&mut self, macros: &DeTable<'_>) {
        for (key, value) in macros {
            let name = key.get_ref().to_string();
            self.name("a macro's name", &name, key.span().start);
            if let Some(written) = self.condition(&name, value) {
                self.parts.macros.push((name, written));
            }
        }
    }

    fn rule(&mut self, table: &DeTable<'_>, offset: usize) {
        const KEYS: &str = "condition, description, enabled, kinds, name, rate, severity, tags";
        let (mut name, mut description, mut severity) = (None, None, None);
        let (mut kinds, mut condition) = (None, None);
        let (mut rate, mut enabled, mut tags) = (None, true, Vec::new());
        for (key, value) in table {
            let at = value.span().start;
            match &**key.get_ref() {
                "name" => {
                    name = self.text("name", value, MOST_NAME);
                    if let Some(name) = &name {
                        self.name("a rule's name", name, at);
                    }
                }
                "description" => {
                    description = self.text("description", value, MOST_DESCRIPTION);
                }
                "severity" => {
                    let text = self.text("severity", value, MOST_NAME);
                    severity = text.as_deref().and_then(Severity::parse);
                    if let (Some(text), None) = (&text, severity) {
                        let known = Severity::ALL.map(Severity::as_str).join(", ");
                        self.wrong(at, format!("severity is one of {known}, not {text:?}"));
                    }
                }
                "kinds" => kinds = Some(self.kinds(value)),
                "condition" => condition = self.condition("condition", value),
                "rate" => match self.text("rate", value, MOST_NAME).as_deref().map(Rate::parse) {
                    Some(Ok(parsed)) => rate = Some(parsed),
                    Some(Err(why)) => self.wrong(at, format!("rate = {why}")),
                    None => {}
                },
                "enabled" => match value.get_ref() {
                    DeValue::Boolean(truth) => enabled = *truth,
                    _ => self.misfit("enabled", value, "true or false"),
                },
                "tags" => {
                    let texts = self.texts("tags", value, MOST_TAGS);
                    tags = texts.into_iter().map(|(text, _)| text).collect();
                }
                unknown => {
                    let why = format!("{unknown} is no key of a rule: {KEYS} are");
                    self.wrong(key.span().start, why);
                }
            }
        }
        for key in ["name", "description", "severity", "kinds", "condition"] {
            if !table.keys().any(|given| given.get_ref() == key) {
                self.wrong(offset, format!("a rule without {key}"));
            }
        }
        let Some(condition) = condition else { return };
        // What else is wrong with it is told, and so is what its condition has wrong: with
        // this for what is missing it only comes to be looked into.
        let any_kind = |kinds: &Kinds| *kinds != Kinds::default();
        self.parts.rules.push(RawRule {
            place: self.place(offset),
            name: name.unwrap_or_else(|| format!("rule at {offset}")),
            description: description.unwrap_or_default(),
            severity: severity.unwrap_or(Severity::Info),
            kinds: kinds.filter(any_kind).unwrap_or(Kinds::ALL),
            condition,
            rate,
            enabled,
            tags,
        });
    }

    fn kinds(&mut self, value: &Entry<'_>) -> Kinds {
        let mut kinds = Kinds::default();
        let texts = self.texts("kinds", value, Kind::ALL.len());
        if texts.is_empty() && matches!(value.get_ref(), DeValue::Array(list) if list.is_empty()) {
            self.wrong(value.span().start, "kinds is empty: no event is of none");
        }
        for (text, at) in texts {
            match Kind::parse(&text) {
                Some(kind) => kinds.insert(kind),
                None => {
                    let known = Kinds::ALL;
                    self.wrong(at, format!("{text:?} is no kind of event; these are: {known}"));
                }
            }
        }
        kinds
    }

    fn condition(&mut self, key: &str, value: &Entry<'_>) -> Option<Written> {
        let DeValue::String(text) = value.get_ref() else {
            self.misfit(key, value, "a condition in quotes");
            return None;
        };
        let origin = self.origin(value, text);
        match parse(text) {
            Ok(expr) => Some(Written { expr, origin }),
            Err(error) => {
                self.findings.add(origin.at(error.at), error.reason);
                None
            }
        }
    }

    /// Where the value's first byte stands: behind its quotes, and behind the line break that
    /// TOML drops after three of them.
    fn origin(&self, value: &Entry<'_>, text: &str) -> Origin {
        let span = value.span();
        let written = &self.text[span.clone()];
        let quote = &written[..1.min(written.len())];
        let quotes = if written.starts_with(&quote.repeat(3)) { 3 } else { 1 };
        let mut start = quotes.min(written.len());
        if quotes == 3 {
            let inner = &written[start..];
            start +=
                if inner.starts_with("\r\n") { 2 } else { usize::from(inner.starts_with('\n')) };
        }
        let verbatim = written[start..].starts_with(text);
        let offset = if verbatim { span.start + start } else { span.start };
        Origin { place: self.place(offset), verbatim }
    }

    fn text(&mut self, key: &str, value: &Entry<'_>, most: usize) -> Option<String> {
        let DeValue::String(text) = value.get_ref() else {
            self.misfit(key, value, "a text");
            return None;
        };
        self.length(key, text, most, value.span().start);
        if text.trim().is_empty() {
            self.wrong(value.span().start, format!("{key} is empty"));
        }
        Some(text.to_string())
    }

    fn texts(&mut self, key: &str, value: &Entry<'_>, most: usize) -> Vec<(String, usize)> {
        let DeValue::Array(entries) = value.get_ref() else {
            self.misfit(key, value, "a list of texts");
            return Vec::new();
        };
        if entries.len() > most {
            let why = format!("{key} has {} entries; at most {most}", entries.len());
            self.wrong(value.span().start, why);
        }
        let mut seen = BTreeSet::new();
        let mut texts = Vec::new();
        for entry in entries.iter() {
            let at = entry.span().start;
            if let Some(text) = self.text(key, entry, MOST_NAME) {
                if !seen.insert(text.clone()) {
                    self.wrong(at, format!("{key} has {text:?} twice"));
                }
                texts.push((text, at));
            }
        }
        texts
    }

    fn length(&mut self, key: &str, text: &str, most: usize, at: usize) {
        if text.len() > most {
            self.wrong(at, format!("{key} has {} bytes; at most {most}", text.len()));
        }
    }

    fn name(&mut self, what: &str, name: &str, at: usize) {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let plain = name.len() <= MOST_NAME
            && name.bytes().all(allowed)
            && name.bytes().next().is_some_and(|first| first.is_ascii_lowercase());
        if !plain {
            let why = format!("{what} is a to z, then those, 0 to 9 and _ ({MOST_NAME} at most)");
            self.wrong(at, format!("{name:?}: {why}"));
        } else if is_keyword(name) {
            self.wrong(at, format!("{name} is a word of the language, and no name"));
        }
    }
}

/// A value for an error's text: short.
fn shown(value: &Entry<'_>) -> String {
    match value.get_ref() {
        DeValue::String(text) => format!("{:?}", text.chars().take(60).collect::<String>()),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(_) => "a list".into(),
        DeValue::Table(_) => "a table".into(),
    }
}
