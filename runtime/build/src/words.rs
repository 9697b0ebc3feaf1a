//! Words with quotes, escapes and variables, as BuildKit's shell lexer reads them.
//!
//! Owns `$NAME`, `${NAME}`, `${NAME:-word}`, `:+`, `:?` and their forms without colon, and
//! what quotes and escapes do. Pure. Called by [`crate::Instruction::expanded`].

use std::iter::Peekable;
use std::str::Chars;

/// The value of a name, if it has one.
pub type Variables<'v> = dyn Fn(&str) -> Option<String> + 'v;

/// `${a:-${b:-…}}` may be this deep.
const DEEPEST: usize = 32;

/// One word: quotes are taken off, variables put in.
pub(crate) fn expand(
    text: &str,
    variables: &Variables<'_>,
    escape: char,
) -> Result<String, String> {
    let mut lexer = Lexer::new(text, variables, escape);
    lexer.run(None)?;
    Ok(lexer.out.text)
}

/// The same, and what comes out is split at spaces that are not quoted.
pub(crate) fn expand_words(
    text: &str,
    variables: &Variables<'_>,
    escape: char,
) -> Result<Vec<String>, String> {
    let mut lexer = Lexer::new(text, variables, escape);
    lexer.run(None)?;
    Ok(lexer.out.words())
}

/// A heredoc's body: variables are put in, quotes are text.
pub(crate) fn expand_text(
    text: &str,
    variables: &Variables<'_>,
    escape: char,
) -> Result<String, String> {
    let mut lexer = Lexer::new(text, variables, escape);
    while let Some(&c) = lexer.chars.peek() {
        match c {
            '$' => {
                let value = lexer.variable()?;
                lexer.out.push_str(&value, true);
            }
            _ if c == escape => lexer.escaped_in_double_quotes(),
            _ => {
                lexer.chars.next();
                lexer.out.push(c, true);
            }
        }
    }
    Ok(lexer.out.text)
}

/// Splits at spaces outside of quotes; quotes and escapes stay as they are.
pub(crate) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(c, '"' | '\'') => quote = Some(c),
            Some(open) if c == open => quote = None,
            _ => {}
        }
        word.push(c);
        if c == escape && quote != Some('\'') {
            word.extend(chars.next());
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// The text so far, and which of its characters divide words.
#[derive(Debug, Default)]
struct Out {
    text: String,
    /// Byte offsets of spaces that were not quoted.
    spaces: Vec<usize>,
    /// Byte offsets at which something quoted stands, which makes a word even if empty.
    quoted: Vec<usize>,
}

impl Out {
    fn push(&mut self, c: char, quoted: bool) {
        if !quoted && c.is_whitespace() {
            self.spaces.push(self.text.len());
        }
        self.text.push(c);
    }

    fn push_str(&mut self, text: &str, quoted: bool) {
        text.chars().for_each(|c| self.push(c, quoted));
    }

    fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        let mut begin = 0;
        let ends = self.spaces.iter().copied().chain([self.text.len()]);
        for end in ends {
            let was_quoted = self.quoted.iter().any(|at| (begin..=end).contains(at));
            if end > begin || was_quoted {
                words.push(self.text[begin..end].to_owned());
            }
            begin = (end + 1).min(self.text.len());
            while begin < self.text.len() && !self.text.is_char_boundary(begin) {
                begin += 1;
            }
        }
        words
    }
}

struct Lexer<'t, 'v> {
    chars: Peekable<Chars<'t>>,
    variables: &'t Variables<'v>,
    escape: char,
    depth: usize,
    out: Out,
}

impl<'t, 'v> Lexer<'t, 'v> {
    fn new(text: &'t str, variables: &'t Variables<'v>, escape: char) -> Self {
        Self { chars: text.chars().peekable(), variables, escape, depth: 0, out: Out::default() }
    }

    /// Up to `stop`, which is taken, or the end.
    fn run(&mut self, stop: Option<char>) -> Result<(), String> {
        while let Some(&c) = self.chars.peek() {
            if stop == Some(c) {
                self.chars.next();
                return Ok(());
            }
            match c {
                '\'' => self.single_quoted()?,
                '"' => self.double_quoted()?,
                '$' => {
                    let value = self.variable()?;
                    self.out.push_str(&value, false);
                }
                _ => {
                    self.chars.next();
                    if c == self.escape {
                        // An escape at the very end stands for itself in no dialect.
                        if let Some(next) = self.chars.next() {
                            self.out.push(next, true);
                        }
                    } else {
                        self.out.push(c, false);
                    }
                }
            }
        }
        match stop {
            Some(stop) => {
                Err(format!("unexpected end of statement while looking for matching {stop}"))
            }
            None => Ok(()),
        }
    }

    fn single_quoted(&mut self) -> Result<(), String> {
        self.chars.next();
        self.out.quoted.push(self.out.text.len());
        for c in self.chars.by_ref() {
            if c == '\'' {
                return Ok(());
            }
            self.out.push(c, true);
        }
        Err("unexpected end of statement while looking for matching single-quote".into())
    }

    fn double_quoted(&mut self) -> Result<(), String> {
        self.chars.next();
        self.out.quoted.push(self.out.text.len());
        while let Some(&c) = self.chars.peek() {
            match c {
                '"' => {
                    self.chars.next();
                    return Ok(());
                }
                '$' => {
                    let value = self.variable()?;
                    self.out.push_str(&value, true);
                }
                _ if c == self.escape => self.escaped_in_double_quotes(),
                _ => {
                    self.chars.next();
                    self.out.push(c, true);
                }
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".into())
    }

    /// There, an escape escapes a quote, a dollar and itself, and is text before all else.
    fn escaped_in_double_quotes(&mut self) {
        self.chars.next();
        match self.chars.peek() {
            Some(&next) if next == '"' || next == '$' || next == self.escape => {
                self.chars.next();
                self.out.push(next, true);
            }
            _ => self.out.push(self.escape, true),
        }
    }

    /// At a dollar: what stands for it.
    fn variable(&mut self) -> Result<String, String> {
        self.chars.next();
        let Some(&first) = self.chars.peek() else { return Ok("$".into()) };
        if first == '{' {
            self.chars.next();
            return self.braced();
        }
        let name = self.name();
        match name.is_empty() {
            true => Ok("$".into()),
            false => Ok((self.variables)(&name).unwrap_or_default()),
        }
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        while let Some(&c) = self.chars.peek() {
            if !c.is_ascii_alphanumeric() && c != '_' {
                break;
            }
            name.push(c);
            self.chars.next();
            // `$1x` is `$1` and an x.
            if name.len() == 1 && c.is_ascii_digit() {
                break;
            }
        }
        name
    }

    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        if name.is_empty() {
            return Err("bad substitution: a name is missing in ${}".into());
        }
        let value = (self.variables)(&name);
        let Some(mut modifier) = self.chars.next() else {
            return Err("syntax error: missing '}'".into());
        };
        if modifier == '}' {
            return Ok(value.unwrap_or_default());
        }
        // With a colon, an empty value is none.
        let value = if modifier == ':' {
            modifier = self.chars.next().ok_or("syntax error: missing modifier after ':'")?;
            value.filter(|value| !value.is_empty())
        } else {
            value
        };
        if !matches!(modifier, '-' | '+' | '?') {
            return Err(format!("unsupported modifier ({modifier}) in substitution"));
        }
        let word = self.nested()?;
        match (modifier, value) {
            ('-', Some(value)) => Ok(value),
            ('-', None) => Ok(word),
            ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, Some(value)) => Ok(value),
            (_, None) if word.is_empty() => Err(format!("{name}: is not allowed to be unset")),
            (_, None) => Err(format!("{name}: {word}")),
        }
    }

    /// The word of a modifier, up to its brace.
    fn nested(&mut self) -> Result<String, String> {
        if self.depth == DEEPEST {
            return Err(format!("substitutions are nested more than {DEEPEST} deep"));
        }
        self.depth += 1;
        let outer = std::mem::take(&mut self.out);
        let done = self.run(Some('}'));
        let word = std::mem::replace(&mut self.out, outer).text;
        self.depth -= 1;
        done.map(|()| word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let value = match name {
            "A" => "a",
            "TWO" => "one two",
            "EMPTY" => "",
            "1" => "first",
            _ => return None,
        };
        Some(value.into())
    }

    #[test]
    fn variables_quotes_and_escapes_are_buildkits() {
        let check = |text: &str, expected: &str| {
            assert_eq!(expand(text, &variables, '\\').as_deref(), Ok(expected), "{text}");
        };
        check("plain", "plain");
        check("$A", "a");
        check("x${A}y", "xay");
        check("$AB", "");
        check("$1x", "firstx");
        check("${NO:-word}", "word");
        check("${EMPTY:-word}", "word");
        check("${EMPTY-word}", "");
        check("${A:+set}", "set");
        check("${NO:+set}", "");
        check("${EMPTY:+set}", "");
        check("${EMPTY+set}", "set");
        check("${NO:-${A:-x}/b}", "a/b");
        check("${NO:-'}'}", "}");
        check(r"\$A", "$A");
        check(r"\\$A", r"\a");
        check(r#"'$A' "$A""#, "$A a");
        check(r#""a\"b\n""#, r#"a"b\n"#);
        check("\"${TWO}\"", "one two");
        check("a$", "a$");
        check("$-", "$-");
        check("${A:?no}", "a");
    }

    #[test]
    fn a_wrong_substitution_is_named() {
        let check = |text: &str, expected: &str| {
            let error = expand(text, &variables, '\\').unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        check("${A", "missing '}'");
        check("${}", "a name is missing");
        check("${A#x}", "unsupported modifier (#)");
        check("${NO:?must be set}", "NO: must be set");
        check("'a", "single-quote");
        check("\"a", "double-quote");
        check(&"${N:-".repeat(40), "deep");
    }

    #[test]
    fn what_is_not_quoted_is_split_into_words() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(expand_words(text, &variables, '\\').unwrap(), expected, "{text}");
        };
        check("80 $TWO", &["80", "one", "two"]);
        check("\"$TWO\"", &["one two"]);
        check("''", &[""]);
        check("$NO", &[]);
        check("$EMPTY$A", &["a"]);
        check(r"a\ b", &["a b"]);
        check("ä\u{3000}ö", &["ä", "ö"]);
    }

    #[test]
    fn words_are_split_outside_of_quotes_and_kept_as_written() {
        let check = |text: &str, expected: &[&str]| {
            assert_eq!(split_quoted(text, '\\'), expected, "{text}");
        };
        check(r#"a=1 b="x y" c=z\ w"#, &["a=1", r#"b="x y""#, r"c=z\ w"]);
        check("  ", &[]);
        check("a='\\' b", &["a='\\'", "b"]);
    }

    #[test]
    fn a_heredocs_quotes_are_text() {
        let text = expand_text("say \"$A\" '\\$A'\n", &variables, '\\').unwrap();
        assert_eq!(text, "say \"a\" '$A'\n");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[a$A{}:+?'\" \\\\ä-]{0,60}") {
            let _ = expand(&text, &variables, '\\');
            let _ = expand_words(&text, &variables, '\\');
            let _ = expand_text(&text, &variables, '\\');
        }

        #[test]
        fn single_quotes_keep_everything(text in "[^']{0,40}") {
            let quoted = format!("'{text}'");
            proptest::prop_assert_eq!(expand(&quoted, &variables, '\\'), Ok(text));
        }
    }
}
