//! The kernel's log2 histograms as Prometheus buckets: a pure conversion.
//!
//! The kernel keeps one bucket per power of two nanoseconds. A scrape shows a cut of
//! them: what lies below the range falls into the first bucket, what lies above into
//! `+Inf`, and a step of two powers halves the series where many label values multiply.
//! The bounds never depend on the data, so `le` stays the same between scrapes.

use tenantry_ebpf::Histogram;

/// A histogram as `prometheus-client` takes it: per-bucket counts, not cumulative.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Buckets {
    /// `(upper bound in seconds, observations in this bucket)`, the last one `+Inf`.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum_seconds: f64,
}

/// The upper bounds 2^first, 2^(first+step) … 2^last nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub first: u32,
    pub last: u32,
    pub step: u32,
}

/// 1 µs to 1.07 s in powers of two: a wait below a microsecond is no wait.
pub(super) const RUN_QUEUE: Range = Range { first: 10, last: 30, step: 1 };
/// 16 µs to 17 s in powers of two.
pub(super) const DISK: Range = Range { first: 14, last: 34, step: 1 };
/// 65 µs to 275 s in powers of four.
pub(super) const CONNECTION: Range = Range { first: 16, last: 38, step: 2 };
/// 4 µs to 4.3 s in powers of four.
pub(super) const ROUND_TRIP: Range = Range { first: 12, last: 32, step: 2 };
/// 65 µs to 17 s in powers of four, as there is one for each domain.
pub(super) const NAME_SERVER: Range = Range { first: 16, last: 34, step: 2 };
/// 4 µs to 17 s in powers of four: most requests do not wait at all.
pub(super) const DISK_QUEUE: Range = Range { first: 12, last: 34, step: 2 };
/// 256 ns to 4.3 s in powers of four, as there is one for each class of syscalls.
pub(super) const SYSCALL: Range = Range { first: 8, last: 32, step: 2 };

impl Buckets {
    /// `None` for a histogram that never saw anything: it makes no series.
    pub fn cut(histogram: &Histogram, range: Range) -> Option<Buckets> {
        if histogram.count == 0 {
            return None;
        }
        let mut source = histogram.buckets.iter().enumerate().peekable();
        let mut buckets = Vec::new();
        let mut seen = 0;
        for power in (range.first..=range.last).step_by(range.step as usize) {
            let bound_ns = 1_u64 << power;
            let mut count = 0;
            while let Some((_, observed)) =
                source.next_if(|(index, _)| Histogram::upper_bound_ns(*index) <= bound_ns)
            {
                count += observed;
            }
            seen += count;
            buckets.push((bound_ns as f64 / 1e9, count));
        }
        let above: u64 = source.map(|(_, observed)| observed).sum();
        buckets.push((f64::INFINITY, above));
        let count = seen + above;
        Some(Buckets { buckets, count, sum_seconds: histogram.sum_ns as f64 / 1e9 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(observed: &[(usize, u64)], expected: &[u64]) {
        let mut buckets = vec![0; 40];
        for &(bucket, observations) in observed {
            buckets[bucket] = observations;
        }
        let count = buckets.iter().sum();
        let range = Range { first: 10, last: 14, step: 2 };
        let histogram = Histogram { buckets, count, sum_ns: 1_500_000_000 };
        let cut = Buckets::cut(&histogram, range).expect("something was observed");
        let counts: Vec<u64> = cut.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts, expected, "{observed:?}");
        let bounds: Vec<f64> = cut.buckets.iter().map(|(bound, _)| *bound).collect();
        assert_eq!(bounds, [1.024e-6, 4.096e-6, 1.6384e-5, f64::INFINITY]);
        assert_eq!((cut.count, cut.sum_seconds), (count, 1.5));
    }

    #[test]
    fn each_observation_falls_into_the_first_bucket_that_holds_it() {
        // Bucket i of the kernel's ends at 2^i ns, and `le` includes its bound.
        check(&[(10, 5)], &[5, 0, 0, 0]);
        check(&[(11, 5)], &[0, 5, 0, 0]);
        check(&[(12, 5)], &[0, 5, 0, 0]);
        check(&[(13, 1), (14, 2)], &[0, 0, 3, 0]);
    }

    #[test]
    fn what_lies_outside_the_range_is_kept_at_its_ends() {
        check(&[(0, 1), (3, 2), (9, 4)], &[7, 0, 0, 0]);
        check(&[(15, 1), (38, 2), (39, 4)], &[0, 0, 0, 7]);
    }

    #[test]
    fn what_saw_nothing_has_no_buckets() {
        assert_eq!(Buckets::cut(&Histogram::default(), RUN_QUEUE), None);
    }
}
