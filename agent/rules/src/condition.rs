//! A condition with its names looked up: what is asked of each event.
//!
//! An absent field makes a test false; `!=` is `not (… = …)`, so it holds for an absent field.

use std::net::IpAddr;

use crate::address::Network;
use crate::field::Field;
use crate::glob;
use crate::kind::Kind;
use crate::value::{Event, Value};

#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    All(Vec<Condition>),
    Any(Vec<Condition>),
    Not(Box<Condition>),
    Test(Field, Check),
    /// Left by [`Condition::of_kind`].
    Known(bool),
}

/// What is asked of one field. Lists of texts are sorted and hold nothing twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Check {
    Exists,
    TextIn(Vec<Box<str>>),
    StartsWith(Vec<Box<str>>),
    EndsWith(Vec<Box<str>>),
    Contains(Vec<Box<str>>),
    Glob(Vec<Box<str>>),
    NumberIn(Vec<i64>),
    /// Both bounds belong to it; it may be empty.
    Between(i64, i64),
    Truth(bool),
    AddressIn(Vec<IpAddr>),
    Networks(Vec<Network>),
}

/// Up to here a look at each is quicker than a binary search.
const FEW: usize = 8;

impl Check {
    pub fn holds(&self, value: Value<'_>) -> bool {
        match value {
            Value::Text(text) => self.holds_of_text(text),
            Value::Texts(texts) => match self {
                Self::Exists => true,
                _ => texts.any(&mut |text| self.holds_of_text(text)),
            },
            Value::Number(number) => match self {
                Self::Exists => true,
                Self::NumberIn(numbers) => numbers.contains(&number),
                Self::Between(low, high) => (*low..=*high).contains(&number),
                _ => false,
            },
            Value::Truth(truth) => match self {
                Self::Exists => true,
                Self::Truth(expected) => truth == *expected,
                _ => false,
            },
            Value::Address(address) => {
                // A socket of the sixth version reaches the fourth by ::ffff:A.B.C.D.
                let address = address.to_canonical();
                match self {
                    Self::Exists => true,
                    Self::AddressIn(addresses) => addresses.contains(&address),
                    Self::Networks(networks) => networks.iter().any(|of| of.contains(address)),
                    _ => false,
                }
            }
        }
    }

    pub fn holds_of_text(&self, text: &str) -> bool {
        match self {
            Self::Exists => true,
            Self::TextIn(texts) if texts.len() <= FEW => texts.iter().any(|of| **of == *text),
            Self::TextIn(texts) => texts.binary_search_by(|of| (**of).cmp(text)).is_ok(),
            Self::StartsWith(texts) => texts.iter().any(|of| text.starts_with(&**of)),
            Self::EndsWith(texts) => texts.iter().any(|of| text.ends_with(&**of)),
            Self::Contains(texts) => texts.iter().any(|of| text.contains(&**of)),
            Self::Glob(globs) => {
                globs.iter().any(|glob| glob::matches(glob.as_bytes(), text.as_bytes()))
            }
            _ => false,
        }
    }
}

impl Condition {
    pub fn holds<E: Event + ?Sized>(&self, event: &E) -> bool {
        match self {
            Self::All(parts) => parts.iter().all(|part| part.holds(event)),
            Self::Any(parts) => parts.iter().any(|part| part.holds(event)),
            Self::Not(inner) => !inner.holds(event),
            Self::Test(field, check) => event.field(*field).is_some_and(|value| check.holds(value)),
            Self::Known(truth) => *truth,
        }
    }

    /// What is left of it for events of one kind: tests of fields that the kind lacks are
    /// false, and what follows from that is not asked again at each event.
    pub fn of_kind(&self, kind: Kind) -> Self {
        match self {
            Self::All(parts) => Self::joined(parts, kind, false, Self::All),
            Self::Any(parts) => Self::joined(parts, kind, true, Self::Any),
            Self::Not(inner) => match inner.of_kind(kind) {
                Self::Known(truth) => Self::Known(!truth),
                inner => Self::Not(Box::new(inner)),
            },
            Self::Test(field, _) if !field.kinds().contains(kind) => Self::Known(false),
            other => other.clone(),
        }
    }

    /// `decides`: the truth of one part that makes it the truth of all.
    fn joined(parts: &[Self], kind: Kind, decides: bool, of: impl Fn(Vec<Self>) -> Self) -> Self {
        let mut left = Vec::new();
        for part in parts {
            match part.of_kind(kind) {
                Self::Known(truth) if truth == decides => return Self::Known(decides),
                Self::Known(_) => {}
                part => left.push(part),
            }
        }
        match left.len() {
            0 => Self::Known(!decides),
            1 => left.remove(0),
            _ => of(left),
        }
    }
}
