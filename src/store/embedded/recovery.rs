//! What a log means after a crash: which records count, which were never acknowledged, which are
//! damaged, and where the log ends.
//!
//! The committer writes group after group and starts none before the last one is durable. So a
//! record of a later group proves that every earlier group was synced and may have been
//! acknowledged, and so does a checkpoint behind it. From that follows the judgement on each broken
//! stretch of the log:
//!
//! * before the checkpoint, or before the start of the last group → **damage**: it is reported and
//!   left as it is, and the log goes on after it;
//! * with a sector in it that the disk cannot read → **damage** too, wherever it is: a crash leaves
//!   sectors that can be read, and what cannot be read must not be written over;
//! * otherwise → **torn**: the crash hit the last group, for which no answer had left. What follows
//!   the last good record is zeroed; a hole between good records of that group becomes a filler, so
//!   that no later start takes it for damage.
//!
//! With [`Durability::Os`] groups are not synced one by one, so a later group proves nothing, only the
//! checkpoint does: everything broken after it is torn.
//!
//! An error of one sector is damage of one stretch: reading goes on after it, here and wherever a whole
//! log is read.
//!
//! A record with a good header and a body that does not hash to its digest is broken too, but names
//! the message that is lost; if it is damage, it is kept in the index so that a look-up answers with
//! an error instead of "not found". Unless a deletion of that message stands behind it: then its body
//! was erased, or whatever else happened to it is nobody's loss.
//!
//! **Invariant:** after [`recover`], the log from the checkpoint to its end is durable, and a second
//! recovery finds the same messages and nothing torn.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use super::disk;
use super::record::{Content, HEADER_BYTES, HEALS, Header, Place, Position};
use super::scan::{Broken, Damage, Fault, Scan, Stretch, WINDOW_BYTES, Window, after};
use super::segments::Log;
use crate::digest::Digest;
use crate::store::Durability;

/// Deletions that are kept in mind before the broken stretches are gone through for what they explain:
/// some 5 MB. Erased records are kept in mind until then, 80 bytes each.
const DELETIONS_AT_ONCE: usize = 1 << 16;

/// A good record that says something about a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record {
    pub(super) kind: Kind,
    /// The message.
    pub(super) digest: Digest,
    /// Where the record itself is.
    pub(super) place: Place,
    /// It replaced a damaged record of the message.
    pub(super) heals: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The message, compared with its digest.
    Message,
    /// What stands before is gone.
    Deletion,
}

/// What a log holds, as it is.
#[derive(Debug)]
pub(super) struct Survey {
    /// Where the next group goes.
    pub(super) end: Position,
    /// Behind the last record, or the start of what was read if there is none in it.
    pub(super) last_end: Position,
    /// What was lost although it was acknowledged.
    pub(super) damage: Vec<Damage>,
    /// Bytes of the last group, which was never acknowledged.
    pub(super) torn_bytes: u64,
    /// Bytes of groups that were acknowledged with [`Durability::Os`] and lost before they were synced.
    pub(super) unsynced_bytes: u64,
    /// Those of its broken stretches that good records of it follow.
    holes: Vec<Damage>,
    /// Deletions of the last group without their positions, which came no further than their headers.
    torn_deletions: Vec<(Position, Header)>,
    /// Whether something is written behind the end.
    trailing: bool,
    /// Where the last group starts.
    pub(super) last_group: Position,
}

/// Reads the log from `from`, the start of a group, to its end, and makes it one that can be appended to. Each
/// good record goes to `record`, in log order. Returns what it held. What was in the log before `acked` is
/// known to have been durable once; with [`Durability::Os`], only that. Without it, the groups alone say what
/// was.
///
/// # Errors
/// Those of `record` and of reading and writing the segments, after which the log must not be used.
pub(super) fn recover<E: From<io::Error>>(
    log: &Log,
    from: Position,
    acked: Option<Position>,
    durability: Durability,
    record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Survey, E> {
    let is_unsynced = durability == Durability::Os && acked.is_some();
    let before = acked.unwrap_or(Position::START);
    let survey = look_over(log, from..OPEN_END, before, is_unsynced, record)?;
    for hole in &survey.holes {
        fill(log, hole, survey.last_group)?;
    }
    for (at, header) in &survey.torn_deletions {
        settle(log, *at, *header)?;
    }
    erase_after(log, survey.end, survey.trailing)?;
    // The last process may have ended because a sync failed.
    let unproved = acked.unwrap_or(survey.last_group);
    rewrite(log, unproved..survey.end)?;
    for segment in from.segment..=log.last_segment() {
        // One that is missing is damage, and reported.
        if log.segment(segment).is_some() {
            log.sync(segment..segment + 1)?;
        }
    }
    Ok(survey)
}

/// The same, with nothing written.
///
/// # Errors
/// Those of `record` and of reading the segments.
pub(super) fn survey<E: From<io::Error>>(
    log: &Log,
    from: Position,
    acked: Position,
    record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Survey, E> {
    look_over(log, from..OPEN_END, acked, false, record)
}

/// The same for what a log had up to `end`, all of which was acknowledged, while more is appended.
///
/// # Errors
/// Those of `record` and of reading the segments.
pub(super) fn survey_before<E: From<io::Error>>(
    log: &Log,
    end: Position,
    record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Survey, E> {
    look_over(log, Position::START..end, end, false, record)
}

/// Where no log ends.
pub(super) const OPEN_END: Position = Position {
    segment: u32::MAX,
    offset: u32::MAX,
};

/// `is_unsynced`: what is not before `acked` may lack parts anywhere.
fn look_over<E: From<io::Error>>(
    log: &Log,
    range: Range<Position>,
    acked: Position,
    is_unsynced: bool,
    mut record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Survey, E> {
    let mut found = Found {
        broken: Vec::new(),
        weak: Vec::new(),
        deleted: HashMap::new(),
        last_end: range.start,
        last_group: Position::START,
    };
    let mut from = range.start;
    while from < range.end && from.segment <= log.last_segment() {
        let segment = from.segment;
        if let Some(file) = log.segment(segment) {
            let mut scan = Scan::new(&file, log.segment_bytes(), from);
            while scan.at < range.end
                && let Some(stretch) = scan.next()?
            {
                if let Some(good) = found.add(stretch) {
                    record(good)?;
                }
            }
        } else {
            found.broken.push(Broken::missing(log, segment));
        }
        from = Position::start_of(segment + 1);
    }
    Ok(found.judge(acked, is_unsynced))
}

/// What was found in a log, before it is known what of it was acknowledged.
struct Found {
    broken: Vec<Broken>,
    /// Deletions whose positions are damaged: they count all the same.
    weak: Vec<Weak>,
    /// The last deletions, with their positions.
    deleted: HashMap<Digest, Position>,
    last_end: Position,
    last_group: Position,
}

/// A deletion whose positions are damaged.
struct Weak {
    damage: Damage,
    header: Header,
    is_unreadable: bool,
}

impl Found {
    /// Adds the next stretch of the log; returns what it says about a message, if it is good.
    fn add(&mut self, stretch: Stretch) -> Option<Record> {
        let (at, header, fault) = match stretch {
            Stretch::Record { at, header, fault } => (at, header, fault),
            Stretch::Broken(stretch) => {
                self.broken.push(stretch);
                return None;
            }
        };
        let length = header.length;
        let damage = Damage::unnamed(at, after(at, length));
        let place = Place { at, length };
        self.last_group = self.last_group.max(header.group);
        let good = match (header.content, fault) {
            (Content::Message(digest), Some(Fault { is_unreadable })) => {
                let message = Some((digest, place));
                self.broken.push(Broken {
                    damage: Damage { message, ..damage },
                    blank: false,
                    is_unreadable,
                });
                return None;
            }
            (Content::Message(digest), None) => Some((Kind::Message, digest)),
            (Content::Deletion(digest), fault) => {
                self.weak.extend(fault.map(|Fault { is_unreadable }| Weak {
                    damage,
                    header,
                    is_unreadable,
                }));
                self.deleted.insert(digest, at);
                if self.deleted.len() == DELETIONS_AT_ONCE {
                    self.forget_deleted();
                }
                Some((Kind::Deletion, digest))
            }
            (Content::Filler, _) => None,
        };
        self.last_end = self.last_end.max(damage.to);
        good.map(|(kind, digest)| Record {
            kind,
            digest,
            place,
            heals: kind == Kind::Message && header.note == HEALS,
        })
    }

    /// Takes out of what is broken what a deletion explains. What is broken after it came later: so none of
    /// the deletions is needed any more.
    fn forget_deleted(&mut self) {
        let is_deleted = |stretch: &Broken| {
            let message = stretch.damage.message;
            message.is_some_and(|(digest, place)| self.deleted.get(&digest) > Some(&place.at))
        };
        self.broken.retain(|stretch| !is_deleted(stretch));
        self.deleted.clear();
    }

    /// Tells what is torn from what is damaged.
    fn judge(mut self, acked: Position, is_unsynced: bool) -> Survey {
        self.forget_deleted();
        let Self {
            broken,
            weak,
            mut last_end,
            last_group,
            ..
        } = self;
        let was_acked =
            |damage: &Damage| damage.from < acked || !is_unsynced && damage.from < last_group;
        // Acknowledged, though broken: the log goes on after it, also where nothing good follows.
        let mut end = acked;
        for stretch in &broken {
            // What cannot be read is not written over, nor is what may belong to it: a record ends where its
            // header says, and that may be what cannot be read now.
            if stretch.is_unreadable {
                end = end.max(stretch.damage.to);
            }
            if was_acked(&stretch.damage) {
                let to = match stretch.damage.message {
                    Some(_) => stretch.damage.to,
                    // It may reach into the last group, of which nothing good is left.
                    None => stretch.damage.to.min(last_group),
                };
                last_end = last_end.max(to);
            }
        }
        end = end.max(last_end);
        let (damaged, torn): (Vec<_>, Vec<_>) = weak
            .into_iter()
            .partition(|it| was_acked(&it.damage) || it.is_unreadable);
        let mut survey = Survey {
            end,
            last_end,
            damage: damaged.into_iter().map(|it| it.damage).collect(),
            torn_deletions: torn
                .into_iter()
                .map(|it| (it.damage.from, it.header))
                .collect(),
            torn_bytes: 0,
            unsynced_bytes: 0,
            holes: Vec::new(),
            trailing: false,
            last_group,
        };
        for stretch in broken {
            let bytes = stretch.bytes();
            let Damage { from, to, message } = stretch.damage;
            if from >= end {
                // Without any byte set it is just what was not written yet.
                if !stretch.blank {
                    survey.trailing = true;
                    survey.torn_bytes += bytes;
                }
            } else if was_acked(&stretch.damage) || stretch.is_unreadable {
                let to = to.min(end);
                survey.damage.push(Damage { from, to, message });
            } else {
                if from < last_group {
                    survey.unsynced_bytes += bytes;
                } else {
                    survey.torn_bytes += bytes;
                }
                survey.holes.push(stretch.damage);
            }
        }
        survey.damage.sort_by_key(|damage| damage.from);
        survey
    }
}

/// Turns a torn stretch inside the last group into a filler.
fn fill(log: &Log, torn: &Damage, group: Position) -> io::Result<()> {
    let bytes = torn.to.offset - torn.from.offset;
    let (Some(file), Some(length)) = (
        log.segment(torn.from.segment),
        bytes.checked_sub(HEADER_BYTES),
    ) else {
        // A segment that is missing, or a hole that is no record: it stays, and a later start calls it damage.
        return Ok(());
    };
    // Never after the record: a hole in an earlier group, which was not synced, has its own.
    let header = Header::filler(group.min(torn.from), length);
    file.write_all_at(&header.encode(), u64::from(torn.from.offset))
}

/// Makes a deletion one that names no positions: where they should be is something else.
fn settle(log: &Log, at: Position, header: Header) -> io::Result<()> {
    let file = log.require_segment(at.segment)?;
    let header = Header { note: 0, ..header };
    let body = u64::from(at.offset + HEADER_BYTES);
    disk::overwrite(&file, body, header.length.into())?;
    file.write_all_at(&header.encode(), at.offset.into())
}

/// Makes every byte behind `end` zero again, and every segment as long as it should be.
fn erase_after(log: &Log, end: Position, trailing: bool) -> io::Result<()> {
    log.prepare(end.segment)?;
    for number in end.segment..=log.last_segment() {
        let Some(file) = log.segment(number) else {
            continue;
        };
        let whole = file.metadata()?.len() == u64::from(log.segment_bytes());
        if trailing || !whole {
            let kept = if number == end.segment { end.offset } else { 0 };
            file.set_len(u64::from(kept))?;
            disk::reserve(&file, u64::from(log.segment_bytes()))?;
            file.sync_all()?;
        }
    }
    Ok(())
}

/// Writes what the log holds in `range` once more. After a failed sync the kernel may take pages for
/// written that never reached the disk, and a later sync of them would say nothing.
fn rewrite(log: &Log, range: Range<Position>) -> io::Result<()> {
    for number in range.start.segment..=range.end.segment {
        let Some(file) = log.segment(number) else {
            continue;
        };
        let is_first = number == range.start.segment;
        let is_last = number == range.end.segment;
        let from = if is_first { range.start.offset } else { 0 };
        let to = if is_last {
            range.end.offset
        } else {
            log.segment_bytes()
        };
        let mut window = Window::of(&file);
        for offset in (from..to).step_by(WINDOW_BYTES as usize) {
            let length = (to - offset).min(WINDOW_BYTES);
            window.load(offset, length as usize)?;
            for (at, bytes) in window.readable() {
                file.write_all_at(bytes, at)?;
            }
        }
    }
    Ok(())
}
