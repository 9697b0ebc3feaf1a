//! Whom a container waited for when it stood still for want of memory: there is no queue with
//! names in it, so the time is shared out by who took memory meanwhile. Pure.

use tenantry_control::{Blame, Culprit, Resource};

/// At this share of its own limit a container's stalls are its limit's.
const AT_LIMIT: f64 = 0.95;
const PAGE_BYTES: f64 = 4096.0;

/// What one container did about memory in an interval.
#[derive(Clone, Copy, Debug, Default)]
pub struct Taken<'a> {
    pub id: &'a str,
    /// Share of the time in which some thread of it stood still for memory.
    pub stalled: f64,
    pub usage_bytes: f64,
    pub limit_bytes: Option<f64>,
    /// Bytes by which its use grew, a second; 0 if it fell.
    pub growth_per_s: f64,
    /// Pages that it had to read again, a second.
    pub refaults_per_s: f64,
}

impl Taken<'_> {
    /// Bytes that it made the kernel find, a second.
    fn demand(&self) -> f64 {
        self.growth_per_s.max(0.0) + self.refaults_per_s * PAGE_BYTES
    }

    fn is_at_limit(&self) -> bool {
        self.limit_bytes.is_some_and(|limit| self.usage_bytes >= AT_LIMIT * limit)
    }
}

/// The rows of all who stalled; those of one victim add up to its stall. Who is at a limit of
/// its own takes nothing from others: it reclaims from itself.
pub fn blame(all: &[Taken]) -> Vec<Blame> {
    let takers: Vec<&Taken> = all.iter().filter(|taken| !taken.is_at_limit()).collect();
    let demand: f64 = takers.iter().map(|taken| taken.demand()).sum();
    let rows_of = |victim: &Taken| -> Vec<Blame> {
        let row = |culprit: Culprit, share: f64| Blame {
            victim: victim.id.to_owned(),
            culprit,
            resource: Resource::Memory,
            seconds_per_second: victim.stalled * share,
        };
        if victim.is_at_limit() {
            return vec![row(Culprit::Quota, 1.0)];
        }
        if demand <= 0.0 {
            return vec![row(Culprit::Unexplained, 1.0)];
        }
        let shares = takers.iter().filter(|taker| taker.demand() > 0.0).map(|taker| {
            let culprit = match taker.id == victim.id {
                true => Culprit::Itself,
                false => Culprit::Container(taker.id.to_owned()),
            };
            row(culprit, taker.demand() / demand)
        });
        shares.collect()
    };
    all.iter().filter(|victim| victim.stalled > 0.0).flat_map(rows_of).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GIB: f64 = (1u64 << 30) as f64;

    fn taken(id: &str, stalled: f64, growth_per_s: f64) -> Taken<'_> {
        Taken { id, stalled, usage_bytes: GIB, growth_per_s, ..Taken::default() }
    }

    #[test]
    fn a_stall_is_shared_out_by_who_took_memory() {
        let reader = Taken { refaults_per_s: 256.0, ..taken("reader", 0.0, 0.0) };
        let rows = blame(&[taken("web", 0.4, 0.0), taken("hog", 0.0, 3.0 * 1048576.0), reader]);
        let row = |id: &str| {
            let culprit = Culprit::Container(id.into());
            rows.iter().find(|row| row.culprit == culprit).unwrap().seconds_per_second
        };
        assert_eq!(rows.len(), 2);
        assert!((row("hog") - 0.3).abs() < 1e-9);
        assert!((row("reader") - 0.1).abs() < 1e-9);
    }

    #[test]
    fn who_is_at_its_own_limit_blames_nobody_and_is_not_blamed() {
        let full = |id, stalled| Taken {
            limit_bytes: Some(GIB),
            refaults_per_s: 1000.0,
            ..taken(id, stalled, 0.0)
        };
        let rows = blame(&[full("web", 0.5), taken("other", 0.2, 0.0)]);
        assert_eq!(rows[0].culprit, Culprit::Quota);
        assert_eq!(rows[1].culprit, Culprit::Unexplained);
    }

    proptest! {
        #[test]
        fn a_victims_rows_add_up_to_its_stall(
            all in proptest::collection::vec((0.0f64..1.0, 0.0f64..1e9, 0.0f64..1e5), 1..8)
        ) {
            let ids: Vec<String> = (0..all.len()).map(|i| i.to_string()).collect();
            let all: Vec<Taken> = all
                .iter()
                .zip(&ids)
                .map(|((stalled, growth, refaults), id)| Taken {
                    refaults_per_s: *refaults,
                    ..taken(id, *stalled, *growth)
                })
                .collect();
            let rows = blame(&all);
            for victim in &all {
                let sum: f64 = rows
                    .iter()
                    .filter(|row| row.victim == victim.id)
                    .map(|row| row.seconds_per_second)
                    .sum();
                prop_assert!((sum - victim.stalled).abs() <= 1e-9);
            }
        }
    }
}
