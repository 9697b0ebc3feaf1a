//! A condition's text to an [`Expr`]. By hand: the language is small, and an error must say
//! where and what in the words of who wrote the rule.
//!
//! ```text
//! condition = all {"or" all}            all  = part {"and" part}
//! part      = "not" part | "(" condition ")" | MACRO | test
//! test      = FIELD "exists"
//!           | FIELD ("=" | "!=" | "<" | "<=" | ">" | ">=") value
//!           | FIELD ["not"] ("in" | "startswith" | … | "cidr") (value | LIST | "[" items "]")
//! value     = "text" | number | true | false
//! ```
//!
//! A name with a dot in it is a field, one without is a list or a macro.

use crate::expr::{Expr, Item, Literal, Operator, Test, Word};

/// Bytes of one condition.
pub const MOST_BYTES: usize = 8192;
/// Parentheses and `not` within each other.
pub const MOST_NESTED: usize = 32;

/// `at` counts the condition's bytes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("at byte {at}: {reason}")]
pub struct ParseError {
    pub at: usize,
    pub reason: String,
}

fn error<T>(at: usize, reason: impl Into<String>) -> Result<T, ParseError> {
    Err(ParseError { at, reason: reason.into() })
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Number(i64),
    /// Comparisons, parentheses, brackets, comma.
    Sign(&'static str),
    End,
}

impl Token {
    fn shown(&self) -> String {
        match self {
            Self::Word(word) => word.clone(),
            Self::Text(text) => Literal::Text(text.clone()).to_string(),
            Self::Number(number) => number.to_string(),
            Self::Sign(sign) => (*sign).to_owned(),
            Self::End => "the end".into(),
        }
    }
}

/// The whole text is one condition, or the first thing that is wrong with it.
pub fn parse(text: &str) -> Result<Expr, ParseError> {
    if text.len() > MOST_BYTES {
        return error(0, format!("{} bytes; a condition has at most {MOST_BYTES}", text.len()));
    }
    let mut parser = Parser { tokens: tokens(text)?, next: 0, nested: 0 };
    let expr = parser.any()?;
    match parser.peek() {
        (Token::End, _) => Ok(expr),
        (token, at) => {
            error(*at, format!("`and`, `or` or the end expected, not {}", token.shown()))
        }
    }
}

fn tokens(text: &str) -> Result<Vec<(Token, usize)>, ParseError> {
    const SIGNS: [&str; 11] = ["!=", "<=", ">=", "=", "<", ">", "(", ")", "[", "]", ","];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(letter) = text[at..].chars().next() {
        let rest = &text[at..];
        let (token, length) = if letter.is_whitespace() {
            at += letter.len_utf8();
            continue;
        } else if letter == '#' {
            // To the line's end: a comment.
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        } else if letter == '"' {
            quoted(rest, at)?
        } else if rest.starts_with("==") {
            return error(at, "equality is one `=`");
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Token::Sign(sign), sign.len())
        } else if letter.is_ascii_digit() || letter == '-' {
            number(rest, at)?
        } else if letter.is_ascii_alphabetic() || letter == '_' {
            let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let length = rest.find(|c| !inside(c)).unwrap_or(rest.len());
            (Token::Word(rest[..length].to_owned()), length)
        } else if letter == '\'' {
            return error(at, "a text stands in double quotes: \"…\"");
        } else {
            return error(at, format!("{letter:?} means nothing here"));
        };
        tokens.push((token, at));
        at += length;
    }
    tokens.push((Token::End, text.len()));
    Ok(tokens)
}

/// `rest` begins with the quote.
fn quoted(rest: &str, at: usize) -> Result<(Token, usize), ParseError> {
    let mut value = String::new();
    let mut letters = rest.char_indices().skip(1);
    while let Some((offset, letter)) = letters.next() {
        match letter {
            '"' => return Ok((Token::Text(value), offset + 1)),
            '\\' => match letters.next() {
                Some((_, 'n')) => value.push('\n'),
                Some((_, 't')) => value.push('\t'),
                Some((_, 'r')) => value.push('\r'),
                Some((_, same @ ('"' | '\\'))) => value.push(same),
                _ => {
                    let known = r#"\" \\ \n \t \r are the escapes there are"#;
                    return error(at + offset, known);
                }
            },
            letter => value.push(letter),
        }
    }
    error(at, "a text without its second quote")
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ParseError> {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let length = rest[1..].find(|c| !inside(c)).map_or(rest.len(), |length| length + 1);
    let word = &rest[..length];
    let parsed = if let Some(digits) = word.strip_prefix("0o") {
        i64::from_str_radix(digits, 8)
    } else if let Some(digits) = word.strip_prefix("0x") {
        i64::from_str_radix(digits, 16)
    } else {
        word.parse()
    };
    match parsed {
        Ok(number) => Ok((Token::Number(number), length)),
        Err(_) => error(at, format!("{word} is no whole number of 64 bits")),
    }
}

struct Parser {
    tokens: Vec<(Token, usize)>,
    next: usize,
    nested: usize,
}

impl Parser {
    fn peek(&self) -> &(Token, usize) {
        // The last is `End`, and nobody goes past it.
        &self.tokens[self.next.min(self.tokens.len() - 1)]
    }

    fn take(&mut self) -> (Token, usize) {
        let token = self.peek().clone();
        self.next += 1;
        token
    }

    fn is(&mut self, expected: &Token) -> bool {
        let is = self.peek().0 == *expected;
        self.next += usize::from(is);
        is
    }

    fn is_word(&mut self, word: &str) -> bool {
        let is = matches!(&self.peek().0, Token::Word(found) if found == word);
        self.next += usize::from(is);
        is
    }

    fn any(&mut self) -> Result<Expr, ParseError> {
        let mut parts = vec![self.all()?];
        while self.is_word("or") {
            parts.push(self.all()?);
        }
        Ok(one_or(parts, Expr::Any))
    }

    fn all(&mut self) -> Result<Expr, ParseError> {
        let mut parts = vec![self.part()?];
        while self.is_word("and") {
            parts.push(self.part()?);
        }
        Ok(one_or(parts, Expr::All))
    }

    fn part(&mut self) -> Result<Expr, ParseError> {
        let (token, at) = self.take();
        let word = match token {
            Token::Sign("(") => {
                return self.within(at, |parser| {
                    let inner = parser.any()?;
                    match parser.take() {
                        (Token::Sign(")"), _) => Ok(inner),
                        (token, at) => error(at, format!("`)` expected, not {}", token.shown())),
                    }
                });
            }
            Token::Word(word) => word,
            other => {
                return error(at, format!("a field or a macro expected, not {}", other.shown()));
            }
        };
        if word == "not" {
            return self.within(at, |parser| Ok(Expr::Not(Box::new(parser.part()?))));
        }
        if is_keyword(&word) {
            return error(at, format!("a field or a macro expected, not `{word}`"));
        }
        let word = Word { text: word, at };
        match word.text.contains('.') {
            true => self.test(word),
            false => Ok(Expr::Macro(word)),
        }
    }

    fn within(
        &mut self,
        at: usize,
        inner: impl FnOnce(&mut Self) -> Result<Expr, ParseError>,
    ) -> Result<Expr, ParseError> {
        self.nested += 1;
        if self.nested > MOST_NESTED {
            return error(at, format!("nested more than {MOST_NESTED} deep"));
        }
        let expr = inner(self)?;
        self.nested -= 1;
        Ok(expr)
    }

    fn test(&mut self, field: Word) -> Result<Expr, ParseError> {
        let negated = self.is_word("not");
        let (token, at) = self.take();
        let name = match &token {
            Token::Word(word) => word.as_str(),
            Token::Sign(sign) => sign,
            _ => "",
        };
        let Some(operator) = Operator::ALL.into_iter().find(|known| known.as_str() == name) else {
            let shown = token.shown();
            let known = Operator::ALL.map(Operator::as_str).join(" ");
            return error(at, format!("one of {known} expected, not {shown}"));
        };
        if negated && operator.compares() {
            return error(
                at,
                format!("`not` does not stand before {name}; before the field it may"),
            );
        }
        let items = match operator {
            Operator::Exists => Vec::new(),
            comparison if comparison.compares() => match self.item()? {
                (literal @ Item::Literal(_), _) => vec![literal],
                (Item::List(list), at) => {
                    let why = format!("{name} wants a value; of a list ({}) use `in`", list.text);
                    return error(at, why);
                }
            },
            _ => self.items()?,
        };
        let test = Expr::Test(Test { field, operator, items });
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }

    fn items(&mut self) -> Result<Vec<Item>, ParseError> {
        let (_, at) = *self.peek();
        if !self.is(&Token::Sign("[")) {
            return Ok(vec![self.item()?.0]);
        }
        if self.is(&Token::Sign("]")) {
            return error(at, "an empty list: nothing is in it");
        }
        let mut items = Vec::new();
        loop {
            items.push(self.item()?.0);
            match self.take() {
                (Token::Sign("]"), _) => return Ok(items),
                (Token::Sign(","), _) => {
                    if self.is(&Token::Sign("]")) {
                        return Ok(items);
                    }
                }
                (token, at) => {
                    return error(at, format!("`,` or `]` expected, not {}", token.shown()));
                }
            }
        }
    }

    fn item(&mut self) -> Result<(Item, usize), ParseError> {
        let (token, at) = self.take();
        let item = match token {
            Token::Text(text) => Item::Literal(Literal::Text(text)),
            Token::Number(number) => Item::Literal(Literal::Number(number)),
            Token::Word(word) if word == "true" => Item::Literal(Literal::Truth(true)),
            Token::Word(word) if word == "false" => Item::Literal(Literal::Truth(false)),
            Token::Word(word) if word.contains('.') => {
                return error(
                    at,
                    format!("{word}: a field is compared with values, not with fields"),
                );
            }
            Token::Word(word) if !is_keyword(&word) => Item::List(Word { text: word, at }),
            other => {
                return error(at, format!("a value or a list expected, not {}", other.shown()));
            }
        };
        Ok((item, at))
    }
}

fn one_or(mut parts: Vec<Expr>, of: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    match parts.len() {
        1 => parts.remove(0),
        _ => of(parts),
    }
}

/// Words that no list and no macro may have as their name.
pub(crate) fn is_keyword(word: &str) -> bool {
    ["and", "or", "not", "true", "false"].contains(&word)
        || Operator::ALL.iter().any(|operator| operator.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, rendered: &str) {
        assert_eq!(parse(text).unwrap().to_string(), rendered);
    }

    #[test]
    fn and_binds_closer_than_or() {
        check(
            r#"a.b = 1 or a.c exists and not (x or y) # and so on"#,
            r#"a.b = 1 or a.c exists and not (x or y)"#,
        );
        check("(x and y) and z", "(x and y) and z");
        check("((x))", "x");
    }

    #[test]
    fn a_list_is_named_or_written() {
        check("a.b in shells", "a.b in [shells]");
        check(r#"a.b not in [shells, "/x",]"#, r#"not a.b in [shells, "/x"]"#);
        check(r#"a.b startswith "/etc""#, r#"a.b startswith "/etc""#);
        check("a.b = 0o755", "a.b = 493");
        check(r#"a.b = "\"\\\n""#, r#"a.b = "\"\\\n""#);
    }

    #[track_caller]
    fn check_error(text: &str, at: usize, words: &str) {
        let error = parse(text).unwrap_err();
        assert!(error.at == at && error.reason.contains(words), "{text}: {error:?}");
    }

    #[test]
    fn an_error_says_where_and_what() {
        check_error("", 0, "a field or a macro");
        check_error("a.b", 3, "one of = !=");
        check_error("a.b = ", 6, "a value or a list");
        check_error("a.b == 1", 4, "one `=`");
        check_error("a.b = shells", 6, "use `in`");
        check_error("a.b = c.d", 6, "not with fields");
        check_error("a.b in []", 7, "empty list");
        check_error("a.b = 'x'", 6, "double quotes");
        check_error("a.b = \"x", 6, "second quote");
        check_error(r#"a.b = "\x""#, 7, "escapes");
        check_error("a.b = 99999999999999999999", 6, "64 bits");
        check_error("a.b = 12abc", 6, "12abc");
        check_error("(x", 2, "`)` expected");
        check_error("x y", 2, "`and`, `or`");
        check_error("x and or y", 6, "not `or`");
        check_error("a.b not = 1", 8, "before the field");
        check_error("a.b = 1 § c", 8, "means nothing");
    }

    #[test]
    fn nesting_and_length_have_bounds() {
        let nested = |depth: usize| format!("{}x{}", "(".repeat(depth), ")".repeat(depth));
        assert!(parse(&nested(MOST_NESTED)).is_ok());
        check_error(&nested(MOST_NESTED + 1), MOST_NESTED, "nested");
        check_error(&"not ".repeat(2000), 4 * MOST_NESTED, "nested");
        check_error(&"x or ".repeat(2000), 0, "at most 8192");
    }
}
