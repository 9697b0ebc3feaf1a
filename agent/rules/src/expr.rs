//! A condition as it was written. `Display` renders it so that it parses to the same again.

use std::fmt;

/// A name or a path and where it stands in the condition, in bytes. Two that stand in
/// different places are equal: only what they say counts.
#[derive(Clone, Debug)]
pub struct Word {
    pub text: String,
    pub at: usize,
}

impl PartialEq for Word {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Two at least, as in [`Expr::Any`].
    All(Vec<Expr>),
    Any(Vec<Expr>),
    Not(Box<Expr>),
    Test(Test),
    /// A macro's name: its condition stands here.
    Macro(Word),
}

/// A field, an operator and what it is held against.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    pub field: Word,
    pub operator: Operator,
    /// None for `exists`, one for comparisons, one or more for the others.
    pub items: Vec<Item>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    Literal(Literal),
    /// A list's name: its values stand here.
    List(Word),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Literal {
    Text(String),
    Number(i64),
    Truth(bool),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    StartsWith,
    EndsWith,
    Contains,
    Glob,
    Cidr,
    Exists,
}

impl Operator {
    pub const ALL: [Self; 13] = [
        Self::Equal,
        Self::NotEqual,
        Self::Less,
        Self::LessOrEqual,
        Self::Greater,
        Self::GreaterOrEqual,
        Self::In,
        Self::StartsWith,
        Self::EndsWith,
        Self::Contains,
        Self::Glob,
        Self::Cidr,
        Self::Exists,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::In => "in",
            Self::StartsWith => "startswith",
            Self::EndsWith => "endswith",
            Self::Contains => "contains",
            Self::Glob => "glob",
            Self::Cidr => "cidr",
            Self::Exists => "exists",
        }
    }

    /// Against one value, not a list.
    pub fn compares(self) -> bool {
        matches!(
            self,
            Self::Equal
                | Self::NotEqual
                | Self::Less
                | Self::LessOrEqual
                | Self::Greater
                | Self::GreaterOrEqual
        )
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(parts) => {
                join(f, parts, " and ", |part| matches!(part, Self::All(_) | Self::Any(_)))
            }
            Self::Any(parts) => join(f, parts, " or ", |part| matches!(part, Self::Any(_))),
            Self::Not(inner) => {
                f.write_str("not ")?;
                part(f, inner, matches!(**inner, Self::All(_) | Self::Any(_)))
            }
            Self::Test(test) => test.fmt(f),
            Self::Macro(name) => f.write_str(&name.text),
        }
    }
}

fn join(
    f: &mut fmt::Formatter<'_>,
    parts: &[Expr],
    word: &str,
    enclosed: impl Fn(&Expr) -> bool,
) -> fmt::Result {
    for (at, expr) in parts.iter().enumerate() {
        if at > 0 {
            f.write_str(word)?;
        }
        part(f, expr, enclosed(expr))?;
    }
    Ok(())
}

fn part(f: &mut fmt::Formatter<'_>, expr: &Expr, enclosed: bool) -> fmt::Result {
    match enclosed {
        true => write!(f, "({expr})"),
        false => write!(f, "{expr}"),
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field.text, self.operator.as_str())?;
        match self.items.as_slice() {
            [] => Ok(()),
            [only] if self.operator != Operator::In => write!(f, " {only}"),
            items => {
                f.write_str(" [")?;
                for (at, item) in items.iter().enumerate() {
                    let comma = if at > 0 { ", " } else { "" };
                    write!(f, "{comma}{item}")?;
                }
                f.write_str("]")
            }
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(literal) => literal.fmt(f),
            Self::List(name) => f.write_str(&name.text),
        }
    }
}

impl fmt::Display for Literal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Number(number) => return number.fmt(f),
            Self::Truth(truth) => return truth.fmt(f),
            Self::Text(text) => text,
        };
        f.write_str("\"")?;
        for letter in text.chars() {
            match letter {
                '"' => f.write_str("\\\"")?,
                '\\' => f.write_str("\\\\")?,
                '\n' => f.write_str("\\n")?,
                '\t' => f.write_str("\\t")?,
                '\r' => f.write_str("\\r")?,
                other => write!(f, "{other}")?,
            }
        }
        f.write_str("\"")
    }
}
