//! What a layer's entry may be called, and which attributes it may have. Pure.
//!
//! Owns the rules; [`crate::unpack`] follows them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use crate::tree::Components;

/// A path below the layer's root. `None` if it is absolute or has `..`, wherever that
/// would lead.
pub(crate) fn components(path: &[u8]) -> Option<Components> {
    if path.starts_with(b"/") {
        return None;
    }
    let parts = path.split(|byte| *byte == b'/');
    let parts = parts.filter(|part| !matches!(*part, b"" | b"."));
    parts.map(|part| (part != b"..").then(|| OsStr::from_bytes(part).to_owned())).collect()
}

/// What becomes of an extended attribute.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum AttributePolicy {
    Set,
    /// It belongs to the host that built the image, such as SELinux labels.
    Drop,
    /// overlayfs would obey it.
    Refuse,
}

impl AttributePolicy {
    pub fn of(name: &[u8]) -> AttributePolicy {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            return AttributePolicy::Refuse;
        }
        let set: [&[u8]; 3] =
            [b"security.capability", b"system.posix_acl_access", b"system.posix_acl_default"];
        if name.starts_with(b"user.") || set.contains(&name) {
            return AttributePolicy::Set;
        }
        AttributePolicy::Drop
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let rows: [(&[u8], Option<&[&str]>); 8] = [
            (b"a/b", Some(&["a", "b"])),
            (b"./a//b/.", Some(&["a", "b"])),
            (b"./", Some(&[])),
            (b"..a/b..", Some(&["..a", "b.."])),
            (b"a/../b", None),
            (b"..", None),
            (b"/", None),
            (b"/a", None),
        ];
        for (path, expected) in rows {
            let found = components(path);
            let found = found.as_ref().map(|found| found.iter().map(|part| part.to_str().unwrap()));
            assert_eq!(found.map(Vec::from_iter).as_deref(), expected, "{}", path.escape_ascii());
        }
    }

    #[test]
    fn attributes_that_steer_overlayfs_are_refused() {
        let rows: [(&[u8], AttributePolicy); 6] = [
            (b"trusted.overlay.opaque", AttributePolicy::Refuse),
            (b"user.overlay.redirect", AttributePolicy::Refuse),
            (b"trusted.md5", AttributePolicy::Drop),
            (b"security.selinux", AttributePolicy::Drop),
            (b"security.capability", AttributePolicy::Set),
            (b"user.mime_type", AttributePolicy::Set),
        ];
        for (name, expected) in rows {
            assert_eq!(AttributePolicy::of(name), expected, "{}", name.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn no_component_can_climb(path in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'/'), any::<u8>()], 0..40)) {
            for part in components(&path).unwrap_or_default() {
                prop_assert!(!part.is_empty() && part != "." && part != "..");
                prop_assert!(!part.as_bytes().contains(&b'/'));
            }
        }
    }
}
