//! Starting a client, and ending it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;

use super::avoid::Avoided;
use super::blocks::Blocks;
use super::config::{Config, ConnectError};
use super::counts::{Counted, Counts};
use super::file::Grant;
use super::files::Files;
use super::flusher::Flusher;
use super::fs::{Fs, Parts};
use super::grants::Grants;
use super::link::{Monitors, Shards};
use super::locks::Locks;
use super::monitors::MonitorLink;
use super::owner;
use super::parking::Parking;
use super::placer::Placer;
use super::servers::ServerLinks;
use super::session::{Lost, Session};
use super::view::Reader;
use crate::env::clock::{Clock, SystemClock};
use crate::env::system::lock::RunLock;
use crate::env::system::node;
use crate::env::system::renewal::Renewal;
use crate::types::{Errno, FileKind, Ino, Program};
use crate::wire::metadata::{Answer, ClientInfo, Notice, Query, Request, Response};

/// How long monitors that do not answer are tried at the start.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long giving back what is held may take at the end, when nothing unsaved is left.
const FAREWELL: Duration = Duration::from_secs(5);

impl Fs {
    /// Connects to a cluster: closes sessions of this machine's dead processes, and opens one.
    ///
    /// # Errors
    ///
    /// [`ConnectError`], a sentence that says what to do.
    pub async fn connect(config: Config) -> Result<Arc<Self>, ConnectError> {
        let node = node().map_err(ConnectError::NoNode)?;
        let path = config.run_dir.join(format!("mount-{}.lock", std::process::id()));
        let run_lock = RunLock::create(&path)?;
        let credentials = config.credentials.clone();
        let tls = config.config_dir.join("tls");
        let renewal = Renewal::new(credentials.clone(), tls, config.monitors.clone());
        renewal.within(PATIENCE).await?;
        tokio::spawn(renewal.keep());
        let (link, notices) =
            MonitorLink::connect(&config.monitors, credentials.clone(), PATIENCE).await?;
        let counts = Arc::default();
        let monitors: Arc<dyn Monitors> =
            Counted::<dyn Monitors>::new(Arc::clone(&link) as Arc<dyn Monitors>, &counts);
        let client = ClientInfo {
            node: node.id,
            boot: node.boot,
            run_lock: path.to_string_lossy().into_owned(),
            host: node.host,
            mountpoint: config.mountpoint.clone(),
            pid: std::process::id(),
            program: Program::this(),
        };
        close_dead_sessions(&*monitors, &client).await;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let (session, lost) = Session::open(Arc::clone(&monitors), clock, client).await?;
        let servers = ServerLinks::new(credentials, monitors, session.tickets());
        let shards = Counted::<dyn Shards>::new(Arc::new(servers), &counts);
        let fs = Self::assemble(config, session, (shards, counts), notices, lost);
        let (session, files) = (Arc::clone(&fs.session), Arc::clone(&fs.files));
        let locks = Arc::clone(&fs.locks);
        link.attach_with(Box::new(move || {
            locks.attached();
            let (session, files) = (Arc::clone(&session), Arc::clone(&files));
            async move {
                session.leases().give_up_all(&files, session.monotonic()).await;
                files.attach(&session)
            }
            .boxed()
        }));
        fs.find_root(run_lock).await
    }

    /// Flushes everything, gives everything back and ends the session.
    pub async fn shutdown(&self) {
        if let Err(errno) = self.sync_all().await {
            log::error!("not everything that was written could be saved: {errno}");
        }
        // Nothing is lost any more if nobody hears the rest of it: the monitors find out by themselves.
        if tokio::time::timeout(FAREWELL, self.give_back()).await.is_err() {
            log::warn!("the monitors do not answer, and will miss this mount for a while");
        }
    }

    async fn give_back(&self) {
        let held = self.files.all();
        for file in &held {
            let mut state = file.state.lock();
            // The kernel keeps nothing of a mount that ends.
            (state.recalled, state.leased) = (true, true);
        }
        self.grants.release(held).await;
        self.session.close().await;
    }

    /// Puts the parts together and starts what runs in the background.
    pub(super) fn assemble(
        config: Config,
        session: Arc<Session>,
        (shards, counts): (Arc<dyn Shards>, Arc<Counts>),
        notices: mpsc::UnboundedReceiver<Notice>,
        lost: mpsc::UnboundedReceiver<Lost>,
    ) -> Arc<Self> {
        shards.update(&session.placement());
        let avoided = Avoided::new(Arc::clone(&shards));
        let placer = Placer::new(Arc::clone(&session), Arc::clone(&shards), Arc::clone(&avoided));
        let (flusher, clean) = Flusher::new(Arc::clone(&session), placer);
        let parking = Parking::new(&config);
        let grants = Grants::new(Arc::clone(&session), Arc::clone(&flusher), parking);
        let blocks = Blocks::new(Arc::clone(&session), Arc::clone(&shards), avoided);
        let reader = Reader::new(Arc::clone(&session), blocks);
        let (files, unpinned) = Files::new();
        tokio::spawn(Arc::clone(&session).keep_alive());
        tokio::spawn(follow_placement(Arc::clone(&session), shards));
        tokio::spawn(owner::run(Arc::clone(&flusher)));
        tokio::spawn(Arc::clone(&flusher).give_back_rooms());
        tokio::spawn(Arc::clone(&grants).release_clean(clean));
        tokio::spawn(Arc::clone(&files).sweep(Arc::clone(&session)));
        tokio::spawn(Files::unpin(Arc::clone(&session), unpinned));
        let leases = session.leases();
        tokio::spawn(Arc::clone(leases).tell(Arc::clone(&session)));
        tokio::spawn(Arc::clone(leases).keep_small(Arc::clone(&session), Arc::clone(&files)));
        let locks = Locks::new(Arc::clone(&session), Arc::clone(&files));
        tokio::spawn(Arc::clone(&locks).keep_waits());
        let held = (Arc::clone(&files), Arc::clone(&grants), Arc::clone(&locks));
        tokio::spawn(obey(notices, Arc::clone(&session), held));
        let parts = Held {
            files: Arc::clone(&files),
            flusher: Arc::clone(&flusher),
            grants: Arc::clone(&grants),
            locks: Arc::clone(&locks),
        };
        let lost_sessions = mourn(lost, Arc::clone(&session), parts);
        tokio::spawn(lost_sessions);
        Self::from_parts(Parts { config, session, flusher, grants, reader, files, counts, locks })
    }

    async fn find_root(self: Arc<Self>, run_lock: RunLock) -> Result<Arc<Self>, ConnectError> {
        let mut root = Ino::ROOT;
        let names = self.config.subdir.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        for name in names {
            let query = Query::Lookup { parent: root, name: name.to_vec() };
            let found = match self.session.query(query).await {
                Ok(Answer::Attr(attr)) if attr.kind == FileKind::Directory => Ok(attr.ino),
                Ok(_) => Err(Errno::NotDirectory),
                Err(errno) => Err(errno),
            };
            root = match found {
                Ok(ino) => ino,
                Err(errno) => {
                    self.session.close().await;
                    let path = String::from_utf8_lossy(&self.config.subdir).into_owned();
                    return Err(ConnectError::NoSubdir { path, errno });
                }
            };
        }
        self.started(root, run_lock);
        Ok(self)
    }
}

/// Sessions of processes of this node that are dead are closed at once, so that nobody waits for their leases.
async fn close_dead_sessions(monitors: &dyn Monitors, ours: &ClientInfo) {
    let request = Request::SessionsOfNode { node: ours.node.clone() };
    let sessions = match monitors.call(&request).await {
        Response::Sessions(sessions) => sessions,
        other => {
            log::warn!("the monitors do not tell this machine's sessions: {other:?}");
            return;
        }
    };
    for entry in sessions {
        let client = &entry.client;
        let dead = client.boot != ours.boot
            || client.run_lock == ours.run_lock
            || RunLock::is_free(Path::new(&client.run_lock));
        if dead {
            log::info!("closing the session {} of dead process {}", entry.session, client.pid);
            let request = Request::EvictDead { session: entry.session, node: ours.node.clone() };
            let response = monitors.call(&request).await;
            if response != Response::Done {
                log::warn!("session {} was not closed: {response:?}", entry.session);
            }
        }
    }
}

async fn follow_placement(session: Arc<Session>, shards: Arc<dyn Shards>) {
    let mut placement = session.watch_placement();
    while placement.changed().await.is_ok() {
        let map = Arc::clone(&placement.borrow_and_update());
        shards.update(&map);
    }
}

async fn obey(
    mut notices: mpsc::UnboundedReceiver<Notice>,
    session: Arc<Session>,
    (files, grants, locks): (Arc<Files>, Arc<Grants>, Arc<Locks>),
) {
    while let Some(notice) = notices.recv().await {
        match notice {
            Notice::Recall(inos) => {
                grants.recall(inos.into_iter().map(|ino| (ino, files.find(ino))).collect());
            }
            Notice::Invalidate { stamp, inos } => {
                session.leases().recalled(inos, stamp, &files, session.monotonic());
            }
            Notice::LocksFree(tickets) => locks.free(&tickets),
            // The link has obeyed those already.
            Notice::Leader { .. } | Notice::Monitors(_) => {}
        }
    }
}

/// What a session holds.
struct Held {
    files: Arc<Files>,
    flusher: Arc<Flusher>,
    grants: Arc<Grants>,
    locks: Arc<Locks>,
}

/// When the monitors have given our session up: nothing is held any more, and what was not committed is stranded.
async fn mourn(
    mut lost: mpsc::UnboundedReceiver<Lost>,
    session: Arc<Session>,
    Held { files, flusher, grants, locks }: Held,
) {
    while let Some(Lost { session: closed, mourned }) = lost.recv().await {
        session.leases().give_up_all(&files, session.monotonic()).await;
        locks.lost(closed);
        let (mut open, mut stranded) = (Vec::new(), Vec::new());
        for file in files.all() {
            let mut state = file.state.lock();
            if state.holder == closed {
                if !state.is_clean() {
                    flusher.strand(&file, &mut state);
                    stranded.push(Arc::clone(&file));
                }
                if state.grant == Grant::Held {
                    state.ungranted();
                }
                state.map.forget();
            }
            if state.handles > 0 {
                let generation = files.generation();
                state.pin = Some(generation);
                open.push(Query::Open { ino: file.ino, generation });
            }
            drop(state);
            file.changed.notify_waiters();
        }
        // Nobody waits any more only while the mount ends.
        mourned.send(()).ok();
        for file in stranded {
            tokio::spawn(Arc::clone(&grants).take_back(file));
        }
        for portion in open.chunks(64) {
            // Those that are gone will say so when they are used.
            drop(session.query_all(portion.to_vec()).await);
        }
    }
}
