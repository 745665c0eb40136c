//! Compaction: a log written again without what nobody can ask for any more – deleted messages and their
//! deletions, damaged records whose messages were posted again, and doubles. It has another identity, since
//! records move: an earlier backup is not one of it.
//!
//! The new log is written aside and synced, then takes the place of the old one in one step. Each way a
//! crash can fall leaves a whole log in place:
//!
//! * before the exchange, it is the old one; what was written aside is thrown away by the next start or
//!   compaction;
//! * after it, the new one. The checkpoint speaks of the old log, and so it is gone before: a start
//!   without one believes nothing but the log, and redraws the index.
//!
//! **Invariant:** what could be read before can be read afterwards, and what answered with an error does
//! not turn into "not found": a message that is damaged gets a record in the new log too, with what is left
//! of its text, and goes on answering with an error until it is posted again. Those records come first, so
//! that a later group proves that they are no torn ones.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;

use super::verify::{self, Extent, Interrupted};
use crate::digest::Digest;
use crate::message::Message;
use crate::store::Durability;
use crate::store::embedded::appender::Appender;
use crate::store::embedded::directory::{
    ASIDE_NAME, DataDirectory, OpenError, read_durability, remove_checkpoint, write_checkpoint,
};
use crate::store::embedded::disk;
use crate::store::embedded::finding::Finding;
use crate::store::embedded::index::{self, Checkpoint, Index, IndexError};
use crate::store::embedded::queue::{GROUP_BYTES_MAX, GROUP_ENTRIES_MAX};
use crate::store::embedded::record::{Place, Position};
use crate::store::embedded::recovery::{self, Kind, Record};
use crate::store::embedded::replay::{self, Opened};
use crate::store::embedded::segments::Log;

/// What a compaction did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Compacted {
    /// Messages in the store.
    pub messages: u64,
    /// Those of them that are damaged.
    pub damaged: u64,
    /// Bytes of the log before.
    pub bytes_before: u64,
    /// Bytes of the log now.
    pub bytes_after: u64,
}

/// Why a store was not compacted. It is as it was, or it is compacted and the next start draws its index.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// It cannot be opened, read or written.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// Log and index do not agree, so that messages could be lost without a word.
    #[error(
        "log and index do not agree, {0} times: remove the index, so that the next start draws it again"
    )]
    Inconsistent(u64),
}

impl From<io::Error> for CompactError {
    fn from(error: io::Error) -> Self {
        Self::Store(OpenError::io("write the log anew")(error))
    }
}

impl From<Interrupted> for CompactError {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Log(error) => error.into(),
            Interrupted::Stopped => io::Error::from(io::ErrorKind::Interrupted).into(),
        }
    }
}

impl From<IndexError> for CompactError {
    fn from(error: IndexError) -> Self {
        Self::Store(OpenError::Index(error.to_string()))
    }
}

/// Writes the log of `directory` again, if there is anything to leave out, and draws its index. Takes
/// as much room again as the log. `tell` is told of damage: of what stays damaged, and of what is left
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
    directory.remove_leftovers()?;
    disk::try_exchange(path, "log").map_err(OpenError::io(
        "exchange two directories in one step, which this file system has to be able to do",
    ))?;
    let log = open_log(directory, "log")?;
    if let Some(stranger) = log.stranger()? {
        let action = format!(
            "compact: {} is no part of the log, and would be removed",
            stranger.display()
        );
        return Err(
            OpenError::io(action)(io::Error::other("move it to another place first")).into(),
        );
    }
    directory.unmark()?;
    let durability = read_durability(path).unwrap_or(Durability::Disk);
    // What is to be erased is left out, and it looks for damage itself.
    let Opened {
        index,
        messages,
        end,
        ..
    } = replay::open_index(path, cache_bytes, &log, durability, &|_| ())?;
    let damaged = Damaged::find(&log, &index, end, progress, tell);
    let written = damaged.and_then(|damaged| {
        if !damaged.is_needed {
            return Ok(None);
        }
        write_aside(directory, &log, &index, messages, &damaged, end)
            .map(Some)
            // What was written so far takes room that the service needs.
            .inspect_err(|_| drop(remove_aside(path)))
    });
    // Before its files are removed; what it says now matters to nobody.
    drop(index);
    let written = written?;
    if written.is_some() {
        exchange(path)?;
        remove_aside(path)?;
        redraw(directory, cache_bytes)?;
    }
    let (end_after, damaged) = written.unwrap_or((end, 0));
    let bytes = |end: Position| {
        let segments = u64::from(end.segment.saturating_sub(1));
        segments * u64::from(directory.segment_bytes) + u64::from(end.offset)
    };
    Ok(Compacted {
        messages,
        damaged,
        bytes_before: bytes(end),
        bytes_after: bytes(end_after),
    })
}

fn open_log(directory: &DataDirectory, name: &str) -> Result<Log, OpenError> {
    Log::open(&directory.path.join(name), directory.segment_bytes)
        .map_err(OpenError::io("open the log"))
}

fn remove_aside(path: &Path) -> io::Result<()> {
    disk::remove(&path.join(ASIDE_NAME))?;
    disk::sync_directory(path)
}

/// What is wrong with a store that is compacted.
struct Damaged {
    /// Messages that answer with an error, and of which nothing better is left.
    messages: BTreeSet<Digest>,
    /// Others that have a good record, which the index does not point at.
    mended: BTreeMap<Digest, Place>,
    /// Whether there is anything to leave out.
    is_needed: bool,
}

impl Damaged {
    fn find(
        log: &Log,
        index: &Index,
        end: Position,
        progress: &dyn Fn(u64, u64),
        mut tell: impl FnMut(&Finding),
    ) -> Result<Self, CompactError> {
        let (mut messages, mut unknown, mut inconsistent) = (BTreeSet::new(), 0, 0);
        let mut tell = |finding: &Finding| {
            tell(finding);
            match finding {
                // Whatever it was, the index does not point at it.
                Finding::Damaged { digest: None, .. } => unknown += 1,
                Finding::Damaged {
                    digest: Some(digest),
                    ..
                }
                | Finding::NotInLog { digest, .. } => drop(messages.insert(*digest)),
                _ => inconsistent += 1,
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
        let examined = verify::examine(log, Some(index), extent, &mut pace, &mut tell)?;
        if inconsistent > 0 {
            return Err(CompactError::Inconsistent(inconsistent));
        }
        let is_sound = messages.is_empty();
        let mut silent = |_, _| ControlFlow::Continue(());
        let mended = verify::good_records(log, &messages, extent, &mut silent)?;
        messages.retain(|digest| !mended.contains_key(digest));
        let doubles = Some(examined.records) != examined.indexed;
        let is_needed =
            unknown > 0 || !is_sound || examined.healed > 0 || examined.deletions > 0 || doubles;
        Ok(Self {
            messages,
            mended,
            is_needed,
        })
    }
}

/// Writes every message once, from where the index has it; returns where the new log ends, and how many
/// messages are damaged in it.
fn write_aside(
    directory: &DataDirectory,
    log: &Log,
    index: &Index,
    messages: u64,
    damaged: &Damaged,
    end: Position,
) -> Result<(Position, u64), CompactError> {
    let aside = Arc::new(open_log(directory, ASIDE_NAME)?);
    let mut writer = Writer {
        appender: Appender::new(aside, Position::START),
        group: Vec::new(),
        bytes: 0,
        written: 0,
        damaged: 0,
    };
    let mut draft = writer.appender.draft();
    let mut bytes = 0;
    for digest in &damaged.messages {
        let Some(place) = index.get(digest)? else {
            continue;
        };
        let body = log.read_around(place)?;
        draft.put_damaged(*digest, &body)?;
        writer.written += 1;
        // Perhaps it was only the header.
        writer.damaged += u64::from(Digest::of(&body) != *digest);
        bytes += body.len();
        if bytes >= GROUP_BYTES_MAX {
            let group = draft.finish()?;
            writer.appender.write(group, true)?;
            draft = writer.appender.draft();
            bytes = 0;
        }
    }
    let group = draft.finish()?;
    writer.appender.write(group, true)?;
    // A group that proves that those before it were synced.
    if !damaged.messages.is_empty() {
        let mut draft = writer.appender.draft();
        draft.fill()?;
        let group = draft.finish()?;
        writer.appender.write(group, true)?;
    }
    recovery::survey(log, Position::START, end, |record| {
        let Record { digest, place, .. } = record;
        let place_now = match damaged.mended.get(&digest) {
            Some(mended) => Some(*mended),
            None if damaged.messages.contains(&digest) => None,
            None => index.get(&digest)?,
        };
        if record.kind == Kind::Deletion || place_now != Some(place) {
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
    Ok((writer.appender.end(), writer.damaged))
}

/// Appends messages in groups like those of the committer.
struct Writer {
    appender: Appender,
    group: Vec<Message>,
    bytes: usize,
    written: u64,
    damaged: u64,
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
        self.appender.write(group, true)?;
        self.written += self.group.len() as u64;
        self.group.clear();
        self.bytes = 0;
        Ok(())
    }
}

/// Puts the new log into the place of the old one.
fn exchange(path: &Path) -> io::Result<()> {
    remove_checkpoint(path)?;
    index::remove(&path.join(index::NAME))?;
    disk::sync_directory(path)?;
    disk::exchange(&path.join("log"), &path.join(ASIDE_NAME))?;
    disk::sync_directory(path)
}

/// Draws the index of the new log, so that the next start need not.
fn redraw(directory: &DataDirectory, cache_bytes: u64) -> Result<(), CompactError> {
    let path = &directory.path;
    let log = open_log(directory, "log")?;
    let opened = replay::open_index(path, cache_bytes, &log, Durability::Disk, &|_| ())?;
    let checkpoint = Checkpoint {
        position: opened.end,
        messages: opened.messages,
    };
    opened.index.checkpoint(checkpoint)?;
    write_checkpoint(path, checkpoint)?;
    opened.index.close()?;
    Ok(index::give_to_owner(&path.join(index::NAME))?)
}
