//! The committer: the one thread that writes messages.
//!
//! It takes groups from the queue, appends and syncs them, enters them into the index and answers, in
//! this order, which is the durability argument of `store/mod.rs` in code.

use std::collections::HashSet;
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::disk::{self, Lack};
use super::embedded::{Options, Shared};
use super::log::{Appender, Place, Position};
use super::{Commit, Durability, Receipt, StoreError};
use crate::message::Message;

/// Log bytes between checkpoints, for the same reason when messages are large.
const CHECKPOINT_BYTES: u64 = 16 << 20;

/// A put that waits for the committer.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    /// A place that the index has for it, but which does not hold it any more.
    pub(super) damaged: Option<Place>,
    pub(super) reply: oneshot::Sender<Result<Receipt, StoreError>>,
    /// Where the caller runs, if that is an async runtime.
    pub(super) runtime: Option<Handle>,
}

/// A group that is as durable as it says.
#[derive(Clone, Copy)]
struct Committed {
    durability: Durability,
    synced_in: Duration,
}

impl Committed {
    fn receipt(self, message: &Message) -> Receipt {
        Receipt::new(message.digest(), self.durability, self.synced_in)
    }
}

/// The one thread that writes messages.
pub(super) struct Committer {
    shared: Arc<Shared>,
    appender: Appender,
    /// Wakes the keeper.
    poke: SyncSender<()>,
    poked_at: Position,
}

impl Committer {
    /// Appends from `end` on; `poke` wakes the keeper, and ends it by being dropped.
    pub(super) fn new(shared: Arc<Shared>, end: Position, poke: SyncSender<()>) -> Self {
        let appender = Appender::new(Arc::clone(&shared.log), end);
        Self {
            shared,
            appender,
            poke,
            poked_at: end,
        }
    }

    /// Ends when the queue is closed and empty.
    pub(super) fn run(mut self) {
        let watchdog = Arc::clone(&self.shared.watchdog);
        while let Some(entries) = self.shared.queue.take_group() {
            let call = watchdog.watch();
            let result = self.commit(&entries);
            drop(call);
            answer(entries, result);
            self.poke_keeper();
        }
    }

    /// Writes a group, and returns once it is durable and visible.
    fn commit(&mut self, entries: &[Entry]) -> Result<Committed, StoreError> {
        if self.shared.has_failed() {
            return Err(StoreError::Failed);
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let entries: Vec<_> = entries
            .iter()
            .filter(|entry| seen.insert(entry.message.digest()))
            .collect();
        let group = self
            .appender
            .prepare(entries.iter().map(|entry| &entry.message))
            .map_err(|error| self.refuse(&error))?;
        let durability = self.shared.options.durability;
        let begun = Instant::now();
        self.appender
            .write(&group, durability == Durability::Disk)
            .map_err(|error| self.shared.fail(&format!("cannot write the log: {error}")))?;
        let synced_in = begun.elapsed();
        self.report(&entries, synced_in);
        let mut added = 0;
        for (entry, place) in entries.iter().zip(group.places()) {
            let new = self
                .shared
                .index
                .put(&entry.message.digest(), entry.damaged, *place)
                .map_err(|error| self.shared.fail(&error.to_string()))?;
            // One that an earlier group brought in is known by now: its second record is harmless.
            added += u64::from(new && entry.damaged.is_none());
        }
        let mut indexed = self
            .shared
            .indexed
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        indexed.position = group.end();
        indexed.messages += added;
        Ok(Committed {
            durability,
            synced_in,
        })
    }

    /// Tells the observer of a group that took `sync` to write and to sync.
    fn report(&self, entries: &[&Entry], sync: Duration) {
        let Options {
            observer,
            durability,
            ..
        } = &self.shared.options;
        let Some(observer) = observer else { return };
        let sizes = entries
            .iter()
            .map(|entry| entry.message.as_bytes().len() as u64);
        observer.committed(Commit {
            entries: entries.len(),
            bytes: sizes.sum(),
            sync: match durability {
                Durability::Disk => sync,
                Durability::Os => Duration::ZERO,
            },
        });
    }

    /// What it means that a segment could not be made. Nothing was written yet, so a lack of
    /// something is no failure of the store.
    fn refuse(&self, error: &io::Error) -> StoreError {
        match disk::lack(error) {
            Some(Lack::Room) => {
                self.shared.set_full(true, 0);
                StoreError::Full
            }
            Some(Lack::Descriptors) => StoreError::Busy,
            None => self
                .shared
                .fail(&format!("cannot make a log segment: {error}")),
        }
    }

    /// Wakes the keeper early when a segment was begun or much was written.
    fn poke_keeper(&mut self) {
        let end = self.appender.end();
        let written = end.to_u64().saturating_sub(self.poked_at.to_u64());
        if end.segment != self.poked_at.segment || written >= CHECKPOINT_BYTES {
            self.poked_at = end;
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
        for Entry { message, reply, .. } in entries {
            // A client that went away does not want the answer.
            let _ = reply.send(result.map(|committed| committed.receipt(&message)));
        }
    };
    match runtime {
        Some(runtime) => drop(runtime.spawn(async move { answer_all() })),
        None => answer_all(),
    }
}
