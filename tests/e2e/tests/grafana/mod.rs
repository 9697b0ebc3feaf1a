//! The dashboards as typed data, and what their queries name.
//!
//! The types hold exactly the part of Grafana's classic dashboard model (v9 to v12) that
//! our files use: an unknown or misspelt key, a missing key and a value of another type
//! are errors, as with the TypeScript types that Grafana publishes (`@grafana/schema`).

#![allow(dead_code, reason = "each test program uses its own part of this module")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

/// The repository's folder of dashboards and rules.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../dashboards")
}

pub fn dashboards() -> Vec<(String, Dashboard)> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder().join("grafana"))
        .expect("dashboards/grafana can be read")
        .map(|entry| entry.expect("dashboards/grafana can be listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|path| {
            let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a dashboard can be read");
            let dashboard = serde_json::from_str(&text)
                .unwrap_or_else(|error| panic!("{name} is not a Grafana dashboard: {error}"));
            (name, dashboard)
        })
        .collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Dashboard {
    pub uid: String,
    pub title: String,
    pub description: String,
    pub tags: Vec<String>,
    pub schema_version: u32,
    pub version: u32,
    pub editable: bool,
    pub graph_tooltip: u8,
    pub timezone: String,
    pub refresh: String,
    pub time: TimeRange,
    pub timepicker: Map<String, Value>,
    pub fiscal_year_start_month: u8,
    pub week_start: String,
    pub live_now: bool,
    pub links: Vec<Link>,
    pub annotations: Annotations,
    pub templating: Templating,
    pub panels: Vec<Panel>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeRange {
    pub from: String,
    pub to: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Link {
    pub title: String,
    #[serde(rename = "type")]
    pub kind: LinkKind,
    pub tags: Vec<String>,
    pub as_dropdown: bool,
    pub include_vars: bool,
    pub keep_time: bool,
    pub target_blank: bool,
    pub icon: String,
    pub tooltip: String,
    pub url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LinkKind {
    Link,
    Dashboards,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Annotations {
    pub list: Vec<Map<String, Value>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Templating {
    pub list: Vec<Variable>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Variable {
    pub name: String,
    pub label: String,
    #[serde(rename = "type")]
    pub kind: VariableKind,
    pub datasource: Option<Datasource>,
    pub query: Value,
    pub refresh: u8,
    pub sort: Option<u8>,
    pub regex: String,
    pub hide: u8,
    pub multi: bool,
    pub include_all: bool,
    pub all_value: Option<String>,
    pub skip_url_sync: bool,
    pub options: Vec<Value>,
    pub current: Option<Value>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum VariableKind {
    Datasource,
    Query,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Datasource {
    #[serde(rename = "type")]
    pub kind: String,
    pub uid: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Panel {
    pub id: u32,
    #[serde(rename = "type")]
    pub kind: PanelKind,
    pub title: String,
    pub grid_pos: GridPos,
    pub description: Option<String>,
    pub datasource: Option<Datasource>,
    pub field_config: Option<FieldConfig>,
    pub options: Option<Map<String, Value>>,
    pub transformations: Option<Vec<Transformation>>,
    #[serde(default)]
    pub targets: Vec<Target>,
    /// Of a row: what it hides while collapsed.
    pub panels: Option<Vec<Value>>,
    pub collapsed: Option<bool>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
pub enum PanelKind {
    Row,
    Stat,
    Timeseries,
    Heatmap,
    Table,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridPos {
    pub x: u32,
    pub y: u32,
    pub w: u32,
    pub h: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldConfig {
    pub defaults: FieldDefaults,
    pub overrides: Vec<Override>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FieldDefaults {
    pub unit: String,
    pub decimals: Option<u8>,
    pub min: Option<f64>,
    pub max: Option<f64>,
    pub color: Option<Map<String, Value>>,
    pub custom: Option<Map<String, Value>>,
    pub mappings: Option<Vec<Value>>,
    pub thresholds: Option<Thresholds>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    pub mode: ThresholdMode,
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ThresholdMode {
    Absolute,
    Percentage,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub color: String,
    /// `None` for the first one: everything below the second.
    pub value: Option<f64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Override {
    pub matcher: Matcher,
    pub properties: Vec<Property>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Matcher {
    pub id: String,
    pub options: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Property {
    pub id: String,
    pub value: Value,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transformation {
    pub id: String,
    pub options: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Target {
    pub ref_id: String,
    pub datasource: Datasource,
    pub expr: String,
    pub legend_format: String,
    pub editor_mode: String,
    pub range: bool,
    pub instant: bool,
    pub format: Option<Format>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    TimeSeries,
    Table,
    Heatmap,
}

/// A query as Grafana would send it: `values` are the variables', without the `$`.
/// `$__rate_interval` and `$__range` become `window`.
pub fn substitute(expr: &str, values: &[(&str, &str)], window: &str) -> String {
    let mut query = expr.replace("$__rate_interval", window).replace("$__range", window);
    for (name, value) in values {
        query = query.replace(&format!("${name}"), value);
    }
    assert!(!query.contains('$'), "a variable is left in {query:?}");
    query
}

/// One selector of a query: a metric's name and its matchers `(label, operator, value)`.
#[derive(Debug, PartialEq)]
pub struct Selector {
    pub metric: String,
    pub matchers: Vec<(String, String, String)>,
}

/// The selectors of a PromQL expression. This is no parser: it knows what names functions,
/// keywords and label lists, and takes every other name as a metric's.
pub fn selectors(expr: &str) -> Vec<Selector> {
    const LABEL_LISTS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
    const KEYWORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "inf"];
    let bytes = expr.as_bytes();
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b':';
    let skip_to = |from: usize, end: u8| {
        from + bytes[from..].iter().position(|&byte| byte == end).expect("brackets are closed") + 1
    };
    let mut found: Vec<Selector> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'[' => at = skip_to(at, b']'),
            b'"' => at = skip_to(at + 1, b'"'),
            b'{' => {
                let end = skip_to(at, b'}');
                let selector = found.last_mut().expect("matchers follow a metric");
                selector.matchers.extend(matchers(&expr[at + 1..end - 1]));
                at = end;
            }
            byte if byte.is_ascii_digit() => {
                while at < bytes.len() && (word(bytes[at]) || bytes[at] == b'.') {
                    at += 1;
                }
            }
            byte if word(byte) => {
                let start = at;
                while at < bytes.len() && word(bytes[at]) {
                    at += 1;
                }
                let name = &expr[start..at];
                let rest = expr[at..].trim_start();
                // A function, or an aggregation with its labels before its argument.
                let opens = ["(", "by (", "without ("].iter().any(|word| rest.starts_with(word));
                if LABEL_LISTS.contains(&name) && opens {
                    at = skip_to(at, b')');
                } else if !opens && !KEYWORDS.contains(&name) {
                    found.push(Selector { metric: name.to_owned(), matchers: Vec::new() });
                }
            }
            _ => at += 1,
        }
    }
    found
}

/// `a="b",c=~"d"`; values may not contain a comma or an escaped quote.
fn matchers(inner: &str) -> Vec<(String, String, String)> {
    inner
        .split(',')
        .map(str::trim)
        .filter(|matcher| !matcher.is_empty())
        .map(|matcher| {
            let at = matcher.find(['=', '!']).expect("a matcher has an operator");
            let value = matcher.find('"').expect("a matcher has a quoted value");
            (
                matcher[..at].trim().to_owned(),
                matcher[at..value].trim().to_owned(),
                matcher[value..].trim_matches('"').to_owned(),
            )
        })
        .collect()
}

/// The `expr` of every rule in a Prometheus rule file, with the `record` names.
/// Reads the subset of YAML that our files keep to: one key a line, `|` for several lines.
pub fn rules(text: &str) -> (BTreeSet<String>, Vec<String>) {
    let mut records = BTreeSet::new();
    let mut expressions = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let key = line.trim_start().trim_start_matches("- ");
        if let Some(name) = key.strip_prefix("record: ") {
            records.insert(name.trim().to_owned());
        } else if let Some(expr) = key.strip_prefix("expr: ") {
            if expr.trim() != "|" {
                expressions.push(expr.to_owned());
                continue;
            }
            let depth = |line: &str| line.len() - line.trim_start().len();
            let indent = depth(line);
            let mut block = String::new();
            while let Some(next) =
                lines.next_if(|next| next.trim().is_empty() || depth(next) > indent)
            {
                block.push_str(next.trim());
                block.push(' ');
            }
            expressions.push(block);
        }
    }
    (records, expressions)
}
