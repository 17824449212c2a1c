//! Which open files go through the kernel's page cache, and which past it.
//!
//! Writing past the page cache (FOPEN_DIRECT_IO) is more than twice as fast: no copy into pages that nobody
//! reads, and whole mebibytes at a time. But pages and direct writes of one file do not know of one another.
//! So (K6):
//!
//! * Who only reads goes through the cache. Each `read` asks for the attributes first (FUSE_AUTO_INVAL_DATA),
//!   and sees the new mtime of a direct write beside it.
//! * Who only writes, or only appends, goes past it, unless a *writer* through the cache is open: its mapping
//!   may have dirty pages that the kernel would write over the direct ones.
//! * Who reads and writes goes through the cache, unless a direct handle is open: then it is direct as well,
//!   for the same reason. It may still map the file (FUSE_DIRECT_IO_ALLOW_MMAP).
//! * A direct write beside a handle that may have a mapping is answered when its range is invalidated. The
//!   kernel drops the pages *before* it sends the write, so one that is faulted in meanwhile is stale, and
//!   nobody asks for attributes under a mapping. (Making such readers direct instead would not do: direct
//!   handles can be mapped too.)
//! * An open keeps pages of an earlier one only if the file has the same version as then: what was written past
//!   them has made another version.
//!
//! The table also remembers for a moment which open files have no privileges left for a write to take
//! ([`super::privileges`]), so that this is not asked for at every write.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::client::fs::{Handle, OpenMode};
use crate::types::{DataVersion, Ino};

/// How long a file is believed to be without privileges: another host may give it some meanwhile.
const CLEAN_FOR: Duration = Duration::from_secs(1);

/// Whether an open file goes through the kernel's page cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Caching {
    /// Through it.
    Cached,
    /// Past it.
    Direct,
}

/// Bytes of a file whose pages have to go. A length of 0 means up to the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct StaleRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Of so many files is known which version the pages have that the kernel may have kept.
const VERSIONS_MAX: usize = 100_000;

/// All files that are open on this mount.
#[derive(Default)]
pub(super) struct OpenFiles {
    files: HashMap<Ino, OpenFile>,
    /// The version of files when they were last opened through the cache.
    versions: HashMap<Ino, DataVersion>,
}

#[derive(Default)]
struct OpenFile {
    handles: Vec<OpenHandle>,
    clean_until: Option<Instant>,
}

struct OpenHandle {
    handle: Handle,
    mode: OpenMode,
    caching: Caching,
}

impl OpenFiles {
    /// A file was opened: decides how, and remembers it.
    pub(super) fn open(&mut self, ino: Ino, handle: Handle, mode: OpenMode) -> Caching {
        let file = self.files.entry(ino).or_default();
        let caching = file.caching_of(mode);
        file.handles.push(OpenHandle { handle, mode, caching });
        caching
    }

    /// A handle was closed.
    pub(super) fn close(&mut self, ino: Ino, handle: Handle) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.handles.retain(|open| open.handle != handle);
            if file.handles.is_empty() {
                self.files.remove(&ino);
            }
        }
    }

    /// A file that is opened through the cache has this version, as far as is known: whether that was so when it
    /// was opened last, and the pages of then are right.
    pub(super) fn pages_are_of(&mut self, ino: Ino, version: Option<DataVersion>) -> bool {
        if self.versions.len() >= VERSIONS_MAX {
            self.versions.clear();
        }
        let before = match version {
            Some(version) => self.versions.insert(ino, version),
            None => self.versions.remove(&ino),
        };
        version.is_some() && before == version
    }

    /// Which pages a write through `handle` leaves stale. Of an appender's place the kernel knows only what it assumed.
    pub(super) fn stale_after_write(
        &self,
        ino: Ino,
        handle: Handle,
        place: Option<u64>,
        length: u64,
    ) -> Option<StaleRange> {
        let file = self.files.get(&ino)?;
        let writer = file.handles.iter().find(|open| open.handle == handle)?;
        let may_be_mapped = file.handles.iter().any(|open| open.mode.read);
        let range = match place {
            Some(offset) => StaleRange { offset, length },
            None => StaleRange { offset: 0, length: 0 },
        };
        (writer.caching == Caching::Direct && may_be_mapped).then_some(range)
    }

    /// Whether a write to this open file has no privileges to take.
    pub(super) fn is_clean(&self, ino: Ino, now: Instant) -> bool {
        let until = self.files.get(&ino).and_then(|file| file.clean_until);
        until.is_some_and(|until| now < until)
    }

    /// This file was seen to have no privileges; remembered while it is open.
    pub(super) fn set_clean(&mut self, ino: Ino, now: Instant) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.clean_until = Some(now + CLEAN_FOR);
        }
    }

    /// This file may have been given privileges.
    pub(super) fn set_unknown(&mut self, ino: Ino) {
        if let Some(file) = self.files.get_mut(&ino) {
            file.clean_until = None;
        }
    }
}

impl OpenFile {
    fn caching_of(&self, mode: OpenMode) -> Caching {
        let writer_through_cache =
            self.any(|open| open.mode.write && open.caching == Caching::Cached);
        let anybody_past_it = self.any(|open| open.caching == Caching::Direct);
        let better_past_it = !mode.read || mode.append;
        if mode.write && !writer_through_cache && (better_past_it || anybody_past_it) {
            Caching::Direct
        } else {
            Caching::Cached
        }
    }

    fn any(&self, is: impl Fn(&OpenHandle) -> bool) -> bool {
        self.handles.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Ino = Ino(7);

    fn mode(text: &str) -> OpenMode {
        OpenMode {
            read: text.contains('r'),
            write: text.contains('w') || text.contains('a'),
            append: text.contains('a'),
            ..OpenMode::default()
        }
    }

    /// Opens one file in all these modes, in this order, with handles 0, 1, …
    fn open_all(modes: &[&str]) -> (OpenFiles, Vec<Caching>) {
        let mut files = OpenFiles::default();
        let caching = (0..)
            .zip(modes)
            .map(|(handle, text)| files.open(FILE, Handle(handle), mode(text)))
            .collect();
        (files, caching)
    }

    #[test]
    fn writers_are_direct_unless_one_writes_through_the_cache() {
        use Caching::{Cached, Direct};
        for (modes, expected) in [
            (&["w"][..], &[Direct][..]),
            (&["a"], &[Direct]),
            (&["ra"], &[Direct]),
            (&["r", "w"], &[Cached, Direct]),
            (&["w", "r"], &[Direct, Cached]),
            (&["rw", "w", "a", "ra"], &[Cached, Cached, Cached, Cached]),
            (&["w", "rw", "w"], &[Direct, Direct, Direct]),
            (&["r", "rw"], &[Cached, Cached]),
        ] {
            assert_eq!(open_all(modes).1, expected, "{modes:?}");
        }
    }

    #[test]
    fn never_both_direct_and_written_through_the_cache() {
        let kinds = ["r", "w", "rw", "a", "ra"];
        for sequence in 0..kinds.len().pow(4) {
            let mut rest = sequence;
            let mut files = OpenFiles::default();
            for step in 0..4 {
                files.open(FILE, Handle(step), mode(kinds[rest % kinds.len()]));
                rest /= kinds.len();
                if step == 2 {
                    files.close(FILE, Handle(step - 2));
                }
                let file = &files.files[&FILE];
                let direct = file.any(|open| open.caching == Caching::Direct);
                let written = file.any(|open| open.mode.write && open.caching == Caching::Cached);
                assert!(!(direct && written), "sequence {sequence}, step {step}");
            }
        }
    }

    #[test]
    fn a_mode_ends_with_its_last_handle() {
        let (mut files, _) = open_all(&["w", "w"]);
        files.close(FILE, Handle(0));
        assert_eq!(files.open(FILE, Handle(2), mode("rw")), Caching::Direct);
        files.close(FILE, Handle(1));
        files.close(FILE, Handle(2));
        assert!(files.files.is_empty());
        assert_eq!(files.open(FILE, Handle(3), mode("rw")), Caching::Cached);
    }

    #[test]
    fn only_direct_writes_beside_possible_mappings_leave_pages_stale() {
        let range = Some(StaleRange { offset: 10, length: 5 });
        let (files, _) = open_all(&["w"]);
        assert_eq!(files.stale_after_write(FILE, Handle(0), Some(10), 5), None);
        let (files, _) = open_all(&["w", "r"]);
        assert_eq!(files.stale_after_write(FILE, Handle(0), Some(10), 5), range);
        let (files, _) = open_all(&["w", "rw"]);
        assert_eq!(files.stale_after_write(FILE, Handle(1), Some(10), 5), range);
        let (files, _) = open_all(&["rw", "r"]);
        assert_eq!(files.stale_after_write(FILE, Handle(0), Some(10), 5), None);
        let (files, _) = open_all(&["a", "r"]);
        let whole = Some(StaleRange { offset: 0, length: 0 });
        assert_eq!(files.stale_after_write(FILE, Handle(0), None, 5), whole);
    }

    #[test]
    fn pages_are_kept_for_the_version_that_they_are_of() {
        let (mut files, _) = open_all(&["r"]);
        let version = |number| Some(DataVersion(number));
        assert!(!files.pages_are_of(FILE, version(1)), "there are none");
        assert!(files.pages_are_of(FILE, version(1)));
        assert!(!files.pages_are_of(FILE, version(2)));
        assert!(!files.pages_are_of(FILE, None), "not known");
        assert!(!files.pages_are_of(FILE, version(2)), "they may have been read meanwhile");
    }

    #[test]
    fn a_clean_file_is_believed_to_be_so_for_a_moment() {
        let now = Instant::now();
        let (mut files, _) = open_all(&["w"]);
        assert!(!files.is_clean(FILE, now));
        files.set_clean(FILE, now);
        assert!(files.is_clean(FILE, now));
        assert!(!files.is_clean(FILE, now + CLEAN_FOR));
        files.set_unknown(FILE);
        assert!(!files.is_clean(FILE, now));
        files.set_clean(Ino(8), now);
        assert!(!files.is_clean(Ino(8), now), "nothing is kept of files that are not open");
    }
}
