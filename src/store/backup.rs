//! Backup: a copy of the log that is a store of its own, taken at any moment, also while another process
//! appends to it.
//!
//! It rests on three facts. A record that has a whole group behind it never changes again, but that its
//! body becomes zeros once a deletion stands behind it; so a segment that was copied once is left alone by
//! the next backup, but for those that the last group of the copy reaches into. What was deleted since may
//! still be in it, and whoever serves the copy reads the deletion and erases it. A group is written in the
//! order of the log; so whoever has seen a record in one segment sees all that was written before it in
//! those below. And a body is erased long after its deletion was written; so a copy that has an erased
//! body and not its deletion is one whose source has that deletion behind the end of the copy.
//!
//! The source is only read, and needs no lock. The copy has no index: whoever serves it draws one. It has
//! the checkpoint, read before the log, so that what was acknowledged until then is known to be in it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use super::directory::{
    OpenError, read_checkpoint, read_format, take_lock, write_checkpoint, write_format,
};
use super::disk;
use super::log::{Log, Position};
use super::recovery::{self, Kind};

/// How often what was appended meanwhile is copied as well, for the deletions in it.
const ROUNDS_MAX: usize = 8;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackedUp {
    /// Segments that were copied or linked.
    pub taken: u32,
    /// Segments that an earlier backup had copied or linked.
    pub kept: u32,
    /// Where the copy ends.
    pub end: Position,
}

/// Makes `destination` a copy of the store in `source`, or brings an earlier one up to date: everything
/// acknowledged before the call is in it, durable on return. `progress` is told the segments done and
/// in all. An interrupted backup is gone on with by calling again.
///
/// # Errors
/// If `destination` is anything but a copy of this store, or is in use, or files cannot be read or
/// written.
pub fn back_up(
    source: &Path,
    destination: &Path,
    method: Method,
    progress: &dyn Fn(u32, u32),
) -> Result<BackedUp, OpenError> {
    let segment_bytes = read_format(source)?.ok_or_else(|| no_store(source))?;
    let log = open_log(source, segment_bytes)?;
    let checkpoint = read_checkpoint(source, &log);
    // Again: the checkpoint may lie in a segment that was not there yet.
    let log = open_log(source, segment_bytes)?;
    let read = || OpenError::io("read the log");
    let mut until = end(&log).map_err(read())?;
    let copy = Copy::open(destination, segment_bytes)?;
    let first_taken = copy.first_to_take(&log, until.end)?;
    let mut first = first_taken;
    for round in 1..=ROUNDS_MAX {
        copy.take(source, first..=until.segment(), &until, method, progress)?;
        let taken = Position {
            segment: first,
            offset: 0,
        };
        let log = open_log(source, segment_bytes)?;
        if !has_erased(&log, taken..until.end).map_err(read())? {
            break;
        }
        if round == ROUNDS_MAX {
            let error = io::Error::other("messages are deleted faster than they are copied");
            return Err(OpenError::io("back up the end of the log")(error));
        }
        first = until.last_group.segment;
        until = end(&log).map_err(read())?;
    }
    let End { end, .. } = until;
    disk::sync_directory(&copy.log_directory).map_err(OpenError::io("sync the copy"))?;
    if let Some(checkpoint) = checkpoint {
        write_checkpoint(destination, checkpoint).map_err(OpenError::io("write the checkpoint"))?;
    }
    progress(end.segment, end.segment);
    Ok(BackedUp {
        taken: (end.segment + 1).saturating_sub(first_taken),
        kept: first_taken - 1,
        end,
    })
}

fn no_store(directory: &Path) -> OpenError {
    OpenError::Foreign {
        directory: directory.to_owned(),
        reason: "there is no file FORMAT in it".into(),
    }
}

fn open_log(directory: &Path, segment_bytes: u32) -> Result<Log, OpenError> {
    Log::open_read_only(&directory.join("log"), segment_bytes)
        .map_err(OpenError::io("open the log"))
}

/// How a log ends.
struct End {
    end: Position,
    /// Where the last group starts.
    last_group: Position,
}

impl End {
    fn segment(&self) -> u32 {
        self.end.segment
    }
}

/// Whether deletions behind `taken` erase what is in it.
fn has_erased(log: &Log, taken: Range<Position>) -> io::Result<bool> {
    let mut erased = false;
    recovery::survey(log, taken.end, taken.end, |record| {
        if record.kind == Kind::Deletion {
            erased |= log
                .erased_by(record.place)?
                .iter()
                .any(|at| taken.contains(at));
        }
        Ok::<_, io::Error>(())
    })?;
    Ok(erased)
}

/// Reads the last segment that has records, and those behind it.
fn end(log: &Log) -> io::Result<End> {
    let mut from = Position::START;
    for segment in (1..=log.last_segment()).rev() {
        from = Position { segment, offset: 0 };
        let mut records = 0;
        let survey = recovery::survey(log, from, from, |_| {
            records += 1;
            Ok::<_, io::Error>(())
        })?;
        if records > 0 {
            return Ok(End {
                end: survey.end,
                last_group: survey.last_group,
            });
        }
    }
    Ok(End {
        end: from,
        last_group: from,
    })
}

/// The copy.
struct Copy {
    directory: PathBuf,
    log_directory: PathBuf,
    segment_bytes: u32,
    _lock: disk::Lock,
}

impl Copy {
    fn open(directory: &Path, segment_bytes: u32) -> Result<Self, OpenError> {
        let log_directory = directory.join("log");
        let create = |directory: &Path| {
            disk::create_directory(directory)
                .map_err(OpenError::io(format!("create {}", directory.display())))
        };
        create(directory)?;
        let lock = take_lock(directory)?;
        let copy = Self {
            directory: directory.to_owned(),
            log_directory,
            segment_bytes,
            _lock: lock,
        };
        match read_format(directory)? {
            None => {
                write_format(directory, segment_bytes)?;
            }
            Some(found) if found != segment_bytes => {
                return Err(copy.foreign("its segments have another size"));
            }
            Some(_) => {}
        }
        if directory.join("index").exists() {
            return Err(copy.foreign("it was served since, and may have gone its own way"));
        }
        create(&copy.log_directory)?;
        Ok(copy)
    }

    fn foreign(&self, reason: &str) -> OpenError {
        OpenError::Foreign {
            directory: self.directory.clone(),
            reason: format!("it cannot be the backup of this store: {reason}"),
        }
    }

    /// The first segment that is not in the copy as it will stay.
    fn first_to_take(&self, source: &Log, end: Position) -> Result<u32, OpenError> {
        let log = open_log(&self.directory, self.segment_bytes)?;
        if log.last_segment() == 0 {
            return Ok(1);
        }
        let read = OpenError::io("read the copy");
        let has = self::end(&log).map_err(read)?;
        if has.end > end {
            return Err(self.foreign("it is longer"));
        }
        let first = has.last_group.segment;
        for segment in 1..first {
            if log.first_header(segment) != source.first_header(segment) {
                return Err(self.foreign("it holds other messages"));
            }
        }
        Ok(first)
    }

    /// Takes `segments` of a log that ends at `until`.
    fn take(
        &self,
        source: &Path,
        segments: RangeInclusive<u32>,
        until: &End,
        method: Method,
        progress: &dyn Fn(u32, u32),
    ) -> Result<(), OpenError> {
        let log = open_log(source, self.segment_bytes)?;
        for segment in segments {
            progress(segment - 1, until.segment());
            if log.segment(segment).is_none() {
                continue;
            }
            let bytes = if segment < until.segment() {
                self.segment_bytes
            } else {
                until.end.offset
            };
            // Whoever opens the copy may mend what its last group reaches into.
            let taken = if method == Method::HardLink && segment < until.last_group.segment {
                self.link(source, segment)
            } else {
                self.copy(source, segment, bytes)
            };
            taken.map_err(OpenError::io(format!("back up segment {segment}")))?;
        }
        Ok(())
    }

    fn link(&self, source: &Path, segment: u32) -> io::Result<()> {
        let (from, aside, to) = self.names(source, segment)?;
        fs::hard_link(&from, &aside)?;
        fs::rename(&aside, &to)
    }

    /// Copies the first `bytes` of a segment; the rest is zero.
    fn copy(&self, source: &Path, segment: u32, bytes: u32) -> io::Result<()> {
        let (from, aside, to) = self.names(source, segment)?;
        let file = disk::create(&aside)?;
        io::copy(&mut File::open(&from)?.take(bytes.into()), &mut &file)?;
        file.set_len(self.segment_bytes.into())?;
        file.sync_all()?;
        fs::rename(&aside, &to)
    }

    /// A segment in the source, in the making, and in the copy.
    fn names(&self, source: &Path, segment: u32) -> io::Result<(PathBuf, PathBuf, PathBuf)> {
        let name = Position { segment, offset: 0 }.file_name();
        let to = self.log_directory.join(&name);
        // Whoever opens a log removes what has this name.
        let aside = to.with_extension("new");
        match fs::remove_file(&aside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok((source.join("log").join(&name), aside, to)),
        }
    }
}
