//! The reserve: a file of zeros that is given up when a start finds the disk full, because opening
//! the index and writing a checkpoint take room.
//!
//! **Invariant:** the file is either whole or not there; it is never written to after it was made.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use super::disk;

/// Room set aside, in bytes: a snapshot of the index takes some 4 MB a million messages, a checkpoint
/// a block.
pub(super) const RESERVE_BYTES: u64 = 16 << 20;

pub(super) const NAME: &str = "reserve";

/// Gives up the reserve if less than its size is free in `directory`. Returns whether that is so.
pub(super) fn release_if_full(directory: &Path) -> io::Result<bool> {
    if disk::space(directory)?.free >= RESERVE_BYTES {
        return Ok(false);
    }
    match fs::remove_file(directory.join(NAME)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(true),
    }
}

/// Makes the reserve if it is not there. Costs one system call when it is.
pub(super) fn keep(directory: &Path) -> io::Result<()> {
    let path = directory.join(NAME);
    if fs::metadata(&path).is_ok_and(|file| file.len() == RESERVE_BYTES) {
        return Ok(());
    }
    let aside = path.with_extension("new");
    let file = disk::create(&aside)?;
    disk::reserve(&file, RESERVE_BYTES)
        .and_then(|()| fs::rename(&aside, &path))
        .inspect_err(|_| {
            // What was reserved so far is given back.
            let _ = fs::remove_file(&aside);
        })
}

/// What is written to see whether the disk takes it, in bytes: as much as a group of some messages.
const TRIAL_BYTES: usize = 64 << 10;

/// Writes a little and removes it again.
///
/// # Errors
/// If it cannot be written: there is no room, whatever the disk says of it.
pub(super) fn try_room(directory: &Path) -> io::Result<()> {
    let path = directory.join("room.new");
    let mut file = disk::create(&path)?;
    let written = file
        .write_all(&vec![0; TRIAL_BYTES])
        .and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

/// What the reserve takes at the moment, in bytes. Costs one system call.
pub(super) fn bytes(directory: &Path) -> u64 {
    fs::metadata(directory.join(NAME)).map_or(0, |file| file.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_that_is_gone_or_cut_is_made_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(NAME);
        let length = || fs::metadata(&path).unwrap().len();
        keep(directory.path()).unwrap();
        assert_eq!(length(), RESERVE_BYTES);
        fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        keep(directory.path()).unwrap();
        assert_eq!(length(), RESERVE_BYTES);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_trial_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        try_room(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
        try_room(&directory.path().join("missing")).unwrap_err();
    }

    #[test]
    fn a_disk_with_room_keeps_its_reserve() {
        let directory = tempfile::tempdir().unwrap();
        keep(directory.path()).unwrap();
        assert!(!release_if_full(directory.path()).unwrap());
        assert!(directory.path().join(NAME).exists());
    }
}
