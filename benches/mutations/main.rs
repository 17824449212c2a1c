//! How many changes of names a second the monitors do, what one costs them, how long it takes, how much memory
//! they have when there are many files, and how soon they serve again after a SIGKILL.
//!
//! ```text
//! cargo bench --bench mutations -- --files 2000000
//! ```
//!
//! A real monitor process, and a client that speaks the protocol itself, so that neither the kernel nor a mount
//! is measured along. It fills the namespace with empty files (a thousand in each directory), then takes files at
//! random, fifty in a row as copying and removing trees do: changes their attributes, removes them, creates them
//! again. With `--scattered` each file is taken by itself: then nothing that a change needs is in any cache. One
//! session fills its 256 slots: four requests of 64 changes under way at any time.
//!
//! With `--cluster` and `--mount` it measures a cluster that `okapifs up` runs, three monitors for example; then with
//! `--failovers` how long a program waits when the leader is killed, and with `--restarts` when everything is.
//!
//! CPU is what the monitor's process used, user and system. On a machine that is busy with other things it is
//! the figure to compare.

#![expect(clippy::print_stdout, reason = "a benchmark prints its figures")]

mod client;
mod cluster;
mod load;
mod process;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::Parser;

use client::Client;
use cluster::Cluster;
use load::{Load, Step};
use process::{Cpu, Monitor};

#[derive(Parser, Debug)]
struct Arguments {
    /// Files in the namespace while changes are measured.
    #[arg(long, default_value_t = 100_000)]
    files: usize,

    /// Changes of each kind in a round.
    #[arg(long, default_value_t = 60_000)]
    changes: usize,

    /// Rounds; the median is told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,

    /// Changes in a request.
    #[arg(long, default_value_t = 64)]
    batch: usize,

    /// Requests under way at a time; with `batch`, at most 256 changes.
    #[arg(long, default_value_t = 4)]
    requests: usize,

    /// Choose each file by itself, so that every change is in another directory.
    #[arg(long)]
    scattered: bool,

    /// Keep the cluster in this directory, and go on with what an earlier run left there.
    #[arg(long)]
    dir: Option<PathBuf>,

    /// Measure this program instead of the one that was built along.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_okapifs"))]
    program: PathBuf,

    /// Measure a running cluster instead: a directory of `okapifs up`. Nothing is killed unless told so.
    #[arg(long, conflicts_with = "dir")]
    cluster: Option<PathBuf>,

    /// Where that cluster is mounted.
    #[arg(long, requires = "cluster")]
    mount: Option<PathBuf>,

    /// Then kill the leader so many times, while a program on the mount renames a file every 10 ms.
    #[arg(long, requires = "mount", default_value_t = 0)]
    failovers: u32,

    /// Then kill everything so many times, and start it with nothing in the page cache.
    #[arg(long, requires = "mount", default_value_t = 0)]
    restarts: u32,

    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if let Some(cluster) = &arguments.cluster {
        return running(arguments, cluster).await;
    }
    let temporary = tempfile::tempdir()?;
    let dir = arguments.dir.as_deref().unwrap_or(temporary.path());
    let monitor = Monitor::start(&arguments.program, dir)?;
    println!("started in {:.2} s", monitor.started_in.as_secs_f64());
    let client = Client::open(dir).await?;
    let filling = Cpu::of(&[monitor.pid()])?;
    let since = Instant::now();
    let load = Load::prepare(client, arguments.files, arguments.batch, arguments.requests).await?;
    println!(
        "{} files are there after {:.1} s, {:.1} s of CPU",
        arguments.files,
        since.elapsed().as_secs_f64(),
        filling.since(&[monitor.pid()])?.as_secs_f64()
    );
    let load = measure(arguments, load, &[monitor.pid()]).await?;
    restart(&arguments.program, dir, monitor, load).await
}

/// A cluster that runs already.
async fn running(arguments: &Arguments, dir: &Path) -> anyhow::Result<()> {
    let pids = cluster::monitors(dir)?;
    let client = Client::open(dir).await?;
    let (cpu, since) = (Cpu::of(&pids)?, Instant::now());
    let load = Load::prepare(client, arguments.files, arguments.batch, arguments.requests).await?;
    println!(
        "{} files are there after {:.1} s, {:.1} s of CPU of {} monitors",
        arguments.files,
        since.elapsed().as_secs_f64(),
        cpu.since(&pids)?.as_secs_f64(),
        pids.len()
    );
    // A new leader would wait for a session whose client says nothing.
    measure(arguments, load, &pids).await?.close().await?;
    let Some(mount) = &arguments.mount else {
        return Ok(());
    };
    let cluster = Cluster { program: &arguments.program, dir, mount };
    tokio::task::block_in_place(|| kill(arguments, &cluster))
}

/// What those wait that use a cluster while its processes are killed.
fn kill(arguments: &Arguments, cluster: &Cluster<'_>) -> anyhow::Result<()> {
    let waits = cluster.fail_over(arguments.failovers)?;
    print_waits("the leader is killed: longest rename", waits);
    let starts = (0..arguments.restarts).map(|_| cluster.start_again());
    print_waits(
        "all is killed and started, nothing cached: first rename after",
        starts.collect::<anyhow::Result<_>>()?,
    );
    Ok(())
}

fn print_waits(what: &str, mut waits: Vec<Duration>) {
    waits.sort_unstable();
    if let [least, .., most] | [least @ most] = waits.as_slice() {
        println!(
            "{what} {:.2} s ({:.2}-{:.2}, {} times)",
            waits[waits.len() / 2].as_secs_f64(),
            least.as_secs_f64(),
            most.as_secs_f64(),
            waits.len()
        );
    }
}

/// Rounds of changes, and a table of their medians.
async fn measure(arguments: &Arguments, mut load: Load, pids: &[u32]) -> anyhow::Result<Load> {
    let mut figures: Vec<Vec<Figures>> = vec![Vec::new(); Step::ALL.len()];
    for _ in 0..arguments.rounds {
        let chosen = load.choose(arguments.changes, if arguments.scattered { 1 } else { 50 });
        for (step, figures) in Step::ALL.into_iter().zip(&mut figures) {
            let (cpu, since) = (Cpu::of(pids)?, Instant::now());
            let latencies = load.run(step, &chosen).await?;
            figures.push(Figures::of(latencies, chosen.len(), since.elapsed(), cpu.since(pids)?));
        }
    }
    println!(
        "{:<8} {:>10} {:>14} {:>9} {:>9}",
        "WHAT", "CHANGES/S", "CPU-us/CHANGE", "p50 ms", "p99 ms"
    );
    for (step, mut figures) in Step::ALL.into_iter().zip(figures) {
        figures.sort_by(|a, b| a.per_second.total_cmp(&b.per_second));
        let Figures { per_second, cpu_us, p50_ms, p99_ms } = figures[figures.len() / 2];
        println!(
            "{:<8} {per_second:>10.0} {cpu_us:>14.1} {p50_ms:>9.1} {p99_ms:>9.1}",
            step.name()
        );
    }
    for pid in pids {
        let memory = process::memory(*pid)?;
        println!("monitor {pid}: {} MiB resident, {} MiB at most", memory.now_mib, memory.peak_mib);
    }
    Ok(load)
}

/// SIGKILL, and how long until a change is answered again.
async fn restart(program: &Path, dir: &Path, monitor: Monitor, load: Load) -> anyhow::Result<()> {
    let session = load.session();
    monitor.kill()?;
    process::forget_cached(dir)?;
    let since = Instant::now();
    let monitor = Monitor::start(program, dir)?;
    let client = Client::attach(dir, session).await?;
    load.one_change(&client).await.context("the first change after the restart")?;
    println!(
        "after SIGKILL, nothing cached: ready in {:.2} s, a change is answered in {:.2} s, {} MiB resident",
        monitor.started_in.as_secs_f64(),
        since.elapsed().as_secs_f64(),
        process::memory(monitor.pid())?.now_mib
    );
    client.close().await?;
    monitor.end()
}

/// What one step of one round gave.
#[derive(Clone, Copy, Debug)]
struct Figures {
    per_second: f64,
    cpu_us: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Figures {
    fn of(mut latencies: Vec<Duration>, changes: usize, wall: Duration, cpu: Duration) -> Self {
        latencies.sort_unstable();
        let percentile = |part: usize| {
            let at = (latencies.len() * part / 100).min(latencies.len() - 1);
            latencies[at].as_secs_f64() * 1e3
        };
        Self {
            per_second: changes as f64 / wall.as_secs_f64(),
            cpu_us: cpu.as_secs_f64() * 1e6 / changes as f64,
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}
