//! Whose directory this is.
//!
//! ```text
//! okapifs server directory
//! cluster 0123456789abcdef0123456789abcdef
//! incarnation 0
//! server 17                  (or none, before the first registration)
//! state 123456               the latest metadata state that the monitors have told
//! deleting allowed           (or held: the monitors were older than that, see `membership`)
//! crc 89abcdef               CRC32C of the lines before
//! ```
//!
//! A file for people to read. If it is missing or damaged it is written anew: the shards say which cluster they are
//! of, and the monitors know the server by the name in its certificate.

use std::io;

use crate::env::disk::{Access, Disk};
use crate::types::{ClusterId, Incarnation, OpSeq, ServerId};

const PATH: &str = "identity";
const TEMPORARY: &str = "identity.tmp";
const TITLE: &str = "okapifs server directory";
/// Longer files are not ours.
const BYTES_MAX: u64 = 4096;

/// What a server's directory says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The cluster's incarnation when it was last heard of.
    pub incarnation: Incarnation,
    /// The server's id, once it has one.
    pub server: Option<ServerId>,
    /// The latest metadata state that the monitors have told.
    pub state: OpSeq,
    /// Whether nothing is deleted until an administrator says so.
    pub deleting_held: bool,
}

impl Identity {
    /// That of a new directory.
    pub fn new(cluster: ClusterId) -> Self {
        Self {
            cluster,
            incarnation: Incarnation(0),
            server: None,
            state: OpSeq(0),
            deleting_held: false,
        }
    }

    /// Reads it; `None` when there is none, or it is damaged.
    pub(super) fn read(disk: &dyn Disk) -> io::Result<Option<Self>> {
        let file = match disk.open(PATH, Access::Cached) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let length = file.length()?.min(BYTES_MAX);
        let bytes = file.read(0, length as usize)?;
        let identity = std::str::from_utf8(&bytes).ok().and_then(Self::parse);
        if identity.is_none() {
            log::warn!("the file {PATH} is damaged and will be written anew");
        }
        Ok(identity)
    }

    /// Writes it; durable on return.
    pub(super) fn write(&self, disk: &dyn Disk) -> io::Result<()> {
        let file = disk.create(TEMPORARY, Access::Cached)?;
        file.write(0, self.text().as_bytes())?;
        file.sync()?;
        disk.rename(TEMPORARY, PATH)?;
        disk.sync_dir("")
    }

    fn text(&self) -> String {
        let server = self.server.map_or("none".into(), |id| id.to_string());
        let deleting = if self.deleting_held { "held" } else { "allowed" };
        let lines = format!(
            "{TITLE}\ncluster {}\nincarnation {}\nserver {server}\nstate {}\ndeleting {deleting}\n",
            self.cluster, self.incarnation, self.state
        );
        let crc = crc_fast::crc32_iscsi(lines.as_bytes());
        format!("{lines}crc {crc:08x}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let (lines, _) = text.split_at_checked(text.rfind("crc ")?)?;
        let mut values = lines.lines().skip(1).map(|line| line.split_once(' '));
        let mut value = |name: &str| {
            let (found, value) = values.next()??;
            (found == name).then_some(value)
        };
        let identity = Self {
            cluster: ClusterId::parse(value("cluster")?)?,
            incarnation: Incarnation(value("incarnation")?.parse().ok()?),
            server: match value("server")? {
                "none" => None,
                id => Some(ServerId(id.parse().ok()?)),
            },
            state: OpSeq(value("state")?.parse().ok()?),
            deleting_held: value("deleting")? == "held",
        };
        (identity.text() == text).then_some(identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_notices_damage() {
        let identity = Identity {
            server: Some(ServerId(17)),
            state: OpSeq(99),
            deleting_held: true,
            ..Identity::new(ClusterId(5))
        };
        let text = identity.text();
        assert_eq!(Identity::parse(&text), Some(identity));
        let other = Identity::new(ClusterId(6));
        assert_eq!(Identity::parse(&other.text()), Some(other));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let flipped = String::from_utf8(bytes).unwrap();
            assert_eq!(Identity::parse(&flipped), None, "{flipped}");
            assert_eq!(Identity::parse(&text[..at]), None);
        }
    }
}
