//! A store that is only read, and where nothing can be written: on a read-only mount, in a snapshot, in the
//! directory of another user.
//!
//! Its index is not opened, since the engine writes to do that: all comes from the log, which is read once for
//! each million messages. The lock is shared: many may read at once, beside no writer.
//! **Invariant:** nothing is written, here or anywhere else.

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::directory::{DataDirectory, OpenError, read_checkpoint, read_format, share_lock};
use super::disk::Lock;
use super::findings::{Finding, Findings};
use super::record::{Place, Position};
use super::recovery::{self, Kind, Record};
use super::segments::Log;
use crate::digest::Digest;
use crate::message::Message;

/// Messages that are looked for in one pass through the log: some 100 MB of memory.
const MESSAGES_AT_ONCE: usize = 1 << 20;

/// The data directory of a command that only reads.
#[derive(Debug)]
pub enum Readable {
    /// It is held by this process alone.
    Held(DataDirectory),
    /// Nothing can be written there.
    ReadOnly(ReadOnlyDirectory),
}

impl Readable {
    /// Takes hold of the directory at `path`, which must be there and ours already, as far as that needs no
    /// writing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn claim(path: &Path) -> Result<Self, OpenError> {
        match DataDirectory::claim_existing(path) {
            Err(error) if error.is_denied() => {
                // What cannot be read either says so in the same words.
                ReadOnlyDirectory::claim(path)?
                    .map(Self::ReadOnly)
                    .ok_or(error)
            }
            claimed => claimed.map(Self::Held),
        }
    }
}

/// A data directory that can be read, and not written.
#[derive(Debug)]
pub struct ReadOnlyDirectory {
    pub(super) path: PathBuf,
    pub(super) segment_bytes: u32,
    /// `None` where there is nothing to lock.
    _lock: Option<Lock>,
}

impl ReadOnlyDirectory {
    fn claim(path: &Path) -> Result<Option<Self>, OpenError> {
        let segment_bytes = match read_format(path) {
            Ok(Some(bytes)) => bytes,
            Err(error) if !error.is_denied() => return Err(error),
            _ => return Ok(None),
        };
        Ok(Some(Self {
            path: path.to_owned(),
            segment_bytes,
            _lock: share_lock(path)?,
        }))
    }

    /// Hands every message behind `after`, or from the first on, to `each`, in the order of their digests; of one
    /// that is damaged, the digest alone. Reads the log from end to end for each million of messages. What is
    /// found wrong with the log is logged.
    ///
    /// # Errors
    /// Those of `each`, or if the log cannot be read.
    pub fn read_all<E: From<OpenError>>(
        &self,
        after: Option<Digest>,
        mut each: impl FnMut(&Digest, Option<&Message>) -> Result<(), E>,
    ) -> Result<(), E> {
        let log = Log::open_read_only(&self.path.join("log"), self.segment_bytes)
            .map_err(OpenError::io("open the log"))?;
        let checkpoint = read_checkpoint(&self.path);
        let acked = checkpoint.map_or(Position::START, |checkpoint| checkpoint.position);
        let mut from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut is_first = true;
        loop {
            let selected = Selected::of(&log, acked, from, MESSAGES_AT_ONCE)
                .map_err(OpenError::io("read the log"))?;
            if std::mem::take(&mut is_first) {
                let mut findings = Findings::default();
                selected.findings.iter().for_each(|it| findings.add(it));
            }
            for (digest, place) in selected.messages {
                let body = log.read(place).ok();
                let message = body.and_then(|body| Message::verified(body.into(), digest));
                each(&digest, message.as_ref())?;
            }
            match selected.next {
                Some(next) => from = Bound::Included(next),
                None => return Ok(()),
            }
        }
    }
}

/// The messages with the lowest digests of a part of all.
struct Selected {
    messages: BTreeMap<Digest, Place>,
    /// What follows them begins here.
    next: Option<Digest>,
    findings: Vec<Finding>,
}

impl Selected {
    /// At most `max` messages from `from` on, and those that are damaged between them.
    fn of(log: &Log, acked: Position, from: Bound<Digest>, max: usize) -> io::Result<Self> {
        let mut messages = BTreeMap::new();
        let mut next = None;
        let is_wanted = |digest: &Digest, next: &Option<Digest>| {
            let is_behind = match from {
                Bound::Included(from) => *digest >= from,
                Bound::Excluded(from) => *digest > from,
                Bound::Unbounded => true,
            };
            is_behind && next.is_none_or(|next| *digest < next)
        };
        let survey = recovery::survey(log, Position::START, acked, |record| {
            let Record {
                kind,
                digest,
                place,
                ..
            } = record;
            match kind {
                Kind::Deletion => drop(messages.remove(&digest)),
                Kind::Message if is_wanted(&digest, &next) => {
                    messages.insert(digest, place);
                    // What is taken out here may not be left out later: the part ends before it.
                    if messages.len() > max {
                        next = messages.pop_last().map(|(digest, _)| digest);
                    }
                }
                Kind::Message => {}
            }
            Ok::<_, io::Error>(())
        })?;
        let mut findings = Vec::new();
        if survey.last_end < acked {
            findings.push(Finding::CheckpointAhead {
                checkpoint: acked,
                end: survey.last_end,
            });
        }
        for damage in survey.damage {
            let Some((digest, place)) = damage.message else {
                findings.push(Finding::Damage(damage));
                continue;
            };
            // One that was posted again has a good record.
            if is_wanted(&digest, &next) {
                messages.entry(digest).or_insert(place);
            }
        }
        Ok(Self {
            messages,
            next,
            findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::embedded::appender::Appender;

    #[test]
    fn a_log_is_read_in_parts_of_any_size_and_each_message_once() {
        let directory = tempfile::tempdir().unwrap();
        let log = Arc::new(Log::open(directory.path(), 64 << 10).unwrap());
        let mut appender = Appender::new(Arc::clone(&log), Position::START);
        let messages: Vec<_> = (0..100)
            .map(|number| Message::new(number.to_string()))
            .collect();
        let mut draft = appender.draft();
        let mut places = Vec::new();
        for message in &messages {
            places.push(draft.put(message, false).unwrap());
        }
        let group = draft.finish().unwrap();
        appender.write(group, true).unwrap();
        let mut draft = appender.draft();
        for (message, place) in messages.iter().zip(&places).step_by(3) {
            draft.delete(message.digest(), &[*place]).unwrap();
        }
        draft.put(&messages[0], false).unwrap();
        let group = draft.finish().unwrap();
        appender.write(group, true).unwrap();
        let mut expected: Vec<_> = (0..100)
            .filter(|number| number % 3 > 0 || *number == 0)
            .map(|number| messages[number].digest())
            .collect();
        expected.sort_unstable();
        for max in [1, 2, 7, 64, 100, 1000] {
            let (mut found, mut from) = (Vec::new(), Bound::Unbounded);
            loop {
                let part = Selected::of(&log, appender.end(), from, max).unwrap();
                assert!(part.messages.len() <= max);
                assert!(part.findings.is_empty());
                found.extend(part.messages.into_keys());
                match part.next {
                    Some(next) => from = Bound::Included(next),
                    None => break,
                }
            }
            assert_eq!(found, expected, "{max}");
        }
        // It may be shorter than it could be, since what is deleted later took a place in it.
        let behind = Bound::Excluded(expected[10]);
        let part = Selected::of(&log, appender.end(), behind, 20).unwrap();
        let found: Vec<_> = part.messages.into_keys().collect();
        assert!(!found.is_empty() && found.len() <= 20);
        assert_eq!(found, expected[11..11 + found.len()]);
    }
}
