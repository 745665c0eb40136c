//! Verification: a data directory that nobody serves, read from end to end, its log and its index
//! held against each other both ways.
//!
//! The log is only read. The index is opened, in which sled writes to files of its own; nothing that
//! a start could not redraw is ever changed. This room finds and names, and mends nothing.
//!
//! What the next start puts right without a loss is no finding: a group that was never acknowledged, an
//! index that is not there, messages behind the checkpoint that are not in the index yet. Neither is a
//! damaged record whose message was posted again since; it is counted.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::Path;

use super::directory::{DataDirectory, OpenError, has_checkpoint, read_checkpoint};
use super::index::{Checkpoint, Index, IndexError};
use super::log::{Log, Place, Position};
use super::recovery::{self, Damage, Survey};
use crate::digest::Digest;

/// Index entries that are held against the log at once.
const ENTRIES_AT_ONCE: usize = 1024;

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
    /// The index names a place that does not hold the message.
    NotInLog {
        /// The message.
        digest: Digest,
        /// Where its record should be.
        at: Position,
    },
    /// The index cannot be read, or is older than it can be; the next start redraws it.
    Index(String),
    /// The checkpoint makes no sense; the next start redraws the index.
    Checkpoint,
}

impl Finding {
    /// One word for programs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "damaged",
            Self::NotInIndex { .. } => "not-in-index",
            Self::NotInLog { .. } => "not-in-log",
            Self::Index(_) => "index",
            Self::Checkpoint => "checkpoint",
        }
    }

    /// Where in the log it is.
    #[must_use]
    pub fn at(&self) -> Option<Position> {
        match self {
            Self::Damaged { from: at, .. }
            | Self::NotInIndex { at, .. }
            | Self::NotInLog { at, .. } => Some(*at),
            Self::Index(_) | Self::Checkpoint => None,
        }
    }

    /// The message it is about, if it is about one.
    #[must_use]
    pub fn digest(&self) -> Option<Digest> {
        match self {
            Self::Damaged { digest, .. } => *digest,
            Self::NotInIndex { digest, .. } | Self::NotInLog { digest, .. } => Some(*digest),
            Self::Index(_) | Self::Checkpoint => None,
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
            Self::NotInLog { digest, .. } => write!(
                formatter,
                "the index has message {digest} here, and the log has not"
            ),
            Self::Index(reason) => write!(
                formatter,
                "index: {reason}; the next start redraws it from the log"
            ),
            Self::Checkpoint => {
                formatter.write_str("checkpoint: damaged; the next start redraws the index")
            }
        }
    }
}

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Good records of messages.
    pub records: u64,
    /// Messages in the index; `None` if there is no index, or it cannot be read.
    pub indexed: Option<u64>,
    /// Damaged records whose message has a good one too.
    pub healed: u64,
    /// Bytes of a last group that was never acknowledged.
    pub torn_bytes: u64,
    /// How often there was something to say.
    pub findings: u64,
}

/// Told how far a verification is: bytes of the log read, and bytes in all.
type Progress<'a> = &'a dyn Fn(u64, u64);

/// Reads everything in `directory` and says to `tell` what is wrong with it; `progress` is told the
/// bytes of the log read and the bytes in all. As fast as the disk, or as messages are hashed; takes
/// `cache_bytes` for the index.
///
/// # Errors
/// If the log cannot be read at all.
pub fn verify(
    directory: &DataDirectory,
    cache_bytes: u64,
    progress: &dyn Fn(u64, u64),
    mut tell: impl FnMut(&Finding),
) -> Result<Verified, OpenError> {
    let path = &directory.path;
    let log = Log::open_read_only(&path.join("log"), directory.segment_bytes)
        .map_err(OpenError::io("open the log"))?;
    let mut findings = 0;
    let mut tell = |finding: &Finding| {
        findings += 1;
        tell(finding);
    };
    let checkpoint = read_checkpoint(path, &log);
    if checkpoint.is_none() && has_checkpoint(path) {
        tell(&Finding::Checkpoint);
    }
    let mut index = open_index(path, cache_bytes, checkpoint, &mut tell);
    let mut records = 0;
    let acked = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
    let survey = read_log(&log, acked, progress, |digest, place| {
        records += 1;
        let Some(known) = index.as_ref().filter(|_| place.at < acked) else {
            return;
        };
        match known.get(&digest) {
            Ok(Some(_)) => {}
            Ok(None) => tell(&Finding::NotInIndex {
                digest,
                at: place.at,
            }),
            Err(error) => give_up(&mut index, &error, &mut tell),
        }
    })?;
    let healed = tell_damage(&log, &survey, index.as_ref(), &mut tell)?;
    let indexed = hold_against_log(&mut index, &log, &mut tell);
    if let Some(Err(error)) = index.map(Index::close) {
        tell(&Finding::Index(error.to_string()));
    }
    Ok(Verified {
        records,
        indexed,
        healed,
        torn_bytes: survey.torn_bytes,
        findings,
    })
}

/// The index, if a start would take it as it is.
fn open_index(
    path: &Path,
    cache_bytes: u64,
    checkpoint: Option<Checkpoint>,
    tell: &mut impl FnMut(&Finding),
) -> Option<Index> {
    let directory = path.join("index");
    // Without a checkpoint a start draws a new one. Without data it does too, and a backup has none.
    let expected = checkpoint.filter(|_| directory.join("db").exists())?;
    let index = Index::open(&directory, cache_bytes)
        .inspect_err(|error| tell(&Finding::Index(error.to_string())))
        .ok()?;
    let reason = match index.check() {
        Ok(held) if held.covers(expected) => return Some(index),
        Ok(_) => "it is behind the checkpoint".into(),
        Err(error) => error.to_string(),
    };
    tell(&Finding::Index(reason));
    // What it says when it is closed is no news.
    let _ = index.close();
    None
}

/// Asks the index nothing more.
fn give_up(index: &mut Option<Index>, error: &IndexError, tell: &mut impl FnMut(&Finding)) {
    tell(&Finding::Index(error.to_string()));
    if let Some(index) = index.take() {
        let _ = index.close();
    }
}

/// Walks through the whole log.
fn read_log(
    log: &Log,
    acked: Position,
    progress: Progress<'_>,
    mut message: impl FnMut(Digest, Place),
) -> Result<Survey, OpenError> {
    let segment_bytes = u64::from(log.segment_bytes());
    let total = segment_bytes * u64::from(log.last_segment());
    let survey = recovery::survey(log, Position::START, acked, |digest, place| {
        let segments = u64::from(place.at.segment.saturating_sub(1));
        progress(segments * segment_bytes + u64::from(place.at.offset), total);
        message(digest, place);
        Ok::<_, io::Error>(())
    });
    progress(total, total);
    survey.map_err(OpenError::io("read the log"))
}

/// Names every damaged stretch but those whose message can be had all the same; returns their number.
fn tell_damage(
    log: &Log,
    survey: &Survey,
    index: Option<&Index>,
    tell: &mut impl FnMut(&Finding),
) -> Result<u64, OpenError> {
    if survey.damage.is_empty() {
        return Ok(0);
    }
    let good = good_records(log, &survey.damage)?;
    let mut healed = 0;
    for Damage { from, to, message } in &survey.damage {
        let is_healed = message.is_some_and(|(digest, place)| {
            let indexed = index.and_then(|index| index.get(&digest).ok().flatten());
            // Without an index the next start takes the good record.
            good.get(&digest) == Some(&true) && indexed != Some(place)
        });
        if is_healed {
            healed += 1;
        } else {
            tell(&Finding::Damaged {
                from: *from,
                to: *to,
                digest: message.map(|(digest, _)| digest),
            });
        }
    }
    Ok(healed)
}

/// Which of the damaged messages have a good record too. Reads the log once more.
fn good_records(log: &Log, damage: &[Damage]) -> Result<HashMap<Digest, bool>, OpenError> {
    let damaged = damage.iter().filter_map(|damage| damage.message);
    let mut good: HashMap<_, _> = damaged.map(|(digest, _)| (digest, false)).collect();
    read_log(log, Position::START, &|_, _| (), |digest, _| {
        if let Some(good) = good.get_mut(&digest) {
            *good = true;
        }
    })?;
    Ok(good)
}

/// Whether each entry of the index names a record of its message; what the body of a record is like
/// has been read before. Returns their number.
fn hold_against_log(
    index: &mut Option<Index>,
    log: &Log,
    tell: &mut impl FnMut(&Finding),
) -> Option<u64> {
    let (mut entries, mut last) = (0, None);
    loop {
        let page = match index.as_ref()?.range(last.as_ref(), ENTRIES_AT_ONCE) {
            Ok(page) => page,
            Err(error) => {
                give_up(index, &error, tell);
                return None;
            }
        };
        let Some((end, _)) = page.last() else {
            return Some(entries);
        };
        last = Some(*end);
        entries += page.len() as u64;
        for (digest, place) in page {
            if !log.names(place, &digest).unwrap_or(false) {
                tell(&Finding::NotInLog {
                    digest,
                    at: place.at,
                });
            }
        }
    }
}
