//! What a start found wrong with a data directory: one line each in the log, kept for whoever asks
//! later, and counted.
//!
//! It knows how a finding is told, not how it is found.

use std::fmt;

use tracing::{error, warn};

use super::index::IndexError;
use super::record::Position;
use super::scan::Damage;
use crate::digest::Digest;

/// Findings that get a line of their own and are kept. The rest is counted: who has so many needs
/// `digestd verify`, not a longer log.
const FINDINGS_MAX: usize = 100;

/// Something that a start found and that should not have been.
#[derive(Debug)]
pub(super) enum Finding {
    /// A stretch of the log that was acknowledged cannot be read any more.
    Damage(Damage),
    /// A whole log, read from its start, ends before the checkpoint.
    CheckpointAhead { checkpoint: Position, end: Position },
    /// The record that the index knows as the last one is not in the log.
    IndexAhead { last: Position },
    /// The log lacks what was written last: messages that the index had, bytes among what it holds.
    Unsynced { messages: usize, bytes: u64 },
    /// A message of the log that the index cannot have beside another.
    PrefixTaken { digest: Digest, at: Position },
    /// The index could not be used.
    IndexRedrawn(IndexError),
    /// Nothing says how much of the log the index covers.
    NoCheckpoint,
}

impl Finding {
    /// Whether a message may be lost; otherwise it only took time.
    fn is_loss(&self) -> bool {
        !matches!(self, Self::IndexRedrawn(_) | Self::NoCheckpoint)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damage(Damage { from, to, message }) => {
                write!(formatter, "the log is damaged from {from} to {to}: ")?;
                match message {
                    // Its first eight digits.
                    Some((digest, _)) => write!(formatter, "message {digest:?}")?,
                    None => formatter.write_str("what it held there")?,
                }
                formatter.write_str(" is lost until posted again")
            }
            Self::CheckpointAhead { checkpoint, end } => write!(
                formatter,
                "the checkpoint at {checkpoint} is ahead of the log, which ends at {end}: what came between is lost until posted again"
            ),
            Self::IndexAhead { last } => write!(
                formatter,
                "the checkpoint is ahead of the log, which does not hold the last record that the index knows, at {last}: the end of the log is lost until posted again"
            ),
            Self::Unsynced { messages, bytes } => write!(
                formatter,
                "the log does not hold what was written last: {messages} messages that the index had, and {bytes} bytes among what it holds, are lost until posted again; after a power cut with --durability os that is to be expected, otherwise the disk loses what it was told to keep"
            ),
            Self::PrefixTaken { digest, at } => write!(
                formatter,
                "the log has message {digest:?} at {at}, which is not found: another stored message has a digest with the same first 22 bytes"
            ),
            Self::IndexRedrawn(reason) => {
                write!(
                    formatter,
                    "the index is unusable and is redrawn from the log: {reason}"
                )
            }
            Self::NoCheckpoint => formatter.write_str(
                "there is no checkpoint to start from: the index is redrawn from the log",
            ),
        }
    }
}

/// What a start found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    kept: Vec<String>,
    count: u64,
}

impl Findings {
    /// Logs a finding and keeps it, unless there are too many already.
    pub(super) fn add(&mut self, finding: &Finding) {
        self.count += 1;
        if self.kept.len() >= FINDINGS_MAX {
            return;
        }
        let text = finding.to_string();
        if finding.is_loss() {
            error!("{text}");
        } else {
            warn!("{text}");
        }
        self.kept.push(text);
    }

    /// Number of findings, those that were not kept too.
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// A line for each, and one for those that were not kept.
    pub(super) fn lines(&self) -> Vec<String> {
        let more = self.count - self.kept.len() as u64;
        let more = (more > 0).then(|| format!("{more} more findings of this start are not listed"));
        self.kept.iter().cloned().chain(more).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_beyond_the_limit_are_counted_only() {
        let mut findings = Findings::default();
        for _ in 0..FINDINGS_MAX {
            findings.add(&Finding::NoCheckpoint);
        }
        assert_eq!(findings.lines().len(), FINDINGS_MAX);
        findings.add(&Finding::NoCheckpoint);
        findings.add(&Finding::NoCheckpoint);
        assert_eq!(findings.count(), FINDINGS_MAX as u64 + 2);
        let lines = findings.lines();
        assert_eq!(lines.len(), FINDINGS_MAX + 1);
        assert!(lines.last().unwrap().starts_with("2 more findings"));
    }
}
