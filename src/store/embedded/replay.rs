//! The replay: either the index that is there, completed from the checkpoint on, or one drawn from the whole log.
//!
//! It knows what index, checkpoint and log say of each other, and refuses to know what a record does to the index,
//! which is the business of `lanes`. **Invariant:** an index that is opened has everything the log has.

use std::collections::HashSet;
use std::io;
use std::path::Path;
use std::thread;

use tracing::{info, warn};

use super::directory::{OpenError, is_in_reach, read_checkpoint, read_durability};
use super::erasures::Erasure;
use super::findings::{Finding, Findings};
use super::index::{self, Checkpoint, Held, Index, IndexError};
use super::lanes::Lane;
use super::record::{Place, Position};
use super::recovery::{self, Kind, OPEN_END, Record};
use super::segments::Log;
use crate::digest::Digest;
use crate::store::Durability;

/// Messages between two lines about progress: some fifths of a second, and on the slowest disk less than the
/// minute that a supervisor waits for the next.
const PROGRESS_MESSAGES: u64 = 50_000;

/// Records between two notes of how far an index is drawn: some seconds of work, which is what an interrupted
/// start costs the next one.
const RECORDS_BETWEEN_NOTES: u64 = 500_000;

/// An index that has everything the log has.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) index: Index,
    /// Number of messages in it.
    pub(super) messages: u64,
    /// Where the log ends.
    pub(super) end: Position,
    /// Bodies of deleted messages that are still in the log.
    pub(super) erasures: Vec<Erasure>,
    /// What should not have been.
    pub(super) findings: Findings,
}

impl Opened {
    /// Reports what was found as well: an attempt that failed is repeated, and is not heard twice.
    fn new(index: Index, entered: Entered, mut findings: Findings) -> Self {
        for finding in &entered.findings {
            findings.add(finding);
        }
        Self {
            index,
            messages: entered.messages,
            end: entered.end,
            erasures: entered.erasures,
            findings,
        }
    }
}

/// Opens the index of the directory at `path` and completes it from `log`, whose last writer promised this
/// durability.
pub(super) fn open_index(
    path: &Path,
    cache_bytes: u64,
    log: &Log,
    durability: Durability,
    progress: &(dyn Fn(String) + Sync),
) -> Result<Opened, OpenError> {
    let directory = path.join(index::NAME);
    let is_copy = !Index::exists(&directory) && read_durability(path).is_none();
    let mut findings = Findings::default();
    let mut acked = None;
    let source = Source {
        log,
        durability,
        progress,
        records_between_notes: RECORDS_BETWEEN_NOTES,
    };
    match read_checkpoint(path) {
        Some(checkpoint) if is_in_reach(checkpoint, log) => {
            progress("checking the index".into());
            let opened = open_checked(&directory, cache_bytes, checkpoint, log)
                .and_then(|(index, held)| replay(index, &held, &source, checkpoint.position));
            match opened {
                Ok((index, entered)) => return Ok(Opened::new(index, entered, findings)),
                Err(error @ ReplayError::Log(_)) => return Err(error.into()),
                // A copy that was never served has none, and nothing is wrong with it.
                Err(ReplayError::Index(_)) if is_copy => info!("drawing the index of a copy"),
                Err(ReplayError::Index(reason)) => findings.add(&Finding::IndexRedrawn(reason)),
            }
            acked = Some(checkpoint.position);
        }
        // More is missing than a log may lack: it goes on where it ends, and all of it was acknowledged.
        Some(checkpoint) => {
            let end = Position::start_of(log.last_segment() + 1);
            acked = Some(end);
            findings.add(&Finding::CheckpointAhead {
                checkpoint: checkpoint.position,
                end,
            });
        }
        None if log.last_segment() > 0 => findings.add(&Finding::NoCheckpoint),
        None => {}
    }
    let (index, entered) = draw(&directory, cache_bytes, &source, acked)?;
    Ok(Opened::new(index, entered, findings))
}

/// Draws the index from the whole log, or goes on with what an interrupted start has drawn of it.
fn draw(
    directory: &Path,
    cache_bytes: u64,
    source: &Source<'_>,
    acked: Option<Position>,
) -> Result<(Index, Entered), ReplayError> {
    let (index, drawn) = if let Some(begun) = resume(directory, cache_bytes, source.log) {
        begun
    } else {
        index::remove(directory)?;
        (Index::open(directory, cache_bytes)?, Drawn::NOTHING)
    };
    index::give_to_owner(directory)?;
    let ahead = match acked {
        Some(acked) if drawn.messages > 0 => index.check(acked)?.ahead,
        _ => Vec::new(),
    };
    let mut entered = enter(&index, drawn, source, Position::START, acked)?;
    entered.messages -= forget_lost(&index, &ahead, &entered, source)? as u64;
    if entered.unsynced_bytes > 0 {
        let bytes = entered.unsynced_bytes;
        // That the index is drawn is the finding.
        warn!(
            bytes,
            "what was written last and not synced is lost until posted again"
        );
    }
    Ok((index, entered))
}

/// An index that is being drawn, if there is one to go on with.
fn resume(directory: &Path, cache_bytes: u64, log: &Log) -> Option<(Index, Drawn)> {
    if !Index::exists(directory) {
        return None;
    }
    let index = Index::open(directory, cache_bytes).ok()?;
    let progress = index.check(OPEN_END).ok()?.progress?;
    // As if it were a checkpoint.
    let held = index.check(progress.position).ok()?;
    let has_all = has_all(&index, &held, progress, log).ok()?;
    // Or it is the index of another log, which stood here before.
    let is_of_log = |(digest, place): (Digest, Place)| log.names(place, &digest).unwrap_or(false);
    let is_sound = has_all && held.last.is_none_or(is_of_log);
    (held.checkpoint.position == Position::START && is_sound).then_some((
        index,
        Drawn {
            before: progress.position,
            messages: held.checkpoint.messages,
        },
    ))
}

/// What an index has before anything is entered into it.
#[derive(Clone, Copy)]
struct Drawn {
    /// All messages that were put before this position, unless they were deleted since.
    before: Position,
    /// So many in all.
    messages: u64,
}

impl Drawn {
    const NOTHING: Self = Self {
        before: Position::START,
        messages: 0,
    };
}

/// What an index is completed from.
struct Source<'a> {
    log: &'a Log,
    durability: Durability,
    progress: &'a (dyn Fn(String) + Sync),
    records_between_notes: u64,
}

/// Opens the index that is there if it can be read from end to end and is not behind the
/// checkpoint. Returns what it holds too.
fn open_checked(
    directory: &Path,
    cache_bytes: u64,
    expected: Checkpoint,
    log: &Log,
) -> Result<(Index, Held), ReplayError> {
    if !Index::exists(directory) {
        return Err(IndexError::new("it is missing").into());
    }
    let index = Index::open(directory, cache_bytes)?;
    index::give_to_owner(directory)?;
    let held = check(&index, expected, log)?;
    Ok((index, held))
}

/// Reads the whole index, and makes sure that it can be completed from `expected` on: it has every message
/// from before, but for those that the log says were deleted since. Returns what it holds.
pub(super) fn check(index: &Index, expected: Checkpoint, log: &Log) -> Result<Held, ReplayError> {
    let held = index.check(expected.position)?;
    let position = held.checkpoint.position;
    if position >= expected.position && has_all(index, &held, expected, log)? {
        Ok(held)
    } else if position == Position::START {
        Err(IndexError::unfinished().into())
    } else {
        Err(IndexError::new("it is behind the checkpoint").into())
    }
}

/// Whether an index, which was read with the position of `expected`, has as many messages from before it, but
/// for those that the log says were deleted since.
fn has_all(
    index: &Index,
    held: &Held,
    expected: Checkpoint,
    log: &Log,
) -> Result<bool, ReplayError> {
    let before = held.checkpoint.messages - held.ahead.len() as u64;
    Ok(before >= expected.messages
        || before + gone(index, expected.position, log)? >= expected.messages)
}

/// How many of the messages that an index had at `from` it does not have there any more because it is
/// ahead: it has carried out deletions that come after, or knows a later record of a message that was damaged.
fn gone(index: &Index, from: Position, log: &Log) -> Result<u64, ReplayError> {
    let (mut seen, mut gone) = (HashSet::new(), HashSet::new());
    recovery::survey(log, from, from, |record| {
        let Record { digest, place, .. } = record;
        // Only what is there is deleted, or healed: if nothing put it since `from`, it was there before.
        // If something did, a deletion may name an older record too.
        let is_first = seen.insert(digest);
        let was_before = match record.kind {
            Kind::Message => is_first && record.heals,
            Kind::Deletion => {
                let names_older = |positions: Vec<Position>| positions.iter().any(|at| *at < from);
                is_first || log.erased_by(place).is_ok_and(names_older)
            }
        };
        if was_before && index.get(&digest)?.is_none_or(|now| now.at >= from) {
            gone.insert(digest);
        }
        Ok::<_, ReplayError>(())
    })?;
    Ok(gone.len() as u64)
}

/// Completes an index that has everything before `from`.
fn replay(
    index: Index,
    held: &Held,
    source: &Source<'_>,
    from: Position,
) -> Result<(Index, Entered), ReplayError> {
    let log = source.log;
    // Before the log grows over the place.
    let lost = held
        .last
        .filter(|(digest, place)| place.at < from && !log.names(*place, digest).unwrap_or(false))
        .map(|(_, place)| Finding::IndexAhead { last: place.at });
    let drawn = Drawn {
        before: from,
        messages: held.checkpoint.messages,
    };
    let mut entered = enter(&index, drawn, source, from, Some(from))?;
    entered.findings.extend(lost);
    let messages = forget_lost(&index, &held.ahead, &entered, source)?;
    entered.messages -= messages as u64;
    let bytes = entered.unsynced_bytes;
    if messages > 0 || bytes > 0 {
        entered.findings.push(Finding::Unsynced { messages, bytes });
    }
    Ok((index, entered))
}

/// Takes out of the index what it had of the end of the log and the log has not. Returns how many messages
/// that is.
fn forget_lost(
    index: &Index,
    ahead: &[(Digest, Place)],
    entered: &Entered,
    source: &Source<'_>,
) -> Result<usize, ReplayError> {
    let mut lost = 0;
    for (digest, place) in ahead {
        let is_there = place.at < entered.end
            && match source.durability {
                // It was synced: if it is damaged, it answers with an error.
                Durability::Disk => true,
                // What cannot be read answers with one, too.
                Durability::Os => source.log.names(*place, digest).unwrap_or(true),
            };
        if !is_there {
            lost += usize::from(index.remove(digest, *place)?);
        }
    }
    Ok(lost)
}

/// What the index has once the log was entered into it.
struct Entered {
    messages: u64,
    end: Position,
    erasures: Vec<Erasure>,
    findings: Vec<Finding>,
    unsynced_bytes: u64,
}

/// Enters what the log has from `from` on into `index`, which has what `drawn` says. Deletions are entered
/// again, for what they erase.
fn enter(
    index: &Index,
    drawn: Drawn,
    source: &Source<'_>,
    from: Position,
    acked: Option<Position>,
) -> Result<Entered, ReplayError> {
    let log = source.log;
    let mut messages = drawn.messages;
    let mut read = 0_u64;
    let (recovered, entries) = thread::scope(|scope| {
        let mut lanes: Vec<_> = (0..index::PARTS)
            .map(|_| Lane::start(scope, index, log))
            .collect::<Result<_, _>>()?;
        let recovered = recovery::recover(log, from, acked, source.durability, |record| {
            read += 1;
            if read.is_multiple_of(PROGRESS_MESSAGES) {
                (source.progress)(format!("entering messages into the index: {read}"));
            }
            let at = record.place.at;
            if record.kind == Kind::Message && at < drawn.before {
                return Ok(());
            }
            // Of a replay there is little to save, and the index has a checkpoint already.
            if from == Position::START
                && at > drawn.before
                && read.is_multiple_of(source.records_between_notes)
            {
                note_progress(index, &mut lanes, at, drawn)?;
            }
            let lane = lanes.get_mut(index::part_of(&record.digest));
            let lane = lane.ok_or_else(|| IndexError::new("there is no such part"))?;
            lane.push(record).map_err(ReplayError::from)
        });
        // If a lane ended early, it knows why. What the log was mended by then stays mended.
        let entries = lanes.into_iter().map(Lane::end);
        let entries = entries.collect::<Result<Vec<_>, _>>()?;
        Ok::<_, ReplayError>((recovered?, entries))
    })?;
    let (mut erasures, mut findings) = (Vec::new(), Vec::new());
    for part in entries {
        messages = messages + part.came - part.went;
        erasures.extend(part.erasures);
        let taken = part.taken.into_iter();
        findings.extend(taken.map(|(digest, at)| Finding::PrefixTaken { digest, at }));
    }
    for damage in recovered.damage {
        if let Some((digest, place)) = damage.message {
            // So that it answers with an error and not with "not found".
            let is_lost = index.put(&digest, None, place)?;
            messages += u64::from(is_lost);
            // It was posted again, unless the index has it here from before.
            if !is_lost && index.get(&digest)?.is_some_and(|now| now != place) {
                continue;
            }
        }
        findings.push(Finding::Damage(damage));
    }
    let bytes = recovered.torn_bytes;
    if bytes > 0 {
        info!(bytes, "removed an unfinished group from the end of the log");
    }
    let end = recovered.last_end;
    let ahead = acked.filter(|acked| end < *acked);
    let ahead = ahead.map(|checkpoint| Finding::CheckpointAhead { checkpoint, end });
    findings.extend(ahead);
    Ok(Entered {
        messages,
        end: recovered.end,
        erasures,
        findings,
        unsynced_bytes: recovered.unsynced_bytes,
    })
}

/// Notes how far an index is drawn, once the lanes have entered everything before `at`.
fn note_progress(
    index: &Index,
    lanes: &mut [Lane<'_>],
    at: Position,
    drawn: Drawn,
) -> Result<(), ReplayError> {
    let mut messages = drawn.messages;
    let reached: Vec<_> = lanes
        .iter_mut()
        .map(Lane::reach)
        .collect::<Result<_, _>>()?;
    for reached in reached {
        let ended = |_| IndexError::new("a lane ended");
        let (came, went) = reached.recv().map_err(ended)?;
        messages = messages + came - went;
    }
    let position = at;
    Ok(index.note_progress(Checkpoint { position, messages })?)
}

/// What can end a replay, or keep an index from being completed.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub(super) enum ReplayError {
    Log(#[from] io::Error),
    Index(#[from] IndexError),
}

impl From<ReplayError> for OpenError {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Log(source) => Self::io("read the log")(source),
            ReplayError::Index(error) => Self::Index(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::Message;
    use crate::store::embedded::appender::Appender;
    use crate::store::embedded::lanes::{BATCH_RECORDS, BATCHES_AHEAD};

    /// More than one lane takes before the reading of the log has to wait for it.
    const MESSAGES: usize = 2 * index::PARTS * BATCH_RECORDS * BATCHES_AHEAD;

    #[test]
    fn a_log_is_read_no_further_for_an_index_that_failed() {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(&directory.path().join("log"), 1 << 20).unwrap());
        let texts = (0..MESSAGES).map(|number| Message::new(number.to_string()));
        let mut appender = Appender::new(Arc::clone(&log), Position::START);
        let group = appender.prepare(&texts.collect::<Vec<_>>()).unwrap();
        appender.write(group, false).unwrap();

        let index = Index::open(&directory.path().join("index"), 1 << 20).unwrap();
        let _ = index.fail(IndexError::new("engine"));
        let source = Source {
            log: &log,
            durability: Durability::Disk,
            progress: &|_| (),
            records_between_notes: RECORDS_BETWEEN_NOTES,
        };
        let entered = enter(&index, Drawn::NOTHING, &source, Position::START, None);
        assert!(
            matches!(&entered, Err(ReplayError::Index(error)) if error.to_string().contains("engine"))
        );
    }

    /// What its text is not is read as damage.
    #[test]
    fn damage_of_a_message_whose_prefix_another_has_is_reported_too() {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(&directory.path().join("log"), 64 << 10).unwrap());
        let mut appender = Appender::new(Arc::clone(&log), Position::START);
        let foo = Message::new("foo");
        let mut bytes = *foo.digest().as_bytes();
        bytes[31] ^= 1;
        let other = Message::forged("other", Digest::from_bytes(bytes));
        for message in [&foo, &other, &Message::new("later")] {
            let group = appender.prepare([message]).unwrap();
            appender.write(group, false).unwrap();
        }
        let opened = open_index(directory.path(), 1 << 20, &log, Durability::Disk, &|_| ());
        let opened = opened.unwrap();
        assert_eq!(opened.messages, 2);
        let lines = opened.findings.lines();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("the log is damaged"), "{lines:?}");
        assert!(opened.index.get(&foo.digest()).unwrap().is_some());
        assert!(opened.index.get(&other.digest()).unwrap().is_none());
    }

    #[test]
    fn an_index_that_was_half_drawn_is_completed_and_not_begun_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        let log = Arc::new(Log::open(&path("log"), 64 << 10).unwrap());
        let texts: Vec<_> = (0..3000).map(|n| Message::new(n.to_string())).collect();
        let mut appender = Appender::new(Arc::clone(&log), Position::START);
        let mut places = Vec::new();
        for texts in texts.chunks(100) {
            let group = appender.prepare(texts).unwrap();
            places.extend_from_slice(group.places());
            appender.write(group, false).unwrap();
        }
        // After the note, a message from before it is deleted.
        let gone = texts[10].digest();
        let mut draft = appender.draft();
        draft.delete(gone, &[places[10]]).unwrap();
        let group = draft.finish().unwrap();
        appender.write(group, false).unwrap();

        let source = Source {
            log: &log,
            durability: Durability::Disk,
            progress: &|_| (),
            records_between_notes: 1000,
        };
        let index = Index::open(&path("index"), 1 << 20).unwrap();
        let drawn = Drawn::NOTHING;
        // What was entered after the note may be there or not: here, it is.
        let begun = thread::scope(|scope| {
            let mut lanes = [(); index::PARTS].map(|()| Lane::start(scope, &index, &log).unwrap());
            for (text, place) in texts[..2500].iter().zip(&places) {
                if place.at == places[2000].at {
                    note_progress(&index, &mut lanes, place.at, drawn).unwrap();
                }
                let record = Record {
                    kind: Kind::Message,
                    digest: text.digest(),
                    place: *place,
                    heals: false,
                };
                lanes[index::part_of(&record.digest)].push(record).unwrap();
            }
            lanes
                .map(|lane| lane.end().unwrap().came)
                .iter()
                .sum::<u64>()
        });
        assert_eq!(begun, 2500);
        index.close().unwrap();

        let (index, drawn) = resume(&path("index"), 1 << 20, &log).unwrap();
        assert_eq!((drawn.before, drawn.messages), (places[2000].at, 2500));
        index.close().unwrap();
        let (index, entered) = draw(&path("index"), 1 << 20, &source, None).unwrap();
        assert_eq!(entered.messages, 2999);
        for (number, (text, place)) in texts.iter().zip(&places).enumerate() {
            let expected = Some(*place).filter(|_| number != 10);
            assert_eq!(index.get(&text.digest()).unwrap(), expected, "{number}");
        }
        // One that lacks something is begun again.
        let position = appender.end();
        index
            .note_progress(Checkpoint {
                position,
                messages: 5000,
            })
            .unwrap();
        index.close().unwrap();
        assert!(resume(&path("index"), 1 << 20, &log).is_none());
    }
}
