//! Keys of the cache: what must be equal for a step's result to be used again.
//!
//! Owns the hash. A key stands for everything before it in the stage: base, settings,
//! commands, the content of copied files. Pure. Called by the agent.

use sha2::{Digest as _, Sha256};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// Of a stage that begins with this: an image's id, or `scratch`.
    pub fn of_base(base: &str) -> Key {
        Key(hash(&["base", base]))
    }

    /// Of one more step. `kind` says what the parts are.
    pub fn and<'p>(&'p self, kind: &'p str, parts: impl IntoIterator<Item = &'p str>) -> Key {
        let mut all = vec![self.0.as_str(), kind];
        all.extend(parts);
        Key(hash(&all))
    }

    /// 64 hex digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Each part with its length, so that no two lists look the same.
fn hash(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_part_order_or_border_is_another_key() {
        let base = Key::of_base("sha256:1");
        let keys = [
            base.clone(),
            base.and("run", ["ab", "c"]),
            base.and("run", ["a", "bc"]),
            base.and("run", ["c", "ab"]),
            base.and("run", ["abc"]),
            base.and("copy", ["abc"]),
            Key::of_base("sha256:2").and("run", ["abc"]),
            base.and("run", ["abc"]).and("run", []),
        ];
        let different: std::collections::BTreeSet<&Key> = keys.iter().collect();
        assert_eq!(different.len(), keys.len());
        assert_eq!(base.and("run", ["x"]), base.and("run", ["x"]));
        assert_eq!(base.as_str().len(), 64);
    }
}
