//! Compaction: a log written anew without what nobody can ask for any more – deleted messages and their
//! deletions, damaged records whose messages were posted again, and doubles.
//!
//! The new log is written aside and synced, then takes the place of the old one in one step. Each way a
//! crash can fall leaves a whole log in place:
//!
//! * before the exchange, it is the old one; what was written aside is thrown away by the next
//!   compaction;
//! * after it, the new one. The checkpoint speaks of the old log, and so it is gone before: a start
//!   without one believes nothing but the log, and redraws the index.
//!
//! **Invariant:** what could be read before can be read afterwards, and what answered with an error does
//! not turn into "not found": with such a message in it, a store is left as it is.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::directory::{DataDirectory, OpenError, remove_checkpoint, write_checkpoint};
use super::disk;
use super::index::{self, Checkpoint, Index, IndexError};
use super::log::{Appender, Log, Position};
use super::opening::{self, Opened};
use super::queue::{GROUP_BYTES_MAX, GROUP_ENTRIES_MAX};
use super::recovery::{self, Kind, Record};
use super::verify::{self, Extent, Finding, Interrupted};
use crate::message::Message;

/// The log in the making, and then the old one on its way out.
const ASIDE_NAME: &str = "log.new";

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Messages in the store.
    pub messages: u64,
    /// Bytes of the log before.
    pub bytes_before: u64,
    /// Bytes of the log now.
    pub bytes_after: u64,
}

/// Why a store was not compacted. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// It cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Messages are damaged, and would be lost without a word.
    #[error("{0} damaged or missing: post them again first")]
    Damaged(u64),
}

impl From<io::Error> for CompactError {
    fn from(error: io::Error) -> Self {
        Self::Store(OpenError::io("write the log anew")(error))
    }
}

impl From<IndexError> for CompactError {
    fn from(error: IndexError) -> Self {
        Self::Store(OpenError::Index(error.to_string()))
    }
}

/// Writes the log of `directory` anew, if there is anything to leave out, and redraws its index. Takes
/// as much room again as the log. `tell` is told of damage: of what stands in the way, and of what is left
/// out although nobody knows what it was.
///
/// # Errors
/// See [`CompactError`].
pub fn compact(
    directory: &DataDirectory,
    cache_bytes: u64,
    progress: &dyn Fn(u64, u64),
    tell: impl FnMut(&Finding),
) -> Result<Compacted, CompactError> {
    let path = &directory.path;
    remove_aside(path)?;
    let log = open_log(directory, "log")?;
    let Opened {
        index,
        messages,
        end,
        // They are left out.
        erasures: _,
        // It looks for damage itself.
        findings: _,
    } = opening::open_index(path, cache_bytes, &log, &|_| ())?;
    let needed = is_needed(&log, &index, end, progress, tell);
    let written = match needed {
        Ok(true) => write_aside(directory, &log, &index, messages, end).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(error),
    };
    // Before its files are removed; what it says now matters to nobody.
    drop(index);
    let written = written?;
    if written.is_some() {
        exchange(path)?;
        redraw(directory, cache_bytes)?;
        remove_aside(path)?;
    }
    let bytes = |end: Position| {
        let segments = u64::from(end.segment.saturating_sub(1));
        segments * u64::from(directory.segment_bytes) + u64::from(end.offset)
    };
    Ok(Compacted {
        messages,
        bytes_before: bytes(end),
        bytes_after: bytes(written.unwrap_or(end)),
    })
}

fn open_log(directory: &DataDirectory, name: &str) -> Result<Log, OpenError> {
    Log::open(&directory.path.join(name), directory.segment_bytes)
        .map_err(OpenError::io("open the log"))
}

fn remove_aside(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path.join(ASIDE_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => disk::sync_directory(path),
    }
}

/// Whether there is anything to leave out that may be left out.
fn is_needed(
    log: &Log,
    index: &Index,
    end: Position,
    progress: &dyn Fn(u64, u64),
    mut tell: impl FnMut(&Finding),
) -> Result<bool, CompactError> {
    let (mut known, mut unknown) = (0, 0);
    let mut tell = |finding: &Finding| {
        tell(finding);
        match finding {
            // Whatever it was, the index does not point at it.
            Finding::Damaged { digest: None, .. } => unknown += 1,
            _ => known += 1,
        }
    };
    let mut pace = |done, total| {
        progress(done, total);
        ControlFlow::Continue(())
    };
    let extent = Extent {
        acked: end,
        is_growing: false,
    };
    let examined = verify::examine(log, Some(index), extent, &mut pace, &mut tell);
    let examined = examined.map_err(|interrupted| match interrupted {
        Interrupted::Log(error) => error,
        Interrupted::Stopped => io::ErrorKind::Interrupted.into(),
    })?;
    if known > 0 {
        return Err(CompactError::Damaged(known));
    }
    let doubles = Some(examined.records) != examined.indexed;
    Ok(unknown > 0 || examined.healed > 0 || examined.deletions > 0 || doubles)
}

/// Writes every message once, from where the index has it; returns where the new log ends.
fn write_aside(
    directory: &DataDirectory,
    log: &Log,
    index: &Index,
    messages: u64,
    end: Position,
) -> Result<Position, CompactError> {
    let aside = Arc::new(open_log(directory, ASIDE_NAME)?);
    let mut writer = Writer {
        appender: Appender::new(aside, Position::START),
        group: Vec::new(),
        bytes: 0,
        written: 0,
    };
    recovery::survey(log, Position::START, end, |record| {
        let Record { digest, place, .. } = record;
        if record.kind == Kind::Deletion || index.get(&digest)? != Some(place) {
            return Ok(());
        }
        let body = Bytes::from(log.read(place)?);
        let message = Message::verified(body, digest);
        let message =
            message.ok_or_else(|| io::Error::other("a record changed while it was read"))?;
        Ok::<_, CompactError>(writer.add(message)?)
    })?;
    writer.flush()?;
    if writer.written != messages {
        return Err(io::Error::other("the new log does not have all messages").into());
    }
    Ok(writer.appender.end())
}

/// Appends messages in groups like those of the committer.
struct Writer {
    appender: Appender,
    group: Vec<Message>,
    bytes: usize,
    written: u64,
}

impl Writer {
    fn add(&mut self, message: Message) -> io::Result<()> {
        self.bytes += message.as_bytes().len();
        self.group.push(message);
        if self.group.len() >= GROUP_ENTRIES_MAX || self.bytes >= GROUP_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let group = self.appender.prepare(&self.group)?;
        self.appender.write(&group, true)?;
        self.written += self.group.len() as u64;
        self.group.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Puts the new log into the place of the old one.
fn exchange(path: &Path) -> io::Result<()> {
    remove_checkpoint(path)?;
    index::remove(&path.join("index"))?;
    disk::sync_directory(path)?;
    disk::exchange(&path.join("log"), &path.join(ASIDE_NAME))?;
    disk::sync_directory(path)
}

/// Draws the index of the new log, so that the next start need not.
fn redraw(directory: &DataDirectory, cache_bytes: u64) -> Result<(), CompactError> {
    let path = &directory.path;
    let log = open_log(directory, "log")?;
    let opened = opening::open_index(path, cache_bytes, &log, &|_| ())?;
    let checkpoint = Checkpoint {
        position: opened.end,
        messages: opened.messages,
    };
    opened.index.checkpoint(checkpoint)?;
    write_checkpoint(path, checkpoint)?;
    Ok(opened.index.close()?)
}
