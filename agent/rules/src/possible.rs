//! Whether a condition can be true at all, of events of one kind.
//!
//! The condition is multiplied out into alternatives, each a row of tests that must hold and
//! tests that must not. An alternative is impossible when one field is asked for what no value
//! can be. Where this cannot tell, the condition counts as possible: a rule is refused only
//! when it is plainly wrong.

use crate::condition::{Check, Condition};
use crate::field::{Field, Type};

/// More alternatives than this are not looked at.
const MOST_ALTERNATIVES: usize = 512;

#[derive(Clone, Copy)]
struct Literal<'a> {
    field: Field,
    check: &'a Check,
    holds: bool,
}

/// `Err`: it never holds, and this is the field that is asked for too much (`None`: the
/// events do not have the fields that it needs).
pub fn possible(condition: &Condition) -> Result<(), Option<Field>> {
    if matches!(condition, Condition::Known(false)) {
        return Err(None);
    }
    let Some(alternatives) = alternatives(condition, true) else { return Ok(()) };
    let mut culprit = None;
    for alternative in &alternatives {
        match conflict(alternative) {
            None => return Ok(()),
            Some(field) => culprit = culprit.or(Some(field)),
        }
    }
    Err(culprit)
}

/// Of `condition`, or of its opposite. `None`: too many.
fn alternatives(condition: &Condition, wanted: bool) -> Option<Vec<Vec<Literal<'_>>>> {
    match condition {
        Condition::Known(truth) if *truth == wanted => Some(vec![Vec::new()]),
        Condition::Known(_) => Some(Vec::new()),
        Condition::Not(inner) => alternatives(inner, !wanted),
        Condition::Test(field, check) => {
            Some(vec![vec![Literal { field: *field, check, holds: wanted }]])
        }
        // "Not all" is "any not", and the other way round.
        Condition::All(parts) if wanted => product(parts, wanted),
        Condition::Any(parts) if !wanted => product(parts, wanted),
        Condition::All(parts) | Condition::Any(parts) => {
            let mut sum = Vec::new();
            for part in parts {
                sum.extend(alternatives(part, wanted)?);
                if sum.len() > MOST_ALTERNATIVES {
                    return None;
                }
            }
            Some(sum)
        }
    }
}

fn product(parts: &[Condition], wanted: bool) -> Option<Vec<Vec<Literal<'_>>>> {
    let mut product = vec![Vec::new()];
    for part in parts {
        let factors = alternatives(part, wanted)?;
        if product.len() * factors.len() > MOST_ALTERNATIVES {
            return None;
        }
        product = product
            .iter()
            .flat_map(|left| factors.iter().map(move |right| [left.as_slice(), right].concat()))
            .collect();
    }
    Some(product)
}

/// A field that cannot be as all of them want it.
fn conflict(literals: &[Literal<'_>]) -> Option<Field> {
    literals.iter().filter(|literal| literal.holds).map(|literal| literal.field).find(|field| {
        let of = |holds| {
            let fits = move |l: &&Literal<'_>| l.field == *field && l.holds == holds;
            literals.iter().filter(fits).map(|l| l.check).collect::<Vec<_>>()
        };
        !field_possible(*field, &of(true), &of(false))
    })
}

/// `wanted` is not empty, so the field must be there.
fn field_possible(field: Field, wanted: &[&Check], unwanted: &[&Check]) -> bool {
    if unwanted.iter().any(|check| **check == Check::Exists || wanted.contains(check)) {
        return false;
    }
    match field.of_type() {
        // One element may fit one test, another the other.
        Type::Texts => true,
        Type::Text => text_possible(field, wanted, unwanted),
        Type::Number => number_possible(wanted, unwanted),
        Type::Truth => [true, false].into_iter().any(|truth| {
            let holds = |check: &&Check| check.holds(crate::value::Value::Truth(truth));
            wanted.iter().all(holds) && !unwanted.iter().any(holds)
        }),
        Type::Address => address_possible(wanted, unwanted),
    }
}

fn text_possible(field: Field, wanted: &[&Check], unwanted: &[&Check]) -> bool {
    let fits = |text: &str| {
        wanted.iter().all(|check| check.holds_of_text(text))
            && !unwanted.iter().any(|check| check.holds_of_text(text))
    };
    if let Some(words) = field.words() {
        return words.iter().any(|word| fits(word));
    }
    let named = wanted.iter().find_map(|check| match check {
        Check::TextIn(texts) => Some(texts),
        _ => None,
    });
    if let Some(texts) = named {
        return texts.iter().any(|text| fits(text));
    }
    let starts = |check: &&Check| match check {
        Check::StartsWith(texts) => Some(texts.clone()),
        _ => None,
    };
    let ends = |check: &&Check| match check {
        Check::EndsWith(texts) => Some(texts.clone()),
        _ => None,
    };
    affixes_possible(wanted, unwanted, starts, |text, affix| text.starts_with(affix))
        && affixes_possible(wanted, unwanted, ends, |text, affix| text.ends_with(affix))
}

/// Beginnings, or ends: each two of the wanted must have a common one, and one of each must
/// not be excluded.
fn affixes_possible(
    wanted: &[&Check],
    unwanted: &[&Check],
    of: impl Fn(&&Check) -> Option<Vec<Box<str>>>,
    has: impl Fn(&str, &str) -> bool,
) -> bool {
    let wanted: Vec<Vec<Box<str>>> = wanted.iter().filter_map(&of).collect();
    let unwanted: Vec<Vec<Box<str>>> = unwanted.iter().filter_map(&of).collect();
    let pairs_fit = wanted.iter().enumerate().all(|(at, a)| {
        wanted[at + 1..].iter().all(|b| a.iter().any(|a| b.iter().any(|b| has(a, b) || has(b, a))))
    });
    let allowed = wanted.iter().all(|texts| {
        texts.iter().any(|text| !unwanted.iter().flatten().any(|affix| has(text, affix)))
    });
    pairs_fit && allowed
}

fn number_possible(wanted: &[&Check], unwanted: &[&Check]) -> bool {
    let (mut low, mut high) = (i64::MIN, i64::MAX);
    for check in wanted {
        match check {
            Check::Between(from, to) => (low, high) = (low.max(*from), high.min(*to)),
            Check::NumberIn(numbers) => {
                low = low.max(numbers.iter().copied().min().unwrap_or(i64::MAX));
                high = high.min(numbers.iter().copied().max().unwrap_or(i64::MIN));
            }
            _ => {}
        }
    }
    // What is excluded from the ends inwards; holes in the middle leave something.
    for check in unwanted.iter().chain(unwanted) {
        if let Check::Between(from, to) = check {
            if *from <= low && low <= *to {
                low = to.saturating_add(1);
            }
            if *from <= high && high <= *to {
                high = from.saturating_sub(1);
            }
        }
    }
    if low > high {
        return false;
    }
    let fits = |number: i64| {
        let holds = |check: &&Check| check.holds(crate::value::Value::Number(number));
        wanted.iter().all(holds) && !unwanted.iter().any(holds)
    };
    let named = wanted.iter().find_map(|check| match check {
        Check::NumberIn(numbers) => Some(numbers),
        _ => None,
    });
    match named {
        Some(numbers) => numbers.iter().any(|number| fits(*number)),
        None if high.saturating_sub(low) < 256 => (low..=high).any(fits),
        None => true,
    }
}

fn address_possible(wanted: &[&Check], unwanted: &[&Check]) -> bool {
    let named = wanted.iter().find_map(|check| match check {
        Check::AddressIn(addresses) => Some(addresses),
        _ => None,
    });
    if let Some(addresses) = named {
        return addresses.iter().any(|address| {
            let holds = |check: &&Check| check.holds(crate::value::Value::Address(*address));
            wanted.iter().all(holds) && !unwanted.iter().any(holds)
        });
    }
    let networks = |checks: &[&Check]| -> Vec<Vec<crate::address::Network>> {
        let of = |check: &&Check| match check {
            Check::Networks(networks) => Some(networks.clone()),
            _ => None,
        };
        checks.iter().filter_map(of).collect()
    };
    let (wanted, unwanted) = (networks(wanted), networks(unwanted));
    let pairs_fit = wanted.iter().enumerate().all(|(at, a)| {
        wanted[at + 1..].iter().all(|b| a.iter().any(|a| b.iter().any(|b| a.meets(b))))
    });
    let allowed = wanted.iter().all(|networks| {
        networks.iter().any(|network| !unwanted.iter().flatten().any(|out| out.covers(network)))
    });
    pairs_fit && allowed
}
