//! What a volume asks of the data in it.
//!
//! A volume is a directory made as such, and everything below it down to the next volume. Policy hangs on it
//! alone: how wide its stripes are, with how few copies a write is still taken, and how much it may hold.

use bincode::{Decode, Encode};

use super::{VolumeId, Width};

/// The policy of a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VolumePolicy {
    /// Width of new stripes when enough servers are up.
    pub width: Width,
    /// Fewest copies with which a write is taken, 1..=parity + 1.
    pub min_copies: u8,
    /// Most bytes of content, holes not counted; `None`: as many as there is room for.
    pub bytes_max: Option<u64>,
    /// Most inodes, the volume's own directory included; `None`: no limit.
    pub files_max: Option<u64>,
}

/// What an administrator changes of a policy; `None` leaves it as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct VolumeChanges {
    /// Data shards of new stripes.
    pub data: Option<u8>,
    /// Parity shards of new stripes.
    pub parity: Option<u8>,
    /// See [`VolumePolicy::min_copies`].
    pub min_copies: Option<u8>,
    /// See [`VolumePolicy::bytes_max`].
    pub bytes_max: Option<Limit>,
    /// See [`VolumePolicy::files_max`].
    pub files_max: Option<Limit>,
}

/// A limit as it is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Limit {
    /// There shall be none.
    None,
    /// At most so many, at least 1.
    AtMost(u64),
}

impl VolumePolicy {
    /// What a volume of that width asks for unless told otherwise: two copies, where there is parity to make them.
    pub fn of_width(width: Width) -> Self {
        let min_copies = usual_copies(width);
        Self { width, min_copies, bytes_max: None, files_max: None }
    }

    /// The policy with what was asked for changed. A number of copies that the new parity cannot give is lowered to
    /// what it can, unless it was asked for.
    ///
    /// # Errors
    ///
    /// A sentence for the administrator when it makes no sense.
    pub fn changed(self, changes: &VolumeChanges) -> Result<Self, String> {
        let width = Width {
            data: changes.data.unwrap_or(self.width.data),
            parity: changes.parity.unwrap_or(self.width.parity),
        };
        if !width.is_valid() {
            return Err(format!(
                "{} data and {} parity shards are no stripe: --data is 1 to {}, --parity 0 to {}",
                width.data,
                width.parity,
                super::limits::DATA_SHARDS_MAX,
                super::limits::PARITY_SHARDS_MAX
            ));
        }
        let copies_max = width.parity + 1;
        let kept = match width == self.width {
            true => self.min_copies,
            false => self.min_copies.max(usual_copies(width)).min(copies_max),
        };
        let min_copies = changes.min_copies.unwrap_or(kept);
        if !(1..=copies_max).contains(&min_copies) {
            return Err(format!(
                "with {} parity shards --min-copies is 1 to {copies_max}, not {min_copies}",
                width.parity
            ));
        }
        let bytes_max = limited(self.bytes_max, changes.bytes_max)?;
        let files_max = limited(self.files_max, changes.files_max)?;
        Ok(Self { width, min_copies, bytes_max, files_max })
    }
}

fn usual_copies(width: Width) -> u8 {
    width.parity.saturating_add(1).min(2)
}

fn limited(before: Option<u64>, asked: Option<Limit>) -> Result<Option<u64>, String> {
    match asked {
        None => Ok(before),
        Some(Limit::None) => Ok(None),
        Some(Limit::AtMost(0)) => Err("a quota of 0 holds nothing: name more, or none".to_owned()),
        Some(Limit::AtMost(most)) => Ok(Some(most)),
    }
}

/// What a client needs to know of a volume to write to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VolumeEntry {
    /// The volume.
    pub id: VolumeId,
    /// Width of new stripes when enough servers are up.
    pub width: Width,
    /// Fewest copies with which a write is taken.
    pub min_copies: u8,
    /// Whether room has to be reserved before bytes are buffered.
    pub is_limited: bool,
}

impl VolumeEntry {
    /// What is told of a volume with that policy.
    pub fn new(id: VolumeId, policy: &VolumePolicy) -> Self {
        let VolumePolicy { width, min_copies, bytes_max, .. } = *policy;
        Self { id, width, min_copies, is_limited: bytes_max.is_some() }
    }

    /// Whether writes are taken when servers in so many failure domains are up: as long as there are enough for all
    /// its parity, or at least for the fewest copies it asks for.
    pub fn takes_writes(&self, domains_up: usize) -> bool {
        domains_up > usize::from(self.width.parity)
            || domains_up >= usize::from(self.min_copies.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(data: u8, parity: u8) -> VolumePolicy {
        VolumePolicy::of_width(Width { data, parity })
    }

    #[test]
    fn copies_follow_the_parity_unless_they_are_named() {
        assert_eq!((policy(2, 1).min_copies, policy(2, 0).min_copies), (2, 1));
        let changed = |changes: VolumeChanges| policy(2, 2).changed(&changes);
        let parity = |parity| VolumeChanges { parity: Some(parity), ..VolumeChanges::default() };
        assert_eq!(changed(parity(0)).map(|policy| policy.min_copies), Ok(1));
        assert_eq!(changed(parity(3)).map(|policy| policy.min_copies), Ok(2));
        let lenient = VolumeChanges { min_copies: Some(1), ..VolumeChanges::default() };
        assert_eq!(changed(lenient).map(|policy| policy.min_copies), Ok(1));
        let greedy = VolumeChanges { min_copies: Some(4), ..VolumeChanges::default() };
        assert!(changed(greedy).is_err_and(|why| why.contains("--min-copies is 1 to 3, not 4")));
    }

    #[test]
    fn what_is_no_stripe_and_no_limit_is_refused() {
        let wide = VolumeChanges { data: Some(0), ..VolumeChanges::default() };
        assert!(policy(2, 1).changed(&wide).is_err_and(|why| why.contains("--data is 1 to 32")));
        let limit = |limit| VolumeChanges { bytes_max: Some(limit), ..VolumeChanges::default() };
        assert!(policy(2, 1).changed(&limit(Limit::AtMost(0))).is_err());
        let limited = policy(2, 1).changed(&limit(Limit::AtMost(9))).expect("good");
        assert_eq!(limited.bytes_max, Some(9));
        assert_eq!(limited.changed(&VolumeChanges::default()), Ok(limited));
        assert_eq!(limited.changed(&limit(Limit::None)), Ok(policy(2, 1)));
    }

    #[test]
    fn writes_wait_below_the_fewest_copies_only_where_parity_is_missing() {
        let entry = |data, parity| VolumeEntry::new(VolumeId::ROOT, &policy(data, parity));
        let taken = |entry: VolumeEntry| [0, 1, 2].map(|up| entry.takes_writes(up));
        assert_eq!(taken(entry(2, 1)), [false, false, true]);
        assert_eq!(taken(entry(2, 0)), [false, true, true]);
        assert_eq!(taken(entry(4, 2)), [false, false, true]);
    }
}
