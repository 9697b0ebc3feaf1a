//! Several files made one: the later says what is different.
//!
//! Owns the Compose specification's rules. Mappings are joined field by field, lists are
//! appended without what is there already, single values are replaced; some fields differ
//! (`rule`). `!override` and `!reset` in the later file say otherwise.

use crate::node::{Node, Tag, Value};

/// How a field of two files is made one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// By the kind of value.
    Deep,
    /// Half a command is none.
    Replace,
    /// `NAME=value` in a list or a mapping.
    Pairs,
    /// Names in a list, or a mapping with more of each.
    Names,
    /// One for each place in the container.
    Target,
    /// A list, or the one thing that would be in it.
    Several,
    /// A mapping, or its `context` alone.
    Context,
}

fn rule(path: &[&str]) -> Rule {
    match path {
        ["services", _, "command" | "entrypoint"] => Rule::Replace,
        ["services", _, "healthcheck", "test"] => Rule::Replace,
        ["services", _, "environment" | "labels" | "sysctls" | "annotations" | "extra_hosts"]
        | ["services", _, "build", "args" | "labels"]
        | ["networks" | "volumes", _, "labels"] => Rule::Pairs,
        ["services", _, "networks" | "depends_on"] => Rule::Names,
        ["services", _, "volumes" | "devices" | "secrets" | "configs"] => Rule::Target,
        ["services", _, "env_file" | "dns" | "dns_search" | "dns_opt" | "tmpfs" | "profiles"]
        | ["services", _, "build", "tags"] => Rule::Several,
        ["services", _, "build"] => Rule::Context,
        _ => Rule::Deep,
    }
}

/// `over` said on top of `base`, both at `path`.
pub fn merge(base: Node, over: Node, path: &mut Vec<String>) -> Node {
    match over.tag {
        Tag::Reset => return Node { value: Value::Null, tag: Tag::Merge, ..over },
        Tag::Override => return Node { tag: Tag::Merge, ..over },
        Tag::Merge if over.is_null() => return base,
        Tag::Merge => {}
    }
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let rule = rule(&names);
    let (base, over) = match rule {
        Rule::Pairs => (as_map(base, true), as_map(over, true)),
        Rule::Names => (as_map(base, false), as_map(over, false)),
        Rule::Several => (as_list(base), as_list(over)),
        Rule::Context => (as_context(base), as_context(over)),
        Rule::Deep | Rule::Replace | Rule::Target => (base, over),
    };
    let place = over.place.clone();
    let value = match (base.value, over.value) {
        (_, over) if rule == Rule::Replace => over,
        (Value::Map(base), Value::Map(over)) => Value::Map(joined(base, over, path)),
        (Value::List(base), Value::List(over)) => Value::List(appended(base, over, rule)),
        (_, over) => over,
    };
    Node { place, value, tag: Tag::Merge }
}

fn joined(
    mut base: Vec<(String, Node)>,
    over: Vec<(String, Node)>,
    path: &mut Vec<String>,
) -> Vec<(String, Node)> {
    for (key, node) in over {
        match base.iter_mut().find(|(known, _)| *known == key) {
            None => base.push((key, node)),
            Some((_, known)) => {
                let nothing = Node { value: Value::Null, ..node.clone() };
                let was = std::mem::replace(known, nothing);
                path.push(key);
                *known = merge(was, node, path);
                path.pop();
            }
        }
    }
    base
}

fn appended(mut base: Vec<Node>, over: Vec<Node>, rule: Rule) -> Vec<Node> {
    for node in over {
        let is_same = |known: &Node| match (rule, target(known), target(&node)) {
            (Rule::Target, Some(known), Some(new)) => known == new,
            _ => known.text().is_some() && known.text() == node.text(),
        };
        match base.iter_mut().find(|known| is_same(known)) {
            Some(known) => *known = node,
            None => base.push(node),
        }
    }
    base
}

/// Where in the container it is: `SOURCE:TARGET:…`, `TARGET`, or the long form's field.
fn target(node: &Node) -> Option<&str> {
    match node.text() {
        Some(text) => text.split(':').nth(1).or(Some(text)),
        None => ["target", "source"].iter().find_map(|name| node.get(name)?.text()),
    }
}

/// The long form of a list of names, or of `NAME=value`.
fn as_map(node: Node, with_values: bool) -> Node {
    let Value::List(nodes) = node.value else { return node };
    let mut entries: Vec<(String, Node)> = Vec::new();
    for item in nodes {
        let Some(text) = item.text() else { continue };
        let (name, value) = match text.split_once(['=', ':']) {
            Some((name, value)) if with_values => (name.to_owned(), Some(value.to_owned())),
            _ => (text.to_owned(), None),
        };
        let value = value.map_or(Value::Null, |text| Value::Scalar { text, plain: false });
        entries.retain(|(known, _)| *known != name);
        entries.push((name, Node { value, ..item }));
    }
    Node { value: Value::Map(entries), ..node }
}

/// The long form of what may stand alone.
fn as_list(node: Node) -> Node {
    match node.value {
        Value::Scalar { .. } | Value::Map(_) => {
            let place = node.place.clone();
            Node { place, value: Value::List(vec![node]), tag: Tag::Merge }
        }
        Value::List(_) | Value::Null => node,
    }
}

/// The long form of `build: DIRECTORY`.
fn as_context(node: Node) -> Node {
    if node.text().is_none() {
        return node;
    }
    let place = node.place.clone();
    Node { place, value: Value::Map(vec![("context".into(), node)]), tag: Tag::Merge }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::yaml;

    fn merged(base: &str, over: &str) -> Node {
        let read = |text: &str| {
            let text = format!("services:\n  s: {text}\n");
            yaml::parse(&"f".into(), &text).unwrap()
        };
        let all = merge(read(base), read(over), &mut Vec::new());
        all.get("services").unwrap().get("s").unwrap().clone()
    }

    fn shown(node: &Node) -> String {
        match &node.value {
            Value::Null => "~".into(),
            Value::Scalar { text, .. } => text.clone(),
            Value::List(nodes) => {
                format!("[{}]", nodes.iter().map(shown).collect::<Vec<_>>().join(" "))
            }
            Value::Map(entries) => {
                let entry = |(key, node): &(String, Node)| format!("{key}={}", shown(node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(" "))
            }
        }
    }

    #[test]
    fn each_kind_of_field_has_its_rule() {
        let check = |base, over, expected: &str| {
            assert_eq!(shown(&merged(base, over)), expected, "{base} + {over}");
        };
        check("{image: a, user: u}", "{image: b}", "{image=b user=u}");
        check("{command: [a, b]}", "{command: [c]}", "{command=[c]}");
        check(
            "{environment: [A=1, B=2]}",
            "{environment: {B: 3, C: 4}}",
            "{environment={A=1 B=3 C=4}}",
        );
        check("{ports: ['1:1']}", "{ports: ['1:1', '2:2']}", "{ports=[1:1 2:2]}");
        check("{volumes: ['a:/x', 'b:/y']}", "{volumes: ['c:/x']}", "{volumes=[c:/x b:/y]}");
        check(
            "{networks: [a]}",
            "{networks: {b: {aliases: [x]}}}",
            "{networks={a=~ b={aliases=[x]}}}",
        );
        check(
            "{healthcheck: {test: [a], retries: 1}}",
            "{healthcheck: {test: [b]}}",
            "{healthcheck={test=[b] retries=1}}",
        );
        check("{image: a}", "{image: }", "{image=a}");
        check(
            "{ports: ['1:1'], user: u}",
            "{ports: !override ['2:2'], user: !reset x}",
            "{ports=[2:2] user=~}",
        );
    }

    #[test]
    fn the_short_form_of_a_field_is_joined_with_its_long_one() {
        let check = |base, over, expected: &str| {
            assert_eq!(shown(&merged(base, over)), expected, "{base} + {over}");
        };
        check("{build: ./web}", "{build: {target: dev}}", "{build={context=./web target=dev}}");
        check("{build: {target: dev}}", "{build: ./web}", "{build={target=dev context=./web}}");
        check("{build: ./web}", "{build: ./api}", "{build={context=./api}}");
        check("{build: ./web}", "{build: !override {target: dev}}", "{build={target=dev}}");
        for field in ["env_file", "dns", "dns_search", "dns_opt", "tmpfs", "profiles"] {
            let check = |base: &str, over: &str, expected: &str| {
                let [base, over] = [base, over].map(|value| format!("{{{field}: {value}}}"));
                let expected = format!("{{{field}={expected}}}");
                assert_eq!(shown(&merged(&base, &over)), expected, "{base} + {over}");
            };
            check("a", "b", "[a b]");
            check("a", "[b, a]", "[a b]");
            check("[a]", "b", "[a b]");
            check("a", "!override b", "b");
        }
        check(
            "{env_file: a}",
            "{env_file: {path: b, required: false}}",
            "{env_file=[a {path=b required=false}]}",
        );
        check(
            "{depends_on: {a: {condition: c}}}",
            "{depends_on: [b]}",
            "{depends_on={a={condition=c} b=~}}",
        );
    }
}
