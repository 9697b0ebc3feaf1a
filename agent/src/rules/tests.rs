use std::path::PathBuf;

use super::*;
use crate::audit::{Ancestor, Container, Endpoint, Outcome, Process};

const ONE_IN_AN_HOUR: &str = r#"
[[rule]]
name = "one"
description = "Pid one"
severity = "critical"
kinds = ["exec"]
condition = 'process.pid = 1'
rate = "1/h"
"#;

fn exec(pid: u32, monotonic_ns: u64) -> AuditEvent {
    AuditEvent {
        container: Container::new("c0ffee".into(), "web".into(), "demo".into()),
        monotonic_ns: Some(monotonic_ns),
        process: Some(Process {
            pid,
            executable: Some("/bin/sh".into()),
            args: Some(vec!["sh".into(), "-i".into()]),
            ancestors: vec![Ancestor { pid: 7, name: "nginx".into() }],
            ..Process::default()
        }),
        ..AuditEvent::default()
    }
}

fn names(alerts: &[AuditEvent]) -> Vec<&str> {
    alerts.iter().map(|alert| alert.rule.as_ref().unwrap().name.as_str()).collect()
}

/// Rules of one file in a directory that goes with it.
fn rules_of(text: &str) -> (tempfile::TempDir, PathBuf, Rules) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.toml");
    std::fs::write(&file, text).unwrap();
    let settings = RuleSettings { default: false, files: vec![file.clone()] };
    (directory, file, Rules::open(settings).unwrap())
}

#[test]
fn the_default_set_sees_what_an_event_says() {
    let rules = Rules::open(RuleSettings { default: true, files: Vec::new() }).unwrap();
    let alerts = rules.judge(&exec(1, 0));
    let expected = ["shell_in_container", "shell_interactive", "shell_from_server"];
    assert_eq!(names(&alerts), expected);
    let alert = serde_json::to_value(&alerts[2]).unwrap();
    assert_eq!(alert["event"]["action"], "alert");
    assert_eq!(alert["rule"]["severity"], "critical");
    assert_eq!(alert["rule"]["action"], "exec");
    assert_eq!((&alert["container"]["name"], &alert["process"]["pid"]), (&"web".into(), &1.into()));

    let mut connect = exec(1, 0);
    connect.event = Nature { action: AuditKind::Connect, outcome: Some(Outcome::Failure) };
    connect.destination =
        Some(Endpoint { ip: Some("169.254.169.254".into()), ..Endpoint::default() });
    assert_eq!(names(&rules.judge(&connect)), ["cloud_metadata"]);
    // What the agent did itself, and an alert, are nobody's matches.
    connect.event.action = AuditKind::Limit;
    assert!(rules.judge(&connect).is_empty() && rules.judge(&alerts[0]).is_empty());
}

#[test]
fn a_rate_holds_back_and_both_counts_and_the_next_alert_say_so() {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let (_directory, _, rules) = rules_of(ONE_IN_AN_HOUR);
    let suppressed = |at| {
        let alerts = rules.judge(&exec(1, at));
        alerts.first().map(|alert| alert.rule.as_ref().unwrap().suppressed)
    };
    assert_eq!(suppressed(0), Some(None));
    assert_eq!((suppressed(1), suppressed(2)), (None, None));
    assert_eq!(suppressed(HOUR_NS), Some(Some(2)));
    let expected =
        RuleCount { rule: "one".into(), severity: "critical", matches: 4, suppressed: 2 };
    assert_eq!(rules.report(), [expected]);
}

#[test]
fn wrong_files_change_nothing_and_right_ones_go_on_counting() {
    let (_directory, file, rules) = rules_of(ONE_IN_AN_HOUR);
    assert_eq!(rules.judge(&exec(1, 0)).len(), 1);
    std::fs::write(&file, ONE_IN_AN_HOUR.replace("process.pid = 1", "process.pit = 1")).unwrap();
    let told = rules.reload().unwrap_err().to_string();
    let place = format!("{}:7:14: process.pit is no field", file.display());
    assert!(told.starts_with(&place), "{told}");
    assert_eq!(rules.list()[0].0.condition, "process.pid = 1");

    std::fs::write(&file, ONE_IN_AN_HOUR.replace("process.pid = 1", "process.pid = 2")).unwrap();
    rules.reload().unwrap();
    assert!(rules.judge(&exec(1, 1)).is_empty());
    assert_eq!((rules.judge(&exec(2, 2)).len(), rules.report()[0].matches), (1, 2));

    std::fs::remove_file(&file).unwrap();
    assert!(rules.reload().unwrap_err().to_string().contains("own.toml"));
    assert_eq!(rules.list().len(), 1);
}
