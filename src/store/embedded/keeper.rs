//! The keeper: what is due now and then, beside the running groups. Checkpoints, the next segment, the room
//! on the disk. And the syncer, which a store with [`Durability::Os`] has beside it.
//!
//! They have threads of their own, as what they do has different deadlines: an answer must not wait for a
//! segment, nor a sync for a checkpoint.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::disk;
use super::index::Checkpoint;
use super::state::{CheckpointError, Shared};
use crate::store::Durability;

/// Time between checkpoints while messages come: bounds what the next start replays.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Time between syncs with [`Durability::Os`]: what a power cut can take.
const OS_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Time between looks at the room on the disk.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// The thread for what is due now and then.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    /// The last state that was written as a checkpoint, or found there.
    written: Option<Checkpoint>,
    /// A state that is to be written once what was deleted before it is erased. With deletions all the
    /// time the newest never is.
    next: Option<Checkpoint>,
    /// The last checkpoint could not be written.
    behind: bool,
    space_at: Instant,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let checkpoint = shared.indexed();
        let is_written = shared.erasures.are_done_before(checkpoint.position);
        Self {
            written: is_written.then_some(checkpoint),
            next: None,
            behind: false,
            space_at: Instant::now(),
            shared,
        }
    }

    /// Ends, with a last checkpoint, when nobody can poke it any more.
    pub(super) fn run(mut self, poked: &Receiver<()>) {
        while poked.recv_timeout(CHECKPOINT_INTERVAL) != Err(RecvTimeoutError::Disconnected) {
            self.keep();
        }
        self.keep();
    }

    fn keep(&mut self) {
        if self.space_at.elapsed() >= SPACE_INTERVAL {
            self.shared.watch_space();
            self.space_at = Instant::now();
        }
        if self.shared.has_failed() {
            return;
        }
        self.shared.prepare_segment();
        let erasures = &self.shared.erasures;
        // The newest, if it can be written at once.
        let now = self.shared.indexed();
        if self.next.is_none() || erasures.are_done_before(now.position) {
            self.next = Some(now);
        }
        let next = self
            .next
            .take_if(|next| erasures.are_done_before(next.position));
        if let Some(checkpoint) = next.filter(|next| self.written != Some(*next)) {
            self.write_checkpoint(checkpoint);
        }
    }

    fn write_checkpoint(&mut self, checkpoint: Checkpoint) {
        // A checkpoint must not be ahead of the log.
        if !sync(&self.shared) {
            return;
        }
        match self.shared.write_checkpoint(checkpoint) {
            Ok(()) => {
                self.written = Some(checkpoint);
                if std::mem::take(&mut self.behind) {
                    info!("checkpoints are written again");
                }
            }
            // Out of descriptors, perhaps. The next start replays a little more, if this goes on.
            Err(CheckpointError::File(error)) if disk::lack(&error).is_some() => {
                if !std::mem::replace(&mut self.behind, true) {
                    warn!(%error, "cannot write a checkpoint; trying again");
                }
            }
            Err(error) => {
                self.shared
                    .fail(&format!("cannot write a checkpoint: {error}"));
            }
        }
    }
}

/// Syncs what was answered, again and again, until nobody can say anything through `stop` any more; then
/// once more.
pub(super) fn keep_synced(shared: &Shared, stop: &Receiver<()>) {
    debug_assert_eq!(shared.options.durability, Durability::Os);
    while stop.recv_timeout(OS_SYNC_INTERVAL) == Err(RecvTimeoutError::Timeout) {
        sync(shared);
    }
    sync(shared);
}

/// Returns whether the log is durable as far as the index goes.
fn sync(shared: &Shared) -> bool {
    if shared.has_failed() {
        return false;
    }
    shared
        .sync()
        .map_err(|error| shared.fail(&format!("cannot sync the log: {error}")))
        .is_ok()
}
