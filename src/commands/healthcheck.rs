//! `digestd healthcheck`: asks a server whether it is ready.
//!
//! Where it is, the server itself says: in the note beside its lock. It refuses to know a token: health needs
//! none. **Invariants:** it ends within seconds, whatever the server does; another server in the place of the noted
//! one does not count.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::Args;
use tokio::time::timeout;

use super::addresses::{Endpoint, or_default};
use super::listening::{Kind, Listening, Place};
use super::options::{List, TrustArgs, UsageError};
use super::output::say;
use super::setup::block_on;
use crate::client::{Client, ServerUrl, Trust, Unreachable};
use crate::config;
use crate::store::{is_held, read_note};

/// Containers are asked every few seconds, and a server that takes longer is not well.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A place that does not answer leaves time for the next one, and for what container engines give in all.
const PLACE_TIMEOUT: Duration = Duration::from_secs(2);

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Address of the server [default: what the running server notes in its data directory, or else where one listens
    /// that has the same environment]
    #[arg(long, value_name = "URL", env = "DIGESTD_URL")]
    url: Option<String>,
    #[command(flatten)]
    trust: TrustArgs,

    /// Data directory of the server
    #[arg(long, env = "DIGESTD_DATA_DIR")]
    #[arg(value_name = "DIR", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// Read where nothing else says where the server is.
    #[arg(hide = true, long, env = "DIGESTD_LISTEN")]
    listen: Vec<String>,

    #[arg(hide = true, long, env = "DIGESTD_ADMIN_LISTEN")]
    admin_listen: Vec<String>,
}

/// Asks the server.
pub(super) fn run(arguments: HealthcheckArgs) -> anyhow::Result<()> {
    block_on(async {
        timeout(HEALTHCHECK_TIMEOUT, ask(arguments))
            .await
            .context("the server did not answer in time")?
    })
}

async fn ask(arguments: HealthcheckArgs) -> anyhow::Result<()> {
    if let Some(url) = arguments.url {
        return arguments.trust.client(&url)?.check().await;
    }
    let data_dir = &arguments.data_dir;
    let note = read_note(data_dir).unwrap_or_else(|error| {
        say(&format!(
            "{error}: where the server is, is not known; asking where one listens that has this environment"
        ));
        None
    });
    if let Some(note) = note {
        let result = ask_noted(data_dir, &note).await;
        return match read_note(data_dir) {
            // The server has another certificate since, or another one has started.
            Ok(Some(newer)) if result.is_err() && newer != note => {
                ask_noted(data_dir, &newer).await
            }
            _ => result,
        };
    }
    let place = |kind| {
        move |address| Place {
            kind,
            address,
            certificate: None,
        }
    };
    let admin = addresses(&arguments.admin_listen)?.into_iter();
    let admin = admin.map(place(Kind::Admin));
    let plain = or_default(addresses(&arguments.listen)?, false)?.into_iter();
    ask_places(&Listening::new(
        admin.chain(plain.map(place(Kind::Http))).collect(),
    ))
    .await
}

/// The addresses in `lists`. Nobody is asked through a socket file.
fn addresses(lists: &[String]) -> Result<Vec<SocketAddr>, UsageError> {
    let lists: Result<Vec<List<Endpoint>>, _> = lists.iter().map(|list| list.parse()).collect();
    let wrong = "DIGESTD_LISTEN and DIGESTD_ADMIN_LISTEN must be addresses like 127.0.0.1:8080";
    lists
        .map(|lists| Endpoint::join(lists).0)
        .map_err(|_| UsageError(wrong.into()))
}

/// Asks where the holder of `data_dir` says that it is.
async fn ask_noted(data_dir: &Path, note: &str) -> anyhow::Result<()> {
    ask_places(&Listening::parse(note)).await?;
    ensure!(
        is_held(data_dir),
        "no server has {} open; another one answers where the last one was",
        data_dir.display()
    );
    Ok(())
}

/// Asks one place after the other, until one of them answers.
async fn ask_places(listening: &Listening) -> anyhow::Result<()> {
    let mut failure = None;
    for (address, certificate) in listening.candidates() {
        let url = ServerUrl::at(address, certificate.is_some());
        let trust = certificate.map_or(Trust::System, Trust::Certificate);
        let client = Client::new(url, &trust)?;
        let answer = timeout(PLACE_TIMEOUT, client.is_ready()).await;
        match answer.unwrap_or_else(|_| Err(anyhow!("{address} did not answer in time"))) {
            Ok(ready) => return ready,
            // That it is there and does not answer says more than that it is not there.
            Err(error) if failure.is_none() || !error.is::<Unreachable>() => failure = Some(error),
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| anyhow!("the server has no address to be asked at; --admin-listen gives it one beside socket files")))
}
