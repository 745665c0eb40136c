//! `digestd healthcheck`: asks a server whether it is ready.

use std::net::SocketAddr;

use clap::Args;

use super::addresses::{default_listen, reachable};
use super::options::UsageError;

/// Options of `healthcheck`.
#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// Address of the server [default: where a server listens that has the same environment]
    #[arg(long, value_name = "URL", env = "DIGESTD_URL")]
    url: Option<String>,

    #[arg(hide = true, long, env = "DIGESTD_LISTEN", value_delimiter = ',')]
    listen: Vec<SocketAddr>,
}

impl HealthcheckArgs {
    /// The address to ask.
    ///
    /// # Errors
    /// If the environment makes no sense.
    pub fn url(self) -> Result<String, UsageError> {
        if let Some(url) = self.url {
            return Ok(url);
        }
        let listen = if self.listen.is_empty() {
            default_listen(false)?
        } else {
            self.listen
        };
        let address = listen.first().ok_or(UsageError("there is no address"))?;
        Ok(format!("http://{}", reachable(*address)))
    }
}
