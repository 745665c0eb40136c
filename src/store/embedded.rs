//! The embedded store: one data directory, one committer, and what is done beside it.
//!
//! The *committer* thread takes groups from the queue, appends and syncs them, enters them into the
//! index and answers, in this order. The *keeper* thread does what must be done now and then beside
//! it: checkpoints, the next segment, the room on the disk. The *eraser* erases what was deleted. With
//! [`Durability::Os`] the *syncer* syncs what was answered. None of them waits for another. Look-ups and
//! puts of known messages run on the caller's thread.
//!
//! **Invariants:** the index never holds a place whose record is not as durable as the store
//! promises. `failed` is set once and never taken back. A [`Receipt`] is made in two places only:
//! after a commit, and for a known message that was compared with what the log holds. A look-up that
//! finds no good record where the index has it asks the index again: a body is erased only after the
//! index has forgotten it. A checkpoint never passes a deletion whose bodies are due to be erased.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{SetOnce, oneshot};
use tracing::{error, info, warn};

use super::committer::{Committer, Entry, Job};
use super::directory::{self, DataDirectory, OpenError};
use super::disk::{self, Lack, Lock};
use super::erasures::{Eraser, Erasures};
use super::findings::Findings;
use super::hot::Hot;
use super::index::{Checkpoint, Found, Index, IndexError};
use super::keeper::{Keeper, keep_synced};
use super::log::{Log, Place, Position};
use super::opening::{self, Opened};
use super::queue::{Queue, Refused};
use super::reserve::{self, RESERVE_BYTES};
use super::watchdog::{Patrol, Watchdog};
use super::{
    Delete, Durability, Health, Observer, PAGE_BYTES_MAX, Page, Pending, Put, Receipt, Stats,
    Store, StoreError,
};
use crate::digest::Digest;
use crate::message::Message;

/// What must be free on a disk that takes no more messages, in bytes, so that they can still be deleted:
/// the index takes some room before the erased bodies give theirs back. Less than the reserve, which a
/// start on a full disk gives up.
const DELETION_FREE_BYTES_MIN: u64 = 4 << 20;

/// What a deletion counts in the queue, in bytes: its record.
const DELETION_BYTES: usize = 64;

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// What an acknowledged put survives.
    pub durability: Durability,
    /// Memory for the pages of the index, in bytes.
    pub index_cache_bytes: u64,
    /// Memory for the texts of messages that are read often, in bytes.
    pub message_cache_bytes: u64,
    /// Largest message that will be put, in bytes of text.
    pub message_bytes_max: u64,
    /// Writes are refused while less than this is free on the disk, in bytes. `None`: 256 MiB or
    /// 2 % of the disk, whichever is more.
    pub free_bytes_min: Option<u64>,
    /// Told of every group that was committed.
    pub observer: Option<Arc<dyn Observer>>,
}

/// The embedded store.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// In the order in which they end.
    threads: Mutex<Vec<Worker>>,
    _patrol: Patrol,
    _lock: Lock,
}

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
    /// `indexed` is behind it.
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

impl EmbeddedStore {
    /// Opens the store in `directory`: replays the log behind the checkpoint, and redraws the index
    /// from the whole log if it is missing, damaged or behind. `progress` is told in words what is
    /// being done. Time is linear in the number of messages, and many times as long for a redraw.
    ///
    /// # Errors
    /// See [`OpenError`]. Damage in the log is no error: it is logged and the rest is served.
    pub fn open(
        directory: DataDirectory,
        options: Options,
        progress: &(dyn Fn(String) + Sync),
    ) -> Result<Self, OpenError> {
        let message_bytes_max = options.message_bytes_max;
        if message_bytes_max > directory.message_bytes_max() {
            return Err(OpenError::SegmentTooSmall {
                segment_bytes: directory.segment_bytes,
                message_bytes_max,
            });
        }
        // A copy is synced from end to end.
        let is_copy = directory::is_marked(&directory.path);
        if directory.is_for_writing {
            directory.unmark()?;
        }
        directory.remove_leftovers()?;
        let DataDirectory {
            path,
            segment_bytes,
            lock,
            ..
        } = directory;
        let full = reserve::release_if_full(&path).map_err(OpenError::io("give up the reserve"))?;
        if full {
            warn!("the disk is full: the reserve was given up to open the store");
        }
        let log =
            Log::open(&path.join("log"), segment_bytes).map_err(OpenError::io("open the log"))?;
        let log = Arc::new(log);
        let cache_bytes = options.index_cache_bytes;
        let durability = directory::read_durability(&path);
        let last = if is_copy {
            Durability::Disk
        } else {
            durability.unwrap_or(options.durability)
        };
        let opened = opening::open_index(&path, cache_bytes, &log, last, progress)?;
        // What was written before is synced by now.
        if durability != Some(options.durability) {
            directory::write_durability(&path, options.durability)
                .map_err(OpenError::io("write the file DURABILITY"))?;
        }
        let Opened {
            index,
            messages,
            end,
            erasures,
            findings,
        } = opened;

        let shared = Arc::new(Shared {
            hot: Hot::new(options.message_cache_bytes),
            queue: Queue::new(),
            indexed: Mutex::new(Checkpoint {
                position: end,
                messages,
            }),
            // Recovery has synced it.
            synced: AtomicU64::new(end.to_u64()),
            erasures: Erasures::new(erasures),
            groups: AtomicU64::new(0),
            full: AtomicBool::new(full),
            failed: SetOnce::new(),
            watchdog: Arc::clone(log.watchdog()),
            free_bytes: AtomicU64::new(0),
            other_bytes: AtomicU64::new(0),
            integrity_failures: AtomicU64::new(0),
            findings,
            path,
            options,
            log,
            index,
        });
        let mut eraser = Eraser::new(Arc::clone(&shared));
        if shared.log.has_identity() {
            eraser.begin();
        } else {
            shared.take_over(&mut eraser, progress)?;
        }
        // Before anything is appended: what this start found is not found again. If there is more to erase,
        // the keeper writes the checkpoint after that.
        if shared.erasures.are_done_before(end) {
            let checkpoint = shared.indexed();
            shared
                .write_checkpoint(checkpoint)
                .map_err(|error| match error {
                    CheckpointError::Index(error) => OpenError::Index(error.to_string()),
                    CheckpointError::File(reason) => OpenError::io("write the checkpoint")(reason),
                })?;
        }
        shared.watch_space();
        shared.prepare_segment();
        let patrol = Patrol::start(Arc::clone(&shared.watchdog));
        let patrol = patrol.map_err(OpenError::io("start a thread"))?;
        let threads =
            start_threads(&shared, end, eraser).map_err(OpenError::io("start a thread"))?;
        Ok(Self {
            shared,
            threads: Mutex::new(threads),
            _patrol: patrol,
            _lock: lock,
        })
    }

    /// Waits until the store has failed and takes no more writes, and returns why.
    pub async fn failed(&self) -> &str {
        self.shared.failed.wait().await
    }

    /// What the store is made of.
    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Number of messages stored.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.shared.indexed().messages
    }
}

impl Store for EmbeddedStore {
    fn put(&self, message: Message) -> Put {
        self.shared.put(message)
    }

    fn delete(&self, digest: &Digest) -> Delete {
        self.shared.delete(digest)
    }

    fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
        self.shared.get(digest)
    }

    fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.shared.holds(digest)
    }

    fn durability(&self) -> Durability {
        self.shared.options.durability
    }

    fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, StoreError> {
        self.shared.page(after, messages_max)
    }

    fn health(&self) -> Health {
        self.shared.health()
    }

    fn findings(&self) -> Vec<String> {
        self.shared.findings()
    }

    fn stats(&self) -> Stats {
        self.shared.stats()
    }

    fn close(&self) -> Result<(), StoreError> {
        self.shared.queue.close();
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for Worker { stop, thread } in threads {
            drop(stop);
            // A thread that panicked has marked the store as failed.
            let _ = thread.join();
        }
        self.shared
            .failed
            .get()
            .map_or(Ok(()), |_| Err(StoreError::Failed))
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

impl Shared {
    /// Makes a log of version 0.1.0 one of this: what it has twice is erased, and then it gets an identity, so
    /// that this is done once.
    fn take_over(
        &self,
        eraser: &mut Eraser,
        progress: &(dyn Fn(String) + Sync),
    ) -> Result<(), OpenError> {
        progress("looking for texts that an earlier version stored twice".into());
        let end = self.indexed().position;
        let doubles = opening::find_doubles(&self.index, &self.log, end)?;
        let count = doubles.len();
        self.erasures.add(doubles);
        eraser.erase_all();
        self.log
            .identify()
            .map_err(OpenError::io("give the log an identity"))?;
        info!(
            erased = count,
            "the log has an identity now: earlier backups cannot be brought up to date, make new ones"
        );
        Ok(())
    }

    fn put(&self, message: Message) -> Put {
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
    fn delete(&self, digest: &Digest) -> Delete {
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

    fn holds(&self, digest: &Digest) -> Result<bool, StoreError> {
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

    fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError> {
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
    fn read(&self, digest: &Digest, mut place: Place) -> Result<Option<Message>, StoreError> {
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
            error!(?digest, ?place, %source, "a stored message cannot be read");
        } else {
            error!(
                ?digest,
                ?place,
                "a stored message does not have its digest any more"
            );
        }
        StoreError::Damaged
    }

    fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, StoreError> {
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

    fn place(&self, digest: &Digest) -> Result<Option<Place>, StoreError> {
        self.index
            .get(digest)
            .map_err(|error| self.fail(&error.to_string()))
    }

    fn health(&self) -> Health {
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

    fn stats(&self) -> Stats {
        let segments = u64::from(self.log.last_segment());
        let log_bytes = segments * u64::from(self.log.segment_bytes());
        Stats {
            messages: self.indexed().messages,
            disk_bytes: log_bytes + self.other_bytes.load(Ordering::Relaxed),
            free_bytes: self.free_bytes.load(Ordering::Relaxed),
            integrity_failures: self.findings.count() + self.integrity_failures(),
        }
    }

    fn findings(&self) -> Vec<String> {
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

    /// Makes everything durable that is in the index. With [`Durability::Disk`] it is; otherwise all but the last segment is, since the committer syncs a segment that it leaves.
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
        let full = space.free < if was_full { ceiling } else { floor };
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

    /// Makes the next segment ahead of time, so that no group waits for it.
    pub(super) fn prepare_segment(&self) {
        let next = self.indexed().position.segment + 1;
        if self.full.load(Ordering::Relaxed) {
            return;
        }
        match self.log.prepare(next) {
            Ok(()) => {}
            Err(source) => match disk::lack(&source) {
                Some(Lack::Room) => self.set_full(true, self.free_bytes.load(Ordering::Relaxed)),
                // The committer tries again when it needs the segment, and answers for it.
                Some(Lack::Descriptors) => {
                    warn!(%source, segment = next, "cannot make the next log segment ahead of time");
                }
                // Whatever was not synced now may never be, whoever tries again.
                None => {
                    self.fail(&format!("cannot make a log segment: {source}"));
                }
            },
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

/// A thread, and what ends it by being dropped, if that is not the end of the queue.
#[derive(Debug)]
struct Worker {
    stop: Option<mpsc::SyncSender<()>>,
    thread: JoinHandle<()>,
}

/// Starts the store's threads, in the order in which they end: what one leaves the next can take up.
fn start_threads(shared: &Arc<Shared>, end: Position, eraser: Eraser) -> io::Result<Vec<Worker>> {
    let worker = |name, stop, run: Box<dyn FnOnce() + Send>| {
        let thread = spawn(name, Arc::clone(shared), run)?;
        Ok::<_, io::Error>(Worker { stop, thread })
    };
    let (poke, poked) = mpsc::sync_channel(1);
    let committer = Committer::new(Arc::clone(shared), end, poke.clone());
    let mut workers = vec![worker("committer", None, Box::new(|| committer.run()))?];
    if shared.options.durability == Durability::Os {
        let (stop, stopped) = mpsc::sync_channel(1);
        let shared = Arc::clone(shared);
        let run = move || keep_synced(&shared, &stopped);
        workers.push(worker("syncer", Some(stop), Box::new(run))?);
    }
    let (stop, stopped) = mpsc::sync_channel(1);
    let run = move || eraser.run(&stopped);
    workers.push(worker("eraser", Some(stop), Box::new(run))?);
    let keeper = Keeper::new(Arc::clone(shared));
    let run = move || keeper.run(&poked);
    workers.push(worker("keeper", Some(poke), Box::new(run))?);
    Ok(workers)
}

fn spawn(
    name: &'static str,
    shared: Arc<Shared>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.into()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            shared.fail(&format!("the {name} panicked"));
            // Those who wait are told by their replies being dropped.
            shared.queue.close();
            while shared.queue.take_group().is_some() {}
        }
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::super::Commit;
    use super::*;

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
    }

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

    /// Panics when it is told of a group whose texts have so many bytes: in the committer, between the sync
    /// and the index.
    #[derive(Debug)]
    struct PanicAt(u64);

    impl Observer for PanicAt {
        fn committed(&self, commit: Commit) {
            assert_ne!(commit.bytes, self.0);
        }
    }

    fn options() -> Options {
        Options {
            durability: Durability::Disk,
            index_cache_bytes: 1 << 20,
            message_cache_bytes: 1 << 20,
            message_bytes_max: 1024,
            free_bytes_min: Some(0),
            observer: None,
        }
    }

    fn open(directory: &Path, options: Options) -> EmbeddedStore {
        let claimed = DataDirectory::claim(directory, 64 << 10).unwrap();
        EmbeddedStore::open(claimed, options, &|_| ()).unwrap()
    }

    #[test]
    fn a_panic_of_the_committer_stops_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let options = Options {
            observer: Some(Arc::new(PanicAt(3))),
            ..options()
        };
        let store = open(directory.path(), options);
        wait(store.put(Message::new("good"))).unwrap();
        let refused = wait(store.put(Message::new("bad")));
        assert_eq!(refused.unwrap_err(), StoreError::Failed);
        let reason = "the committer panicked";
        assert_eq!(wait(store.failed()), reason);
        assert_eq!(store.health().writes, Err(reason.to_owned()));
        let refused = wait(store.put(Message::new("late")));
        assert_eq!(refused.unwrap_err(), StoreError::Failed);
        let refused = wait(store.delete(&Digest::of(b"good")));
        assert_eq!(refused.unwrap_err(), StoreError::Failed);
        // Reads go on.
        assert!(store.get(&Digest::of(b"good")).unwrap().is_some());
        assert!(store.get(&Digest::of(b"bad")).unwrap().is_none());
        assert_eq!(store.close(), Err(StoreError::Failed));
        drop(store);
        // What it had written is there, what it had not is not.
        let store = open(directory.path(), self::options());
        assert_eq!(store.messages(), 2);
        assert!(store.holds(&Digest::of(b"bad")).unwrap());
        assert_eq!(store.findings(), [""; 0]);
    }

    /// A message whose digest has the first 22 bytes of that of "foo", or but 21 of them, and ends with zeros.
    fn forged(text: &str, alike: usize) -> Message {
        let mut bytes = [0; 32];
        bytes[..alike].copy_from_slice(&Digest::of(b"foo").as_bytes()[..alike]);
        Message::forged(text, Digest::from_bytes(bytes))
    }

    #[test]
    fn a_message_whose_prefix_another_has_is_refused_by_its_caller() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), options());
        let (foo, other, near) = (Message::new("foo"), forged("other", 22), forged("near", 21));
        wait(store.put(foo.clone())).unwrap();
        let end = store.shared.indexed();
        let refused = wait(store.put(other.clone()));
        assert_eq!(refused.unwrap_err(), StoreError::PrefixTaken);
        // It is another one's, and is not found.
        assert_eq!(store.get(&other.digest()), Ok(None));
        assert_eq!(store.holds(&other.digest()), Ok(false));
        assert!(wait(store.delete(&other.digest())).unwrap().is_none());
        assert_eq!(store.shared.indexed(), end, "something was written");
        assert!(wait(store.put(foo.clone())).unwrap().is_known());
        assert!(!wait(store.put(near.clone())).unwrap().is_known());
        assert!(store.holds(&near.digest()).unwrap());
        // Once that is deleted, it is taken.
        wait(store.delete(&foo.digest())).unwrap().unwrap();
        assert!(!wait(store.put(other.clone())).unwrap().is_known());
        assert!(wait(store.put(other)).unwrap().is_known());
        let refused = wait(store.put(foo));
        assert_eq!(refused.unwrap_err(), StoreError::PrefixTaken);
    }

    /// Says that the committer is between the sync and the index of a group, and holds it there.
    #[derive(Debug)]
    struct Gate {
        reached: mpsc::SyncSender<()>,
        opened: Mutex<mpsc::Receiver<()>>,
    }

    impl Observer for Gate {
        fn committed(&self, _: Commit) {
            // A test that is over opens it for good.
            let _ = self.reached.send(());
            let _ = self.opened.lock().unwrap().recv();
        }
    }

    #[test]
    fn a_message_whose_prefix_another_has_by_now_is_refused_by_the_committer() {
        let directory = tempfile::tempdir().unwrap();
        let (reached, arrivals) = mpsc::sync_channel(8);
        let (open_gate, opened) = mpsc::channel();
        let gate = Gate {
            reached,
            opened: Mutex::new(opened),
        };
        let options = Options {
            observer: Some(Arc::new(gate)),
            ..options()
        };
        let store = open(directory.path(), options);
        let pass = || {
            arrivals.recv().unwrap();
            open_gate.send(()).unwrap();
        };
        let taken = Err(StoreError::PrefixTaken);
        let is_known = |put: Put| wait(put).map(|receipt| receipt.is_known());

        // In a later group than the one that it was looked up before.
        let (foo, other, near) = (Message::new("foo"), forged("other", 22), forged("near", 21));
        let first = store.put(foo);
        arrivals.recv().unwrap();
        let puts = [store.put(other), store.put(near)];
        open_gate.send(()).unwrap();
        pass();
        assert_eq!(is_known(first), Ok(false));
        assert_eq!(puts.map(is_known), [taken, Ok(false)]);

        // In the same group.
        let [one, other] = [1, 2].map(|last| {
            let mut bytes = [7; 32];
            bytes[31] = last;
            Message::forged("text", Digest::from_bytes(bytes))
        });
        let first = store.put(Message::new("bar"));
        arrivals.recv().unwrap();
        let puts = [&one, &other, &one].map(|message| store.put(message.clone()));
        let deletions = [&other, &one].map(|message| store.delete(&message.digest()));
        let last = [&other, &one].map(|message| store.put(message.clone()));
        open_gate.send(()).unwrap();
        pass();
        assert_eq!(is_known(first), Ok(false));
        assert_eq!(puts.map(is_known), [Ok(false), taken, Ok(false)]);
        let were_there = deletions.map(|deletion| wait(deletion).unwrap().is_some());
        assert_eq!(were_there, [false, true]);
        assert_eq!(last.map(is_known), [Ok(false), taken]);
        assert_eq!(store.holds(&one.digest()), Ok(false));
        assert_eq!(store.holds(&other.digest()), Ok(true));
        assert_eq!(store.messages(), 4);
        drop(open_gate);
    }

    /// A look-up that was overtaken between the index and the log.
    #[test]
    fn a_body_that_was_erased_before_it_is_read_is_looked_up_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), options());
        let shared = &store.shared;
        let digest = Digest::of(b"foo");
        wait(store.put(Message::new("foo"))).unwrap();
        let place = shared.place(&digest).unwrap().unwrap();
        wait(store.delete(&digest)).unwrap().unwrap();
        let started = Instant::now();
        while *shared.log.read(place).unwrap() != [0; 3] {
            assert!(started.elapsed().as_secs() < 60, "it is not erased");
            thread::yield_now();
        }
        assert_eq!(shared.read(&digest, place), Ok(None));
        wait(store.put(Message::new("foo"))).unwrap();
        let found = shared.read(&digest, place).unwrap();
        assert_eq!(found.unwrap().text(), "foo");
        assert_eq!(store.stats().integrity_failures, 0);
    }
}
