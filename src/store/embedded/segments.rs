//! The segments of the log, the truth of the store: its files, made and synced, and what is read of records in them.
//!
//! Nothing is ever moved, and nothing changed but the body of a deleted message, which becomes zeros; so a [`Place`]
//! stays valid for the life of the store. This room knows bytes, digests and files; it does not know who waits for
//! a group, nor the index. What a log means after a crash is `recovery`'s business.
//!
//! **Invariants:** a segment is there, with its blocks reserved and its directory entry durable, before it can be
//! written to; after a sync has failed, none succeeds.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::{Range, RangeInclusive};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::warn;

use super::disk;
use super::identity::{self, Identity, Presence};
use super::record::{Content, HEADER_BYTES, Header, Place, Position, record_bytes};
use super::watchdog::Watchdog;
use crate::digest::Digest;
use crate::message::Message;

/// Sizes a segment may have, in bytes: offsets in it have 32 bits, and a start looks at up to two
/// whole segments. A multiple of [`SEGMENT_BYTES_UNIT`].
const SEGMENT_BYTES_RANGE: RangeInclusive<u32> = 64 << 10..=1 << 30;

/// What the size of a segment is a multiple of: the page of the usual machine.
const SEGMENT_BYTES_UNIT: u32 = 4096;

/// Whether segments may have this size.
#[must_use]
pub fn is_segment_size(bytes: u32) -> bool {
    SEGMENT_BYTES_RANGE.contains(&bytes) && bytes.is_multiple_of(SEGMENT_BYTES_UNIT)
}

/// Segments in a row that may be missing before what follows is not taken for part of the log.
pub(super) const SEGMENTS_LOST_MAX: u32 = 1024;

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

    /// Bytes of its segments, whatever of them is used.
    pub(super) fn reserved_bytes(&self) -> u64 {
        u64::from(self.segment_bytes) * u64::from(self.last_segment())
    }

    /// Size of a segment in bytes.
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
    pub(super) fn watched<T>(&self, call: impl FnOnce() -> T) -> T {
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

impl Position {
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

#[cfg(test)]
mod tests {
    use super::*;

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
