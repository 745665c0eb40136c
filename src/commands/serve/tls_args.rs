//! Options of `digestd serve` about TLS, and their conversion.
//!
//! It refuses to read a certificate. **Invariant:** there are addresses for TLS only with a certificate, and a
//! certificate only with addresses.

use std::path::PathBuf;

use clap::Args;

use crate::commands::addresses::Address;
use crate::commands::options::{List, UsageError};
use crate::config::{CertificateConfig, TlsConfig};

#[derive(Debug, Args)]
#[command(next_help_heading = "TLS")]
#[expect(clippy::struct_field_names, reason = "the names of the options")]
pub(super) struct TlsArgs {
    /// Address to listen on for HTTPS; may be given several times. Without --listen there is no
    /// plain HTTP then
    #[arg(long, value_name = "ADDR")]
    tls_listen: Vec<List<Address>>,

    /// Certificate, and those between it and a root, in PEM; read again on SIGHUP and when it changes
    #[arg(long, value_name = "PATH")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "PATH")]
    tls_key: Option<PathBuf>,

    /// Make a certificate for this machine once, as localhost.crt in the data directory
    #[arg(long)]
    tls_self_signed: bool,
}

impl TlsArgs {
    pub(super) fn into_config(self) -> Result<Option<TlsConfig>, UsageError> {
        let certificate = match (self.tls_cert, self.tls_key, self.tls_self_signed) {
            (None, None, false) => None,
            (None, None, true) => Some(CertificateConfig::SelfSigned),
            (Some(certificate), Some(key), false) => {
                Some(CertificateConfig::Files { certificate, key })
            }
            (_, _, true) => {
                return Err(UsageError(
                    "--tls-self-signed makes a certificate; it does not go with --tls-cert and --tls-key".into(),
                ));
            }
            _ => return Err(UsageError("--tls-cert and --tls-key go together".into())),
        };
        match (Address::join(self.tls_listen), certificate) {
            (listen, None) if listen.is_empty() => Ok(None),
            (listen, Some(_)) if listen.is_empty() => Err(UsageError(
                "a certificate is of no use without --tls-listen".into(),
            )),
            (_, None) => Err(UsageError(
                "--tls-listen needs --tls-cert and --tls-key, or --tls-self-signed".into(),
            )),
            (listen, Some(certificate)) => Ok(Some(TlsConfig {
                listen,
                certificate,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        tls: TlsArgs,
    }

    fn tls(arguments: &[&str]) -> anyhow::Result<Option<TlsConfig>> {
        let cli = Cli::try_parse_from([&["digestd"], arguments].concat())?;
        Ok(cli.tls.into_config()?)
    }

    #[test]
    fn tls_has_no_spelling_without_a_certificate_or_without_an_address() {
        for arguments in [
            &["--tls-listen", "127.0.0.1:1"][..],
            &["--tls-self-signed"],
            &["--tls-cert", "a", "--tls-key", "b"],
            &["--tls-listen", "127.0.0.1:1", "--tls-cert", "a"],
            &["--tls-listen", "127.0.0.1:1", "--tls-key", "b"],
            &[
                "--tls-listen",
                "127.0.0.1:1",
                "--tls-self-signed",
                "--tls-key",
                "b",
            ],
        ] {
            assert!(tls(arguments).is_err(), "{arguments:?}");
        }
    }
}
