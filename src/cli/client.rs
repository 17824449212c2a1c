//! `okapifs client`: what the clients of the cluster may do.

use anyhow::bail;

use super::admin::{Admin, block_on, unexpected};
use super::{find, policy, say};
use crate::wire::trust::{ClientEntry, Request, Response};

/// The clients, which mount the cluster, and what they may do.
#[derive(clap::Subcommand, Debug)]
pub(super) enum Command {
    /// Show all clients that have joined, and what each may do.
    List,
    Set(Set),
    /// Take everything back: the client's mounts end, and its certificate is of no use any more, for ever.
    Revoke {
        /// The client's name.
        name: String,
    },
}

/// Change what a client may do.
///
/// The monitors hold its mounts to `--ro` and `--subtree` at once; ids are mapped from its next mount on, by the
/// client itself.
#[derive(clap::Args, Debug)]
pub(super) struct Set {
    /// The client's name.
    name: String,

    #[command(flatten)]
    policy: policy::Arguments,
}

pub(super) fn run(command: &Command, cluster: Option<&str>) -> anyhow::Result<()> {
    let cluster = find::cluster(cluster)?;
    block_on(async {
        let admin = Admin::connect(&cluster).await?;
        match command {
            Command::List => list(&admin).await,
            Command::Set(arguments) => set(arguments, &admin).await,
            Command::Revoke { name } => {
                admin.ask_trust(Request::RevokeClient { name: name.clone() }).await?;
                Ok(())
            }
        }
    })
}

async fn list(admin: &Admin) -> anyhow::Result<()> {
    let mut rows = vec![["CLIENT", "MAY"].map(str::to_owned).to_vec()];
    rows.extend(clients(admin).await?.into_iter().map(|client| {
        let may = match client.revoked {
            true => "nothing: revoked".to_owned(),
            false => policy::describe(&client.policy),
        };
        vec![client.name, may]
    }));
    say::table(&rows);
    Ok(())
}

async fn set(arguments: &Set, admin: &Admin) -> anyhow::Result<()> {
    let name = arguments.name.clone();
    let known = clients(admin).await?.into_iter().find(|client| client.name == name);
    let Some(known) = known else {
        bail!("there is no client {name}; `okapifs client list` shows all");
    };
    let policy = arguments.policy.change(known.policy)?;
    admin.ask_trust(Request::SetClient { name, policy }).await?;
    Ok(())
}

async fn clients(admin: &Admin) -> anyhow::Result<Vec<ClientEntry>> {
    match admin.ask_trust(Request::Clients).await? {
        Response::Clients(clients) => Ok(clients),
        _ => Err(unexpected()),
    }
}
