//! Where messages are kept: what a store promises, and why the embedded one may promise it.
//!
//! This room knows messages and disks. It knows nothing of HTTP, of who asks, or of how long they
//! are willing to wait.
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

// One engine, and its twin for tests.
mod embedded;
mod memory;

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;

#[cfg(any(test, fuzzing))]
pub use self::embedded::fuzz;
pub use self::embedded::tools::{
    BackedUp, CompactError, Compacted, Method, Verified, back_up, compact, keep_scrubbing, verify,
    verify_read_only,
};
pub use self::embedded::{
    Appender, DataDirectory, EmbeddedStore, Finding, Log, Medium, Note, OWN_NAMES, OpenError,
    Options, Place, Position, QUEUE_ENTRIES_MAX, ReadOnlyDirectory, Readable, index, is_held,
    is_own_name, is_segment_size, is_store, read_note,
};
pub use self::memory::{Fault, MemoryStore};
use crate::digest::Digest;
use crate::message::Message;

/// Keeps messages.
///
/// Implementations take their own threads for what waits on a disk.
pub trait Store: fmt::Debug + Send + Sync {
    /// Stores a message. The receipt comes once it is durable; a message that is already there costs
    /// a look-up and writes nothing. Dropping the future does not take the message back.
    fn put(&self, message: Message) -> Put;

    /// Deletes the message with this digest: from the answer on it is not found, and never again unless it
    /// is put again. What it was is erased from the disk soon afterwards. Dropping the future does not
    /// take the deletion back.
    fn delete(&self, digest: &Digest) -> Delete;

    /// The message with this digest, its text checked against it. Blocks for a few microseconds, or
    /// for as long as a page takes to come from the disk.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the message was stored and cannot be read any more.
    fn get(&self, digest: &Digest) -> Result<Option<Message>, StoreError>;

    /// Whether a message with this digest was stored; its text is not read.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the index cannot be asked.
    fn holds(&self, digest: &Digest) -> Result<bool, StoreError>;

    /// What a message survives once it is put.
    fn durability(&self) -> Durability;

    /// The messages behind `after`, or from the first on, in the order of their digests: at most
    /// `messages_max`, and no more once their texts pass [`PAGE_BYTES_MAX`]. Every message that was
    /// there before the first page of a walk is in one of its pages; one that comes meanwhile may be.
    /// Nothing behind `after` is an empty page. Blocks for microseconds a message, longer where pages
    /// must come from the disk; leaves the caches for others.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the index cannot be asked.
    fn page(&self, after: Option<&Digest>, messages_max: usize) -> Result<Page, StoreError>;

    /// What works and what does not. Costs nothing.
    fn health(&self) -> Health;

    /// What was found wrong with the store, a sentence each: by the start, and since. Bounded.
    fn findings(&self) -> Vec<String>;

    /// Figures of the store as it is. Costs nothing: what has to be asked of the disk was asked within
    /// the last second.
    fn stats(&self) -> Stats;

    /// Takes no more writes, finishes those that wait, and leaves everything on the disk. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Failed`] if the last sync failed; what was acknowledged is safe all the same.
    fn close(&self) -> Result<(), StoreError>;
}

/// Is told what a store does. Called on the store's own threads, between two groups: must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// A group was written and, unless the store is [`Durability::Os`], synced.
    fn committed(&self, commit: Commit);
}

/// A group of messages and deletions that was written together.
#[derive(Clone, Copy, Debug)]
pub struct Commit {
    /// Messages and deletions in it.
    pub entries: usize,
    /// The texts of its messages, in bytes.
    pub bytes: u64,
    /// How long the write and its sync took; zero if there was no sync.
    pub sync: Duration,
}

/// Messages in the order of their digests, each with what a look-up says of it.
pub type Page = Vec<(Digest, Result<Message, StoreError>)>;

/// Bytes of text after which a page ends: large enough that asking for it costs little, small enough
/// to be held several times over. The message that passes it is still in the page.
pub const PAGE_BYTES_MAX: usize = 256 << 10;

/// What an acknowledged put survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Loss of power: the answer leaves after `fdatasync`.
    Disk,
    /// Death of the process only: the answer leaves after the write, a sync begins within 100 ms and the one
    /// under way.
    Os,
}

impl Durability {
    /// The name used on the command line and in answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Os => "os",
        }
    }
}

/// Proof that a message is stored as durably as it says. Only a store can make one.
#[derive(Clone, Copy, Debug)]
pub struct Receipt {
    digest: Digest,
    durability: Durability,
    is_known: bool,
}

impl Receipt {
    /// For a message that was just written.
    fn new(digest: Digest, durability: Durability) -> Self {
        Self {
            digest,
            durability,
            is_known: false,
        }
    }

    /// For one that was there, and cost no write.
    fn known(digest: Digest, durability: Durability) -> Self {
        Self {
            is_known: true,
            ..Self::new(digest, durability)
        }
    }

    /// The digest of the stored message.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Whether the message was there already.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    /// What the message survives from now on.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

/// Proof that a message was deleted as durably as it says. Only a store can make one.
#[derive(Clone, Copy, Debug)]
pub struct Deleted {
    durability: Durability,
}

impl Deleted {
    fn new(durability: Durability) -> Self {
        Self { durability }
    }

    /// What the deletion survives from now on.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }
}

/// Why a store did not do what it was asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is not open yet.
    #[error("the service is starting")]
    Starting,
    /// The store takes no more writes because it is being closed; nothing was stored.
    #[error("the store is being closed")]
    Closed,
    /// Too many writes wait; nothing was stored.
    #[error("too many writes are waiting")]
    Busy,
    /// There is no room on the disk; nothing was stored.
    #[error("the disk is full")]
    Full,
    /// The message is larger than the store was opened for; nothing was stored.
    #[error("the message is too large")]
    TooLarge,
    /// Another stored message has a digest with the same first 22 bytes, which is what the index tells
    /// messages apart by; nothing was stored.
    #[error("another stored message has a digest with the same first 22 bytes")]
    PrefixTaken,
    /// Something failed below the store; whether the message was stored is not known.
    #[error("the store failed and takes no more writes until it is restarted")]
    Failed,
    /// The message was stored, but what the disk holds now is not it.
    #[error("the stored message is damaged")]
    Damaged,
}

impl StoreError {
    /// All of them, each at the index that it is as a number.
    pub const ALL: [Self; 8] = [
        Self::Starting,
        Self::Closed,
        Self::Busy,
        Self::Full,
        Self::TooLarge,
        Self::PrefixTaken,
        Self::Failed,
        Self::Damaged,
    ];

    /// One word, the label of metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Closed => "stopping",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::TooLarge => "too_large",
            Self::PrefixTaken => "prefix_taken",
            Self::Failed => "failed",
            Self::Damaged => "damaged",
        }
    }
}

/// What a store can do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Look-ups work, or why they do not.
    pub reads: Result<(), String>,
    /// Puts of new messages work, or why they do not.
    pub writes: Result<(), String>,
}

/// Figures of a store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    /// Messages that can be looked up.
    pub messages: u64,
    /// What the store takes on the disk, in bytes, reserved room included.
    pub disk_bytes: u64,
    /// What is free on that disk, in bytes.
    pub free_bytes: u64,
    /// How often something stored was found not to be what it was: while opening, where an index that
    /// had to be redrawn counts too, by a look-up, by a put of a known message.
    pub integrity_failures: u64,
}

/// A put on its way to the disk.
pub type Put = Pending<Receipt>;

/// A deletion on its way to the disk; `None` if there was no such message.
pub type Delete = Pending<Option<Deleted>>;

/// A write on its way to the disk.
#[derive(Debug)]
#[must_use = "only the answer says that it is done"]
pub struct Pending<T>(Progress<T>);

#[derive(Debug)]
enum Progress<T> {
    Done(Result<T, StoreError>),
    Waiting(oneshot::Receiver<Result<T, StoreError>>),
}

impl<T> Pending<T> {
    fn done(result: Result<T, StoreError>) -> Self {
        Self(Progress::Done(result))
    }

    fn waiting(reply: oneshot::Receiver<Result<T, StoreError>>) -> Self {
        Self(Progress::Waiting(reply))
    }
}

impl<T: Copy + Unpin> Future for Pending<T> {
    type Output = Result<T, StoreError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Done(result) => Poll::Ready(*result),
            // A sender that is gone without a word is a committer that died.
            Progress::Waiting(reply) => Pin::new(reply)
                .poll(context)
                .map(|reply| reply.unwrap_or(Err(StoreError::Failed))),
        }
    }
}
