//! The files of an index: where they are, how they are thrown away, and whose they are.
//!
//! It refuses to know what is in them. **Invariant:** nothing in the directory is touched that is not of an index.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::super::disk;
use super::part::PARTS;

/// Its name in a data directory.
pub(in crate::store::embedded) const NAME: &str = "index";

/// What it is called on its way out: see [`old`].
pub(in crate::store::embedded) const OLD_NAME: &str = "index.old";

/// Where the index in `directory` is on its way out.
pub(in crate::store::embedded) fn old(directory: &Path) -> PathBuf {
    directory.with_extension("old")
}

/// Throws the index away: in one step, so that a crash leaves none and not a part of one, unless it is a
/// file system of its own, or a link to another place. Such a directory stays, and is emptied.
pub(in crate::store::embedded) fn remove(directory: &Path) -> io::Result<()> {
    let old = old(directory);
    disk::remove(&old)?;
    let is_link_to_directory = directory.is_symlink() && directory.is_dir();
    if !is_link_to_directory {
        match fs::rename(directory, &old) {
            Ok(()) => return disk::remove(&old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if [io::ErrorKind::ResourceBusy, io::ErrorKind::CrossesDevices]
                    .contains(&error.kind()) => {}
            Err(error) => return Err(error),
        }
    }
    for path in own_entries(directory)? {
        disk::remove(&path)?;
    }
    Ok(())
}

/// Gives the files of the index to the owner of the data directory, if this process is root.
pub(in crate::store::embedded) fn give_to_owner(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        disk::give_to_owner_above(directory)?;
        for path in own_entries(directory)? {
            disk::give_all_to_owner_above(&path)?;
        }
    }
    Ok(())
}

/// What in `directory` is of an index, this or an earlier form: other things may be there if it is a file
/// system of its own or a link.
fn own_entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().unwrap_or_default();
        let is_part = (0..PARTS).any(|part| part.to_string() == name);
        if is_part || ["db", "conf", "blobs"].contains(&name) || name.starts_with("snap.") {
            paths.push(entry.path());
        }
    }
    Ok(paths)
}
