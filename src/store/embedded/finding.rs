//! What `verify` and `scrub` find: each kind with its place and its sentence.

use std::fmt;

use super::record::Position;
use crate::digest::Digest;

/// Something that was promised and is not so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// A stretch of the log cannot be read; what it held is lost until posted again.
    Damaged {
        /// Where it starts.
        from: Position,
        /// Where it ends, in the same segment.
        to: Position,
        /// The message it held, where its record still says so.
        digest: Option<Digest>,
    },
    /// The index does not know a message of the log: it is not found, though it is there.
    NotInIndex {
        /// The message.
        digest: Digest,
        /// Its record.
        at: Position,
    },
    /// The index does not have a message of the log and cannot: it has another whose digest has the same first
    /// 22 bytes. Only version 0.1.0 stored both.
    PrefixTaken {
        /// The message.
        digest: Digest,
        /// Its record.
        at: Position,
    },
    /// The index has a message that was deleted.
    NotDeleted {
        /// The message.
        digest: Digest,
        /// Its record.
        at: Position,
    },
    /// The index names a place that does not hold the message.
    NotInLog {
        /// The message.
        digest: Digest,
        /// Where its record should be.
        at: Position,
    },
    /// The log ends before what is known to have been in it: segments are missing.
    EndsEarly {
        /// Where it ends.
        end: Position,
        /// Up to where it was durable once.
        checkpoint: Position,
    },
    /// It is a backup that was not finished.
    Unfinished,
    /// The index cannot be read, or is older than it can be; the next start redraws it.
    Index(String),
    /// The checkpoint makes no sense; the next start redraws the index.
    Checkpoint,
    /// The log has lost its identity; the next start gives it another.
    Identity,
}

impl Finding {
    /// One word for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "damaged",
            Self::NotInIndex { .. } => "not-in-index",
            Self::PrefixTaken { .. } => "prefix-taken",
            Self::NotDeleted { .. } => "not-deleted",
            Self::NotInLog { .. } => "not-in-log",
            Self::EndsEarly { .. } => "ends-early",
            Self::Unfinished => "unfinished",
            Self::Index(_) => "index",
            Self::Checkpoint => "checkpoint",
            Self::Identity => "identity",
        }
    }

    /// Where in the log it is.
    #[must_use]
    pub fn at(&self) -> Option<Position> {
        match self {
            Self::Damaged { from: at, .. }
            | Self::NotInIndex { at, .. }
            | Self::PrefixTaken { at, .. }
            | Self::NotDeleted { at, .. }
            | Self::NotInLog { at, .. }
            | Self::EndsEarly { end: at, .. } => Some(*at),
            Self::Unfinished | Self::Index(_) | Self::Checkpoint | Self::Identity => None,
        }
    }

    /// The message it is about, if it is about one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Damaged { digest, .. } => *digest,
            Self::NotInIndex { digest, .. }
            | Self::PrefixTaken { digest, .. }
            | Self::NotDeleted { digest, .. }
            | Self::NotInLog { digest, .. } => Some(*digest),
            Self::EndsEarly { .. }
            | Self::Unfinished
            | Self::Index(_)
            | Self::Checkpoint
            | Self::Identity => None,
        }
    }
}

/// With the whole digest: who verifies a store has to know which message to post again.
impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at() {
            write!(formatter, "log/{} at {}: ", at.file_name(), at.offset)?;
        }
        match self {
            Self::Damaged {
                from,
                to,
                digest: Some(digest),
            } => write!(
                formatter,
                "damaged, {} bytes: message {digest}",
                to.offset.saturating_sub(from.offset)
            ),
            Self::Damaged { from, to, .. } => write!(
                formatter,
                "damaged, {} bytes: what they held is not known",
                to.offset.saturating_sub(from.offset)
            ),
            Self::NotInIndex { digest, .. } => {
                write!(formatter, "message {digest} is not in the index")
            }
            Self::PrefixTaken { digest, .. } => write!(
                formatter,
                "message {digest} is not found: another stored message has a digest with the same first 22 bytes"
            ),
            Self::NotDeleted { digest, .. } => {
                write!(
                    formatter,
                    "message {digest} was deleted and is in the index"
                )
            }
            Self::NotInLog { digest, .. } => write!(
                formatter,
                "the index has message {digest} here, and the log has not"
            ),
            Self::EndsEarly { checkpoint, .. } => write!(
                formatter,
                "the log ends here, and what followed up to {checkpoint} is missing"
            ),
            Self::Unfinished => formatter.write_str(
                "this backup is not finished: run \"digestd backup\" again before it is used",
            ),
            Self::Index(reason) => write!(
                formatter,
                "index: {reason}; the next start redraws it from the log"
            ),
            Self::Checkpoint => {
                formatter.write_str("checkpoint: damaged; the next start redraws the index")
            }
            Self::Identity => formatter.write_str(
                "log/ID: missing or damaged; the next start gives the log another identity, and backups cannot be brought \
                 up to date then",
            ),
        }
    }
}
