//! Having systemd run the agent of this machine, where systemd runs.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::find::NODE_DIR;
use super::say;
use crate::env::system::files::{PUBLIC, write_atomic};

/// The unit, as it is in the repository.
const UNIT: &str = include_str!("../../mount-helpers/okapifs-agent.service");
/// Its name.
const NAME: &str = "okapifs-agent.service";
/// Where administrators keep units.
const UNITS: &str = "/etc/systemd/system";
/// What there is where systemd runs (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";

/// Starts the agent of the node in `dir` for good, or says how to. A node that was made is made, whatever happens
/// here.
pub(super) fn start_or_say(dir: &Path, wanted: bool) {
    let by_hand = || say::line(format_args!("next: okapifs agent {}", dir.display()));
    // The unit is for the one directory that a machine has.
    if !wanted || dir != Path::new(NODE_DIR) || !Path::new(BOOTED).exists() {
        return by_hand();
    }
    match start() {
        Ok(()) => say::line(format_args!(
            "systemd runs it, now and after each boot: {UNITS}/{NAME}; see systemctl status okapifs-agent"
        )),
        Err(error) => {
            say::note(format_args!("systemd does not run it: {error:#}"));
            by_hand();
        }
    }
}

fn start() -> anyhow::Result<()> {
    let path = Path::new(UNITS).join(NAME);
    // One that somebody has changed stays as it is.
    if !path.exists() {
        let program = std::env::current_exe().context("/proc is not mounted")?;
        let program = program.to_string_lossy();
        if program.contains(|c: char| c.is_whitespace() || "\"'%$\\".contains(c)) {
            bail!("{program} is no path for a unit: install okapifs in /usr/local/bin");
        }
        write_atomic(&path, unit(&program).as_bytes(), PUBLIC)?;
    }
    systemctl(&["daemon-reload"])?;
    systemctl(&["enable", "--now", NAME])
}

/// The unit for a program at that path.
fn unit(program: &str) -> String {
    UNIT.replace("ExecStart=okapifs ", &format!("ExecStart={program} "))
        .replace("exec okapifs down", &format!("exec {program} down"))
}

fn systemctl(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl").args(arguments).output();
    let output = output.context("systemctl cannot be run")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
        bail!("systemctl {}: {said}", arguments.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unit_runs_this_very_program() {
        let unit = unit("/opt/okapifs");
        assert!(unit.contains("ExecStart=/opt/okapifs agent /var/lib/okapifs\n"), "{unit}");
        assert!(unit.contains("exec /opt/okapifs down /var/lib/okapifs'"), "{unit}");
    }
}
