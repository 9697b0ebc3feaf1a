//! One fixed report, its golden files in both formats, and what holds for any report.
//!
//! `UPDATE_GOLDEN=1 cargo test -p tenantry --lib metrics` rewrites the golden files; the
//! difference is then read in the diff. The dashboards' tests read `golden/text.txt` too.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use tenantry_ebpf::SyscallCount;

use super::*;

mod fixed;

/// A scrape with room for everything.
fn shown(report: &HostReport, format: Format) -> String {
    encode(report, format, &Cap::new(u64::MAX))
}

fn golden(file: &str, answer: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/metrics/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, answer).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&path).expect("the golden file can be read");
    for (number, (answer, expected)) in answer.lines().zip(expected.lines()).enumerate() {
        assert_eq!(answer, expected, "{file}, line {}", number + 1);
    }
    assert_eq!(answer.len(), expected.len(), "{file}: one goes on where the other ends");
}

#[test]
fn a_fixed_report_gives_the_golden_text() {
    golden("text.txt", &shown(&fixed::report(), Format::Text));
}

#[test]
fn a_fixed_report_gives_the_golden_openmetrics_text() {
    golden("openmetrics.txt", &shown(&fixed::report(), Format::OpenMetrics));
}

fn samples(answer: &str) -> BTreeSet<&str> {
    answer.lines().filter(|line| !line.starts_with('#')).collect()
}

#[test]
fn both_formats_hold_the_same_samples() {
    let report = fixed::report();
    let (text, open) = (shown(&report, Format::Text), shown(&report, Format::OpenMetrics));
    assert_eq!(samples(&text), samples(&open));
}

/// Family by family: `(name, type, samples)`, and the rules that both formats share.
fn families(answer: &str) -> Vec<(String, String, Vec<String>)> {
    let mut families: Vec<(String, String, Vec<String>)> = Vec::new();
    let mut helped = String::new();
    for line in answer.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help has a text");
            assert!(!help.is_empty() && !help.contains('\\'), "{line}");
            helped = name.to_owned();
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type line has a type");
            assert_eq!(name, helped, "help stands before the type");
            families.push((name.to_owned(), kind.to_owned(), Vec::new()));
        } else if !line.starts_with('#') {
            families.last_mut().expect("a family begins with its type").2.push(line.to_owned());
        }
    }
    let names: BTreeSet<&String> = families.iter().map(|(name, _, _)| name).collect();
    assert_eq!(names.len(), families.len(), "a family is written once");
    for (name, kind, samples) in &families {
        assert!(!samples.is_empty(), "{name} has a descriptor and no sample");
        let mut series = BTreeSet::new();
        for sample in samples {
            let (labels, value) = sample.rsplit_once(' ').expect("a sample has a value");
            assert!(value.parse::<f64>().is_ok_and(|value| value.is_finite()), "{sample}");
            assert!(series.insert(labels), "{labels} twice");
            let suffix = labels
                .split('{')
                .next()
                .and_then(|sample| sample.strip_prefix(name.as_str()))
                .unwrap_or_else(|| panic!("{sample} stands in family {name}"));
            let allowed: &[&str] = match kind.as_str() {
                "counter" => &["", "_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_count", "_sum"],
                other => panic!("{name} is a {other}"),
            };
            assert!(allowed.contains(&suffix), "{sample} in a {kind}");
        }
    }
    families
}

#[test]
fn in_0_0_4_a_counters_family_is_called_as_its_samples_are() {
    let answer = shown(&fixed::report(), Format::Text);
    for (name, kind, samples) in families(&answer) {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        if kind == "counter" {
            assert!(samples.iter().all(|sample| sample[name.len()..].starts_with(['{', ' '])));
        }
    }
    assert!(!answer.contains("# UNIT") && !answer.contains("# EOF"));
}

#[test]
fn in_openmetrics_a_counters_family_lacks_the_suffix_and_units_end_the_name() {
    let answer = shown(&fixed::report(), Format::OpenMetrics);
    for (name, kind, samples) in families(&answer) {
        assert!(!name.ends_with("_total"), "{name}");
        if kind == "counter" {
            assert!(samples.iter().all(|sample| sample[name.len()..].starts_with("_total")));
        }
    }
    let units: BTreeMap<&str, &str> =
        answer.lines().filter_map(|line| line.strip_prefix("# UNIT ")?.split_once(' ')).collect();
    assert_eq!(units["container_cpu_usage_seconds"], "seconds");
    assert_eq!(units["tenantry_limit_memory_bytes"], "bytes");
    assert!(units.iter().all(|(name, unit)| name.ends_with(&format!("_{unit}"))));
    assert!(answer.ends_with("# EOF\n"));
    assert_eq!(answer.matches("# EOF").count(), 1);
}

#[test]
fn histograms_are_cumulative_and_end_with_their_count() {
    let answer = shown(&fixed::report(), Format::Text);
    let mut checked = 0;
    let mut last = 0.0;
    let mut count = BTreeMap::new();
    for line in samples_in_order(&answer) {
        let (series, value) = line.rsplit_once(' ').expect("a sample has a value");
        let value: f64 = value.parse().expect("a value is a number");
        if let Some((name, labels)) = series.split_once("_count") {
            count.insert((name, labels), value);
            last = 0.0;
        } else if let Some((name, labels)) = series.split_once("_bucket{") {
            assert!(value >= last, "{line}");
            last = value;
            if let Some(rest) = labels.strip_prefix("le=\"+Inf\",") {
                let key = (name, &*format!("{{{rest}"));
                let count = count.iter().find(|(k, _)| (k.0, k.1) == key).expect("a count").1;
                assert_eq!(value, *count, "{line}");
                checked += 1;
            }
        }
    }
    assert!(checked >= 3, "system calls, disk and run queue");
}

fn samples_in_order(answer: &str) -> impl Iterator<Item = &str> {
    answer.lines().filter(|line| !line.starts_with('#'))
}

#[test]
fn a_host_without_containers_shows_itself_alone() {
    let answer = shown(&HostReport::default(), Format::Text);
    let families = families(&answer);
    assert!(families.iter().all(|(name, _, _)| !name.starts_with("container_")));
    assert!(families.iter().any(|(name, _, _)| name == "process_resident_memory_bytes"));
}

#[test]
fn a_stopped_container_keeps_its_counters_and_loses_what_only_a_running_one_has() {
    let mut report = fixed::report();
    report.containers.retain(|container| !container.running);
    report.wholes.clear();
    assert_eq!(report.containers.len(), 1);
    let answer = shown(&report, Format::Text);
    for present in [
        "tenantry_container_running{id=\"/tenantry/b0\",image=\"batch:1\",name=\"batch\"} 0",
        "container_oom_events_total{id=\"/tenantry/b0\",image=\"batch:1\",name=\"batch\"} 2",
    ] {
        assert!(answer.lines().any(|line| line == present), "{present}");
    }
    for absent in ["container_last_seen", "container_memory_usage_bytes", "tenantry_namespace_info"]
    {
        assert!(!answer.contains(absent), "{absent}");
    }
}

#[test]
fn label_values_are_escaped() {
    let mut report = fixed::report();
    report.containers[0].image = "a\"b\\c\nd".to_owned();
    let answer = shown(&report, Format::Text);
    assert!(answer.contains(r#"image="a\"b\\c\nd""#));
    assert!(samples(&answer).iter().all(|line| line.contains(' ')));
}

#[test]
fn promtool_finds_nothing_to_say_about_the_text() {
    let started = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut promtool = match started {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED: promtool is not installed (Debian package: prometheus)");
            return;
        }
        other => other.expect("promtool can be started"),
    };
    let answer = shown(&fixed::report(), Format::Text);
    let mut input = promtool.stdin.take().expect("the input is a pipe");
    input.write_all(answer.as_bytes()).expect("promtool reads its input");
    drop(input);
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}\n{said}", output.status);
}

/// A measurement, not a test of speed: the machine decides. `--nocapture` shows it.
#[test]
fn a_hundred_containers_with_forty_system_calls_each_are_encoded() {
    let one = fixed::report().containers.pop().expect("the running one");
    let containers = (0..100)
        .map(|number| {
            let mut container = one.clone();
            container.cgroup = format!("/tenantry/{number:064x}");
            container.name = format!("container-{number}");
            container.labels = Default::default();
            let calls = &mut container.counters.as_mut().expect("it has counters").syscalls;
            *calls = (0..40).map(|nr| SyscallCount { nr, count: 1000, errors: 1 }).collect();
            container
        })
        .collect();
    let report = HostReport { containers, ..fixed::report() };
    for format in [Format::Text, Format::OpenMetrics] {
        let begin = Instant::now();
        let answer = shown(&report, format);
        let elapsed = begin.elapsed();
        let lines = samples_in_order(&answer).count();
        assert!(lines > 100 * 80);
        println!("{format:?}: {lines} samples, {} KiB in {elapsed:?}", answer.len() / 1024);
    }
}

#[test]
fn a_scrape_that_is_too_large_is_cut_between_whole_series() {
    let report = fixed::report();
    let whole = shown(&report, Format::Text);
    let lines = samples_in_order(&whole).count();
    let own = |line: &&str| line.starts_with("tenantry_metrics_series");
    let wanted: Vec<&str> = samples_in_order(&whole).filter(|line| !own(line)).collect();
    for max in (0..lines + 3).step_by(7).chain([lines]) {
        let cap = Cap::new(max as u64);
        let answer = encode(&report, Format::Text, &cap);
        families(&answer);
        let written: Vec<&str> = samples_in_order(&answer).filter(|line| !own(line)).collect();
        assert!(written.len() + 2 <= max.max(2), "{} of {max}", written.len() + 2);
        // What is written is what stood first, and no histogram is torn.
        assert_eq!(written, wanted[..written.len()], "{max}");
        let torn = wanted.get(written.len()).is_some_and(|next| {
            next.contains("_bucket{")
                || next.split(['{', ' ']).next().is_some_and(|n| n.ends_with("_count"))
        });
        assert!(!torn, "{max}: {:?}", wanted.get(written.len()));
        let dropped = (wanted.len() - written.len()) as u64;
        assert!(answer.contains(&format!("tenantry_metrics_series {}\n", written.len() + 2)));
        assert!(answer.contains(&format!("tenantry_metrics_series_dropped_total {dropped}\n")));
        // The next scrape adds its own.
        let again = encode(&report, Format::Text, &cap);
        let total = format!("tenantry_metrics_series_dropped_total {}\n", 2 * dropped);
        assert!(again.contains(&total), "{total}");
    }
}
