//! Whether a program that waits for us is about to die.
//!
//! The kernel says that whoever waits got a signal, not which. `/proc/PID/status` does: a process that dies of
//! a signal has SIGKILL among the pending signals of each of its threads until they look, whatever the signal
//! was. Signals that also dump core (SIGQUIT, SIGABRT) are not turned into SIGKILL before they are looked at;
//! they are among the pending ones, neither blocked nor ignored nor caught.
//!
//! A thread that has looked, and is on its way out, has no signals any more. `/proc/PID/stat` tells it, and with which
//! code it ends.

use std::fs;

/// What is to be expected of a waiting thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It goes on when it has its answer.
    Lives,
    /// It ends as soon as it has any answer.
    Dies,
    /// It has ended by itself and closes its files: whatever happens to it now, it waits for its answer.
    Exits,
    /// Our process namespace does not have it, or `/proc` is not there.
    Unknown,
}

/// Looks at a thread. 0 is one that we do not see.
pub(super) fn fate(thread: u32) -> Fate {
    match thread {
        0 => Fate::Unknown,
        _ => match fs::read_to_string(format!("/proc/{thread}/status")) {
            Ok(status) => match fate_of(&status) {
                Fate::Lives => exit(thread).unwrap_or(Fate::Lives),
                fate => fate,
            },
            Err(_) => Fate::Unknown,
        },
    }
}

/// What becomes of a thread that is on its way out.
fn exit(thread: u32) -> Option<Fate> {
    exit_of(&fs::read_to_string(format!("/proc/{thread}/stat")).ok()?)
}

fn exit_of(stat: &str) -> Option<Fate> {
    // The name, in brackets, may have anything in it.
    let fields: Vec<&str> = stat[stat.rfind(')')? + 1..].split_ascii_whitespace().collect();
    // Fields 9 and 52 of proc_pid_stat(5); the first here is the third there.
    let flags: u32 = fields.get(9 - 3)?.parse().ok()?;
    let code: i32 = fields.get(52 - 3)?.parse().ok()?;
    let is_exiting = flags & PF_EXITING != 0;
    let was_killed = libc::WIFSIGNALED(code);
    is_exiting.then_some(if was_killed { Fate::Dies } else { Fate::Exits })
}

/// A thread that shuts down (the kernel's `include/linux/sched.h`).
const PF_EXITING: u32 = 0x4;

/// Signals whose default is to end the process with a dump of its memory.
const DUMPING: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGSYS,
];

fn fate_of(status: &str) -> Fate {
    let [Some(own), Some(shared), Some(blocked), Some(ignored), Some(caught)] =
        ["SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:", "SigCgt:"].map(|name| signals(status, name))
    else {
        return Fate::Unknown;
    };
    let pending = own | shared;
    let dumping = DUMPING.iter().fold(0, |all, signal| all | bit(*signal));
    // A debugger may take a signal away before it is seen.
    let is_traced = field(status, "TracerPid:").is_some_and(|tracer| tracer != "0");
    let dumps = pending & !blocked & !ignored & !caught & dumping != 0 && !is_traced;
    if pending & bit(libc::SIGKILL) != 0 || dumps { Fate::Dies } else { Fate::Lives }
}

fn signals(status: &str, name: &str) -> Option<u64> {
    u64::from_str_radix(field(status, name)?, 16).ok()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A status with these signals in the thread's own set, the process's, the blocked, ignored and caught ones.
    fn status(tracer: u32, sets: [&[i32]; 5]) -> String {
        let sets = sets.map(|set| set.iter().fold(0, |all, signal| all | bit(*signal)));
        let [own, shared, blocked, ignored, caught] = sets;
        format!(
            "Name:\tcat\nTracerPid:\t{tracer}\nThreads:\t1\nSigQ:\t0/6\nSigPnd:\t{own:016x}\nShdPnd:\t\
             {shared:016x}\nSigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    #[test]
    fn who_dies() {
        use Fate::{Dies, Lives};
        use libc::{SIGCHLD, SIGINT, SIGKILL, SIGQUIT, SIGTERM, SIGWINCH};
        for (sets, expected) in [
            ([&[][..], &[], &[], &[], &[]], Lives),
            ([&[SIGKILL], &[], &[], &[], &[]], Dies),
            ([&[], &[SIGKILL], &[], &[], &[]], Dies),
            // Of SIGTERM nobody dies without SIGKILL being there; where it is blocked or caught it only pends.
            ([&[SIGKILL], &[SIGTERM], &[], &[], &[]], Dies),
            ([&[], &[SIGTERM], &[SIGTERM], &[], &[]], Lives),
            ([&[], &[SIGINT], &[], &[], &[SIGINT]], Lives),
            ([&[], &[SIGCHLD, SIGWINCH], &[], &[], &[]], Lives),
            ([&[], &[SIGQUIT], &[], &[], &[]], Dies),
            ([&[], &[SIGQUIT], &[SIGQUIT], &[], &[]], Lives),
            ([&[], &[SIGQUIT], &[], &[SIGQUIT], &[]], Lives),
            ([&[], &[SIGQUIT], &[], &[], &[SIGQUIT]], Lives),
        ] {
            assert_eq!(fate_of(&status(0, sets)), expected, "{sets:?}");
        }
        assert_eq!(fate_of(&status(9, [&[SIGQUIT], &[], &[], &[], &[]])), Lives);
        assert_eq!(fate_of(&status(9, [&[SIGKILL], &[], &[], &[], &[]])), Dies);
    }

    #[test]
    fn who_is_on_the_way_out() {
        let stat = |flags: u32, code: i32| {
            let zeros = "0 ".repeat(42);
            exit_of(&format!("7 (a ) b) D 1 7 7 0 -1 {flags} {zeros}{code}\n"))
        };
        assert_eq!(stat(0x40_0000, 0), None);
        assert_eq!(stat(0x40_0004, 0), Some(Fate::Exits));
        assert_eq!(stat(0x40_0004, 3 << 8), Some(Fate::Exits));
        assert_eq!(stat(0x40_0004, libc::SIGKILL), Some(Fate::Dies));
        assert_eq!(exit_of("7 (cat) D 1"), None);
        assert_eq!(exit(std::process::id()), None, "this one lives");
    }

    #[test]
    fn what_cannot_be_seen_is_unknown() {
        assert_eq!(fate_of("Name:\tcat\n"), Fate::Unknown);
        assert_eq!(fate(0), Fate::Unknown);
        assert_eq!(fate(u32::MAX), Fate::Unknown);
        assert_eq!(fate(std::process::id()), Fate::Lives);
    }
}
