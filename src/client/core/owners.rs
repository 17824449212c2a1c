//! As whom the users of this client count in the cluster.
//!
//! The cluster keeps owners as plain numbers. Where a client's numbers mean other people than the cluster's
//! do, its policy says which are which, and what goes out and comes in is translated here, at the one place
//! through which every change and every answer passes. (POSIX ACLs carry ids inside of their values: those are not
//! looked into.) That is a convenience among those who trust one another, and no fence: a client that lies
//! translates as it likes.

use crate::types::{Attr, ClientPolicy, Errno};
use crate::wire::metadata::{Answer, Op, Reply};

/// Translates in both directions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Owners {
    policy: ClientPolicy,
}

impl Owners {
    /// As that policy says.
    pub(crate) fn new(policy: ClientPolicy) -> Self {
        Self { policy }
    }

    /// Whether the client may change nothing.
    pub(crate) fn read_only(&self) -> bool {
        self.policy.read_only
    }

    /// What the monitors are asked to do, in the cluster's numbers.
    pub(crate) fn outgoing(&self, ops: &mut [Op]) {
        if self.is_plain() {
            return;
        }
        for op in ops {
            match op {
                Op::Create(create) => {
                    create.uid = self.policy.to_cluster(create.uid);
                    create.gid = self.policy.to_cluster(create.gid);
                }
                Op::TmpFile(file) => {
                    file.uid = self.policy.to_cluster(file.uid);
                    file.gid = self.policy.to_cluster(file.gid);
                }
                Op::SetAttr { changes, .. } => {
                    changes.uid = changes.uid.map(|uid| self.policy.to_cluster(uid));
                    changes.gid = changes.gid.map(|gid| self.policy.to_cluster(gid));
                }
                _ => {}
            }
        }
    }

    /// What the monitors say to changes, in this client's numbers.
    pub(crate) fn replies(
        &self,
        mut replies: Vec<Result<Reply, Errno>>,
    ) -> Vec<Result<Reply, Errno>> {
        for reply in replies.iter_mut().flatten() {
            match reply {
                Reply::Inode(attr) => self.incoming(attr),
                Reply::Removed(removed) => self.incoming(&mut removed.attr),
                Reply::Renamed { moved, replaced } => {
                    let replaced = replaced.iter_mut().map(|removed| &mut removed.attr);
                    moved.iter_mut().chain(replaced).for_each(|attr| self.incoming(attr));
                }
                Reply::Done
                | Reply::Committed(_)
                | Reply::Range { .. }
                | Reply::Reserved { .. } => {}
            }
        }
        replies
    }

    /// What the monitors answer, in this client's numbers.
    pub(crate) fn answers(
        &self,
        mut answers: Vec<Result<Answer, Errno>>,
    ) -> Vec<Result<Answer, Errno>> {
        for answer in answers.iter_mut().flatten() {
            match answer {
                Answer::Attr(attr) => self.incoming(attr),
                Answer::Map(slice) => self.incoming(&mut slice.attr),
                Answer::Entries { entries, .. } => {
                    let attrs = entries.iter_mut().filter_map(|entry| entry.attr.as_mut());
                    attrs.for_each(|attr| self.incoming(attr));
                }
                Answer::Bytes(_) | Answer::Names(_) | Answer::Lock(_) | Answer::Space(_) => {}
            }
        }
        answers
    }

    /// How inodes are, in this client's numbers.
    pub(crate) fn attrs(&self, mut attrs: Vec<Attr>) -> Vec<Attr> {
        attrs.iter_mut().for_each(|attr| self.incoming(attr));
        attrs
    }

    fn incoming(&self, attr: &mut Attr) {
        if !self.is_plain() {
            attr.uid = self.policy.to_local(attr.uid);
            attr.gid = self.policy.to_local(attr.gid);
        }
    }

    fn is_plain(&self) -> bool {
        self.policy.id_map.is_empty() && !self.policy.root_squash
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{IdRange, Ino, NOBODY};
    use crate::wire::metadata::AttrChanges;

    fn chown(uid: u32, gid: u32) -> Op {
        let changes = AttrChanges { uid: Some(uid), gid: Some(gid), ..AttrChanges::default() };
        Op::SetAttr { ino: Ino::ROOT, changes }
    }

    #[test]
    fn owners_are_translated_on_their_way_out() {
        let range = IdRange { local: 1000, cluster: 70_000, count: 1000 };
        let policy =
            ClientPolicy { id_map: vec![range], root_squash: true, ..ClientPolicy::default() };
        let mut ops = [chown(1001, 0), chown(7, 1999)];
        Owners::new(policy).outgoing(&mut ops);
        assert_eq!(ops, [chown(70_001, NOBODY), chown(7, 70_999)]);
        let mut plain = [chown(0, 1000)];
        Owners::default().outgoing(&mut plain);
        assert_eq!(plain, [chown(0, 1000)]);
    }
}
