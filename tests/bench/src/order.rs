//! In which order the arms of a round are measured.

/// The numbers below `count` in an order that looks random and is the same in each run: no
/// arm always follows the same other one, and a run can be repeated.
pub fn shuffled(count: usize, round: usize) -> Vec<usize> {
    // Xorshift, which must not begin with 0.
    let mut state = round as u64 + 0x9E37_79B9_7F4A_7C15;
    let mut below = |limit: usize| {
        for shift in [13_i32, -7, 17] {
            state ^= if shift > 0 { state << shift } else { state >> -shift };
        }
        (state % limit as u64) as usize
    };
    let mut order: Vec<usize> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, below(last + 1));
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_round_has_every_arm_once_and_its_own_order() {
        let rounds: Vec<Vec<usize>> = (0..9).map(|round| shuffled(8, round)).collect();
        for order in &rounds {
            let mut sorted = order.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..8).collect::<Vec<_>>());
        }
        let first: std::collections::BTreeSet<usize> =
            rounds.iter().map(|order| order[0]).collect();
        assert!(first.len() > 3, "{rounds:?}");
        assert_eq!(shuffled(0, 0), Vec::<usize>::new());
        assert_eq!(shuffled(8, 3), rounds[3]);
    }
}
