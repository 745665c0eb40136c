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
//!
//! # The durability argument
//!
//! *The log is the truth, the index is drawn from it.* A put is done when its record is in the log
//! and `fdatasync` on the record's segment has returned; only then is it entered into the index, and
//! only then is it answered. So nothing is visible before it is durable, and what a look-up has
//! returned once is not gone later. A second put of the same text finds it in the index, which proves
//! that it is durable, compares it with what the log holds, and is answered at once.
//!
//! Segments are reserved in full and their directory entries synced before their first record, as are
//! those of the directories above them, so `fdatasync` of the segment covers everything a record
//! needs, and a full disk shows before a group is written, not in the middle of one.
//! (`no_answer_leaves_before_its_group_is_synced`)
//!
//! *A deletion is a record too.* It goes through the same queue, and is done when its record is durable
//! and the index has forgotten the message; only then is it answered. The log says what is so: a message
//! is there if a record of it stands behind its last deletion. So a replay, which goes in the order of the
//! log and takes out of the index only what stands before the deletion, gives the same however often it
//! runs and however far the index was: what was put since stays, what was put before does not come back.
//! (`replaying_a_deletion_again_and_again_spares_what_was_put_since`, `a_store_is_a_map_that_survives`)
//!
//! Put, deletion and look-up of one message race without a lock. What each of them answers was so at one
//! moment between its beginning and its end, which is where it stands in the order of all: the moment at
//! which the committer changed the index, of a put that wrote and of a deletion; the moment of its look-up,
//! of a get and of a put that found its message. Such a put may be answered after a deletion that came
//! between, and was before it all the same. What was read and turns out not to be a message is looked up
//! again: only if the index still has it at the same place is it damage, since a place is used once and a
//! body is erased after the index forgot it (`a_body_that_was_erased_before_it_is_read_is_looked_up_again`).
//! What `hot` keeps from before a deletion, it does not give out.
//! (`puts_deletions_and_look_ups_that_race_could_have_come_one_after_the_other`)
//!
//! *Then the body is erased*, beside the running groups, after the deletion is durable and before a
//! checkpoint passes it. So a crash in between leaves a deletion that is replayed, and says itself where the
//! bodies are, even if the index has carried it out and does not know any more.
//! (`a_start_erases_what_a_kill_left`, `a_start_after_a_kill_leaves_no_deleted_body`,
//! `every_acked_deletion_survives_a_power_cut`)
//! A record with a deletion after it is damage for nobody, whatever its body is. There is one record to
//! erase: a put that waited is looked up again if its message came in meanwhile, and a damaged record is
//! erased once its message was put again. (`a_text_that_many_put_at_once_is_erased_with_its_deletion`,
//! `a_damaged_record_is_erased_once_its_text_was_posted_again`) What the disk does not erase and segments that
//! a backup shares stay until `compact` leaves them out, and hold up nothing.
//! (`a_body_that_cannot_be_erased_stops_neither_the_store_nor_a_start`)
//!
//! Each way a crash can fall:
//!
//! * *before the write, or within it*: the group was not answered. What is left of it is a torn tail
//!   and is erased, or whole records, which are kept: to have more than was promised is no loss.
//!   (`a_torn_group_costs_nothing_that_was_acked`)
//! * *between the write and the sync, with power*: the records may be there, in any selection of
//!   blocks. `recovery` tells the group from an older, damaged one by the group's start in each
//!   header. What it keeps, it writes and syncs before anyone can read it.
//!   (`every_acked_message_survives_a_power_cut`)
//! * *between the sync and the answer, or before the index has it*: the record is in the log behind
//!   the checkpoint and is replayed. (`every_acked_message_survives_a_kill`)
//! * *anywhere in the index*: a checkpoint is written only after the index was flushed and synced, so
//!   replaying from it completes any index that still holds it. One that does not, or that cannot be
//!   read from end to end, is thrown away and redrawn. (`a_damaged_index_is_redrawn`)
//! * *while zeros are written behind the end*: they read as before, and nobody waits for them.
//!   (`zeros_are_written_behind_the_end_until_there_are_enough_and_never_over_a_record`)
//! * *while recovering*: recovery only erases what was never answered and may run any number of
//!   times. (`recovering_twice_changes_nothing_more`, `a_kill_while_the_index_is_redrawn_costs_nothing`)
//!
//! And each way the disk can fail:
//!
//! * *a write or a sync fails*: it is never retried, since the kernel may call pages clean that never
//!   reached the disk. The group is refused and the store takes no more writes until it is opened
//!   again, which writes what the log holds behind the checkpoint anew; reads go on. So it is with zeros
//!   behind the end, though nothing that was answered hangs on them.
//!   (`no_ack_follows_a_failed_fdatasync`, `…_write`, `…_fsync`,
//!   `what_was_not_covered_by_a_checkpoint_is_written_again_before_it_is_served`)
//! * *it is full*: shows while a segment is made, before anything is written, and is no failure; the
//!   floor under the free space makes sure that it hardly ever comes so far. On file systems that take room for what
//!   is written over (copy on write, NFS), it shows in the first write of a group: if that wrote nothing, and all
//!   before is synced, the log is as it was, and that is no failure either
//!   (`a_write_into_the_log_that_finds_no_room_refuses_its_messages_and_nothing_else`). A full one is opened in
//!   the room of the `reserve`. (`a_disk_filled_to_the_last_block_opens_for_reading_and_later_for_writing`,
//!   `a_disk_that_is_full_all_of_a_sudden_costs_nothing_that_was_acked`)
//! * *it does not answer*: neither does the store; the `watchdog` says so and then ends the process,
//!   which is a kill. (`a_sync_that_does_not_return_makes_it_unready_and_then_ends_it`) It watches single
//!   calls: a disk that is slow is waited for. (`deletions_in_many_segments_never_make_it_unready`)
//! * *it cannot read a sector*: that is damage of what is in it. The log goes on after the record that it
//!   belongs to, and nothing is written over what may be readable again.
//!   (`a_sector_that_cannot_be_read_costs_what_is_in_it`)
//! * *it gives back something else*: a body is compared with its digest whenever it is read, a header
//!   with its checksum, the index with the log at every start. What is damaged answers with an error
//!   and is a finding; what is not stays readable. (`a_flipped_bit_in_any_file_is_an_error_and_never_a_lie`)
//!
//! Not covered: a file system or disk that lies about `fdatasync`, and loss of the disk. A group that
//! was answered within the last second before the process died, and is then damaged on the disk before
//! the next start, cannot be told from a torn one: only a later group or a checkpoint proves that it
//! was whole. A deletion that is damaged on the disk is found when the log is read from end to end, but what
//! it deleted is not known: where the index is redrawn after that, the message answers as damaged, since its
//! body is gone, and can be deleted again; if its body was not erased, it is there again.
//! (`a_damaged_deletion_is_named_and_hides_no_more_than_it_has_to`)
//!
//! With [`Durability::Os`] the answer leaves after the write: it survives the death of the process,
//! not that of the machine. A segment that is left is synced by the committer, the last one within 100 ms and
//! a sync. (`what_was_answered_is_synced_soon_whatever_is_to_be_erased`) Groups are not synced one by one then,
//! so a later one proves nothing of an earlier: what is broken after the checkpoint becomes a filler, what the
//! index has of it is taken out, and an index that lacks more than the log explains is drawn again. All that
//! is one finding, of one start. (`a_power_cut_with_os_costs_what_was_not_synced_and_one_finding`)
//! `DURABILITY` says what the last writer promised.

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
mod threads;
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

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::warn;

pub use self::appender::Appender;
pub use self::directory::{DataDirectory, Medium, OpenError, is_store};
use self::disk::Lock;
use self::eraser::Eraser;
pub use self::finding::Finding;
use self::identity::Presence;
use self::maintenance::CheckpointError;
pub use self::note::{Note, is_held, read_note};
pub use self::options::Options;
pub use self::own_names::{OWN_NAMES, is_own_name};
pub use self::queue::QUEUE_ENTRIES_MAX;
pub use self::read_only::{ReadOnlyDirectory, Readable};
pub use self::record::{Place, Position};
pub use self::segments::{Log, is_segment_size};
use self::state::Shared;
use self::threads::{Worker, start_threads};
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Commit, Observer};

    pub(super) fn wait<T>(future: impl Future<Output = T>) -> T {
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

    pub(super) fn options() -> Options {
        Options {
            message_cache_bytes: 1 << 20,
            free_bytes_min: Some(0),
            ..Options::new(1 << 20, 1024)
        }
    }

    pub(super) fn open(directory: &Path, options: Options) -> EmbeddedStore {
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
}
