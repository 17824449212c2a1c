//! Are you there? Asked of each kind of process, and answered for a mount.
//!
//! Monitors and servers have a port and a call for it, which goes the whole way: TLS, the runtime, the service. A
//! mount has no port, and its filesystem must not be asked: one whose monitors are away lets everybody wait, and
//! would be killed for it. So its daemon answers on a Unix socket, from the runtime that all its work runs on.
//!
//! Any answer is a sign of life, a refusal too: that the two ends do not like one another's certificates is no
//! reason to kill either.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::processes::Running;
use super::stages;
use crate::crypto::{Credentials, Role};
use crate::env::system::rpc::Connection;
use crate::types::Incarnation;
use crate::wire::{encode, metadata, shards};

/// How long a process may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What a mount says.
const ALIVE: &[u8] = b"alive\n";

/// Asks one process again and again.
pub(super) struct Prober {
    role: stages::Role,
    process: Running,
    run_dir: PathBuf,
    credentials: Credentials,
    /// Kept from question to question: greeting anew costs more than asking.
    connection: Option<Connection>,
    is_complaining: bool,
}

impl Prober {
    pub(super) fn new(
        role: stages::Role,
        process: Running,
        run_dir: &Path,
        credentials: Credentials,
    ) -> Self {
        let run_dir = run_dir.to_owned();
        Self { role, process, run_dir, credentials, connection: None, is_complaining: false }
    }

    /// Whether it answers.
    pub(super) async fn answers(&mut self) -> bool {
        match self.role {
            stages::Role::Monitor => {
                let ping = encode(&metadata::Request::Ping);
                self.answers_call(Role::Monitor, ping).await
            }
            stages::Role::Server => {
                let ping = encode(&shards::Request::Ping);
                self.answers_call(Role::Server, ping).await
            }
            stages::Role::Mount => {
                let answer = tokio::time::timeout(PATIENCE, hear(&self.run_dir, self.process.pid));
                matches!(answer.await, Ok(Ok(())))
            }
        }
    }

    async fn answers_call(&mut self, role: Role, question: Vec<u8>) -> bool {
        let connection = match self.connection.take().filter(|open| !open.is_closed()) {
            Some(connection) => connection,
            None => match self.connect(role).await {
                Ok(connection) => connection,
                Err(is_alive) => return is_alive,
            },
        };
        let answered = connection.call(question, Vec::new(), PATIENCE).await.is_ok();
        if answered {
            self.connection = Some(connection);
        }
        answered
    }

    /// A connection, or whether the failure to get one shows that somebody is there.
    async fn connect(&mut self, role: Role) -> Result<Connection, bool> {
        let address = &self.process.address;
        let any = Incarnation::default();
        let opened = Connection::open(address, &self.credentials, role, any, PATIENCE).await;
        let error = match opened {
            Ok((connection, _)) => return Ok(connection),
            Err(error) => error,
        };
        let says_no = !error.may_pass();
        if says_no && !std::mem::replace(&mut self.is_complaining, true) {
            log::warn!("whether {address} is well cannot be asked: {error}");
        }
        Err(says_no)
    }
}

/// A mount's answering to its agent; ends when it is dropped.
#[derive(Debug)]
pub struct Answering {
    socket: PathBuf,
    task: tokio::task::JoinHandle<()>,
}

/// Answers, as this process, whoever asks in that directory whether it is alive. Must run in a tokio runtime.
///
/// # Errors
///
/// When the socket cannot be made there; the message names the directory.
pub fn answer(run_dir: &Path) -> io::Result<Answering> {
    let pid = std::process::id();
    let socket = socket(run_dir, pid);
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("{} cannot be made: {error}", socket.display()))
    };
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(named(error)),
        _ => {}
    }
    let listener = File::open(run_dir).and_then(|dir| UnixListener::bind(short(&dir, pid)));
    let listener = listener.map_err(named)?;
    Ok(Answering { task: tokio::spawn(answer_all(listener)), socket })
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
        forget_path(&self.socket);
    }
}

/// Takes the socket of a mount away that died.
pub(super) fn forget(run_dir: &Path, pid: u32) {
    forget_path(&socket(run_dir, pid));
}

fn forget_path(socket: &Path) {
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            log::debug!("{} was not removed: {error}", socket.display());
        }
        _ => {}
    }
}

async fn answer_all(listener: UnixListener) {
    loop {
        let answered = match listener.accept().await {
            Ok((mut asker, _)) => asker.write_all(ALIVE).await,
            Err(error) => Err(error),
        };
        if let Err(error) = answered {
            log::debug!("the agent was not answered: {error}");
            // Without descriptors this would come back at once, for ever.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn hear(run_dir: &Path, pid: u32) -> io::Result<()> {
    let dir = File::open(run_dir)?;
    let mut stream = UnixStream::connect(short(&dir, pid)).await?;
    let mut said = [0; ALIVE.len()];
    stream.read_exact(&mut said).await.map(drop)
}

fn socket(run_dir: &Path, pid: u32) -> PathBuf {
    run_dir.join(socket_name(pid))
}

/// The same, by way of the open directory: a socket's path may have 107 bytes, and run directories may be deep.
fn short(dir: &File, pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), socket_name(pid)))
}

fn socket_name(pid: u32) -> String {
    format!("{pid}.sock")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::Authority;
    use crate::types::{ClusterId, Timestamp};

    fn credentials() -> Credentials {
        let now = Timestamp { seconds: 1_790_000_000, nanos: 0 };
        let authority = Authority::create(ClusterId(3), now).expect("an authority");
        let issued = authority.issue(Role::Agent, "agent", now).expect("issued");
        let certificates = (authority.cert_pem(), issued.cert_pem, issued.key_pem);
        Credentials::from_pem(certificates.0, &certificates.1, &certificates.2).expect("usable")
    }

    #[tokio::test]
    async fn a_mount_answers_however_deep_its_directory_is() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir(&deep).expect("made");
        let this = Running::this_process("/mnt".to_owned(), 1).expect("/proc");
        let mut prober = Prober::new(stages::Role::Mount, this, &deep, credentials());
        assert!(!prober.answers().await, "nobody is there yet");
        let answering = answer(&deep).expect("a socket");
        assert!(prober.answers().await);
        assert!(prober.answers().await, "more than once");
        drop(answering);
        assert!(!prober.answers().await);
        assert_eq!(std::fs::read_dir(&deep).expect("read").count(), 0, "it leaves nothing");
    }

    #[tokio::test]
    async fn what_hangs_does_not_answer_and_what_refuses_does() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let prober = |address: String| {
            let process = Running::this_process(address, 1).expect("/proc");
            Prober::new(stages::Role::Server, process, dir.path(), credentials())
        };
        // Connected by the kernel, accepted by nobody: as a stopped process.
        let hung = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = hung.local_addr().expect("bound").to_string();
        assert!(!prober(address.clone()).answers().await);
        drop(hung);
        assert!(!prober(address).answers().await, "nothing listens");

        let talker = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = talker.local_addr().expect("bound").to_string();
        tokio::spawn(async move {
            let (mut stream, _) = talker.accept().await.expect("accepted");
            stream.write_all(b"220 this speaks something else\r\n").await.expect("said");
            stream.read_to_end(&mut Vec::new()).await.ok();
        });
        assert!(prober(address).answers().await, "whatever it is, it lives");
    }
}
