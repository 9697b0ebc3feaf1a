//! Events for tests, written as a condition would name their fields.

use tenantry_rules::{Event, Field, Kind, RuleSet, Type, Value};

#[derive(Debug)]
enum Owned {
    Text(String),
    Texts(Vec<String>),
    Number(i64),
    Truth(bool),
    Address(std::net::IpAddr),
}

#[derive(Debug)]
pub struct TestEvent {
    kind: Kind,
    fields: Vec<(Field, Owned)>,
}

/// `kind field=value field=value|value …`, with as many spaces as one likes between them.
pub fn event(text: &str) -> TestEvent {
    let mut words = text.split_whitespace();
    let kind = Kind::parse(words.next().unwrap()).expect(text);
    let field = |word: &str| {
        let (path, value) = word.split_once('=').expect(text);
        let field = Field::parse(path).expect(path);
        let value = match field.of_type() {
            Type::Text => Owned::Text(value.into()),
            Type::Texts => Owned::Texts(value.split('|').map(str::to_owned).collect()),
            Type::Number => Owned::Number(value.parse().unwrap()),
            Type::Truth => Owned::Truth(value.parse().unwrap()),
            Type::Address => Owned::Address(value.parse().unwrap()),
        };
        assert!(field.kinds().contains(kind), "{path} in {}", kind.as_str());
        (field, value)
    };
    TestEvent { kind, fields: words.map(field).collect() }
}

impl Event for TestEvent {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn field(&self, field: Field) -> Option<Value<'_>> {
        let (_, value) = self.fields.iter().find(|(of, _)| *of == field)?;
        Some(match value {
            Owned::Text(text) => Value::Text(text),
            Owned::Texts(texts) => Value::Texts(texts),
            Owned::Number(number) => Value::Number(*number),
            Owned::Truth(truth) => Value::Truth(*truth),
            Owned::Address(address) => Value::Address(*address),
        })
    }
}

/// The names of the rules that match.
pub fn matching<'a>(rules: &'a RuleSet, event: &TestEvent) -> Vec<&'a str> {
    rules.matches(event).map(|place| rules.rules()[place].name.as_str()).collect()
}
