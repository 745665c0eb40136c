//! The operator's verbs: what is done to a whole store at once.
//!
//! A verb takes checked arguments and says what it did: results on standard output, trouble and
//! progress on standard error, the rest with the exit code. What needs the inside of a store is the
//! store's; this room opens, counts and prints.

mod addresses;
mod archive;
mod backup;
mod compact;
mod crash;
mod doctor;
mod export;
mod get;
mod healthcheck;
mod import;
mod options;
mod progress;
mod put;
mod serve;
mod token;
mod verify;

use std::io::{self, Write};

use anyhow::Context;
use clap::{Parser, Subcommand};
use tokio::runtime::Runtime;

pub use self::backup::{BackupArgs, back_up};
pub use self::compact::compact;
pub use self::crash::{CrashWriterArgs, crash_writer};
pub use self::doctor::{DoctorArgs, doctor};
pub use self::export::{ExportArgs, export};
pub use self::get::GetArgs;
pub use self::healthcheck::HealthcheckArgs;
pub use self::import::{ImportArgs, import};
pub use self::options::{CredentialArgs, DataArgs, ServerArgs, TextArgs, UsageError};
pub use self::put::{PutArgs, put_batch};
pub use self::serve::ServeArgs;
pub use self::token::{NewTokenArgs, TokenArgs, TokenCommand};
pub use self::verify::{VerifyArgs, verify};
use crate::config;
use crate::store::{DataDirectory, Durability, EmbeddedStore, OpenError, Options};

const EXIT_CODES: &str = "\
Exit codes: 0 done, 1 failure, 2 usage, 3 integrity findings, 4 the data directory is held by
another process, 5 cannot bind, 6 not found, 7 server unreachable.";

/// Keeps messages and finds them by their SHA-256 digest.
///
/// Without a command it serves, like `digestd serve`.
#[derive(Debug, Parser)]
#[command(version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

impl Cli {
    /// What is to be done.
    #[must_use]
    pub fn into_command(self) -> Command {
        self.command
            .unwrap_or_else(|| Command::Serve(Box::new(self.serve)))
    }
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve messages over HTTP (the default)
    Serve(Box<ServeArgs>),
    /// Print the digest of a text; needs no server
    Hash(TextArgs),
    /// Store a text on a server and print its digest
    Put(PutArgs),
    /// Print the text with a digest, exactly as it was stored
    Get(GetArgs),
    /// Read a data directory from end to end and name everything that is not as promised
    Verify(VerifyArgs),
    /// Write all messages of a store, or of a server, into a file
    Export(ExportArgs),
    /// Store all messages of an export, each checked; run it again to go on
    Import(ImportArgs),
    /// Copy a store, also one that is being served; run it again to bring the copy up to date
    Backup(BackupArgs),
    /// Write the log of a store again, without what was deleted, or damaged and posted again
    Compact(DataArgs),
    /// Examine whether a directory is a good place for a store
    Doctor(DoctorArgs),
    /// Write messages until killed; for `doctor`
    #[command(hide = true)]
    CrashWriter(CrashWriterArgs),
    /// Ask a server whether it is ready; for container engines and supervisors
    Healthcheck(HealthcheckArgs),
    /// Make a token for a client of a server with --tokens
    Token(TokenArgs),
}

/// Something is not as promised; what, was said one by one.
#[derive(Debug, thiserror::Error)]
#[error("{}", plural(*.0, "finding"))]
pub struct Findings(u64);

impl Findings {
    /// An error if there are any.
    fn none_of(count: u64) -> Result<(), Self> {
        if count == 0 { Ok(()) } else { Err(Self(count)) }
    }
}

/// Says something to the operator beside the result.
fn say(text: &str) {
    // Nobody may be reading any more; the exit code says it too.
    let _ = writeln!(io::stderr(), "digestd: {text}");
}

/// For talking to one server.
fn client_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

/// Opens a store for work on all of it.
fn open(directory: DataDirectory) -> Result<EmbeddedStore, OpenError> {
    let options = Options {
        durability: Durability::Disk,
        index_cache_bytes: config::default_cache_bytes(),
        // Nothing is read twice.
        message_cache_bytes: 0,
        message_bytes_max: directory.message_bytes_max(),
        free_bytes_min: None,
        observer: None,
    };
    EmbeddedStore::open(directory, options, &|_| ())
}

/// `1 finding`, `2 findings`.
fn plural(count: u64, noun: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{ending}")
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_lines_are_consistent() {
        Cli::command().debug_assert();
    }
}
