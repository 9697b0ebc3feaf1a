//! Owners of a container that has a user namespace, as its image is to have them.
//!
//! Owns the way back from the host's ids to the container's: of files, and where
//! attributes hold ids (POSIX ACLs, file capabilities). Pure. Called by
//! [`crate::pack`].

/// `size` ids of the host, from `host_base` on, are the container's from 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerMapping {
    pub host_base: u32,
    pub size: u32,
}

impl OwnerMapping {
    /// `None` for an id that the container does not have.
    pub(crate) fn container_id(&self, host_id: u32) -> Option<u32> {
        host_id.checked_sub(self.host_base).filter(|id| *id < self.size)
    }

    /// `None` for an id that the container does not have.
    pub(crate) fn host_id(&self, container_id: u32) -> Option<u32> {
        let inside = (container_id < self.size).then_some(container_id)?;
        self.host_base.checked_add(inside)
    }

    /// The attribute as the container sees it; `None` if it names nobody of its own.
    pub(crate) fn container_attribute(&self, name: &[u8], value: Vec<u8>) -> Option<Vec<u8>> {
        match name {
            b"system.posix_acl_access" | b"system.posix_acl_default" => self.acl(value),
            b"security.capability" => self.capability(value),
            _ => Some(value),
        }
    }

    /// `struct posix_acl_xattr_header`, then tag, permissions and id of each entry
    /// (linux/posix_acl_xattr.h).
    fn acl(&self, mut value: Vec<u8>) -> Option<Vec<u8>> {
        const USER: u16 = 0x02;
        const GROUP: u16 = 0x08;
        for entry in value.get_mut(4..)?.chunks_exact_mut(8) {
            if matches!(u16::from_le_bytes([entry[0], entry[1]]), USER | GROUP) {
                let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                entry[4..].copy_from_slice(&self.container_id(id)?.to_le_bytes());
            }
        }
        Some(value)
    }

    /// Version 3 ends with the root to whom it speaks; the container's own root needs
    /// no mention, so it becomes version 2 (linux/capability.h).
    fn capability(&self, mut value: Vec<u8>) -> Option<Vec<u8>> {
        const V3_BYTES: usize = 24;
        if value.len() != V3_BYTES || value[3] != 3 {
            return Some(value);
        }
        let root = u32::from_le_bytes([value[20], value[21], value[22], value[23]]);
        if self.container_id(root)? != 0 {
            return None;
        }
        value.truncate(20);
        value[3] = 2;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAPPING: OwnerMapping = OwnerMapping { host_base: 100_000, size: 65_536 };

    #[test]
    fn ids_come_back_and_foreign_ones_are_nobodys() {
        let rows = [
            (100_000, Some(0)),
            (101_000, Some(1000)),
            (165_535, Some(65_535)),
            (165_536, None),
            (0, None),
        ];
        for (host, expected) in rows {
            assert_eq!(MAPPING.container_id(host), expected, "{host}");
        }
    }

    #[test]
    fn an_acl_names_the_containers_users() {
        let entry = |tag: u16, id: u32| {
            [tag.to_le_bytes().to_vec(), vec![7, 0], id.to_le_bytes().to_vec()].concat()
        };
        let acl = |user| [vec![2, 0, 0, 0], entry(1, u32::MAX), entry(2, user)].concat();
        let name = b"system.posix_acl_access";
        assert_eq!(MAPPING.container_attribute(name, acl(100_007)), Some(acl(7)));
        assert_eq!(MAPPING.container_attribute(name, acl(7)), None);
    }

    #[test]
    fn a_capability_of_the_mapped_root_is_plain() {
        let v3 = |root: u32| [vec![1, 0, 0, 3], vec![9; 16], root.to_le_bytes().to_vec()].concat();
        let v2 = [vec![1, 0, 0, 2], vec![9; 16]].concat();
        let name = b"security.capability";
        assert_eq!(MAPPING.container_attribute(name, v3(100_000)), Some(v2.clone()));
        assert_eq!(MAPPING.container_attribute(name, v3(100_001)), None);
        assert_eq!(MAPPING.container_attribute(name, v2.clone()), Some(v2));
    }
}
