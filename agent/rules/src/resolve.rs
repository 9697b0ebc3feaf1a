//! From a condition as written to one that can be asked: macros and lists stand where their
//! names were, fields are known, values have the field's type.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::address::Network;
use crate::condition::{Check, Condition};
use crate::expr::{Expr, Item, Literal, Operator, Test, Word};
use crate::field::{Field, Type};
use crate::kind::Kinds;
use crate::problem::{Findings, Place};

/// Tests and macros of one rule, those in its macros included.
const MOST_TESTS: usize = 1024;
/// Macros within macros.
const MOST_DEEP: usize = 16;

/// A condition with the place of its first byte.
#[derive(Debug)]
pub struct Written {
    pub expr: Expr,
    pub origin: Origin,
}

/// Where a condition's bytes lie in its file.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub place: Place,
    /// Whether the bytes are in the file as they are in the condition (no TOML escapes).
    pub verbatim: bool,
}

impl Origin {
    pub fn at(&self, at: usize) -> Place {
        let at = if self.verbatim { at } else { 0 };
        Place { offset: self.place.offset + at, ..self.place }
    }
}

/// The names that conditions may use, of all files together.
#[derive(Debug, Default)]
pub struct Names {
    pub lists: BTreeMap<String, Vec<Literal>>,
    pub macros: BTreeMap<String, Written>,
}

/// `None`: something is wrong, and `findings` has it.
pub fn resolve(
    written: &Written,
    kinds: Kinds,
    names: &Names,
    findings: &mut Findings,
) -> Option<Condition> {
    let mut resolver = Resolver {
        kinds,
        names,
        findings,
        tests: 0,
        within: Vec::new(),
        used_at: None,
        wrong: false,
    };
    let condition = resolver.expr(&written.expr, written.origin);
    if resolver.tests > MOST_TESTS {
        let why = format!("more than {MOST_TESTS} tests, those in its macros included");
        resolver.wrong(written.origin.at(0), why);
    }
    (!resolver.wrong).then_some(condition)
}

struct Resolver<'a> {
    kinds: Kinds,
    names: &'a Names,
    findings: &'a mut Findings,
    tests: usize,
    /// Macros whose conditions are being read, outermost first.
    within: Vec<&'a str>,
    /// Where the outermost of them stands.
    used_at: Option<Place>,
    wrong: bool,
}

impl<'a> Resolver<'a> {
    /// What is wrong in a macro is told once, and makes each rule wrong that uses it.
    fn wrong(&mut self, place: Place, reason: String) {
        self.wrong = true;
        self.findings.add(place, reason);
    }

    fn expr(&mut self, expr: &'a Expr, origin: Origin) -> Condition {
        match expr {
            // The bound ends a macro that doubles itself at each step; it is told once.
            _ if self.tests > MOST_TESTS => Condition::Known(false),
            Expr::All(parts) => {
                Condition::All(parts.iter().map(|part| self.expr(part, origin)).collect())
            }
            Expr::Any(parts) => {
                Condition::Any(parts.iter().map(|part| self.expr(part, origin)).collect())
            }
            Expr::Not(inner) => Condition::Not(Box::new(self.expr(inner, origin))),
            Expr::Macro(name) => self.named(name, origin),
            Expr::Test(test) => {
                self.tests += 1;
                self.test(test, origin).unwrap_or(Condition::Known(false))
            }
        }
    }

    fn named(&mut self, name: &Word, origin: Origin) -> Condition {
        let place = origin.at(name.at);
        self.tests += 1;
        let Some((name, written)) = self.names.macros.get_key_value(&name.text) else {
            let what = match self.names.lists.contains_key(&name.text) {
                true => "is a list, which stands behind `in` and the like",
                false => "is no macro that is known",
            };
            self.wrong(place, format!("{} {what}", name.text));
            return Condition::Known(false);
        };
        if self.within.contains(&name.as_str()) || self.within.len() >= MOST_DEEP {
            let way = [self.within.as_slice(), &[name]].concat().join(" → ");
            self.wrong(written.origin.at(0), format!("macros that never end: {way}"));
            return Condition::Known(false);
        }
        if self.within.is_empty() {
            self.used_at = Some(place);
        }
        self.within.push(name);
        let condition = self.expr(&written.expr, written.origin);
        self.within.pop();
        condition
    }

    /// `None`: wrong, and told.
    fn test(&mut self, test: &Test, origin: Origin) -> Option<Condition> {
        let place = origin.at(test.field.at);
        let Some(field) = Field::parse(&test.field.text) else {
            let meant = Field::nearest(&test.field.text);
            let meant = meant.map(|field| format!("; {} is one", field.path()));
            let why = format!("{} is no field{}", test.field.text, meant.unwrap_or_default());
            self.wrong(place, why);
            return None;
        };
        if !field.kinds().meets(self.kinds) {
            let (path, has) = (field.path(), field.kinds());
            let why = format!("{path} is in no event of kind {}; these have it: {has}", self.kinds);
            // A macro may be right for other rules: this one should not have named it.
            match (self.within.first(), self.used_at) {
                (Some(name), Some(used_at)) => self.wrong(used_at, format!("{name}: {why}")),
                _ => self.wrong(place, why),
            }
            return None;
        }
        let mut literals = Vec::new();
        for item in &test.items {
            match item {
                Item::Literal(literal) => literals.push(literal),
                Item::List(name) => match self.names.lists.get(&name.text) {
                    Some(list) => literals.extend(list),
                    None => {
                        let why = format!("{} is no list that is known", name.text);
                        self.wrong(origin.at(name.at), why);
                        return None;
                    }
                },
            }
        }
        match check(field, test.operator, &literals) {
            Ok(check) => {
                let condition = Condition::Test(field, check);
                Some(match test.operator {
                    Operator::NotEqual => Condition::Not(Box::new(condition)),
                    _ => condition,
                })
            }
            Err(why) => {
                self.wrong(place, why);
                None
            }
        }
    }
}

fn check(field: Field, operator: Operator, literals: &[&Literal]) -> Result<Check, String> {
    let of = field.of_type();
    if operator == Operator::Exists {
        return Ok(Check::Exists);
    }
    match of {
        Type::Text | Type::Texts => {
            let texts = texts(field, literals)?;
            match operator {
                Operator::Equal | Operator::NotEqual | Operator::In => {
                    Ok(Check::TextIn(known_words(field, texts)?))
                }
                Operator::StartsWith => Ok(Check::StartsWith(texts)),
                Operator::EndsWith => Ok(Check::EndsWith(texts)),
                Operator::Contains => Ok(Check::Contains(texts)),
                Operator::Glob => Ok(Check::Glob(texts)),
                _ => Err(misfit(field, operator)),
            }
        }
        Type::Number => {
            let numbers = numbers(field, literals)?;
            let one = numbers.first().copied().unwrap_or_default();
            // A range without a number in it has its ends the wrong way round.
            const NONE: Check = Check::Between(1, 0);
            match operator {
                Operator::Equal | Operator::NotEqual | Operator::In => Ok(Check::NumberIn(numbers)),
                Operator::LessOrEqual => Ok(Check::Between(i64::MIN, one)),
                Operator::GreaterOrEqual => Ok(Check::Between(one, i64::MAX)),
                Operator::Less => {
                    Ok(one.checked_sub(1).map_or(NONE, |high| Check::Between(i64::MIN, high)))
                }
                Operator::Greater => {
                    Ok(one.checked_add(1).map_or(NONE, |low| Check::Between(low, i64::MAX)))
                }
                _ => Err(misfit(field, operator)),
            }
        }
        Type::Truth => match (operator, literals) {
            (Operator::Equal | Operator::NotEqual, [Literal::Truth(truth)]) => {
                Ok(Check::Truth(*truth))
            }
            (Operator::Equal | Operator::NotEqual, [other]) => Err(wrong_value(field, other)),
            _ => Err(misfit(field, operator)),
        },
        Type::Address => match operator {
            Operator::Equal | Operator::NotEqual | Operator::In => {
                let parse = |text: &str| text.parse().ok().map(|ip: IpAddr| ip.to_canonical());
                Ok(Check::AddressIn(parsed(field, literals, "an IP address", parse)?))
            }
            Operator::Cidr => {
                let what = "a network like 10.0.0.0/8";
                Ok(Check::Networks(parsed(field, literals, what, Network::parse)?))
            }
            _ => Err(misfit(field, operator)),
        },
    }
}

fn texts(field: Field, literals: &[&Literal]) -> Result<Vec<Box<str>>, String> {
    let mut texts = Vec::with_capacity(literals.len());
    for literal in literals {
        match literal {
            Literal::Text(text) => texts.push(text.as_str().into()),
            other => return Err(wrong_value(field, other)),
        }
    }
    texts.sort();
    texts.dedup();
    Ok(texts)
}

fn known_words(field: Field, texts: Vec<Box<str>>) -> Result<Vec<Box<str>>, String> {
    let Some(words) = field.words() else { return Ok(texts) };
    match texts.iter().find(|text| !words.contains(&&***text)) {
        Some(text) => {
            Err(format!("{} is never {text:?}; it is {}", field.path(), words.join(" or ")))
        }
        None => Ok(texts),
    }
}

fn numbers(field: Field, literals: &[&Literal]) -> Result<Vec<i64>, String> {
    let number = |literal: &&Literal| match literal {
        Literal::Number(number) => Ok(*number),
        other => Err(wrong_value(field, other)),
    };
    literals.iter().map(number).collect()
}

fn parsed<T>(
    field: Field,
    literals: &[&Literal],
    what: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, String> {
    let one = |literal: &&Literal| match literal {
        Literal::Text(text) => parse(text).ok_or_else(|| format!("{text:?} is not {what}")),
        other => Err(wrong_value(field, other)),
    };
    literals.iter().map(one).collect()
}

fn wrong_value(field: Field, literal: &Literal) -> String {
    format!("{} is {}, which {literal} is not", field.path(), field.of_type().as_str())
}

fn misfit(field: Field, operator: Operator) -> String {
    let of = field.of_type();
    let allowed = match of {
        Type::Text | Type::Texts => "= != in startswith endswith contains glob exists",
        Type::Number => "= != < <= > >= in exists",
        Type::Truth => "= != exists",
        Type::Address => "= != in cidr exists",
    };
    let (path, of, operator) = (field.path(), of.as_str(), operator.as_str());
    format!("{path} is {of}, and {operator} is not for those; these are: {allowed}")
}
