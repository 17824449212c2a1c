//! POSIX access control lists: what a mode's nine bits cannot say.
//!
//! The kernel checks them (it asks for the list, keeps it, and decides); whoever stores them has three duties, which
//! are all here as pure functions, named as Linux names them:
//!
//! * a list and the mode say the same about the owner, the group class and the others: setting the list sets the
//!   mode ([`Acl::mode`]), changing the mode changes the list ([`Acl::set_mode`]);
//! * a list that says no more than a mode is not kept ([`Acl::is_extended`]);
//! * what is made in a directory with a *default* list gets that list, restricted to what its maker asks for
//!   ([`Acl::restrict`]), and the umask does not count. Directories hand the default list on.
//!
//! The bytes are those of the extended attributes, as getxattr(2) gives them:
//!
//! ```text
//! version (u32) = 2, then for each entry: tag (u16), rights (u16), id (u32); all little-endian
//! ```

/// The extended attribute that holds an inode's own list.
pub const ACCESS_ACL: &[u8] = b"system.posix_acl_access";
/// The extended attribute of a directory that holds the list of what is made in it.
pub const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const ENTRY_BYTES: usize = 8;

const OWNER: u16 = 0x01;
const USER: u16 = 0x02;
const OWNING_GROUP: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// Read, write and execute of one class.
const RIGHTS: u16 = 0o7;
const ALL_CLASSES: u16 = 0o777;

/// A list whose entries are valid and in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acl {
    entries: Vec<Entry>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    tag: u16,
    rights: u16,
    id: u32,
}

impl Acl {
    /// Takes apart the value of the extended attribute; `None` when it is no valid list: one owner, named users,
    /// one group, named groups, a mask if anybody is named, others, in this order.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first_chunk::<4>()?;
        let (entries, ragged) = rest.as_chunks::<ENTRY_BYTES>();
        if u32::from_le_bytes(*version) != VERSION || !ragged.is_empty() {
            return None;
        }
        let entries = entries.iter().map(|&[t0, t1, r0, r1, i0, i1, i2, i3]| Entry {
            tag: u16::from_le_bytes([t0, t1]),
            rights: u16::from_le_bytes([r0, r1]),
            id: u32::from_le_bytes([i0, i1, i2, i3]),
        });
        Some(Self { entries: entries.collect() }).filter(Self::is_valid)
    }

    /// The value of the extended attribute.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VERSION.to_le_bytes().to_vec();
        for entry in &self.entries {
            bytes.extend(entry.tag.to_le_bytes());
            bytes.extend(entry.rights.to_le_bytes());
            bytes.extend(entry.id.to_le_bytes());
        }
        bytes
    }

    /// Whether it says more than a mode can.
    pub fn is_extended(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.tag, USER | GROUP | MASK))
    }

    /// The nine bits of a mode that say the same; its group bits are the mask, where there is one.
    pub fn mode(&self) -> u16 {
        self.rights_of(OWNER) << 6 | self.rights_of(self.group_class()) << 3 | self.rights_of(OTHER)
    }

    /// Makes it say the same as the nine lower bits of `mode`, which was set (`posix_acl_chmod`).
    pub fn set_mode(&mut self, mode: u16) {
        let group_class = self.group_class();
        for entry in &mut self.entries {
            if let Some(shift) = shift_of(entry.tag, group_class) {
                entry.rights = mode >> shift & RIGHTS;
            }
        }
    }

    /// This was a directory's default list: makes it the own list of what is made there with `mode`, and gives the
    /// mode that it gets (`posix_acl_create`). Neither allows what the other does not.
    pub fn restrict(&mut self, mode: u16) -> u16 {
        let group_class = self.group_class();
        let mut left = mode & !ALL_CLASSES;
        for entry in &mut self.entries {
            if let Some(shift) = shift_of(entry.tag, group_class) {
                entry.rights &= mode >> shift & RIGHTS;
                left |= entry.rights << shift;
            }
        }
        left
    }

    /// Whose rights are the group bits of the mode.
    fn group_class(&self) -> u16 {
        let has_mask = self.entries.iter().any(|entry| entry.tag == MASK);
        if has_mask { MASK } else { OWNING_GROUP }
    }

    fn rights_of(&self, tag: u16) -> u16 {
        self.entries.iter().find(|entry| entry.tag == tag).map_or(0, |entry| entry.rights)
    }

    fn is_valid(&self) -> bool {
        let count = |tag: u16| self.entries.iter().filter(|entry| entry.tag == tag).count();
        let named = count(USER) + count(GROUP);
        let known = [OWNER, USER, OWNING_GROUP, GROUP, MASK, OTHER];
        self.entries.iter().all(|entry| known.contains(&entry.tag) && entry.rights <= RIGHTS)
            && self.entries.is_sorted_by_key(|entry| entry.tag)
            && [OWNER, OWNING_GROUP, OTHER].into_iter().all(|tag| count(tag) == 1)
            && (count(MASK) == 1 || count(MASK) == 0 && named == 0)
    }
}

/// Where the rights of an entry are in a mode, if they are.
fn shift_of(tag: u16, group_class: u16) -> Option<u16> {
    match tag {
        OWNER => Some(6),
        OTHER => Some(0),
        tag if tag == group_class => Some(3),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: u32 = u32::MAX;

    fn acl(entries: &[(u16, u16)]) -> Acl {
        let entry = |&(tag, rights)| {
            let id = if matches!(tag, USER | GROUP) { 1000 } else { NOBODY };
            Entry { tag, rights, id }
        };
        Acl { entries: entries.iter().map(entry).collect() }
    }

    fn extended() -> Acl {
        acl(&[(OWNER, 7), (USER, 7), (OWNING_GROUP, 5), (GROUP, 6), (MASK, 6), (OTHER, 1)])
    }

    fn plain() -> Acl {
        acl(&[(OWNER, 6), (OWNING_GROUP, 4), (OTHER, 0)])
    }

    #[test]
    fn a_list_survives_its_bytes() {
        for list in [extended(), plain()] {
            assert_eq!(Acl::parse(&list.to_bytes()), Some(list));
        }
        assert_eq!(plain().to_bytes()[..12], [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for broken in [
            vec![],
            vec![(OWNER, 7)],
            vec![(OWNER, 7), (OWNER, 7), (OWNING_GROUP, 5), (OTHER, 1)],
            vec![(OWNING_GROUP, 5), (OWNER, 7), (OTHER, 1)],
            vec![(OWNER, 7), (USER, 7), (OWNING_GROUP, 5), (OTHER, 1)],
            vec![(OWNER, 8), (OWNING_GROUP, 5), (OTHER, 1)],
            vec![(OWNER, 7), (OWNING_GROUP, 5), (OTHER, 1), (0x40, 1)],
        ] {
            assert_eq!(Acl::parse(&acl(&broken).to_bytes()), None, "{broken:?}");
        }
        let bytes = plain().to_bytes();
        assert_eq!(Acl::parse(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Acl::parse(&[&[1, 0, 0, 0], &bytes[4..]].concat()), None);
        assert_eq!(Acl::parse(b"no"), None);
    }

    #[test]
    fn the_mask_is_the_group_of_the_mode() {
        assert_eq!((extended().mode(), extended().is_extended()), (0o761, true));
        assert_eq!((plain().mode(), plain().is_extended()), (0o640, false));
        let mut list = extended();
        list.set_mode(0o4524);
        let expected =
            [(OWNER, 5), (USER, 7), (OWNING_GROUP, 5), (GROUP, 6), (MASK, 2), (OTHER, 4)];
        assert_eq!(list, acl(&expected));
        let mut list = plain();
        list.set_mode(0o751);
        assert_eq!(list, acl(&[(OWNER, 7), (OWNING_GROUP, 5), (OTHER, 1)]));
    }

    #[test]
    fn what_is_made_under_a_default_list_gets_what_both_allow() {
        let mut list = extended();
        assert_eq!(list.restrict(0o2666), 0o2660);
        let expected =
            [(OWNER, 6), (USER, 7), (OWNING_GROUP, 5), (GROUP, 6), (MASK, 6), (OTHER, 0)];
        assert_eq!(list, acl(&expected));
        let mut list = plain();
        assert_eq!(list.restrict(0o777), 0o640);
        assert_eq!(list, plain());
        assert_eq!(list.restrict(0o400), 0o400);
    }
}
