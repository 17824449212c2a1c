//! `okapifs config`: what is in force, and where it comes from.

use std::path::{Path, PathBuf};

use anyhow::bail;

use super::config::{AgentFile, ClientFile, ConfigFile, MonitorFile, ServerFile};
use super::layers::{Origin, Setting};
use super::{find, say};

/// Show the configuration that is in force, and where each value comes from.
///
/// DIR is the directory of a monitor, a server, a client or an agent; or one that holds several of them, as that of
/// `okapifs up`; without it, the client configuration of this machine. A value comes from a line of the file
/// there, from the environment (OKAPIFS_SERVER_LISTEN is `listen` of a server, and so on), from `--set KEY=VALUE` of
/// `monitor run` or `server run`, or is the default; what is named later is stronger, but for the default.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// Which directory [default: /etc/okapifs, on a node without it /var/lib/okapifs/client].
    dir: Option<PathBuf>,

    /// As it would be with this flag of `monitor run` or `server run`.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let dir = arguments.dir.clone().unwrap_or_else(find::own_config);
    let mut homes = vec![dir.clone()];
    if let Ok(entries) = std::fs::read_dir(&dir) {
        let mut below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        below.sort();
        homes.extend(below);
    }
    let mut rows = vec![["FILE", "KEY", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    for home in &homes {
        rows.extend(show::<MonitorFile>(home, &arguments.set)?);
        rows.extend(show::<ServerFile>(home, &arguments.set)?);
        rows.extend(show::<ClientFile>(home, &arguments.set)?);
        rows.extend(show::<AgentFile>(home, &[])?);
    }
    if rows.len() == 1 {
        bail!(
            "{} holds no configuration: no {}, {}, {} or {}",
            dir.display(),
            MonitorFile::NAME,
            ServerFile::NAME,
            ClientFile::NAME,
            AgentFile::NAME
        );
    }
    say::table(&rows);
    Ok(())
}

fn show<F: ConfigFile>(home: &Path, set: &[String]) -> anyhow::Result<Vec<Vec<String>>> {
    let path = home.join(F::NAME);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let (_, settings) = F::in_force(home, set)?;
    let row = |setting: Setting| {
        let from = match setting.origin {
            Origin::Line(line) => format!("line {line}"),
            Origin::Environment(variable) => variable,
            Origin::Flag => "--set".to_owned(),
            Origin::Default => "default".to_owned(),
        };
        vec![path.display().to_string(), setting.key, setting.value, from]
    };
    Ok(settings.into_iter().map(row).collect())
}
