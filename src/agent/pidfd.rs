//! Waiting for the end of a process that need not be a child.
//!
//! An agent that was started anew has adopted its processes: it is not their parent, so wait(2) tells it nothing.
//! A pidfd (pidfd_open(2), Linux 5.3) becomes readable when its process ends, whoever the parent is, at that moment.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::processes::Running;

/// How often a process is looked at where the kernel cannot tell.
const POLL: Duration = Duration::from_millis(200);

/// Resolves when the process has ended; at once if it had before.
pub(super) async fn ended(process: &Running) {
    if let Err(error) = readable(process).await {
        log::debug!("no pidfd for process {}: {error}", process.pid);
        while process.is_alive() {
            tokio::time::sleep(POLL).await;
        }
    }
}

/// Fails when there are no descriptors left, or the kernel is older than 5.3.
async fn readable(process: &Running) -> io::Result<()> {
    let descriptor = match open(process.pid) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
        opened => opened?,
    };
    // The descriptor means whoever has that id now.
    if !process.is_alive() {
        return Ok(());
    }
    // SAFETY: it owns its descriptor, which stays open and the same until both are dropped, here.
    let readable = unsafe { AsyncFd::register(descriptor) }?;
    readable.readable().await.map(drop)
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open(2) takes two numbers and touches no memory of ours.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    let descriptor = RawFd::try_from(result).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made the descriptor for us, so nobody else closes it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_is_seen_when_it_comes_and_also_later() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let launch = super::super::processes::Launch {
            name: "sleep".to_owned(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), "exec sleep 60".into()],
            run_dir: dir.path().to_owned(),
            log_file: dir.path().join("log"),
        };
        let mut child = launch.start(1).expect("sh");
        let (process, _) = launch.find().expect("it runs");
        let waiting = tokio::spawn({
            let process = process.clone();
            async move { ended(&process).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        child.kill().expect("ours");
        waiting.await.expect("no panic");
        ended(&process).await;
        child.wait().expect("ours");
        ended(&process).await;
    }
}
