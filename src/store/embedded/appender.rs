//! The appender: lays out groups of records and writes them at the end of the log.
//!
//! Messages and their deletions are appended in groups to the segments and synced once a group. It knows where the
//! log ends, and neither who waits for a group nor the index.
//!
//! **Invariants:** nothing is ever written over a record; a group is written with its own bytes, whatever was laid out
//! since.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::disk;
use super::record::{
    Content, HEADER_BYTES, HEALS, Header, Place, Position, checksum, record_bytes,
};
use super::segments::Log;
use crate::digest::Digest;
use crate::message::Message;

/// Zeros that are written behind the end at once, in bytes: few enough to make one sync hardly longer, and
/// room for a hundred usual groups.
const ZEROS_BYTES: u32 = 256 << 10;

/// The append buffer is kept between groups unless one group blew it up beyond this.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// The records of a group as they are written. Memory is kept from group to group.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Parts of `bytes` and where they go; more than one where a group crosses a segment.
    parts: Vec<(Position, Range<usize>)>,
}

/// The one writer of the log: it alone knows where the log ends.
#[derive(Debug)]
pub struct Appender {
    log: Arc<Log>,
    end: Position,
    /// What the next group is laid out in: the buffer of the last one that was written.
    buffer: Buffer,
    /// Up to where something was written, if only zeros.
    touched: Position,
}

impl Appender {
    /// Appends from `end` on, which recovery found.
    #[must_use]
    pub fn new(log: Arc<Log>, end: Position) -> Self {
        Self {
            log,
            end,
            buffer: Buffer::default(),
            touched: end,
        }
    }

    /// Where the next group starts.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// Lays out `messages` as one group and makes sure its segments exist. Nothing is written yet.
    ///
    /// # Errors
    /// If a segment cannot be made, on a full disk above all. The log is as it was, and the group can
    /// be dropped.
    pub fn prepare<'a>(
        &mut self,
        messages: impl IntoIterator<Item = &'a Message>,
    ) -> io::Result<Group> {
        let mut draft = self.draft();
        for message in messages {
            draft.put(message, false)?;
        }
        draft.finish()
    }

    /// Begins to lay out a group. Nothing is written yet.
    pub(super) fn draft(&mut self) -> Draft<'_> {
        self.buffer.bytes.clear();
        self.buffer.bytes.shrink_to(BUFFER_KEPT_BYTES);
        self.buffer.parts.clear();
        Draft {
            start: self.end,
            end: self.end,
            part: (self.end, 0),
            places: Vec::new(),
            appender: self,
        }
    }

    /// Writes a group; with `sync`, it is durable on return. Without, what it has in other segments than
    /// its last is, and what was in them before: who syncs later has one segment to sync.
    ///
    /// # Errors
    /// If it cannot be written or synced. Nobody knows what the disk holds then: nothing may be
    /// appended any more.
    ///
    /// # Panics
    /// If another group was written since this one was laid out: it would be written over.
    pub fn write(&mut self, group: Group, sync: bool) -> io::Result<()> {
        self.try_write(group, sync).map_err(|error| match error {
            WriteError::Nothing(error) | WriteError::Unknown(error) => error,
        })
    }

    /// The same; the error says whether the log is as it was.
    #[expect(
        clippy::indexing_slicing,
        reason = "each part ends where the bytes ended when it was noted, and they only grew; a panic here stops the store before it acknowledges what was not written"
    )]
    pub(super) fn try_write(&mut self, group: Group, sync: bool) -> Result<(), WriteError> {
        assert_eq!(group.start, self.end, "another group was written since");
        let Buffer { bytes, parts } = &group.buffer;
        for (index, (at, range)) in parts.iter().enumerate() {
            let file = self.log.require_segment(at.segment)?;
            let (mut bytes, mut offset) = (&bytes[range.clone()], u64::from(at.offset));
            if index == 0 {
                let written = self.log.watched(|| write_some_at(&file, bytes, offset));
                let written = written.map_err(WriteError::Nothing)?;
                bytes = &bytes[written..];
                offset += written as u64;
            }
            self.log.watched(|| file.write_all_at(bytes, offset))?;
        }
        self.end = group.end;
        self.buffer = group.buffer;
        self.touched = self.touched.max(self.end);
        let not_synced = group.end.segment + u32::from(sync);
        Ok(self.log.sync(group.start.segment..not_synced)?)
    }

    /// Writes zeros behind the end, unless there are enough of them, or groups are so large that they
    /// gain nothing. They read as before, and the next sync takes them along. What a file system notes
    /// about a block that was reserved and is written for the first time is noted then; later syncs have
    /// records to write and nothing else, which takes a fifth to a quarter less time.
    ///
    /// # Errors
    /// If they cannot be written, which is as bad as with a group.
    pub(super) fn write_ahead(&mut self) -> io::Result<()> {
        let Position { segment, offset } = self.touched;
        let ahead = self.touched.to_u64() - self.end.to_u64();
        if ahead >= u64::from(ZEROS_BYTES / 2) || self.buffer.bytes.len() > ZEROS_BYTES as usize {
            return Ok(());
        }
        let rest = self.log.segment_bytes().saturating_sub(offset);
        let bytes = ZEROS_BYTES.min(rest);
        if let Some(file) = self.log.segment(segment) {
            self.log
                .watched(|| disk::overwrite(&file, offset.into(), bytes.into()))?;
            self.touched.offset += bytes;
        }
        Ok(())
    }
}

/// One write, tried again where it was interrupted; returns how much was written.
fn write_some_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    loop {
        match file.write_at(bytes, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            written => return written,
        }
    }
}

/// Why a group was not written.
#[derive(Debug)]
pub(super) enum WriteError {
    /// The very first call wrote nothing.
    Nothing(io::Error),
    /// Nobody knows what the disk holds.
    Unknown(io::Error),
}

impl From<io::Error> for WriteError {
    fn from(error: io::Error) -> Self {
        Self::Unknown(error)
    }
}

/// A group that is being laid out.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    appender: &'a mut Appender,
    start: Position,
    end: Position,
    /// Where the part of the buffer that is not in its `parts` yet goes, and where in it it starts.
    part: (Position, usize),
    places: Vec<Place>,
}

impl Draft<'_> {
    /// Adds a message; returns where it will be. It `heals` if the index has a damaged record of it.
    pub(super) fn put(&mut self, message: &Message, heals: bool) -> io::Result<Place> {
        let note = if heals { HEALS } else { 0 };
        self.add(Content::Message(message.digest()), note, message.as_bytes())
    }

    /// Adds a deletion that erases the messages at `erased`; returns where it will be.
    pub(super) fn delete(&mut self, digest: Digest, erased: &[Place]) -> io::Result<Place> {
        let positions = erased.iter().map(|place| place.at.to_u64().to_le_bytes());
        let body: Vec<_> = positions.flatten().collect();
        self.add(Content::Deletion(digest), checksum(&body), &body)
    }

    /// Adds a record of a message of which only `body` is left: it reads as damaged, as it was.
    pub(super) fn put_damaged(&mut self, digest: Digest, body: &[u8]) -> io::Result<Place> {
        self.add(Content::Message(digest), 0, body)
    }

    /// Adds a record that means nothing.
    pub(super) fn fill(&mut self) -> io::Result<Place> {
        self.add(Content::Filler, 0, &[])
    }

    /// Whether there is nothing in it.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    fn add(&mut self, content: Content, note: u32, body: &[u8]) -> io::Result<Place> {
        let (length, bytes) = self.size(body)?;
        let Self {
            start, end, part, ..
        } = self;
        let Appender { log, buffer, .. } = &mut *self.appender;
        let room = log.segment_bytes() - end.offset;
        if bytes > room {
            if room >= HEADER_BYTES {
                let filler = Header::filler(*start, room - HEADER_BYTES);
                buffer.bytes.extend_from_slice(&filler.encode());
            }
            let range = part.1..buffer.bytes.len();
            buffer.parts.push((part.0, range));
            *end = Position::start_of(end.segment + 1);
            *part = (*end, buffer.bytes.len());
        }
        let buffer = &mut buffer.bytes;
        let place = Place { at: *end, length };
        let header = Header {
            content,
            note,
            group: *start,
            length,
        };
        buffer.extend_from_slice(&header.encode());
        buffer.extend_from_slice(body);
        let padded = buffer.len() + (bytes - HEADER_BYTES - length) as usize;
        buffer.resize(padded, 0);
        end.offset += bytes;
        self.places.push(place);
        Ok(place)
    }

    /// Length of the body and of the whole record.
    fn size(&self, body: &[u8]) -> io::Result<(u32, u32)> {
        let fits = |length: u32| {
            let bytes = u32::try_from(record_bytes(length)).ok()?;
            (bytes <= self.appender.log.segment_bytes()).then_some((length, bytes))
        };
        let length = u32::try_from(body.len());
        length.ok().and_then(fits).ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidInput,
                "the message is larger than a segment",
            )
        })
    }

    /// Makes sure that the segments of the group exist.
    ///
    /// # Errors
    /// If one cannot be made, on a full disk above all. The log is as it was, and the group can be
    /// dropped.
    pub(super) fn finish(self) -> io::Result<Group> {
        let Appender { log, buffer, .. } = self.appender;
        let (at, from) = self.part;
        buffer.parts.push((at, from..buffer.bytes.len()));
        for segment in self.start.segment..=self.end.segment {
            log.prepare(segment)?;
        }
        Ok(Group {
            start: self.start,
            end: self.end,
            places: self.places,
            buffer: std::mem::take(buffer),
        })
    }
}

/// A group laid out for writing.
#[derive(Debug)]
pub struct Group {
    start: Position,
    end: Position,
    places: Vec<Place>,
    buffer: Buffer,
}

impl Group {
    /// The place of each record, in the order they were given.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    const SEGMENT: u32 = 4096;

    fn log(directory: &Path) -> (Arc<Log>, Appender) {
        let log = Arc::new(Log::open(directory, SEGMENT).unwrap());
        let appender = Appender::new(Arc::clone(&log), Position::START);
        (log, appender)
    }

    fn append(appender: &mut Appender, messages: &[Message]) -> Vec<Place> {
        let group = appender.prepare(messages).unwrap();
        let places = group.places().to_vec();
        appender.write(group, true).unwrap();
        places
    }

    fn text(length: usize) -> Message {
        Message::new("x".repeat(length))
    }

    #[test]
    fn bodies_of_all_small_sizes_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        let messages: Vec<_> = (0..40).map(text).collect();
        let places = append(&mut appender, &messages);
        for (message, place) in messages.iter().zip(places) {
            assert_eq!(log.read(place).unwrap(), *message.as_bytes());
        }
    }

    #[test]
    fn zeros_are_written_behind_the_end_until_there_are_enough_and_never_over_a_record() {
        const BYTES: u32 = 3 * ZEROS_BYTES;
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(directory.path(), BYTES).unwrap());
        let mut appender = Appender::new(Arc::clone(&log), Position::START);
        let mut places = append(&mut appender, &[text(10)]);
        let mut touched = Vec::new();
        while appender.end.segment == 1 {
            appender.write_ahead().unwrap();
            let before = appender.touched;
            let ahead = before.offset - appender.end.offset;
            assert!(ahead >= (ZEROS_BYTES / 2).min(BYTES - appender.end.offset));
            appender.write_ahead().unwrap();
            assert_eq!(appender.touched, before);
            let segment = fs::read(directory.path().join("00000001.log")).unwrap();
            let behind = segment.split_at(appender.end.offset as usize).1;
            assert!(segment.len() == BYTES as usize && behind.iter().all(|&byte| byte == 0));
            touched.push(before.offset);
            places.extend(append(&mut appender, &[text(10_000), text(5000)]));
            // As after a restart.
            if touched.len() == 3 {
                appender = Appender::new(Arc::clone(&log), appender.end);
            }
        }
        touched.dedup();
        assert!(
            touched.len() >= 3 && touched.last() == Some(&BYTES),
            "{touched:?}"
        );
        for (place, length) in places
            .iter()
            .zip([10].into_iter().chain([10_000, 5000].repeat(99)))
        {
            assert_eq!(log.read(*place).unwrap(), vec![b'x'; length]);
        }
    }

    #[test]
    fn a_group_is_written_with_its_own_bytes_whatever_was_laid_out_since() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        let messages = [text(10), text(20)];
        let group = appender.prepare(&messages).unwrap();
        drop(appender.prepare(&[text(3000)]).unwrap());
        let places = group.places().to_vec();
        appender.write(group, true).unwrap();
        for (message, place) in messages.iter().zip(places) {
            assert!(log.holds(place, message).unwrap());
        }
    }

    #[test]
    #[should_panic(expected = "another group was written since")]
    fn a_group_is_never_written_over_another() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut appender) = log(directory.path());
        let group = appender.prepare(&[text(10)]).unwrap();
        append(&mut appender, &[text(20)]);
        let _ = appender.write(group, true);
    }

    #[test]
    fn the_memory_of_a_group_that_was_written_is_used_for_the_next() {
        let directory = tempfile::tempdir().unwrap();
        let (_, mut appender) = log(directory.path());
        let group = appender.prepare(&[text(100)]).unwrap();
        let bytes = group.buffer.bytes.as_ptr();
        appender.write(group, true).unwrap();
        let group = appender.prepare(&[text(90)]).unwrap();
        assert_eq!(group.buffer.bytes.as_ptr(), bytes);
    }

    #[test]
    fn a_group_that_crosses_segments_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        let messages: Vec<_> = (1500..1510).map(text).collect();
        let places = append(&mut appender, &messages);
        assert!(places.last().unwrap().at.segment > 2);
        for (message, place) in messages.iter().zip(places) {
            assert_eq!(log.read(place).unwrap(), *message.as_bytes());
        }
    }

    #[test]
    fn a_message_may_fill_a_segment_and_not_a_byte_more() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        append(&mut appender, &[text(10)]);
        let whole = text((SEGMENT - HEADER_BYTES) as usize);
        let places = append(&mut appender, &[whole.clone(), text(1)]);
        assert_eq!(
            places[0].at,
            Position {
                segment: 2,
                offset: 0
            }
        );
        assert_eq!(
            places[1].at,
            Position {
                segment: 3,
                offset: 0
            }
        );
        assert_eq!(log.read(places[0]).unwrap(), *whole.as_bytes());
        let larger = text((SEGMENT - HEADER_BYTES) as usize + 1);
        let refused = appender.prepare(&[larger]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_rest_shorter_than_a_header_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        // 48 bytes stay.
        append(
            &mut appender,
            &[text((SEGMENT - HEADER_BYTES - 48) as usize)],
        );
        let places = append(&mut appender, &[text(1)]);
        assert_eq!(
            places[0].at,
            Position {
                segment: 2,
                offset: 0
            }
        );
        let mut rest = [0xee; 48];
        let first = log.segment(1).unwrap();
        first
            .read_exact_at(&mut rest, u64::from(SEGMENT - 48))
            .unwrap();
        assert_eq!(rest, [0; 48]);
    }

    #[test]
    fn a_place_outside_its_segment_is_refused_before_anything_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let (log, mut appender) = log(directory.path());
        append(&mut appender, &[text(1)]);
        let place = Place {
            at: Position::START,
            length: u32::MAX,
        };
        assert_eq!(
            log.read(place).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }
}
