//! The namespace that is worked on, and the work.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use okapifs::types::limits::SESSION_SLOTS;
use okapifs::types::{Errno, FileKind, Ino, SessionId, Slot, SlotSeq, Timestamp};
use okapifs::wire::metadata::{Answer, AttrChanges, Create, Mutation, Op, Query, Reply};

use super::client::Client;

/// Files in a directory.
const IN_DIRECTORY: usize = 1000;
/// Entries asked for at a time.
const LISTED: u32 = 1024;

/// What is done to each of the files that a round has chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    SetAttr,
    Unlink,
    Create,
}

impl Step {
    /// In this order a round leaves as many files as there were.
    pub(crate) const ALL: [Self; 3] = [Self::SetAttr, Self::Unlink, Self::Create];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SetAttr => "setattr",
            Self::Unlink => "unlink",
            Self::Create => "create",
        }
    }
}

/// A namespace full of files, and the lanes over which changes are sent: a lane has one request under way at a
/// time, and slots of its own.
pub(crate) struct Load {
    client: Client,
    lanes: Vec<Lane>,
    batch: usize,
    directories: Arc<Vec<Ino>>,
    /// By number; files that are not there at the moment have 0.
    files: Vec<Ino>,
    random: u64,
}

impl Load {
    /// Makes directories and files until there are so many.
    pub(crate) async fn prepare(
        client: Client,
        files: usize,
        batch: usize,
        requests: usize,
    ) -> anyhow::Result<Self> {
        if batch < 2 || requests == 0 || batch * requests > usize::from(SESSION_SLOTS) {
            bail!("{requests} requests of {batch} changes do not fit {SESSION_SLOTS} slots");
        }
        let lanes = (0..requests).map(|lane| Lane::new(lane * batch)).collect();
        let mut load = Self {
            client,
            lanes,
            batch,
            directories: Arc::new(Vec::new()),
            files: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
        };
        load.make_directories(files.div_ceil(IN_DIRECTORY)).await?;
        load.files = vec![Ino(0); files];
        load.find_files().await?;
        let missing: Vec<usize> = (0..files).filter(|file| load.files[*file] == Ino(0)).collect();
        load.run(Step::Create, &missing).await?;
        Ok(load)
    }

    pub(crate) fn session(&self) -> SessionId {
        self.client.session
    }

    /// Ends the session.
    pub(crate) async fn close(self) -> anyhow::Result<()> {
        self.client.close().await
    }

    async fn make_directories(&mut self, count: usize) -> anyhow::Result<()> {
        let mut directories = Vec::with_capacity(count);
        for number in 0..count {
            let name = format!("directory-{number}").into_bytes();
            let lookup = Query::Lookup { parent: Ino::ROOT, name: name.clone() };
            let found = match self.client.query(lookup).await? {
                Ok(Answer::Attr(attr)) => attr.ino,
                Err(Errno::NotFound) => {
                    self.lanes[0].lease(&self.client, 1).await?;
                    let ino = self.lanes[0].numbers.pop().context("leased just now")?;
                    let op = create(Ino::ROOT, name, ino, FileKind::Directory);
                    only(self.lanes[0].send(&self.client, vec![op]).await?)?;
                    ino
                }
                other => bail!("a directory was looked up and answered with {other:?}"),
            };
            directories.push(found);
        }
        self.directories = Arc::new(directories);
        Ok(())
    }

    /// Files that an earlier run has left.
    async fn find_files(&mut self) -> anyhow::Result<()> {
        for dir in self.directories.iter() {
            let mut after = 0;
            loop {
                let query = Query::ReadDir { dir: *dir, after, limit: LISTED, attrs: false };
                let Ok(Answer::Entries { entries, end, .. }) = self.client.query(query).await?
                else {
                    bail!("directory {dir} cannot be read");
                };
                for entry in &entries {
                    let number = number(&entry.name).context("a file of somebody else")?;
                    if let Some(file) = self.files.get_mut(number) {
                        *file = entry.ino;
                    }
                    after = entry.next;
                }
                if end {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Files at random, each once, so many in a row.
    pub(crate) fn choose(&mut self, count: usize, in_a_row: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.files.len() / in_a_row).collect();
        let count = (count / in_a_row).min(all.len());
        for at in 0..count {
            // xorshift64 (Marsaglia 2003), and the beginning of a Fisher-Yates shuffle.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 7;
            self.random ^= self.random << 17;
            let left = (all.len() - at) as u64;
            all.swap(at, at + usize::try_from(self.random % left).expect("an index"));
        }
        all.truncate(count);
        all.iter().flat_map(|row| row * in_a_row..(row + 1) * in_a_row).collect()
    }

    /// Does one thing to these files. Gives how long each request took.
    pub(crate) async fn run(
        &mut self,
        step: Step,
        chosen: &[usize],
    ) -> anyhow::Result<Vec<Duration>> {
        let work: Vec<(usize, Ino)> =
            chosen.iter().map(|file| (*file, self.files[*file])).collect();
        let work = Arc::new(Work { step, files: work, next: AtomicUsize::new(0) });
        let mut running = Vec::new();
        for lane in self.lanes.drain(..) {
            let (client, work) = (self.client.clone(), Arc::clone(&work));
            let (directories, batch) = (Arc::clone(&self.directories), self.batch);
            running.push(tokio::spawn(lane.work(client, work, directories, batch)));
        }
        let mut latencies = Vec::new();
        for lane in running {
            let done = lane.await??;
            for (file, ino) in done.changed {
                self.files[file] = ino;
            }
            latencies.extend(done.latencies);
            self.lanes.push(done.lane);
        }
        Ok(latencies)
    }

    /// One change, over another connection.
    pub(crate) async fn one_change(mut self, client: &Client) -> anyhow::Result<()> {
        let file = self.files.iter().find(|ino| **ino != Ino(0)).context("there are files")?;
        let op = Op::SetAttr { ino: *file, changes: changes(0) };
        only(self.lanes[0].send(client, vec![op]).await?).map(drop)
    }
}

/// What all lanes do together.
struct Work {
    step: Step,
    files: Vec<(usize, Ino)>,
    next: AtomicUsize,
}

/// Slots that one request at a time uses, and unused inode numbers.
struct Lane {
    first_slot: usize,
    /// By slot.
    done: Vec<u64>,
    numbers: Vec<Ino>,
}

/// What a lane has done.
struct Done {
    lane: Lane,
    latencies: Vec<Duration>,
    /// Files that have come, and gone (with 0).
    changed: Vec<(usize, Ino)>,
}

impl Lane {
    fn new(first_slot: usize) -> Self {
        Self { first_slot, done: Vec::new(), numbers: Vec::new() }
    }

    async fn work(
        mut self,
        client: Client,
        work: Arc<Work>,
        directories: Arc<Vec<Ino>>,
        batch: usize,
    ) -> anyhow::Result<Done> {
        let (mut latencies, mut changed) = (Vec::new(), Vec::new());
        // One slot is for leasing numbers.
        let portion = batch - 1;
        loop {
            let from = work.next.fetch_add(portion, Ordering::Relaxed);
            let Some(files) = work.files.get(from..).filter(|files| !files.is_empty()) else {
                break;
            };
            let files = &files[..portion.min(files.len())];
            if work.step == Step::Create {
                self.lease(&client, files.len()).await?;
            }
            let mut ops = Vec::with_capacity(batch);
            for &(file, ino) in files {
                let parent = directories[file / IN_DIRECTORY];
                let ino = if work.step == Step::Create {
                    self.numbers.pop().context("leased above")?
                } else {
                    ino
                };
                ops.push(operation(work.step, parent, file, ino));
                changed.push((file, if work.step == Step::Unlink { Ino(0) } else { ino }));
            }
            // The next numbers come along.
            let leases = work.step == Step::Create && self.numbers.len() < portion;
            if leases {
                ops.push(Op::LeaseInodes);
            }
            let since = Instant::now();
            let mut answers = self.send(&client, ops).await?;
            latencies.push(since.elapsed());
            if leases && let Some(answer) = answers.pop() {
                self.take_numbers(answer)?;
            }
            if let Some(error) = answers.into_iter().find_map(Result::err) {
                return Err(anyhow!("{} was refused: {error}", work.step.name()));
            }
        }
        Ok(Done { lane: self, latencies, changed })
    }

    /// Leases inode numbers until there are so many.
    async fn lease(&mut self, client: &Client, count: usize) -> anyhow::Result<()> {
        while self.numbers.len() < count {
            let answer = self.send(client, vec![Op::LeaseInodes]).await?.pop();
            self.take_numbers(answer.context("one answer")?)?;
        }
        Ok(())
    }

    fn take_numbers(&mut self, answer: Result<Reply, Errno>) -> anyhow::Result<()> {
        match answer {
            Ok(Reply::Range { first, count }) => {
                self.numbers.extend((first..first + count).map(Ino));
                Ok(())
            }
            other => bail!("inode numbers were asked for and answered with {other:?}"),
        }
    }

    async fn send(
        &mut self,
        client: &Client,
        ops: Vec<Op>,
    ) -> anyhow::Result<Vec<Result<Reply, Errno>>> {
        self.done.resize(self.done.len().max(ops.len()), 0);
        let mut mutations = Vec::with_capacity(ops.len());
        for (at, op) in ops.into_iter().enumerate() {
            self.done[at] += 1;
            let slot = Slot(u16::try_from(self.first_slot + at).expect("below 256"));
            mutations.push(Mutation { slot, seq: SlotSeq(self.done[at]), op });
        }
        client.mutate(mutations).await
    }
}

fn operation(step: Step, parent: Ino, file: usize, ino: Ino) -> Op {
    match step {
        Step::SetAttr => Op::SetAttr { ino, changes: changes(file) },
        Step::Unlink => Op::Unlink { parent, name: name(file) },
        Step::Create => create(parent, name(file), ino, FileKind::Regular),
    }
}

fn create(parent: Ino, name: Vec<u8>, ino: Ino, kind: FileKind) -> Op {
    Op::Create(Create {
        parent,
        name,
        ino,
        kind,
        mode: 0o644,
        uid: 1000,
        gid: 1000,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
        open: false,
    })
}

fn changes(file: usize) -> AttrChanges {
    let mtime = Timestamp { seconds: i64::try_from(file).expect("small"), nanos: 0 };
    AttrChanges { mtime: Some(mtime), ..AttrChanges::default() }
}

fn name(file: usize) -> Vec<u8> {
    format!("file-{file:08}").into_bytes()
}

fn number(name: &[u8]) -> Option<usize> {
    std::str::from_utf8(name.strip_prefix(b"file-")?).ok()?.parse().ok()
}

fn only(mut answers: Vec<Result<Reply, Errno>>) -> anyhow::Result<Reply> {
    let answer = answers.pop().context("no answer")?;
    answer.map_err(|error| anyhow!("refused: {error}"))
}
