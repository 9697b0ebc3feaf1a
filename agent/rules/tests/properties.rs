//! For all conditions: what is rendered parses to the same; nothing that is read or asked
//! panics; what counts as impossible is never true.

mod support;

use proptest::prelude::*;
use support::{event, matching};
use tenantry_rules::{Expr, Field, Item, Literal, Operator, RuleSet, Source, Test, Word, parse};

fn word(text: impl Into<String>) -> Word {
    Word { text: text.into(), at: 0 }
}

fn literal() -> impl Strategy<Value = Literal> {
    prop_oneof![
        ".{0,12}".prop_map(Literal::Text),
        any::<i64>().prop_map(Literal::Number),
        any::<bool>().prop_map(Literal::Truth),
    ]
}

fn item() -> impl Strategy<Value = Item> {
    prop_oneof![
        3 => literal().prop_map(Item::Literal),
        1 => "list_[a-z]{1,4}".prop_map(|name| Item::List(word(name))),
    ]
}

fn test() -> impl Strategy<Value = Test> {
    let field = prop_oneof![
        proptest::sample::select(Field::ALL).prop_map(|field| field.path().to_owned()),
        "[a-z_]{1,5}\\.[a-z_]{1,5}",
    ];
    let operator = proptest::sample::select(&Operator::ALL[..]);
    let items = proptest::collection::vec(item(), 1..4);
    (field, operator, items, literal()).prop_map(|(field, operator, items, one)| Test {
        field: word(field),
        operator,
        items: match operator {
            Operator::Exists => Vec::new(),
            comparison if comparison.compares() => vec![Item::Literal(one)],
            _ => items,
        },
    })
}

fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        4 => test().prop_map(Expr::Test),
        1 => "macro_[a-z]{1,4}".prop_map(|name| Expr::Macro(word(name))),
    ];
    leaf.prop_recursive(5, 30, 3, |inner| {
        let some = proptest::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            some.clone().prop_map(Expr::All),
            some.prop_map(Expr::Any),
            inner.prop_map(|inner| Expr::Not(Box::new(inner))),
        ]
    })
}

/// Conditions over few fields and few values, so that they meet.
fn small() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        (0..4_i64, proptest::sample::select(&["=", "!=", "<", "<=", ">", ">="][..]))
            .prop_map(|(number, operator)| format!("process.pid {operator} {number}")),
        (
            "[ab]{0,2}",
            proptest::sample::select(&["=", "!=", "startswith", "endswith", "contains"][..])
        )
            .prop_map(|(text, operator)| format!("process.name {operator} \"{text}\"")),
        Just("process.name exists".to_owned()),
        ("[ab]{1,2}").prop_map(|text| format!("process.args = \"{text}\"")),
        proptest::sample::select(&["success", "failure"][..])
            .prop_map(|word| format!("event.outcome = \"{word}\"")),
    ];
    leaf.prop_recursive(4, 16, 3, |inner| {
        prop_oneof![
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} and {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("({a} or {b})")),
            inner.prop_map(|inner| format!("not {inner}")),
        ]
    })
}

fn one_rule(condition: &str) -> String {
    format!(
        "[[rule]]\nname = \"x\"\ndescription = \"x\"\nseverity = \"info\"\nkinds = [\"exec\"]\ncondition = '''{condition}'''\n"
    )
}

/// What a condition must come to, by looking at its text's tree anew: the slow and plain way.
fn holds(expr: &Expr, pid: i64, name: Option<&str>, args: &[&str], outcome: &str) -> bool {
    let again = |expr: &Expr| holds(expr, pid, name, args, outcome);
    let test = match expr {
        Expr::All(parts) => return parts.iter().all(again),
        Expr::Any(parts) => return parts.iter().any(again),
        Expr::Not(inner) => return !again(inner),
        Expr::Macro(_) => unreachable!("small conditions have none"),
        Expr::Test(test) => test,
    };
    let texts: Vec<&str> = match test.field.text.as_str() {
        "process.name" => name.into_iter().collect(),
        "process.args" => args.to_vec(),
        "event.outcome" => vec![outcome],
        _ => Vec::new(),
    };
    match (test.operator, test.items.as_slice()) {
        (Operator::Exists, _) => !texts.is_empty(),
        (operator, [Item::Literal(Literal::Number(number))]) => match operator {
            Operator::Equal => pid == *number,
            Operator::NotEqual => pid != *number,
            Operator::Less => pid < *number,
            Operator::LessOrEqual => pid <= *number,
            Operator::Greater => pid > *number,
            _ => pid >= *number,
        },
        (operator, [Item::Literal(Literal::Text(wanted))]) => match operator {
            Operator::Equal => texts.iter().any(|text| text == wanted),
            Operator::NotEqual => !texts.iter().any(|text| text == wanted),
            Operator::StartsWith => texts.iter().any(|text| text.starts_with(wanted)),
            Operator::EndsWith => texts.iter().any(|text| text.ends_with(wanted)),
            _ => texts.iter().any(|text| text.contains(wanted.as_str())),
        },
        other => unreachable!("{other:?}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_rendered_parses_to_the_same(expr in expr()) {
        let text = expr.to_string();
        prop_assume!(text.len() <= 8192);
        prop_assert_eq!(parse(&text).map_err(|e| format!("{text}: {e}")), Ok(expr));
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,60}", toml in "[\\[\\]a-z\"'=.,\n {}0-9]{0,80}") {
        let _ = parse(&text);
        let _ = RuleSet::build(&[Source { name: "x", text: &toml }]);
        let _ = RuleSet::build(&[Source { name: "x", text: &text }]);
    }

    #[test]
    fn any_condition_is_taken_or_refused_without_a_panic(expr in expr()) {
        let text = one_rule(&expr.to_string());
        let _ = RuleSet::build(&[Source { name: "x", text: &text }]);
    }

    #[test]
    fn a_rule_matches_when_its_condition_holds_and_an_impossible_one_never_does(
        condition in small(),
        pid in 0..4_i64,
        name in proptest::option::of("[ab]{1,3}"),
        args in proptest::collection::vec("[ab]{1,2}", 1..3),
        outcome in proptest::sample::select(&["success", "failure"][..]),
    ) {
        let texts: Vec<&str> = args.iter().map(String::as_str).collect();
        let expected = holds(&parse(&condition).unwrap(), pid, name.as_deref(), &texts, outcome);
        let named = name.map(|name| format!("process.name={name}")).unwrap_or_default();
        let event = event(&format!(
            "exec process.pid={pid} {named} process.args={} event.outcome={outcome}",
            args.join("|")
        ));
        let text = one_rule(&condition);
        match RuleSet::build(&[Source { name: "x", text: &text }]) {
            Ok(rules) => prop_assert_eq!(!matching(&rules, &event).is_empty(), expected),
            Err(refused) => {
                prop_assert!(refused.to_string().contains("never holds"), "{}", refused);
                prop_assert!(!expected, "{condition} holds, and was refused: {refused}");
            }
        }
    }
}
