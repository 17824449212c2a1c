//! The monitor as a process: started, killed, and what the kernel says of it.

use std::fs;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long a monitor may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// The unit of `/proc/PID/stat`, the same on all of Linux's architectures.
const TICKS_PER_SECOND: u64 = 100;

/// A monitor; it ends with this value.
pub(crate) struct Monitor {
    child: Child,
    /// From its start until it was ready.
    pub(crate) started_in: Duration,
}

impl Monitor {
    /// Starts the monitor of the cluster in `dir`; makes a cluster if there is none.
    pub(crate) fn start(program: &Path, dir: &Path) -> anyhow::Result<Self> {
        let home = dir.join("monitor-1");
        if !home.exists() {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut init = Command::new(program);
            init.arg("init").arg(dir).arg("--listen").arg(format!("127.0.0.1:{port}"));
            if !init.status()?.success() {
                bail!("no cluster could be made in {}", dir.display());
            }
        }
        let ready = dir.join("ready");
        if ready.exists() {
            fs::remove_file(&ready)?;
        }
        let log = fs::File::options().append(true).create(true).open(dir.join("log"))?;
        let since = Instant::now();
        let mut run = Command::new(program);
        run.args(["monitor", "run"]).arg(&home).arg("--ready").arg(&ready).stderr(log);
        let mut child = run.spawn()?;
        while !ready.exists() {
            if let Some(status) = child.try_wait()? {
                bail!("the monitor ended with {status}; see {}", dir.join("log").display());
            }
            if since.elapsed() > PATIENCE {
                child.kill()?;
                bail!("the monitor was not ready in {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Self { child, started_in: since.elapsed() })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits.
    pub(crate) fn end(mut self) -> anyhow::Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: sends a signal to our own child, which was not waited for yet.
        if unsafe { libc::kill(pid, libc::SIGTERM) } != 0 {
            bail!("the monitor could not be asked to end");
        }
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        // It has ended already unless something failed.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// CPU that processes have used.
pub(crate) struct Cpu(Duration);

impl Cpu {
    /// User and system, of all of them.
    pub(crate) fn of(pids: &[u32]) -> anyhow::Result<Self> {
        let mut ticks = 0;
        for pid in pids {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            // The name, in parentheses, may contain anything.
            let (_, fields) = stat.rsplit_once(')').context("a stat file")?;
            for field in fields.split_whitespace().skip(11).take(2) {
                ticks += field.parse::<u64>()?;
            }
        }
        Ok(Self(Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)))
    }

    /// What they have used since.
    pub(crate) fn since(&self, pids: &[u32]) -> anyhow::Result<Duration> {
        Ok(Self::of(pids)?.0.saturating_sub(self.0))
    }
}

/// Memory of a process.
pub(crate) struct Memory {
    pub(crate) now_mib: u64,
    pub(crate) peak_mib: u64,
}

/// What a process has in memory, and the most it has had.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let mib = |name: &str| -> anyhow::Result<u64> {
        let line =
            status.lines().find_map(|line| line.strip_prefix(name)).context("a status file")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024)
    };
    Ok(Memory { now_mib: mib("VmRSS:")?, peak_mib: mib("VmHWM:")? })
}

/// Asks the kernel to drop what it has cached of the files below `dir`, as if the machine had just started.
pub(crate) fn forget_cached(dir: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            forget_cached(&path)?;
        } else {
            let file = fs::File::open(&path)?;
            file.sync_all()?;
            let advice = libc::POSIX_FADV_DONTNEED;
            // SAFETY: the descriptor is open for the length of the call, which touches no memory of ours.
            if unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, advice) } != 0 {
                bail!("{} stays in the page cache", path.display());
            }
        }
    }
    Ok(())
}
