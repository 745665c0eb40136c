//! The operator's verbs: what is done to a whole store at once.
//!
//! A verb takes checked arguments and says what it did: results on standard output, trouble and
//! progress on standard error, the rest with the exit code. What needs the inside of a store is the
//! store's; this room opens, counts and prints.

mod archive;
mod backup;
mod compact;
mod crash;
mod doctor;
mod export;
mod import;
mod progress;
mod put;
mod verify;

use std::io::{self, Write};

use anyhow::Context;
use tokio::runtime::Runtime;

pub(crate) use self::archive::Form;
pub use self::backup::back_up;
pub use self::compact::compact;
pub use self::crash::crash_writer;
pub use self::doctor::doctor;
pub use self::export::export;
pub use self::import::import;
pub use self::put::put_batch;
pub use self::verify::verify;
use crate::config;
use crate::store::{DataDirectory, Durability, EmbeddedStore, OpenError, Options};

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
