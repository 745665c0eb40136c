//! What a command sets up before its work: a log, a runtime, a store.
//!
//! It refuses to know what the work is.

use anyhow::Context;
use tokio::runtime::Runtime;

use crate::config::{self, LogConfig};
use crate::logging;
use crate::store::{DataDirectory, Durability, EmbeddedStore, OpenError, Options};

/// For commands that open a store, which tells the log what it meets.
pub(super) fn with_log(command: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let logs = logging::init(&LogConfig::default())?;
    let result = command();
    logs.flush();
    result
}

/// For talking to one server.
pub(super) fn client_runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start")
}

/// Opens a store for work on all of it.
pub(super) fn open(directory: DataDirectory) -> Result<EmbeddedStore, OpenError> {
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
