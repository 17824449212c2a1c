//! What `mount` is told: the source and the `-o` list.
//!
//! mount(8) and fstab pass options of three kinds: ours, those the kernel keeps for every filesystem, and those
//! that are meant for somebody else (`_netdev`, `nofail`, `x-…`) and only have to be accepted. An option that
//! is none of them is an error, because it is a typing mistake.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::find;
use crate::fuse::MountFlags;

/// `HOST[:PORT][,HOST…]:/[SUBDIR]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Source {
    /// As it was written: what `findmnt -S` finds.
    pub(super) text: String,
    /// `host:port` of monitors.
    pub(super) monitors: Vec<String>,
    /// The directory of the filesystem that becomes the root of the mount, from the filesystem's root without
    /// a slash at either end; empty for the root itself.
    pub(super) subdir: Vec<u8>,
}

impl Source {
    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let parts = text.split_once(":/");
        let monitors = parts.and_then(|(hosts, _)| find::addresses(hosts));
        // Two slashes would be a URL.
        let subdir = parts.map(|(_, subdir)| subdir).filter(|subdir| !subdir.starts_with('/'));
        let (Some(subdir), Some(monitors)) = (subdir, monitors) else {
            bail!("{text:?} is nothing that can be mounted; write HOST[:PORT][,HOST…]:/[SUBDIR]");
        };
        if subdir.split('/').any(|name| name == "." || name == "..") {
            bail!("the directory in {text:?} must be written without . and ..");
        }
        let names: Vec<&str> = subdir.split('/').filter(|name| !name.is_empty()).collect();
        Ok(Self { text: text.to_owned(), monitors, subdir: names.join("/").into_bytes() })
    }
}

/// What the `-o` lists say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Options {
    /// The flags that every filesystem has.
    pub(super) flags: MountFlags,
    /// The mountpoint need not be empty.
    pub(super) nonempty: bool,
    /// `close` waits until the file is durable.
    pub(super) sync_on_close: bool,
    /// The client configuration directory.
    pub(super) config: Option<PathBuf>,
    /// Where the log goes when it runs in the background.
    pub(super) log: Option<PathBuf>,
    /// Where the files are that tell processes of this machine of one another.
    pub(super) run_dir: Option<PathBuf>,
}

/// Options that are accepted and change nothing: meant for others, or what is the case anyway.
const ACCEPTED: &[&str] = &[
    "_netdev",
    "nofail",
    "auto",
    "noauto",
    "nouser",
    "nousers",
    "strictatime",
    "nostrictatime",
    "lazytime",
    "nolazytime",
    "loud",
    "silent",
    "allow_other",
    "default_permissions",
];

impl Options {
    pub(super) fn parse(lists: &[String]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let words = lists.iter().flat_map(|list| list.split(','));
        for word in words.filter(|word| !word.is_empty()) {
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> anyhow::Result<()> {
        if self.flags.set(word) || ACCEPTED.contains(&word) {
            return Ok(());
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        match (name, value) {
            ("nonempty", None) => self.nonempty = true,
            ("sync_on_close", None) => self.sync_on_close = true,
            ("config", Some(path)) => self.config = Some(absolute(path)?),
            ("log", Some(path)) => self.log = Some(absolute(path)?),
            ("run_dir", Some(path)) => self.run_dir = Some(absolute(path)?),
            ("comment" | "user" | "uid", Some(_)) => {}
            (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
            ("remount", None) => {
                bail!("to change flags of a mount use: mount -o remount,… DIRECTORY")
            }
            _ => bail!("mount option {word:?} is unknown; see `okapifs mount --help`"),
        }
        Ok(())
    }
}

fn absolute(path: &str) -> anyhow::Result<PathBuf> {
    if path.is_empty() {
        bail!("a path in the mount options is empty");
    }
    Ok(std::path::absolute(path)?)
}

/// Where run files and run-locks are kept unless told otherwise: gone after a reboot, as what they tell of is.
pub(super) fn default_run_dir() -> PathBuf {
    // SAFETY: geteuid(2) cannot fail and touches no memory.
    let root = unsafe { libc::geteuid() } == 0;
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !root && !dir.as_bytes().is_empty() => Path::new(&dir).join("okapifs"),
        _ if root => PathBuf::from("/run/okapifs"),
        _ => std::env::temp_dir().join("okapifs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_monitors_and_a_directory() {
        let source = Source::parse("a,b:9:/x//y/").expect("a source");
        assert_eq!(source.monitors, ["a:7001", "b:9"]);
        assert_eq!(source.subdir, b"x/y");
        assert_eq!(source.text, "a,b:9:/x//y/");
        assert_eq!(Source::parse("[::1]:/").expect("a source").subdir, b"");
    }

    #[test]
    fn what_is_no_source_is_refused() {
        for text in ["", "a", "/mnt", ":/", "a:", "a:9", "a:x:/", "a:/../b", "http://a/"] {
            Source::parse(text).expect_err(text);
        }
    }

    #[test]
    fn everything_that_fstab_users_write_is_accepted() {
        let accepted = |text: &str| Options::parse(&[text.to_owned()]).expect(text);
        accepted(
            "rw,_netdev,nofail,noatime,x-systemd.automount,user,exec,comment=systemd.automount",
        );
        let none = accepted("defaults,_netdev,nofail,auto,rw,X-mount.mkdir,");
        assert_eq!(none, Options::default());
        let ours = accepted("ro,config=/etc/c,,nonempty,sync_on_close");
        assert!(ours.flags.is_read_only() && ours.nonempty && ours.sync_on_close);
        assert_eq!(ours.config, Some(PathBuf::from("/etc/c")));
    }

    #[test]
    fn a_typing_mistake_is_named() {
        let error = Options::parse(&["rw,nofial".to_owned()]).expect_err("unknown");
        assert!(error.to_string().contains("nofial"));
        Options::parse(&["config=".to_owned()]).expect_err("empty path");
    }
}
