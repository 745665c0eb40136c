//! The data directory: held by one process, of a format it knows, with a checkpoint.
//!
//! ```text
//! <data>/FORMAT       version and segment size
//! <data>/LOCK         held while a process has the store open; says which
//! <data>/NOTE         what that process tells others: see note.rs
//! <data>/log/         the messages: see record.rs
//! <data>/index/       digest → place, sled; may be deleted while the store is closed
//! <data>/checkpoint   how much of the log the index is known to cover
//! <data>/reserve      room to open the store in when the disk is full
//! <data>/DURABILITY   what its last writer promised: after a crash, how much of the log was synced
//! <data>/BACKUP       says that this is a backup that was never served
//! ```
//!
//! What a crash may leave is removed by the next start: `log.new` of a compaction and `index.old` of an index
//! that was thrown away. Other names that end in `.new` are written over when their time comes.
//!
//! **Invariant:** nothing in a directory is touched before it is known to be ours alone and ours at
//! all. Without `FORMAT` it is ours only if there is nothing in it that somebody could miss.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use tracing::{error, info};

use super::disk::{self, Lock, LockError};
use super::index::{self, Checkpoint};
use super::record::{HEADER_BYTES, Position, RECORD_ALIGNMENT};
use super::segments::{Log, SEGMENTS_LOST_MAX, is_segment_size};
use super::unused::Unused;
use crate::store::Durability;

/// The log in the making, and then the old one on its way out.
pub(super) const ASIDE_NAME: &str = "log.new";

/// Version of the layout of a data directory. A higher one is refused.
const FORMAT_VERSION: u32 = 1;

pub(super) const FORMAT_NAME: &str = "FORMAT";

pub(super) const LOCK_NAME: &str = "LOCK";

pub(super) const NOTE_NAME: &str = "NOTE";

pub(super) const CHECKPOINT_NAME: &str = "checkpoint";

pub(super) const DURABILITY_NAME: &str = "DURABILITY";

pub(super) const MARK_NAME: &str = "BACKUP";

const MARK: &str = "This is a backup. \"digestd backup\" brings it up to date as long as this file is here:\n\
                    the first server on it, and the first import into it, remove the file.\n";

/// The same while it is made or brought up to date.
const UNFINISHED_MARK: &str =
    "This is a backup that is not finished: run \"digestd backup\" again before it is used.\n";

/// What may be in a directory that becomes a data directory: what a file system puts into its top, and what
/// a server makes there before it has a store. See [`is_harmless`] too.
const HARMLESS_NAMES: [&str; 4] = [
    "lost+found",
    "localhost.crt",
    "localhost.key",
    "localhost.new",
];

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data directory {directory} is in use by {holder}")]
    Held {
        /// The directory.
        directory: PathBuf,
        /// What the other process wrote about itself.
        holder: String,
    },
    /// It was written by a newer digestd.
    #[error(
        "the data directory {directory} has format {found}, this digestd knows formats up to {FORMAT_VERSION}; use a newer one"
    )]
    NewerFormat {
        /// The directory.
        directory: PathBuf,
        /// Its format.
        found: u32,
    },
    /// It does not look like a data directory.
    #[error("{directory} is not a digestd data directory: {reason}")]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// It is not the backup that it would have to be.
    #[error("{directory} cannot be the backup of this store: {reason}")]
    NotItsBackup {
        /// The directory.
        directory: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Its segments are too small for the largest message.
    #[error(
        "messages of up to {message_bytes_max} bytes do not fit into the segments of this data directory, {segment_bytes} bytes each; lower the limit or start with an empty directory and larger segments"
    )]
    SegmentTooSmall {
        /// Size of its segments.
        segment_bytes: u32,
        /// The limit asked for.
        message_bytes_max: u64,
    },
    /// There are no segments of this size.
    #[error("segments of {segment_bytes} bytes are not possible")]
    SegmentSize {
        /// The size asked for.
        segment_bytes: u32,
    },
    /// A file could not be read or written.
    #[error("cannot {action}: {reason}")]
    Io {
        /// What was tried.
        action: String,
        /// What happened.
        reason: io::Error,
    },
    /// A new store would never take a message.
    #[error(
        "a new store in {directory} would never take a message: {} MiB are free on that disk, and new messages are refused while less than {} MiB are, beside a segment of {} MiB; choose a larger disk, or lower --free-min of `digestd serve`",
        free_bytes >> 20, free_bytes_min >> 20, segment_bytes >> 20
    )]
    NoRoom {
        /// The directory.
        directory: PathBuf,
        /// Bytes that are free.
        free_bytes: u64,
        /// Bytes that must be.
        free_bytes_min: u64,
        /// Size of a segment.
        segment_bytes: u32,
    },
    /// The index could be neither opened nor redrawn.
    #[error("cannot draw the index: {0}")]
    Index(String),
}

impl OpenError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |reason| Self::Io { action, reason }
    }

    /// Whether something could not be read or written because of permissions or a read-only mount.
    pub(super) fn is_denied(&self) -> bool {
        matches!(self, Self::Io { reason, .. } if matches!(
            reason.kind(),
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
        ))
    }

    /// Says whose the data directory at `path` is, if that is why something was denied, and what mends it.
    pub(super) fn with_owner(self, path: &Path) -> Self {
        match self {
            Self::Io { action, reason } if reason.kind() == io::ErrorKind::PermissionDenied => {
                let reason = match disk::Stranger::of(path) {
                    Some(stranger) => {
                        io::Error::new(reason.kind(), format!("{reason}; {stranger}"))
                    }
                    None => reason,
                };
                Self::Io { action, reason }
            }
            other => other,
        }
    }
}

/// What a data directory lies on.
#[derive(Clone, Copy, Debug)]
pub struct Medium {
    /// The kind of file system, by the magic number of statfs(2); `None` where a platform does not say.
    pub file_system: Option<u64>,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Bytes that must be free for new messages to be taken, unless the operator says otherwise.
    pub free_bytes_min: u64,
}

impl Medium {
    /// What `directory` lies on. Two system calls.
    ///
    /// # Errors
    /// If the file system cannot be asked.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let space = disk::space(directory)?;
        Ok(Self {
            file_system: disk::file_system(directory)?,
            free_bytes: space.free,
            free_bytes_min: space.floor(),
        })
    }

    /// What the file system is called; its number if it has no name here.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.file_system.map(disk::file_system_name)
    }
}

/// A data directory that belongs to this process and has a format it knows.
#[derive(Debug)]
pub struct DataDirectory {
    pub(super) path: PathBuf,
    pub(super) segment_bytes: u32,
    /// Before the lock: what it removes is removed under the lock.
    pub(super) unused: Option<Unused>,
    pub(super) lock: Lock,
    /// Whether messages may be put into it or deleted, after which it is no backup any more.
    pub(super) is_for_writing: bool,
}

impl DataDirectory {
    /// Takes hold of the directory at `path`, which is made if it is not there, with segments of
    /// `segment_bytes` if it is new. Quick: nothing is read yet.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim(path: &Path, segment_bytes: u32) -> Result<Self, OpenError> {
        Self::claim_beside(path, segment_bytes, &[])
    }

    /// The same, with other files of this service that may be in a new directory, such as its log.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim_beside(
        path: &Path,
        segment_bytes: u32,
        others: &[&Path],
    ) -> Result<Self, OpenError> {
        Self::claim_or_make(path, segment_bytes, others).map_err(|error| error.with_owner(path))
    }

    fn claim_or_make(path: &Path, segment_bytes: u32, others: &[&Path]) -> Result<Self, OpenError> {
        if !is_segment_size(segment_bytes) {
            return Err(OpenError::SegmentSize { segment_bytes });
        }
        let mut unused = Unused::before(path);
        disk::create_directory(path).map_err(OpenError::io(format!(
            "create the data directory {}",
            path.display()
        )))?;
        // Before the lock: nothing is left behind in a directory that is not ours.
        if read_format(path)?.is_none() {
            require_empty(path, others)?;
        }
        let lock = take_lock(path)?;
        let (segment_bytes, unused) = if let Some(known) = read_format(path)? {
            (known, None)
        } else {
            unused.is_made_of(&[FORMAT_NAME, NOTE_NAME, LOCK_NAME]);
            (write_format(path, segment_bytes)?, Some(unused))
        };
        Ok(Self {
            path: path.to_owned(),
            segment_bytes,
            unused,
            lock,
            is_for_writing: true,
        })
    }

    /// Takes hold of the directory at `path`, which must be there and ours already, for reading what is
    /// in it: a backup stays one.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim_existing(path: &Path) -> Result<Self, OpenError> {
        let claim = || {
            // Before the lock: nothing is left behind in a directory that is not ours.
            let segment_bytes = read_format(path)?.ok_or_else(|| OpenError::Foreign {
                directory: path.to_owned(),
                reason: "there is no file FORMAT in it".into(),
            })?;
            Ok((segment_bytes, take_lock(path)?))
        };
        let (segment_bytes, lock) = claim().map_err(|error: OpenError| error.with_owner(path))?;
        Ok(Self {
            path: path.to_owned(),
            segment_bytes,
            unused: None,
            lock,
            is_for_writing: false,
        })
    }

    /// Ends the life of a backup that can be brought up to date, durably: from now on the store may go its
    /// own way.
    pub(super) fn unmark(&self) -> Result<(), OpenError> {
        if !is_marked(&self.path) {
            return Ok(());
        }
        if is_unfinished(&self.path) {
            error!("this backup was not finished: messages may be missing");
        }
        fs::remove_file(self.path.join(MARK_NAME))
            .and_then(|()| disk::sync_directory(&self.path))
            .map_err(OpenError::io("remove the file BACKUP"))?;
        info!(
            "this was a backup: from now on it is a store of its own and is not brought up to date"
        );
        Ok(())
    }

    /// Removes what a crash of a compaction or of a redraw left.
    pub(super) fn remove_leftovers(&self) -> Result<(), OpenError> {
        let aside = self.path.join(ASIDE_NAME);
        if aside.exists() {
            info!("removing the log that an interrupted compaction left");
        }
        disk::remove(&aside)
            .and_then(|()| disk::remove(&index::old(&self.path.join(index::NAME))))
            .map_err(OpenError::io("remove what a crash left"))
    }

    /// These files are about to be made in it by others of this service, and go with it should it never become a
    /// store.
    pub fn expect(&mut self, names: &[&'static str]) {
        if let Some(unused) = &mut self.unused {
            unused.gets(names);
        }
    }

    /// Whether there is nothing at `path`, so that a claim would make a data directory.
    #[must_use]
    pub fn is_new(path: &Path) -> bool {
        match fs::read_dir(path) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        }
    }

    /// The largest message that fits its segments, in bytes of text.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        Self::message_bytes_max_of(self.segment_bytes)
    }

    /// The same of one with segments of `segment_bytes`.
    #[must_use]
    pub fn message_bytes_max_of(segment_bytes: u32) -> u64 {
        u64::from(segment_bytes.saturating_sub(HEADER_BYTES))
    }
}

/// Makes sure that there is nothing in a directory without `FORMAT` that somebody could miss. `others` are
/// files of this service that may be there.
pub(super) fn require_empty(path: &Path, others: &[&Path]) -> Result<(), OpenError> {
    let look = || OpenError::io(format!("look into the directory {}", path.display()));
    for entry in fs::read_dir(path).map_err(look())? {
        let entry = entry.map_err(look())?;
        if !is_harmless(&entry, others).map_err(look())? {
            return Err(OpenError::Foreign {
                directory: path.to_owned(),
                reason: format!(
                    "there is no file FORMAT in it, and it is not empty: it holds {}",
                    entry.file_name().display()
                ),
            });
        }
    }
    Ok(())
}

/// Whether an entry of a directory does not keep it from becoming a data directory.
fn is_harmless(entry: &fs::DirEntry, others: &[&Path]) -> io::Result<bool> {
    let name = entry.file_name();
    let path = entry.path();
    let is = |known: &str| name.as_encoded_bytes() == known.as_bytes();
    // What a start left that was killed before it had written `FORMAT`.
    let unfinished = [
        (LOCK_NAME, "pid "),
        ("FORMAT.new", "digestd store "),
        ("BACKUP.new", UNFINISHED_MARK),
    ];
    if let Some((_, ours)) = unfinished.into_iter().find(|(name, _)| is(name)) {
        let text = disk::read(&path).ok();
        let is_ours = |text: String| text.starts_with(ours) || ours.starts_with(&text);
        return Ok(text.is_some_and(is_ours));
    }
    // A file system of its own for the index, or a link to one.
    if is(index::NAME) && path.is_dir() {
        let mut inside = fs::read_dir(&path)?;
        return inside.try_fold(true, |all, entry| {
            Ok(all && entry?.file_name() == "lost+found")
        });
    }
    // A log that was rotated has the name of the log in front.
    let is_other = |other: &&Path| {
        let canonical = |path: Option<&Path>| {
            let path = path.filter(|path| !path.as_os_str().is_empty());
            path.unwrap_or(Path::new(".")).canonicalize().ok()
        };
        let is_beside = canonical(other.parent()) == canonical(path.parent());
        let starts = |known: &OsStr| {
            let rest = name
                .as_encoded_bytes()
                .strip_prefix(known.as_encoded_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"."))
        };
        is_beside && other.file_name().is_some_and(starts)
    };
    Ok(HARMLESS_NAMES.into_iter().any(is) || others.iter().any(is_other))
}

pub(super) fn take_lock(path: &Path) -> Result<Lock, OpenError> {
    Lock::take(&path.join(LOCK_NAME)).map_err(lock_error(path))
}

/// The lock for reading alone; `None` where there is no file to lock, or it is on a medium without locks. One
/// that may not be read may be held by a writer.
pub(super) fn share_lock(path: &Path) -> Result<Option<Lock>, OpenError> {
    match Lock::share(&path.join(LOCK_NAME)) {
        Ok(lock) => Ok(Some(lock)),
        Err(LockError::Io(error)) if error.kind() != io::ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(lock_error(path)(error).with_owner(path)),
    }
}

fn lock_error(path: &Path) -> impl FnOnce(LockError) -> OpenError {
    |error| match error {
        LockError::Held(holder) => OpenError::Held {
            directory: path.to_owned(),
            holder: if holder.is_empty() {
                "another process".into()
            } else {
                holder.trim_end().replace('\n', ", ")
            },
        },
        LockError::Io(reason) => OpenError::Io {
            action: format!("lock the data directory {}", path.display()),
            reason,
        },
    }
}

/// Makes a new directory one of ours; returns the size of its segments.
pub(super) fn write_format(path: &Path, segment_bytes: u32) -> Result<u32, OpenError> {
    let text = format!("digestd store {FORMAT_VERSION}\nsegment-size {segment_bytes}\n");
    disk::replace(path, FORMAT_NAME, &text).map_err(OpenError::io(format!(
        "write to the data directory {}",
        path.display()
    )))?;
    Ok(segment_bytes)
}

/// Says that a directory is a backup, and whether it is finished; durable on return.
pub(super) fn mark(path: &Path, is_finished: bool) -> io::Result<()> {
    let mark = if is_finished { MARK } else { UNFINISHED_MARK };
    disk::replace(path, MARK_NAME, mark)
}

/// Whether a directory is a backup that was never served.
pub(super) fn is_marked(path: &Path) -> bool {
    let mark = disk::read(&path.join(MARK_NAME));
    mark.is_ok_and(|mark| mark == MARK || mark == UNFINISHED_MARK)
}

/// Whether it is one that is not finished.
pub(super) fn is_unfinished(path: &Path) -> bool {
    disk::read(&path.join(MARK_NAME)).is_ok_and(|mark| mark == UNFINISHED_MARK)
}

/// Whether a directory is a data directory, of whatever version.
#[must_use]
pub fn is_store(path: &Path) -> bool {
    disk::read(&path.join(FORMAT_NAME)).is_ok_and(|text| text.starts_with("digestd store "))
}

/// Returns the segment size of the directory, `None` if it is not one of ours yet.
pub(super) fn read_format(path: &Path) -> Result<Option<u32>, OpenError> {
    let foreign = |reason: &str| OpenError::Foreign {
        directory: path.to_owned(),
        reason: reason.into(),
    };
    let text = match disk::read(&path.join(FORMAT_NAME)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if path.join("log").exists() {
                return Err(foreign("it has a log, but the file FORMAT is missing"));
            }
            return Ok(None);
        }
        Err(source) => return Err(OpenError::io("read the file FORMAT")(source)),
    };
    let mut lines = text.lines();
    let version = lines
        .next()
        .and_then(|line| line.strip_prefix("digestd store ")?.parse().ok());
    match version {
        Some(FORMAT_VERSION) => lines
            .next()
            .and_then(|line| line.strip_prefix("segment-size ")?.parse().ok())
            .filter(|bytes| is_segment_size(*bytes))
            .map(Some)
            .ok_or_else(|| foreign("its file FORMAT has no segment size that makes sense")),
        Some(found) if found > FORMAT_VERSION => Err(OpenError::NewerFormat {
            directory: path.to_owned(),
            found,
        }),
        _ => Err(foreign("its file FORMAT is not one of ours")),
    }
}

/// What the last writer of the store promised; `None` if it did not say, as version 0.1.0.
pub(super) fn read_durability(path: &Path) -> Option<Durability> {
    let text = disk::read(&path.join(DURABILITY_NAME)).ok()?;
    let all = [Durability::Disk, Durability::Os];
    all.into_iter()
        .find(|durability| text.strip_suffix('\n') == Some(durability.name()))
}

/// Says what is promised from now on; durable on return.
pub(super) fn write_durability(path: &Path, durability: Durability) -> io::Result<()> {
    disk::replace(path, DURABILITY_NAME, &format!("{}\n", durability.name()))
}

/// Makes `checkpoint` the one that the next start replays from; durable on return.
pub(super) fn write_checkpoint(path: &Path, checkpoint: Checkpoint) -> io::Result<()> {
    disk::replace(path, CHECKPOINT_NAME, &print_checkpoint(checkpoint))
}

/// Removes the checkpoint; durable once the directory is synced.
pub(super) fn remove_checkpoint(path: &Path) -> io::Result<()> {
    match fs::remove_file(path.join(CHECKPOINT_NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Whether there is a checkpoint, of whatever kind.
pub(super) fn has_checkpoint(path: &Path) -> bool {
    path.join(CHECKPOINT_NAME).exists()
}

/// Tells a checkpoint that this process may not read from one that is not whole.
///
/// # Errors
/// If it is one of the former.
pub(super) fn check_may_read_checkpoint(path: &Path) -> Result<(), OpenError> {
    let file = path.join(CHECKPOINT_NAME);
    match disk::read(&file) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            Err(OpenError::io("read the checkpoint")(error).with_owner(&file))
        }
        _ => Ok(()),
    }
}

/// The last checkpoint; `None` if there is none, or it is not whole.
pub(super) fn read_checkpoint(path: &Path) -> Option<Checkpoint> {
    let text = disk::read(&path.join(CHECKPOINT_NAME)).ok()?;
    let mut lines = text.lines();
    let (segment, offset) = lines.next()?.strip_prefix("position ")?.split_once(' ')?;
    let position = Position {
        segment: segment.parse().ok()?,
        offset: offset.parse().ok()?,
    };
    let messages = lines.next()?.strip_prefix("messages ")?.parse().ok()?;
    let checkpoint = Checkpoint { position, messages };
    (print_checkpoint(checkpoint) == text).then_some(checkpoint)
}

/// Whether `log` can be continued at this checkpoint: not if it points where no record can be, or behind
/// more missing segments than a log may lack.
pub(super) fn is_in_reach(checkpoint: Checkpoint, log: &Log) -> bool {
    let position = checkpoint.position;
    let segments = 1..=log.last_segment().saturating_add(SEGMENTS_LOST_MAX);
    segments.contains(&position.segment)
        && position.offset <= log.segment_bytes()
        && position.offset.is_multiple_of(RECORD_ALIGNMENT)
}

/// Three lines, the last a checksum over the others.
fn print_checkpoint(checkpoint: Checkpoint) -> String {
    let Position { segment, offset } = checkpoint.position;
    let content = format!(
        "position {segment} {offset}\nmessages {}\n",
        checkpoint.messages
    );
    format!(
        "{content}crc32c {:08x}\n",
        crc32c::crc32c(content.as_bytes())
    )
}
