//! `digestd backup`: a copy that is a store.
//!
//! It refuses to know what a log looks like: the store copies, this counts and prints. **Invariant:** what
//! the disk could not read is reported and makes the exit code 3.

use std::path::{Path, PathBuf};

use clap::Args;

use super::options::UsageError;
use super::output::{IntegrityError, plural, say};
use super::progress::Bar;
use crate::config;
use crate::store::{self, Method};

/// Options of `backup`.
#[derive(Debug, Args)]
pub(super) struct BackupArgs {
    /// A new directory, or an earlier backup of this store; `digestd serve --data-dir DEST` serves it
    #[arg(value_name = "DEST")]
    destination: PathBuf,

    /// Directory of the store
    #[arg(long, env = "DIGESTD_DATA_DIR")]
    #[arg(value_name = "DIR", default_value = config::DATA_DIR)]
    data_dir: PathBuf,

    /// Link the segments that do not change any more instead of copying them: quick, and no protection
    /// against damage to the disk
    #[arg(long)]
    hard_link: bool,
}

/// Copies a store, or brings a copy up to date.
///
/// # Errors
/// [`IntegrityError`] if the disk could not read everything; else see [`store::back_up`].
pub(super) fn run(arguments: &BackupArgs) -> anyhow::Result<()> {
    if arguments.destination == Path::new("-") {
        let error = "a backup is a directory; `digestd export -o -` writes to standard output";
        return Err(UsageError(error.into()).into());
    }
    let method = if arguments.hard_link {
        Method::HardLink
    } else {
        Method::Copy
    };
    let bar = Bar::of_segments();
    let progress = |done: u32, total: u32| bar.set(done.into(), total.into());
    let done = store::back_up(
        &arguments.data_dir,
        &arguments.destination,
        method,
        &progress,
    );
    drop(bar);
    let done = done?;
    say(&format!(
        "{} taken, {} kept; the copy ends in segment {} at {}",
        plural(done.taken.into(), "segment"),
        done.kept,
        done.end.segment,
        done.end.offset
    ));
    for (at, bytes) in &done.unreadable {
        say(&format!(
            "log/{} at {}: {} cannot be read, and are zeros in the copy",
            at.file_name(),
            at.offset,
            plural(*bytes, "byte")
        ));
    }
    Ok(IntegrityError::if_any(done.unreadable.len() as u64)?)
}
