//! Verification: a store read from end to end, its log and its index held against each other both ways.
//! Either of a data directory that nobody serves, or, for `scrub`, of one that is being served.
//!
//! The log is only read. An index that is opened for it writes to files of its own; nothing that a
//! start could not redraw is ever changed. This room finds and names, and mends nothing.
//!
//! What the next start puts right without a loss is no finding: a group that was never acknowledged, an index
//! that is not there or was not drawn to its end, messages after the checkpoint that are not in the index yet,
//! deletions there that it has not carried out. Neither is a damaged record whose message was posted again
//! since; it is counted. Nor is whatever became of a message that was deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::ControlFlow;
use std::path::Path;

use crate::digest::Digest;
use crate::store::embedded::directory::{
    DataDirectory, OpenError, check_may_read_checkpoint, has_checkpoint, is_in_reach, is_marked,
    is_unfinished, read_checkpoint, read_durability,
};
use crate::store::embedded::finding::Finding;
use crate::store::embedded::identity::Presence;
use crate::store::embedded::index::{self, Checkpoint, Found, Index, IndexError};
use crate::store::embedded::read_only::ReadOnlyDirectory;
use crate::store::embedded::record::{Place, Position};
use crate::store::embedded::recovery::{self, Kind, Record, Survey};
use crate::store::embedded::replay::{self, ReplayError};
use crate::store::embedded::scan::Damage;
use crate::store::embedded::segments::Log;
use crate::store::embedded::{disk, reserve};

/// Room that the engine may take on the disk to open the index: a snapshot, 5 bytes a message, and what it
/// had in mind. With less it may leave an index that the next start has to draw again.
const ROOM_BYTES: u64 = 4 << 20;
const ROOM_BYTES_A_MESSAGE: u64 = 8;

/// Index entries that are held against the log at once.
const ENTRIES_AT_ONCE: usize = 1024;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Good records of messages.
    pub records: u64,
    /// Deletions.
    pub deletions: u64,
    /// Messages in the index; `None` if there is no index, or it cannot be read.
    pub indexed: Option<u64>,
    /// There is an index, and it was not read, since that takes writing.
    pub is_index_closed: bool,
    /// Damaged records whose message has a good one too.
    pub healed: u64,
    /// Bytes of a last group that was never acknowledged.
    pub torn_bytes: u64,
    /// How often there was something to say.
    pub findings: u64,
}

/// Told the bytes of the log read and in all, now and then; says whether to go on.
pub(super) type Pace<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Why an examination did not come to its end.
#[derive(Debug)]
pub(super) enum Interrupted {
    /// The pace said so.
    Stopped,
    /// The log cannot be read.
    Log(io::Error),
}

impl From<io::Error> for Interrupted {
    fn from(error: io::Error) -> Self {
        Self::Log(error)
    }
}

/// Reads everything in `directory` and says to `tell` what is wrong with it; `progress` is told the
/// bytes of the log read and the bytes in all. As fast as the disk, or as messages are hashed; takes
/// `cache_bytes` for the index.
///
/// # Errors
/// If the log cannot be read at all.
pub fn verify(
    directory: &DataDirectory,
    cache_bytes: u64,
    progress: &dyn Fn(u64, u64),
    tell: impl FnMut(&Finding),
) -> Result<Verified, OpenError> {
    let path = &directory.path;
    // The engine of the index writes to open it.
    reserve::release_if_full(path).map_err(OpenError::io("give up the reserve"))?;
    let segment_bytes = directory.segment_bytes;
    let verified = verify_with_room(path, segment_bytes, Some(cache_bytes), progress, tell);
    // For the next start. If there is no room for it, the next server makes it when there is.
    let _ = reserve::keep(path);
    verified
}

/// The same where nothing can be written: the index stays closed.
///
/// # Errors
/// If the log cannot be read at all.
pub fn verify_read_only(
    directory: &ReadOnlyDirectory,
    progress: &dyn Fn(u64, u64),
    tell: impl FnMut(&Finding),
) -> Result<Verified, OpenError> {
    let segment_bytes = directory.segment_bytes;
    verify_with_room(&directory.path, segment_bytes, None, progress, tell)
}

/// The same once there is room. Without `cache_bytes` the index stays closed.
fn verify_with_room(
    path: &Path,
    segment_bytes: u32,
    cache_bytes: Option<u64>,
    progress: &dyn Fn(u64, u64),
    mut tell: impl FnMut(&Finding),
) -> Result<Verified, OpenError> {
    let log = Log::open_read_only(&path.join("log"), segment_bytes)
        .map_err(OpenError::io("open the log"))
        .map_err(|error| error.with_owner(&path.join("log")))?;
    check_may_read_checkpoint(path)?;
    let mut findings = 0;
    let mut tell = |finding: &Finding| {
        findings += 1;
        tell(finding);
    };
    let checkpoint = read_checkpoint(path);
    if checkpoint.is_none() && has_checkpoint(path) {
        tell(&Finding::Checkpoint);
    }
    if is_unfinished(path) {
        tell(&Finding::Unfinished);
    }
    if has_lost_identity(path, &log) {
        tell(&Finding::Identity);
    }
    // Without room for the index there is still the log.
    let index = cache_bytes.map(|bytes| open_index(path, bytes, checkpoint, &log, &mut tell));
    let (index, lack) = match index.transpose() {
        Ok(index) => (index.flatten(), None),
        Err(lack) => (None, Some(lack)),
    };
    let extent = Extent {
        acked: checkpoint.map_or(Position::START, |checkpoint| checkpoint.position),
        is_growing: false,
    };
    let mut pace = |done, total| {
        progress(done, total);
        ControlFlow::Continue(())
    };
    let examined = examine(&log, index.as_ref(), extent, &mut pace, &mut tell);
    // What the engine writes here is for nobody but this examination: that it cannot says nothing of the store.
    let failure = index.as_ref().and_then(|index| index.failure().cloned());
    let closed = index.map_or(Ok(()), Index::close);
    let unwritten = match failure {
        Some(failure) => Some(failure).filter(IndexError::is_lack),
        None => closed.err(),
    };
    let lack = lack.or_else(|| unwritten.map(index_error));
    let index_path = path.join(index::NAME);
    if cache_bytes.is_some() {
        index::give_to_owner(&index_path)
            .map_err(OpenError::io("give the files of the index to their owner"))?;
    }
    let examined = examined.map_err(|interrupted| match interrupted {
        Interrupted::Stopped => OpenError::io("go on")(io::ErrorKind::Interrupted.into()),
        Interrupted::Log(error) => OpenError::io("read the log")(error),
    })?;
    lack.map_or(
        Ok(Verified {
            findings,
            is_index_closed: cache_bytes.is_none() && Index::exists(&index_path),
            ..examined
        }),
        Err,
    )
}

/// Whether the log in the data directory at `path` had an identity: those of version 0.1.0 have none.
fn has_lost_identity(path: &Path, log: &Log) -> bool {
    match log.identity() {
        Presence::Good => false,
        Presence::Damaged => true,
        Presence::Missing => {
            let is_ours = is_marked(path) || read_durability(path).is_some();
            is_ours && log.last_segment() > 0
        }
    }
}

/// Which part of a log can be judged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    /// What comes before was acknowledged, and is in the index.
    pub(super) acked: Position,
    /// Somebody appends: what comes behind `acked` says nothing.
    pub(super) is_growing: bool,
}

/// Reads the whole log, and holds it and the index against each other. Does not count what it tells.
pub(super) fn examine(
    log: &Log,
    mut index: Option<&Index>,
    extent: Extent,
    pace: Pace<'_>,
    tell: &mut dyn FnMut(&Finding),
) -> Result<Verified, Interrupted> {
    let acked = extent.acked;
    let (mut records, mut deletions) = (0, 0);
    // Messages that the index does not have, unless a deletion comes.
    let mut missing = BTreeMap::new();
    let mut survey = read_log(log, extent, pace, |record| {
        let Record { kind, digest, .. } = record;
        let at = record.place.at;
        match kind {
            Kind::Message => records += 1,
            Kind::Deletion => {
                deletions += 1;
                missing.remove(&digest);
            }
        }
        let indexed = index.filter(|_| at < acked);
        let indexed = indexed.map(|index| index.look_up(&digest));
        match (kind, indexed) {
            (Kind::Message, Some(Ok(Found::Nothing))) => {
                missing.insert(digest, Finding::NotInIndex { digest, at });
            }
            (Kind::Message, Some(Ok(Found::Other(_)))) => {
                missing.insert(digest, Finding::PrefixTaken { digest, at });
            }
            (Kind::Deletion, Some(Ok(Found::Message(now)))) if now.at < at => {
                tell(&Finding::NotDeleted { digest, at: now.at });
            }
            (_, Some(Err(error))) => give_up(&mut index, &error, tell),
            _ => {}
        }
    })?;
    if extent.is_growing {
        survey.torn_bytes = 0;
        forget_deleted(log, acked, &mut missing, &mut survey.damage)?;
    }
    missing.values().for_each(&mut *tell);
    // Where segments are missing at the end, there is nothing that could be read as damaged.
    if survey.last_end < acked && log.last_segment() < last_written(acked) {
        tell(&Finding::EndsEarly {
            end: survey.last_end,
            checkpoint: acked,
        });
    }
    let healed = tell_damage(log, &survey, index, extent, pace, tell)?;
    let indexed = hold_against_log(index, log, tell);
    Ok(Verified {
        records,
        deletions,
        indexed,
        is_index_closed: false,
        healed,
        torn_bytes: survey.torn_bytes,
        findings: 0,
    })
}

/// Takes out what a deletion explains that was appended after `end`: it may have been carried out, in the
/// index and in the log, before its message was read here.
fn forget_deleted(
    log: &Log,
    end: Position,
    missing: &mut BTreeMap<Digest, Finding>,
    damage: &mut Vec<Damage>,
) -> Result<(), Interrupted> {
    let mut damaged = named(damage);
    if missing.is_empty() && damaged.is_empty() {
        return Ok(());
    }
    recovery::survey(log, end, end, |record| {
        if record.kind == Kind::Deletion {
            missing.remove(&record.digest);
            damaged.remove(&record.digest);
        }
        Ok::<_, io::Error>(())
    })?;
    damage.retain(|damage| {
        let message = damage.message;
        message.is_none_or(|(digest, _)| damaged.contains(&digest))
    });
    Ok(())
}

/// The messages that damaged records still name.
fn named(damage: &[Damage]) -> BTreeSet<Digest> {
    let messages = damage.iter().filter_map(|damage| damage.message);
    messages.map(|(digest, _)| digest).collect()
}

/// The number of the last segment of a log that ends at `end`.
fn last_written(end: Position) -> u32 {
    end.segment - u32::from(end.offset == 0)
}

/// The index, if a start would take it as it is.
///
/// # Errors
/// If there is too little of something to open it, so that nothing can be said of it.
fn open_index(
    path: &Path,
    cache_bytes: u64,
    checkpoint: Option<Checkpoint>,
    log: &Log,
    tell: &mut impl FnMut(&Finding),
) -> Result<Option<Index>, OpenError> {
    let directory = path.join(index::NAME);
    // Without a checkpoint a start draws a new one. Without data it does too, and a backup has none.
    let checkpoint = checkpoint.filter(|_| Index::exists(&directory));
    let Some(expected) = checkpoint.filter(|expected| is_in_reach(*expected, log)) else {
        return Ok(None);
    };
    let room = disk::space(&directory).map_err(OpenError::io("see how much room the disk has"))?;
    let needed = ROOM_BYTES + expected.messages * ROOM_BYTES_A_MESSAGE;
    if room.free < needed {
        let reason = format!(
            "it needs {needed} bytes of room on the disk, and {} are free",
            room.free
        );
        return Err(OpenError::io("open the index")(io::Error::other(reason)));
    }
    let checked = Index::open(&directory, cache_bytes)
        .map_err(ReplayError::from)
        .and_then(|index| replay::check(&index, expected, log).map(|held| (index, held)));
    let reason = match checked {
        Ok((index, _)) => return Ok(Some(index)),
        Err(ReplayError::Index(error)) if error.is_lack() => {
            return Err(index_error(error));
        }
        Err(ReplayError::Index(error)) if error.is_unfinished() => return Ok(None),
        Err(ReplayError::Index(error)) => error.to_string(),
        // Whoever reads the log next says so.
        Err(ReplayError::Log(_)) => "it cannot be held against the log".into(),
    };
    tell(&Finding::Index(reason));
    Ok(None)
}

/// For an index that could not be read for want of something that is no part of it.
fn index_error(error: IndexError) -> OpenError {
    OpenError::io("use the index")(io::Error::other(error))
}

/// Asks the index nothing more.
fn give_up(index: &mut Option<&Index>, error: &IndexError, tell: &mut dyn FnMut(&Finding)) {
    if !error.is_lack() {
        tell(&Finding::Index(error.to_string()));
    }
    *index = None;
}

/// Walks through the log, as far as it can be judged.
fn read_log(
    log: &Log,
    extent: Extent,
    pace: Pace<'_>,
    mut take: impl FnMut(Record),
) -> Result<Survey, Interrupted> {
    // What is used, if its end was noted: segments are reserved ahead.
    let noted = Some(extent.acked.bytes_before(log)).filter(|&bytes| bytes > 0);
    let mut total = noted.unwrap_or(log.reserved_bytes());
    let record = |record: Record| {
        let done = record.place.at.bytes_before(log);
        total = total.max(done);
        if pace(done, total).is_break() {
            return Err(Interrupted::Stopped);
        }
        take(record);
        Ok(())
    };
    let survey = if extent.is_growing {
        recovery::survey_before(log, extent.acked, record)?
    } else {
        recovery::survey(log, Position::START, extent.acked, record)?
    };
    match pace(total, total) {
        ControlFlow::Continue(()) => Ok(survey),
        ControlFlow::Break(()) => Err(Interrupted::Stopped),
    }
}

/// Names every damaged stretch but those whose message can be had all the same; returns their number.
fn tell_damage(
    log: &Log,
    survey: &Survey,
    index: Option<&Index>,
    extent: Extent,
    pace: Pace<'_>,
    tell: &mut dyn FnMut(&Finding),
) -> Result<u64, Interrupted> {
    let good = good_records(log, &named(&survey.damage), extent, pace)?;
    let mut healed = 0;
    for Damage { from, to, message } in &survey.damage {
        let is_healed = message.is_some_and(|(digest, place)| {
            let indexed = index.and_then(|index| index.get(&digest).ok().flatten());
            // Without an index the next start takes the good record. It may have come just now.
            let has_good = good.contains_key(&digest) || extent.is_growing && indexed.is_some();
            has_good && indexed != Some(place)
        });
        if is_healed {
            healed += 1;
        } else {
            tell(&Finding::Damaged {
                from: *from,
                to: *to,
                digest: message.map(|(digest, _)| digest),
            });
        }
    }
    Ok(healed)
}

/// The last good record of each of `messages` that has one. Reads the log once more if there are any.
pub(super) fn good_records(
    log: &Log,
    messages: &BTreeSet<Digest>,
    extent: Extent,
    pace: Pace<'_>,
) -> Result<BTreeMap<Digest, Place>, Interrupted> {
    let mut good = BTreeMap::new();
    if messages.is_empty() {
        return Ok(good);
    }
    read_log(log, extent, pace, |record| {
        let Record { digest, place, .. } = record;
        match record.kind {
            Kind::Message if messages.contains(&digest) => drop(good.insert(digest, place)),
            Kind::Message => {}
            // What is damaged stands behind the deletion, or it would be no damage.
            Kind::Deletion => drop(good.remove(&digest)),
        }
    })?;
    Ok(good)
}

/// Whether each entry of the index names a record of its message; what the body of a record is like
/// has been read before. Returns their number.
fn hold_against_log(
    mut index: Option<&Index>,
    log: &Log,
    tell: &mut dyn FnMut(&Finding),
) -> Option<u64> {
    let (mut entries, mut last) = (0, None);
    loop {
        let page = match index?.range(last.as_ref(), ENTRIES_AT_ONCE) {
            Ok(page) => page,
            Err(error) => {
                give_up(&mut index, &error, tell);
                return None;
            }
        };
        let Some((end, _)) = page.last() else {
            return Some(entries);
        };
        last = Some(*end);
        entries += page.len() as u64;
        for (digest, place) in page {
            if !log.names(place, &digest).unwrap_or(false) {
                tell(&Finding::NotInLog {
                    digest,
                    at: place.at,
                });
            }
        }
    }
}
