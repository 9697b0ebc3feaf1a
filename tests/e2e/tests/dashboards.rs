//! The dashboards and the Prometheus files are right in themselves: structure, layout,
//! units, and that each query names metrics and labels that the agent serves.
//! That the queries return data is `prometheus.rs`'s part.

mod grafana;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;

use grafana::{Format, Panel, PanelKind, Selector, VariableKind};

/// What the agent serves, from the golden file of its encoder: metric, label, values.
type Served = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn served() -> Served {
    let golden =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../agent/src/metrics/golden/text.txt");
    let text = fs::read_to_string(golden).expect("the golden metrics file can be read");
    let mut served = Served::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, _) = line.rsplit_once(' ').expect("a sample has a value");
        for Selector { metric, matchers } in grafana::selectors(series) {
            let labels = served.entry(metric).or_default();
            for (label, _, value) in matchers {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    // Prometheus makes these itself.
    served.insert("up".to_owned(), BTreeMap::new());
    served
}

/// Every metric and label of the expression is served, and so is every value that is
/// written out. `extra` are metrics that recording rules make.
fn check_expression(place: &str, expr: &str, served: &Served, extra: &BTreeSet<String>) {
    for Selector { metric, matchers } in grafana::selectors(expr) {
        if extra.contains(&metric) {
            continue;
        }
        let labels = served
            .get(&metric)
            .unwrap_or_else(|| panic!("{place}: the agent serves no {metric}: {expr}"));
        for (label, operator, value) in matchers {
            if ["job", "instance"].contains(&label.as_str()) {
                continue;
            }
            let values = labels
                .get(&label)
                .unwrap_or_else(|| panic!("{place}: {metric} has no label {label}: {expr}"));
            if value.contains('$') || operator.starts_with('!') {
                continue;
            }
            for value in value.split('|') {
                assert!(values.contains(value), "{place}: no {metric} with {label}={value:?}");
            }
        }
    }
}

fn plotted(panels: &[Panel]) -> impl Iterator<Item = &Panel> {
    panels.iter().filter(|panel| panel.kind != PanelKind::Row)
}

#[test]
fn each_dashboard_has_an_identity_and_asks_for_its_data_source() {
    let dashboards = grafana::dashboards();
    assert_eq!(dashboards.len(), 2);
    let uids: BTreeSet<&str> = dashboards.iter().map(|(_, d)| d.uid.as_str()).collect();
    assert_eq!(uids.len(), dashboards.len(), "uids are unique");
    for (file, dashboard) in &dashboards {
        assert!(dashboard.uid.len() <= 40, "{file}: Grafana refuses longer uids");
        assert!(!dashboard.title.is_empty() && !dashboard.description.is_empty(), "{file}");
        assert!(dashboard.schema_version >= 36, "{file}: Grafana 9 or later");
        let variables = &dashboard.templating.list;
        assert_eq!(variables[0].name, "datasource", "{file}: the others need it, so it is first");
        assert_eq!(variables[0].kind, VariableKind::Datasource, "{file}");
        assert_eq!(variables[0].query, "prometheus", "{file}");
        for variable in &variables[1..] {
            let datasource = variable.datasource.as_ref().expect("a query has a data source");
            assert_eq!(datasource.uid, "${datasource}", "{file}: {}", variable.name);
        }
    }
}

#[test]
fn each_panel_says_what_it_shows_in_which_unit_from_which_data_source() {
    for (file, dashboard) in grafana::dashboards() {
        let ids: BTreeSet<u32> = dashboard.panels.iter().map(|panel| panel.id).collect();
        assert_eq!(ids.len(), dashboard.panels.len(), "{file}: panel ids are unique");
        for panel in &dashboard.panels {
            assert!(!panel.title.is_empty(), "{file}: panel {} has no title", panel.id);
        }
        for panel in plotted(&dashboard.panels) {
            let place = format!("{file}: {} (panel {})", panel.title, panel.id);
            assert!(panel.description.as_ref().is_some_and(|d| d.ends_with('.')), "{place}");
            let config = panel.field_config.as_ref().expect(&place);
            assert!(!config.defaults.unit.is_empty(), "{place}: no unit");
            assert_eq!(panel.datasource.as_ref().expect(&place).uid, "${datasource}", "{place}");
            assert!(panel.options.is_some(), "{place}: no options");
            if let Some(thresholds) = &config.defaults.thresholds {
                assert_eq!(thresholds.steps[0].value, None, "{place}: the first step has no bound");
            }
            assert!(!panel.targets.is_empty(), "{place}: no query");
            let refs: BTreeSet<&str> = panel.targets.iter().map(|t| t.ref_id.as_str()).collect();
            assert_eq!(refs.len(), panel.targets.len(), "{place}: refIds are unique");
            for target in &panel.targets {
                assert_eq!(target.datasource.uid, "${datasource}", "{place}");
                assert!(target.range != target.instant, "{place}: range or instant");
                let expected = match panel.kind {
                    PanelKind::Heatmap => Some(Format::Heatmap),
                    PanelKind::Table => Some(Format::Table),
                    _ => None,
                };
                assert_eq!(target.format, expected, "{place}");
            }
        }
    }
}

#[test]
fn no_panel_covers_another_or_leaves_the_grid() {
    for (file, dashboard) in grafana::dashboards() {
        for (index, panel) in dashboard.panels.iter().enumerate() {
            let a = panel.grid_pos;
            assert!(a.w > 0 && a.h > 0 && a.x + a.w <= 24, "{file}: {}", panel.title);
            for other in &dashboard.panels[index + 1..] {
                let b = other.grid_pos;
                let apart =
                    a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
                assert!(apart, "{file}: {} and {} overlap", panel.title, other.title);
            }
        }
    }
}

#[test]
fn each_panel_asks_for_metrics_labels_and_values_that_the_agent_serves() {
    let served = served();
    for (file, dashboard) in grafana::dashboards() {
        let variables: Vec<&str> =
            dashboard.templating.list.iter().map(|variable| variable.name.as_str()).collect();
        for panel in plotted(&dashboard.panels) {
            for target in &panel.targets {
                let place = format!("{file}: {}", panel.title);
                check_expression(&place, &target.expr, &served, &BTreeSet::new());
                for used in target.expr.split('$').skip(1) {
                    let name: &str = used
                        .split(|c: char| !c.is_alphanumeric() && c != '_')
                        .next()
                        .unwrap_or_default();
                    let known = ["__rate_interval", "__range"].contains(&name);
                    assert!(known || variables.contains(&name), "{place}: unknown ${name}");
                }
            }
        }
    }
}

#[test]
fn each_rule_asks_for_metrics_labels_and_values_that_the_agent_serves() {
    let served = served();
    let folder = grafana::folder().join("prometheus");
    let read = |file: &str| fs::read_to_string(folder.join(file)).expect("a rule file can be read");
    let (records, recording) = grafana::rules(&read("recording.yml"));
    let (none, alerts) = grafana::rules(&read("alerts.yml"));
    assert!(!records.is_empty() && none.is_empty() && !alerts.is_empty());
    assert_eq!(records.len(), recording.len(), "each recording rule has a name of its own");
    for expr in recording {
        check_expression("recording.yml", &expr, &served, &BTreeSet::new());
    }
    for expr in alerts {
        check_expression("alerts.yml", &expr, &served, &records);
    }
}

/// Runs promtool; `false` where it is not installed, which the test then says.
fn promtool(arguments: &[&str]) -> bool {
    let mut command = Command::new("promtool");
    match command.args(arguments).current_dir(grafana::folder().join("prometheus")).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED: promtool is not installed (Debian package: prometheus)");
            false
        }
        Err(error) => panic!("promtool cannot be run: {error}"),
        Ok(output) => {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (out, err) = (text(&output.stdout), text(&output.stderr));
            assert!(output.status.success(), "promtool {arguments:?}:\n{out}\n{err}");
            true
        }
    }
}

#[test]
fn promtool_accepts_the_configuration_and_the_rules() {
    if promtool(&["check", "config", "scrape.yml"]) {
        promtool(&["check", "rules", "recording.yml", "alerts.yml"]);
    }
}

#[test]
fn promtool_finds_that_rules_and_alerts_do_what_their_tests_say() {
    promtool(&["test", "rules", "tests/recording.yml", "tests/alerts.yml"]);
}

#[test]
fn prometheus_parses_each_panels_query() {
    let mut file = "groups:\n  - name: panels\n    rules:\n".to_owned();
    for (_, dashboard) in grafana::dashboards() {
        for target in plotted(&dashboard.panels).flat_map(|panel| &panel.targets) {
            let values = [("job", ".*"), ("instance", ".*"), ("name", "a")];
            let query = grafana::substitute(&target.expr, &values, "1m");
            let number = file.matches("record").count();
            // A JSON string is a YAML string.
            let quoted = serde_json::to_string(&query).expect("a string is JSON");
            file += &format!("      - record: panel:query:{number}\n        expr: {quoted}\n");
        }
    }
    let rules = tempfile::Builder::new().suffix(".yml").tempfile().expect("a temporary file");
    fs::write(rules.path(), file).expect("a temporary file can be written");
    promtool(&["check", "rules", &rules.path().to_string_lossy()]);
}

#[test]
fn the_scan_for_selectors_knows_what_is_no_metric() {
    let matcher = |l: &str, o: &str, v: &str| (l.to_owned(), o.to_owned(), v.to_owned());
    for (expr, expected) in [
        ("up", vec![("up", vec![])]),
        (
            "sum by (instance, le) (rate(a_total{x=\"y\",z=~\"$z\"}[5m])) / on (job) (b:c:rate5m > 0)",
            vec![
                ("a_total", vec![matcher("x", "=", "y"), matcher("z", "=~", "$z")]),
                ("b:c:rate5m", vec![]),
            ],
        ),
        ("histogram_quantile(0.99, sum(h_bucket)) or vector(0)", vec![("h_bucket", vec![])]),
        (
            "8 * a{b!=\"\"} offset 5m unless c",
            vec![("a", vec![matcher("b", "!=", "")]), ("c", vec![])],
        ),
    ] {
        let found = grafana::selectors(expr);
        let expected: Vec<Selector> = expected
            .into_iter()
            .map(|(metric, matchers)| Selector { metric: metric.to_owned(), matchers })
            .collect();
        assert_eq!(found, expected, "{expr}");
    }
}
