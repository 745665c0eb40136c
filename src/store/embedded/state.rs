//! What the threads of the embedded store and its callers share: log, index, queue, and how they are.
//!
//! It refuses to know what is done with them: see `reads`, `writes`, `committer`, `maintenance` and `eraser`.
//!
//! **Invariant:** `failed` is set once and never taken back.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::SetOnce;
use tracing::{error, info, warn};

use super::disk::Lack;
use super::erasures::Erasures;
use super::findings::Findings;
use super::hot::Hot;
use super::index::{Checkpoint, Index};
use super::options::Options;
use super::queue::{Entry, Queue};
use super::record::Position;
use super::replay::Opened;
use super::segments::Log;
use super::watchdog::Watchdog;
use crate::store::{Durability, Health, Stats, StoreError};

/// What the committer, the keeper and the callers see.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) options: Options,
    pub(super) log: Arc<Log>,
    pub(super) index: Index,
    pub(super) hot: Hot,
    pub(super) queue: Queue<Entry>,
    /// What the log and the index both have.
    pub(super) indexed: Mutex<Checkpoint>,
    /// Up to where the log is durable, as [`Position::to_u64`]; with [`Durability::Disk`] all that is in
    /// `indexed` is.
    pub(super) synced: AtomicU64,
    /// Bodies of deleted messages that are still in the log. Those of a deletion are here before
    /// `indexed` passes it.
    pub(super) erasures: Erasures,
    /// Groups that the committer has entered into the index.
    pub(super) groups: AtomicU64,
    pub(super) full: AtomicBool,
    failed: SetOnce<String>,
    pub(super) watchdog: Arc<Watchdog>,
    /// What the keeper saw last, in bytes.
    pub(super) free_bytes: AtomicU64,
    /// All but the log, in bytes.
    pub(super) other_bytes: AtomicU64,
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
}
