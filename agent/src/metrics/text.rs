//! Writing samples: names, labels and numbers into one growing text.
//!
//! A scrape of 200 busy containers is 100,000 samples, and a sample is mostly labels that
//! hundreds of others share. So labels are text that is copied, a container's own ones
//! rendered once, and nothing is formatted through a trait object. Knows nothing of
//! families, and of what the numbers mean.

use std::borrow::Cow;

/// A sample's value: whole where the source counts, so that no digit is lost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

impl From<u64> for Value {
    fn from(value: u64) -> Value {
        Value::Whole(value)
    }
}

impl From<f64> for Value {
    fn from(value: f64) -> Value {
        Value::Real(value)
    }
}

impl Value {
    pub fn write(self, out: &mut String) {
        match self {
            Value::Whole(value) => out.push_str(itoa::Buffer::new().format(value)),
            Value::Real(value) => out.push_str(dtoa::Buffer::new().format(value)),
        }
    }
}

/// Something that writes labels after those that are there already.
pub(super) trait Labels {
    /// `out` ends with `{` or with a label.
    fn write(&self, out: &mut String);
}

/// Labels that are text already: `id="…",image="…"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rendered<'a>(pub &'a str);

impl Labels for Rendered<'_> {
    fn write(&self, out: &mut String) {
        separate(out);
        out.push_str(self.0);
    }
}

impl<V: LabelValue, const N: usize> Labels for [(&str, V); N] {
    fn write(&self, out: &mut String) {
        for (name, value) in self {
            separate(out);
            out.push_str(name);
            out.push_str("=\"");
            value.write(out);
            out.push('"');
        }
    }
}

impl<A: Labels, B: Labels> Labels for (A, B) {
    fn write(&self, out: &mut String) {
        self.0.write(out);
        self.1.write(out);
    }
}

impl<L: Labels> Labels for Option<L> {
    fn write(&self, out: &mut String) {
        if let Some(labels) = self {
            labels.write(out);
        }
    }
}

fn separate(out: &mut String) {
    if !out.ends_with('{') {
        out.push(',');
    }
}

/// What may stand behind a label's name.
pub(super) trait LabelValue {
    fn write(&self, out: &mut String);
}

impl LabelValue for &str {
    fn write(&self, out: &mut String) {
        let special = |byte: u8| matches!(byte, b'"' | b'\\' | b'\n');
        // All of them, as that is many at a time: nearly no value has one.
        if !self.bytes().fold(false, |found, byte| found | special(byte)) {
            return out.push_str(self);
        }
        for character in self.chars() {
            match character {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                other => out.push(other),
            }
        }
    }
}

impl LabelValue for String {
    fn write(&self, out: &mut String) {
        self.as_str().write(out);
    }
}

impl LabelValue for Cow<'_, str> {
    fn write(&self, out: &mut String) {
        (&**self).write(out);
    }
}

impl LabelValue for u64 {
    fn write(&self, out: &mut String) {
        out.push_str(itoa::Buffer::new().format(*self));
    }
}

impl LabelValue for u32 {
    fn write(&self, out: &mut String) {
        u64::from(*self).write(out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(labels: impl Labels, expected: &str) {
        let mut out = "{".to_owned();
        labels.write(&mut out);
        assert_eq!(out, format!("{{{expected}"));
    }

    #[test]
    fn labels_are_separated_and_escaped() {
        let base = Rendered(r#"id="/a",name="web""#);
        check(base, r#"id="/a",name="web""#);
        check((base, [("op", "read"), ("to", "x")]), r#"id="/a",name="web",op="read",to="x""#);
        check([("a", "\"quoted\" \\ \n".to_owned())], r#"a="\"quoted\" \\ \n""#);
        check(([("cpu", 3_u32)], [("slot", 7_u64)]), r#"cpu="3",slot="7""#);
        check([("a", Cow::Borrowed("ü{"))], "a=\"ü{\"");
        // A value that ends with a brace is no beginning of a list.
        check(([("a", "{")], [("b", "")]), r#"a="{",b="""#);
    }

    #[test]
    fn whole_numbers_keep_every_digit_and_real_ones_show_that_they_are() {
        let text = |value: Value| {
            let mut out = String::new();
            value.write(&mut out);
            out
        };
        assert_eq!(text(u64::MAX.into()), "18446744073709551615");
        assert_eq!(text(2.0.into()), "2.0");
        assert_eq!(text(0.25.into()), "0.25");
    }
}
