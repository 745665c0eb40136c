//! Opening: either the index that is there, completed from the checkpoint on, or one drawn from the
//! whole log.

use std::io;
use std::path::Path;

use tracing::{error, info, warn};

use super::directory::{OpenError, read_checkpoint};
use super::index::{self, Checkpoint, Index, IndexError};
use super::log::{Log, Position};
use super::recovery::{self, Damage, Recovered};

/// Messages between two lines about progress: about a second.
const PROGRESS_MESSAGES: u64 = 50_000;

/// An index that has everything the log has.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    /// Number of messages in it.
    pub(super) messages: u64,
    /// Where the log ends.
    pub(super) end: Position,
}

/// Opens the index of the directory at `path` and completes it from `log`.
pub(super) fn open_index(
    path: &Path,
    cache_bytes: u64,
    log: &Log,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Opened, OpenError> {
    let directory = path.join("index");
    let checkpoint = read_checkpoint(path, log);
    if let Some(checkpoint) = checkpoint {
        progress("checking the index".into());
        let opened = open_checked(&directory, cache_bytes, checkpoint)
            .and_then(|(index, messages)| replay(index, messages, log, checkpoint, progress));
        match opened {
            Ok(opened) => return Ok(opened),
            Err(ReplayError::Log(source)) => return Err(OpenError::io("read the log")(source)),
            Err(ReplayError::Index(reason)) => {
                warn!(%reason, "the index is unusable and is redrawn from the log");
            }
        }
    } else if log.last_segment() > 0 {
        warn!("there is no checkpoint to start from: the index is redrawn from the log");
    }
    index::remove(&directory).map_err(OpenError::io("remove the old index"))?;
    Index::open(&directory, cache_bytes)
        .map_err(ReplayError::from)
        .and_then(|index| redraw(index, log, checkpoint, progress))
        .map_err(|error| match error {
            ReplayError::Log(source) => OpenError::io("read the log")(source),
            ReplayError::Index(error) => OpenError::Index(error.to_string()),
        })
}

/// Opens the index that is there if it can be read from end to end and is not behind the
/// checkpoint. Returns the number of its messages too.
fn open_checked(
    directory: &Path,
    cache_bytes: u64,
    expected: Checkpoint,
) -> Result<(Index, u64), ReplayError> {
    if !directory.join("db").exists() {
        return Err(IndexError::new("it is missing").into());
    }
    let index = Index::open(directory, cache_bytes)?;
    let checked = index.check().and_then(|held| {
        if !held.covers(expected) {
            return Err(IndexError::new("it is behind the checkpoint"));
        }
        Ok(held.messages)
    });
    close_on_error(index, checked.map_err(ReplayError::from))
}

/// Completes an index that has everything before `checkpoint`.
fn replay(
    index: Index,
    messages: u64,
    log: &Log,
    checkpoint: Checkpoint,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Opened, ReplayError> {
    let from = checkpoint.position;
    let entered = enter(&index, messages, log, from, from, progress);
    close_on_error(index, entered).map(Opened::from)
}

/// Fills an empty index from the whole log.
fn redraw(
    index: Index,
    log: &Log,
    checkpoint: Option<Checkpoint>,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Opened, ReplayError> {
    let acked = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
    let entered = enter(&index, 0, log, Position::START, acked, progress);
    close_on_error(index, entered).map(Opened::from)
}

/// The index with what was found, or the error with the index closed in a way that cannot panic.
fn close_on_error<T>(
    index: Index,
    result: Result<T, ReplayError>,
) -> Result<(Index, T), ReplayError> {
    match result {
        Ok(found) => Ok((index, found)),
        Err(error) => {
            let _ = index.close();
            Err(error)
        }
    }
}

impl From<(Index, (u64, Position))> for Opened {
    fn from((index, (messages, end)): (Index, (u64, Position))) -> Self {
        Self {
            index,
            messages,
            end,
        }
    }
}

/// Enters what the log has from `from` on into `index`, which has `messages` messages. Returns their
/// new number and the end of the log.
fn enter(
    index: &Index,
    mut messages: u64,
    log: &Log,
    from: Position,
    acked: Position,
    progress: &(dyn Fn(String) + Sync),
) -> Result<(u64, Position), ReplayError> {
    let mut entered = 0_u64;
    let recovered = recovery::recover(log, from, acked, |digest, place| {
        entered += 1;
        if entered.is_multiple_of(PROGRESS_MESSAGES) {
            progress(format!("entering messages into the index: {entered}"));
        }
        if index.put(&digest, None, place)? {
            messages += 1;
        } else {
            // A later record of the same message heals an earlier, damaged one.
            let known = index.get(&digest)?;
            if known != Some(place) {
                index.put(&digest, known, place)?;
            }
        }
        Ok::<_, ReplayError>(())
    })?;
    for damage in &recovered.damage {
        if let Some((digest, place)) = damage.message {
            // So that it answers with an error and not with "not found".
            messages += u64::from(index.put(&digest, None, place)?);
        }
    }
    report(&recovered);
    Ok((messages, recovered.end))
}

/// What can end a replay.
#[derive(Debug)]
enum ReplayError {
    Log(io::Error),
    Index(IndexError),
}

impl From<io::Error> for ReplayError {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

impl From<IndexError> for ReplayError {
    fn from(error: IndexError) -> Self {
        Self::Index(error)
    }
}

/// Lines in the log about single damages; the rest is counted.
const DAMAGE_LINES_MAX: usize = 20;

fn report(recovered: &Recovered) {
    let bytes = recovered.torn_bytes;
    if bytes > 0 {
        info!(bytes, "removed an unfinished group from the end of the log");
    }
    for Damage { from, to, message } in recovered.damage.iter().take(DAMAGE_LINES_MAX) {
        let digest = message.map(|(digest, _)| digest);
        error!(
            ?from,
            ?to,
            ?digest,
            "the log is damaged: what it held here is lost until posted again"
        );
    }
    let more = recovered.damage.len().saturating_sub(DAMAGE_LINES_MAX);
    if more > 0 {
        error!(more, "the log is damaged in more places");
    }
}
