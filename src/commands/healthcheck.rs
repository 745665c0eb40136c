//! `digestd healthcheck`: asks a server whether it is ready.
//!
//! Where it is, the server itself says: in the note beside its lock. It refuses to know a token: health needs
//! none. **Invariants:** it ends within seconds, whatever the server does; another server in the place of the noted
//! one does not count.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use clap::Args;
use tokio::time::timeout;

use super::addresses::{Endpoint, is_port_set, or_default};
use super::listening::{Kind, Listening, Place};
use super::options::{List, TrustArgs, UsageError};
use super::output::say;
use super::setup::block_on;
use crate::client::{Client, Trust, Unreachable};
use crate::config;
use crate::store::{is_held, is_store, read_note};

/// Containers are asked every few seconds, and a server that takes longer is not well.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A place that does not answer leaves time for the next one, and for what container engines give in all.
const PLACE_TIMEOUT: Duration = Duration::from_secs(2);

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Address of the server, or `unix:/path` of its socket file [default: what the running server notes in its data
    /// directory, or else where one listens that has the same environment]
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
    let note = read_note(data_dir);
    if let Ok(Some(note)) = note {
        let result = ask_noted(data_dir, &note).await;
        return match read_note(data_dir) {
            // The server has another certificate since, or another one has started.
            Ok(Some(newer)) if result.is_err() && newer != note => {
                ask_noted(data_dir, &newer).await
            }
            _ => result,
        };
    }
    let places = of_environment(&arguments)?;
    let advice = "name its address with --url, or its data directory with --data-dir";
    match note {
        // Any server could be where one listens by default.
        Err(error) if places.is_empty() => {
            bail!("{error}: where the server is, is not known; {advice}")
        }
        Err(error) => say(&format!(
            "{error}: where the server is, is not known; asking where one listens that has this environment"
        )),
        Ok(_) if places.is_empty() => bail!("{}; {advice}", silence(data_dir)),
        Ok(_) => {}
    }
    ask_places(&Listening::new(places)).await
}

/// Why nothing is known of the server of `data_dir`.
fn silence(data_dir: &Path) -> String {
    let directory = data_dir.display();
    match (data_dir.is_dir(), is_store(data_dir)) {
        (false, _) => format!("there is no directory {directory}"),
        (true, false) => format!("{directory} is not a data directory"),
        (true, true) => format!("no server says in {directory} where it listens"),
    }
}

/// Where a server listens that has the same environment; none if that says nothing.
fn of_environment(arguments: &HealthcheckArgs) -> Result<Vec<Place>, UsageError> {
    let place = |kind| {
        move |endpoint| Place {
            kind,
            endpoint,
            certificate: None,
        }
    };
    let admin = endpoints(&arguments.admin_listen)?;
    let mut plain = endpoints(&arguments.listen)?;
    if plain.is_empty() && (is_port_set() || !admin.is_empty()) {
        let default = or_default(Vec::new(), false)?;
        plain = default.into_iter().map(Endpoint::Address).collect();
    }
    let admin = admin.into_iter().map(place(Kind::Admin));
    Ok(admin
        .chain(plain.into_iter().map(place(Kind::Http)))
        .collect())
}

fn endpoints(lists: &[String]) -> Result<Vec<Endpoint>, UsageError> {
    let lists: Result<Vec<List<Endpoint>>, _> = lists.iter().map(|list| list.parse()).collect();
    let wrong = "DIGESTD_LISTEN and DIGESTD_ADMIN_LISTEN must be addresses like 127.0.0.1:8080";
    lists.map(List::join).map_err(|_| UsageError(wrong.into()))
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
    for (url, certificate) in listening.candidates() {
        let name = url.to_string();
        let trust = certificate.map_or(Trust::System, Trust::Certificate);
        let client = Client::new(url, &trust)?;
        let answer = timeout(PLACE_TIMEOUT, client.is_ready()).await;
        match answer.unwrap_or_else(|_| Err(anyhow!("{name} did not answer in time"))) {
            Ok(ready) => return ready,
            // That it is there and does not answer says more than that it is not there.
            Err(error) if failure.is_none() || !error.is::<Unreachable>() => failure = Some(error),
            Err(_) => {}
        }
    }
    Err(failure.unwrap_or_else(|| {
        anyhow!("the server has no address to be asked at; --admin-listen gives it one")
    }))
}
