//! What an index was found to hold, part by part and together.
//!
//! **Invariant:** an index is as complete as its part that is behind.

use super::super::record::{Place, Position};
use crate::digest::Digest;

/// A state of log and index that is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything before this position of the log is in the index.
    pub position: Position,
    /// Number of messages in the index.
    pub messages: u64,
}

impl Checkpoint {
    /// What two parts of an index have together.
    fn and(self, other: Self) -> Self {
        Self {
            position: self.position.min(other.position),
            messages: self.messages + other.messages,
        }
    }
}

/// What an index was found to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Up to where it says it is complete, and its messages as counted.
    pub checkpoint: Checkpoint,
    /// The message whose record is the last of all in the log.
    pub last: Option<(Digest, Place)>,
    /// Up to where it has everything, if it is being drawn.
    pub progress: Option<Checkpoint>,
    /// Messages whose records are not before the position that was asked for.
    pub ahead: Vec<(Digest, Place)>,
}

impl Held {
    /// What an empty index holds.
    pub(super) const NOTHING: Self = Self {
        checkpoint: Checkpoint {
            position: Position::START,
            messages: 0,
        },
        last: None,
        progress: None,
        ahead: Vec::new(),
    };

    /// What two parts of an index hold together.
    pub(super) fn and(mut self, other: Self) -> Self {
        let lasts = [self.last, other.last].into_iter().flatten();
        self.ahead.extend(other.ahead);
        let progress = self.progress.zip(other.progress);
        Self {
            progress: progress.map(|(one, other)| one.and(other)),
            checkpoint: self.checkpoint.and(other.checkpoint),
            last: lasts.max_by_key(|(_, place)| place.at),
            ahead: self.ahead,
        }
    }
}
