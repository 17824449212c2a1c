//! Several clients that believe what they were told, against the one truth.
//!
//! The client's beliefs, the leader's table of leases and the namespace are the real ones. Between them is a network
//! of messages on their way, and a scheduler that draws from a seed which of them moves next: what crosses what on a
//! real network crosses here, too, and whatever is drawn twice comes out twice. After every step is looked whether
//! anybody believes anything that is not so. Where somebody does, operations are left out one by one as long as it
//! still happens, and what is left is told.

mod world;

use okapifs::env::random::Random;
use okapifs::env::sim::SeededRandom;
use okapifs::types::{FileKind, Ino, Timestamp};
use okapifs::wire::metadata::{AttrChanges, Create, Op, Query, Rename, RenameMode, XattrMode};

use world::{Job, Task, World};

const SEEDS: u64 = 400;
const JOBS: u64 = 80;
const NAMES: u64 = 3;
/// The root, two directories in it, and whatever is made.
const INODES: u64 = 8;

/// Draws numbers.
struct Draw(SeededRandom);

impl Draw {
    fn below(&self, limit: u64) -> u64 {
        self.0.u64() % limit
    }

    fn name(&self) -> Vec<u8> {
        vec![b'a' + u8::try_from(self.below(NAMES)).expect("few")]
    }

    fn dir(&self) -> Ino {
        [Ino::ROOT, world::DIRS[0], world::DIRS[1]][usize::try_from(self.below(3)).expect("few")]
    }

    fn ino(&self) -> Ino {
        Ino(world::FIRST.0 + self.below(INODES))
    }
}

fn tasks(seed: u64) -> Vec<Task> {
    let draw = Draw(SeededRandom::new(seed));
    let task = |number| {
        let client = usize::try_from(draw.below(3)).expect("few");
        Task { client, job: job(&draw, number) }
    };
    (0..JOBS).map(task).collect()
}

fn job(draw: &Draw, number: u64) -> Job {
    let (parent, name) = (draw.dir(), draw.name());
    let ino = draw.ino();
    match draw.below(41) {
        0..=9 => Job::Ask(Query::Lookup { parent, name }),
        10..=15 => Job::Ask(Query::Attr { ino }),
        16..=21 => Job::Ask(Query::ReadDir {
            dir: parent,
            after: 0,
            limit: 100,
            attrs: number.is_multiple_of(2),
        }),
        22 | 23 => Job::Ask(Query::GetXattr { ino, name: b"user.x".to_vec() }),
        24 | 25 => Job::Ask(Query::ListXattr { ino }),
        26..=28 => Job::Change(create(parent, name, number)),
        29 | 30 => Job::Change(Op::Unlink { parent, name }),
        31 => Job::Change(Op::Rmdir { parent, name }),
        32 => {
            let changes = AttrChanges {
                mode: Some(u16::try_from(number).expect("few")),
                ..Default::default()
            };
            Job::Change(Op::SetAttr { ino, changes })
        }
        33 => Job::Change(Op::Link { ino, parent, name }),
        34 | 35 => {
            let modes = [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
            let mode = modes[usize::try_from(draw.below(3)).expect("few")];
            let (new_parent, new_name) = (draw.dir(), draw.name());
            Job::Change(Op::Rename(Rename { parent, name, new_parent, new_name, mode }))
        }
        36 => {
            let (name, value) = (b"user.x".to_vec(), number.to_le_bytes().to_vec());
            Job::Change(Op::SetXattr {
                ino,
                name,
                value,
                mode: XattrMode::Set,
                takes_setgid: false,
            })
        }
        37 => Job::Change(Op::Accessed { ino, time: Timestamp::default() }),
        _ if draw.below(6) == 0 => Job::Failover,
        _ => Job::Write(ino),
    }
}

fn create(parent: Ino, name: Vec<u8>, number: u64) -> Op {
    Op::Create(Create {
        parent,
        name,
        ino: Ino(0),
        kind: if number.is_multiple_of(4) { FileKind::Directory } else { FileKind::Regular },
        mode: 0o755,
        uid: 0,
        gid: 0,
        umask: 0,
        rdev: 0,
        target: Vec::new(),
        open: false,
    })
}

/// Runs tasks in an order drawn from `seed`; what was believed wrongly, if anything.
fn run(seed: u64, tasks: &[Task]) -> Result<u64, String> {
    let draw = Draw(SeededRandom::new(!seed));
    let mut world = World::new(tasks);
    while let Some(choices) = world.choices() {
        world.step(usize::try_from(draw.below(choices as u64)).expect("few"));
        world.check()?;
    }
    world.end()
}

/// Leaves out whatever is not needed for it to go wrong.
fn shrink(seed: u64, mut tasks: Vec<Task>) -> (Vec<Task>, String) {
    let mut at = 0;
    while at < tasks.len() {
        let mut fewer = tasks.clone();
        fewer.remove(at);
        if run(seed, &fewer).is_err() {
            tasks = fewer;
        } else {
            at += 1;
        }
    }
    let wrong = run(seed, &tasks).expect_err("it goes wrong without any of those left out");
    (tasks, wrong)
}

#[test]
fn nobody_believes_what_is_not_so() {
    let mut answered_at_home = 0;
    for seed in 0..SEEDS {
        let tasks = tasks(seed);
        match run(seed, &tasks) {
            Ok(count) => answered_at_home += count,
            Err(_) => {
                let (tasks, wrong) = shrink(seed, tasks);
                let list: Vec<String> = tasks.iter().map(|task| format!("  {task:?}")).collect();
                panic!("seed {seed}: {wrong}, after\n{}", list.join("\n"));
            }
        }
    }
    assert!(answered_at_home > SEEDS, "only {answered_at_home} questions were answered at home");
}
