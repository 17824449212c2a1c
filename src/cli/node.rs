//! A node's directory as its agent sees it: which units it has, the command line of each, and what the cluster
//! changes in it.

use anyhow::{Context, bail};

use super::cluster_dir::{ClusterDir, mount_unit};
use super::config::{AgentFile, ClientFile, ConfigFile, MonitorFile, MountEntry, ServerFile};
use super::{edit, new_monitor};
use crate::agent::processes::Launch;
use crate::agent::stages::{Role, Unit};
use crate::agent::{Node, Site};
use crate::crypto::Issued;
use crate::wire::trust::Enrolled;

/// See the module.
pub(super) struct NodeDir(pub(super) ClusterDir);

impl Node for NodeDir {
    fn units(&self) -> Result<Vec<Unit>, String> {
        self.0.units().map_err(sentence)
    }

    fn launch(&self, unit: &Unit) -> Result<Launch, String> {
        launch(&self.0, unit).map_err(sentence)
    }

    fn retired(&self, unit: &Unit) -> Option<String> {
        let home = self.0.of(&unit.name);
        let is_removed =
            unit.role == Role::Monitor && MonitorFile::load(&home).is_ok_and(|file| file.removed);
        is_removed.then(|| {
            format!(
                "it was removed from the cluster; its directory {} may be removed",
                home.display()
            )
        })
    }
}

impl Site for NodeDir {
    fn is_spare(&self) -> bool {
        let wants = AgentFile::load(&self.0.agent()).is_ok_and(|file| file.spare);
        wants && self.0.live_monitors().is_ok_and(|monitors| monitors.is_empty())
    }

    fn learn_monitors(&self, monitors: &[String]) -> Result<(), String> {
        learn_monitors(&self.0, monitors).map_err(sentence)
    }

    fn add_monitor(&self, enrolled: &Enrolled, issued: &Issued) -> Result<(), String> {
        let added = new_monitor::free_address(&self.0)
            .and_then(|listen| new_monitor::write(&self.0, enrolled, issued, listen));
        added.map_err(sentence)
    }
}

/// Writes the addresses of the monitors into the files of those who look for them there.
fn learn_monitors(dir: &ClusterDir, monitors: &[String]) -> anyhow::Result<()> {
    // Nobody would find anybody any more.
    if monitors.is_empty() {
        return Ok(());
    }
    let mut files = vec![dir.client().join(ClientFile::NAME)];
    files.extend(dir.servers()?.iter().map(|name| dir.of(name).join(ServerFile::NAME)));
    for file in files.iter().filter(|file| file.exists()) {
        if edit::learn_addresses(file, "monitors", monitors)? {
            log::info!("{}: the monitors are at {}", file.display(), monitors.join(", "));
        }
    }
    Ok(())
}

fn sentence(error: anyhow::Error) -> String {
    format!("{error:#}")
}

fn launch(dir: &ClusterDir, unit: &Unit) -> anyhow::Result<Launch> {
    let arguments = match unit.role {
        Role::Monitor => vec!["monitor".into(), "run".into(), dir.of(&unit.name).into()],
        Role::Server => vec!["server".into(), "run".into(), dir.of(&unit.name).into()],
        Role::Mount => {
            let mounts = dir.mounts()?;
            let mount = mounts.iter().find(|mount| mount_unit(&mount.at) == *unit);
            let mount = mount.with_context(|| format!("{} is not in mounts.toml", unit.name))?;
            mount_arguments(dir, mount)?
        }
    };
    process(dir, &unit.name, arguments)
}

/// `host:port` of all monitors that the files of the node name.
pub(super) fn monitors(dir: &ClusterDir) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    if dir.client().join(ClientFile::NAME).exists() {
        found.extend(ClientFile::in_force(&dir.client(), &[])?.0.monitors);
    }
    for name in dir.servers()? {
        found.extend(ServerFile::in_force(&dir.of(&name), &[])?.0.monitors);
    }
    for name in dir.live_monitors()? {
        let (file, _) = MonitorFile::in_force(&dir.of(&name), &[])?;
        found.push(file.listen);
        found.extend(file.monitors);
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// How this very program is started with those arguments as a process of the node.
pub(super) fn process(
    dir: &ClusterDir,
    name: &str,
    arguments: Vec<std::ffi::OsString>,
) -> anyhow::Result<Launch> {
    Ok(Launch {
        name: name.to_owned(),
        program: program()?,
        arguments,
        run_dir: dir.run(),
        log_file: dir.log_file(name),
    })
}

/// This program, by the path at which it was started: what replaces it there is what is started from then on.
fn program() -> anyhow::Result<std::path::PathBuf> {
    let path = std::env::current_exe().context("/proc is not mounted")?;
    let text = path.to_string_lossy();
    // So the kernel shows a program that was replaced while it runs.
    Ok(text.strip_suffix(" (deleted)").map_or_else(|| path.clone(), Into::into))
}

fn mount_arguments(
    dir: &ClusterDir,
    mount: &MountEntry,
) -> anyhow::Result<Vec<std::ffi::OsString>> {
    let client = ClientFile::load(&dir.client())?;
    let (config, run) = (dir.client(), dir.run());
    for path in [&config, &run] {
        if path.to_string_lossy().contains(',') {
            bail!("{} has a comma in it, which mount options cannot carry", path.display());
        }
    }
    let mut options = format!("config={},run_dir={}", config.display(), run.display());
    if !mount.options.is_empty() {
        options = format!("{options},{}", mount.options);
    }
    Ok(vec![
        "mount".into(),
        "--foreground".into(),
        "-o".into(),
        options.into(),
        format!("{}:/{}", client.monitors.join(","), mount.subdir.trim_matches('/')).into(),
        mount.at.clone().into(),
    ])
}

#[cfg(test)]
mod tests {
    use super::super::config::MountsFile;
    use super::*;
    use crate::types::Width;

    #[test]
    fn a_mount_is_started_with_what_its_file_says() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let dir = ClusterDir::new(&temporary.path().join("c")).expect("a path");
        let width = Width { data: 2, parity: 1 };
        let begun = super::super::init::begin(&dir, width, "127.0.0.1:7").expect("begun");
        begun.found(&dir, None).expect("made");
        let mount =
            MountEntry { at: "/mnt/a".into(), subdir: "/b/".to_owned(), options: "ro".to_owned() };
        let unit = mount_unit(&mount.at);
        let node = NodeDir(dir.clone());
        node.launch(&unit).expect_err("it is in no file");
        MountsFile { mount: vec![mount] }.save(dir.root()).expect("saved");

        let launch = node.launch(&unit).expect("there");
        let words: Vec<_> = launch.arguments.iter().map(|word| word.to_string_lossy()).collect();
        assert_eq!(words[..2], ["mount", "--foreground"]);
        assert!(words[3].ends_with("/c/run,ro"), "{}", words[3]);
        assert_eq!(words[4..], ["127.0.0.1:7:/b", "/mnt/a"]);
        assert!(node.units().expect("read").contains(&unit));
    }
}
