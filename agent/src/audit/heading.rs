//! The few members of a line that a reader chooses by.

use std::borrow::Cow;

use serde::Deserialize;

#[derive(Debug, Default, Deserialize)]
pub struct Heading<'a> {
    #[serde(borrow)]
    pub event: Nature<'a>,
    #[serde(borrow, default, rename = "@timestamp")]
    pub time: Cow<'a, str>,
    #[serde(borrow, default)]
    pub container: Container<'a>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Nature<'a> {
    #[serde(borrow)]
    pub action: Cow<'a, str>,
}

#[derive(Debug, Default, Deserialize)]
pub struct Container<'a> {
    #[serde(borrow, default)]
    pub id: Cow<'a, str>,
    #[serde(borrow, default)]
    pub name: Cow<'a, str>,
}

impl<'a> Heading<'a> {
    /// `None`: not a line of ours.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_line_is_about_is_read_from_it_without_a_copy() {
        let line = br#"{"seq":7,"event":{"action":"exec","outcome":"success"},"@timestamp":"2026-11-22T18:00:00Z","container":{"id":"c0ffee","name":"web","image":{"name":"x"}},"process":{"pid":1},"hash":"h"}"#;
        let heading = Heading::parse(line).unwrap();
        assert!(matches!(&heading.event.action, Cow::Borrowed("exec")));
        assert_eq!(heading.time, "2026-11-22T18:00:00Z");
        assert_eq!((&*heading.container.id, &*heading.container.name), ("c0ffee", "web"));
        let own = Heading::parse(br#"{"seq":1,"event":{"action":"chain"},"prev":"0"}"#).unwrap();
        assert_eq!((&*own.event.action, &*own.container.id), ("chain", ""));
        assert!(Heading::parse(b"{}").is_none() && Heading::parse(b"x").is_none());
    }
}
