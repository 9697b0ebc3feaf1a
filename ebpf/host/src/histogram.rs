//! Distribution of durations, as the programs keep it: powers of two.

use std::ops::AddAssign;
use std::time::Duration;

use tenantry_abi::BUCKETS;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How many durations fell into each bucket; bucket 0 holds up to 1 ns, bucket i more
    /// than 2^(i-1) and up to 2^i ns, the last one everything above. Empty if none was seen
    /// by this reader, otherwise 40 long.
    pub buckets: Vec<u64>,
    /// Sum of `buckets`.
    pub count: u64,
    pub sum_ns: u64,
}

impl Histogram {
    /// Largest duration of a bucket; `u64::MAX` for the last one, which has no bound.
    pub fn upper_bound_ns(bucket: usize) -> u64 {
        if bucket + 1 < BUCKETS { 1 << bucket } else { u64::MAX }
    }

    /// Upper bound of the bucket in which the `q`-quantile lies: the truth is at most this
    /// and more than half of it. `None` if nothing was seen, or if it lies in the last
    /// bucket, which has no bound. `q` is clamped to 0..=1.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        if self.count == 0 {
            return None;
        }
        let rank = ((q.clamp(0.0, 1.0) * self.count as f64).ceil() as u64).clamp(1, self.count);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|n| {
            seen += n;
            seen >= rank
        })?;
        let bound_ns = Self::upper_bound_ns(bucket);
        (bound_ns != u64::MAX).then(|| Duration::from_nanos(bound_ns))
    }

    /// Sums the copies of several CPUs.
    pub(crate) fn sum<'a>(copies: impl Iterator<Item = &'a tenantry_abi::Histogram>) -> Self {
        let mut buckets = vec![0; BUCKETS];
        let mut sum_ns = 0_u64;
        for copy in copies {
            sum_ns = sum_ns.wrapping_add(copy.sum_ns);
            for (sum, n) in buckets.iter_mut().zip(&copy.buckets) {
                *sum += n;
            }
        }
        let count = buckets.iter().sum();
        Self { buckets, count, sum_ns }
    }
}

impl AddAssign<&Histogram> for Histogram {
    fn add_assign(&mut self, other: &Histogram) {
        let length = self.buckets.len().max(other.buckets.len());
        self.buckets.resize(length, 0);
        for (sum, n) in self.buckets.iter_mut().zip(&other.buckets) {
            *sum += n;
        }
        self.count += other.count;
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn bucket_of(ns: u64) -> usize {
        if ns <= 1 { 0 } else { (64 - (ns - 1).leading_zeros() as usize).min(BUCKETS - 1) }
    }

    fn histogram(values: &[u64]) -> Histogram {
        let mut raw = tenantry_abi::Histogram { sum_ns: 0, buckets: [0; BUCKETS] };
        for value in values {
            raw.sum_ns = raw.sum_ns.wrapping_add(*value);
            raw.buckets[bucket_of(*value)] += 1;
        }
        Histogram::sum([raw].iter())
    }

    #[test]
    fn bounds_are_powers_of_two_and_the_last_is_open() {
        assert_eq!(Histogram::upper_bound_ns(0), 1);
        assert_eq!(Histogram::upper_bound_ns(10), 1024);
        assert_eq!(Histogram::upper_bound_ns(BUCKETS - 2), 1 << 38);
        assert_eq!(Histogram::upper_bound_ns(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn quantiles_of_known_values() {
        let check = |values: &[u64], q, expected: Option<u64>| {
            assert_eq!(histogram(values).quantile(q), expected.map(Duration::from_nanos), "{q}");
        };
        check(&[], 0.5, None);
        check(&[0], 0.5, Some(1));
        check(&[1000], 0.0, Some(1024));
        check(&[1000], 1.0, Some(1024));
        check(&[1024], 1.0, Some(1024));
        check(&[1025], 1.0, Some(2048));
        check(&[100, 100, 100, 5000], 0.75, Some(128));
        check(&[100, 100, 100, 5000], 0.76, Some(8192));
        check(&[u64::MAX], 0.5, None);
        check(&[100], f64::NAN, Some(128));
    }

    #[test]
    fn copies_of_cpus_add_up() {
        let mut raw = tenantry_abi::Histogram { sum_ns: 7, buckets: [0; BUCKETS] };
        raw.buckets[3] = 2;
        let sum = Histogram::sum([raw, raw, raw].iter());
        assert_eq!((sum.count, sum.sum_ns, sum.buckets[3]), (6, 21, 6));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_factor_of_two_of_the_truth(
            mut values in prop::collection::vec(2_u64..1 << 37, 1..200),
            q in 0.0..=1.0,
        ) {
            let found = histogram(&values).quantile(q).unwrap().as_nanos() as u64;
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let truth = values[rank - 1];
            prop_assert!(found >= truth && found / 2 < truth, "{found} for {truth}");
        }

        #[test]
        fn quantiles_never_fall_as_q_rises(
            values in prop::collection::vec(0_u64..1 << 37, 1..100),
            a in 0.0..=1.0, b in 0.0..=1.0,
        ) {
            let h = histogram(&values);
            prop_assert!(h.quantile(f64::min(a, b)) <= h.quantile(f64::max(a, b)));
        }
    }
}
