//! What is wrong in a rule file is told with file, line, column and reason, all at once.

mod support;

use support::{event, matching};
use tenantry_rules::{DEFAULT, RuleSet, Source};

fn problems(text: &str) -> String {
    RuleSet::build(&[Source { name: "x.toml", text }]).expect_err(text).to_string()
}

/// One rule with this condition for these kinds; the condition begins at line 5, column 14.
fn rule(kinds: &str, condition: &str) -> String {
    format!(
        "[[rule]]\nname = \"x\"\ndescription = \"x\"\nkinds = [{kinds}]\ncondition = '{condition}'\nseverity = \"info\"\n"
    )
}

#[track_caller]
fn check(kinds: &str, condition: &str, expected: &str) {
    let told = problems(&rule(kinds, condition));
    assert!(told.starts_with(expected), "{condition}:\n{told}");
}

#[test]
fn a_field_must_be_one_and_be_in_the_rules_events() {
    let exec = "\"exec\"";
    check(exec, "process.nam = \"x\"", "x.toml:5:14: process.nam is no field; process.name is one");
    check(exec, "zzzzzzzzzzzzzzzz.q = \"x\"", "x.toml:5:14: zzzzzzzzzzzzzzzz.q is no field");
    check(
        exec,
        "process.pid = 1 or file.target_path = \"/x\"",
        "x.toml:5:33: file.target_path is in no event of kind exec; these have it: file, mount",
    );
    check(
        "\"exec\", \"open\"",
        "file.flags = \"O_RDWR\"",
        "x.toml:5:14: the condition never holds for events of kind exec: they lack its fields",
    );
}

#[test]
fn a_value_must_have_the_fields_type() {
    let exec = "\"exec\"";
    check(exec, "process.pid = \"1\"", "x.toml:5:14: process.pid is a number, which \"1\" is not");
    check(exec, "process.name = 1", "x.toml:5:14: process.name is a text, which 1 is not");
    check(exec, "process.name < \"x\"", "x.toml:5:14: process.name is a text, and < is not for");
    check(exec, "process.args_truncated = 1", "x.toml:5:14: process.args_truncated is true or");
    check(exec, "event.outcome = \"failed\"", "x.toml:5:14: event.outcome is never \"failed\"");
    let connect = "\"connect\"";
    check(connect, "destination.ip = \"host\"", "x.toml:5:14: \"host\" is not an IP address");
    check(
        connect,
        "destination.ip cidr \"10.0.0.0/40\"",
        "x.toml:5:14: \"10.0.0.0/40\" is not a n",
    );
    check(connect, "destination.ip startswith \"10.\"", "x.toml:5:14: destination.ip is an IP add");
    check(exec, "process.name in nothing", "x.toml:5:30: nothing is no list that is known");
    check(exec, "nothing", "x.toml:5:14: nothing is no macro that is known");
    check(exec, "process.name in []", "x.toml:5:30: an empty list");
}

#[test]
fn a_condition_that_cannot_hold_is_refused() {
    for (kinds, condition) in [
        ("\"exec\"", "process.pid = 1 and process.pid = 2"),
        ("\"exec\"", "process.name = \"a\" and process.name != \"a\""),
        ("\"exec\"", "process.name in [\"a\", \"b\"] and process.name in [\"c\"]"),
        ("\"exec\"", "process.pid > 5 and process.pid < 6"),
        ("\"exec\"", "process.pid > 9223372036854775807"),
        ("\"exec\"", "process.pid >= 5 and not process.pid > 4"),
        ("\"exec\"", "process.pid = 7 and not process.pid exists"),
        ("\"exec\"", "process.name = \"ab\" and process.name startswith \"b\""),
        ("\"exec\"", "process.name startswith \"/a\" and process.name startswith \"/b\""),
        ("\"exec\"", "process.name startswith \"/a/b\" and not process.name startswith \"/a\""),
        ("\"exec\"", "process.name endswith \".a\" and process.name endswith \".b\""),
        ("\"exec\"", "process.name contains \"a\" and not process.name contains \"a\""),
        ("\"exec\"", "not (process.pid = 1 or not process.pid = 1)"),
        ("\"exec\"", "(process.pid = 1 or process.pid = 2) and process.pid = 3"),
        ("\"exec\"", "process.args_truncated = true and process.args_truncated = false"),
        (
            "\"exec\"",
            "event.outcome != \"success\" and event.outcome != \"failure\" and event.outcome exists",
        ),
        ("\"connect\"", "destination.ip cidr \"10.0.0.0/8\" and destination.ip = \"11.0.0.1\""),
        ("\"connect\"", "destination.ip cidr \"10.0.0.0/8\" and destination.ip cidr \"fd00::/8\""),
        (
            "\"connect\"",
            "destination.ip cidr \"10.1.0.0/16\" and not destination.ip cidr \"10.0.0.0/8\"",
        ),
    ] {
        check(kinds, condition, "x.toml:5:14: the condition never holds");
    }
}

#[test]
fn a_condition_that_can_hold_is_taken() {
    for (kinds, condition) in [
        ("\"exec\"", "process.args = \"a\" and process.args = \"b\""),
        ("\"exec\"", "process.name != \"a\" and process.name != \"b\""),
        ("\"exec\"", "process.pid > 5 and process.pid < 7"),
        ("\"exec\"", "process.pid > 5 and process.pid != 6"),
        (
            "\"exec\"",
            "process.name startswith [\"/a\", \"/b\"] and process.name startswith \"/b/c\"",
        ),
        ("\"exec\"", "process.name startswith \"/a\" and not process.name startswith \"/a/b\""),
        (
            "\"connect\"",
            "destination.ip cidr \"10.0.0.0/8\" and not destination.ip cidr \"10.1.0.0/16\"",
        ),
        ("\"exec\", \"exit\"", "process.name = \"a\" or process.exit_code = 1"),
    ] {
        let text = rule(kinds, condition);
        RuleSet::build(&[Source { name: "x", text: &text }]).unwrap_or_else(|p| panic!("{p}"));
    }
}

#[test]
fn all_errors_come_at_once_in_the_files_order() {
    let text = r#"surprise = 1
[lists]
nobody = []
mixed = ["a", 1]

[[rule]]
name = "One Rule"
description = 5
severity = "bad"
kinds = ["exec", "exce"]
condition = "process.name = "
color = "red" # a rule that is wrong elsewhere has its condition looked into
rate = "often"
enabled = "yes"

[[rule]]
name = "two"
condition = "process.nam = 1"
"#;
    let told = problems(text);
    let heads: Vec<&str> = told.lines().collect();
    let expected = [
        "x.toml:1:1: surprise is no key here",
        "x.toml:3:10: nobody is empty",
        "x.toml:4:9: mixed mixes texts and numbers",
        "x.toml:6:1: ",
    ];
    for (line, expected) in heads.iter().zip(&expected[..3]) {
        assert!(line.starts_with(expected), "{told}");
    }
    for (line, words) in [
        ("x.toml:7:8: ", "\"One Rule\""),
        ("x.toml:8:15: ", "description is a text, not 5"),
        ("x.toml:9:12: ", "info, notice, warning, critical"),
        ("x.toml:10:18: ", "\"exce\" is no kind of event"),
        ("x.toml:11:29: ", "a value or a list expected"),
        ("x.toml:12:1: ", "color is no key of a rule"),
        ("x.toml:13:8: ", "\"often\""),
        ("x.toml:14:11: ", "enabled is true or false"),
        ("x.toml:16:1: ", "a rule without kinds"),
        ("x.toml:18:14: ", "process.nam is no field"),
    ] {
        let found = heads.iter().any(|told| told.starts_with(line) && told.contains(words));
        assert!(found, "{line}{words} in\n{told}");
    }
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let told = problems("[[rule]]\nname = \"x\ndescription = \"y\"\n");
    assert!(told.starts_with("x.toml:2:"), "{told}");
}

#[test]
fn an_error_in_a_condition_of_many_lines_has_its_own_line() {
    let text = rule("\"exec\"", "PLACE")
        .replace("'PLACE'", "'''\nprocess.pid = 1\n  or process.pit = 2'''");
    assert!(problems(&text).starts_with("x.toml:7:6: process.pit"), "{}", problems(&text));
    // With escapes the condition's bytes are not the file's: its beginning is named.
    let text = rule("\"exec\"", "PLACE").replace("'PLACE'", "\"process.nam = \\\"a\\\"\"");
    assert!(problems(&text).starts_with("x.toml:5:13: process.nam"), "{}", problems(&text));
}

#[test]
fn macros_end_and_what_is_wrong_in_one_is_told_once() {
    let text = "[macros]\na = 'b'\nb = 'a'\n".to_owned() + &rule("\"exec\"", "a");
    assert!(problems(&text).contains("macros that never end: a → b → a"), "{}", problems(&text));
    // Each names the one before twice: 2^30 tests, if nobody stopped.
    let mut text = "[macros]\nm0 = 'process.pid = 1'\n".to_owned();
    for n in 1..15 {
        text += &format!("m{n} = 'm{before} or m{before} or m{before}'\n", before = n - 1);
    }
    assert!(problems(&text).contains("more than 1024 tests"), "{}", problems(&text));
    let text = "[macros]\na = 'process.nam = 1'\n".to_owned() + &rule("\"exec\"", "a or a");
    assert_eq!(problems(&text).lines().count(), 1, "{}", problems(&text));
    // A macro that is right, but not for these events, is wrong where it is used.
    let text = "[macros]\na = 'file.target_path exists'\n".to_owned() + &rule("\"exec\"", "a");
    assert!(
        problems(&text).starts_with("x.toml:7:14: a: file.target_path is in no event"),
        "{}",
        problems(&text)
    );
}

#[test]
fn a_later_file_replaces_what_an_earlier_one_has() {
    let own = r#"
disable = ["mount"]
[lists]
shells = ["/opt/own-shell"]
[[rule]]
name = "ptrace"
description = "Mine"
severity = "info"
kinds = ["ptrace"]
condition = 'target.pid = 1'
"#;
    let rules = RuleSet::build(&[DEFAULT, Source { name: "own.toml", text: own }]).unwrap();
    let check = |text: &str, expected: &[&str]| {
        assert_eq!(matching(&rules, &event(text)), expected, "{text}");
    };
    check("mount event.outcome=success", &[]);
    check("ptrace event.outcome=success target.pid=2", &[]);
    check("ptrace event.outcome=success target.pid=1", &["ptrace"]);
    check("exec process.executable=/bin/sh", &[]);
    check("exec process.executable=/opt/own-shell", &["shell_in_container"]);
    let ptrace = rules.rules().iter().find(|rule| rule.name == "ptrace").unwrap();
    assert_eq!((ptrace.file.as_str(), ptrace.description.as_str()), ("own.toml", "Mine"));

    let wrong = Source { name: "own.toml", text: "disable = [\"nobody\"]" };
    let told = RuleSet::build(&[DEFAULT, wrong]).unwrap_err().to_string();
    assert_eq!(told, "own.toml:1:12: nobody is no rule of an earlier file");
    let twice = rule("\"exec\"", "process.pid = 1").repeat(2);
    assert_eq!(problems(&twice), "x.toml:7:1: this file has a rule x already");
}

#[test]
fn a_list_of_the_wrong_type_is_told_where_it_is_used() {
    let own = Source { name: "own.toml", text: "[lists]\nshells = [1]" };
    let told = RuleSet::build(&[DEFAULT, own]).unwrap_err().to_string();
    assert!(told.starts_with("default.toml:") && told.contains("which 1 is not"), "{told}");
}

#[test]
fn a_thousand_rules_are_the_most_and_errors_are_not_told_without_end() {
    let many = |count: usize| -> String {
        let one =
            |n: usize| rule("\"exec\"", "process.pid = 1").replace("\"x\"", &format!("\"x{n}\""));
        (0..count).map(one).collect()
    };
    assert!(RuleSet::build(&[Source { name: "x", text: &many(1000) }]).is_ok());
    assert!(problems(&many(1001)).contains("more than 1000 rules"));
    let wrong = rule("\"exec\"", "process.nam = 1").repeat(150);
    assert!(problems(&wrong).contains("and "), "{}", problems(&wrong));
    assert!(problems(&" ".repeat((1 << 20) + 1)).starts_with("x.toml:1:1: 1048577 bytes"));
}
