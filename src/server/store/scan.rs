//! Coming back: the list of shards, read from the directory itself.
//!
//! There is no index to lose. At start-up the head of every image is read and checked; what is whole is listed. Of
//! large shards, files with temporary names are from puts that nobody was promised anything about: they
//! go. A file that is cut off, damaged or somebody else's is put into quarantine. Segments without a seal are
//! checked block by block, what is torn in them is marked dead, and then they are sealed: this process never
//! appends to what another one began.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{self, QUARANTINE, SHARDS, TEMPORARY};
use super::index::{Condition, Entry, Index, Place, Record};
use super::packs::{self, PACKS};
use super::segment::{self, ImageState};
use crate::codec::shard::{BadShard, HEADER_BYTES, Head, Header};
use crate::env::disk::{Access, Disk, DiskFile, is_bad_sector};
use crate::types::ClusterId;
use crate::types::limits::BLOCK;
use crate::wire::shards::ShardId;

/// Directories that are read at the same time: a disk answers many small reads faster than one after another.
const THREADS: usize = 8;

/// What was found.
#[derive(Default)]
pub(super) struct Found {
    /// The shards that are here.
    pub(super) index: Index,
    /// Segments, and how many images are alive in each.
    pub(super) segments: Vec<(u32, u32)>,
    /// Shards that should be here, by their name or their header, and are damaged.
    pub(super) lost: Vec<ShardId>,
}

/// The cluster that the first readable shard belongs to, changing nothing; `None` when there is none.
pub(super) fn peek_cluster(disk: &dyn Disk) -> io::Result<Option<ClusterId>> {
    for dir in subdirectories(disk)? {
        for item in disk.list(&dir)? {
            let file = disk.open(&format!("{dir}/{}", item.name), Access::Cached)?;
            let length = file.length()?.min(HEADER_BYTES as u64);
            if let Ok(header) = Header::parse(&file.read(0, length as usize)?) {
                return Ok(Some(header.ident.cluster));
            }
        }
    }
    for number in segments(disk)? {
        let file = disk.open(&packs::path(number), Access::Cached)?;
        let length = file.length()?.min(BLOCK.into());
        if let Some(cluster) = segment::parse_header(&file.read(0, length as usize)?) {
            return Ok(Some(cluster));
        }
    }
    Ok(None)
}

/// Reads the whole directory.
pub(super) fn scan(disk: &Arc<dyn Disk>, cluster: ClusterId) -> io::Result<Found> {
    let mut found = Found::default();
    scan_files(&**disk, cluster, &mut found)?;
    for number in segments(&**disk)? {
        scan_segment(&**disk, cluster, number, &mut found)?;
    }
    // A shard that was damaged, put again, and not yet marked dead where it was first: it is not lost.
    let index = &found.index;
    found.lost.retain(|id| index.get(*id).is_none());
    Ok(found)
}

fn subdirectories(disk: &dyn Disk) -> io::Result<Vec<String>> {
    let items = disk.list(SHARDS)?.into_iter().filter(|item| item.is_dir);
    Ok(items.map(|item| format!("{SHARDS}/{}", item.name)).collect())
}

fn segments(disk: &dyn Disk) -> io::Result<Vec<u32>> {
    let items = disk.list(PACKS)?;
    Ok(items.iter().filter_map(|item| packs::parse_name(&item.name)).collect())
}

/// Reads all files of large shards, several directories at a time.
fn scan_files(disk: &dyn Disk, cluster: ClusterId, found: &mut Found) -> io::Result<()> {
    let directories = Mutex::new(subdirectories(disk)?);
    let results = Mutex::new((found, Ok(())));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                loop {
                    let Some(dir) = directories.lock().pop() else {
                        return;
                    };
                    let listed = scan_directory(disk, cluster, &dir);
                    let mut results = results.lock();
                    match listed {
                        Ok((shards, lost)) => {
                            for (id, entry) in shards {
                                results.0.index.insert(id, entry);
                            }
                            results.0.lost.extend(lost);
                        }
                        Err(error) => results.1 = Err(error),
                    }
                }
            });
        }
    });
    results.into_inner().1
}

type Listed = (Vec<(ShardId, Entry)>, Vec<ShardId>);

fn scan_directory(disk: &dyn Disk, cluster: ClusterId, dir: &str) -> io::Result<Listed> {
    let (mut shards, mut lost, mut is_changed) = (Vec::new(), Vec::new(), false);
    for item in disk.list(dir)? {
        let path = format!("{dir}/{}", item.name);
        if item.name.ends_with(TEMPORARY) {
            disk.remove(&path)?;
            is_changed = true;
            continue;
        }
        let Some(id) = files::parse_name(&item.name) else {
            log::warn!("{path} is not a shard; it is left alone");
            continue;
        };
        let examined = match examine(disk, cluster, &path, id) {
            Err(error) if is_bad_sector(&error) => Err(BadShard::Unreadable.to_string()),
            examined => examined?,
        };
        match examined {
            Ok(entry) => shards.push((id, entry)),
            Err(why) => {
                log::error!("{path} goes into {QUARANTINE}: {why}");
                disk.rename(&path, &format!("{QUARANTINE}/{}", item.name))?;
                lost.push(id);
                is_changed = true;
            }
        }
    }
    if is_changed {
        disk.sync_dir(QUARANTINE)?;
        disk.sync_dir(dir)?;
    }
    Ok((shards, lost))
}

/// Reads the head of a large shard; says why it is none.
fn examine(
    disk: &dyn Disk,
    cluster: ClusterId,
    path: &str,
    id: ShardId,
) -> io::Result<Result<Entry, String>> {
    let file = disk.open(path, Access::Cached)?;
    let length = file.length()?;
    let mut bytes = file.read(0, length.min(BLOCK.into()) as usize)?;
    if let Ok(header) = Header::parse(&bytes)
        && header.head_bytes() > BLOCK
    {
        bytes = file.read(0, length.min(header.head_bytes().into()) as usize)?;
    }
    let head = match Head::parse(&bytes) {
        Ok(head) => head,
        // Written by a later okapifs: it is not damaged, and nothing of ours to put aside.
        Err(error @ BadShard::Version(_)) => {
            return Err(io::Error::other(format!("{path}: {error}")));
        }
        Err(error) => return Ok(Err(error.to_string())),
    };
    let header = head.header;
    let need = u64::from(header.image_bytes());
    Ok(if header.ident.cluster != cluster {
        Err(format!("it belongs to cluster {}", header.ident.cluster))
    } else if id_of(&header) != id {
        Err("its name is another shard's".into())
    } else if length != need {
        Err(BadShard::CutOff { have: length, need }.to_string())
    } else {
        Ok(entry(&header, Place::File))
    })
}

fn scan_segment(
    disk: &dyn Disk,
    cluster: ClusterId,
    number: u32,
    found: &mut Found,
) -> io::Result<()> {
    let path = packs::path(number);
    let file = disk.open(&path, Access::Cached)?;
    let contents = segment::scan(&*file, false)?;
    for range in &contents.debris {
        log::warn!("{path}: bytes {} to {} are no shard", range.start, range.end);
    }
    // What cannot be understood may be damaged, or from a later okapifs: it is never removed.
    let (mut alive, mut torn, mut is_kept) = (0, Vec::new(), !contents.debris.is_empty());
    for image in &contents.images {
        let (id, record) = (id_of(&image.header), image.record(number));
        if image.header.ident.cluster != cluster {
            log::error!("{path}: a shard of another cluster is left alone");
            is_kept = true;
            continue;
        }
        match &image.state {
            ImageState::Dead => {}
            ImageState::Whole(_) => {
                alive += 1;
                let before = found.index.insert(id, entry(&image.header, Place::Pack(record)));
                replace(disk, number, &mut alive, &mut torn, before, found)?;
            }
            ImageState::BadHead(BadShard::CutOff { .. }) => {
                log::warn!("{path}: shard {} of stripe {} is cut off", id.index, id.stripe);
                found.lost.push(id);
                torn.push(record);
            }
            ImageState::BadHead(error) => {
                log::error!("{path}: shard {} of stripe {}: {error}", id.index, id.stripe);
                found.lost.push(id);
                is_kept = true;
            }
            ImageState::BadBlocks(..) => {
                log::warn!("{path}: shard {} of stripe {} is torn", id.index, id.stripe);
                found.lost.push(id);
                torn.push(record);
            }
        }
    }
    if !torn.is_empty() {
        segment::kill(&*file, &torn)?;
    }
    if alive == 0 && !is_kept {
        return disk.remove(&path);
    }
    if !contents.is_sealed
        && let Err(error) = seal(&*file, cluster, number)
    {
        // The disk may be full. Without a seal the next start reads all of it again, that is all.
        log::warn!("{path} stays without a seal: {error}");
    }
    found.segments.push((number, alive));
    Ok(())
}

fn seal(file: &dyn DiskFile, cluster: ClusterId, number: u32) -> io::Result<()> {
    let end = file.length()? / u64::from(BLOCK) * u64::from(BLOCK);
    file.write(end, &segment::seal(cluster, number))?;
    file.sync()
}

/// A shard that was found twice: it had been damaged and was put again. The older image dies.
fn replace(
    disk: &dyn Disk,
    number: u32,
    alive: &mut u32,
    torn: &mut Vec<Record>,
    before: Option<Entry>,
    found: &mut Found,
) -> io::Result<()> {
    let Some(Place::Pack(record)) = before.map(|entry| entry.place) else {
        return Ok(());
    };
    if record.segment == number {
        *alive -= 1;
        torn.push(record);
        return Ok(());
    }
    let older = found.segments.iter_mut().find(|(segment, _)| *segment == record.segment);
    if let Some((_, alive)) = older {
        *alive -= 1;
    }
    let file = disk.open(&packs::path(record.segment), Access::Cached)?;
    segment::kill(&*file, &[record])
}

fn id_of(header: &Header) -> ShardId {
    ShardId { stripe: header.ident.stripe, index: header.index }
}

fn entry(header: &Header, place: Place) -> Entry {
    Entry {
        hash: header.hash,
        place,
        image_bytes: header.image_bytes(),
        head_bytes: header.head_bytes(),
        condition: Condition::Whole,
    }
}
