//! Policies as operators write them.

use tenantry_control::{Class, ContainerRates, Mode, Objectives, Policy, PolicyError};

const EXAMPLE: &str = include_str!("../examples/policy.toml");

fn error_of(text: &str) -> String {
    Policy::parse(text).expect_err(text).to_string()
}

fn container(name: &str, image: &str, label: Option<&str>) -> ContainerRates {
    let label = label.map(|value| ("tenantry.class".to_owned(), value.to_owned()));
    ContainerRates {
        id: name.into(),
        name: name.into(),
        image: image.into(),
        labels: label.into_iter().collect(),
        running: true,
        ..ContainerRates::default()
    }
}

#[test]
fn the_example_is_right_and_its_comments_are_the_defaults() {
    let example = Policy::parse(EXAMPLE).unwrap();
    assert_eq!(example.mode, Mode::Enforce);
    assert_eq!(example.rules.len(), 2);
    // Each commented key with its value, without the explanation behind it: the same
    // policy, or a comment is wrong.
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix("# ").and_then(|rest| rest.split_once(" = ")) {
            Some((key, value)) if !key.contains(' ') => {
                let value = if value.starts_with('[') {
                    value
                } else {
                    value.split_whitespace().next().unwrap_or_default()
                };
                // The example's ceiling is no default.
                let comment = if line == "# cpu_cores = 2" { "# " } else { "" };
                format!("{comment}{key} = {value}\n")
            }
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.matches("\nsettle_seconds = 1\n").count() == 1, "{uncommented}");
    assert_eq!(Policy::parse(&uncommented).unwrap(), example);
}

#[test]
fn without_a_file_everybody_is_normal_and_nothing_is_enforced() {
    let policy = Policy::default();
    assert_eq!((policy.mode, policy.limit_normal), (Mode::Advise, false));
    let anybody = container("a", "b", None);
    assert_eq!(policy.standing(&anybody).class, Class::Normal);
    assert!(!policy.may_limit(&anybody));
}

#[test]
fn the_first_rule_that_matches_decides_then_the_label() {
    let policy = Policy::parse(
        r#"
        [[rule]]
        class = "best-effort"
        image = ["*/batch:*"]
        [[rule]]
        class = "protected"
        name = ["web-*"]
        objectives = { pressure_cpu = 0.2 }
        [[rule]]
        class = "normal"
        name = ["plain"]
        label = ["protected"]
        "#,
    )
    .unwrap();
    let check = |name, image, label, expected| {
        let container = container(name, image, label);
        assert_eq!(policy.standing(&container).class, expected, "{container:?}");
    };
    check("web-1", "r/web:1", None, Class::Protected);
    check("web-1", "r/batch:1", None, Class::BestEffort);
    check("web-1", "r/web:1", Some("best-effort"), Class::Protected);
    check("db", "r/db:1", Some("best-effort"), Class::BestEffort);
    check("db", "r/db:1", Some("protected"), Class::Protected);
    check("db", "r/db:1", Some("holy"), Class::Normal);
    check("plain", "r/db:1", Some("protected"), Class::Normal);
    check("plain", "r/db:1", None, Class::Normal);
    let web = container("web-1", "", None);
    let only = Objectives { pressure_cpu: Some(0.2), ..Objectives::default() };
    assert_eq!(policy.standing(&web).objectives, Some(&only));
    let distrusting = Policy::parse("trust_labels = false").unwrap();
    let labelled = container("db", "", Some("best-effort"));
    assert_eq!(distrusting.standing(&labelled).class, Class::Normal);
}

#[test]
fn foreign_containers_are_limited_only_if_the_policy_says_so() {
    let mut worker = container("w", "", Some("best-effort"));
    worker.foreign = true;
    assert!(!Policy::default().may_limit(&worker));
    let opted_in = |text: &str| Policy::parse(&format!("limit_foreign = true\n{text}")).unwrap();
    assert!(opted_in("").may_limit(&worker));
    // A service that nobody named is not meant by all that are normal.
    let service = ContainerRates { foreign: true, ..container("sshd.service", "", None) };
    assert!(!opted_in("limit_normal = true").may_limit(&service));
    let rule = "[[rule]]\nclass = \"best-effort\"\nname = [\"sshd*\"]\n";
    assert!(opted_in(rule).may_limit(&service));
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    let error = error_of("mode = \"advise\"\n[act]\nsetle_seconds = 2\n");
    assert!(error.contains("line 3") && error.contains("setle_seconds"), "{error}");
    assert!(matches!(Policy::parse("mode = \"kill\""), Err(PolicyError::Syntax(_))));
}

#[test]
fn what_is_not_allowed_is_named_with_what_is() {
    for (text, field) in [
        ("[detect]\nbad_looks = 0", "detect.bad_looks"),
        ("[detect]\nsmoothing = nan", "detect.smoothing"),
        ("[detect]\nwell_below = 1.0", "detect.well_below"),
        ("[detect]\nleast_share = 0", "detect.least_share"),
        ("[act]\ntrial_seconds = 2", "act.trial_seconds"),
        ("[act]\ncut_most = 0.9\ncut_least = 0.8", "act.cut_most"),
        ("[act]\ncooldown_seconds = 7200", "act.most_cooldown_seconds"),
        ("[act]\nturn_seconds = inf", "act.turn_seconds"),
        ("[floors]\ncpu_cores = 0", "floors.cpu_cores"),
        ("[ceilings]\ncpu_cores = 0.05", "ceilings.cpu_cores"),
        ("[protected]\npressure_cpu = 10", "protected.pressure_cpu"),
        ("[protected]\nlatency_ms = 10", "protected.latency_ms"),
        ("[[rule]]\nclass = \"normal\"", "rule[0]"),
        ("[[rule]]\nclass = \"normal\"\nname = [\"\"]", "rule[0].name"),
        (
            "[[rule]]\nclass = \"best-effort\"\nname = [\"a\"]\nobjectives = {}",
            "rule[0].objectives",
        ),
        (
            "[[rule]]\nclass = \"protected\"\nname = [\"a\"]\nobjectives = { latency_ms = 1 }",
            "rule[0].metric",
        ),
        (
            "[[rule]]\nclass = \"protected\"\nname = [\"a\"]\nobjectives = { latency_ms = 1 }\n\
             metric = { name = \"a b\", port = 80 }",
            "rule[0].metric.name",
        ),
        (
            "[[rule]]\nclass = \"best-effort\"\nname = [\"a\"]\nfloors = { cpu_cores = 2 }\n\
             ceilings = { cpu_cores = 1 }",
            "rule[0].ceilings.cpu_cores",
        ),
    ] {
        let error = error_of(text);
        assert!(error.contains(&format!("{field} = ")), "{text}: {error}");
        assert!(error.contains("not allowed"), "{error}");
    }
}

#[test]
fn all_errors_are_told_at_once() {
    let text = "[detect]\nbad_looks = 0\nwell_below = 2\n[act]\nmargin = 5\n";
    let Err(PolicyError::Invalid(errors)) = Policy::parse(text) else { panic!() };
    let fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
    assert_eq!(fields, ["detect.bad_looks", "detect.well_below", "act.margin"]);
}

#[test]
fn a_policy_comes_back_from_a_log_as_it_was() {
    let policy = Policy::parse(EXAMPLE).unwrap();
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<Policy>(&json).unwrap(), policy);
}
