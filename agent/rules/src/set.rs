//! All files' rules together, by kind of event.
//!
//! A later file may replace a list, a macro or a rule of an earlier one by the same name, and
//! switch a rule off (`disable`); names are looked up when all files are read, so that a list
//! that was replaced holds in the earlier files' rules, too.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::condition::Condition;
use crate::kind::{Kind, Kinds};
use crate::possible::possible;
use crate::problem::{Findings, Problems};
use crate::rate::Rate;
use crate::resolve::{Names, Written, resolve};
use crate::source::{RawRule, Source, read};
use crate::value::Event;

/// Rules of all files.
const MOST_RULES: usize = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    Info,
    Notice,
    Warning,
    Critical,
}

impl Severity {
    pub const ALL: [Self; 4] = [Self::Info, Self::Notice, Self::Warning, Self::Critical];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.as_str() == text)
    }
}

/// A rule as people see it.
#[derive(Clone, Debug)]
pub struct Rule {
    pub name: String,
    pub description: String,
    pub severity: Severity,
    pub kinds: Kinds,
    /// As the language renders it: the same meaning, not the same spaces.
    pub condition: String,
    pub rate: Option<Rate>,
    pub enabled: bool,
    pub tags: Vec<String>,
    /// The [`Source`] that it is from.
    pub file: String,
}

/// Rules that were found right.
#[derive(Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// By [`Kind`]: places in `rules`, and what is asked of such an event.
    by_kind: [Vec<(usize, Condition)>; Kind::ALL.len()],
}

impl RuleSet {
    /// Of all files, in their order, or everything that is wrong with them.
    pub fn build(sources: &[Source<'_>]) -> Result<Self, Problems> {
        let mut findings = Findings::new();
        let mut names = Names::default();
        let mut raw_rules: Vec<RawRule> = Vec::new();
        for (file, source) in sources.iter().enumerate() {
            let parts = read(file, *source, &mut findings);
            names.lists.extend(parts.lists);
            for (name, written) in parts.macros {
                names.macros.insert(name, written);
            }
            for (name, place) in parts.disable {
                match raw_rules.iter_mut().find(|rule| rule.name == name) {
                    Some(rule) => rule.enabled = false,
                    None => findings.add(place, format!("{name} is no rule of an earlier file")),
                }
            }
            for rule in parts.rules {
                match raw_rules.iter_mut().find(|earlier| earlier.name == rule.name) {
                    Some(earlier) if earlier.place.file == file => {
                        let why = format!("this file has a rule {} already", rule.name);
                        findings.add(rule.place, why);
                    }
                    Some(earlier) => *earlier = rule,
                    None => raw_rules.push(rule),
                }
            }
        }
        if let Some(beyond) = raw_rules.get(MOST_RULES) {
            findings.add(beyond.place, format!("more than {MOST_RULES} rules"));
        }
        check_macros(&names, &mut findings);
        let mut set = Self::default();
        for raw in raw_rules.into_iter().take(MOST_RULES) {
            set.add(raw, sources, &names, &mut findings);
        }
        findings.finish(sources)?;
        Ok(set)
    }

    fn add(
        &mut self,
        raw: RawRule,
        sources: &[Source<'_>],
        names: &Names,
        findings: &mut Findings,
    ) {
        let Some(condition) = resolve(&raw.condition, raw.kinds, names, findings) else { return };
        for kind in raw.kinds.iter() {
            let condition = condition.of_kind(kind);
            if let Err(culprit) = possible(&condition) {
                let what = culprit.map_or("they lack its fields".into(), |field| {
                    format!("{} cannot be all that is asked of it", field.path())
                });
                let kind = kind.as_str();
                let why = format!("the condition never holds for events of kind {kind}: {what}");
                findings.add(raw.condition.origin.at(0), why);
            }
            if raw.enabled {
                self.by_kind[kind as usize].push((self.rules.len(), condition));
            }
        }
        self.rules.push(Rule {
            name: raw.name,
            description: raw.description,
            severity: raw.severity,
            kinds: raw.kinds,
            condition: raw.condition.expr.to_string(),
            rate: raw.rate,
            enabled: raw.enabled,
            tags: raw.tags,
            file: sources[raw.place.file].name.to_owned(),
        });
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// The enabled rules that match, by their place in [`RuleSet::rules`].
    pub fn matches<'a, E: Event + ?Sized>(
        &'a self,
        event: &'a E,
    ) -> impl Iterator<Item = usize> + 'a {
        self.by_kind[event.kind() as usize]
            .iter()
            .filter(|(_, condition)| condition.holds(event))
            .map(|(place, _)| *place)
    }
}

/// A macro that no rule uses must be right, too.
fn check_macros(names: &Names, findings: &mut Findings) {
    let macros: &BTreeMap<String, Written> = &names.macros;
    for written in macros.values() {
        resolve(written, Kinds::ALL, names, findings);
    }
}
