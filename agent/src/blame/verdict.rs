//! Who is to be named. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Party, Resource, Row, Who, Window};

/// A victim waits for a neighbour at least this share of the time: below it a neighbour's
/// mere presence would be blamed. Threads that wake now and then on a shared CPU cost each
/// other some thousandths; a CPU shared by two spinners costs each a half.
const LEAST_SECONDS_PER_SECOND: f64 = 0.02;
/// Of what all neighbours together cost the victim, the one that is named did this much: more
/// than the others together, so that there is never more than one.
const LEAST_OF_NEIGHBOURS: f64 = 0.5;
/// Of the victim's whole wait for the resource: one whose own quota stops it is not helped by
/// quieter neighbours.
const LEAST_OF_ALL: f64 = 0.1;
/// Shorter windows say nothing yet.
const LEAST_WINDOW_SECONDS: f64 = 0.5;

/// One container keeps another one waiting.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub victim: Arc<Party>,
    pub culprit: Arc<Party>,
    pub resource: Resource,
    /// Waits that the culprit caused, per second of the window; may exceed 1, as threads wait
    /// side by side.
    pub seconds_per_second: f64,
    /// Of what all neighbours caused.
    pub of_neighbours: f64,
}

/// At most one culprit for each victim and resource, the worst first; never the host, the
/// victim itself, its quota or the hypervisor.
pub fn verdicts(window: &Window) -> Vec<Verdict> {
    if window.seconds < LEAST_WINDOW_SECONDS {
        return Vec::new();
    }
    let mut totals: HashMap<(&str, Resource), (f64, f64)> = HashMap::new();
    for row in &window.rows {
        let (all, neighbours) = totals.entry((&row.victim.id, row.resource)).or_default();
        *all += row.seconds;
        if matches!(row.culprit, Who::Container(_)) {
            *neighbours += row.seconds;
        }
    }
    let mut named: Vec<Verdict> = window
        .rows
        .iter()
        .filter_map(|Row { victim, culprit, resource, seconds }| {
            let Who::Container(culprit) = culprit else { return None };
            let (all, neighbours) = totals[&(victim.id.as_str(), *resource)];
            let verdict = Verdict {
                victim: Arc::clone(victim),
                culprit: Arc::clone(culprit),
                resource: *resource,
                seconds_per_second: seconds / window.seconds,
                of_neighbours: seconds / neighbours,
            };
            let is_guilty = verdict.seconds_per_second >= LEAST_SECONDS_PER_SECOND
                && verdict.of_neighbours > LEAST_OF_NEIGHBOURS
                && seconds / all >= LEAST_OF_ALL;
            is_guilty.then_some(verdict)
        })
        .collect();
    named.sort_by(|a, b| b.seconds_per_second.total_cmp(&a.seconds_per_second));
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    fn party(name: &str) -> Arc<Party> {
        Arc::new(Party { id: name.into(), name: name.into() })
    }

    /// Victim `v` in a window of ten seconds.
    fn check(rows: &[(Who, f64)], expected: Option<&str>) {
        let row = |(culprit, seconds): &(Who, f64)| Row {
            victim: party("v"),
            culprit: culprit.clone(),
            resource: Resource::Cpu,
            seconds: *seconds,
        };
        let window = Window { seconds: 10.0, rows: rows.iter().map(row).collect() };
        let named = verdicts(&window);
        let names: Vec<&str> = named.iter().map(|one| one.culprit.name.as_str()).collect();
        assert_eq!(names, expected.into_iter().collect::<Vec<_>>(), "{rows:?}");
    }

    fn by(name: &str) -> Who {
        Who::Container(party(name))
    }

    #[test]
    fn the_neighbour_that_did_most_is_named() {
        check(&[(by("a"), 1.0)], Some("a"));
        check(&[(by("a"), 1.0), (by("b"), 0.4), (Who::Host, 3.0)], Some("a"));
        check(&[(by("b"), 0.7), (by("a"), 1.0)], Some("a"));
    }

    #[test]
    fn nobody_is_named_where_none_did_much() {
        check(&[], None);
        check(&[(by("a"), 0.19)], None);
        check(&[(by("a"), 1.0), (by("b"), 1.0)], None);
        check(&[(Who::Host, 9.0), (Who::Itself, 9.0), (Who::Unexplained, 9.0)], None);
        check(&[(Who::Steal, 9.0)], None);
    }

    #[test]
    fn whom_its_own_quota_stops_has_no_culprit() {
        check(&[(Who::Quota, 8.0), (by("a"), 0.5)], None);
        check(&[(Who::Quota, 8.0), (by("a"), 4.0)], Some("a"));
    }

    #[test]
    fn a_moment_is_no_window() {
        let row =
            Row { victim: party("v"), culprit: by("a"), resource: Resource::Disk, seconds: 0.1 };
        assert_eq!(verdicts(&Window { seconds: 0.1, rows: vec![row] }), []);
    }
}
