//! Background maintenance, beside the running groups: checkpoints, the next segment, the room on the disk. And the
//! syncer, which a store with [`Durability::Os`] has beside it.
//!
//! The keeper and the syncer have threads of their own, as what they do has different deadlines: an answer must not
//! wait for a segment, nor a sync for a checkpoint. They refuse to know what is put or asked. **Invariant:** a
//! checkpoint is ahead neither of the log that is durable nor of what was deleted and is still to be erased.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::directory;
use super::disk::{self, Lack};
use super::index::{Checkpoint, IndexError};
use super::reserve::{self, RESERVE_BYTES};
use super::state::Shared;
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

impl Shared {
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
