//! What a log means after a crash: which records count, which were never acknowledged, which are
//! damaged, and where the log ends.
//!
//! The committer writes group after group and starts none before the last one is durable. So a
//! record of a later group proves that every earlier group was synced and may have been
//! acknowledged, and so does a checkpoint behind it. From that follows the judgement on each broken
//! stretch of the log:
//!
//! * before the checkpoint, or before the start of the last group → **damage**: it is reported and
//!   left as it is, and the log goes on behind it;
//! * otherwise → **torn**: the crash hit the last group, for which no answer had left. What follows
//!   the last good record is zeroed; a hole between good records of that group becomes a filler, so
//!   that no later start takes it for damage.
//!
//! A record with a good header and a body that does not hash to its digest is broken too, but names
//! the message that is lost; if it is damage, it is kept in the index so that a look-up answers with
//! an error instead of "not found". Unless a deletion of that message stands behind it: then its body
//! was erased, or whatever else happened to it is nobody's loss.
//!
//! **Invariant:** after [`recover`], the log from the checkpoint to its end is durable, and a second
//! recovery finds the same messages and nothing torn.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::disk;
use super::log::{
    Content, HEADER_BYTES, Header, Log, MAGIC, Place, Position, RECORD_ALIGNMENT, record_bytes,
};
use crate::digest::Digest;

/// How much of a segment is read at once.
const WINDOW_BYTES: u32 = 1 << 20;

/// Zeros are stepped over in steps of this: the unwritten rest of a segment is most of what a start
/// looks at.
const BLANK_STEP_BYTES: u32 = 4096;

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
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The message, compared with its digest.
    Message,
    /// What stands before is gone.
    Deletion,
}

/// A stretch of the log that was acknowledged and cannot be read any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    /// Where it starts.
    pub(super) from: Position,
    /// Where the next good record, or the segment's end, is.
    pub(super) to: Position,
    /// The message that is lost, where the record still says so.
    pub(super) message: Option<(Digest, Place)>,
}

/// What [`recover`] found.
#[derive(Debug)]
pub(super) struct Recovered {
    /// Where the next group goes.
    pub(super) end: Position,
    /// Behind the last record, or the start of what was read if there is none in it.
    pub(super) last_end: Position,
    /// What was lost although it was acknowledged.
    pub(super) damage: Vec<Damage>,
    /// Bytes of the last, unacknowledged group that were removed.
    pub(super) torn_bytes: u64,
}

/// What a log holds, as it is.
#[derive(Debug)]
pub(super) struct Survey {
    /// Where the next group goes.
    pub(super) end: Position,
    /// Behind the last record, or the start of what was read if there is none in it.
    last_end: Position,
    /// What was lost although it was acknowledged.
    pub(super) damage: Vec<Damage>,
    /// Bytes of the last group, which was never acknowledged.
    pub(super) torn_bytes: u64,
    /// Those of its broken stretches that good records of it follow.
    holes: Vec<Damage>,
    /// Whether something is written behind the end.
    trailing: bool,
    /// Where the last group starts.
    pub(super) last_group: Position,
}

/// Reads the log from `from`, the start of a group, to its end, and makes it one that can be appended
/// to. Each good record goes to `record`, in log order. What was in the log before `acked` is known
/// to have been durable once.
///
/// # Errors
/// Those of `record` and of reading and writing the segments, after which the log must not be used.
pub(super) fn recover<E: From<io::Error>>(
    log: &Log,
    from: Position,
    acked: Position,
    record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Recovered, E> {
    let survey = survey(log, from, acked, record)?;
    for hole in &survey.holes {
        fill(log, hole, survey.last_group)?;
    }
    erase_after(log, survey.end, survey.trailing)?;
    // The last process may have ended because a sync failed.
    let unproved = if acked > Position::START {
        acked
    } else {
        survey.last_group
    };
    rewrite(log, unproved..survey.end)?;
    log.sync(from.segment..log.last_segment() + 1)?;
    Ok(Recovered {
        end: survey.end,
        last_end: survey.last_end,
        damage: survey.damage,
        torn_bytes: survey.torn_bytes,
    })
}

/// The same, with nothing written.
///
/// # Errors
/// Those of `record` and of reading the segments.
pub(super) fn survey<E: From<io::Error>>(
    log: &Log,
    from: Position,
    acked: Position,
    mut record: impl FnMut(Record) -> Result<(), E>,
) -> Result<Survey, E> {
    let mut broken = Vec::new();
    let mut deleted = HashMap::new();
    let mut last_end = from;
    let mut last_group = Position::START;
    for segment in from.segment..=log.last_segment() {
        let offset = if segment == from.segment {
            from.offset
        } else {
            0
        };
        let Some(file) = log.segment(segment) else {
            broken.push(Broken::missing(log, segment));
            continue;
        };
        let mut scan = Scan::new(&file, log.segment_bytes(), Position { segment, offset });
        while let Some(stretch) = scan.next()? {
            match stretch {
                Stretch::Record { at, header, good } => {
                    let to = after(at, header.length);
                    last_group = last_group.max(header.group);
                    let place = Place {
                        at,
                        length: header.length,
                    };
                    match header.content {
                        Content::Message(digest) if good => {
                            record(Record {
                                kind: Kind::Message,
                                digest,
                                place,
                            })?;
                        }
                        Content::Message(digest) => {
                            let message = Some((digest, place));
                            broken.push(Broken {
                                damage: Damage {
                                    from: at,
                                    to,
                                    message,
                                },
                                blank: false,
                            });
                            continue;
                        }
                        Content::Deletion(digest) => {
                            record(Record {
                                kind: Kind::Deletion,
                                digest,
                                place,
                            })?;
                            deleted.insert(digest, at);
                            if deleted.len() == DELETIONS_AT_ONCE {
                                forget_deleted(&mut broken, &mut deleted);
                            }
                        }
                        Content::Filler => {}
                    }
                    last_end = last_end.max(to);
                }
                Stretch::Broken(stretch) => broken.push(stretch),
            }
        }
    }

    forget_deleted(&mut broken, &mut deleted);
    // Acknowledged, though broken: the log goes on behind it, also where nothing good follows.
    let mut end = last_end.max(acked);
    let is_damage =
        |stretch: &Broken| stretch.damage.from < acked || stretch.damage.from < last_group;
    for stretch in &broken {
        if stretch.damage.message.is_some() && is_damage(stretch) {
            last_end = last_end.max(stretch.damage.to);
        }
    }
    end = end.max(last_end);
    let mut survey = Survey {
        end,
        last_end,
        damage: Vec::new(),
        torn_bytes: 0,
        holes: Vec::new(),
        trailing: false,
        last_group,
    };
    for stretch in broken {
        if stretch.damage.from >= end {
            // Without any byte set it is just what was not written yet.
            if !stretch.blank {
                survey.trailing = true;
                survey.torn_bytes += stretch.bytes();
            }
        } else if is_damage(&stretch) {
            survey.damage.push(stretch.damage);
        } else {
            survey.torn_bytes += stretch.bytes();
            survey.holes.push(stretch.damage);
        }
    }
    Ok(survey)
}

/// Takes those out of `broken` that a deletion explains. What is broken behind it came later: so none of
/// the deletions is needed any more.
fn forget_deleted(broken: &mut Vec<Broken>, deleted: &mut HashMap<Digest, Position>) {
    let is_deleted = |stretch: &Broken| {
        let message = stretch.damage.message;
        message.is_some_and(|(digest, place)| deleted.get(&digest) > Some(&place.at))
    };
    broken.retain(|stretch| !is_deleted(stretch));
    deleted.clear();
}

/// The position behind a record.
fn after(at: Position, length: u32) -> Position {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the scan only yields records inside a segment"
    )]
    Position {
        segment: at.segment,
        offset: at.offset + record_bytes(length) as u32,
    }
}

/// Turns a torn stretch inside the last group into a filler.
fn fill(log: &Log, torn: &Damage, group: Position) -> io::Result<()> {
    let bytes = torn.to.offset - torn.from.offset;
    let (Some(file), Some(length)) = (
        log.segment(torn.from.segment),
        bytes.checked_sub(HEADER_BYTES),
    ) else {
        return Ok(());
    };
    let header = Header {
        content: Content::Filler,
        group,
        length,
    };
    file.write_all_at(&header.encode(), u64::from(torn.from.offset))
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
            let bytes = window.at(offset, length as usize)?;
            file.write_all_at(bytes, u64::from(offset))?;
        }
    }
    Ok(())
}

/// A stretch without good records; `blank` if no byte of it is set.
#[derive(Debug)]
struct Broken {
    damage: Damage,
    blank: bool,
}

impl Broken {
    fn missing(log: &Log, segment: u32) -> Self {
        let from = Position { segment, offset: 0 };
        let to = Position {
            segment,
            offset: log.segment_bytes(),
        };
        Self {
            damage: Damage {
                from,
                to,
                message: None,
            },
            blank: false,
        }
    }

    fn bytes(&self) -> u64 {
        u64::from(self.damage.to.offset - self.damage.from.offset)
    }
}

/// One step of a [`Scan`].
#[derive(Debug)]
enum Stretch {
    /// A record with a good header; `good` if its body is what the header says.
    Record {
        at: Position,
        header: Header,
        good: bool,
    },
    Broken(Broken),
}

/// Walks through one segment.
struct Scan<'a> {
    window: Window<'a>,
    segment: u32,
    segment_bytes: u32,
    offset: u32,
}

impl<'a> Scan<'a> {
    fn new(file: &'a Arc<File>, segment_bytes: u32, from: Position) -> Self {
        Self {
            window: Window::of(file),
            segment: from.segment,
            segment_bytes,
            offset: from.offset,
        }
    }

    /// The next stretch, `None` at the end of the segment. A rest shorter than a header belongs to
    /// no stretch.
    fn next(&mut self) -> io::Result<Option<Stretch>> {
        if self.segment_bytes.saturating_sub(self.offset) < HEADER_BYTES {
            return Ok(None);
        }
        let at = Position {
            segment: self.segment,
            offset: self.offset,
        };
        let Some(header) = self.header(self.offset)? else {
            return self.broken(at).map(Some);
        };
        let good = match header.content {
            Content::Message(digest) => {
                let body = self
                    .window
                    .at(self.offset + HEADER_BYTES, header.length as usize)?;
                Digest::of(body) == digest
            }
            // Deletions stand without their bodies, and fillers have none.
            Content::Deletion(_) | Content::Filler => true,
        };
        self.offset = after(at, header.length).offset;
        Ok(Some(Stretch::Record { at, header, good }))
    }

    /// The good header at `offset`, if there is one and its record fits where it stands.
    fn header(&mut self, offset: u32) -> io::Result<Option<Header>> {
        let Some(header) = Header::decode(self.window.at(offset, HEADER_BYTES as usize)?) else {
            return Ok(None);
        };
        let fits = u64::from(offset) + record_bytes(header.length) <= u64::from(self.segment_bytes);
        let at = Position {
            segment: self.segment,
            offset,
        };
        Ok((fits && header.group <= at).then_some(header))
    }

    /// Steps over everything up to the next good header or the end of the segment.
    fn broken(&mut self, from: Position) -> io::Result<Stretch> {
        let mut blank = true;
        loop {
            if self.segment_bytes - self.offset > BLANK_STEP_BYTES + HEADER_BYTES {
                let step = self.window.at(self.offset, BLANK_STEP_BYTES as usize)?;
                if step.iter().all(|&byte| byte == 0) {
                    self.offset += BLANK_STEP_BYTES;
                    continue;
                }
            }
            let word = self.window.at(self.offset, RECORD_ALIGNMENT as usize)?;
            blank &= word.iter().all(|&byte| byte == 0);
            if word.starts_with(&MAGIC)
                && self.offset > from.offset
                && self.header(self.offset)?.is_some()
            {
                break;
            }
            self.offset += RECORD_ALIGNMENT;
            if self.segment_bytes - self.offset < HEADER_BYTES {
                self.offset = self.segment_bytes;
                break;
            }
        }
        let to = Position {
            segment: self.segment,
            offset: self.offset,
        };
        Ok(Stretch::Broken(Broken {
            damage: Damage {
                from,
                to,
                message: None,
            },
            blank,
        }))
    }
}

/// A part of a file in memory. What lies behind the end of the file reads as zeros.
struct Window<'a> {
    file: &'a File,
    start: u32,
    bytes: Vec<u8>,
}

impl<'a> Window<'a> {
    fn of(file: &'a File) -> Self {
        Self {
            file,
            start: 0,
            bytes: Vec::new(),
        }
    }

    /// The `length` bytes at `offset`.
    fn at(&mut self, offset: u32, length: usize) -> io::Result<&[u8]> {
        let inside = |start: u32, bytes: &[u8]| {
            let from = offset.checked_sub(start)? as usize;
            (from + length <= bytes.len()).then_some(from..from + length)
        };
        if inside(self.start, &self.bytes).is_none() {
            self.bytes = vec![0; length.max(WINDOW_BYTES as usize)];
            self.start = offset;
            let mut filled = 0;
            while let Some(rest) = self.bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
                match self.file.read_at(rest, u64::from(offset) + filled as u64)? {
                    0 => break,
                    read => filled += read,
                }
            }
        }
        let range = inside(self.start, &self.bytes).unwrap_or_default();
        Ok(self.bytes.get(range).unwrap_or_default())
    }
}
