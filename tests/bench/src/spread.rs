//! Medians with their quartiles.

/// 25th, 50th and 75th percentile.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
}

impl Spread {
    /// `None` of nothing.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        // Between two values by the part of the way.
        let at = |quarter: usize| {
            let last = sorted.len().checked_sub(1)?;
            let (whole, rest) = (quarter * last / 4, quarter * last % 4);
            let (below, above) = (sorted[whole], sorted[(whole + 1).min(last)]);
            Some(below + (above - below) * rest as f64 / 4.0)
        };
        Some(Self { low: at(1)?, median: at(2)?, high: at(3)? })
    }
}

/// The smallest value that a share `q` of all do not exceed; `None` of nothing.
pub fn quantile(values: &[f64], q: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (q * sorted.len() as f64).ceil().max(1.0) as usize;
    sorted.get(rank - 1).copied()
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let digits = f.precision().unwrap_or(2);
        write!(f, "{:.digits$} [{:.digits$} – {:.digits$}]", self.median, self.low, self.high)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_stand_around_the_median() {
        let spread = Spread::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!(spread, Spread { low: 2.0, median: 3.0, high: 4.0 });
        let between = Spread::of(&[1.0, 3.0, 9.0]).unwrap();
        assert_eq!(between, Spread { low: 2.0, median: 3.0, high: 6.0 });
        let of_two = Spread::of(&[4.0, 8.0]).unwrap();
        assert_eq!(of_two, Spread { low: 5.0, median: 6.0, high: 7.0 });
        assert_eq!(Spread::of(&[7.0]).map(|one| (one.low, one.high)), Some((7.0, 7.0)));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = [4.0, 1.0, 3.0, 2.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 2.0), (0.51, 3.0), (0.99, 4.0), (1.0, 4.0)] {
            assert_eq!(quantile(&values, q), Some(expected), "{q}");
        }
        assert_eq!(quantile(&[], 0.5), None);
    }
}
