//! What to do where a server has the store that a command wants for itself.
//!
//! It refuses to know what the command does. **Invariant:** the error stays what it is: the exit code is its.

use std::path::Path;

use super::listening::Listening;
use crate::store::{OpenError, read_note};

/// What a server does in the place of a command.
#[derive(Clone, Copy, Debug)]
pub(super) enum Instead {
    /// The same command asks it; what it must allow.
    Ask(&'static str, &'static str),
    /// Nothing; what to do.
    Stop(&'static str),
}

/// The same, with what to do instead if another process has `data_dir`.
pub(super) fn or_ask<T>(
    result: Result<T, OpenError>,
    data_dir: &Path,
    instead: Instead,
) -> anyhow::Result<T> {
    result.map_err(|error| match error {
        OpenError::Held { .. } => {
            let advice = advice(data_dir, instead);
            anyhow::Error::from(error).context(advice)
        }
        error => error.into(),
    })
}

fn advice(data_dir: &Path, instead: Instead) -> String {
    let (verb, must) = match instead {
        Instead::Ask(verb, must) => (verb, must),
        Instead::Stop(advice) => return advice.into(),
    };
    // Only for the advice, which says URL without it.
    let note = read_note(data_dir).ok().flatten();
    let url = note.and_then(|note| {
        let listening = Listening::parse(&note);
        Some(listening.for_clients()?.to_string())
    });
    let url = url.as_deref().unwrap_or("URL");
    format!("ask the server that has it, `digestd {verb} --url {url}`, which must {must}")
}
