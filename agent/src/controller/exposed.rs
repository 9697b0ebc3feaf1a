//! A latency from a page in the text format that Prometheus reads (0.0.4): one metric of it,
//! and no more of the page than that. Pure.

use tenantry_control::Metric;

/// Bounds of one histogram. More are a mistake, and each costs a look-up.
const MOST_BOUNDS: usize = 512;

/// One metric of one page, all its series together.
#[derive(Clone, Debug, PartialEq)]
pub enum Exposed {
    /// How many took at most so long since the container began, by bound, the smallest first.
    Histogram(Vec<(f64, f64)>),
    /// A gauge, or a summary's quantile: the largest of the series.
    Value(f64),
}

impl Exposed {
    /// `None` if the page has no such metric, or none whose numbers can be used.
    pub fn find(page: &str, metric: &Metric) -> Option<Exposed> {
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        // The nearest quantile that is not below the wanted one, else the highest.
        let mut best: Option<(f64, f64)> = None;
        for line in page.lines() {
            let Some(rest) = line.strip_prefix(metric.name.as_str()) else { continue };
            if let Some(rest) = rest.strip_prefix("_bucket{") {
                let Some((Some(bound), count)) = series(rest, "le") else { continue };
                let known = bounds.binary_search_by(|(known, _)| known.total_cmp(&bound));
                match known {
                    Ok(at) => bounds[at].1 += count,
                    Err(_) if bounds.len() == MOST_BOUNDS => return None,
                    Err(at) => bounds.insert(at, (bound, count)),
                }
            } else if rest.starts_with(['{', ' ', '\t']) {
                let labelled = rest.strip_prefix('{').map(|rest| series(rest, "quantile"));
                let found = labelled.unwrap_or_else(|| Some((None, number(rest)?)));
                // A summary of nothing says NaN.
                let Some((quantile, value)) = found.filter(|(_, value)| !value.is_nan()) else {
                    continue;
                };
                let quantile = quantile.unwrap_or(metric.quantile);
                best = Some(match best {
                    Some((known, most)) if known == quantile => (known, most.max(value)),
                    Some(best) if !is_nearer(quantile, best.0, metric.quantile) => best,
                    _ => (quantile, value),
                });
            }
        }
        match bounds.is_empty() {
            false => Some(Exposed::Histogram(bounds)),
            true => best.map(|(_, value)| Exposed::Value(value)),
        }
    }

    /// In milliseconds; of a histogram that of what was added since `before`. `None` if
    /// nothing was, or the container began anew.
    pub fn latency_ms(&self, before: Option<&Exposed>, metric: &Metric) -> Option<f64> {
        let units = match (before, self) {
            (_, Exposed::Value(value)) => *value,
            (Some(Exposed::Histogram(before)), Exposed::Histogram(now)) => {
                quantile(metric.quantile, before, now)?
            }
            (_, Exposed::Histogram(_)) => return None,
        };
        let ms = units * metric.unit_ms;
        (ms.is_finite() && ms >= 0.0).then_some(ms)
    }
}

/// Whether `one` says more of the wanted quantile than `other` does.
fn is_nearer(one: f64, other: f64, wanted: f64) -> bool {
    match (one >= wanted, other >= wanted) {
        (true, true) => one < other,
        (is_enough, false) => is_enough || one > other,
        (false, true) => false,
    }
}

/// Spread evenly within its bucket, as Prometheus does it. What took longer than the last
/// finite bound took at least that.
fn quantile(quantile: f64, before: &[(f64, f64)], now: &[(f64, f64)]) -> Option<f64> {
    let is_same = |((a, _), (b, _)): (&(f64, f64), &(f64, f64))| a.total_cmp(b).is_eq();
    if before.len() != now.len() || !before.iter().zip(now).all(is_same) {
        return None;
    }
    let added: Vec<(f64, f64)> =
        before.iter().zip(now).map(|((_, was), (bound, is))| (*bound, is - was)).collect();
    let is_count = |(_, count): &(f64, f64)| *count >= 0.0 && count.is_finite();
    let all = added.last().filter(|_| added.iter().all(is_count))?.1;
    let rank = quantile * all;
    let (mut low, mut below) = (None, 0.0);
    for (bound, count) in added {
        if count > below && count >= rank {
            let from = low.unwrap_or(0.0_f64).min(bound);
            return match bound.is_finite() {
                true => Some(from + (bound - from) * (rank - below).max(0.0) / (count - below)),
                false => low,
            };
        }
        (low, below) = (Some(bound), count.max(below));
    }
    None
}

/// The number in one label, and the value. `labels` begins after the brace. `None` for what
/// is no series, or where that label is no number.
fn series(labels: &str, wanted: &str) -> Option<(Option<f64>, f64)> {
    let (mut rest, mut found) = (labels, None);
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if let Some(after) = rest.strip_prefix('}') {
            return Some((found, number(after)?));
        }
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start().strip_prefix('"')?;
        let end = closing_quote(after)?;
        if name.trim_end() == wanted {
            let number: f64 = after[..end].parse().ok()?;
            found = Some(number).filter(|number| !number.is_nan());
        }
        rest = &after[end + 1..];
    }
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.bytes().position(|byte| {
        let is_end = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        is_end
    })
}

/// A value; a time may follow it.
fn number(text: &str) -> Option<f64> {
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn metric(name: &str) -> Metric {
        let (path, port) = ("/metrics".to_owned(), 9100);
        Metric { name: name.to_owned(), port, path, quantile: 0.99, unit_ms: 1000.0 }
    }

    const PAGE: &str = "\
# HELP seconds of requests
# TYPE seconds histogram
seconds_bucket{path=\"/a\",le=\"0.1\"} 90
seconds_bucket{path=\"/a\",le=\"0.2\"} 100
seconds_bucket{path=\"/a\",le=\"+Inf\"} 100 1700000000000
seconds_bucket{le=\"0.1\",path=\"/} \\\"le=\\\\\"} 10
seconds_bucket{le=\"0.2\",path=\"/} \\\"le=\\\\\"} 1e1
seconds_bucket{le=\"+Inf\",path=\"/} \\\"le=\\\\\"} 11
seconds_sum{path=\"/a\"} 12
seconds_count{path=\"/a\"} 111
now_seconds 0.25
now_seconds{ shard = \"b\" , } 0.5 1700000000000
asked_seconds{quantile=\"0.5\"} 0.1
asked_seconds{quantile=\"0.999\"} 0.9
asked_seconds{quantile=\"0.99\",shard=\"a\"} 0.3
asked_seconds{quantile=\"0.99\",shard=\"b\"} 0.4
asked_seconds_sum 3
low_seconds{quantile=\"0.5\"} 0.1
low_seconds{quantile=\"0.9\"} 0.2
idle_seconds{quantile=\"0.99\"} NaN
seconds_bucket{le=\"x\"} 7
seconds_bucket{le=\"0.1\" 7
";

    #[test]
    fn the_series_of_a_metric_are_one() {
        let check = |name: &str, expected: Option<Exposed>| {
            assert_eq!(Exposed::find(PAGE, &metric(name)), expected, "{name}");
        };
        let bounds = vec![(0.1, 100.0), (0.2, 110.0), (f64::INFINITY, 111.0)];
        check("seconds", Some(Exposed::Histogram(bounds)));
        check("now_seconds", Some(Exposed::Value(0.5)));
        check("asked_seconds", Some(Exposed::Value(0.4)));
        check("low_seconds", Some(Exposed::Value(0.2)));
        check("idle_seconds", None);
        check("other", None);
        check("second", None);
    }

    #[test]
    fn a_histogram_with_too_many_bounds_is_none() {
        let line = |n: usize| format!("seconds_bucket{{le=\"{n}\"}} 1\n");
        let page = |bounds: usize| (0..bounds).map(line).collect::<String>();
        assert!(Exposed::find(&page(MOST_BOUNDS), &metric("seconds")).is_some());
        assert_eq!(Exposed::find(&page(MOST_BOUNDS + 1), &metric("seconds")), None);
    }

    #[test]
    fn a_quantile_is_of_what_was_added() {
        let of = |counts: [f64; 3]| {
            Exposed::Histogram([0.1, 0.2, f64::INFINITY].into_iter().zip(counts).collect())
        };
        let check = |before: [f64; 3], now: [f64; 3], expected: Option<f64>| {
            let found = of(now).latency_ms(Some(&of(before)), &metric("seconds"));
            assert_eq!(found.map(|ms| (ms * 1e6).round() / 1e6), expected, "{before:?} {now:?}");
        };
        check([5.0, 9.0, 9.0], [105.0, 109.0, 109.0], Some(99.0));
        check([0.0; 3], [0.0, 100.0, 100.0], Some(199.0));
        check([0.0; 3], [0.0, 98.0, 100.0], Some(200.0));
        check([0.0; 3], [0.0, 0.0, 100.0], Some(200.0));
        // Nobody asked, or it began anew.
        check([5.0, 9.0, 9.0], [5.0, 9.0, 9.0], None);
        check([5.0, 9.0, 9.0], [1.0, 19.0, 19.0], None);
        let one = of([1.0, 2.0, 3.0]);
        assert_eq!(one.latency_ms(None, &metric("seconds")), None);
        let other = Exposed::Histogram(vec![(0.1, 0.0), (0.3, 0.0), (f64::INFINITY, 0.0)]);
        assert_eq!(one.latency_ms(Some(&other), &metric("seconds")), None);
        assert_eq!(Exposed::Value(0.5).latency_ms(None, &metric("")), Some(500.0));
        assert_eq!(Exposed::Value(-0.5).latency_ms(None, &metric("")), None);
        assert_eq!(Exposed::Value(f64::INFINITY).latency_ms(None, &metric("")), None);
    }

    proptest! {
        #[test]
        fn any_page_is_read_and_what_comes_of_it_is_a_time(
            was in "(s(_bucket)?[{}a-z=\",\\\\ 0-9le.+\\-Inf]{0,40}\n?){0,8}",
            is in "(s(_bucket)?(\\{le=\"[0-9.+Inf]{0,4}\"\\})? ?-?[0-9.e]{0,6}\n){0,8}",
        ) {
            let metric = metric("s");
            let pages = [Exposed::find(&was, &metric), Exposed::find(&is, &metric)];
            for now in pages.iter().flatten() {
                for before in &pages {
                    if let Some(ms) = now.latency_ms(before.as_ref(), &metric) {
                        prop_assert!(ms.is_finite() && ms >= 0.0);
                    }
                }
            }
        }

        #[test]
        fn a_quantile_lies_within_the_bounds(
            counts in proptest::collection::vec(0_u32..1000, 1..12),
        ) {
            let mut sum = 0.0;
            let bucket = |(n, count): (usize, &u32)| {
                sum += f64::from(*count);
                (0.001 * 2_f64.powi(n as i32), sum)
            };
            let now: Vec<(f64, f64)> = counts.iter().enumerate().map(bucket).collect();
            let before: Vec<(f64, f64)> = now.iter().map(|(bound, _)| (*bound, 0.0)).collect();
            let last = now.last().map_or(0.0, |(bound, _)| *bound);
            let found = Exposed::Histogram(now).latency_ms(
                Some(&Exposed::Histogram(before)),
                &metric("s"),
            );
            prop_assert_eq!(found.is_some(), sum > 0.0);
            prop_assert!(found.is_none_or(|ms| ms <= last * 1000.0 + 1e-9));
        }
    }
}
