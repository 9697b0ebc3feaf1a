//! Ids, and names for containers that were given none.
//!
//! Owns both makers. Ids are 256 random bits; names are two words chosen by the
//! id, so that no further randomness is needed.

use std::io;

use crate::error::Error;

const HOW: [&str; 32] = [
    "airy", "amber", "brisk", "calm", "clear", "cosy", "crisp", "early", "fair", "fond", "glad",
    "gold", "grand", "green", "keen", "kind", "late", "light", "lucky", "merry", "mild", "neat",
    "proud", "quick", "quiet", "rosy", "snug", "spry", "sunny", "tidy", "warm", "wise",
];
const WHAT: [&str; 32] = [
    "alcove", "arch", "attic", "balcony", "beam", "cellar", "chimney", "cornice", "cottage",
    "court", "dome", "door", "eaves", "fountain", "gable", "garden", "gate", "hall", "hearth",
    "ladder", "lamp", "landing", "lantern", "lobby", "loft", "parlour", "pergola", "porch",
    "stair", "terrace", "turret", "window",
];

/// 64 lower-case hexadecimal digits.
pub fn random_id() -> Result<String, Error> {
    let mut bytes = [0u8; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        match rustix::rand::getrandom(&mut bytes[filled..], flags) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(Error::failed("getrandom", io::Error::from(errno))),
        }
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The id's own name, or if that is taken, the name with the id's beginning.
pub fn name_for(id: &str, taken: impl Fn(&str) -> bool) -> String {
    let part = |at: usize| usize::from_str_radix(&id[at..at + 2], 16).unwrap_or(0) % 32;
    let name = format!("{}_{}", HOW[part(0)], WHAT[part(2)]);
    if taken(&name) { format!("{name}_{}", &id[..8]) } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_and_differ() {
        let (a, b) = (random_id().unwrap(), random_id().unwrap());
        assert!(crate::config::is_id(&a), "{a}");
        assert_ne!(a, b);
    }

    #[test]
    fn made_up_names_are_valid_and_avoid_those_in_use() {
        let id = random_id().unwrap();
        let name = name_for(&id, |_| false);
        crate::config::check_name(&name).unwrap();
        let other = name_for(&id, |taken| taken == name);
        assert!(other != name && crate::config::check_name(&other).is_ok(), "{other}");
    }
}
