//! Build arguments: what was given, what `ARG` declares, who may see it.
//!
//! Owns their scopes: those before the first `FROM` are seen by `FROM` lines, and by a
//! stage that declares the name again; those of a stage by what follows in it. Pure.

use std::collections::{BTreeMap, BTreeSet};

/// Known without a declaration, and no part of the cache's keys: who moves to another
/// network need not build everything anew.
const PROXIES: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// `--build-arg` of one build, and the arguments of its Dockerfile's head.
#[derive(Clone, Debug, Default)]
pub struct Arguments {
    given: BTreeMap<String, Option<String>>,
    head: BTreeMap<String, String>,
    declared: BTreeSet<String>,
}

impl Arguments {
    /// `given` as the client sends them; `architecture` in Go's words.
    pub fn new(given: BTreeMap<String, Option<String>>, architecture: &str) -> Arguments {
        let platform = format!("linux/{architecture}");
        let mut head = BTreeMap::new();
        for side in ["TARGET", "BUILD"] {
            head.insert(format!("{side}PLATFORM"), platform.clone());
            head.insert(format!("{side}OS"), "linux".to_owned());
            head.insert(format!("{side}ARCH"), architecture.to_owned());
            head.insert(format!("{side}VARIANT"), String::new());
        }
        Arguments { given, head, declared: BTreeSet::new() }
    }

    /// What a `FROM` line sees.
    pub fn in_head(&self, name: &str) -> Option<String> {
        self.head.get(name).cloned()
    }

    /// `ARG` before the first `FROM`.
    pub(crate) fn declare_in_head(&mut self, name: &str, default: Option<&str>) {
        self.declared.insert(name.to_owned());
        let given = self.given.get(name).cloned().flatten();
        if let Some(value) = given.or_else(|| default.map(str::to_owned)) {
            self.head.insert(name.to_owned(), value);
        }
    }

    /// `ARG` in a stage: its value there, if it has one.
    pub(crate) fn declare(&mut self, name: &str, default: Option<&str>) -> Option<String> {
        self.declared.insert(name.to_owned());
        let given = self.given.get(name).cloned().flatten();
        given.or_else(|| default.map(str::to_owned)).or_else(|| self.in_head(name))
    }

    /// Proxies that were given, for every command.
    pub(crate) fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        let given = self.given.iter().filter(|(name, _)| PROXIES.contains(&name.as_str()));
        given.filter_map(|(name, value)| Some((name.as_str(), value.as_deref()?)))
    }

    pub(crate) fn is_proxy(name: &str) -> bool {
        PROXIES.contains(&name)
    }

    /// Given, and asked for by nothing so far.
    pub fn unused(&self) -> Vec<&str> {
        let names = self.given.keys().map(String::as_str);
        names.filter(|name| !self.declared.contains(*name) && !Self::is_proxy(name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(list: &[(&str, Option<&str>)]) -> Arguments {
        let given = list.iter().map(|(n, v)| ((*n).to_owned(), v.map(str::to_owned))).collect();
        Arguments::new(given, "amd64")
    }

    #[test]
    fn what_was_given_beats_defaults_and_defaults_the_head() {
        let mut arguments = given(&[("A", Some("given")), ("LEFT", Some("x")), ("NONE", None)]);
        arguments.declare_in_head("B", Some("head"));
        let mut check = |name: &str, default: Option<&str>, expected: Option<&str>| {
            assert_eq!(arguments.declare(name, default).as_deref(), expected, "{name}");
        };
        check("A", Some("default"), Some("given"));
        check("B", None, Some("head"));
        check("B", Some("own"), Some("own"));
        check("C", None, None);
        check("NONE", Some("default"), Some("default"));
        check("TARGETARCH", None, Some("amd64"));
        assert_eq!(arguments.unused(), ["LEFT"]);
    }

    #[test]
    fn proxies_need_no_declaration() {
        let arguments = given(&[("http_proxy", Some("p")), ("X", Some("y"))]);
        assert_eq!(arguments.proxies().collect::<Vec<_>>(), [("http_proxy", "p")]);
        assert_eq!(arguments.unused(), ["X"]);
    }
}
