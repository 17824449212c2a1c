//! A test runner: `cargo test --test mount -- [--long] [--server-dead] [--leaders-killed] [--list] [--test-threads N]
//! [NAME…]`.
//!
//! A test that cannot run on this machine says so by [`skip`] and is counted as skipped, loudly, not as passed.
//! With `--long` the tests work on the full sizes that the project promises to handle; the two others are
//! [`super::hardship`].

use std::panic::{AssertUnwindSafe, catch_unwind, panic_any, set_hook, take_hook};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// A test: its name and what it does.
pub type Test = (&'static str, fn());

struct Skipped(String);

/// What was asked for beside names.
#[derive(Clone, Copy, Default)]
struct Wishes {
    long: bool,
    server_dead: bool,
    leaders_killed: bool,
}

static WISHES: OnceLock<Wishes> = OnceLock::new();

fn wishes() -> Wishes {
    WISHES.get().copied().unwrap_or_default()
}

/// Whether the full sizes are wanted.
pub fn long() -> bool {
    wishes().long
}

/// Whether a server of each cluster is to be dead.
pub fn server_dead() -> bool {
    wishes().server_dead
}

/// Whether the leaders of each cluster are to be killed.
pub fn leaders_killed() -> bool {
    wishes().leaders_killed
}

/// Ends the running test: it cannot run here.
pub fn skip(why: &str) -> ! {
    panic_any(Skipped(why.to_owned()));
}

struct Arguments {
    names: Vec<String>,
    list: bool,
    threads: usize,
}

/// Runs the tests that were asked for.
pub fn run(tests: &[Test]) -> ExitCode {
    let arguments = arguments();
    let wanted: Vec<&Test> = tests
        .iter()
        .filter(|(name, _)| {
            let mut names = arguments.names.iter();
            arguments.names.is_empty() || names.any(|part| name.contains(part.as_str()))
        })
        .collect();
    if arguments.list {
        for (name, _) in wanted {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    usual_signals();
    quiet_skips();
    let (passed, skipped, failed) = run_all(&wanted, arguments.threads);
    println!(
        "\ntest result: {}. {passed} passed; {} failed; {skipped} skipped\n",
        if failed.is_empty() { "ok" } else { "FAILED" },
        failed.len()
    );
    for name in &failed {
        println!("    failed: {name}");
    }
    ExitCode::from(u8::from(!failed.is_empty()))
}

fn arguments() -> Arguments {
    let mut names = Vec::new();
    let (mut wishes, mut list, mut threads) = (Wishes::default(), false, 2);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--long" => wishes.long = true,
            "--server-dead" => wishes.server_dead = true,
            "--leaders-killed" => wishes.leaders_killed = true,
            "--list" => list = true,
            "--test-threads" => {
                let number = words.next().and_then(|number| number.parse().ok());
                threads = number.expect("--test-threads NUMBER");
            }
            // What people pass to every test binary at once.
            flag if flag.starts_with('-') => {}
            name => names.push(name.to_owned()),
        }
    }
    WISHES.set(wishes).ok().expect("set once");
    Arguments { names, list, threads }
}

/// A shell without job control has what it puts into the background ignore SIGINT and SIGQUIT, nohup(1) SIGHUP, and
/// children inherit that. The programs of tests do what they do at a terminal, however the tests were started.
fn usual_signals() {
    for signal in [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: the default action is no function of ours, and no other thread runs yet.
        let before = unsafe { libc::signal(signal, libc::SIG_DFL) };
        assert_ne!(before, libc::SIG_ERR, "signal {signal} cannot be set to its default");
    }
}

fn quiet_skips() {
    let usual = take_hook();
    set_hook(Box::new(move |panic| {
        if !panic.payload().is::<Skipped>() {
            usual(panic);
        }
    }));
}

fn run_all(tests: &[&Test], threads: usize) -> (usize, usize, Vec<&'static str>) {
    println!("\nrunning {} tests", tests.len());
    let next = AtomicUsize::new(0);
    let outcome = Mutex::new((0, 0, Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, tests.len().max(1)) {
            scope.spawn(|| {
                while let Some((name, test)) = tests.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let since = Instant::now();
                    let result = catch_unwind(AssertUnwindSafe(test));
                    let seconds = since.elapsed().as_secs_f32();
                    let mut outcome = outcome.lock().expect("no panic while counting");
                    match result {
                        Ok(()) => {
                            outcome.0 += 1;
                            println!("test {name} ... ok ({seconds:.1} s)");
                        }
                        Err(payload) => match payload.downcast_ref::<Skipped>() {
                            Some(Skipped(why)) => {
                                outcome.1 += 1;
                                println!("test {name} ... SKIPPED: {why}");
                            }
                            None => {
                                outcome.2.push(*name);
                                println!("test {name} ... FAILED ({seconds:.1} s)");
                            }
                        },
                    }
                }
            });
        }
    });
    outcome.into_inner().expect("no panic while counting")
}
