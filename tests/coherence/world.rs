//! Clients, a leader, and the messages between them.

use std::collections::VecDeque;
use std::time::Duration;

use okapifs::client::{Beliefs, Ticket};
use okapifs::monitor::leases::Leases;
use okapifs::monitor::namespace::command::{Action, Command, Outcome, Removal};
use okapifs::monitor::namespace::{apply, caps, query};
use okapifs::monitor::store::Store;
use okapifs::monitor::store::memory::MemoryStore;
use okapifs::types::{
    Attr, ClusterId, Errno, FileKind, Incarnation, Ino, LeaseStamp, Program, SessionId, Slot,
    SlotSeq, Timestamp, Width,
};
use okapifs::wire::leases::Leased;
use okapifs::wire::leases::told_of;
use okapifs::wire::metadata::{Answer, ClientInfo, Create, Mutation, Op, Query, Reply};

/// Where the numbers of inodes begin that clients give to what they make.
pub(crate) const FIRST: Ino = Ino(1 << 44);
/// Two directories that are there from the start.
pub(crate) const DIRS: [Ino; 2] = [FIRST, Ino(FIRST.0 + 1)];
const NOW: Duration = Duration::from_secs(1);
const CLIENTS: usize = 3;
/// Calls that a client has under way at a time.
const AT_ONCE: usize = 3;

/// What a client does.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// Asks.
    Ask(Query),
    /// Changes.
    Change(Op),
    /// Takes a file exclusively, and gives it back: in between its attributes are what only the holder knows.
    Write(Ino),
    /// Another leader, who knows nothing of leases.
    Failover,
}

/// Who does what.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// Which client.
    pub(crate) client: usize,
    /// What.
    pub(crate) job: Job,
}

struct Client {
    session: SessionId,
    beliefs: Beliefs,
    is_attached: bool,
    jobs: VecDeque<Job>,
    calls: Vec<Call>,
    seq: u64,
    at_home: u64,
}

/// A call, and how far it is.
enum Call {
    Asked {
        ticket: Ticket,
        query: Query,
    },
    Read {
        ticket: Ticket,
        query: Query,
        answer: Result<Answer, Errno>,
        held: Vec<Ino>,
        since: LeaseStamp,
    },
    Answered {
        ticket: Ticket,
        query: Query,
        answer: Result<Answer, Errno>,
        leased: Leased,
    },
    Sent {
        ticket: Ticket,
        op: Op,
    },
    Fenced {
        ticket: Ticket,
        op: Op,
        changed: Vec<Ino>,
        moves: Vec<Ino>,
        told: bool,
    },
    Applied {
        ticket: Ticket,
        op: Op,
        changed: Vec<Ino>,
        reply: Result<Reply, Errno>,
    },
    Replied {
        ticket: Ticket,
        op: Op,
        reply: Result<Reply, Errno>,
    },
    /// Its author died with the leader: sent again it would get the same reply.
    Over,
}

/// A message that may overtake others.
enum Message {
    Recall { client: usize, stamp: LeaseStamp, ino: Ino },
    GiveBack { client: usize, ino: Ino, heard: LeaseStamp },
}

/// See the module.
pub(crate) struct World {
    store: MemoryStore,
    leases: Leases,
    term: u64,
    clients: Vec<Client>,
    messages: Vec<Message>,
    commands: i64,
    next_ino: u64,
}

impl Client {
    fn send(&mut self, op: Op) {
        let ticket = self.beliefs.begin();
        self.calls.push(Call::Sent { ticket, op });
    }
}

/// Something that may happen next.
enum Choice {
    Begin(usize),
    Attach(usize),
    Move(usize, usize),
    Deliver(usize),
}

impl World {
    /// Before anything has happened.
    pub(crate) fn new(tasks: &[Task]) -> Self {
        let mut world = Self {
            store: MemoryStore::new(),
            leases: Leases::new(1),
            term: 1,
            clients: Vec::new(),
            messages: Vec::new(),
            commands: 0,
            next_ino: FIRST.0,
        };
        let (cluster, incarnation) = (ClusterId(1), Incarnation(1));
        let width = Width { data: 1, parity: 1 };
        world.act(Action::Bootstrap { cluster, incarnation, width, min_copies: 2 });
        for number in 0..CLIENTS {
            world.open_session(tasks, number);
        }
        for (name, ino) in [b"a", b"b"].into_iter().zip(DIRS) {
            let made = Create {
                parent: Ino::ROOT,
                name: name.to_vec(),
                ino,
                kind: FileKind::Directory,
                mode: 0o755,
                uid: 0,
                gid: 0,
                umask: 0,
                rdev: 0,
                target: Vec::new(),
                open: false,
            };
            world.next_ino += 1;
            world.mutate(0, &Op::Create(made), Vec::new()).expect("applied").expect("made");
        }
        world
    }

    fn open_session(&mut self, tasks: &[Task], number: usize) {
        let info = ClientInfo {
            node: String::new(),
            boot: String::new(),
            run_lock: String::new(),
            host: String::new(),
            mountpoint: String::new(),
            pid: 1,
            program: Program::this(),
        };
        let Outcome::Session(session) = self.act(Action::OpenSession {
            owner: format!("client-{number}"),
            client: info,
            nonce: number as u128,
        }) else {
            panic!("no session");
        };
        let jobs = tasks.iter().filter(|task| task.client == number);
        self.clients.push(Client {
            session,
            beliefs: Beliefs::default(),
            is_attached: true,
            jobs: jobs.map(|task| task.job.clone()).collect(),
            calls: Vec::new(),
            seq: 0,
            at_home: 0,
        });
        if number == 0 {
            self.mutate(0, &Op::LeaseInodes, Vec::new()).expect("applied").expect("leased");
        }
    }

    fn act(&mut self, action: Action) -> Outcome {
        self.commands += 1;
        let time = Timestamp { seconds: self.commands, nanos: 0 };
        let command = Command { term: 1, time, actions: vec![action] };
        let mut applied = apply(&self.store, &command).expect("a store in memory");
        self.store.write(&applied.batch).expect("a store in memory");
        applied.outcomes.remove(0)
    }

    /// `None`: something is in the way.
    fn mutate(&mut self, client: usize, op: &Op, moves: Vec<Ino>) -> Option<Result<Reply, Errno>> {
        let removed = caps::removed_by_op(&self.store, op).expect("read");
        let removes = removed.map(|ino| Removal { ino, pinned_by: Vec::new() });
        let Client { session, seq, .. } = self.clients[client];
        let mutation = Mutation { slot: Slot(0), seq: SlotSeq(seq + 1), op: op.clone() };
        match self.act(Action::Mutate { session, mutation, removes, moves }) {
            Outcome::Mutated(reply) => {
                self.clients[client].seq += 1;
                Some(reply)
            }
            Outcome::Held(_) => None,
            other => panic!("{other:?}"),
        }
    }

    fn enabled(&self) -> Vec<Choice> {
        let mut enabled = Vec::new();
        for (number, client) in self.clients.iter().enumerate() {
            if !client.is_attached {
                enabled.push(Choice::Attach(number));
                continue;
            }
            if !client.jobs.is_empty() && client.calls.len() < AT_ONCE {
                enabled.push(Choice::Begin(number));
            }
            let can_move = |(at, call)| self.can_move(client, call).then_some(at);
            let calls = client.calls.iter().enumerate().filter_map(can_move);
            enabled.extend(calls.map(|at| Choice::Move(number, at)));
        }
        enabled.extend((0..self.messages.len()).map(Choice::Deliver));
        enabled
    }

    fn can_move(&self, client: &Client, call: &Call) -> bool {
        let free = |inos: Vec<Ino>| {
            caps::held_by_others(&self.store, client.session, &inos).expect("read").is_empty()
        };
        match call {
            Call::Asked { query, .. } => {
                free(caps::touched_by_query(&self.store, query).expect("read"))
            }
            Call::Sent { .. } => self.clients.iter().all(|client| client.is_attached),
            Call::Fenced { told: false, .. } => true,
            Call::Fenced { op, changed, .. } => {
                free(caps::touched_by_op(&self.store, op).expect("read"))
                    && self.leases.held_by_others(client.session, changed).is_empty()
            }
            _ => true,
        }
    }

    /// How many things may happen next; `None` when all is done.
    pub(crate) fn choices(&self) -> Option<usize> {
        let count = self.enabled().len();
        (count > 0).then_some(count)
    }

    /// One of them happens.
    pub(crate) fn step(&mut self, choice: usize) {
        match self.enabled().swap_remove(choice) {
            Choice::Begin(client) => self.begin(client),
            Choice::Attach(number) => {
                self.leases.forget(self.clients[number].session);
                self.clients[number].beliefs.forget_all();
                self.clients[number].is_attached = true;
            }
            Choice::Move(client, call) => {
                let moved = self.clients[client].calls.swap_remove(call);
                if let Some(call) = self.advance(client, moved) {
                    self.clients[client].calls.push(call);
                }
            }
            Choice::Deliver(message) => self.deliver(message),
        }
    }

    fn begin(&mut self, number: usize) {
        let client = &mut self.clients[number];
        match client.jobs.pop_front().expect("there is one") {
            Job::Ask(query) if client.beliefs.answer(&query).is_some() => client.at_home += 1,
            Job::Ask(query) => {
                let ticket = client.beliefs.begin();
                client.calls.push(Call::Asked { ticket, query });
            }
            Job::Change(mut op) => {
                if let Op::Create(create) = &mut op {
                    create.ino = Ino(self.next_ino);
                    self.next_ino += 1;
                }
                client.send(op);
            }
            Job::Write(ino) => client.send(Op::Acquire { ino }),
            Job::Failover => self.fail_over(),
        }
    }

    fn fail_over(&mut self) {
        self.term += 1;
        self.leases = Leases::new(self.term);
        for client in &mut self.clients {
            client.is_attached = false;
            for call in &mut client.calls {
                *call = match std::mem::replace(call, Call::Over) {
                    Call::Read { ticket, query, .. } => Call::Asked { ticket, query },
                    Call::Fenced { ticket, op, .. } => Call::Sent { ticket, op },
                    Call::Applied { ticket, op, reply, .. } => Call::Replied { ticket, op, reply },
                    other => other,
                };
            }
        }
    }

    /// A call goes on by one step; `None` when it is over.
    fn advance(&mut self, number: usize, call: Call) -> Option<Call> {
        let session = self.clients[number].session;
        Some(match call {
            Call::Asked { ticket, query } => {
                let since = self.leases.now();
                let answer = query::answer(&self.store, &query).expect("read");
                let told = told_of(&query, &answer);
                let held = caps::held_by_others(&self.store, session, &told).expect("read");
                let held = held.into_iter().map(|(ino, _)| ino).collect();
                Call::Read { ticket, query, answer, held, since }
            }
            Call::Read { ticket, query, answer, held, since } => {
                let mut except = told_of(&query, &answer);
                except.retain(|ino| held.contains(ino) || !self.leases.grant(session, *ino, since));
                let leased = Leased { stamp: self.leases.now(), except };
                Call::Answered { ticket, query, answer, leased }
            }
            Call::Answered { ticket, query, answer, leased } => {
                let beliefs = &mut self.clients[number].beliefs;
                for (ino, heard) in beliefs.learn(&ticket, &[query], &[answer], &leased) {
                    self.messages.push(Message::GiveBack { client: number, ino, heard });
                }
                return None;
            }
            Call::Sent { ticket, op } => {
                let changed = caps::changed_by_op(&self.store, &op).expect("read");
                let moves = caps::moved_by_op(&self.store, &op).expect("read");
                self.leases.fence(&changed);
                Call::Fenced { ticket, op, changed, moves, told: false }
            }
            Call::Fenced { ticket, op, changed, moves, told: false } => {
                let stamp = self.leases.now();
                for (ino, holder) in self.leases.held_by_others(session, &changed) {
                    let client = self.clients.iter().position(|one| one.session == holder);
                    let client = client.expect("sessions are clients");
                    self.messages.push(Message::Recall { client, stamp, ino });
                }
                Call::Fenced { ticket, op, changed, moves, told: true }
            }
            Call::Fenced { ticket, op, changed, moves, .. } => {
                let as_found = caps::changed_by_op(&self.store, &op).expect("read") == changed;
                match as_found.then(|| self.mutate(number, &op, moves)).flatten() {
                    Some(reply) => Call::Applied { ticket, op, changed, reply },
                    None => {
                        self.leases.unfence(&changed);
                        Call::Sent { ticket, op }
                    }
                }
            }
            Call::Applied { ticket, op, changed, reply } => {
                self.leases.unfence(&changed);
                Call::Replied { ticket, op, reply }
            }
            Call::Replied { ticket, op, reply } => {
                let client = &mut self.clients[number];
                client.beliefs.changed(&ticket, &op, &reply, NOW);
                client.beliefs.done(&ticket);
                if let (Op::Acquire { ino }, Ok(_)) = (op, reply) {
                    client.send(Op::Release { ino });
                }
                return None;
            }
            Call::Over => return None,
        })
    }

    fn deliver(&mut self, message: usize) {
        match self.messages.swap_remove(message) {
            Message::Recall { client, stamp, ino } => {
                self.clients[client].beliefs.recalled(&[ino], NOW);
                self.messages.push(Message::GiveBack { client, ino, heard: stamp });
            }
            Message::GiveBack { client, ino, heard } => {
                self.leases.given_back(self.clients[client].session, ino, heard);
            }
        }
    }

    /// Nobody believes anything that the monitors would not answer right now. (Of a change of its own a client may
    /// not have heard yet. And a client that is not attached asks a new leader before its answer counts: it has
    /// not changed anything so far.)
    pub(crate) fn check(&mut self) -> Result<(), String> {
        for number in 0..self.clients.len() {
            let client = &mut self.clients[number];
            let on_its_way =
                |call: &Call| matches!(call, Call::Applied { .. } | Call::Replied { .. });
            if client.calls.iter().any(on_its_way) {
                continue;
            }
            for query in questions(self.next_ino) {
                let Some(believed) = client.beliefs.answer(&query) else { continue };
                let truth = query::answer(&self.store, &query).expect("read");
                if !agree(&believed, &truth) {
                    return Err(format!(
                        "client {number} believes {query:?}: {believed:?}, and it is {truth:?}"
                    ));
                }
                let told = told_of(&query, &believed);
                let held = caps::held_by_others(&self.store, client.session, &told).expect("read");
                if !held.is_empty() {
                    return Err(format!("client {number} believes {query:?}, but {held:?}"));
                }
            }
        }
        Ok(())
    }

    /// Nothing is under way any more: how many questions nobody had to be asked.
    pub(crate) fn end(&self) -> Result<u64, String> {
        let is_stuck = |client: &Client| !client.calls.is_empty() || !client.jobs.is_empty();
        match self.clients.iter().position(is_stuck) {
            Some(number) => Err(format!("client {number} waits for ever")),
            None => Ok(self.clients.iter().map(|client| client.at_home).sum()),
        }
    }
}

/// Attributes that are not known are left out of a listing: they are asked for by themselves.
fn agree(believed: &Result<Answer, Errno>, truth: &Result<Answer, Errno>) -> bool {
    match (believed, truth) {
        (Ok(Answer::Attr(believed)), Ok(Answer::Attr(attr))) => is_true(believed, attr),
        (Ok(Answer::Entries { entries: believed, .. }), Ok(Answer::Entries { entries, .. })) => {
            let mut pairs = believed.iter().zip(entries);
            believed.len() == entries.len()
                && pairs.all(|(one, other)| {
                    let attrs = one.attr.as_ref().zip(other.attr.as_ref());
                    (&one.name, one.ino, one.kind) == (&other.name, other.ino, other.kind)
                        && (one.attr.is_none() || other.attr.is_some())
                        && attrs.is_none_or(|(believed, attr)| is_true(believed, attr))
                })
        }
        _ => believed == truth,
    }
}

/// But for the time at which somebody else may have read it.
fn is_true(believed: &Attr, truth: &Attr) -> bool {
    let read = Attr { atime: truth.atime, birth: truth.birth, ..believed.clone() };
    believed.atime <= truth.atime && read == *truth
}

/// Everything that might be asked.
fn questions(next_ino: u64) -> Vec<Query> {
    let inos: Vec<Ino> = [Ino::ROOT].into_iter().chain((FIRST.0..next_ino).map(Ino)).collect();
    let of_ino = |ino: Ino| {
        let names = (b'a'..=b'd').map(move |name| Query::Lookup { parent: ino, name: vec![name] });
        names.chain([
            Query::Attr { ino },
            Query::ReadDir { dir: ino, after: 0, limit: 100, attrs: true },
            Query::GetXattr { ino, name: b"user.x".to_vec() },
            Query::ListXattr { ino },
        ])
    };
    inos.into_iter().flat_map(of_ino).collect()
}
