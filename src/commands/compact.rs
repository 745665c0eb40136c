//! `digestd compact`: a log without what no client can ask for any more.
//!
//! It refuses to know what a log looks like. **Invariant:** a message that is damaged is reported, never
//! dropped in silence.

use bytesize::ByteSize;

use super::in_use::{Instead, or_ask};
use super::options::DataArgs;
use super::output::{IntegrityError, plural, say};
use super::progress::Bar;
use crate::config;
use crate::store::{self, CompactError, DataDirectory};

/// No server does it.
const STOP_IT: &str = "a server does not compact; stop it first (`digestd verify --url URL` checks one that runs, \
                       `digestd backup` copies its store)";

/// Writes the log of a store again.
///
/// # Errors
/// [`IntegrityError`] if messages are damaged, which they still are afterwards, or log and index do not agree; else
/// what kept it from being done.
pub(super) fn run(arguments: &DataArgs) -> anyhow::Result<()> {
    let claimed = DataDirectory::claim_existing(&arguments.data_dir);
    let directory = or_ask(claimed, &arguments.data_dir, Instead::Stop(STOP_IT))?;
    let bar = Bar::of_bytes();
    let progress = |done, total| bar.set(done, total);
    let cache_bytes = config::default_cache_bytes();
    let compacted = store::compact(&directory, cache_bytes, &progress, |finding| {
        bar.aside(|| say(&finding.to_string()));
    });
    drop(bar);
    let done = compacted.map_err(|error| match error {
        CompactError::Inconsistent(count) => {
            say(&format!("left as it is: {error}"));
            IntegrityError(count).into()
        }
        CompactError::Store(error) => anyhow::Error::from(error),
    })?;
    say(&format!(
        "{}; the log took {} and takes {}",
        plural(done.messages, "message"),
        ByteSize(done.bytes_before),
        ByteSize(done.bytes_after)
    ));
    if done.damaged > 0 {
        say(&format!(
            "{} damaged and taken along as it is: post it again",
            plural(done.damaged, "message")
        ));
    }
    Ok(IntegrityError::if_any(done.damaged)?)
}
