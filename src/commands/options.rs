//! Arguments that several commands share, and how their values are read.
//!
//! It refuses to know what a command does with them. **Invariant:** parsing reads the command line and the
//! environment; files and standard input are read when a command asks for them.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, bail};
use clap::Args;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;

use super::exposure::{Purpose, exposures};
use super::output::say;
use crate::client::{Client, ServerUrl, Trust};
use crate::config;
use crate::file;
use crate::text::{self, NotUtf8};

/// Arguments that are well formed and make no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) Cow<'static, str>);

/// Reads the name of one of some values, in any case; the help lists the names.
#[derive(Clone)]
pub(super) struct OneOf<T>(Vec<(PossibleValue, T)>);

/// Reads the name of one of `values`.
pub(super) fn one_of<T: Clone>(values: impl IntoIterator<Item = (&'static str, T)>) -> OneOf<T> {
    let named = |(name, value)| (PossibleValue::new(name), value);
    OneOf(values.into_iter().map(named).collect())
}

/// Reads a switch, as other programs write them too.
pub(super) fn switch() -> OneOf<bool> {
    let [on, off] = ["on", "off"].map(PossibleValue::new);
    OneOf(vec![
        (on.aliases(["1", "true", "yes", "t", "y"]), true),
        (off.aliases(["0", "false", "no", "f", "n"]), false),
    ])
}

impl<T: Clone + Send + Sync + 'static> TypedValueParser for OneOf<T> {
    type Value = T;

    fn parse_ref(
        &self,
        command: &clap::Command,
        argument: Option<&clap::Arg>,
        value: &OsStr,
    ) -> Result<T, clap::Error> {
        let name = value.to_str().map(str::trim_ascii);
        let is_it =
            |(known, _): &&(PossibleValue, T)| name.is_some_and(|name| known.matches(name, true));
        if let Some((_, value)) = self.0.iter().find(is_it) {
            return Ok(value.clone());
        }
        let names = PossibleValuesParser::new(self.0.iter().map(|(known, _)| known.clone()));
        let refused = names.parse_ref(command, argument, value);
        // It does not know a name that is not here.
        refused.and(Err(
            clap::Error::new(ErrorKind::InvalidValue).with_cmd(command)
        ))
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(self.0.iter().map(|(known, _)| known.clone())))
    }
}

/// Values with commas or white space between them: what an option that may be given several times is in a
/// variable, and may be on the command line. There is at least one: a list that is empty by mistake must not
/// mean everybody.
#[derive(Clone, Debug)]
pub(super) struct List<T>(Vec<T>);

impl<T> List<T> {
    /// The values of several lists.
    pub(super) fn join(lists: Vec<Self>) -> Vec<T> {
        lists.into_iter().flat_map(|list| list.0).collect()
    }
}

impl<T: FromStr<Err: fmt::Display>> FromStr for List<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = text.split(|symbol: char| symbol == ',' || symbol.is_ascii_whitespace());
        let words = words.filter(|word| !word.is_empty());
        let read = |word: &str| word.parse().map_err(|error| format!("{word:?}: {error}"));
        let values: Vec<_> = words.map(read).collect::<Result<_, _>>()?;
        if values.is_empty() {
            return Err("there is nothing in the list".into());
        }
        Ok(Self(values))
    }
}

/// A text from the command line, a file, or standard input.
#[derive(Debug, Args)]
pub(super) struct TextArgs {
    /// The text, after `--` if it begins with `-`; `-`, or nothing at all, reads standard input to its end
    #[arg(conflicts_with = "file")]
    text: Option<OsString>,

    /// Read the text from a file, every byte of it; `-` is standard input
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
            (_, Some(path)) if path != Path::new("-") => read_file(&path)?,
            (Some(text), None) if text != "-" => text.into_encoded_bytes(),
            _ => read_stdin()?,
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text),
            Err(error) => {
                let offset = error.utf8_error().valid_up_to();
                bail!("the text is {}", NotUtf8::new(error.as_bytes(), offset))
            }
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
    /// Address of the server, or `unix:/path` of its socket file
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
    #[command(flatten)]
    trust: TrustArgs,
}

/// How a server with HTTPS proves to be the one that is meant.
#[derive(Debug, Args)]
pub(super) struct TrustArgs {
    /// With HTTPS, trust the authorities in this file, and nobody else: localhost.crt of a server with
    /// --tls-self-signed, say [default: those that this system trusts]
    #[arg(long, value_name = "FILE", env = "DIGESTD_CACERT")]
    cacert: Option<PathBuf>,

    /// With HTTPS, take any server for the one that is meant; everybody on the way can read and change everything
    #[arg(long, conflicts_with = "cacert")]
    insecure: bool,
}

impl TrustArgs {
    /// Speaks to the server at `url`, and says what is assumed and risked.
    ///
    /// # Errors
    /// If `url` makes no sense, or the authorities cannot be read.
    pub(super) fn client(&self, url: &str) -> anyhow::Result<Client> {
        let url: ServerUrl = url.parse()?;
        url.assumption()
            .iter()
            .for_each(|assumption| say(assumption));
        let trust = match &self.cacert {
            Some(file) => Trust::Authorities(file.clone()),
            None if self.insecure => {
                say(
                    "--insecure: it may be any server, and anybody on the way may read and change what is sent",
                );
                Trust::Anybody
            }
            None => Trust::System,
        };
        Client::new(url, &trust)
    }
}

impl CredentialArgs {
    /// Speaks to the server at `url`, and shows it the token if there is one.
    ///
    /// # Errors
    /// If `url` makes no sense, or the file cannot be read or does not hold a token.
    pub(super) fn client(&self, url: &str) -> anyhow::Result<Client> {
        let client = self.trust.client(url)?;
        let Some(path) = &self.token_file else {
            return Ok(client);
        };
        let bytes = file::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let token = text::read(&bytes).with_context(|| path.display().to_string())?;
        let client = client.with_token(token.trim_ascii());
        let client = client.with_context(|| format!("{} does not hold a token", path.display()))?;
        exposures(path, Purpose::Secret).for_each(|exposure| say(&exposure));
        if client.url().is_readable_on_the_way() {
            say(
                "the token is sent over plain HTTP to another machine, where it can be read on its way; use https://",
            );
        }
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
    fn a_list_has_commas_or_white_space_between_its_values_and_is_not_empty() {
        let list = |text: &str| text.parse::<List<u8>>().map(|list| list.0);
        for text in ["1,2,3", "1, 2 , 3", " 1 2\t3\n", "1,2,3,", "1\n2\r\n3\n"] {
            assert_eq!(list(text), Ok(vec![1, 2, 3]), "{text:?}");
        }
        for text in ["", " ", ",", "1,x", "1;2", "256"] {
            assert!(list(text).is_err(), "{text:?}");
        }
    }
}
