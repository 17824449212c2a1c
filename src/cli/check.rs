//! `okapifs check`: is everything there that should be, and is it right?
//!
//! Two passes, both while the cluster is in use. The monitors check their own records: references, link counts,
//! maps. Then all stripes are walked in portions, and each server is asked for the shards it should have; with
//! `--data` it reads every block of them. A stripe that is deleted meanwhile is no problem: what looks wrong is
//! looked at again before it is told.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::join_all;
use indicatif::ProgressBar;

use super::admin::{self, Admin, unexpected};
use super::locate::server_text;
use super::{find, say};
use crate::crypto::Role;
use crate::env::system::rpc::Connection;
use crate::types::{
    Ino, PlacementMap, ServerId, ShardHash, ShardIndex, StripeId, StripeRecord, TICKET_LIFE,
};
use crate::wire;
use crate::wire::admin::{Request, Response};
use crate::wire::shards::{self, ShardId, Verdict};

/// Check that every reference, extent and shard is there and right; the cluster stays in use.
///
/// Ends with 0 when nothing is wrong, with 1 when something is.
#[derive(clap::Args, Debug)]
pub(super) struct Arguments {
    /// A path inside a mount: its cluster.
    path: Option<PathBuf>,

    /// Read and verify every block of every shard too.
    #[arg(long)]
    data: bool,
}

/// Stripes that are checked at a time: few enough that a deep question stays below its limit.
const PORTION: u32 = 64;
/// How long a server may take to verify a portion.
const VERIFY: Duration = Duration::from_secs(120);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

pub(super) fn run(arguments: &Arguments, cluster: Option<&str>) -> anyhow::Result<ExitCode> {
    let cluster = match &arguments.path {
        Some(path) => find::cluster_of(path, cluster)?,
        None => find::cluster(cluster)?,
    };
    let deep = arguments.data;
    admin::block_on(async {
        let mut check = Check::begin(&cluster, deep).await?;
        check.records().await?;
        check.stripes().await?;
        Ok(check.conclude())
    })
}

/// A check that goes on.
struct Check {
    admin: Admin,
    placement: PlacementMap,
    /// By server; none where it cannot be reached.
    servers: HashMap<ServerId, Connection>,
    /// When the servers last saw tickets.
    admitted: Option<Instant>,
    deep: bool,
    records: u64,
    stripes: u64,
    problems: u64,
}

/// A shard that is not as its stripe's record says.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Wrong {
    index: usize,
    server: ServerId,
    what: String,
}

impl Check {
    async fn begin(cluster: &find::Cluster, deep: bool) -> anyhow::Result<Self> {
        let admin = Admin::connect(cluster).await?;
        let placement = admin.placement().await?;
        let opening = placement.servers.iter().map(|server| async {
            let opened = Connection::open(
                &server.address,
                &cluster.credentials,
                Role::Server,
                admin.incarnation(),
                CONNECT,
            );
            (server.id, opened.await)
        });
        let mut servers = HashMap::new();
        for (id, opened) in join_all(opening).await {
            match opened {
                Ok((connection, _)) => {
                    servers.insert(id, connection);
                }
                Err(error) => say::note(format_args!(
                    "{} cannot be reached: {error}",
                    server_text(&placement, id)
                )),
            }
        }
        let admitted = None;
        Ok(Self { admin, placement, servers, admitted, deep, records: 0, stripes: 0, problems: 0 })
    }

    /// Shows the servers that this command may read; again before they have forgotten it.
    async fn be_admitted(&mut self) -> anyhow::Result<()> {
        if self.admitted.is_some_and(|at| at.elapsed() < TICKET_LIFE / 3) {
            return Ok(());
        }
        let tickets = self.admin.tickets().await?;
        let showing = self.servers.iter().map(|(server, connection)| {
            let theirs = tickets.iter().filter(|signed| signed.ticket.server == *server);
            let admit = shards::Request::Admit(theirs.copied().collect());
            async move { (*server, ask(connection, &admit, CONNECT).await) }
        });
        for (server, answer) in join_all(showing).await {
            if let Err(error) = answer {
                log::warn!("server {server} does not let this command read: {error:#}");
            }
        }
        self.admitted = Some(Instant::now());
        Ok(())
    }

    /// The monitors' own records.
    async fn records(&mut self) -> anyhow::Result<()> {
        let mut cursor = Some(Vec::new());
        while let Some(at) = cursor {
            let answer = self.admin.ask(&Request::Check { cursor: at }).await?;
            let Response::Checked { records, problems, cursor: next } = answer else {
                return Err(unexpected());
            };
            self.records += records;
            for problem in problems {
                self.problem(problem);
            }
            cursor = next;
        }
        Ok(())
    }

    /// The shards of all stripes.
    async fn stripes(&mut self) -> anyhow::Result<()> {
        let total = self.admin.status().await?.stripes.total;
        let bar = say::progress(total, "stripes");
        let mut after = StripeId(0);
        loop {
            let (portion, end) = self.portion(after, PORTION).await?;
            if let Some((last, _)) = portion.last() {
                after = last.id;
            }
            self.stripes += portion.len() as u64;
            self.be_admitted().await?;
            self.check_portion(&portion, &bar).await?;
            bar.inc(portion.len() as u64);
            if end {
                bar.finish_and_clear();
                return Ok(());
            }
        }
    }

    async fn portion(
        &self,
        after: StripeId,
        limit: u32,
    ) -> anyhow::Result<(Vec<(StripeRecord, Vec<Ino>)>, bool)> {
        match self.admin.ask(&Request::Stripes { after, limit }).await? {
            Response::Stripes { stripes, end } => Ok((stripes, end)),
            _ => Err(unexpected()),
        }
    }

    async fn check_portion(
        &mut self,
        portion: &[(StripeRecord, Vec<Ino>)],
        bar: &ProgressBar,
    ) -> anyhow::Result<()> {
        let verdicts = self.verdicts(portion.iter().map(|(stripe, _)| stripe)).await?;
        for (stripe, files) in portion {
            if wrong_shards(stripe, &verdicts).is_empty() {
                continue;
            }
            let Some((stripe, wrong)) = self.look_again(stripe.id).await? else {
                continue;
            };
            let names = self.names(files).await?;
            bar.suspend(|| self.tell(&stripe, &wrong, &names));
        }
        Ok(())
    }

    /// What is wrong with a stripe now; `None` when it is gone or right by now.
    async fn look_again(&self, id: StripeId) -> anyhow::Result<Option<(StripeRecord, Vec<Wrong>)>> {
        let (portion, _) = self.portion(StripeId(id.0 - 1), 1).await?;
        let Some((stripe, _)) = portion.into_iter().find(|(stripe, _)| stripe.id == id) else {
            return Ok(None);
        };
        let verdicts = self.verdicts([&stripe].into_iter()).await?;
        let wrong = wrong_shards(&stripe, &verdicts);
        Ok((!wrong.is_empty()).then_some((stripe, wrong)))
    }

    /// Asks all servers at once for their shards of these stripes. No verdict where a server does not answer.
    async fn verdicts<'a>(
        &self,
        stripes: impl Iterator<Item = &'a StripeRecord>,
    ) -> anyhow::Result<HashMap<(ServerId, ShardId), Verdict>> {
        let mut wanted: BTreeMap<ServerId, Vec<ShardId>> = BTreeMap::new();
        for stripe in stripes {
            for (index, place) in (0u8..).zip(&stripe.shards) {
                wanted
                    .entry(place.server)
                    .or_default()
                    .push(ShardId { stripe: stripe.id, index: ShardIndex(index) });
            }
        }
        let asking = wanted.into_iter().map(|(server, shards)| async move {
            let verdicts = match self.servers.get(&server) {
                Some(connection) => verify(connection, &shards, self.deep).await,
                None => Ok(Vec::new()),
            };
            (server, shards, verdicts)
        });
        let mut all = HashMap::new();
        for (server, shards, verdicts) in join_all(asking).await {
            match verdicts {
                Ok(verdicts) => {
                    let named = shards.into_iter().map(|shard| (server, shard));
                    all.extend(named.zip(verdicts));
                }
                Err(error) => log::warn!("server {server} does not answer: {error:#}"),
            }
        }
        Ok(all)
    }

    async fn names(&self, files: &[Ino]) -> anyhow::Result<String> {
        let Response::Paths(paths) = self.admin.ask(&Request::Paths(files.to_vec())).await? else {
            return Err(unexpected());
        };
        let name = |(ino, path): (&Ino, Option<Vec<u8>>)| match path {
            Some(path) => format!("/{}", String::from_utf8_lossy(&path).trim_start_matches('/')),
            None => format!("inode {ino} (no name any more)"),
        };
        let names: Vec<String> = files.iter().zip(paths).map(name).collect();
        Ok(names.join(", "))
    }

    fn tell(&mut self, stripe: &StripeRecord, wrong: &[Wrong], names: &str) {
        for one in wrong {
            let server = server_text(&self.placement, one.server);
            self.problem(format!(
                "stripe {}, shard {} on {server}: {}; files: {names}",
                stripe.id, one.index, one.what
            ));
        }
        let lost = wrong.len();
        let spare = usize::from(stripe.width.parity);
        if lost > spare {
            say::line(format_args!(
                "  stripe {} CANNOT BE READ as a whole: {lost} shards are bad and it bears {spare}",
                stripe.id
            ));
        }
    }

    fn problem(&mut self, text: String) {
        self.problems += 1;
        say::line(text);
    }

    fn conclude(&self) -> ExitCode {
        let what = match self.deep {
            true => "every block read",
            false => "blocks not read, see --data",
        };
        say::line(format_args!(
            "checked {} records and {} stripes ({what}): {}",
            self.records,
            self.stripes,
            match self.problems {
                0 => "all is right".to_owned(),
                1 => "1 problem".to_owned(),
                many => format!("{many} problems"),
            }
        ));
        match self.problems {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// A server's verdicts on its shards, in their order.
async fn verify(
    connection: &Connection,
    shards: &[ShardId],
    deep: bool,
) -> anyhow::Result<Vec<Verdict>> {
    let request = shards::Request::Verify { shards: shards.to_vec(), deep };
    match ask(connection, &request, VERIFY).await? {
        shards::Response::Verdicts(verdicts) => Ok(verdicts),
        _ => Err(unexpected()),
    }
}

async fn ask(
    connection: &Connection,
    request: &shards::Request,
    timeout: Duration,
) -> anyhow::Result<shards::Response> {
    let (answer, _) = connection.call(wire::encode(request), Vec::new(), timeout).await?;
    match wire::decode(&answer).context("the server's answer makes no sense")? {
        shards::Response::Refused(refusal) => Err(refusal.into()),
        answer => Ok(answer),
    }
}

/// Compares what the servers say with what the stripe's record says.
fn wrong_shards(
    stripe: &StripeRecord,
    verdicts: &HashMap<(ServerId, ShardId), Verdict>,
) -> Vec<Wrong> {
    let places = stripe.shards.iter().enumerate();
    places
        .filter_map(|(index, place)| {
            let shard = ShardId { stripe: stripe.id, index: ShardIndex(u8::try_from(index).ok()?) };
            let what = wrong(verdicts.get(&(place.server, shard)), place.hash)?;
            Some(Wrong { index, server: place.server, what })
        })
        .collect()
}

fn wrong(verdict: Option<&Verdict>, expected: ShardHash) -> Option<String> {
    match verdict {
        Some(Verdict::Present { hash }) if *hash == expected => None,
        Some(Verdict::Present { .. }) => Some("another content is there".to_owned()),
        Some(Verdict::Missing) => Some("missing".to_owned()),
        Some(Verdict::Damaged { blocks }) if blocks.is_empty() => Some("damaged header".to_owned()),
        Some(Verdict::Damaged { blocks }) => Some(format!("damaged blocks {blocks:?}")),
        None => Some("the server does not answer".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Codec, ShardPlace, Width};

    #[test]
    fn what_is_missing_damaged_or_other_is_found() {
        let hash = ShardHash([7; 16]);
        let place = |server| ShardPlace { server: ServerId(server), hash };
        let stripe = StripeRecord {
            id: StripeId(9),
            width: Width { data: 2, parity: 2 },
            codec: Codec::ReedSolomon,
            length: 1,
            shards: (1..=4).map(place).collect(),
        };
        let verdict = |index: u8, verdict| {
            let shard = ShardId { stripe: StripeId(9), index: ShardIndex(index) };
            ((ServerId(u64::from(index) + 1), shard), verdict)
        };
        let verdicts = HashMap::from([
            verdict(0, Verdict::Present { hash }),
            verdict(1, Verdict::Present { hash: ShardHash([8; 16]) }),
            verdict(2, Verdict::Damaged { blocks: vec![3] }),
        ]);
        let wrong = wrong_shards(&stripe, &verdicts);
        let told: Vec<(usize, &str)> = wrong.iter().map(|one| (one.index, &*one.what)).collect();
        assert_eq!(
            told,
            [
                (1, "another content is there"),
                (2, "damaged blocks [3]"),
                (3, "the server does not answer"),
            ]
        );
    }
}
