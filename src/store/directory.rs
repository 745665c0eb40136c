//! The data directory: held by one process, of a format it knows, with a checkpoint.
//!
//! ```text
//! <data>/FORMAT       version and segment size
//! <data>/LOCK         held while a process has the store open; says which
//! <data>/log/         the messages: see log.rs
//! <data>/index/       digest → place, sled; may be deleted while the store is closed
//! <data>/checkpoint   how much of the log the index is known to cover
//! <data>/reserve      room to open the store in when the disk is full
//! ```
//!
//! **Invariant:** nothing in a directory is touched before it is known to be ours alone and ours at
//! all.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::disk::{self, Lock, LockError};
use super::index::Checkpoint;
use super::log::{
    HEADER_BYTES, Log, Position, RECORD_ALIGNMENT, SEGMENTS_LOST_MAX, is_segment_size,
};

/// Version of the layout of a data directory. A higher one is refused.
const FORMAT_VERSION: u32 = 1;

const FORMAT_NAME: &str = "FORMAT";

const CHECKPOINT_NAME: &str = "checkpoint";

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
    /// The index could be neither opened nor redrawn.
    #[error("cannot draw the index: {0}")]
    Index(String),
}

impl OpenError {
    pub(super) fn io(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |reason| Self::Io { action, reason }
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
}

/// A data directory that belongs to this process and has a format it knows.
#[derive(Debug)]
pub struct DataDirectory {
    pub(super) path: PathBuf,
    pub(super) segment_bytes: u32,
    pub(super) lock: Lock,
}

impl DataDirectory {
    /// Takes hold of the directory at `path`, which is made if it is not there, with segments of
    /// `segment_bytes` if it is new. Quick: nothing is read yet.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim(path: &Path, segment_bytes: u32) -> Result<Self, OpenError> {
        disk::create_directory(path).map_err(OpenError::io(format!(
            "create the data directory {}",
            path.display()
        )))?;
        let lock = take_lock(path)?;
        if !is_segment_size(segment_bytes) {
            return Err(OpenError::SegmentSize { segment_bytes });
        }
        let segment_bytes = match read_format(path)? {
            Some(known) => known,
            None => write_format(path, segment_bytes)?,
        };
        Ok(Self {
            path: path.to_owned(),
            segment_bytes,
            lock,
        })
    }

    /// Takes hold of the directory at `path`, which must be there and ours already.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim_existing(path: &Path) -> Result<Self, OpenError> {
        // Before the lock: nothing is left behind in a directory that is not ours.
        let segment_bytes = read_format(path)?.ok_or_else(|| OpenError::Foreign {
            directory: path.to_owned(),
            reason: "there is no file FORMAT in it".into(),
        })?;
        let lock = take_lock(path)?;
        Ok(Self {
            path: path.to_owned(),
            segment_bytes,
            lock,
        })
    }

    /// The largest message that fits its segments, in bytes of text.
    #[must_use]
    pub fn message_bytes_max(&self) -> u64 {
        u64::from(self.segment_bytes - HEADER_BYTES)
    }
}

pub(super) fn take_lock(path: &Path) -> Result<Lock, OpenError> {
    Lock::take(&path.join("LOCK")).map_err(|error| match error {
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
    })
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

/// Returns the segment size of the directory, `None` if it is not one of ours yet.
pub(super) fn read_format(path: &Path) -> Result<Option<u32>, OpenError> {
    let foreign = |reason: &str| OpenError::Foreign {
        directory: path.to_owned(),
        reason: reason.into(),
    };
    let text = match fs::read_to_string(path.join(FORMAT_NAME)) {
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

/// The last checkpoint; `None` if there is none, or it is not whole, or points where no record of
/// `log` can ever have been. Which costs a redraw.
pub(super) fn read_checkpoint(path: &Path, log: &Log) -> Option<Checkpoint> {
    let text = fs::read_to_string(path.join(CHECKPOINT_NAME)).ok()?;
    let mut lines = text.lines();
    let (segment, offset) = lines.next()?.strip_prefix("position ")?.split_once(' ')?;
    let position = Position {
        segment: segment.parse().ok()?,
        offset: offset.parse().ok()?,
    };
    let messages = lines.next()?.strip_prefix("messages ")?.parse().ok()?;
    let segments = 1..=log.last_segment().saturating_add(SEGMENTS_LOST_MAX);
    if !segments.contains(&position.segment)
        || position.offset > log.segment_bytes()
        || !position.offset.is_multiple_of(RECORD_ALIGNMENT)
    {
        return None;
    }
    let checkpoint = Checkpoint { position, messages };
    (print_checkpoint(checkpoint) == text).then_some(checkpoint)
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
