//! Ports of a cluster on one machine: everybody gets one before anybody starts, keeps it, and knows all others'.
//!
//! A port that another program has taken while the cluster was down is given up for another. On several machines
//! none of this happens: there, addresses are what their owners have written into the files.

use std::net::TcpListener;

use anyhow::Context;

use super::cluster_dir::{AGENT, ClusterDir};
use super::config::{AgentFile, ClientFile, ConfigFile, MonitorFile, ServerFile};
use super::say;

/// Where processes listen that have no port yet.
pub(super) const ANY_PORT: &str = "127.0.0.1:0";

/// Gives a port to everything that has none and does not run, and tells all of them all addresses.
pub(super) fn settle(dir: &ClusterDir) -> anyhow::Result<()> {
    // All are kept until the last is chosen, else one could be chosen twice.
    let mut chosen = Vec::new();
    settle_one(dir, AGENT, &dir.agent(), |file: &mut AgentFile| &mut file.listen, &mut chosen)?;
    for name in dir.monitors()? {
        let home = dir.of(&name);
        settle_one(dir, &name, &home, |file: &mut MonitorFile| &mut file.listen, &mut chosen)?;
    }
    for name in dir.servers()? {
        let home = dir.of(&name);
        settle_one(dir, &name, &home, |file: &mut ServerFile| &mut file.listen, &mut chosen)?;
    }
    tell_all(dir)
}

fn settle_one<F: ConfigFile>(
    dir: &ClusterDir,
    name: &str,
    home: &std::path::Path,
    listen: impl Fn(&mut F) -> &mut String,
    chosen: &mut Vec<TcpListener>,
) -> anyhow::Result<()> {
    if dir.process(name).is_some() {
        return Ok(());
    }
    let mut file = F::load(home)?;
    let listen = listen(&mut file);
    if !listen.ends_with(":0") {
        match TcpListener::bind(&*listen) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                say::note(format_args!(
                    "{listen} is taken by another program: {name} gets another port"
                ));
            }
            _ => return Ok(()),
        }
    }
    let host = listen.rsplit_once(':').map_or(listen.as_str(), |(host, _)| host);
    let port = TcpListener::bind(format!("{host}:0"))
        .with_context(|| format!("there is no free port on {host} for {name}"))?;
    *listen = port.local_addr()?.to_string();
    chosen.push(port);
    file.save(home)
}

/// Everybody knows where the monitors are, and the monitors where their agent is.
fn tell_all(dir: &ClusterDir) -> anyhow::Result<()> {
    let agent = AgentFile::load(&dir.agent())?.listen;
    let names = dir.monitors()?;
    let monitors = names.iter().map(|name| Ok(MonitorFile::load(&dir.of(name))?.listen));
    let monitors = monitors.collect::<anyhow::Result<Vec<String>>>()?;
    for name in names {
        change(&dir.of(&name), |file: &mut MonitorFile| {
            let others = monitors.iter().filter(|address| **address != file.listen);
            file.monitors = others.cloned().collect();
            file.agent = Some(agent.clone());
        })?;
    }
    for name in dir.servers()? {
        change(&dir.of(&name), |file: &mut ServerFile| file.monitors.clone_from(&monitors))?;
    }
    change(&dir.client(), |file: &mut ClientFile| file.monitors.clone_from(&monitors))
}

/// Writes a file anew if it is to say something else.
fn change<F: ConfigFile + PartialEq>(
    home: &std::path::Path,
    change: impl FnOnce(&mut F),
) -> anyhow::Result<()> {
    let (before, mut file) = (F::load(home)?, F::load(home)?);
    change(&mut file);
    if file == before { Ok(()) } else { file.save(home) }
}

#[cfg(test)]
mod tests {
    use super::super::init;
    use super::*;
    use crate::types::Width;

    #[test]
    fn everybody_gets_a_port_keeps_it_and_knows_the_others() {
        let temporary = tempfile::tempdir().expect("temporary directory");
        let dir = ClusterDir::new(&temporary.path().join("c")).expect("a path");
        let begun = init::begin(&dir, Width { data: 2, parity: 1 }, ANY_PORT).expect("begun");
        init::add_agent(&dir, ANY_PORT).expect("made");
        init::add_monitors(&dir, 3, ANY_PORT).expect("made");
        init::add_servers(&dir, 2, str::to_owned, |_| ANY_PORT.to_owned()).expect("made");
        begun.found(&dir, None).expect("made");
        settle(&dir).expect("settled");

        let monitor = |name: &str| MonitorFile::load(&dir.of(name)).expect("there");
        let (first, second) = (monitor("monitor-1"), monitor("monitor-2"));
        let all = ClientFile::load(&dir.client()).expect("there").monitors;
        assert_eq!(all.len(), 3);
        assert!(all.iter().all(|address| !address.ends_with(":0")), "{all:?}");
        assert_eq!(first.monitors.len(), 2);
        assert!(second.monitors.contains(&first.listen) && second.new_cluster.is_none());
        assert!(first.agent.is_some_and(|agent| !agent.ends_with(":0")));
        let server = ServerFile::load(&dir.of("server-2")).expect("there");
        assert_eq!(server.monitors, all);

        settle(&dir).expect("settled");
        assert_eq!(ClientFile::load(&dir.client()).expect("there").monitors, all, "they are kept");
        let taken = TcpListener::bind(&first.listen).expect("it is free");
        settle(&dir).expect("settled");
        let moved = monitor("monitor-1").listen;
        assert_ne!(moved, first.listen);
        assert!(monitor("monitor-3").monitors.contains(&moved), "the others know");
        drop(taken);
    }
}
