//! The keeper: what is due now and then, beside the running groups. Checkpoints, before them the bodies of
//! deleted messages, the next segment, the room on the disk.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::Durability;
use super::disk;
use super::embedded::{CheckpointError, Shared};
use super::index::Checkpoint;
use super::log::Position;

/// Time between checkpoints while messages come: bounds what the next start replays.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Time between syncs with [`Durability::Os`]: what a power cut can take.
const OS_SYNC_INTERVAL: Duration = Duration::from_millis(100);

/// Time between looks at the room on the disk.
const SPACE_INTERVAL: Duration = Duration::from_secs(1);

/// The thread for what is due now and then.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    checkpoint: Checkpoint,
    checkpoint_at: Instant,
    /// The last checkpoint could not be written.
    behind: bool,
    space_at: Instant,
    /// With [`Durability::Os`]: what has been synced.
    synced: Position,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let checkpoint = shared.indexed();
        let now = Instant::now();
        Self {
            shared,
            checkpoint,
            checkpoint_at: now,
            behind: false,
            space_at: now,
            synced: checkpoint.position,
        }
    }

    /// Ends, with a last checkpoint, when nobody can poke it any more.
    pub(super) fn run(mut self, poked: &mpsc::Receiver<()>) {
        let tick = match self.shared.options.durability {
            Durability::Disk => CHECKPOINT_INTERVAL,
            Durability::Os => OS_SYNC_INTERVAL,
        };
        loop {
            let due = match poked.recv_timeout(tick) {
                Ok(()) => true,
                Err(RecvTimeoutError::Timeout) => {
                    self.checkpoint_at.elapsed() >= CHECKPOINT_INTERVAL
                }
                Err(RecvTimeoutError::Disconnected) => {
                    self.keep(true);
                    return;
                }
            };
            self.keep(due);
        }
    }

    fn keep(&mut self, checkpoint_due: bool) {
        if self.space_at.elapsed() >= SPACE_INTERVAL {
            self.shared.watch_space();
            self.space_at = Instant::now();
        }
        if self.shared.has_failed() {
            return;
        }
        self.shared.prepare_segment();
        let checkpoint = self.shared.indexed();
        if let Err(error) = self.sync_log(checkpoint.position) {
            self.shared.fail(&format!("cannot sync the log: {error}"));
        } else if checkpoint_due && checkpoint != self.checkpoint {
            self.write_checkpoint(checkpoint);
        }
    }

    fn write_checkpoint(&mut self, checkpoint: Checkpoint) {
        self.checkpoint_at = Instant::now();
        match self.shared.write_checkpoint(checkpoint) {
            Ok(()) => {
                self.checkpoint = checkpoint;
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

    /// A checkpoint must not be ahead of the log, so with [`Durability::Os`] the log goes first.
    fn sync_log(&mut self, end: Position) -> io::Result<()> {
        if self.shared.options.durability == Durability::Os && end != self.synced {
            let _call = self.shared.watchdog.watch();
            self.shared.log.sync(self.synced.segment..end.segment + 1)?;
            self.synced = end;
        }
        Ok(())
    }
}
