//! The committer: the one thread that writes.
//!
//! It takes groups of puts and deletions from the queue, appends and syncs them, carries them out in the
//! index and answers, in this order, which is the durability argument of `embedded/mod.rs` in code. Then it
//! has zeros written where the next group goes. Within a group all goes in the order of the queue, in the
//! log as in the index. What was deleted is erased by the eraser.
//!
//! **Invariant:** no message gets a second record beside one that is whole, and none beside a message with the
//! same prefix, since the index has one of the two. So a put is looked up again if such a message came in
//! after its caller had looked; and what a damaged record holds is erased once another takes its place.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::appender::{Appender, Draft, Group, WriteError};
use super::disk::{self, Lack};
use super::erasures::Erasure;
use super::index::{self, Checkpoint, IndexError, Key};
use super::queue::{Entry, Job};
use super::reads::Known;
use super::record::{Place, Position};
use super::state::Shared;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{Commit, Deleted, Durability, Receipt, StoreError};

/// Messages between checkpoints: a start enters as many into the index in a tenth of a second, or some tenths
/// where the cache does not hold it.
const CHECKPOINT_MESSAGES: usize = 50_000;

/// Log bytes between checkpoints: a start reads as many in some hundredths of a second.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// Messages that came in last and are kept in mind, at least: a few times what can wait in the queue. A put
/// that was looked up before them costs a look-up in the index.
const RECENT_MESSAGES: usize = 4096;

/// A group as it is written, and then carried out in the index.
#[derive(Debug, Default)]
struct Plan {
    steps: Vec<Step>,
    /// Those of its entries that change nothing, by their numbers in ascending order.
    vain: Vec<(usize, Vain)>,
    /// Bytes of text.
    bytes: u64,
}

/// Why an entry changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vain {
    /// A put of what is there, or a deletion of what is not.
    AsItIs,
    /// A put of a message whose prefix another one has.
    PrefixTaken,
}

#[derive(Debug)]
enum Step {
    Put {
        digest: Digest,
        damaged: Option<Place>,
        place: Place,
    },
    Delete {
        digest: Digest,
        at: Position,
        /// Every record of the message that is known.
        erased: Vec<Place>,
    },
}

/// What the entries of a group so far make of the message with a prefix.
#[derive(Debug, Default)]
struct State {
    /// Which it is, and where it will be, if they put one.
    put: Option<(Digest, Place)>,
    /// Whatever the index has there is gone.
    is_deleted: bool,
}

/// Why a group cannot be laid out.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum LayOutError {
    Store(#[from] StoreError),
    Index(#[from] IndexError),
    Log(#[from] io::Error),
}

impl Plan {
    /// Lays out what `entries` make of the messages in the index. There is no group if nothing changes.
    fn lay_out(
        shared: &Shared,
        recent: &Recent,
        mut draft: Draft<'_>,
        entries: &[Entry],
    ) -> Result<(Self, Option<Group>), LayOutError> {
        let mut plan = Self {
            steps: Vec::with_capacity(entries.len()),
            ..Self::default()
        };
        let mut states: HashMap<Key, State> = HashMap::with_capacity(entries.len());
        for (number, entry) in entries.iter().enumerate() {
            match &entry.job {
                Job::Put {
                    message,
                    damaged,
                    seen,
                    ..
                } => {
                    let digest = message.digest();
                    let state = states.entry(index::key(&digest)).or_default();
                    if let Some((other, _)) = state.put {
                        // One record is enough for all who put it.
                        if other != digest {
                            plan.vain.push((number, Vain::PrefixTaken));
                        }
                        continue;
                    }
                    let mut damaged = *damaged;
                    if !state.is_deleted && recent.may_hold(&digest, *seen) {
                        damaged = match shared.known(message)? {
                            Known::Stored => {
                                plan.vain.push((number, Vain::AsItIs));
                                continue;
                            }
                            Known::PrefixTaken => {
                                plan.vain.push((number, Vain::PrefixTaken));
                                continue;
                            }
                            Known::Damaged(place) => Some(place),
                            Known::No => None,
                        };
                    }
                    let place = draft.put(message, damaged.is_some())?;
                    state.put = Some((digest, place));
                    plan.bytes += message.as_bytes().len() as u64;
                    plan.steps.push(Step::Put {
                        digest,
                        damaged,
                        place,
                    });
                }
                Job::Delete { digest, .. } => {
                    let state = states.entry(index::key(digest)).or_default();
                    let indexed = if state.is_deleted {
                        None
                    } else {
                        let _call = shared.watchdog.watch();
                        shared.index.get(digest)?
                    };
                    let put = state.put.take_if(|(put, _)| put == digest);
                    let put = put.map(|(_, place)| place);
                    let erased: Vec<_> = indexed.into_iter().chain(put).collect();
                    if erased.is_empty() {
                        plan.vain.push((number, Vain::AsItIs));
                        continue;
                    }
                    state.is_deleted = true;
                    plan.steps.push(Step::Delete {
                        digest: *digest,
                        at: draft.delete(*digest, &erased)?.at,
                        erased,
                    });
                }
            }
        }
        let group = (!draft.is_empty()).then(|| draft.finish()).transpose()?;
        Ok((plan, group))
    }
}

/// The messages that came in last, by the first eight bytes of their digests: what a put that waited may have
/// become known by. Who finds one asks the index, so that it is enough if hardly two are alike.
#[derive(Debug, Default)]
struct Recent {
    young: HashSet<u64>,
    /// Those before them.
    old: HashSet<u64>,
    /// The first group whose messages are all in `young`, and the same of `old`.
    young_from: u64,
    old_from: u64,
    /// The next group.
    end: u64,
}

impl Recent {
    /// Adds the messages of group `group`, in ascending order.
    fn add<'a>(&mut self, group: u64, messages: impl Iterator<Item = &'a Digest>) {
        if self.young.len() >= RECENT_MESSAGES {
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
            self.old_from = self.young_from;
            self.young_from = group;
        }
        self.young.extend(messages.map(start_of));
        self.end = group + 1;
    }

    /// Whether this message may have come in with group `seen` or a later one.
    fn may_hold(&self, digest: &Digest, seen: u64) -> bool {
        let start = start_of(digest);
        seen < self.end
            && (seen < self.old_from || self.young.contains(&start) || self.old.contains(&start))
    }
}

fn start_of(digest: &Digest) -> u64 {
    let mut start = [0; 8];
    start.copy_from_slice(&digest.as_bytes()[..8]);
    u64::from_le_bytes(start)
}

/// A group that is as durable as it says.
struct Committed {
    durability: Durability,
    /// See [`Plan::vain`].
    vain: Vec<(usize, Vain)>,
}

impl Committed {
    fn receipt(&self, number: usize, message: &Message) -> Result<Receipt, StoreError> {
        let digest = message.digest();
        match self.vain(number) {
            None => Ok(Receipt::new(digest, self.durability)),
            Some(Vain::AsItIs) => Ok(Receipt::known(digest, self.durability)),
            Some(Vain::PrefixTaken) => Err(StoreError::PrefixTaken),
        }
    }

    fn deleted(&self, number: usize) -> Option<Deleted> {
        let is_vain = self.vain(number).is_some();
        (!is_vain).then(|| Deleted::new(self.durability))
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "where the search found it; a default would acknowledge a put that was refused"
    )]
    fn vain(&self, number: usize) -> Option<Vain> {
        let found = self
            .vain
            .binary_search_by_key(&number, |(number, _)| *number);
        Some(self.vain[found.ok()?].1)
    }
}

/// The one thread that writes messages.
pub(super) struct Committer {
    shared: Arc<Shared>,
    appender: Appender,
    recent: Recent,
    /// Wakes the keeper.
    poke: SyncSender<()>,
    poked_at: Position,
    /// Entries since.
    entries: usize,
}

impl Committer {
    /// Appends from `end` on; `poke` wakes the keeper, and ends it by being dropped.
    pub(super) fn new(shared: Arc<Shared>, end: Position, poke: SyncSender<()>) -> Self {
        let appender = Appender::new(Arc::clone(&shared.log), end);
        Self {
            shared,
            appender,
            recent: Recent::default(),
            poke,
            poked_at: end,
            entries: 0,
        }
    }

    /// Ends when the queue is closed and empty.
    pub(super) fn run(mut self) {
        while let Some(entries) = self.shared.queue.take_group() {
            self.entries += entries.len();
            let result = self.commit(&entries);
            answer(entries, result);
            self.write_ahead();
            self.poke_keeper();
        }
    }

    /// Writes a group, and returns once it is durable and visible.
    fn commit(&mut self, entries: &[Entry]) -> Result<Committed, StoreError> {
        if self.shared.has_failed() {
            return Err(StoreError::Failed);
        }
        let durability = self.shared.options.durability;
        let laid_out = Plan::lay_out(&self.shared, &self.recent, self.appender.draft(), entries);
        let (plan, group) = laid_out.map_err(|error| match error {
            LayOutError::Store(error) => error,
            LayOutError::Index(error) => self.shared.fail(&error.to_string()),
            LayOutError::Log(error) => self.refuse(&error),
        })?;
        if let Some(group) = group {
            let begun = Instant::now();
            let written = self
                .appender
                .try_write(group, durability == Durability::Disk);
            written.map_err(|error| self.refuse_write(&error, durability))?;
            self.report(&plan, begun.elapsed());
            self.carry_out(plan.steps)
                .map_err(|error| self.shared.fail(&error.to_string()))?;
        }
        Ok(Committed {
            durability,
            vain: plan.vain,
        })
    }

    /// Prepares the log for the next group, once nobody waits for this one. Where a group is not synced
    /// there is nothing to gain.
    fn write_ahead(&mut self) {
        if self.shared.has_failed() || self.shared.options.durability != Durability::Disk {
            return;
        }
        // Where there is too little room, nobody relies on them: the next group finds out.
        if let Err(error) = self.appender.write_ahead()
            && disk::lack(&error).is_none()
        {
            self.shared.fail(&format!("cannot write the log: {error}"));
        }
    }

    /// Makes the group that was just written visible.
    #[expect(
        clippy::expect_used,
        reason = "each message that is removed was counted; a wrong number in a checkpoint would have the next start draw the index again"
    )]
    fn carry_out(&mut self, steps: Vec<Step>) -> Result<(), IndexError> {
        let shared = &*self.shared;
        let index = &shared.index;
        let group = shared.groups.load(Ordering::Relaxed);
        let puts = steps.iter().filter_map(|step| match step {
            Step::Put { digest, .. } => Some(digest),
            Step::Delete { .. } => None,
        });
        self.recent.add(group, puts);
        let (mut added, mut removed) = (0, 0);
        let mut erasures = Vec::new();
        for step in steps {
            let _call = shared.watchdog.watch();
            match step {
                Step::Put {
                    digest,
                    damaged,
                    place,
                } => {
                    let healed = match damaged {
                        Some(damaged) => index.put(&digest, Some(damaged), place)?,
                        None => false,
                    };
                    // One that was damaged may have been deleted since.
                    if !healed {
                        index::require(index.put(&digest, None, place)?)?;
                        added += 1;
                    }
                    erasures.extend(damaged.filter(|_| healed).map(|damaged| Erasure {
                        digest,
                        place: damaged,
                        reason: place.at,
                    }));
                }
                Step::Delete { digest, at, erased } => {
                    shared.hot.forget(&digest, || {
                        let mut has_any = false;
                        for &place in &erased {
                            has_any |= index.remove(&digest, place)?;
                        }
                        index::require(has_any)
                    })?;
                    removed += 1;
                    erasures.extend(erased.into_iter().map(|place| Erasure {
                        digest,
                        place,
                        reason: at,
                    }));
                }
            }
        }
        self.shared.erasures.add(erasures);
        let mut indexed = self
            .shared
            .indexed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let messages = (indexed.messages + added)
            .checked_sub(removed)
            .expect("fewer messages than were removed");
        *indexed = Checkpoint {
            position: self.appender.end(),
            messages,
        };
        drop(indexed);
        // After the index: who sees this count finds the messages there.
        self.shared.groups.store(group + 1, Ordering::Release);
        Ok(())
    }

    /// Tells the observer of a group that took `sync` to write and to sync.
    fn report(&self, plan: &Plan, sync: Duration) {
        let options = &self.shared.options;
        let Some(observer) = &options.observer else {
            return;
        };
        observer.committed(Commit {
            entries: plan.steps.len(),
            bytes: plan.bytes,
            sync: match options.durability {
                Durability::Disk => sync,
                Durability::Os => Duration::ZERO,
            },
        });
    }

    /// What it means that a segment could not be made. Nothing was written yet, so a lack of
    /// something is no failure of the store.
    fn refuse(&self, error: &io::Error) -> StoreError {
        match disk::lack(error) {
            Some(Lack::Descriptors) => StoreError::Busy,
            Some(lack) => {
                self.shared.note_lack(lack);
                StoreError::Full
            }
            None => self
                .shared
                .fail(&format!("cannot make a log segment: {error}")),
        }
    }

    /// What it means that a group could not be written. A lack of room that the first call reports leaves the log
    /// as it was, where what was written before is synced: then the error can be of no earlier write either (over
    /// NFS, a write reports what became of those before it).
    fn refuse_write(&self, error: &WriteError, durability: Durability) -> StoreError {
        match error {
            WriteError::Nothing(error)
                if durability == Durability::Disk
                    && matches!(disk::lack(error), Some(Lack::Room | Lack::Quota)) =>
            {
                self.refuse(error)
            }
            WriteError::Nothing(error) | WriteError::Unknown(error) => {
                self.shared.fail(&format!("cannot write the log: {error}"))
            }
        }
    }

    /// Wakes the keeper early when a segment was begun or much was written.
    fn poke_keeper(&mut self) {
        let end = self.appender.end();
        let written = end.to_u64().saturating_sub(self.poked_at.to_u64());
        if end.segment != self.poked_at.segment
            || written >= CHECKPOINT_BYTES
            || self.entries >= CHECKPOINT_MESSAGES
        {
            self.poked_at = end;
            self.entries = 0;
            // It has one waiting already, or is gone.
            let _ = self.poke.try_send(());
        }
    }
}

/// Answers a group. Waking its tasks one by one from here would cost a system call each, more than
/// all the rest; a worker of their own runtime wakes them for the price of one.
fn answer(entries: Vec<Entry>, result: Result<Committed, StoreError>) {
    let runtime = entries.first().and_then(|entry| entry.runtime.clone());
    let answer_all = move || {
        for (number, Entry { job, .. }) in entries.into_iter().enumerate() {
            // A client that went away does not want the answer.
            match (job, &result) {
                (Job::Put { message, reply, .. }, Ok(committed)) => {
                    let _ = reply.send(committed.receipt(number, &message));
                }
                (Job::Delete { reply, .. }, Ok(committed)) => {
                    let _ = reply.send(Ok(committed.deleted(number)));
                }
                (Job::Put { reply, .. }, Err(error)) => drop(reply.send(Err(*error))),
                (Job::Delete { reply, .. }, Err(error)) => drop(reply.send(Err(*error))),
            }
        }
    };
    match runtime {
        Some(runtime) => drop(runtime.spawn(async move { answer_all() })),
        None => answer_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_in_since_a_look_may_be_held_and_what_came_before_is_not_asked_for() {
        let mut recent = Recent::default();
        let digest = |number: u64| Digest::of(&number.to_le_bytes());
        assert!(!recent.may_hold(&digest(0), 0));
        let groups = 3 * RECENT_MESSAGES as u64;
        for group in 0..groups {
            recent.add(group, [digest(group)].iter());
            assert!(recent.may_hold(&digest(group), group));
            assert!(!recent.may_hold(&digest(group), group + 1), "it was seen");
            assert!(!recent.may_hold(&digest(groups + group), group));
        }
        // What is forgotten may be anything.
        assert!(recent.may_hold(&digest(groups), 0));
        assert!(recent.young.len() + recent.old.len() <= 2 * RECENT_MESSAGES);
    }
}
