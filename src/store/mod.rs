//! Where messages are kept: what a store promises, whichever engine is below.
//!
//! This room knows messages and what is said of them. It knows nothing of HTTP, of who asks, or of how long they
//! are willing to wait. **Invariant:** a [`Receipt`] is made by a store alone, for a message that is as durable as
//! it says. Why the embedded one may promise it is at the head of `embedded`.

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
