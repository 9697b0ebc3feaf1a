//! Who kept whom waiting: a bounded number of pairs, the rest as `other`.

use std::collections::BTreeMap;
use std::fmt::Error;

use super::family::Families;
use crate::blame::{Party, Resource, Shown, Who};

type Labels = [(&'static str, String); 3];

pub(super) fn encode(f: &mut Families, shown: &Shown) -> Result<(), Error> {
    f.counter(
        "tenantry_blame_seconds_total",
        "Time that the victim waited because of the culprit, since the pair has a series: \
         another container, self, host, quota, steal or unexplained; what had none is in other",
        rows(shown),
    )
}

/// Two containers of one name share a series.
fn rows(shown: &Shown) -> Vec<(Labels, f64)> {
    let mut sums: BTreeMap<(String, String, Resource), f64> = BTreeMap::new();
    for row in &shown.rows {
        let (victim, culprit) = match &row.pair {
            Some((victim, Who::Container(culprit))) => (label(victim), label(culprit)),
            Some((victim, who)) => (label(victim), who.kind().to_owned()),
            None => (OTHER.to_owned(), OTHER.to_owned()),
        };
        *sums.entry((victim, culprit, row.resource)).or_default() += row.seconds;
    }
    let labels = |(victim, culprit, resource): (String, String, Resource)| {
        [("victim", victim), ("culprit", culprit), ("resource", resource.as_str().to_owned())]
    };
    sums.into_iter().map(|(key, seconds)| (labels(key), seconds)).collect()
}

const OTHER: &str = "other";

/// A name that means something else here gives way to the id.
fn label(party: &Party) -> String {
    const RESERVED: [&str; 6] = [OTHER, "self", "host", "quota", "steal", "unexplained"];
    match RESERVED.contains(&party.name.as_str()) {
        true => party.id.clone(),
        false => party.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::blame::SeriesRow;

    #[test]
    fn names_that_mean_something_else_give_way_and_equal_ones_share_a_series() {
        let party = |id: &str, name: &str| Arc::new(Party { id: id.into(), name: name.into() });
        let row = |victim, culprit, seconds| SeriesRow {
            pair: Some((victim, culprit)),
            resource: Resource::Cpu,
            seconds,
        };
        let web = || party("1", "web");
        let shown = Shown {
            rows: vec![
                row(web(), Who::Host, 1.0),
                row(web(), Who::Container(party("2", "host")), 2.0),
                row(web(), Who::Container(party("3", "db")), 3.0),
                row(web(), Who::Container(party("4", "db")), 4.0),
            ],
        };
        let culprits: Vec<(String, f64)> = rows(&shown)
            .into_iter()
            .map(|([_, (_, culprit), _], seconds)| (culprit, seconds))
            .collect();
        let expected = [("2", 2.0), ("db", 7.0), ("host", 1.0)].map(|(n, s)| (n.to_owned(), s));
        assert_eq!(culprits, expected);
    }
}
