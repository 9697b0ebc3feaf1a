//! Rules over audit events: which event is worth an alert.
//!
//! [`RuleSet::build`] reads rule files (TOML), the default set among them, and names everything
//! that is wrong with file, line, column and reason. [`RuleSet::matches`] says which rules an
//! event matches; [`Limiter`] how many of a rule's alerts about one container may be told.
//! This crate opens no file, makes no JSON and knows no kernel: the agent gives it events
//! through the trait [`Event`].
//!
//! ```text
//! source   a file's TOML, with positions      resolve   names looked up, types checked
//! parse    a condition's text → Expr          possible  can it be true at all
//! expr     a condition as written, and back   set       rules by kind of event
//! ```

mod address;
mod condition;
mod expr;
mod field;
mod glob;
mod kind;
mod parse;
mod possible;
mod problem;
mod rate;
mod resolve;
mod set;
mod source;
mod value;

pub use expr::{Expr, Item, Literal, Operator, Test, Word};
pub use field::{Field, Type};
pub use kind::{Kind, Kinds};
pub use parse::{ParseError, parse};
pub use problem::{Problem, Problems};
pub use rate::{Limiter, Rate, Verdict};
pub use set::{Rule, RuleSet, Severity};
pub use source::Source;
pub use value::{Event, Texts, Value};

/// The rules that hold where nobody chose others. `default.toml` explains each.
pub const DEFAULT: Source<'static> =
    Source { name: "default.toml", text: include_str!("../default.toml") };
