//! The `filters` parameter: `{"label": ["a=b"]}`. Pure.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value;

use crate::api::error::{ApiError, ApiResult};

/// Of a request that takes filters and nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct FilterQuery {
    pub filters: Option<String>,
}

/// Values by filter; what is not asked for is empty.
#[derive(Debug, Default)]
pub struct Filters(HashMap<String, Vec<String>>);

impl Filters {
    /// Clients write a list, or an object whose keys are the list.
    ///
    /// # Errors
    /// 400 for anything else, and for a filter that is not `allowed`.
    pub fn parse(text: Option<&str>, allowed: &[&str]) -> ApiResult<Self> {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(Self::default()) };
        let refused = |allowed: &str| ApiError::invalid("filters", text, allowed);
        let given: HashMap<String, Value> =
            serde_json::from_str(text).map_err(|_| refused("a JSON object of lists"))?;
        let mut filters = Self::default();
        for (name, values) in given {
            if !allowed.contains(&name.as_str()) {
                return Err(refused(&allowed.join(", ")));
            }
            let list = filters.0.entry(name).or_default();
            match values {
                Value::Array(values) => {
                    list.extend(values.iter().filter_map(Value::as_str).map(str::to_owned));
                }
                Value::Object(values) => list.extend(values.keys().cloned()),
                _ => return Err(refused("a JSON object of lists")),
            }
        }
        Ok(filters)
    }

    pub fn of(&self, name: &str) -> &[String] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }

    /// Whether there is no such filter, or one of its values fits.
    pub fn any(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        let values = self.of(name);
        values.is_empty() || values.iter().any(|value| fits(value))
    }

    /// `None` if there is no such filter.
    ///
    /// # Errors
    /// 400 for what is neither true nor false.
    pub fn flag(&self, name: &str) -> ApiResult<Option<bool>> {
        match self.of(name).first().map(String::as_str) {
            None => Ok(None),
            Some("true" | "1" | "True" | "TRUE" | "t" | "T") => Ok(Some(true)),
            Some("false" | "0" | "False" | "FALSE" | "f" | "F") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid(name, other, "true or false")),
        }
    }

    /// All of `label` are there (`name` or `name=value`), none of `label!`.
    pub fn labels_fit(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        };
        self.of("label").iter().all(has) && !self.of("label!").iter().any(has)
    }

    /// The moment of `until`, in seconds since 1970.
    pub fn until(&self, now: jiff::Timestamp) -> ApiResult<Option<i64>> {
        let Some(text) = self.of("until").first() else { return Ok(None) };
        let allowed = "a time, seconds since 1970, or how long ago, such as 1h30m";
        moment(text, now).map(Some).ok_or_else(|| ApiError::invalid("until", text, allowed))
    }
}

/// Seconds since 1970 of RFC 3339, of such seconds, or of Go's durations, which go back
/// from now.
pub fn moment(text: &str, now: jiff::Timestamp) -> Option<i64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.bytes().all(|byte| byte.is_ascii_digit())
        && let Ok(seconds) = seconds.parse()
    {
        return Some(seconds);
    }
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Some(time.as_second());
    }
    duration_s(text).map(|ago| now.as_second() - ago)
}

fn duration_s(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit = rest[digits..].find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len() - digits);
        seconds += number
            * match &rest[digits..digits + unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return None,
            };
        rest = &rest[digits + unit..];
    }
    (!text.is_empty()).then_some(seconds as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_lists_or_objects_of_what_is_allowed() {
        let filters = Filters::parse(
            Some(r#"{"label":["a=b","c"],"dangling":{"true":true}}"#),
            &["label", "dangling"],
        )
        .unwrap();
        assert_eq!(filters.of("label"), ["a=b", "c"]);
        assert_eq!(filters.flag("dangling").unwrap(), Some(true));
        assert_eq!(filters.flag("other").unwrap(), None);
        for text in ["[]", "{\"x\":[]}", "{\"label\":5}"] {
            assert!(Filters::parse(Some(text), &["label"]).is_err(), "{text}");
        }
    }

    #[test]
    fn labels_are_wanted_or_unwanted_with_or_without_a_value() {
        let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let rows = [
            (r#"{"label":["a"]}"#, true),
            (r#"{"label":["a=b"]}"#, true),
            (r#"{"label":["a=c"]}"#, false),
            (r#"{"label":["a","z"]}"#, false),
            (r#"{"label!":["a"]}"#, false),
            (r#"{"label!":["z"]}"#, true),
        ];
        for (text, expected) in rows {
            let filters = Filters::parse(Some(text), &["label", "label!"]).unwrap();
            assert_eq!(filters.labels_fit(&labels), expected, "{text}");
        }
    }

    #[test]
    fn moments_are_times_seconds_or_durations_back() {
        let now = jiff::Timestamp::from_second(10_000).unwrap();
        let rows = [
            ("1970-01-01T00:00:05Z", Some(5)),
            ("1700000000", Some(1_700_000_000)),
            ("1700000000.25", Some(1_700_000_000)),
            ("1h30m", Some(10_000 - 5_400)),
            ("1.5h", Some(10_000 - 5_400)),
            ("10s", Some(9_990)),
            ("soon", None),
            ("10", Some(10)),
        ];
        for (text, expected) in rows {
            assert_eq!(moment(text, now), expected, "{text}");
        }
    }
}
