//! Metric families in either text format.
//!
//! The formats differ in little, and all of it is here:
//!
//! - a counter's `# HELP` and `# TYPE` carry `_total` in 0.0.4 and not in OpenMetrics;
//!   its samples do in both;
//! - `# UNIT` exists in OpenMetrics only, where the name's last word is a base unit.
//!
//! A family without series writes nothing, its descriptor included. The text goes out in
//! pieces: a large answer is on its way while the rest of it is written, and never lies in
//! memory whole. An error means that its reader has gone, and the rest need not be written.

use std::fmt::Error;

use super::budget::Budget;
use super::text::{Labels, Value};
use super::{Buckets, Format};

/// Long enough that handing one over costs nothing, and short enough to come from the heap:
/// the allocator maps what is longer than 128 KiB anew each time.
const PIECE: usize = 96 << 10;

/// Writes one family after the other.
pub(super) struct Families<'a> {
    out: String,
    format: Format,
    /// Takes the text; false if nobody wants more of it.
    take: &'a mut dyn FnMut(String) -> bool,
    pub budget: Budget,
    /// `name{` of the family that is being written.
    head: String,
    /// Of a histogram: its labels, and its bounds as text.
    labels: String,
    bounds: Vec<(f64, String)>,
}

impl<'a> Families<'a> {
    pub fn new(format: Format, budget: Budget, take: &'a mut dyn FnMut(String) -> bool) -> Self {
        Self {
            out: String::with_capacity(PIECE + 4096),
            format,
            take,
            budget,
            head: String::new(),
            labels: String::new(),
            bounds: Vec::new(),
        }
    }

    /// Ends the answer.
    pub fn finish(mut self) -> Result<(), Error> {
        if self.format == Format::OpenMetrics {
            self.out.push_str("# EOF\n");
        }
        self.hand_over(0)
    }

    /// `name` ends with `_total`.
    pub fn counter<L: Labels, V: Into<Value>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        debug_assert!(name.ends_with("_total"), "{name}");
        self.scalars(name, help, "counter", series)
    }

    pub fn gauge<L: Labels, V: Into<Value>>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        self.scalars(name, help, "gauge", series)
    }

    /// A counter without labels.
    pub fn counter_of_host(
        &mut self,
        name: &str,
        help: &str,
        value: impl Into<Value>,
    ) -> Result<(), Error> {
        if !self.budget.take(1) {
            return Ok(());
        }
        self.describe(name, help, "counter");
        self.sample(name, value.into())
    }

    /// A gauge without labels.
    pub fn gauge_of_host(
        &mut self,
        name: &str,
        help: &str,
        value: impl Into<Value>,
    ) -> Result<(), Error> {
        if !self.budget.take(1) {
            return Ok(());
        }
        self.describe(name, help, "gauge");
        self.sample(name, value.into())
    }

    pub fn histogram<L: Labels>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (L, Buckets)>,
    ) -> Result<(), Error> {
        let mut described = false;
        for (labels, histogram) in series {
            // Its buckets, its sum and its count.
            if !self.budget.take(histogram.buckets.len() as u64 + 2) {
                continue;
            }
            if !std::mem::replace(&mut described, true) {
                self.describe(name, help, "histogram");
                self.bounds.clear();
            }
            self.labels.clear();
            self.labels.push('{');
            labels.write(&mut self.labels);
            self.labels.push_str("} ");
            self.one_of_histogram(name, "_sum", Value::Real(histogram.sum_seconds));
            self.one_of_histogram(name, "_count", Value::Whole(histogram.count));
            let mut cumulative = 0;
            for (index, (bound, count)) in histogram.buckets.iter().enumerate() {
                cumulative += count;
                self.out.push_str(name);
                self.out.push_str("_bucket{le=\"");
                let bound = bound_text(&mut self.bounds, index, *bound);
                self.out.push_str(bound);
                self.out.push('"');
                if self.labels != "{} " {
                    self.out.push(',');
                }
                self.out.push_str(&self.labels[1..]);
                Value::Whole(cumulative).write(&mut self.out);
                self.out.push('\n');
            }
            self.hand_over(PIECE)?;
        }
        Ok(())
    }

    fn one_of_histogram(&mut self, name: &str, suffix: &str, value: Value) {
        self.out.push_str(name);
        self.out.push_str(suffix);
        self.out.push_str(&self.labels);
        value.write(&mut self.out);
        self.out.push('\n');
    }

    fn scalars<L: Labels, V: Into<Value>>(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        series: impl IntoIterator<Item = (L, V)>,
    ) -> Result<(), Error> {
        let mut described = false;
        for (labels, value) in series {
            if !self.budget.take(1) {
                continue;
            }
            if !std::mem::replace(&mut described, true) {
                self.describe(name, help, kind);
                self.head.clear();
                self.head.push_str(name);
                self.head.push('{');
            }
            self.out.push_str(&self.head);
            labels.write(&mut self.out);
            self.out.push_str("} ");
            value.into().write(&mut self.out);
            self.out.push('\n');
            self.hand_over(PIECE)?;
        }
        Ok(())
    }

    fn sample(&mut self, name: &str, value: Value) -> Result<(), Error> {
        self.out.push_str(name);
        self.out.push(' ');
        value.write(&mut self.out);
        self.out.push('\n');
        self.hand_over(PIECE)
    }

    fn describe(&mut self, name: &str, help: &str, kind: &str) {
        let open = self.format == Format::OpenMetrics;
        let family = match kind {
            "counter" if open => name.strip_suffix("_total").unwrap_or(name),
            _ => name,
        };
        for (word, text) in [("HELP", help), ("TYPE", kind)] {
            self.line(word, family, text);
        }
        let unit = ["seconds", "bytes"]
            .into_iter()
            .find(|unit| family.strip_suffix(unit).is_some_and(|stem| stem.ends_with('_')));
        if let (true, Some(unit)) = (open, unit) {
            self.line("UNIT", family, unit);
        }
    }

    fn line(&mut self, word: &str, family: &str, text: &str) {
        for part in ["# ", word, " ", family, " ", text, "\n"] {
            self.out.push_str(part);
        }
    }

    /// Passes on what was written, if there is more than `length` of it.
    fn hand_over(&mut self, length: usize) -> Result<(), Error> {
        if self.out.len() <= length {
            return Ok(());
        }
        let next = if length == 0 { String::new() } else { String::with_capacity(PIECE + 4096) };
        match (self.take)(std::mem::replace(&mut self.out, next)) {
            true => Ok(()),
            false => Err(Error),
        }
    }
}

/// The same for each series of a family, and so rendered for the first alone.
fn bound_text(known: &mut Vec<(f64, String)>, index: usize, bound: f64) -> &str {
    if known.get(index).is_none_or(|(at, _)| *at != bound) {
        let mut text = String::new();
        match bound.is_finite() {
            true => Value::Real(bound).write(&mut text),
            false => text.push_str("+Inf"),
        }
        known.truncate(index);
        known.push((bound, text));
    }
    &known[index].1
}
