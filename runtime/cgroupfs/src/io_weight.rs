//! A group's weight in the queues of disks: the kernel's two files for it, and their scales.
//!
//! Pure. A queue heeds weights if the disk's scheduler is bfq (`io.bfq.weight`, on v1
//! `blkio.bfq.weight`; 1 to 1,000) or if iocost is enabled for the disk (`io.weight`, v2 alone;
//! 1 to 10,000). Both weigh 100 by default. A group has a file for each kind that the kernel
//! knows, whatever its disks are.

use serde::{Deserialize, Serialize};

use crate::parse;

const DEFAULT: u64 = 100;
/// `BFQ_MAX_WEIGHT` is 1,000 where `CGROUP_WEIGHT_MAX` is 10,000, so above the default one step
/// of bfq's is so many of `io.weight`'s; below they are the same.
const STEPS: u64 = (10_000 - DEFAULT) / (1_000 - DEFAULT);

pub(crate) const COST_FILE: &str = "io.weight";
pub(crate) const BFQ_FILE: &str = "io.bfq.weight";
pub(crate) const BFQ_FILE_V1: &str = "blkio.bfq.weight";

/// The weights of one group, both on the scale of `io.weight`: 1 to 10,000, 100 being the
/// default. Another runtime may have written one of them alone, so both are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IoWeight {
    /// At disks with iocost.
    pub cost: u64,
    /// At disks with bfq; above 100 in steps of 11.
    pub bfq: u64,
}

impl Default for IoWeight {
    fn default() -> IoWeight {
        IoWeight::of(DEFAULT)
    }
}

impl IoWeight {
    /// The same at every disk.
    pub fn of(weight: u64) -> IoWeight {
        IoWeight { cost: weight, bfq: weight }
    }

    /// What the files say. `None` if there is neither; a file that is not there says what the
    /// other one does.
    pub(crate) fn of_files(cost: Option<u64>, bfq: Option<u64>) -> Option<IoWeight> {
        let bfq = bfq.map(weight_from_bfq);
        Some(IoWeight { cost: cost.or(bfq)?, bfq: bfq.or(cost)? })
    }

    /// Of each the smaller. `None` if that is `self`'s own.
    pub fn tighter(self, wanted: IoWeight) -> Option<IoWeight> {
        let least = IoWeight { cost: self.cost.min(wanted.cost), bfq: self.bfq.min(wanted.bfq) };
        (least != self).then_some(least)
    }

    pub fn most(self) -> u64 {
        self.cost.max(self.bfq)
    }
}

/// `1`, and where another runtime made them differ `1, at bfq 100`.
impl std::fmt::Display for IoWeight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.cost)?;
        if self.bfq != self.cost { write!(f, ", at bfq {}", self.bfq) } else { Ok(()) }
    }
}

/// As systemd does it, but with what the kernel refuses brought into its range.
pub(crate) fn bfq_from_weight(weight: u64) -> u64 {
    let above = weight.saturating_sub(DEFAULT);
    (weight.min(DEFAULT) + (above + STEPS / 2) / STEPS).clamp(1, 1_000)
}

fn weight_from_bfq(bfq: u64) -> u64 {
    bfq.min(DEFAULT) + bfq.saturating_sub(DEFAULT) * STEPS
}

/// v2's files say `default 100` and then what single devices have; v1's is a number.
pub(crate) fn parse_default(text: &str) -> Option<u64> {
    match text.lines().find_map(|line| line.strip_prefix("default ")) {
        Some(weight) => parse::number(weight),
        None => parse::number(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_of_bfq_comes_back_and_the_ends_are_the_ends() {
        for bfq in 1..=1_000 {
            assert_eq!(bfq_from_weight(weight_from_bfq(bfq)), bfq);
        }
        assert_eq!((weight_from_bfq(100), weight_from_bfq(1_000)), (100, 10_000));
        for weight in 1..=100 {
            assert_eq!(bfq_from_weight(weight), weight);
        }
        assert_eq!([bfq_from_weight(10_000), bfq_from_weight(105)], [1_000, 100]);
    }

    #[test]
    fn the_default_is_found_among_the_devices() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(parse_default(text), expected, "{text:?}");
        };
        check("default 100\n8:0 5\n", Some(100));
        check("8:0 5\ndefault 7\n", Some(7));
        check("100\n", Some(100));
        check("8:0 5\n", None);
        check("default\n", None);
    }

    #[test]
    fn a_file_that_is_not_there_says_what_the_other_one_does() {
        let check = |cost, bfq, expected: Option<(u64, u64)>| {
            let expected = expected.map(|(cost, bfq)| IoWeight { cost, bfq });
            assert_eq!(IoWeight::of_files(cost, bfq), expected);
        };
        check(None, None, None);
        check(Some(7), None, Some((7, 7)));
        check(None, Some(500), Some((4_500, 4_500)));
        check(Some(100), Some(500), Some((100, 4_500)));
    }

    #[test]
    fn of_two_weights_the_lighter_is_tighter_at_each_kind_of_disk() {
        let own = IoWeight { cost: 50, bfq: 500 };
        assert_eq!(own.tighter(IoWeight::of(60)), Some(IoWeight { cost: 50, bfq: 60 }));
        assert_eq!(own.tighter(IoWeight::of(500)), None);
        assert_eq!((own.most(), own.to_string()), (500, "50, at bfq 500".to_owned()));
        assert_eq!(IoWeight::of(1).to_string(), "1");
    }
}
