//! What the controller is measured by: pure, of outcomes alone.

use std::fmt;

use serde_json::Value;

use crate::spread::Spread;

/// Of the victim's p99, × alone.
pub const P99_RATIO: f64 = 1.25;
/// Part of the loss that is gone five seconds after the culprit began.
const RECOVERED: f64 = 0.85;
/// Part of the work that the culprit has under the best static limit.
const WORK: f64 = 0.9;
const RELEASE_S: f64 = 10.0;
const TURNS_PER_MINUTE: f64 = 1.0;

/// One goal, and what was reached; `None`: it could not be told.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    pub what: &'static str,
    pub wanted: String,
    pub figure: Option<f64>,
    pub reached: bool,
}

impl Goal {
    pub fn at_most(what: &'static str, most: f64, figure: Option<f64>) -> Self {
        let reached = figure.is_some_and(|figure| figure <= most);
        Self { what, wanted: format!("≤ {most}"), figure, reached }
    }

    pub fn at_least(what: &'static str, least: f64, figure: Option<f64>) -> Self {
        let reached = figure.is_some_and(|figure| figure >= least);
        Self { what, wanted: format!("≥ {least}"), figure, reached }
    }

    pub fn to_json(&self) -> Value {
        let Self { what, wanted, figure, reached } = self;
        serde_json::json!({
            "what": what, "wanted": wanted, "figure": figure, "reached": reached,
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figure =
            self.figure.map_or_else(|| "never".to_owned(), |figure| format!("{figure:.2}"));
        let verdict = if self.reached { "reached" } else { "missed" };
        write!(f, "{:58} {:>7} {figure:>8}  {verdict}", self.what, self.wanted)
    }
}

/// Medians of what the arms showed.
#[derive(Clone, Debug, Default)]
pub struct Compared {
    /// The victim's p99, in whatever unit.
    pub alone: f64,
    pub together: f64,
    pub controlled: f64,
    /// The culprit's work a second.
    pub static_work: f64,
    pub controlled_work: f64,
    /// The longest; `None`: it was not let go.
    pub release_s: Option<f64>,
    /// Changes of direction, and the time in which they were counted; of all rounds together.
    pub turns: usize,
    pub controlled_s: f64,
}

impl Compared {
    pub fn goals(&self) -> Vec<Goal> {
        let loss = self.together - self.alone;
        // Who loses nothing has nothing to recover.
        let recovered = match loss > 0.0 {
            true => (self.together - self.controlled) / loss,
            false => 1.0,
        };
        let ratio = |a: f64, b: f64| (b > 0.0).then_some(a / b);
        let turns = ratio(self.turns as f64 * 60.0, self.controlled_s);
        vec![
            Goal::at_most("victim's p99, × alone", P99_RATIO, ratio(self.controlled, self.alone)),
            Goal::at_least("of the loss recovered after 5 s", RECOVERED, Some(recovered)),
            Goal::at_least(
                "culprit's work, × best static limit",
                WORK,
                ratio(self.controlled_work, self.static_work),
            ),
            Goal::at_most("release after the victim's end, s", RELEASE_S, self.release_s),
            Goal::at_most("changes of direction a minute", TURNS_PER_MINUTE, turns),
        ]
    }
}

/// How often a limit was made looser after it was made tighter, or the other way round.
/// `decisions` as `/v1/decisions` tells them.
pub fn turns(decisions: &[Value]) -> usize {
    let mut last: std::collections::HashMap<(&str, &str), bool> = Default::default();
    let mut turns = 0;
    for decision in decisions {
        let word = |field: &str| decision[field].as_str().unwrap_or_default();
        let tighter = match word("kind") {
            "tighten" => true,
            "loosen" | "release" | "undo" => false,
            _ => continue,
        };
        let limit = (word("container_id"), word("actuator"));
        turns += usize::from(last.insert(limit, tighter).is_some_and(|before| before != tighter));
    }
    turns
}

/// Of each second the median over the rounds; as long as the shortest of them.
pub fn by_second(rounds: &[&[f64]]) -> Vec<f64> {
    let seconds = rounds.iter().map(|round| round.len()).min().unwrap_or(0);
    let median = |second: usize| {
        let values: Vec<f64> = rounds.iter().map(|round| round[second]).collect();
        Spread::of(&values).map_or(0.0, |spread| spread.median)
    };
    (0..seconds).map(median).collect()
}

/// Seconds from `begin` after which no second was above `bound` any more; `None` where the
/// last one still was.
pub fn well_after(by_second: &[f64], begin: usize, bound: f64) -> Option<usize> {
    let after = by_second.get(begin..)?;
    let bad = after.iter().rposition(|felt| *felt > bound).map_or(0, |last| last + 1);
    (bad < after.len()).then_some(bad)
}

/// Up to where a victim counts as recovered.
pub fn recovered_bound(alone: f64, together: f64) -> f64 {
    alone.max(together - RECOVERED * (together - alone))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn goals_are_compared_with_what_was_reached() {
        let compared = Compared {
            alone: 2.0,
            together: 10.0,
            controlled: 3.0,
            static_work: 1.0,
            controlled_work: 1.2,
            release_s: Some(4.0),
            turns: 1,
            controlled_s: 30.0,
        };
        let check = |compared: &Compared, expected: [(Option<f64>, bool); 5]| {
            let found: Vec<_> = compared.goals().iter().map(|g| (g.figure, g.reached)).collect();
            assert_eq!(found, expected);
        };
        let first = [
            (Some(1.5), false),
            (Some(0.875), true),
            (Some(1.2), true),
            (Some(4.0), true),
            (Some(2.0), false),
        ];
        check(&compared, first);
        let no_loss = Compared { together: 2.0, controlled: 2.0, ..compared.clone() };
        assert!(no_loss.goals()[1].reached);
        let held = Compared { release_s: None, ..compared };
        assert!(!held.goals()[3].reached);
        assert!(held.goals()[3].to_string().contains("never  missed"));
    }

    #[test]
    fn a_turn_is_a_change_of_direction_of_one_limit() {
        let one = |kind: &str, actuator: &str| json!({"kind": kind, "container_id": "0a", "actuator": actuator});
        let check = |kinds: &[(&str, &str)], expected: usize| {
            let decisions: Vec<Value> = kinds.iter().map(|(kind, what)| one(kind, what)).collect();
            assert_eq!(turns(&decisions), expected, "{kinds:?}");
        };
        check(&[], 0);
        check(&[("tighten", "cpu.max"), ("tighten", "cpu.max")], 0);
        check(&[("tighten", "cpu.max"), ("loosen", "cpu.max"), ("release", "cpu.max")], 1);
        check(&[("tighten", "cpu.max"), ("undo", "cpu.max"), ("tighten", "cpu.max")], 2);
        check(&[("tighten", "cpu.max"), ("advise", ""), ("release", "cpu.weight")], 0);
    }

    #[test]
    fn seconds_are_medians_over_the_rounds() {
        assert_eq!(by_second(&[&[1.0, 5.0, 9.0], &[3.0, 5.0], &[2.0, 8.0]]), [2.0, 5.0]);
        assert_eq!(by_second(&[]), Vec::<f64>::new());
    }

    #[test]
    fn well_is_who_stays_within_the_bound() {
        let check = |felt: &[f64], expected| assert_eq!(well_after(felt, 1, 2.0), expected);
        check(&[9.0, 9.0, 3.0, 1.0, 2.0], Some(2));
        check(&[9.0, 1.0, 1.0], Some(0));
        check(&[9.0, 1.0, 3.0], None);
        check(&[9.0], None);
        check(&[], None);
        assert_eq!(recovered_bound(2.0, 12.0), 3.5);
        assert_eq!(recovered_bound(2.0, 1.0), 2.0);
    }
}
