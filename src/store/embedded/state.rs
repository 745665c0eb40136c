//! What the threads of the embedded store and its callers share: look-ups, puts and deletions up to the queue,
//! and what the keeper does with it: checkpoints, syncs, free space, the reserve, the next segment.
//!
//! **Invariant:** `failed` is set once and never taken back.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{SetOnce, oneshot};
use tracing::{error, info, warn};

use super::directory;
use super::disk::{self, Lack};
use super::erasures::Erasures;
use super::findings::Findings;
use super::hot::Hot;
use super::index::{Checkpoint, Found, Index, IndexError};
use super::options::Options;
use super::queue::{Entry, Job, Queue, Refused};
use super::record::{Place, Position};
use super::replay::Opened;
use super::reserve::{self, RESERVE_BYTES};
use super::segments::Log;
use super::watchdog::Watchdog;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{
    Delete, Durability, Health, PAGE_BYTES_MAX, Page, Pending, Put, Receipt, Stats, StoreError,
};

/// What must be free on a disk that takes no more messages, in bytes, so that they can still be deleted:
/// the index takes some room before the erased bodies give theirs back. Less than the reserve, which a
/// start on a full disk gives up.
const DELETION_FREE_BYTES_MIN: u64 = 4 << 20;

/// What a deletion counts in the queue, in bytes: its record.
const DELETION_BYTES: usize = 64;

/// What the committer, the keeper and the callers see.
#[derive(Debug)]
pub(super) struct Shared {
    path: PathBuf,
    pub(super) options: Options,
    pub(super) log: Arc<Log>,
    pub(super) index: Index,
    pub(super) hot: Hot,
    pub(super) queue: Queue<Entry>,
    /// What the log and the index both have.
    pub(super) indexed: Mutex<Checkpoint>,
    /// Up to where the log is durable, as [`Position::to_u64`]; with [`Durability::Disk`] all that is in
    /// `indexed` is.
    synced: AtomicU64,
    /// Bodies of deleted messages that are still in the log. Those of a deletion are here before
    /// `indexed` passes it.
    pub(super) erasures: Erasures,
    /// Groups that the committer has entered into the index.
    pub(super) groups: AtomicU64,
    full: AtomicBool,
    failed: SetOnce<String>,
    pub(super) watchdog: Arc<Watchdog>,
    /// What the keeper saw last, in bytes.
    free_bytes: AtomicU64,
    /// All but the log, in bytes.
    other_bytes: AtomicU64,
    /// Since the start.
    integrity_failures: AtomicU64,
    findings: Findings,
}

impl Shared {
    /// What was opened, before anything is written to it; `full` if the reserve was given up for that.
    pub(super) fn new(
        path: PathBuf,
        options: Options,
        log: Arc<Log>,
        opened: Opened,
        full: bool,
    ) -> Self {
        Self {
            hot: Hot::new(options.message_cache_bytes),
            queue: Queue::new(),
            indexed: Mutex::new(Checkpoint {
                position: opened.end,
                messages: opened.messages,
            }),
            // Recovery has synced it.
            synced: AtomicU64::new(opened.end.to_u64()),
            erasures: Erasures::new(opened.erasures),
            groups: AtomicU64::new(0),
            full: AtomicBool::new(full),
            failed: SetOnce::new(),
            watchdog: Arc::clone(log.watchdog()),
            free_bytes: AtomicU64::new(0),
            other_bytes: AtomicU64::new(0),
            integrity_failures: AtomicU64::new(0),
            findings: opened.findings,
            path,
            options,
            log,
            index: opened.index,
        }
    }

    pub(super) fn put(&self, message: Message) -> Put {
        if message.as_bytes().len() as u64 > self.options.message_bytes_max {
            return Put::done(Err(StoreError::TooLarge));
        }
        // Before the look: what is entered after it, the committer looks up again.
        let seen = self.groups.load(Ordering::Acquire);
        match self.known(&message) {
            Ok(Known::Stored) => Put::done(Ok(Receipt::known(
                message.digest(),
                self.options.durability,
            ))),
            Ok(Known::Damaged(place)) => self.enqueue_put(message, Some(place), seen),
            Ok(Known::No) => self.enqueue_put(message, None, seen),
            Ok(Known::PrefixTaken) => Put::done(Err(StoreError::PrefixTaken)),
            Err(error) => Put::done(Err(error)),
        }
    }

    /// Whether there is such a message is asked by the committer: puts that wait come first.
    pub(super) fn delete(&self, digest: &Digest) -> Delete {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if self.full.load(Ordering::Relaxed) && free_bytes < DELETION_FREE_BYTES_MIN {
            return Delete::done(Err(StoreError::Full));
        }
        if !self.erasures.have_room() {
            return Delete::done(Err(StoreError::Busy));
        }
        let (reply, answer) = oneshot::channel();
        let digest = *digest;
        self.enqueue(Job::Delete { digest, reply }, DELETION_BYTES, answer)
    }

    pub(super) fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
        if self.hot.get(digest).is_some() {
            return Ok(true);
        }
        let _call = self.watchdog.watch();
        Ok(self.place(digest)?.is_some())
    }

    /// Whether the message is in the log, as it is now: what the index says is compared with what
    /// the log holds, so that no 201 covers a damaged record.
    pub(super) fn known(&self, message: &Message) -> Result<Known, StoreError> {
        let _call = self.watchdog.watch();
        let digest = message.digest();
        let mut found = self.look_up(&digest)?;
        loop {
            let place = match found {
                Found::Message(place) => place,
                Found::Nothing => return Ok(Known::No),
                Found::Other(_) => return Ok(Known::PrefixTaken),
            };
            if self.log.holds(place, message).unwrap_or(false) {
                return Ok(Known::Stored);
            }
            found = self.look_up(&digest)?;
            if found == Found::Message(place) {
                self.note_integrity_failure();
                return Ok(Known::Damaged(place));
            }
        }
    }

    fn look_up(&self, digest: &Digest) -> Result<Found, StoreError> {
        self.index
            .look_up(digest)
            .map_err(|error| self.fail(&error.to_string()))
    }

    fn enqueue_put(&self, message: Message, damaged: Option<Place>, seen: u64) -> Put {
        // That it failed is worse, and said first.
        if self.full.load(Ordering::Relaxed) && !self.has_failed() {
            return Put::done(Err(StoreError::Full));
        }
        let bytes = message.as_bytes().len();
        let (reply, answer) = oneshot::channel();
        let job = Job::Put {
            message,
            damaged,
            seen,
            reply,
        };
        self.enqueue(job, bytes, answer)
    }

    fn enqueue<T>(
        &self,
        job: Job,
        bytes: usize,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Pending<T> {
        if self.has_failed() {
            return Pending::done(Err(StoreError::Failed));
        }
        let runtime = Handle::try_current().ok();
        match self.queue.push(Entry { job, runtime }, bytes) {
            Ok(()) => Pending::waiting(answer),
            Err(Refused::Full) => Pending::done(Err(StoreError::Busy)),
            Err(Refused::Closed) => Pending::done(Err(StoreError::Closed)),
        }
    }

    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
        if let Some(message) = self.hot.get(digest) {
            return Ok(Some(message));
        }
        let _call = self.watchdog.watch();
        let era = self.hot.era(digest);
        let Some(place) = self.place(digest)? else {
            return Ok(None);
        };
        let message = self.read(digest, place)?;
        if let Some(message) = &message {
            self.hot.keep(message.clone(), era);
        }
        Ok(message)
    }

    /// Reads a message that the index has at `place` from the log, and checks it; `None` if it was
    /// deleted meanwhile.
    pub(super) fn read(
        &self,
        digest: &Digest,
        mut place: Place,
    ) -> Result<Option<Message>, StoreError> {
        loop {
            let failure = match self.log.read(place) {
                Ok(body) => match Message::verified(Bytes::from(body), *digest) {
                    Some(message) => return Ok(Some(message)),
                    None => None,
                },
                Err(error) => Some(error),
            };
            match self.place(digest)? {
                Some(now) if now == place => return Err(self.damaged(digest, place, failure)),
                // Deleted and put again.
                Some(now) => place = now,
                None => return Ok(None),
            }
        }
    }

    /// Says that a stored message cannot be read, or is another one.
    fn damaged(&self, digest: &Digest, place: Place, failure: Option<io::Error>) -> StoreError {
        self.note_integrity_failure();
        if let Some(source) = failure {
            error!(?digest, at = %place.at, %source, "a stored message cannot be read");
        } else {
            error!(
                ?digest,
                at = %place.at,
                "a stored message does not have its digest any more"
            );
        }
        StoreError::Damaged
    }

    pub(super) fn page(
        &self,
        after: Option<&Digest>,
        messages_max: usize,
    ) -> Result<Page, StoreError> {
        let range = |after: Option<&Digest>| {
            let entries = self.index.range(after, messages_max);
            entries.map_err(|error| self.fail(&error.to_string()))
        };
        first_page(after, range, |entries| self.read_page(entries))
    }

    fn read_page(&self, entries: &[(Digest, Place)]) -> Page {
        let mut page = Page::new();
        let mut bytes = 0;
        for (digest, place) in entries {
            let Some(message) = self.read(digest, *place).transpose() else {
                continue;
            };
            bytes += message.as_ref().map_or(0, |text| text.as_bytes().len());
            page.push((*digest, message));
            if bytes > PAGE_BYTES_MAX {
                break;
            }
        }
        page
    }

    pub(super) fn place(&self, digest: &Digest) -> Result<Option<Place>, StoreError> {
        self.index
            .get(digest)
            .map_err(|error| self.fail(&error.to_string()))
    }

    pub(super) fn health(&self) -> Health {
        if self.watchdog.is_late() {
            let late = Err("the disk does not answer".to_owned());
            return Health {
                reads: late.clone(),
                writes: late,
            };
        }
        let failed = self.failed.get();
        let reads = match self.index.unreadable() {
            Some(failure) => Err(failure.to_string()),
            None => Ok(()),
        };
        let writes = match failed {
            Some(reason) => Err(reason.clone()),
            None if self.full.load(Ordering::Relaxed) => Err(StoreError::Full.to_string()),
            None => Ok(()),
        };
        Health { reads, writes }
    }

    pub(super) fn stats(&self) -> Stats {
        let segments = u64::from(self.log.last_segment());
        let log_bytes = segments * u64::from(self.log.segment_bytes());
        Stats {
            messages: self.indexed().messages,
            disk_bytes: log_bytes + self.other_bytes.load(Ordering::Relaxed),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            integrity_failures: self.findings.count() + self.integrity_failures(),
        }
    }

    pub(super) fn findings(&self) -> Vec<String> {
        let since = self.integrity_failures();
        let since =
            (since > 0).then(|| format!("stored messages found damaged since the start: {since}"));
        self.findings.lines().into_iter().chain(since).collect()
    }

    fn integrity_failures(&self) -> u64 {
        self.integrity_failures.load(Ordering::Relaxed)
    }

    pub(super) fn note_integrity_failure(&self) {
        self.integrity_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.get().is_some()
    }

    /// Waits until it has, and returns why.
    pub(super) async fn failed(&self) -> &str {
        self.failed.wait().await
    }

    /// Stops writes for good.
    pub(super) fn fail(&self, reason: &str) -> StoreError {
        if self.failed.set(reason.to_owned()).is_ok() {
            error!(
                reason,
                "the store failed: no more writes until a restart, reads go on as far as possible"
            );
        }
        StoreError::Failed
    }

    pub(super) fn indexed(&self) -> Checkpoint {
        *self.indexed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Up to where the log is durable.
    pub(super) fn durable(&self) -> Position {
        match self.options.durability {
            Durability::Disk => self.indexed().position,
            Durability::Os => Position::from_u64(self.synced.load(Ordering::Acquire)),
        }
    }

    /// Makes everything durable that is in the index. With [`Durability::Disk`] it is; otherwise all but the
    /// last segment is, since the committer syncs a segment that it leaves.
    pub(super) fn sync(&self) -> io::Result<()> {
        let end = self.indexed().position;
        if self.durable() < end {
            self.log.sync(end.segment..end.segment + 1)?;
            self.synced.fetch_max(end.to_u64(), Ordering::AcqRel);
        }
        Ok(())
    }

    /// Makes a state of [`Shared::indexed`] the one that the next start replays from. The log must be
    /// durable up to there, and what was deleted before it erased.
    pub(super) fn write_checkpoint(&self, checkpoint: Checkpoint) -> Result<(), CheckpointError> {
        self.index.checkpoint_watched(checkpoint, &self.watchdog)?;
        let _call = self.watchdog.watch();
        directory::write_checkpoint(&self.path, checkpoint)?;
        Ok(())
    }

    /// Compares the room on the disk with the floor. Before writes go on, a quarter more than the
    /// floor must be free again, so that the store does not flap, and room for the reserve and a
    /// segment.
    pub(super) fn watch_space(&self) {
        let _call = self.watchdog.watch();
        let space = match disk::space(&self.path) {
            Ok(space) => space,
            Err(source) => {
                warn!(%source, "cannot see how much room the disk has");
                return;
            }
        };
        self.free_bytes.store(space.free, Ordering::Relaxed);
        let floor = self.options.free_bytes_min.unwrap_or_else(|| space.floor());
        let ceiling = floor
            .saturating_add(floor / 4)
            .max(RESERVE_BYTES + u64::from(self.log.segment_bytes()));
        let was_full = self.full.load(Ordering::Relaxed);
        let is_low = space.free < if was_full { ceiling } else { floor };
        // Free space may be out of reach, as with a quota: the next segment shows it, or what is written does.
        let has_room = || self.make_segment() && self.can_write();
        let full = is_low || was_full && !self.has_failed() && !has_room();
        self.set_full(full, space.free);
        if !full && space.free >= ceiling {
            self.keep_reserve();
        }
        let index_bytes = self.index.disk_bytes().unwrap_or_default();
        let other_bytes = index_bytes + reserve::bytes(&self.path);
        self.other_bytes.store(other_bytes, Ordering::Relaxed);
    }

    /// Sets room aside for the next start, while there is some.
    fn keep_reserve(&self) {
        match reserve::keep(&self.path) {
            Ok(()) => {}
            Err(error) if disk::lack(&error).is_some() => {}
            Err(source) => warn!(%source, "cannot set the reserve aside"),
        }
    }

    pub(super) fn set_full(&self, full: bool, free_bytes: u64) {
        if self.full.swap(full, Ordering::Relaxed) == full {
            return;
        }
        if full {
            warn!(
                free_bytes,
                "the disk is nearly full: new messages are refused, everything else goes on"
            );
        } else {
            info!(
                free_bytes,
                "the disk has room again: new messages are taken"
            );
        }
    }

    /// New messages are refused because there is too little of something on the disk, which showed before
    /// anything was written.
    pub(super) fn note_lack(&self, lack: Lack) {
        let free_bytes = self.free_bytes.load(Ordering::Relaxed);
        if lack != Lack::Quota {
            self.set_full(true, free_bytes);
        } else if !self.full.swap(true, Ordering::Relaxed) {
            warn!(
                free_bytes,
                "the quota of this user on the disk is used up: new messages are refused, everything else goes on"
            );
        }
    }

    /// Makes the next segment ahead of time, so that no group waits for it.
    pub(super) fn prepare_segment(&self) {
        if !self.full.load(Ordering::Relaxed) {
            self.make_segment();
        }
    }

    /// Whether the disk takes a little that is written.
    fn can_write(&self) -> bool {
        let written = reserve::try_room(&self.path);
        // Whatever else is wrong with the disk, the committer finds it, and answers for it.
        written
            .err()
            .is_none_or(|error| disk::lack(&error).is_none())
    }

    /// Makes the next segment if it is not there; returns whether there is room for it.
    fn make_segment(&self) -> bool {
        let next = self.indexed().position.segment + 1;
        let Err(source) = self.log.prepare(next) else {
            return true;
        };
        match disk::lack(&source) {
            // The committer tries again when it needs the segment, and answers for it.
            Some(Lack::Descriptors) => {
                warn!(%source, segment = next, "cannot make the next log segment ahead of time");
                true
            }
            Some(lack) => {
                self.note_lack(lack);
                false
            }
            // What was not synced now may never be, whichever call tries again.
            None => {
                self.fail(&format!("cannot make a log segment: {source}"));
                true
            }
        }
    }
}

/// The first page after `after` that has something in it: an empty one says that nothing follows, and not that
/// all of its messages were deleted before they were read.
fn first_page(
    after: Option<&Digest>,
    range: impl Fn(Option<&Digest>) -> Result<Vec<(Digest, Place)>, StoreError>,
    read: impl Fn(&[(Digest, Place)]) -> Page,
) -> Result<Page, StoreError> {
    let mut after = after.copied();
    loop {
        let entries = range(after.as_ref())?;
        let page = read(&entries);
        match entries.last() {
            Some((last, _)) if page.is_empty() => after = Some(*last),
            _ => return Ok(page),
        }
    }
}

/// Why a checkpoint was not written.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckpointError {
    /// The index failed, for good.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The file was not written. The last one still holds, and the next one is another file.
    #[error(transparent)]
    File(#[from] io::Error),
}

/// What the store has of a message that is put.
pub(super) enum Known {
    No,
    Stored,
    Damaged(Place),
    /// Nothing, and cannot have it: another message has its prefix.
    PrefixTaken,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_whose_messages_were_all_deleted_is_not_the_end() {
        let [first, second, third] = [1, 2, 3].map(|byte| Digest::from_bytes([byte; 32]));
        let place = Place {
            at: Position::START,
            length: 0,
        };
        let range = |after: Option<&Digest>| {
            let all = [first, second, third].into_iter();
            let next = all.filter(|digest| Some(digest) > after).take(1);
            Ok(next.map(|digest| (digest, place)).collect())
        };
        let read = |entries: &[(Digest, Place)]| {
            let is_there = entries.iter().filter(|(digest, _)| *digest == third);
            is_there
                .map(|(digest, _)| (*digest, Err(StoreError::Damaged)))
                .collect()
        };
        let page = first_page(None, range, read).unwrap();
        assert_eq!(page, [(third, Err(StoreError::Damaged))]);
        assert_eq!(first_page(Some(&third), range, read).unwrap(), []);
    }
}
