//! How an event answers: field by field, without a copy.

use std::net::IpAddr;

use crate::field::Field;
use crate::kind::Kind;

/// What the rules see of an event.
pub trait Event {
    fn kind(&self) -> Kind;

    /// `None`: the event does not have it. A value of another type than the field's counts as
    /// none.
    fn field(&self, field: Field) -> Option<Value<'_>>;
}

#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    Text(&'a str),
    Texts(&'a dyn Texts),
    Number(i64),
    Truth(bool),
    Address(IpAddr),
}

/// A list of texts that lies in its owner's own form.
pub trait Texts: std::fmt::Debug {
    /// Whether `test` holds for one of them.
    fn any(&self, test: &mut dyn FnMut(&str) -> bool) -> bool;
}

impl Texts for Vec<String> {
    fn any(&self, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.iter().any(|text| test(text))
    }
}

impl Texts for Vec<&'static str> {
    fn any(&self, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.iter().any(|text| test(text))
    }
}
