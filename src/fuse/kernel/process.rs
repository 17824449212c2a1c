//! Whether a program that waits for us is about to die.
//!
//! The kernel says that whoever waits got a signal, not which. `/proc/PID/status` does: a process that dies of
//! a signal has SIGKILL among the pending signals of each of its threads until they look, whatever the signal
//! was. Signals that also dump core (SIGQUIT, SIGABRT) are not turned into SIGKILL before they are looked at;
//! they are among the pending ones, neither blocked nor ignored nor caught.

use std::fs;

/// What is to be expected of a waiting thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Fate {
    /// It goes on when it has its answer.
    Lives,
    /// It ends as soon as it has any answer.
    Dies,
    /// Our process namespace does not have it, or `/proc` is not there.
    Unknown,
}

/// Looks at a thread. 0 is one that we do not see.
pub(super) fn fate(thread: u32) -> Fate {
    match thread {
        0 => Fate::Unknown,
        _ => match fs::read_to_string(format!("/proc/{thread}/status")) {
            Ok(status) => fate_of(&status),
            Err(_) => Fate::Unknown,
        },
    }
}

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
    fn what_cannot_be_seen_is_unknown() {
        assert_eq!(fate_of("Name:\tcat\n"), Fate::Unknown);
        assert_eq!(fate(0), Fate::Unknown);
        assert_eq!(fate(u32::MAX), Fate::Unknown);
        assert_eq!(fate(std::process::id()), Fate::Lives);
    }
}
