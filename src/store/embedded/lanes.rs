//! The lanes: a thread for each part of the index, which enters the records of the log that are of it.
//!
//! They know what a record does to the index, and which bodies it makes dispensable; not where the records come
//! from, nor why. **Invariant:** records are entered in the order of the log, and a deletion takes out of the index
//! only what stands before it: so whatever is entered once more gives the same.

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::thread::{self, Scope, ScopedJoinHandle};

use super::erasures::Erasure;
use super::index::{self, Found, Index, IndexError};
use super::record::{Place, Position};
use super::recovery::{Kind, Record};
use super::segments::Log;
use crate::digest::Digest;

/// Records that are handed to a thread at once, so that it is not woken for each.
pub(super) const BATCH_RECORDS: usize = 256;

/// Batches that the reading of the log may be ahead of a thread.
pub(super) const BATCHES_AHEAD: usize = 4;

/// A thread that enters the records of one part of the index, in the order of the log.
pub(super) struct Lane<'scope> {
    next: Vec<Record>,
    sender: SyncSender<Step>,
    thread: ScopedJoinHandle<'scope, Result<Entries, IndexError>>,
}

/// What a lane is to do.
enum Step {
    Enter(Vec<Record>),
    /// To say how many messages came and went so far.
    Report(SyncSender<(u64, u64)>),
}

impl<'scope> Lane<'scope> {
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        index: &'env Index,
        log: &'env Log,
    ) -> Result<Self, IndexError> {
        let (sender, receiver) = mpsc::sync_channel(BATCHES_AHEAD);
        let enter = move || {
            let mut entries = Entries::default();
            for step in &receiver {
                match step {
                    Step::Enter(records) => {
                        for record in records {
                            entries.enter(index, log, record)?;
                        }
                    }
                    // Who asked may have given up.
                    Step::Report(to) => drop(to.send((entries.came, entries.went))),
                }
            }
            Ok(entries)
        };
        let thread = thread::Builder::new().spawn_scoped(scope, enter)?;
        Ok(Self {
            next: Vec::new(),
            sender,
            thread,
        })
    }

    pub(super) fn push(&mut self, record: Record) -> Result<(), IndexError> {
        self.next.push(record);
        if self.next.len() < BATCH_RECORDS {
            return Ok(());
        }
        self.send_next()
    }

    fn send_next(&mut self) -> Result<(), IndexError> {
        let records = std::mem::take(&mut self.next);
        self.send(Step::Enter(records))
    }

    fn send(&mut self, step: Step) -> Result<(), IndexError> {
        let sent = self.sender.send(step);
        sent.map_err(|_| IndexError::new("a lane ended"))
    }

    /// Says how many messages came and went, once everything that was pushed is entered.
    pub(super) fn reach(&mut self) -> Result<Receiver<(u64, u64)>, IndexError> {
        let (sender, reached) = mpsc::sync_channel(1);
        self.send_next()?;
        self.send(Step::Report(sender))?;
        Ok(reached)
    }

    pub(super) fn end(mut self) -> Result<Entries, IndexError> {
        let sent = self.send_next();
        drop(self.sender);
        let entries = self.thread.join();
        let entries = entries.unwrap_or_else(|panic| resume_unwind(panic))?;
        sent.map(|()| entries)
    }
}

/// What entering some records came to.
#[derive(Default)]
pub(super) struct Entries {
    pub(super) came: u64,
    pub(super) went: u64,
    pub(super) erasures: Vec<Erasure>,
    /// Messages that the index cannot have beside others, and their records: version 0.1.0 could.
    pub(super) taken: BTreeMap<Digest, Position>,
}

impl Entries {
    fn enter(&mut self, index: &Index, log: &Log, record: Record) -> Result<(), IndexError> {
        let Record { digest, place, .. } = record;
        if record.kind == Kind::Deletion {
            self.taken.remove(&digest);
            let before = index.get(&digest)?.filter(|before| before.at < place.at);
            if let Some(before) = before {
                index::require(index.remove(&digest, before)?)?;
                self.went += 1;
            }
            for erased in erased_by(log, &digest, place, before) {
                self.erase(log, digest, erased, place.at);
            }
            return Ok(());
        }
        if index.put(&digest, None, place)? {
            self.taken.remove(&digest);
            self.came += 1;
            return Ok(());
        }
        match index.look_up(&digest)? {
            Found::Nothing => index::require(false)?,
            Found::Message(known) if known == place => {}
            // A later record of the same message heals an earlier, damaged one, or says the same again.
            Found::Message(known) => {
                index::require(index.put(&digest, Some(known), place)?)?;
                if known.at < place.at {
                    self.erase(log, digest, known, place.at);
                }
            }
            // An index that is ahead knows of the deletion that comes yet.
            Found::Other(other) if other.at > place.at => {}
            Found::Other(_) => drop(self.taken.insert(digest, place.at)),
        }
        Ok(())
    }

    /// The body at `place` is to be erased, unless it is.
    fn erase(&mut self, log: &Log, digest: Digest, place: Place, reason: Position) {
        // One that cannot be read is left to the erasure, which says so.
        let is_erased = |body: Vec<u8>| body.iter().all(|&byte| byte == 0);
        if !log.read(place).is_ok_and(is_erased) {
            self.erasures.push(Erasure {
                digest,
                place,
                reason,
            });
        }
    }
}

/// The records that the deletion at `deletion` erases, as it says or the index did. If its positions cannot
/// be read, which the reading of the log has said, there is only the index.
fn erased_by(log: &Log, digest: &Digest, deletion: Place, indexed: Option<Place>) -> Vec<Place> {
    let mut places: Vec<_> = indexed.into_iter().collect();
    for at in log.erased_by(deletion).unwrap_or_default() {
        let before = Some(at).filter(|at| *at < deletion.at);
        let place = before.and_then(|at| log.message_at(at, digest));
        places.extend(place.filter(|&place| indexed != Some(place)));
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_messages_with_the_same_prefix_the_first_is_entered_and_the_second_reported() {
        let directory = tempfile::tempdir().unwrap();
        let log = Log::open(&directory.path().join("log"), 64 << 10).unwrap();
        let index = Index::open(&directory.path().join("index"), 1 << 20).unwrap();
        let [first, second] = [1, 2].map(|last| {
            let mut bytes = [7; 32];
            bytes[31] = last;
            Digest::from_bytes(bytes)
        });
        let record = |kind, digest, offset| Record {
            kind,
            digest,
            place: Place {
                at: Position { segment: 1, offset },
                length: 8,
            },
            heals: false,
        };
        let [one, other] = [
            record(Kind::Message, first, 0),
            record(Kind::Message, second, 64),
        ];
        let mut entries = Entries::default();
        entries.enter(&index, &log, one).unwrap();
        entries.enter(&index, &log, other).unwrap();
        assert_eq!(index.get(&first).unwrap(), Some(one.place));
        assert_eq!(index.get(&second).unwrap(), None);
        assert_eq!(entries.came, 1);
        let taken: Vec<_> = entries.taken.iter().collect();
        assert_eq!(taken, [(&second, &other.place.at)]);
        // Deleted, it is nobody's loss.
        let deletion = record(Kind::Deletion, second, 128);
        entries.enter(&index, &log, deletion).unwrap();
        assert!(entries.taken.is_empty());
        assert_eq!(index.get(&first).unwrap(), Some(one.place));
        // An index that is ahead of a deletion and a put of the other.
        assert!(index.remove(&first, one.place).unwrap());
        assert!(index.put(&second, None, other.place).unwrap());
        entries.enter(&index, &log, one).unwrap();
        assert!(entries.taken.is_empty());
    }
}
