//! The message log: the truth of the store.
//!
//! Messages and their deletions are appended in groups to numbered segment files and synced once a
//! group. Nothing is ever moved, and nothing changed but the body of a deleted message, which becomes
//! zeros; so a [`Place`] stays valid for the life of the store. This room knows bytes, digests and
//! files; it does not know who waits for a group, nor the index. What a log means after a crash is
//! `recovery`'s business.
//!
//! # Format
//!
//! `log/00000001.log`, `log/00000002.log`, … are segments, all of the size that `FORMAT` names in
//! bytes. A segment is filled with records from its first byte on; what is not written yet is zero.
//! A record starts at an offset divisible by 8 and never crosses a segment. Integers are
//! little-endian.
//!
//! | offset | bytes | field | |
//! |---:|---:|---|---|
//! | 0 | 4 | magic | `ff 64 67 31`; the first byte never occurs in UTF-8, so no text holds a header |
//! | 4 | 1 | kind | 1 message · 2 deletion · 3 filler |
//! | 5 | 3 | note | of a message: 1 if it replaces a damaged record of the same text, else 0; of a deletion: the low 24 bits of the CRC-32C of its body, or 0, which says nothing; of a filler: 0 |
//! | 8 | 8 | group | position at which this record's group starts, never behind the record |
//! | 16 | 32 | digest | SHA-256 of the body; of a deletion, the message's; zero in a filler |
//! | 48 | 4 | length | of the body, in bytes |
//! | 52 | 4 | checksum | CRC-32C (Castagnoli) of the bytes 0 to 51 |
//! | 56 | length | body | the text of a message, UTF-8; of a deletion, positions, 8 bytes each; a filler's means nothing |
//! | … | 0–7 | padding | zeros up to the next offset divisible by 8 |
//!
//! A *position* is `segment number << 32 | offset in the segment`; positions grow along the log. A
//! record that does not fit into the rest of a segment goes into the next one; the rest is covered
//! by a filler, or left alone where it is shorter than a header (56 bytes). Names are the decimal
//! numbers of positions, with eight digits or more. `log/ID` is the identity of the log, 32 hexadecimal
//! digits and a newline; other files are not part of the log.
//!
//! To list a log: walk every segment in numeric order from offset 0, skip fillers, and step over
//! `56 + length` rounded up to 8. Where magic, checksum or kind is wrong, or the record would leave its
//! segment, look for the next good header at the offsets divisible by 8; without one the segment is
//! over, and the next one follows. A body that does not hash to its digest is damaged or was never
//! acknowledged. A digest may occur more than once; any record whose body hashes to it counts, unless
//! a deletion of that digest stands behind it. A message that one stands behind is gone: its body is
//! zeros, or will be, and is not damage.
//!
//! The positions in a deletion are those of the records whose bodies it turns into zeros. Version 0.1.0 left
//! the note zero in all records: a reader that follows a position makes sure that the record there has that
//! digest and comes before the deletion.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::warn;

use super::disk;
use super::identity::{self, Identity, Presence};
use super::watchdog::Watchdog;
use crate::digest::{DIGEST_BYTES, Digest};
use crate::message::Message;

/// Length of a record's header.
pub(super) const HEADER_BYTES: u32 = 56;

/// Records start at multiples of this, so that a search for the next good header after a broken
/// one looks at one offset in eight.
pub(super) const RECORD_ALIGNMENT: u32 = 8;

pub(super) const MAGIC: [u8; 4] = [0xff, b'd', b'g', b'1'];
const KIND_MESSAGE: u8 = 1;
const KIND_DELETION: u8 = 2;
const KIND_FILLER: u8 = 3;

/// Sizes a segment may have, in bytes: offsets in it have 32 bits, and a start looks at up to two
/// whole segments. A multiple of [`SEGMENT_BYTES_UNIT`].
pub const SEGMENT_BYTES_RANGE: RangeInclusive<u32> = 64 << 10..=1 << 30;

/// What the size of a segment is a multiple of: the page of the usual machine.
pub const SEGMENT_BYTES_UNIT: u32 = 4096;

/// Whether segments may have this size.
#[must_use]
pub fn is_segment_size(bytes: u32) -> bool {
    SEGMENT_BYTES_RANGE.contains(&bytes) && bytes.is_multiple_of(SEGMENT_BYTES_UNIT)
}

/// Segments in a row that may be missing before what follows is not taken for part of the log.
pub(super) const SEGMENTS_LOST_MAX: u32 = 1024;

/// Zeros that are written behind the end at once, in bytes: few enough to make one sync hardly longer, and
/// room for a hundred usual groups.
const ZEROS_BYTES: u32 = 256 << 10;

/// The append buffer is kept between groups unless one group blew it up beyond this.
const BUFFER_KEPT_BYTES: usize = 1 << 20;

/// A point in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Number of the segment, from 1.
    pub segment: u32,
    /// Offset in the segment, in bytes.
    pub offset: u32,
}

impl Position {
    /// The first position of the first segment.
    pub const START: Self = Self::start_of(1);

    /// The first position of a segment.
    pub(super) const fn start_of(segment: u32) -> Self {
        Self { segment, offset: 0 }
    }

    /// The name of the segment's file.
    #[must_use]
    pub fn file_name(self) -> String {
        segment_name(self.segment)
    }

    /// Bytes of `log` before it.
    pub(super) fn bytes_before(self, log: &Log) -> u64 {
        let segments = u64::from(self.segment.saturating_sub(1));
        segments * u64::from(log.segment_bytes) + u64::from(self.offset)
    }

    pub(super) fn to_u64(self) -> u64 {
        u64::from(self.segment) << 32 | u64::from(self.offset)
    }

    pub(super) fn from_u64(value: u64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the two halves of the value"
        )]
        Self {
            segment: (value >> 32) as u32,
            offset: value as u32,
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "segment {}, offset {}",
            self.segment, self.offset
        )
    }
}

/// Where the body of a message lies: what the index keeps for each digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Position of the record.
    pub at: Position,
    /// Length of its body in bytes.
    pub length: u32,
}

/// What a good header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) content: Content,
    /// Of a deletion, the [`checksum`] of its body, or 0 if there is none; of a message, [`HEALS`] or 0.
    pub(super) note: u32,
    pub(super) group: Position,
    pub(super) length: u32,
}

/// The note of a message that replaces a damaged record.
pub(super) const HEALS: u32 = 1;

/// What the body of a record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// The text with this digest.
    Message(Digest),
    /// Where messages with this digest stand, which are gone.
    Deletion(Digest),
    /// Nothing.
    Filler,
}

/// The checksum of the positions in a deletion: 24 bits.
fn checksum(positions: &[u8]) -> u32 {
    crc32c::crc32c(positions) & 0x00ff_ffff
}

impl Header {
    /// That of a record which means nothing.
    pub(super) fn filler(group: Position, length: u32) -> Self {
        Self {
            content: Content::Filler,
            note: 0,
            group,
            length,
        }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES as usize] {
        let (kind, digest) = match self.content {
            Content::Message(digest) => (KIND_MESSAGE, *digest.as_bytes()),
            Content::Deletion(digest) => (KIND_DELETION, *digest.as_bytes()),
            Content::Filler => (KIND_FILLER, [0; DIGEST_BYTES]),
        };
        let [note @ .., _] = self.note.to_le_bytes();
        let mut bytes = [0; HEADER_BYTES as usize];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4] = kind;
        bytes[5..8].copy_from_slice(&note);
        bytes[8..16].copy_from_slice(&self.group.to_u64().to_le_bytes());
        bytes[16..48].copy_from_slice(&digest);
        bytes[48..52].copy_from_slice(&self.length.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..52]);
        bytes[52..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads a header from the front of `bytes`; `None` if there is no good one.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (&magic, _) = bytes.split_first_chunk::<4>()?;
        if magic != MAGIC {
            return None;
        }
        let (fields, rest) = bytes.split_at_checked(HEADER_BYTES as usize - 4)?;
        let (&checksum, _) = rest.split_first_chunk::<4>()?;
        if crc32c::crc32c(fields) != u32::from_le_bytes(checksum) {
            return None;
        }
        let (&[kind, n0, n1, n2], rest) = fields.get(4..)?.split_first_chunk::<4>()?;
        let (&group, rest) = rest.split_first_chunk::<8>()?;
        let (&digest, rest) = rest.split_first_chunk::<DIGEST_BYTES>()?;
        let (&length, _) = rest.split_first_chunk::<4>()?;
        let content = match kind {
            KIND_MESSAGE => Content::Message(Digest::from_bytes(digest)),
            KIND_DELETION => Content::Deletion(Digest::from_bytes(digest)),
            KIND_FILLER => Content::Filler,
            _ => return None,
        };
        Some(Self {
            content,
            note: u32::from_le_bytes([n0, n1, n2, 0]),
            group: Position::from_u64(u64::from_le_bytes(group)),
            length: u32::from_le_bytes(length),
        })
    }

    /// Whether `body` is what this header says, as far as it says something.
    pub(super) fn covers(&self, body: &[u8]) -> bool {
        match self.content {
            Content::Message(digest) => Digest::of(body) == digest,
            Content::Deletion(_) => self.note == 0 || checksum(body) == self.note,
            Content::Filler => true,
        }
    }
}

/// Bytes that a record with a body of `length` bytes takes in a segment; with a length from outside,
/// which may be anything, no more than there are.
pub(super) fn record_bytes(length: impl Into<u64>) -> u64 {
    length
        .into()
        .saturating_add(u64::from(HEADER_BYTES))
        .checked_next_multiple_of(u64::from(RECORD_ALIGNMENT))
        .unwrap_or(u64::MAX)
}

/// The segments, open for reading from any thread.
#[derive(Debug)]
pub struct Log {
    directory: PathBuf,
    segment_bytes: u32,
    /// Segment `n` at index `n - 1`; `None` where a file is missing. One descriptor each.
    segments: RwLock<Vec<Option<Arc<File>>>>,
    /// Held while a segment is made, by the keeper ahead of time or by the committer.
    making: Mutex<()>,
    /// Whether a sync has failed. Held during each: a file tells of an error once, and who syncs it at the
    /// same time must not take the silence for success.
    sync_failed: Mutex<bool>,
    /// Watches every call that changes the log.
    watchdog: Arc<Watchdog>,
}

impl Log {
    /// Opens all segments in `directory`, which is made if it is not there. A new log gets an identity.
    ///
    /// # Errors
    /// If the directory cannot be made or read, or a segment cannot be opened.
    pub fn open(directory: &Path, segment_bytes: u32) -> io::Result<Self> {
        disk::create_directory(directory)?;
        disk::give_to_owner_above(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if is_unfinished(&path) {
                fs::remove_file(&path)?;
            }
        }
        let mut access = OpenOptions::new().read(true).write(true).clone();
        let log = Self::open_segments(directory, segment_bytes, &mut access)?;
        if log.last_segment() == 0 {
            log.identify()?;
        }
        Ok(log)
    }

    /// Whether it has an identity. One of version 0.1.0 has none.
    pub(super) fn identity(&self) -> Presence {
        Presence::of(&self.directory)
    }

    /// Gives it an identity if it has none; durable on return.
    pub(super) fn identify(&self) -> io::Result<()> {
        if self.identity() == Presence::Good {
            return Ok(());
        }
        Identity::random()?.write(&self.directory)
    }

    /// A file in `directory` that is not part of a log with these segments.
    pub(super) fn stranger(&self) -> io::Result<Option<PathBuf>> {
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let number = name.and_then(segment_number);
            let is_segment = number.is_some_and(|number| self.segment(number).is_some());
            if !is_segment && name != Some(identity::NAME) && !is_unfinished(&path) {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// Opens all segments in `directory` for nothing but reading; a log that is being written to can
    /// be read this way too.
    ///
    /// # Errors
    /// If the directory or a segment cannot be opened.
    pub(super) fn open_read_only(directory: &Path, segment_bytes: u32) -> io::Result<Self> {
        let mut access = OpenOptions::new().read(true).clone();
        Self::open_segments(directory, segment_bytes, &mut access)
    }

    fn open_segments(
        directory: &Path,
        segment_bytes: u32,
        access: &mut OpenOptions,
    ) -> io::Result<Self> {
        let mut found = Vec::new();
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            found.extend(name.and_then(segment_number).map(|number| (number, path)));
        }
        found.sort_unstable();
        let mut segments = Vec::new();
        let mut lengths = Vec::new();
        for (number, path) in found {
            if number as usize > segments.len() + SEGMENTS_LOST_MAX as usize {
                warn!(path = %path.display(), "this is no segment of this log; left alone");
                break;
            }
            let file = disk::open(&path, access)?;
            lengths.push(file.metadata()?.len());
            put_segment(&mut segments, number, file);
        }
        if !agree(&lengths, u64::from(segment_bytes)) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the segments do not have the size that FORMAT says",
            ));
        }
        Ok(Self {
            directory: directory.to_owned(),
            segment_bytes,
            segments: RwLock::new(segments),
            making: Mutex::new(()),
            sync_failed: Mutex::new(false),
            watchdog: Arc::new(Watchdog::new()),
        })
    }

    /// What watches the calls that change the log, and may watch others.
    pub(super) fn watchdog(&self) -> &Arc<Watchdog> {
        &self.watchdog
    }

    /// Size of a segment in bytes.
    /// Bytes of its segments, whatever of them is used.
    pub(super) fn reserved_bytes(&self) -> u64 {
        u64::from(self.segment_bytes) * u64::from(self.last_segment())
    }

    pub(super) fn segment_bytes(&self) -> u32 {
        self.segment_bytes
    }

    /// Number of the last segment, 0 if there is none.
    #[expect(
        clippy::expect_used,
        reason = "as many as the number of the last one, which has 32 bits"
    )]
    pub(super) fn last_segment(&self) -> u32 {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        u32::try_from(segments.len()).expect("segment numbers have 32 bits")
    }

    /// The file of a segment, `None` if it is missing.
    pub(super) fn segment(&self, number: u32) -> Option<Arc<File>> {
        let segments = self.segments.read().unwrap_or_else(PoisonError::into_inner);
        segments.get(number.checked_sub(1)? as usize)?.clone()
    }

    /// The file of a segment that has to be there.
    pub(super) fn require_segment(&self, number: u32) -> io::Result<Arc<File>> {
        self.segment(number)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the segment is missing"))
    }

    /// Reads the body at `place`, unchecked. One system call.
    pub(super) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        self.read_part(place, HEADER_BYTES, place.length)
    }

    /// Reads the body at `place`, unchecked, with zeros for what cannot be read, or is not there at all.
    pub(super) fn read_around(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut body = vec![0; place.length as usize];
        if let Some(file) = self.segment(place.at.segment) {
            let offset = u64::from(place.at.offset) + u64::from(HEADER_BYTES);
            disk::read_around(&file, &mut body, offset)?;
        }
        Ok(body)
    }

    /// Whether the record at `place` is that of `message`, header and body: whether a redraw of the
    /// index would find it. One system call.
    pub(super) fn holds(&self, place: Place, message: &Message) -> io::Result<bool> {
        let record = self.read_part(place, 0, HEADER_BYTES.saturating_add(place.length))?;
        let (header, body) = record.split_at(HEADER_BYTES as usize);
        let is_header = |header: Header| {
            header.content == Content::Message(message.digest()) && header.length == place.length
        };
        Ok(Header::decode(header).is_some_and(is_header) && body == *message.as_bytes())
    }

    /// Whether the header at `place` is that of a record of this length with this digest. One system
    /// call; the body is not read.
    pub(super) fn names(&self, place: Place, digest: &Digest) -> io::Result<bool> {
        let header = self.read_part(place, 0, HEADER_BYTES)?;
        Ok(Header::decode(&header).is_some_and(|header| {
            header.content == Content::Message(*digest) && header.length == place.length
        }))
    }

    /// The place of the message with this digest whose record is at `at`; `None` if there is another one,
    /// or none. One system call.
    pub(super) fn message_at(&self, at: Position, digest: &Digest) -> Option<Place> {
        let header = self.header(at)?;
        let length = header.length;
        (header.content == Content::Message(*digest)).then_some(Place { at, length })
    }

    /// The positions that the deletion at `place` says it erases.
    ///
    /// # Errors
    /// If they cannot be read, or are damaged.
    pub(super) fn erased_by(&self, place: Place) -> io::Result<Vec<Position>> {
        let record = self.read_part(place, 0, HEADER_BYTES.saturating_add(place.length))?;
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, "the deletion is damaged");
        let (header, body) = record.split_at(HEADER_BYTES as usize);
        if !Header::decode(header).is_some_and(|header| header.covers(body)) {
            return Err(damaged());
        }
        let (positions, []) = body.as_chunks() else {
            return Err(damaged());
        };
        let positions = positions.iter().map(|bytes| u64::from_le_bytes(*bytes));
        Ok(positions.map(Position::from_u64).collect())
    }

    /// Turns the bodies of these messages, all in `segment`, into zeros, durable on return. A segment that
    /// has other names too is left alone: it is part of another store, a backup with links.
    ///
    /// On a descriptor of its own: a failed sync is told to each once, and must not be taken from the
    /// one who appends.
    ///
    /// # Errors
    /// If there is too little of something, so that it is worth another try.
    pub(super) fn erase(&self, segment: u32, bodies: &[(Digest, Place)]) -> io::Result<Erased> {
        let path = self.directory.join(segment_name(segment));
        let mut erased = Erased::default();
        let mut access = OpenOptions::new().read(true).write(true).clone();
        let opened = self.watched(|| disk::open(&path, &mut access));
        let file = match opened {
            Ok(file) => match file.metadata() {
                Ok(metadata) if metadata.nlink() == 1 => file,
                other => return Ok(Erased::none_of(bodies, other.err())),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Erased::none_of(bodies, None));
            }
            Err(error) if disk::lack(&error).is_none() => {
                return Ok(Erased::none_of(bodies, Some(error)));
            }
            Err(error) => return Err(error),
        };
        for (digest, place) in bodies {
            if !self.is_record_of(*place, digest) {
                erased.left_alone += 1;
                continue;
            }
            let body = u64::from(place.at.offset + HEADER_BYTES);
            match self.watched(|| disk::erase(&file, body, u64::from(place.length))) {
                Err(error) if disk::lack(&error).is_none() => {
                    erased.left_alone += 1;
                    erased.failure = Some(error);
                }
                punched => punched?,
            }
        }
        match self.watched(|| file.sync_data()) {
            Err(error) if disk::lack(&error).is_none() => Ok(Erased::none_of(bodies, Some(error))),
            synced => synced.map(|()| erased),
        }
    }

    /// Whether the record at `place` is that of the message with this digest, by its header, or by its
    /// body where the header is damaged.
    fn is_record_of(&self, place: Place, digest: &Digest) -> bool {
        self.message_at(place.at, digest) == Some(place)
            || self
                .read(place)
                .is_ok_and(|body| Digest::of(&body) == *digest)
    }

    /// The header at `at`, if it is good.
    pub(super) fn header(&self, at: Position) -> Option<Header> {
        let header = self.read_part(Place { at, length: 0 }, 0, HEADER_BYTES);
        Header::decode(&header.ok()?)
    }

    /// A call that may wait for the disk, watched.
    fn watched<T>(&self, call: impl FnOnce() -> T) -> T {
        let _call = self.watchdog.watch();
        call()
    }

    /// Reads `length` bytes of the record at `place`, from `offset` in the record on.
    fn read_part(&self, place: Place, offset: u32, length: u32) -> io::Result<Vec<u8>> {
        let file = self.require_segment(place.at.segment)?;
        // A damaged index entry must not ask for gigabytes.
        if u64::from(place.at.offset) + record_bytes(place.length) > u64::from(self.segment_bytes) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the place is outside its segment",
            ));
        }
        let mut bytes = vec![0; length as usize];
        file.read_exact_at(&mut bytes, u64::from(place.at.offset + offset))?;
        Ok(bytes)
    }

    /// Makes sure that segment `number` is there, with its blocks reserved and its directory entry
    /// durable. Costs nothing when it is, a few milliseconds and several syncs when it is not.
    pub(super) fn prepare(&self, number: u32) -> io::Result<()> {
        // Each group asks. One whose segment is there must not wait for the making of the next.
        if self.segment(number).is_some() {
            return Ok(());
        }
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if self.segment(number).is_some() {
            return Ok(());
        }
        let path = self.directory.join(segment_name(number));
        let aside = path.with_extension("new");
        let file = self.watched(|| disk::create(&aside))?;
        let made = self
            .watched(|| disk::reserve(&file, u64::from(self.segment_bytes)))
            .and_then(|()| self.watched(|| file.sync_all()))
            .and_then(|()| self.watched(|| fs::rename(&aside, &path)))
            .and_then(|()| self.watched(|| disk::sync_directory(&self.directory)));
        if let Err(error) = made {
            // What was reserved so far is given back: the disk is probably full.
            let _ = fs::remove_file(&aside);
            return Err(error);
        }
        let mut segments = self
            .segments
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        put_segment(&mut segments, number, file);
        Ok(())
    }

    /// Makes durable what was written to the segments `range`, which have to be there. After a failure there
    /// is no success any more.
    pub(super) fn sync(&self, range: Range<u32>) -> io::Result<()> {
        // A group that is not to be synced must not wait for a sync that is under way.
        if range.is_empty() {
            return Ok(());
        }
        let failed = self.sync_failed.lock();
        let mut failed = failed.unwrap_or_else(PoisonError::into_inner);
        if *failed {
            return Err(io::Error::other("an earlier sync failed"));
        }
        for number in range {
            let file = self.require_segment(number)?;
            let synced = self.watched(|| file.sync_data());
            *failed = synced.is_err();
            synced?;
        }
        Ok(())
    }
}

/// What [`Log::erase`] came to.
#[derive(Debug, Default)]
pub(super) struct Erased {
    /// Bodies that stay as they are.
    pub(super) left_alone: usize,
    /// Why, if the disk said so.
    pub(super) failure: Option<io::Error>,
}

impl Erased {
    fn none_of(bodies: &[(Digest, Place)], failure: Option<io::Error>) -> Self {
        Self {
            left_alone: bodies.len(),
            failure,
        }
    }
}

/// Whether this is a segment, or the identity, whose making was interrupted: it never counted.
fn is_unfinished(path: &Path) -> bool {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    path.extension().is_some_and(|extension| extension == "new")
        && stem.is_some_and(|stem| {
            stem == identity::NAME || segment_number(&format!("{stem}.log")).is_some()
        })
}

/// Whether segments of these lengths can be of `segment_bytes` each. One may have been cut short, but
/// none grows, and several are not cut to the same length.
fn agree(lengths: &[u64], segment_bytes: u64) -> bool {
    let longest = lengths.iter().copied().max().unwrap_or(segment_bytes);
    let all_alike = lengths.len() > 1 && lengths.iter().all(|&length| length == longest);
    longest == segment_bytes || longest < segment_bytes && !all_alike
}

/// `12` → `00000012.log`.
pub(super) fn segment_name(number: u32) -> String {
    format!("{number:08}.log")
}

/// `00000012.log` → `12`; `None` for any other name.
fn segment_number(name: &str) -> Option<u32> {
    let number = name.strip_suffix(".log")?.parse().ok()?;
    (number > 0 && segment_name(number) == name).then_some(number)
}

#[expect(
    clippy::indexing_slicing,
    reason = "the list was just made long enough; a segment that is not in it is neither written nor read"
)]
fn put_segment(segments: &mut Vec<Option<Arc<File>>>, number: u32, file: File) {
    let index = number as usize - 1;
    if segments.len() <= index {
        segments.resize(index + 1, None);
    }
    segments[index] = Some(Arc::new(file));
}

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
        let room = log.segment_bytes - end.offset;
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
            (bytes <= self.appender.log.segment_bytes).then_some((length, bytes))
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
    fn a_header_reads_back_and_any_flipped_bit_is_seen() {
        let header = Header {
            content: Content::Message(Digest::of(b"foo")),
            note: HEALS,
            group: Position {
                segment: 7,
                offset: 4096,
            },
            length: 3,
        };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes), Some(header));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn a_header_cut_short_is_none() {
        let header = Header {
            content: Content::Filler,
            note: 0,
            group: Position::START,
            length: 0,
        };
        assert_eq!(Header::decode(&header.encode()[..55]), None);
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

    #[test]
    fn names_of_other_files_are_no_segments() {
        assert_eq!(segment_number("00000012.log"), Some(12));
        assert_eq!(segment_number("123456789.log"), Some(123_456_789));
        for name in [
            "12.log",
            "00000000.log",
            "+0000012.log",
            "00000012.new",
            "x.log",
        ] {
            assert_eq!(segment_number(name), None, "{name}");
        }
    }
}
