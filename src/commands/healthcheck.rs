//! `digestd healthcheck`: asks a server whether it is ready.
//!
//! It refuses to know a token: health needs none. **Invariant:** it ends within seconds, whatever the server
//! does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use super::addresses::{or_default, reachable};
use super::options::{List, UsageError};
use super::setup::block_on;
use crate::client::Client;

/// Containers are asked every few seconds, and a server that takes longer is not well.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub(super) struct HealthcheckArgs {
    /// Address of the server [default: where a server listens that has the same environment]
    #[arg(long, value_name = "URL", env = "DIGESTD_URL")]
    url: Option<String>,

    #[arg(hide = true, long, env = "DIGESTD_LISTEN")]
    listen: Vec<List<SocketAddr>>,
}

impl HealthcheckArgs {
    /// The address to ask.
    ///
    /// # Errors
    /// If the environment makes no sense.
    fn url(self) -> Result<String, UsageError> {
        if let Some(url) = self.url {
            return Ok(url);
        }
        let listen = or_default(List::join(self.listen), false)?;
        let address = listen.first().ok_or(UsageError("there is no address"))?;
        Ok(format!("http://{}", reachable(*address)))
    }
}

/// Asks the server.
pub(super) fn run(arguments: HealthcheckArgs) -> anyhow::Result<()> {
    let client = Client::new(&arguments.url()?)?;
    block_on(async {
        tokio::time::timeout(HEALTHCHECK_TIMEOUT, client.check())
            .await
            .context("the server did not answer in time")?
    })
}
