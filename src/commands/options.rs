//! Arguments that several commands share, and how their values are read.
//!
//! It refuses to know what a command does with them. **Invariant:** parsing reads the command line and the
//! environment; files and standard input are read when a command asks for them.

use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use bytesize::ByteSize;
use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use super::exposure::{Purpose, exposures};
use super::output::say;
use crate::client::Client;
use crate::config;

/// Arguments that are well formed and make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) &'static str);

/// Parses the name of one of `values`; the help lists the names.
pub(super) fn one_of<T, const N: usize>(
    values: [(&'static str, T); N],
) -> impl TypedValueParser<Value = T>
where
    T: Copy + Send + Sync + 'static,
{
    let names = PossibleValuesParser::new(values.map(|(name, _)| name));
    names.try_map(move |given| {
        let value = values.iter().find(|(name, _)| *name == given);
        value.map(|(_, value)| *value).ok_or("unknown")
    })
}

/// A number of bytes, which is written with a unit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size(pub(super) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(|size: ByteSize| Self(size.as_u64()))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")].into_iter();
        let mut exact = units.filter(|(shift, _)| self.0 > 0 && self.0.trailing_zeros() >= *shift);
        let (shift, unit) = exact.next().unwrap_or((0, "B"));
        write!(f, "{}{unit}", self.0 >> shift)
    }
}

/// A text from the command line, a file, or standard input.
#[derive(Debug, Args)]
pub(super) struct TextArgs {
    /// The text; `-`, or nothing at all, reads standard input to its end
    #[arg(allow_hyphen_values = true, conflicts_with = "file")]
    text: Option<OsString>,

    /// Read the text from a file, every byte of it
    #[arg(long, short, value_name = "PATH")]
    file: Option<PathBuf>,
}

impl TextArgs {
    /// Reads the text.
    ///
    /// # Errors
    /// If it cannot be read or is not UTF-8.
    pub(super) fn read(self) -> anyhow::Result<String> {
        let bytes = match (self.text, self.file) {
            (_, Some(path)) => read_file(&path)?,
            (Some(text), None) if text != "-" => text.into_encoded_bytes(),
            (_, None) => read_stdin()?,
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => bail!(
                "the text is not UTF-8: invalid byte at offset {}",
                error.utf8_error().valid_up_to()
            ),
        }
    }
}

fn read_file(path: &Path) -> anyhow::Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_stdin() -> anyhow::Result<Vec<u8>> {
    let mut input = std::io::stdin().lock();
    if input.is_terminal() {
        let _ = writeln!(
            std::io::stderr(),
            "Type the text, then press Ctrl-D on a line of its own."
        );
    }
    let mut bytes = Vec::new();
    input
        .read_to_end(&mut bytes)
        .context("cannot read standard input")?;
    Ok(bytes)
}

/// Where the server is, and what it wants to see.
#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Address of the server
    #[arg(long, env = "DIGESTD_URL")]
    #[arg(value_name = "URL", default_value_t = format!("http://{}", config::ADDRESS))]
    url: String,
    #[command(flatten)]
    credential: CredentialArgs,
}

impl ServerArgs {
    /// Speaks to the server, and shows it the token if there is one.
    ///
    /// # Errors
    /// If the address makes no sense, or the file of the token cannot be read or does not hold one.
    pub fn client(&self) -> anyhow::Result<Client> {
        self.credential.client(&self.url)
    }
}

/// What the server wants to see. Not the token itself: every user of the machine sees command lines.
#[derive(Debug, Args)]
pub(super) struct CredentialArgs {
    /// File with the token that the server wants to see; nobody else should be able to read it
    #[arg(long, value_name = "PATH", env = "DIGESTD_TOKEN_FILE")]
    token_file: Option<PathBuf>,
}

impl CredentialArgs {
    /// Speaks to the server at `url`, and shows it the token if there is one.
    ///
    /// # Errors
    /// If `url` makes no sense, or the file cannot be read or does not hold a token.
    pub(super) fn client(&self, url: &str) -> anyhow::Result<Client> {
        let client = Client::new(url)?;
        let Some(path) = &self.token_file else {
            return Ok(client);
        };
        let bytes = read_file(path)?;
        let token = str::from_utf8(&bytes).ok().map(str::trim_ascii);
        let client = token.and_then(|token| client.with_token(token));
        let client = client.with_context(|| format!("{} does not hold a token", path.display()))?;
        exposures(path, Purpose::Secret).for_each(|exposure| say(&exposure));
        Ok(client)
    }
}

/// A data directory.
#[derive(Debug, Args)]
pub(super) struct DataArgs {
    /// Directory of the store, which no server has open
    #[arg(long, env = "DIGESTD_DATA_DIR")]
    #[arg(value_name = "DIR", default_value = config::DATA_DIR)]
    pub(super) data_dir: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_is_printed_as_it_may_be_written() {
        for text in ["0B", "1B", "1023B", "64KiB", "3MiB", "1GiB", "1025MiB"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
    }
}
