//! A part of the index: a sled of its own, with the entries of some digests.
//!
//! It knows the engine and where the parts are; not what is asked of all of them together. **Invariant:** an entry
//! is in the part that its digest names, or the index is damaged.

use std::fs::{self, File, Permissions, TryLockError};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread::{self, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::super::disk;
use super::super::record::Position;
use super::entry::{decode, wrong_size};
use super::error::{IndexError, fence, panic_text};
use super::held::{Checkpoint, Held};
use crate::digest::Digest;

/// The one key that is no digest. Its value is the checkpoint up to which the index is complete.
pub(super) const CHECKPOINT_KEY: &[u8] = b"checkpoint";

/// Its value is up to where an index that is being drawn has everything, and how many messages it had then,
/// which the first part says for all.
pub(super) const PROGRESS_KEY: &[u8] = b"progress";

/// sled's name for its data file.
pub(super) const DATA_NAME: &str = "db";

/// How long the close of an index waits for sled to give up its lock: a moment, on a busy machine.
const UNLOCK_TIME_MAX: Duration = Duration::from_secs(5);

/// Parts of an index, each with a thread of its own at a start. Another number is another form on the disk:
/// every index would be redrawn.
pub(in crate::store::embedded) const PARTS: usize = 4;

/// A sled with the entries of some digests.
#[derive(Debug)]
pub(super) struct Part {
    number: usize,
    pub(super) tree: sled::Db,
    /// Its data file, for syncing.
    pub(super) data: File,
}

impl Part {
    pub(super) fn open(
        number: usize,
        directory: &Path,
        cache_bytes: u64,
    ) -> Result<Self, IndexError> {
        keep_private(directory)?;
        let tree = sled::Config::new()
            .path(directory)
            .cache_capacity(cache_bytes)
            // Its own flusher hides the errors of fsync; checkpoints replace it.
            .flush_every_ms(None)
            .open()?;
        let data = File::open(directory.join(DATA_NAME))?;
        Ok(Self { number, tree, data })
    }

    pub(super) fn check(&self, from: Position) -> Result<Held, IndexError> {
        let mut held = Held::NOTHING;
        for entry in self.tree.iter() {
            let (key, value) = entry?;
            if key == CHECKPOINT_KEY {
                let bytes = <[u8; 8]>::try_from(&*value).map_err(|_| wrong_size())?;
                held.checkpoint.position = Position::from_u64(u64::from_le_bytes(bytes));
                continue;
            }
            if key == PROGRESS_KEY {
                let ([position, messages], []) = value.as_chunks() else {
                    return Err(wrong_size());
                };
                held.progress = Some(Checkpoint {
                    position: Position::from_u64(u64::from_le_bytes(*position)),
                    messages: u64::from_le_bytes(*messages),
                });
                continue;
            }
            let (digest, place) = decode(&key, &value)?;
            if part_of(&digest) != self.number {
                return Err(IndexError::new("a part of it is in the wrong place"));
            }
            held.checkpoint.messages += 1;
            if place.at >= from {
                held.ahead.push((digest, place));
            }
            if held.last.is_none_or(|(_, last)| last.at < place.at) {
                held.last = Some((digest, place));
            }
        }
        Ok(held)
    }
}

/// A thread of sled's may hold the lock for a moment after the tree was dropped; until then nobody can open it.
pub(super) fn wait_until_unlocked(data: &File) {
    let begun = Instant::now();
    while matches!(data.try_lock(), Err(TryLockError::WouldBlock))
        && begun.elapsed() < UNLOCK_TIME_MAX
    {
        thread::sleep(Duration::from_millis(1));
    }
}

/// Where the parts of the index in `directory` are.
pub(super) fn part_directories(directory: &Path) -> impl Iterator<Item = PathBuf> {
    (0..PARTS).map(|part| directory.join(part.to_string()))
}

/// Which part has this digest.
pub(in crate::store::embedded) fn part_of(digest: &Digest) -> usize {
    usize::from(digest.as_bytes()[0]) * PARTS / 256
}

/// Shuts others out of a part that an earlier version made. One with a link in it, which the engine would
/// follow, is none that can be used.
fn keep_private(directory: &Path) -> Result<(), IndexError> {
    let is_there = directory.symlink_metadata().is_ok();
    let mut linked = directory.is_symlink();
    if is_there && !linked {
        for entry in fs::read_dir(directory)? {
            linked |= entry?.path().is_symlink();
        }
    }
    if linked {
        return Err(IndexError::new("a part of it is a symbolic link"));
    }
    // Not there yet, or of another user, who may look into it then.
    let _ = fs::set_permissions(directory, Permissions::from_mode(disk::DIRECTORY_MODE));
    Ok(())
}

/// Calls `call` with each of `items`, on a thread of its own.
pub(super) fn each<T: Sync, U: Send>(
    items: &[T],
    call: impl Fn(&T) -> Result<U, IndexError> + Sync,
) -> Vec<Result<U, IndexError>> {
    thread::scope(|scope| {
        let call = &call;
        let start = |item| {
            let call = move || fence(|| call(item));
            thread::Builder::new().spawn_scoped(scope, call)
        };
        let threads: Vec<_> = items.iter().map(start).collect();
        let end = |thread: io::Result<ScopedJoinHandle<'_, _>>| {
            let ended = thread?.join();
            ended.unwrap_or_else(|panic| Err(IndexError::new(panic_text(&*panic))))
        };
        threads.into_iter().map(end).collect()
    })
}
