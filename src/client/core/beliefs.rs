//! What this client believes without asking: attributes, names, listings, links and extended attributes under shared
//! leases.
//!
//! Whatever an answer tells of an inode may be believed until the monitors want the inode's lease back: as long as a
//! client has one, nobody else changes that inode. So a question that was answered once is answered from here, and
//! what is here is as true as if the monitors were asked.
//!
//! What can go wrong is that answers, recalls and our own changes cross one another on their way. An answer may have
//! been read before a change whose recall is obeyed before the answer arrives; then it must not be believed. So each
//! call to the monitors begins with a [`Ticket`], each recall and each answer to a change of our own **spoils** the
//! inodes it names, and an answer teaches nothing of what was spoiled since its ticket was drawn. (Its asker still
//! gets it: it was true at some moment while it was asked.)
//!
//! ```text
//!   us:        begin ─────ask stat f ──┐                  ┌─ recalled(f): forgotten, spoiled ─┐   ┌─ learn: f is spoiled
//!   monitors:                          └─ read, leased ─┐ │  somebody wants to change f       │   │
//!                                                       └─┼───────────────────────────────────┼───┘
//!                                           fence f ──────┘              given back: changed ◀┘
//! ```
//!
//! With the answer to a change of our own comes how the inodes are now that it leaves ([`Aftermath`]), so that a program
//! that makes, renames and removes files asks nothing in between. And where all names in a directory are known, because
//! it was listed to its end or was empty, nobody need be asked whether a name is there.
//!
//! The kernel is told of some of it and may believe that for a second at most ([`BELIEVED_BY_KERNEL`]). Here is
//! remembered until when it may, so that a recall knows what the kernel has to be told to forget. A directory whose
//! lease was wanted back a moment ago is one in which several clients work: of its names the kernel is told nothing it
//! may keep, for taking a name back from the kernel may have to wait for a program that waits for somebody else.
//!
//! What is here is bounded: beyond [`WEIGHT_MAX`] the inodes that were used least lately are given back.

mod known;
mod reach;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use self::known::Known;
use self::reach::{inodes_of, names_left, names_of, subject_of};
use crate::types::{Attr, Errno, Ino, LeaseStamp};
use crate::wire::leases::{Aftermath, Leased, told_of};
use crate::wire::metadata::{Answer, Op, Query, Rename, Reply};

/// How long the kernel may believe what it was told.
pub(crate) const BELIEVED_BY_KERNEL: Duration = Duration::from_secs(1);
/// For so long after a recall others are taken to work in a directory.
const BUSY: Duration = Duration::from_secs(5);
/// Inodes, names and rows of listings that are kept.
const WEIGHT_MAX: usize = 400_000;
/// Inodes that are kept: each is a lease that the monitors keep in memory.
const INODES_MAX: usize = 100_000;
/// Of what is too much, this part is given up at a time: looking for the oldest takes long.
const GIVEN_UP_PART: usize = 8;

/// See the module.
#[derive(Default, Debug)]
pub struct Beliefs {
    known: HashMap<Ino, Known>,
    spoils: Spoils,
    /// Directories in which others work, and until when that is believed.
    busy: HashMap<Ino, Duration>,
    /// Rises with each use.
    uses: u64,
    weight: usize,
}

/// Drawn before the monitors are asked.
#[derive(PartialEq, Eq, Debug)]
#[must_use]
pub struct Ticket(u64);

/// An inode that is not believed in any more, and what the kernel may still believe of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Forgotten {
    /// The inode.
    pub ino: Ino,
    /// When its lease was heard of last.
    pub heard: LeaseStamp,
    /// The kernel may believe its attributes until then.
    pub attr_until: Duration,
    /// Names in it that the kernel may believe to be there, or not to be.
    pub names: Vec<Vec<u8>>,
    /// Until then.
    pub names_until: Duration,
}

/// What follows from changes of our own beside what is believed.
#[derive(Debug)]
pub struct Consequences {
    /// What the kernel may believe under no lease now: it has to forget it.
    pub orphaned: Vec<Forgotten>,
    /// Leases under which nothing is believed: they are to be given back.
    pub useless: Vec<(Ino, LeaseStamp)>,
}

/// What was recalled or changed while answers are on their way.
#[derive(Default, Debug)]
struct Spoils {
    clock: u64,
    /// How many calls began at that time and are not answered yet.
    under_way: BTreeMap<u64, u32>,
    latest: HashMap<Ino, u64>,
    everything: u64,
}

impl Beliefs {
    /// The monitors are about to be asked; [`Self::learn`] or [`Self::done`] must follow.
    pub fn begin(&mut self) -> Ticket {
        self.spoils.begin()
    }

    /// A call taught nothing.
    pub fn done(&mut self, ticket: &Ticket) {
        self.spoils.end(ticket);
    }

    /// The monitors have answered. Gives the leases that came with it and that nothing is believed under: they are
    /// to be given back.
    pub fn learn(
        &mut self,
        ticket: &Ticket,
        queries: &[Query],
        answers: &[Result<Answer, Errno>],
        leased: &Leased,
    ) -> Vec<(Ino, LeaseStamp)> {
        let mut useless = Vec::new();
        for (query, answer) in queries.iter().zip(answers) {
            for ino in told_of(query, answer) {
                if leased.except.contains(&ino) {
                    continue;
                }
                if !self.spoils.is_spoiled(ino, ticket) {
                    self.know(ino).heard = leased.stamp;
                } else if !self.known.contains_key(&ino) {
                    useless.push((ino, leased.stamp));
                }
            }
            self.remember(ticket, query, answer, leased);
        }
        self.spoils.end(ticket);
        // Answers that are on their way may come with the same leases.
        useless.iter().for_each(|(ino, _)| self.spoils.spoil(*ino));
        useless
    }

    /// The answer to a question, if it is known.
    pub fn answer(&mut self, query: &Query) -> Option<Result<Answer, Errno>> {
        match query {
            Query::Lookup { parent, name } => match self.used(*parent)?.name(name)? {
                Some(ino) => self.attr(ino).cloned().map(|attr| Ok(Answer::Attr(attr))),
                None => Some(Err(Errno::NotFound)),
            },
            Query::Attr { ino } => self.attr(*ino).cloned().map(|attr| Ok(Answer::Attr(attr))),
            Query::ReadLink { ino } => self.used(*ino)?.target().map(|to| Ok(Answer::Bytes(to))),
            Query::GetXattr { ino, name } => self.used(*ino)?.xattr(name),
            Query::ListXattr { ino } => {
                self.used(*ino)?.xattr_names().map(|names| Ok(Answer::Names(names)))
            }
            Query::ReadDir { dir, after, attrs, .. } => self.listing(*dir, *after, *attrs).map(Ok),
            Query::Map { .. } | Query::Open { .. } | Query::Lock { .. } | Query::Space { .. } => {
                None
            }
        }
    }

    /// An inode's attributes, if they are known.
    pub fn attr(&mut self, ino: Ino) -> Option<&Attr> {
        self.used(ino)?.attr.as_ref()
    }

    /// A part of a directory; attributes that are not known are left out.
    fn listing(&mut self, dir: Ino, after: u64, attrs: bool) -> Option<Answer> {
        let (parent, mut entries, end) = self.used(dir)?.listing(after)?;
        if attrs {
            for entry in &mut entries {
                entry.attr = self.attr(entry.ino).cloned();
            }
        }
        Some(Answer::Entries { parent, entries, end })
    }

    /// Changes of our own were answered, all in one message. It tells of the inodes that they leave how these are by
    /// now. What they have done to names may be believed in directories whose lease we had since before the ticket was
    /// drawn: nobody else has changed those.
    pub fn changed_all<'a>(
        &mut self,
        ticket: &Ticket,
        changes: impl Iterator<Item = (&'a Op, &'a Result<Reply, Errno>)> + Clone,
        after: &Aftermath,
        now: Duration,
    ) -> Consequences {
        let names: Vec<_> = changes.clone().flat_map(|(op, reply)| names_left(op, reply)).collect();
        // Changes of one message that are about the same name may have been done in another order.
        let once =
            |dir, name| names.iter().filter(|one| (one.0, one.1) == (dir, name)).count() == 1;
        let ours = names.iter().filter(|(dir, name, _)| once(*dir, *name));
        let ours: Vec<_> = ours.filter(|(dir, ..)| self.is_ours_since(ticket, *dir)).collect();
        let told = after.attrs.iter().filter(|attr| !after.leased.except.contains(&attr.ino));
        let (told, spoiled): (Vec<&Attr>, Vec<&Attr>) =
            told.partition(|attr| !self.spoils.is_spoiled(attr.ino, ticket));
        let stamp = after.leased.stamp;
        told.iter().for_each(|attr| self.know(attr.ino).heard = stamp);
        let useless = spoiled.iter().filter(|attr| !self.known.contains_key(&attr.ino));
        let useless: Vec<_> = useless.map(|attr| (attr.ino, stamp)).collect();
        let orphaned = changes.filter_map(|(op, reply)| self.changed(op, reply, now)).collect();
        for attr in told {
            self.with(attr.ino, |known| known.learn_attr(attr));
        }
        for (dir, name, ino) in ours {
            self.with(*dir, |known| known.learn_name(name, *ino));
        }
        self.spoils.end(ticket);
        // Answers that are on their way may come with the same leases.
        useless.iter().for_each(|(ino, _)| self.spoils.spoil(*ino));
        Consequences { orphaned, useless }
    }

    /// A change of our own was answered. Gives what the kernel may believe under no lease now: it has to forget it.
    fn changed(
        &mut self,
        op: &Op,
        reply: &Result<Reply, Errno>,
        now: Duration,
    ) -> Option<Forgotten> {
        let Ok(reply) = reply else { return None };
        for (dir, name) in names_of(op) {
            self.reconsider(dir, |known| known.entry_changed(name, now));
        }
        for ino in inodes_of(op, reply) {
            self.reconsider(ino, Known::attrs_changed);
        }
        if let (Op::Accessed { ino, .. }, Reply::Inode(attr)) = (op, reply) {
            self.reconsider(*ino, |known| known.accessed(attr));
        }
        let Op::Rename(Rename { parent, new_parent, new_name, .. }) = op else { return None };
        self.kernel_moved(*parent, (*new_parent, new_name), now)
    }

    /// The kernel moves what it believes of a name along with it, and goes on believing it for as long as before.
    fn kernel_moved(
        &mut self,
        from: Ino,
        (to, name): (Ino, &[u8]),
        now: Duration,
    ) -> Option<Forgotten> {
        let names_until = self.known.get(&from)?.names_until;
        if let Some(known) = self.known.get_mut(&to) {
            known.names_until = known.names_until.max(names_until);
            return None;
        }
        (now < names_until).then(|| Forgotten {
            ino: to,
            heard: LeaseStamp::default(),
            attr_until: Duration::ZERO,
            names: vec![name.to_vec()],
            names_until,
        })
    }

    /// The monitors want these leases back. Nothing of them is believed any more.
    pub fn recalled(&mut self, inos: &[Ino], now: Duration) -> Vec<Forgotten> {
        self.busy.retain(|_, until| now < *until);
        let mut forgotten = Vec::new();
        for ino in inos {
            self.spoils.spoil(*ino);
            self.busy.insert(*ino, now + BUSY);
            forgotten.extend(self.forget(*ino));
        }
        forgotten
    }

    /// Nothing is believed any more, nor will be what is on its way.
    pub fn forget_all(&mut self) -> Vec<Forgotten> {
        self.spoils.spoil_all();
        self.weight = 0;
        let all = std::mem::take(&mut self.known);
        all.into_iter().map(|(ino, known)| known.forgotten(ino)).collect()
    }

    /// What is too much: those that were used least lately, unless the kernel knows them, or they are needed. Their
    /// leases are to be given back.
    pub fn give_up(&mut self, now: Duration, is_needed: impl Fn(Ino) -> bool) -> Vec<Forgotten> {
        if self.weight <= WEIGHT_MAX && self.known.len() <= INODES_MAX {
            return Vec::new();
        }
        let idle = self.known.iter().filter(|(_, known)| !known.is_believed_by_kernel(now));
        let mut oldest: Vec<(u64, Ino)> = idle.map(|(ino, known)| (known.used, *ino)).collect();
        oldest.sort_unstable();
        let mut given_up = Vec::new();
        for (_, ino) in oldest {
            let enough = |is: usize, most: usize| is <= most - most / GIVEN_UP_PART;
            if enough(self.weight, WEIGHT_MAX) && enough(self.known.len(), INODES_MAX) {
                break;
            }
            if is_needed(ino) {
                continue;
            }
            self.spoils.spoil(ino);
            given_up.extend(self.forget(ino));
        }
        given_up
    }

    /// The kernel is told these attributes: for how long it may believe them, of what the lease leaves.
    pub fn tell_attr(&mut self, attr: &Attr, now: Duration, lease_end: Duration) -> Duration {
        let until = lease_end.min(now + BELIEVED_BY_KERNEL);
        match self.known.get_mut(&attr.ino) {
            Some(known) if known.attr.as_ref().is_some_and(|is| is.birth == attr.birth) => {
                known.attr_until = known.attr_until.max(until);
                until.saturating_sub(now)
            }
            _ => Duration::ZERO,
        }
    }

    /// The kernel is told that this name leads to `ino`, or to nothing: for how long it may believe that.
    pub fn tell_name(
        &mut self,
        (dir, name): (Ino, &[u8]),
        ino: Option<Ino>,
        now: Duration,
        lease_end: Duration,
    ) -> Duration {
        let until = lease_end.min(now + BELIEVED_BY_KERNEL);
        if self.busy.get(&dir).is_some_and(|until| now < *until) {
            return Duration::ZERO;
        }
        let is_by_name = match self.known.get_mut(&dir) {
            Some(known) if known.name(name) == Some(ino) => {
                known.names_until = known.names_until.max(until);
                known.is_by_name(name)
            }
            _ => return Duration::ZERO,
        };
        if !is_by_name {
            // It has to be known by name, so that the kernel can be told to forget it.
            self.with(dir, |known| known.learn_name(name, ino));
        }
        until.saturating_sub(now)
    }

    /// Whether the kernel will believe for a while yet that a name in `dir` leads to `ino`, and the attributes of that. It
    /// is known of the directory as a whole, so it may have heard of other names only.
    pub fn is_told(&self, dir: Ino, ino: Ino, now: Duration) -> bool {
        let until = |ino, of: fn(&Known) -> Duration| self.known.get(&ino).map(of);
        let names = until(dir, |known| known.names_until);
        let attr = until(ino, |known| known.attr_until);
        names.min(attr).is_some_and(|until| until > now + BELIEVED_BY_KERNEL / 2)
    }

    /// Whether anything is believed of an inode.
    pub fn knows(&self, ino: Ino) -> bool {
        self.known.contains_key(&ino)
    }

    /// How many inodes are believed in.
    pub fn count(&self) -> usize {
        self.known.len()
    }

    fn know(&mut self, ino: Ino) -> &mut Known {
        self.uses += 1;
        let Self { known, weight, uses, spoils, .. } = self;
        let known = known.entry(ino).or_insert_with(|| {
            *weight += 1;
            Known::since(spoils.tick())
        });
        known.used = *uses;
        known
    }

    fn used(&mut self, ino: Ino) -> Option<&mut Known> {
        self.uses += 1;
        let known = self.known.get_mut(&ino)?;
        known.used = self.uses;
        Some(known)
    }

    /// Whether the lease was ours when the ticket was drawn, and nobody has wanted it back since, nor have we changed
    /// the inode by anything else that was answered since.
    fn is_ours_since(&self, ticket: &Ticket, ino: Ino) -> bool {
        let is_older = |known: &Known| known.since <= ticket.0;
        self.known.get(&ino).is_some_and(is_older) && !self.spoils.is_spoiled(ino, ticket)
    }

    fn forget(&mut self, ino: Ino) -> Option<Forgotten> {
        let known = self.known.remove(&ino)?;
        self.weight -= 1 + known.weight();
        Some(known.forgotten(ino))
    }

    /// Something of ours has changed it; the lease stays.
    fn reconsider(&mut self, ino: Ino, change: impl FnOnce(&mut Known)) {
        self.spoils.spoil(ino);
        self.with(ino, change);
    }

    fn with(&mut self, ino: Ino, change: impl FnOnce(&mut Known)) {
        if let Some(known) = self.known.get_mut(&ino) {
            let before = known.weight();
            change(known);
            self.weight = self.weight + known.weight() - before;
        }
    }

    /// Keeps what an answer tells of those whose lease came with it.
    fn remember(
        &mut self,
        ticket: &Ticket,
        query: &Query,
        answer: &Result<Answer, Errno>,
        leased: &Leased,
    ) {
        let is_leased = |spoils: &Spoils, ino: Ino| {
            !leased.except.contains(&ino) && !spoils.is_spoiled(ino, ticket)
        };
        let attrs: Vec<&Attr> = match answer {
            Ok(Answer::Attr(attr)) => vec![attr],
            Ok(Answer::Map(slice)) => vec![&slice.attr],
            Ok(Answer::Entries { entries, .. }) => {
                entries.iter().filter_map(|entry| entry.attr.as_ref()).collect()
            }
            _ => Vec::new(),
        };
        for attr in attrs {
            if is_leased(&self.spoils, attr.ino) {
                self.with(attr.ino, |known| known.learn_attr(attr));
            }
        }
        let Some(subject) = subject_of(query) else { return };
        if !is_leased(&self.spoils, subject) {
            return;
        }
        self.with(subject, |known| match (query, answer) {
            (Query::Lookup { name, .. }, Ok(Answer::Attr(attr))) => {
                known.learn_name(name, Some(attr.ino));
            }
            (Query::Lookup { name, .. }, Err(Errno::NotFound)) => known.learn_name(name, None),
            (Query::ReadLink { .. }, Ok(Answer::Bytes(target))) => known.learn_target(target),
            (Query::GetXattr { name, .. }, Ok(Answer::Bytes(value))) => {
                known.learn_xattr(name, Some(value));
            }
            (Query::GetXattr { name, .. }, Err(Errno::NoAttribute)) => {
                known.learn_xattr(name, None);
            }
            (Query::ListXattr { .. }, Ok(Answer::Names(names))) => known.learn_xattr_names(names),
            (Query::ReadDir { after, .. }, Ok(Answer::Entries { parent, entries, end })) => {
                known.learn_listing(*after, *parent, entries, *end);
            }
            _ => {}
        });
    }
}

impl Spoils {
    fn begin(&mut self) -> Ticket {
        *self.under_way.entry(self.clock).or_default() += 1;
        Ticket(self.clock)
    }

    fn end(&mut self, ticket: &Ticket) {
        if let Some(count) = self.under_way.get_mut(&ticket.0) {
            *count -= 1;
            if *count == 0 {
                self.under_way.remove(&ticket.0);
            }
        }
        match self.under_way.first_key_value() {
            None => self.latest.clear(),
            // Now and then, so that one slow call does not cost the others.
            Some((oldest, _)) if self.latest.len() > 2 * self.under_way.len() + 1024 => {
                self.latest.retain(|_, at| *at > *oldest);
            }
            Some(_) => {}
        }
    }

    /// A time after all tickets that were drawn so far, and not after those to come.
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn spoil(&mut self, ino: Ino) {
        self.clock += 1;
        if !self.under_way.is_empty() {
            self.latest.insert(ino, self.clock);
        }
    }

    fn spoil_all(&mut self) {
        self.clock += 1;
        self.everything = self.clock;
    }

    fn is_spoiled(&self, ino: Ino, ticket: &Ticket) -> bool {
        self.everything > ticket.0 || self.latest.get(&ino).is_some_and(|at| *at > ticket.0)
    }
}
