//! Backup: a copy of the log that is a store of its own, taken at any moment, also while another process
//! appends to it.
//!
//! It rests on four facts. A record that has a whole group after it never changes again, but that its body
//! becomes zeros once a deletion stands after it, or the message again if it was damaged; so a segment that was
//! copied once is left alone by the next backup, but for those that the last group of the copy reaches into.
//! What was deleted since may still be in it, and a start on the copy reads the deletion and erases it. A
//! group is written in the order of the log; so a reader that has seen a record in one segment sees all that was
//! written before it in those before. A body is erased long after its deletion was written; so a copy that has
//! an erased body and not its deletion is one whose source has that deletion after the end of the copy: such a
//! record becomes a filler in the copy. And a log that has the same identity at the end as at the beginning,
//! and was opened in between, is the same log: a compaction gives it another.
//!
//! The source is only read, and needs no lock. The copy has no index: whoever serves it draws one. It has
//! the identity of the log, so that it is brought up to date from this log and no other; a mark, which the
//! first start for writing removes, so that a copy that went its own way is not brought up to date at all;
//! and the checkpoint. That is read before the log and written before anything else, so that a copy which
//! does not have what was acknowledged until then is known for what it is: one that is not finished.
//!
//! Descriptors are as many as the log has segments: one log is open at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use crate::digest::Digest;
use crate::store::embedded::directory::{
    self, OpenError, read_checkpoint, read_format, require_empty, take_lock, write_checkpoint,
    write_format,
};
use crate::store::embedded::disk;
use crate::store::embedded::identity::{self, Identity};
use crate::store::embedded::index;
use crate::store::embedded::record::{Content, HEADER_BYTES, Header, Position, record_bytes};
use crate::store::embedded::recovery::{self, Kind};
use crate::store::embedded::segments::{Log, segment_name};

/// How much of a segment with an unreadable sector is copied at once.
const WINDOW_BYTES: u32 = 1 << 20;

/// How a backup is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// Every segment is copied.
    Copy,
    /// Segments that do not change any more are linked: they take no room, and damage to one is
    /// damage to both.
    HardLink,
}

/// What a backup did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// Segments that were copied or linked.
    pub taken: u32,
    /// Segments that an earlier backup had copied or linked.
    pub kept: u32,
    /// Where the copy ends.
    pub end: Position,
    /// What the disk could not read, and is zeros in the copy or missing: where, and how many bytes.
    pub unreadable: Vec<(Position, u64)>,
}

/// Makes `destination` a copy of the store in `source`, or brings an earlier one up to date: everything
/// acknowledged before the call and not deleted is in it, durable on return. `progress` is told the
/// segments done and in all. An interrupted backup is continued by calling again. Reads what it takes
/// once, and what was appended meanwhile.
///
/// # Errors
/// If `destination` is anything but a backup of this store, or is in use, or files cannot be read or
/// written, or the store was compacted meanwhile.
pub fn back_up(
    source: &Path,
    destination: &Path,
    method: Method,
    progress: &dyn Fn(u32, u32),
) -> Result<BackedUp, OpenError> {
    let segment_bytes = read_format(source)
        .map_err(|error| error.with_owner(source))?
        .ok_or_else(|| OpenError::Foreign {
            directory: source.to_owned(),
            reason: "there is no file FORMAT in it".into(),
        })?;
    check_place(destination, source)?;
    let log_directory = source.join("log");
    let identity = read_identity(&log_directory)?.ok_or_else(|| {
        let error =
            "its log has no identity, or a damaged one: start this version of digestd on it once";
        OpenError::io(format!("back up {}", source.display()))(io::Error::other(error))
    })?;
    let read = || OpenError::io("read the log");
    let copy = Copy::open(destination, segment_bytes, identity)
        .map_err(|error| error.with_owner(destination))?;
    let kept = copy.kept()?;

    // Before the log: it may lie in a segment that is not there yet.
    let checkpoint = read_checkpoint(source);
    let log = open_log(&log_directory, segment_bytes)?;
    let acked = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
    let until = End::of(&log, acked).map_err(read())?;
    copy.check(&kept, &log, until.end)?;
    let first = kept.segments + 1;
    copy.begin(checkpoint)?;
    let mut unreadable = Vec::new();
    for segment in first..=until.end.segment {
        progress(segment - 1, until.end.segment);
        let taken = copy.take(
            &log_directory,
            &log,
            segment,
            &until,
            method,
            &mut unreadable,
        );
        taken.map_err(OpenError::io(format!("back up segment {segment}")))?;
    }
    drop(log);

    // Opened again: deletions may be in segments that were made since.
    let log = open_log(&log_directory, segment_bytes)?;
    if read_identity(&log_directory)? != Some(identity) {
        let error = io::Error::other("it was compacted meanwhile; make a new backup");
        return Err(OpenError::io("finish the backup of this store")(error));
    }
    let deleted = deleted(&log, Position::start_of(first)..until.end).map_err(read())?;
    copy.fill(&log, &deleted, &mut unreadable)
        .and_then(|()| disk::sync_directory(&copy.log_directory))
        .and_then(|()| directory::mark(destination, true))
        .map_err(OpenError::io("finish the copy"))?;
    progress(until.end.segment, until.end.segment);
    Ok(BackedUp {
        taken: (until.end.segment + 1).saturating_sub(first),
        kept: kept.segments,
        end: until.end,
        unreadable,
    })
}

/// Refuses a destination that is the source, or lies in it, in another store or in another backup: to both of them
/// it would be a stranger.
fn check_place(destination: &Path, source: &Path) -> Result<(), OpenError> {
    let above = above(destination).map_err(OpenError::io("look for the two directories"))?;
    let inode = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino()));
    let source = inode(source).map_err(OpenError::io("look for the two directories"))?;
    let is_source = |path: &PathBuf| inode(path).is_ok_and(|above| above == source);
    if above.iter().any(is_source) {
        let error = io::Error::other("choose a directory outside of the store");
        return Err(OpenError::io("back up a store into itself")(error));
    }
    let is_itself = |path: &Path| inode(path).ok() == inode(destination).ok();
    let mut others = above.iter().filter(|path| !is_itself(path));
    match others.find(|path| directory::is_store(path)) {
        None => Ok(()),
        Some(other) => {
            let error = io::Error::other("choose a directory outside of it");
            let other = other.display();
            let action = format!("back up into {other}, which is another store or backup");
            Err(OpenError::io(action)(error))
        }
    }
}

/// The directories that `path`, which need not be there, is in, and it if it is there, under their real names.
fn above(path: &Path) -> io::Result<Vec<PathBuf>> {
    let there = path.ancestors().find(|path| path.exists());
    let missing = there.and_then(|there| path.strip_prefix(there).ok());
    let missing = missing.unwrap_or(path);
    // Where that leads is known once it is there.
    if missing
        .components()
        .any(|part| part == Component::ParentDir)
    {
        let error = format!("write {} without ..", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    let there = there.filter(|path| !path.as_os_str().is_empty());
    let there = there.unwrap_or(Path::new(".")).canonicalize()?;
    Ok(there.ancestors().map(Path::to_owned).collect())
}

fn read_identity(log_directory: &Path) -> Result<Option<Identity>, OpenError> {
    let path = log_directory.join(identity::NAME);
    let action = format!("read {}", path.display());
    let read = Identity::read(log_directory).map_err(OpenError::io(action));
    read.map_err(|error| error.with_owner(&path))
}

fn open_log(directory: &Path, segment_bytes: u32) -> Result<Log, OpenError> {
    Log::open_read_only(directory, segment_bytes).map_err(OpenError::io("open the log"))
}

/// How a log ends.
struct End {
    end: Position,
    /// Where the last group starts.
    last_group: Position,
}

impl End {
    /// Reads the last segment that has records, and those after it. What stands before `acked` is known to
    /// have been durable.
    fn of(log: &Log, acked: Position) -> io::Result<Self> {
        let mut from = Position::START;
        for segment in (1..=log.last_segment()).rev() {
            from = Position::start_of(segment);
            let mut records = 0;
            let survey = recovery::survey(log, from, from.max(acked), |_| {
                records += 1;
                Ok::<_, io::Error>(())
            })?;
            if records > 0 {
                return Ok(Self {
                    end: survey.end,
                    last_group: survey.last_group,
                });
            }
        }
        Ok(Self {
            end: from,
            last_group: from,
        })
    }
}

/// Records that deletions erase, each with its digest, by their segments.
type Deleted = BTreeMap<u32, BTreeSet<(Position, Digest)>>;

/// The records in `taken` that deletions after it erase. Reads what comes after it.
fn deleted(log: &Log, taken: Range<Position>) -> io::Result<Deleted> {
    let mut deleted = Deleted::new();
    recovery::survey(log, taken.end, taken.end, |record| {
        if record.kind == Kind::Deletion {
            // If they are damaged, what they erase is damaged in the copy.
            let positions = log.erased_by(record.place).unwrap_or_default();
            for at in positions.into_iter().filter(|at| taken.contains(at)) {
                let records = deleted.entry(at.segment).or_default();
                records.insert((at, record.digest));
            }
        }
        Ok::<_, io::Error>(())
    })?;
    Ok(deleted)
}

/// What an earlier backup left in a copy.
#[derive(Default)]
struct Kept {
    /// Segments, from the first on, that are as they will stay.
    segments: u32,
    /// Where the copy ends.
    end: Option<Position>,
    /// The last record in those segments.
    last: Option<(Position, Header)>,
}

/// The copy.
struct Copy {
    directory: PathBuf,
    log_directory: PathBuf,
    segment_bytes: u32,
    /// There is nothing in it yet.
    is_new: bool,
    _lock: disk::Lock,
}

impl Copy {
    /// Opens a copy of the log with this identity, or begins one in an empty directory.
    fn open(directory: &Path, segment_bytes: u32, identity: Identity) -> Result<Self, OpenError> {
        disk::create_directory(directory)
            .map_err(OpenError::io(format!("create {}", directory.display())))?;
        let is_marked = directory::is_marked(directory);
        // Before the lock: nothing is left behind in a directory that is not ours.
        let format = read_format(directory)?;
        if format.is_none() && !is_marked {
            require_empty(directory, &[])?;
        }
        let lock = take_lock(directory)?;
        let mut copy = Self {
            directory: directory.to_owned(),
            log_directory: directory.join("log"),
            segment_bytes,
            is_new: false,
            _lock: lock,
        };
        let has = read_identity(&copy.log_directory)?;
        match format {
            Some(_) if !is_marked && has.is_none() => {
                return Err(copy.foreign(
                    "it has no identity; if it is a backup made by version 0.1.0, make a new one in another directory",
                ));
            }
            Some(_) if !is_marked => {
                return Err(copy.foreign("it was served since, or never was a backup"));
            }
            Some(found) if found != segment_bytes => {
                return Err(copy.foreign("its segments have another size"));
            }
            _ => {}
        }
        match has {
            Some(has) if has == identity => {}
            Some(_) => {
                return Err(copy.foreign(
                    "it is the backup of another store, or of this one before it was compacted; make a new one in another directory",
                ));
            }
            // Which log it is a copy of is not known.
            None if copy.has_segments() => {
                return Err(copy
                    .foreign("its identity cannot be read; make a new one in another directory"));
            }
            // It was not begun, or the beginning was interrupted.
            None => {
                copy.is_new = true;
                directory::mark(directory, false).map_err(OpenError::io("begin the copy"))?;
                write_format(directory, segment_bytes)?;
                disk::create_directory(&copy.log_directory)
                    .and_then(|()| disk::give_to_owner_above(&copy.log_directory))
                    .and_then(|()| identity.write(&copy.log_directory))
                    .map_err(OpenError::io("begin the copy"))?;
            }
        }
        Ok(copy)
    }

    /// Whether something was copied.
    fn has_segments(&self) -> bool {
        open_log(&self.log_directory, self.segment_bytes).is_ok_and(|log| log.last_segment() > 0)
    }

    fn foreign(&self, reason: &str) -> OpenError {
        OpenError::NotItsBackup {
            directory: self.directory.clone(),
            reason: reason.into(),
        }
    }

    /// What is in the copy as it will stay: all before the segment that its last group starts in.
    fn kept(&self) -> Result<Kept, OpenError> {
        let log = open_log(&self.log_directory, self.segment_bytes)?;
        if self.is_new || log.last_segment() == 0 {
            return Ok(Kept::default());
        }
        let read = || OpenError::io("read the copy");
        let end = End::of(&log, Position::START).map_err(read())?;
        let is_whole = |file: Arc<File>| {
            let length = file.metadata().map(|metadata| metadata.len());
            length.is_ok_and(|length| length == u64::from(self.segment_bytes))
        };
        let is_gap = |segment: &u32| !log.segment(*segment).is_some_and(is_whole);
        let whole = (1..end.last_group.segment).find(is_gap);
        let segments = whole.unwrap_or(end.last_group.segment) - 1;
        let mut last = None;
        if segments > 0 {
            let from = Position::start_of(segments);
            recovery::survey(&log, from, from, |record| {
                if record.place.at.segment == segments {
                    last = Some(record.place.at);
                }
                Ok::<_, io::Error>(())
            })
            .map_err(read())?;
        }
        let with_header = |at| log.header(at).map(|header| (at, header));
        Ok(Kept {
            segments,
            end: Some(end.end),
            last: last.and_then(with_header),
        })
    }

    /// Makes sure that `source`, which ends at `end`, goes on from what is kept. A source that is a copy
    /// itself has the same identity, and may have gone another way since.
    fn check(&self, kept: &Kept, source: &Log, end: Position) -> Result<(), OpenError> {
        if kept.end.is_some_and(|kept| kept > end) {
            return Err(self.foreign("it is longer"));
        }
        let is_same = |(at, header)| source.header(at) == Some(header);
        if !kept.last.is_none_or(is_same) {
            return Err(self.foreign("it holds other messages"));
        }
        Ok(())
    }

    /// Promises what is about to come. An index that was drawn for reading is of the copy as it was.
    fn begin(&self, checkpoint: Option<index::Checkpoint>) -> Result<(), OpenError> {
        directory::mark(&self.directory, false)
            .and_then(|()| index::remove(&self.directory.join(index::NAME)))
            .map_err(OpenError::io("begin with the copy"))?;
        checkpoint.map_or(Ok(()), |checkpoint| {
            write_checkpoint(&self.directory, checkpoint)
                .map_err(OpenError::io("write the checkpoint"))
        })
    }

    /// Takes a segment of a log that ends at `until`.
    fn take(
        &self,
        from: &Path,
        log: &Log,
        segment: u32,
        until: &End,
        method: Method,
        unreadable: &mut Vec<(Position, u64)>,
    ) -> io::Result<()> {
        let bytes = if segment < until.end.segment {
            self.segment_bytes
        } else {
            until.end.offset
        };
        let Some(file) = log.segment(segment) else {
            unreadable.push((Position::start_of(segment), bytes.into()));
            return Ok(());
        };
        // A start on the copy may mend what its last group reaches into.
        if method == Method::HardLink && segment < until.last_group.segment {
            return self.link(from, segment, &file);
        }
        self.copy(segment, &file, bytes, unreadable)
    }

    fn link(&self, from: &Path, segment: u32, file: &File) -> io::Result<()> {
        let (aside, to) = self.names(segment)?;
        fs::hard_link(from.join(segment_name(segment)), &aside)?;
        // The name may belong to another log by now.
        if fs::metadata(&aside)?.ino() != file.metadata()?.ino() {
            return Err(io::Error::other("it was compacted meanwhile"));
        }
        fs::rename(&aside, &to)
    }

    /// Copies the first `bytes` of a segment; the rest is zero, and what cannot be read.
    #[expect(
        clippy::expect_used,
        reason = "no more than was asked for is copied; otherwise a segment that ends early would pass for whole"
    )]
    fn copy(
        &self,
        segment: u32,
        file: &File,
        bytes: u32,
        unreadable: &mut Vec<(Position, u64)>,
    ) -> io::Result<()> {
        let (aside, to) = self.names(segment)?;
        let copy = disk::create(&aside)?;
        let mut whole = file;
        io::Seek::rewind(&mut whole)?;
        let mut note = |offset: u32, bytes: u64| {
            unreadable.push((Position { segment, offset }, bytes));
        };
        // The kernel copies, as long as it can.
        match io::copy(&mut whole.take(bytes.into()), &mut &copy) {
            Ok(copied) => {
                let offset = u32::try_from(copied).expect("no more than a segment");
                if offset < bytes {
                    note(offset, (bytes - offset).into());
                }
            }
            Err(_) => copy_around(file, &copy, bytes, note)?,
        }
        copy.set_len(self.segment_bytes.into())?;
        copy.sync_all()?;
        fs::rename(&aside, &to)
    }

    /// Turns each of these records whose body is not there any more into a filler. A segment that was linked
    /// is copied before.
    fn fill(
        &self,
        from: &Log,
        deleted: &Deleted,
        unreadable: &mut Vec<(Position, u64)>,
    ) -> io::Result<()> {
        for (&segment, records) in deleted {
            let file = self.open_segment(from, segment, unreadable)?;
            for &(at, digest) in records {
                self.fill_record(&file, at, digest)?;
            }
            file.sync_all()?;
        }
        Ok(())
    }

    /// A segment of the copy, for writing.
    fn open_segment(
        &self,
        from: &Log,
        segment: u32,
        unreadable: &mut Vec<(Position, u64)>,
    ) -> io::Result<File> {
        let path = self.log_directory.join(segment_name(segment));
        if fs::metadata(&path)?.nlink() > 1 {
            // Without it the other names, which are of other stores, would be written to.
            let file = from.require_segment(segment)?;
            self.copy(segment, &file, self.segment_bytes, unreadable)?;
        }
        disk::open(&path, File::options().read(true).write(true))
    }

    fn fill_record(&self, file: &File, at: Position, digest: Digest) -> io::Result<()> {
        let mut bytes = [0; HEADER_BYTES as usize];
        file.read_exact_at(&mut bytes, at.offset.into())?;
        let fits = |header: &Header| {
            u64::from(at.offset) + record_bytes(header.length) <= u64::from(self.segment_bytes)
        };
        let header = Header::decode(&bytes).filter(fits);
        let Some(header) = header.filter(|it| it.content == Content::Message(digest)) else {
            return Ok(());
        };
        let mut body = vec![0; header.length as usize];
        file.read_exact_at(&mut body, u64::from(at.offset + HEADER_BYTES))?;
        if Digest::of(&body) == digest {
            return Ok(());
        }
        let filler = Header::filler(header.group, header.length);
        file.write_all_at(&filler.encode(), at.offset.into())
    }

    /// A segment in the making, and in the copy.
    fn names(&self, segment: u32) -> io::Result<(PathBuf, PathBuf)> {
        let to = self.log_directory.join(segment_name(segment));
        // Whoever opens a log removes what has this name.
        let aside = to.with_extension("new");
        disk::remove(&aside).map(|()| (aside, to))
    }
}

/// Copies the first `bytes` of `from` but for what cannot be read, which goes to `note`.
fn copy_around(
    from: &File,
    to: &File,
    bytes: u32,
    mut note: impl FnMut(u32, u64),
) -> io::Result<()> {
    for offset in (0..bytes).step_by(WINDOW_BYTES as usize) {
        let mut window = vec![0; (bytes - offset).min(WINDOW_BYTES) as usize];
        for range in disk::read_around(from, &mut window, offset.into())? {
            #[expect(clippy::cast_possible_truncation, reason = "inside a window")]
            note(offset + range.start as u32, range.len() as u64);
        }
        to.write_all_at(&window, offset.into())?;
    }
    Ok(())
}
