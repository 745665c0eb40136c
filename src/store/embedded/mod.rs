//! The embedded store: one data directory, one committer, and what is done beside it.
//!
//! The *committer* thread takes groups from the queue, appends and syncs them, enters them into the
//! index and answers, in this order. The *keeper* thread does what must be done now and then beside
//! it: checkpoints, the next segment, the room on the disk. The *eraser* erases what was deleted. With
//! [`Durability::Os`] the *syncer* syncs what was answered. None of them waits for another. Look-ups and
//! puts of known messages run on the caller's thread.
//!
//! **Invariants:** the index never holds a place whose record is not as durable as the store
//! promises. `failed` is set once and never taken back. A [`Receipt`](crate::store::Receipt) is made in two places only:
//! after a commit, and for a known message that was compared with what the log holds. A look-up that
//! finds no good record where the index has it asks the index again: a body is erased only after the
//! index has forgotten it. A checkpoint never passes a deletion whose bodies are due to be erased.

// The log: its records, the files they are in, and who writes them.
mod appender;
mod identity;
mod record;
mod segments;

// What a log means after a crash, and the index that is drawn from it; public for those who measure it alone.
mod erasures;
pub mod index;
mod lanes;
mod recovery;
mod replay;
mod scan;

// What serves, by threads over what they share.
mod committer;
mod eraser;
mod hot;
mod maintenance;
mod options;
mod queue;
mod reads;
mod state;
mod takeover;
mod watchdog;
mod writes;

// The data directory and its disk.
mod directory;
mod disk;
mod note;
mod own_names;
mod read_only;
mod reserve;
mod unused;

// What was found wrong, and what is done to a whole store.
mod finding;
mod findings;
pub(super) mod tools;

#[cfg(any(test, fuzzing))]
pub mod fuzz;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};

use tracing::warn;

pub use self::appender::Appender;
use self::committer::Committer;
pub use self::directory::{DataDirectory, Medium, OpenError, is_store};
use self::disk::Lock;
use self::eraser::Eraser;
pub use self::finding::Finding;
use self::identity::Presence;
use self::maintenance::{CheckpointError, Keeper, keep_synced};
pub use self::note::{Note, is_held, read_note};
pub use self::options::Options;
pub use self::own_names::{OWN_NAMES, is_own_name};
pub use self::queue::QUEUE_ENTRIES_MAX;
pub use self::read_only::{ReadOnlyDirectory, Readable};
pub use self::record::{Place, Position};
pub use self::segments::{Log, is_segment_size};
use self::state::Shared;
use self::watchdog::Patrol;
use crate::digest::Digest;
use crate::message::Message;
use crate::store::{Delete, Durability, Health, Page, Put, Stats, Store, StoreError};

/// The embedded store.
#[derive(Debug)]
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    /// In the order in which they end.
    threads: Mutex<Vec<Worker>>,
    _patrol: Patrol,
    _lock: Lock,
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
        let path = directory.path.clone();
        Self::open_own(directory, options, progress).map_err(|error| error.with_owner(&path))
    }

    fn open_own(
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
        let is_for_writing = directory.is_for_writing;
        if is_for_writing {
            directory.unmark()?;
        }
        directory.remove_leftovers()?;
        let DataDirectory {
            path,
            segment_bytes,
            lock,
            // Dropped before the lock.
            unused: _unused,
            ..
        } = directory;
        let full = reserve::release_if_full(&path).map_err(OpenError::io("give up the reserve"))?;
        if full {
            warn!("the disk is full: the reserve was given up to open the store");
        }
        if !path.join("log").exists() {
            require_room(&path, &options, segment_bytes)?;
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
        let opened = replay::open_index(&path, cache_bytes, &log, last, progress)?;
        // What was written before is synced by now.
        if durability != Some(options.durability) {
            directory::write_durability(&path, options.durability)
                .map_err(OpenError::io("write the file DURABILITY"))?;
        }
        let end = opened.end;
        let shared = Arc::new(Shared::new(path, options, log, opened, full));
        let mut eraser = Eraser::new(Arc::clone(&shared));
        match shared.log.identity() {
            Presence::Good => eraser.begin(),
            Presence::Missing if is_for_writing => {
                let is_lost = is_copy || durability.is_some();
                shared.take_over(&mut eraser, is_lost, progress)?;
            }
            presence => {
                eraser.begin();
                match presence {
                    Presence::Damaged if is_for_writing => shared.identify_again()?,
                    Presence::Damaged => warn!("log/ID is damaged: see digestd verify"),
                    // Of version 0.1.0, perhaps.
                    Presence::Missing | Presence::Good => {}
                }
            }
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
        self.shared.failed().await
    }

    /// What the store is made of.
    fn shared(&self) -> &Shared {
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
        if self.shared.has_failed() {
            return Err(StoreError::Failed);
        }
        Ok(())
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

/// Makes sure that a new store can take a message: that with its first segment there is more room than it must
/// leave.
fn require_room(path: &Path, options: &Options, segment_bytes: u32) -> Result<(), OpenError> {
    let space = disk::space(path).map_err(OpenError::io("see how much room the disk has"))?;
    let free_bytes_min = options.free_bytes_min.unwrap_or_else(|| space.floor());
    if space.free < free_bytes_min.saturating_add(segment_bytes.into()) {
        return Err(OpenError::NoRoom {
            directory: path.to_owned(),
            free_bytes: space.free,
            free_bytes_min,
            segment_bytes,
        });
    }
    Ok(())
}

/// A thread, and what ends it by being dropped, if that is not the end of the queue.
#[derive(Debug)]
struct Worker {
    stop: Option<mpsc::SyncSender<()>>,
    thread: JoinHandle<()>,
}

/// Starts the store's threads, in the order in which they end: what one leaves the next can take up.
fn start_threads(shared: &Arc<Shared>, end: Position, eraser: Eraser) -> io::Result<Vec<Worker>> {
    let (poke, poked) = mpsc::sync_channel(1);
    let committer = Committer::new(Arc::clone(shared), end, poke.clone());
    let mut workers = vec![spawn("committer", shared, None, || committer.run())?];
    if shared.options.durability == Durability::Os {
        let (stop, stopped) = mpsc::sync_channel(1);
        let synced = Arc::clone(shared);
        let run = move || keep_synced(&synced, &stopped);
        workers.push(spawn("syncer", shared, Some(stop), run)?);
    }
    let (stop, stopped) = mpsc::sync_channel(1);
    let run = move || eraser.run(&stopped);
    workers.push(spawn("eraser", shared, Some(stop), run)?);
    let keeper = Keeper::new(Arc::clone(shared));
    let run = move || keeper.run(&poked);
    workers.push(spawn("keeper", shared, Some(poke), run)?);
    Ok(workers)
}

fn spawn(
    name: &'static str,
    shared: &Arc<Shared>,
    stop: Option<mpsc::SyncSender<()>>,
    run: impl FnOnce() + Send + 'static,
) -> io::Result<Worker> {
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new().name(name.into()).spawn(move || {
        if catch_unwind(AssertUnwindSafe(run)).is_err() {
            shared.fail(&format!("the {name} panicked"));
            // Those who wait are told by their replies being dropped.
            shared.queue.close();
            while shared.queue.take_group().is_some() {}
        }
    })?;
    Ok(Worker { stop, thread })
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::store::{Commit, Observer};

    fn wait<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        runtime.unwrap().block_on(future)
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
            message_cache_bytes: 1 << 20,
            free_bytes_min: Some(0),
            ..Options::new(1 << 20, 1024)
        }
    }

    fn open(directory: &Path, options: Options) -> EmbeddedStore {
        let claimed = DataDirectory::claim(directory, 64 << 10).unwrap();
        EmbeddedStore::open(claimed, options, &|_| ()).unwrap()
    }

    #[test]
    fn a_new_store_that_could_never_take_a_message_is_refused_and_an_old_one_opens() {
        let directory = tempfile::tempdir().unwrap();
        let free = disk::space(directory.path()).unwrap().free;
        for floor in [u64::MAX, free + (1 << 40)] {
            let options = Options {
                free_bytes_min: Some(floor),
                ..options()
            };
            let claimed = DataDirectory::claim(directory.path(), 64 << 10).unwrap();
            let refused = EmbeddedStore::open(claimed, options, &|_| ()).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, OpenError::NoRoom { .. }), "{text}");
            assert!(text.contains("--free-min"), "{text}");
        }
        open(directory.path(), options()).close().unwrap();
        let options = Options {
            free_bytes_min: Some(u64::MAX),
            ..options()
        };
        let store = open(directory.path(), options);
        assert_eq!(
            wait(store.put(Message::new("foo"))).unwrap_err(),
            StoreError::Full
        );
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
