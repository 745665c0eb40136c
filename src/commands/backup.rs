//! `digestd backup`: a copy that is a store.

use super::progress::Bar;
use super::{Findings, plural, say};
use crate::cli::BackupArgs;
use crate::store::{self, Method};

/// Copies a store, or brings a copy up to date.
///
/// # Errors
/// [`Findings`] if the disk could not read everything; else see [`store::back_up`].
pub fn back_up(arguments: &BackupArgs) -> anyhow::Result<()> {
    let method = if arguments.hard_link {
        Method::HardLink
    } else {
        Method::Copy
    };
    let bar = Bar::of_segments();
    let progress = |done: u32, total: u32| {
        bar.set_total(total.into());
        bar.set(done.into());
    };
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
    Ok(Findings::none_of(done.unreadable.len() as u64)?)
}
